"""Does `isthmus fit --max-time` keep to the time? The whole command, on ten tables of every size.

    python -m benchmarks.time_limits [--seconds 20 60 300] [--tables NAME ...] [--quick] [--page]

Each run that the results file lacks is made, one after the other, and appended as one JSON line; then all are printed
as a table. `--quick` tries the smallest table for 20 seconds alone and keeps nothing; `--page` writes the table into
docs/speed.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import isthmus
from isthmus.data import DATASETS

RESULTS = Path(__file__).parent / "results" / "time_limits.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
MARKS = "<!-- time limits -->", "<!-- end of time limits -->"
SECONDS = (20, 60, 300)
ALLOWED = 1.3


def curved(rows: int, columns: int, dim: int, *, counts: int = 0, skewed: int = 0) -> NDArray[np.float64]:
    """Rows near a wavy surface, some columns rounded to whole numbers and some with a heavy tail."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(rows, dim))
    linear, waves = rng.normal(size=(2, dim, columns))
    x = z @ linear + np.sin(z @ waves) + 0.2 * rng.normal(size=(rows, columns))
    x[:, :counts] = np.rint(10 * x[:, :counts])
    x[:, counts : counts + skewed] = np.exp(x[:, counts : counts + skewed])
    return x


def known(name: str) -> NDArray[np.float64]:
    """All rows of a data set."""
    data = DATASETS[name]()
    return np.concatenate([np.asarray(rows, dtype=float) for rows in (data.train, data.validation, data.test)])


TABLES: dict[str, Callable[[], NDArray[np.float64]]] = {
    "150 x 3": lambda: curved(150, 3, 1),
    "51 x 6,831": lambda: np.exp(curved(51, 6_831, 5)),
    "breast cancer": lambda: known("breast_cancer"),
    "load curves": lambda: known("load_curves"),
    "400 x 4,096": lambda: curved(400, 4_096, 8),
    "gasdrift": lambda: known("gasdrift"),
    "magic": lambda: known("magic"),
    "20,892 x 15": lambda: curved(20_892, 15, 4, counts=2, skewed=2),
    "100,000 x 40": lambda: curved(100_000, 40, 8),
    "327,000 x 19": lambda: curved(327_000, 19, 6, counts=9, skewed=2),
}


def timed(table: str, seconds: int) -> dict[str, object]:
    """Run one fit, and how long it took, whether it has a report and what it said of the time."""
    with tempfile.TemporaryDirectory() as folder:
        x = TABLES[table]()
        frame = pd.DataFrame(x, columns=[f"c{number}" for number in range(x.shape[1])])
        frame.to_csv(f"{folder}/table.csv", index=False, float_format="%.6g")
        command = [sys.executable, "-m", "isthmus.cli", "fit", "table.csv", "-o", "model", "--max-time", f"{seconds}s"]
        load, began = os.getloadavg()[0], time.monotonic()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
        return {
            "table": table,
            "shape": x.shape,
            "asked": seconds,
            "took": round(took, 1),
            "code": done.returncode,
            "report": Path(folder, "model", "report.html").exists(),
            "said": [line for line in done.stderr.splitlines() if "the fit takes about" in line],
            "load": round(load, 1),
            "version": isthmus.__version__,
        }


def records() -> dict[tuple[str, int], dict[str, object]]:
    """The runs of the results file, the last of each kind."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    runs = [json.loads(line) for line in lines]
    return {(run["table"], run["asked"]): run for run in runs}


def page(runs: dict[tuple[str, int], dict[str, object]]) -> str:
    """The table of all runs; more than 1.3 times what was asked for is in bold, unless it was said before."""
    asked = " | ".join(f"asked {seconds} s" for seconds in SECONDS)
    lines = [f"| table | rows x columns | {asked} |", f"| --- | --- | {' | '.join('---:' for _ in SECONDS)} |"]
    for table in TABLES:
        known_runs = [runs.get((table, seconds)) for seconds in SECONDS]
        shape = next((f"{run['shape'][0]:,} x {run['shape'][1]:,}" for run in known_runs if run), "")
        lines.append(f"| {table} | {shape} | {' | '.join(map(cell, known_runs))} |")
    return "\n".join(lines)


def cell(run: dict[str, object] | None) -> str:
    """The seconds that one command took."""
    if run is None:
        return "-"
    late = float(str(run["took"])) > ALLOWED * float(str(run["asked"])) or run["code"] != 0
    said, report = " (said before)" if run["said"] else "", "" if run["report"] else ", no report"
    return f"**{run['took']}**{said}{report}" if late else f"{run['took']}{said}{report}"


def main() -> None:
    """Make the runs that are missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", nargs="*", type=int, default=SECONDS)
    parser.add_argument("--tables", nargs="*", default=list(TABLES))
    parser.add_argument("--quick", action="store_true", help="try one small run and keep nothing")
    parser.add_argument("--page", action="store_true", help="write the table into docs/speed.md")
    options = parser.parse_args()
    if options.quick:
        run = timed("150 x 3", SECONDS[0])
        sys.stdout.write(f"{json.dumps(run)}\n")
        sys.exit(int(run["code"] != 0))
    for seconds in options.seconds:
        for table in options.tables:
            if (table, seconds) not in records():
                run = timed(table, seconds)
                with RESULTS.open("a") as file:
                    file.write(json.dumps(run) + "\n")
                sys.stdout.write(f"{json.dumps(run)}\n")
                sys.stdout.flush()
    text = page(records())
    sys.stdout.write(f"{text}\n")
    if options.page:
        written = re.sub(f"({MARKS[0]}\n).*(\n{MARKS[1]})", lambda m: m[1] + text + m[2], PAGE.read_text(), flags=re.S)
        PAGE.write_text(written)


if __name__ == "__main__":
    main()
