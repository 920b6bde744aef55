"""What the results of a suite say, as tables of text: mean and standard deviation over seeds, the published beside.

    python -m benchmarks.tables SUITE [...] [--json] [--markdown] [--results FOLDER]

A bracket behind a number holds the published one. Runs that failed are listed; nothing is left out.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.run import RESULTS, fingerprint, read
from benchmarks.suites import Suite, matches, names

Labels = dict[str, str]
Table = list[list[str]]


class Found:
    """The rows of a suite's results, as it stands in its file, and its published values."""

    def __init__(self, suite: Suite, file: Path) -> None:
        current = {(fingerprint(run), run.seed) for quick in (False, True) for run in suite.runs(quick=quick)}
        records = {(json.dumps(r["cell"]), r["seed"], r["given"]): r for r in read(file)}.values()
        self.records = [r for r in records if (r["given"], r["seed"]) in current]
        self.published = suite.record.get("published", [])
        self.rows: list[tuple[Labels, int, dict[str, Any]]] = []
        for record in self.records:
            for row in record.get("rows", []):
                labels = {name: str(label) for name, label in row["labels"].items()}
                self.rows.append((labels, record["seed"], row["values"]))

    def labels(self, axes: Sequence[str]) -> list[tuple[str, ...]]:
        """The combinations of labels of some axes, in the order of the runs."""
        return list(dict.fromkeys(tuple(labels.get(axis, "") for axis in axes) for labels, _, _ in self.rows))

    def values(self, where: Mapping[str, str], name: str) -> list[Any]:
        """A value of every row with these labels."""
        return [values.get(name) for labels, _, values in self.rows if matches(labels, where)]

    def published_for(self, where: Labels, name: str) -> Mapping[str, Any] | None:
        """The published value of a cell."""
        of_name = (p for p in self.published if p["value"] == name)
        return next((p for p in of_name if matches(where, p["where"])), None)

    def cell(self, where: Labels, name: str) -> str:
        """A value as text, the published one in brackets."""
        text = summary([value for value in self.values(where, name) if value is not None])
        published = self.published_for(where, name)
        if published is None:
            return text
        spread = f" ± {published['spread']:g}" if "spread" in published else ""
        return f"{text} [{published['mean']:g}{spread}]"

    def failures(self) -> list[str]:
        """The runs that raised an error."""
        return [
            f"FAILED {' '.join(r['cell'].values())} seed {r['seed']}: {r['failed']}"
            for r in self.records
            if "failed" in r
        ]


def summary(values: Sequence[Any]) -> str:
    """Mean and standard deviation; of words, each once with its count."""
    if not values:
        return "-"
    if any(isinstance(value, str) for value in values):
        return ", ".join(f"{v} x{n}" if (n := values.count(v)) > 1 else f"{v}" for v in dict.fromkeys(values))
    mean = statistics.mean(values)
    if len(values) == 1 or len(set(values)) == 1:
        return number(mean)
    spread = statistics.stdev(values)
    digits = 0 if not spread else max(0, 1 - math.floor(math.log10(spread)))
    return f"{mean:.{min(digits, 6)}f} ± {spread:.{min(digits, 6)}f}"


def number(value: float) -> str:
    """Three significant digits, whole numbers in full."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def tables(found: Found, described: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, Table]]:
    """Every table of a suite: title and rows, the first one the head."""
    for table in described:
        axes = table["rows"]
        if "values" in table:
            head, columns = table["values"], [({}, name) for name in table["values"]]
        else:
            head = [label for (label,) in found.labels([table["columns"]]) if label]
            columns = [({table["columns"]: label}, table["value"]) for label in head]
        rows = [[*axes, *head]]
        for labels in found.labels(axes):
            where = dict(zip(axes, labels, strict=True))
            cells = [found.cell({**where, **extra}, name) for extra, name in columns]
            if set(cells) != {"-"}:
                rows.append([*labels, *cells])
        yield table["title"], rows


def aligned(rows: Table) -> str:
    """Columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown(rows: Table) -> str:
    """A table for a page."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def page(suite: Suite, file: Path, layout: Any = aligned) -> str:
    """Everything that a suite's results say."""
    found, record = Found(suite, file), suite.record
    hours = sum(r["seconds"] for r in found.records) / 3600
    parts = [f"{suite.name}: {record['title']}", record["question"], f"Source: {record['source']}"]
    parts.append(f"Budget: {record['budget']} {len(found.records)} runs, {hours:.1f} hours of one core.")
    if not found.rows:
        return "\n\n".join([*parts, "no results yet"])
    for title, rows in tables(found, record["tables"]):
        parts += [f"{title} (mean ± standard deviation over seeds) [published]", layout(rows)]
    return "\n\n".join([*parts, *record.get("notes", []), *found.failures()])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", metavar="SUITE", help=f"some of {', '.join(names())}")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    for name in options.suites:
        suite, file = Suite.read(name), options.results / f"{name}.jsonl"
        if options.json:
            found = Found(suite, file)
            shown = {title: rows for title, rows in tables(found, suite.record["tables"])}
            print(json.dumps({"suite": name, "tables": shown, "runs": found.records}))
        else:
            print(page(suite, file, markdown if options.markdown else aligned) + "\n")


if __name__ == "__main__":
    main()
