"""Experiments on the method itself: functions of a spec and a seed, run by suites of the same name."""

from collections.abc import Callable, Iterable

from benchmarks.experiments.couplings import by_moments, few_rows, plane, ring
from benchmarks.experiments.earth import places
from benchmarks.experiments.gradients import gradient_cosines
from benchmarks.experiments.hutchinson import hutchinson_variance
from benchmarks.experiments.probing import part_probed
from benchmarks.experiments.setting import Row, Spec
from benchmarks.experiments.spectra import singular_values
from benchmarks.experiments.toy_pathology import pathology

__all__ = ["EXPERIMENTS", "Row"]

EXPERIMENTS: dict[str, Callable[[Spec, int], Iterable[Row]]] = {
    "by_moments": by_moments,
    "few_rows": few_rows,
    "gradient_quality": gradient_cosines,
    "hutchinson_variance": hutchinson_variance,
    "part_probed": part_probed,
    "pathology": pathology,
    "places": places,
    "plane": plane,
    "ring": ring,
    "singular_values": singular_values,
}
