"""Is a step that probes only a part of its batch worth its lower price?"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from benchmarks.experiments.setting import Row, Spec, build_flow, build_objective, descend, finite, load
from isthmus.rows import Rows
from isthmus.training.judging import scores

__all__ = ["part_probed"]

Point = tuple[float, float]  # processor seconds so far, held-out ambient log-likelihood


def part_probed(spec: Spec, seed: int) -> Iterator[Row]:
    """Train with each share of `spec["probed"]` in turns and compare when they are equally good.

    Values: `ambient_ll` of held-out rows after the last step, in nats a row; `ms_per_step`; `seconds_to_equal`, the
    processor time after which the least of the best `ambient_ll` that the shares reach was reached, straight lines
    between the scores; `time_over_full`, the same as a multiple of that of the first share.
    """
    with torch.random.fork_rng(devices=[]):
        points = trained(spec, seed)
    yield from compared(points, spec["steps"] - 1)


def trained(spec: Spec, seed: int) -> dict[float, list[Point]]:
    """Share of probed rows -> what was reached when; the clock starts after the first step, which may compile."""
    splits, stops = load(spec), [1, *range(spec["every"], spec["steps"] + 1, spec["every"])]
    held_out = Rows(splits.validation[: spec["held_out"]].double())
    loop = {name: spec[name] for name in ("steps", "batch_size", "learning_rate")}
    flows, trainings, judge = {}, {}, build_objective(spec)
    for share in spec["probed"]:
        torch.manual_seed(seed)
        flows[share] = build_flow(spec, splits.data_dim)
        objective: Any = build_objective({"objective": {**spec["objective"], "probed": share}})
        if spec["compile"]:
            objective = torch.compile(objective.__call__, fullgraph=True)
        trainings[share] = descend(flows[share], objective, splits.train, at=stops, **loop)
    points: dict[float, list[Point]] = {share: [] for share in trainings}
    for _ in stops:
        for share, own in points.items():
            start = time.process_time()
            next(trainings[share])
            seconds = own[-1][0] + time.process_time() - start if own else 0.0
            own.append((seconds, scores(flows[share], judge, held_out)["log_density"]))
    return points


def compared(points: Mapping[float, Sequence[Point]], steps: int) -> Iterator[Row]:
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
