"""How good are the defaults? `fit(X)` and nothing else, on real tables against rivals, on toys, and spoilt on purpose.

    python -m benchmarks.defaults [--section tables toys beta sabotage timing] [--sets NAME ...] [--seeds 0,1,2]
                                  [--methods NAME ...] [--limit N] [--append FILE] [--json]

Each run that the results file lacks is made and appended as one JSON line; then everything in the file is printed. A
run is known by section, set, seed, method and version of isthmus, so that it can be broken off and taken up again, and
two processes may fill one file with different sets. A run that raised an error is written down as failed, counted as a
miss, and tried again the next time. Everything computes on one thread. `--limit 0` only prints.

| section | question |
|---|---|
| tables | ten real tables: is the held-out likelihood above that of PCA, autoencoders, a mixture, a spline flow? |
| toys | is the latent dimension found? The first ten runs are a fair mix: `--section toys --limit 10` |
| beta | is the reconstruction error of a noisy sine within 15 % of the noise? |
| sabotage | does the verdict name what was spoilt? |
| timing | 500 digits in a minute, 100,000 rows in ten; to be run alone on a machine |
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

import isthmus
from benchmarks.report import plain, summary, text
from benchmarks.sections import METHODS, SECTIONS, Key, Record, Run
from benchmarks.speed import machine

VERSION = isthmus.__version__
RESULTS = Path(__file__).parent / "results" / "defaults.jsonl"


def read(file: Path) -> dict[Key, Record]:
    """The runs of this version in the results file, the last of each key; a line still being written is left out."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    records = [json.loads(line) for line in lines if line]
    return {
        (record["section"], record["set"], record["seed"], record["method"]): record
        for record in records
        if record["version"] == VERSION
    }


def append(file: Path, record: Record) -> None:
    """One line in one write, so that two processes may share the file."""
    line = json.dumps(record, allow_nan=False, default=float) + "\n"
    with file.open("ab", buffering=0) as stream:
        stream.write(line.encode())


def commit() -> str:
    """The commit that is checked out, with `-dirty` where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def wanted(options: argparse.Namespace) -> Iterator[Run]:
    """The runs asked for, done or not, in order."""
    runs = [run for section in options.section or SECTIONS for run in SECTIONS[section](options.seeds)]
    for name in options.sets or ():
        if not any(is_of(run, name) for run in runs):
            known = ", ".join(dict.fromkeys(run.set for run in runs))
            raise SystemExit(f"expected names of sets among {known}; got {name!r}; correct it")
    for run in runs:
        in_sets = not options.sets or any(is_of(run, name) for name in options.sets)
        if in_sets and (not options.methods or run.method in options.methods):
            yield run


def is_of(run: Run, name: str) -> bool:
    """Whether a run is on the set of that name, or of that name with its noise."""
    return f"{run.set}_".startswith(f"{name}_")


def is_done(results: dict[Key, Record], key: Key) -> bool:
    """Whether a run is in the results and did not fail."""
    return key in results and "failed" not in results[key]


def perform(run: Run, needed: Record) -> Record:
    """Make a run; an error of data, model or arithmetic is a result too."""
    section, name, seed, method = run.key
    record = {"section": section, "set": name, "seed": seed, "method": method, "version": VERSION}
    start = time.perf_counter()
    try:
        record |= run.measure(needed)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        record |= {"failed": f"{type(error).__name__}: {reason}", "seconds": time.perf_counter() - start}
    return record | {"machine": machine(), "commit": commit(), "finished": time.strftime("%Y-%m-%d %H:%M:%S")}


def run_missing(options: argparse.Namespace) -> None:
    """Make the runs that the file lacks, at most as many as asked for."""
    made = 0
    for run in wanted(options):
        results = read(options.append)
        if is_done(results, run.key):
            continue
        if options.limit is not None and made >= options.limit:
            return
        title = f"{run.section} {run.set} seed {run.seed} {run.method}"
        needed = (run.section, run.set, run.seed, run.needs or run.method)
        if run.needs and not is_done(results, needed):
            print(f"{title}: left out, needs {run.needs}", file=sys.stderr, flush=True)
            continue
        print(f"{title} ...", file=sys.stderr, flush=True)
        record = perform(run, results[needed] if run.needs else {})
        append(options.append, record)
        made += 1
        shown = {name: record[name] for name in ("log_likelihood", "latent_dim", "excess", "failed") if name in record}
        print(f"{title}: {record['seconds']:.0f} s {shown}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", nargs="+", choices=list(SECTIONS))
    parser.add_argument("--sets", nargs="+", help="names of sets, of toys also without their noise")
    parser.add_argument("--seeds", type=lambda given: [int(seed) for seed in given.split(",")], help="0,1,2")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--limit", type=int, help="most runs to make now")
    parser.add_argument("--append", type=Path, default=RESULTS, help="results file, one JSON line a run")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Make what is missing, then print everything."""
    options = arguments()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        run_missing(options)
    results = read(options.append)
    found = summary(results)
    if options.json:
        print(
            json.dumps(plain({"version": VERSION, "runs": list(results.values()), "summary": found}), allow_nan=False)
        )
    else:
        print(f"isthmus {VERSION}\n\n{text(found)}")


if __name__ == "__main__":
    main()
