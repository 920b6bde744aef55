"""Experiments on the method itself: functions of a spec and a seed, run by suites of the same name."""

from collections.abc import Callable, Iterable

from benchmarks.experiments.pathology import pathology
from benchmarks.experiments.setting import Row, Spec

__all__ = ["EXPERIMENTS", "Row"]

EXPERIMENTS: dict[str, Callable[[Spec, int], Iterable[Row]]] = {
    "pathology": pathology,
}
