"""Is a step that probes only a part of its batch worth its lower price?"""

import time
from collections.abc import Iterator, Sequence

import torch

from benchmarks.experiments.setting import Row, Spec, build_flow, build_objective, descend, finite, load
from isthmus.refit import Rows
from isthmus.training.judging import scores

__all__ = ["part_probed"]

Point = tuple[float, float]  # processor seconds so far, held-out ambient log-likelihood


def part_probed(spec: Spec, seed: int) -> Iterator[Row]:
    """Train with each share of `spec["probed"]` in turns and compare when they are equally good.

    Values: `ambient_ll` of held-out rows after the last step, in nats a row; `ms_per_step`; `seconds_to_equal`, the
    processor time after which the least of the best `ambient_ll` that the shares reach was reached, straight lines
    between the scores; `time_over_full`, the same as a multiple of that of the first share.
    """
    splits = load(spec)
    held_out = Rows(splits.validation[: spec["held_out"]].double())
    stops = [
        1,
        *range(spec["every"], spec["steps"] + 1, spec["every"]),
    ]  # the clock starts once the first step compiled
    trainings = {}
    for share in spec["probed"]:
        torch.manual_seed(seed)
        flow = build_flow(spec, splits.data_dim)
        objective = build_objective({"objective": {**spec["objective"], "probed": share}})
        options = {"steps": spec["steps"], "batch_size": spec["batch_size"], "learning_rate": spec["learning_rate"]}
        if spec["compile"]:
            objective = torch.compile(objective.__call__, fullgraph=True)
        trainings[share] = flow, descend(flow, objective, splits.train, at=stops, **options), []
    for _ in stops:
        for flow, training, points in trainings.values():
            start = time.process_time()
            next(training)
            spent = time.process_time() - start
            seconds = points[-1][0] + spent if points else 0.0
            points.append((seconds, scores(flow, held_out)["ambient_log_likelihood"]))
    yield from compared({share: points for share, (_, _, points) in trainings.items()}, spec["steps"] - stops[0])


def compared(points: dict[float, Sequence[Point]], steps: int) -> Iterator[Row]:
    """One row a share."""
    level = min(max(score for _, score in own) for own in points.values())
    seconds = {share: reached(own, level) for share, own in points.items()}
    full = next(iter(seconds.values()))
    for share, own in points.items():
        values = {
            "ambient_ll": finite(own[-1][1]),
            "ms_per_step": 1e3 * own[-1][0] / steps,
            "seconds_to_equal": seconds[share],
            "time_over_full": seconds[share] / full,
        }
        yield Row({"probed": share}, values)


def reached(points: Sequence[Point], level: float) -> float:
    """When a score was first reached, straight lines between the points."""
    (earlier, low), *rest = points
    for later, high in rest:
        if high >= level:
            return later if low >= high else earlier + (later - earlier) * max(0.0, level - low) / (high - low)
        earlier, low = later, high
    raise ValueError(f"expected a level that is reached; got {level}; the scores end at {points[-1][1]}")
