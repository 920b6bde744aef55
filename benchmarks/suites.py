"""A suite is one YAML file in `benchmarks/suites/`: what its runs share, what varies, and what was published.

    extends     a suite that this one is merged into, key by key; lists take the place of lists
    title, question, source, budget    words
    measure     what a run does: a name in `benchmarks.measures.MEASURES`
    seeds       [0, 1, 2]
    base        what every run is given, a mapping
    axes        name -> {label: patch}, or {at: dotted.path, values: [...]}; the runs are the product of the axes
    without     cells that are left out, each {axis: label or [labels]}
    quick       {patch: merged into every run, only: {axis: [labels]}}: a trial of seconds that the suite still runs
    published   [{where: {axis: label}, value, mean, spread, source}]
    notes       what the results mean, sentences, shown below the tables
    tables      [{title, rows: [axes], values: [names]}] or [{title, rows: [axes], columns: axis, value: name}]

A run is the base with one patch of each axis merged into it, in the order of the axes, and a seed.
"""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["FOLDER", "Run", "Suite", "names"]

FOLDER = Path(__file__).parent / "suites"

Spec = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run: its label on each axis, what it is given, and its seed."""

    cell: dict[str, str]
    spec: Spec
    seed: int

    @property
    def title(self) -> str:
        """For people."""
        return f"{' '.join(self.cell.values())} seed {self.seed}"


@dataclass(frozen=True)
class Suite:
    """A suite as its file says, with the defaults filled in."""

    name: str
    record: Mapping[str, Any]

    @classmethod
    def read(cls, name: str) -> "Suite":
        """Read `benchmarks/suites/NAME.yaml`."""
        file = FOLDER / f"{name}.yaml"
        if not file.exists():
            raise SystemExit(f"expected a suite among {', '.join(names())}; got {name!r}; choose one")
        record = yaml.safe_load(file.read_text())
        return cls(name, merged(cls.read(record["extends"]).record, record) if "extends" in record else record)

    def runs(self, seeds: Sequence[int] | None = None, *, quick: bool = False) -> Iterator[Run]:
        """All runs, seed by seed: the first seed of everything comes before the second of anything."""
        quickly = self.record.get("quick", {}) if quick else {}
        chosen = list(seeds or self.record["seeds"])[: 1 if quick else None]
        axes = {name: patches(axis) for name, axis in self.record.get("axes", {}).items()}
        for name, labels in quickly.get("only", {}).items():
            axes[name] = {str(label): axes[name][str(label)] for label in labels}
        for seed in chosen:
            for labels in itertools.product(*axes.values()):
                cell = dict(zip(axes, labels, strict=True))
                if any(matches(cell, left_out) for left_out in self.record.get("without", [])):
                    continue
                parts = [axis[label] for axis, label in zip(axes.values(), labels, strict=True)]
                yield Run(cell, merged(self.record.get("base", {}), *parts, quickly.get("patch", {})), seed)


def names() -> list[str]:
    """Every suite there is."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def patches(axis: Mapping[str, Any]) -> dict[str, Spec]:
    """Label -> patch of an axis, also of one that only sets numbers."""
    if set(axis) != {"at", "values"}:
        return {str(label): patch or {} for label, patch in axis.items()}
    found = {}
    for value in axis["values"]:
        patch: Any = value
        for key in reversed(axis["at"].split(".")):
            patch = {key: patch}
        found[str(value)] = patch
    return found


def merged(*records: Mapping[str, Any]) -> Spec:
    """Mappings merged key by key, a later one over an earlier one."""
    found: Spec = {}
    for record in records:
        for key, value in record.items():
            both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = merged(found[key], value) if both else copy.deepcopy(value)
    return found


def matches(cell: Mapping[str, str], where: Mapping[str, Any]) -> bool:
    """Whether a cell has the labels asked for; an axis may be asked for one of several."""
    return all(
        cell.get(axis) in [str(label) for label in (labels if isinstance(labels, list) else [labels])]
        for axis, labels in where.items()
    )
