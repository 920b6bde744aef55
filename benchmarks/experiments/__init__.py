"""Experiments on the method itself: functions of a spec and a seed, run by suites of the same name."""

from collections.abc import Callable, Iterable

from benchmarks.experiments.couplings import by_moments, few_rows, plane, ring
from benchmarks.experiments.earth import places
from benchmarks.experiments.gradients import gradient_cosines
from benchmarks.experiments.hutchinson import hutchinson_variance
from benchmarks.experiments.inferring import inference
from benchmarks.experiments.paths import agreement, coverage, penalty_path
from benchmarks.experiments.probing import part_probed
from benchmarks.experiments.setting import Row, Spec
from benchmarks.experiments.spectra import singular_values
from benchmarks.experiments.stretch import stretch_cost
from benchmarks.experiments.toy_pathology import pathology

__all__ = ["EXPERIMENTS", "Row"]

EXPERIMENTS: dict[str, Callable[[Spec, int], Iterable[Row]]] = {
    "agreement": agreement,
    "by_moments": by_moments,
    "coverage": coverage,
    "few_rows": few_rows,
    "gradient_quality": gradient_cosines,
    "hutchinson_variance": hutchinson_variance,
    "inference": inference,
    "part_probed": part_probed,
    "penalty_path": penalty_path,
    "pathology": pathology,
    "places": places,
    "plane": plane,
    "ring": ring,
    "singular_values": singular_values,
    "stretch_cost": stretch_cost,
}
