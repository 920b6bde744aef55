"""Run a suite: a table of a paper, or one of our own questions, on this machine.

    python -m benchmarks.run SUITE [...] [--seeds 0,1,2] [--where axis=label[,label] ...] [--quick] [--results FOLDER]
                             [--part I/N]

Each run that the results lack is made and appended as one JSON line to `benchmarks/results/SUITE.jsonl`, so that it may
be broken off and taken up again; a run is known by its labels, its seed and what it was given. Two processes may share
the work by `--part 1/2` and `--part 2/2`. A run that raised an error is written down as failed, and tried again
the next time. Everything computes on one thread. `--quick` tries a small version of the suite, or of `all` of them, and
writes to `build/quick`; `python -m benchmarks.tables SUITE` prints what was found.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from benchmarks.defaults import VERSION, append, commit
from benchmarks.measures import MEASURES
from benchmarks.speed import machine
from benchmarks.suites import Run, Suite, matches, names

RESULTS = Path(__file__).parent / "results"
QUICK = Path("build/quick")


def fingerprint(run: Run) -> str:
    """Tells what a run was given, so that a changed suite is run again; a picture it draws beside changes nothing."""
    given = {key: value for key, value in run.spec.items() if key != "grid"}
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of a results file; one still being written is left out."""
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def perform(suite: Suite, run: Run) -> dict[str, Any]:
    """Make a run; an error of data, model or arithmetic is a result too."""
    record: dict[str, Any] = {"suite": suite.name, "cell": run.cell, "seed": run.seed, "given": fingerprint(run)}
    start = time.perf_counter()
    try:
        rows = MEASURES[suite.record["measure"]](run.spec, run.seed)
        record["rows"] = [{"labels": {**run.cell, **extra}, "values": values} for extra, values in rows]
    except (ValueError, RuntimeError, ArithmeticError) as error:
        record["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    record |= {"seconds": time.perf_counter() - start, "version": VERSION, "commit": commit(), "machine": machine()}
    return record | {"finished": time.strftime("%Y-%m-%d %H:%M:%S")}


def run_missing(suite: Suite, options: argparse.Namespace) -> int:
    """Make the runs that the results lack; how many failed."""
    file = options.results / f"{suite.name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    share, of = options.part
    for place, run in enumerate(suite.runs(options.seeds, quick=options.quick)):
        if place % of != share - 1 or not matches(run.cell, options.where):
            continue
        key = (run.cell, run.seed, fingerprint(run))
        if any((r["cell"], r["seed"], r["given"]) == key and "failed" not in r for r in read(file)):
            continue
        print(f"{suite.name}: {run.title} ...", file=sys.stderr, flush=True)
        record = perform(suite, run)
        append(file, record)
        failed += "failed" in record
        print(f"  {record['seconds']:.0f} s {record.get('failed', '')}", file=sys.stderr, flush=True)
    return failed


def where(text: str) -> tuple[str, list[str]]:
    """`axis=label,label`."""
    axis, _, labels = text.partition("=")
    return axis, labels.split(",")


def part(text: str) -> tuple[int, int]:
    """`1/2`."""
    share, _, of = text.partition("/")
    return int(share), int(of)


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", metavar="SUITE", help=f"all, or some of {', '.join(names())}")
    parser.add_argument("--seeds", type=lambda given: [int(seed) for seed in given.split(",")], help="0,1,2")
    parser.add_argument("--where", type=where, nargs="+", default=[], help="axis=label,label: only these")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", type=part, default=(1, 1), help="I/N: this process's share of the runs")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    options.where = dict(options.where)
    options.results = options.results or (QUICK if options.quick else RESULTS)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        chosen = names() if options.suites == ["all"] else options.suites
        failed = sum(run_missing(Suite.read(name), options) for name in chosen)
    if failed:
        sys.exit(f"{failed} runs failed; see the lines `failed` in {options.results}")


if __name__ == "__main__":
    main()
