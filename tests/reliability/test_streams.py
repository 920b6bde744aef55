"""Promises about tables larger than memory and about several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from sklearn.datasets import load_breast_cancer

from isthmus.data.tables import Parquet

PART = "Long tables and many machines"
BUILD = Path(__file__).parents[2] / "build" / "long"
SOURCE = Path(__file__).parents[2] / "src"
GROUP, GROUPS_A_FILE = 2**18, 8
LARGEST_MEMORY = 1.5  # GiB

MEASURED = """
import json, resource, sys
from isthmus import cli
code = cli.main(sys.argv[1:])
if code == 0:
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
sys.exit(code)
"""


def child(*arguments):
    """What a program printed last, read as JSON."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def long_files(size):
    """At least `size` bytes of Parquet: rows of a real table of 30 columns, each drawn anew and with noise."""
    folder = BUILD / f"{size:.0e}"
    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    bunch, rng = load_breast_cancer(), np.random.default_rng(0)
    spread = bunch.data.std(0)
    part = 0
    while sum(file.stat().st_size for file in folder.glob("*.parquet")) < size:
        with pa.parquet.ParquetWriter(folder / f"{part:03}.parquet", schema(bunch)) as writer:
            for _ in range(GROUPS_A_FILE if size > 1e9 else 1):
                rows = bunch.data[rng.integers(len(bunch.data), size=GROUP)]
                rows = rows + 0.05 * spread * rng.normal(size=rows.shape)
                writer.write_table(pa.Table.from_arrays(list(rows.T), schema=schema(bunch)))
        part += 1
    (folder / "done").touch()
    return folder


def schema(bunch):
    return pa.schema([(str(name), pa.float64()) for name in bunch.feature_names])


def test_the_memory_of_a_fit_does_not_grow_with_the_files(tally, times, tmp_path):
    size, steps = times((1e8, 50), (4e9, 2_000))
    files = long_files(size)
    options = ["--latent-dim", 5, "--no-report", "--set", f"training.max_steps={steps}"]
    options += times(["--set", "density.latent=gaussian", "--set", "columns.heavy_tails=false"], [])
    peak = child("-c", MEASURED, "fit", files, "-o", tmp_path / "model", *options)
    found = json.loads((tmp_path / "model" / "metrics.json").read_text())
    rows = len(Parquet.open(files))
    kept = peak < LARGEST_MEMORY and found["stream"]["rows"] == rows
    gigabytes = sum(file.stat().st_size for file in files.glob("*.parquet")) / 2**30
    tally(
        PART,
        f"a fit of a long table takes less than {LARGEST_MEMORY} GiB of memory, whatever its length",
        1,
        int(kept),
        GiB_of_files=round(gigabytes, 2),
        rows=rows,
        peak_GiB=round(peak, 2),
    )
    assert kept, f"{peak:.2f} GiB"
