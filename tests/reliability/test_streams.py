"""Promises about tables larger than memory and about several processes."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from sklearn.datasets import load_breast_cancer

from isthmus import Recipe, fit, save, scoring
from isthmus.data.tables import Parquet, Schema, Stream, read_table
from isthmus.data.tables import stream as module
from isthmus.parts import Parts
from longtables import SIZES, long_table, write_parts

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
    paths = os.pathsep.join([str(SOURCE), str(Path(__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
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
    size, steps = times((1e8, 50), (4e9, 600))
    files = long_files(size)
    options = ["--latent-dim", 5, "--no-report", "--set", f"training.max_steps={steps}"]
    options += times(["--set", "refit.latent=gaussian", "--set", "columns.heavy_tails=false"], [])
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


@pytest.fixture(scope="module")
def frame():
    return long_table(sum(SIZES))


@pytest.fixture(scope="module")
def fitted(frame):
    """A model of a few rows, which is all that parts need."""
    schema, _ = Schema.learn(frame.iloc[:400])
    settings = {"latent": "gaussian", "noise": "isotropic"}
    recipe = Recipe().update(flow={"latent_dim": 2}, training={"max_steps": 20}, refit=settings)
    return dataclasses.replace(fit(schema.encode(frame.iloc[:400])[0], recipe=recipe), schema=schema)


def worst(folder, expected):
    """The largest relative difference of any value of the parts; infinite where they are not as many rows."""
    files = sorted(folder.glob("part-*.parquet"))
    found = pd.concat([read_table(file) for file in files], ignore_index=True).drop(columns="note")
    if list(found) != list(expected) or len(found) != len(expected):
        return float("inf")
    numeric = expected.select_dtypes("number")
    return float((np.abs(found[numeric.columns] - numeric) / (1 + np.abs(numeric))).to_numpy().max())


def test_scores_and_codes_in_parts_are_those_in_memory(tally, times, tmp_path, frame, fitted):
    tried, differences = 0, []
    for seed in range(times(3, 30)):
        rng = np.random.default_rng(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        table = Parquet.open(write_parts(frame, folder, SIZES, row_group_size=int(rng.integers(50, 900))))
        for verb, function in (("score", scoring.score), ("encode", scoring.encode)):
            job = Parts(fitted, table, folder / verb, verb=verb, rows=int(rng.integers(100, 1_500)))
            for part in rng.permutation(job.missing())[: len(job) // 2]:  # what an interrupted run may have left
                job.write_part(int(part))
            list(job.write())
            differences.append(worst(folder / verb, function(fitted, frame)))
            tried += 1
    kept = sum(difference < 1e-9 for difference in differences)
    promise = "scores and codes in parts, half of them found there, are those in memory, row for row"
    tally(PART, promise, tried, kept, largest_difference=f"{max(differences):.0e}")
    assert kept == tried


RAY = """
import json, sys
from pathlib import Path
import ray
from isthmus import load
from isthmus.data.tables import Parquet
from isthmus.parts import Parts
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
parts = Parts(load(sys.argv[1]), Parquet.open(sys.argv[2]), Path(sys.argv[3]), rows=int(sys.argv[4]))
print(json.dumps(sorted(parts.write("ray"))))
"""


def test_ray_writes_the_same_parts(tally, times, tmp_path, frame, fitted):
    pytest.importorskip("ray")
    folder = tmp_path / "table"
    folder.mkdir()
    write_parts(frame, folder, SIZES, row_group_size=100)
    model = save(fitted, tmp_path / "model")
    written = child("-c", RAY, model, folder, tmp_path / "scores", times(900, 100))
    difference = worst(tmp_path / "scores", scoring.score(fitted, frame))
    kept = difference < 1e-9 and written == list(range(len(written)))
    promise = "two workers of Ray Data write the scores that one process writes, row for row"
    tally(PART, promise, 1, int(kept), parts=len(written), largest_difference=f"{difference:.0e}")
    assert kept


def test_an_epoch_has_every_row_once(tally, times, tmp_path, monkeypatch):
    tried, kept, rows = times(8, 80), 0, 5_000
    frame = pd.DataFrame({"row": np.arange(rows), "x": np.random.default_rng(0).normal(size=rows)})
    for seed in range(tried):
        rng = np.random.default_rng(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        sizes = np.diff([0, *sorted(rng.integers(1, rows, size=3)), rows])
        for name, most in (("_CHUNK_ROWS", 512), ("_BUFFER_ROWS", 2_000), ("_RUN_ROWS", 800)):
            monkeypatch.setattr(module, name, int(rng.integers(1, most)) if name == "_RUN_ROWS" else most)
        table = Parquet.open(write_parts(frame, folder, sizes, row_group_size=int(rng.integers(20, 2_000))))
        stream, _ = Stream.learn(table, most=300, seed=seed)
        without = np.sort(rng.permutation(rows)[:100])
        shards = int(rng.integers(1, 9))
        seen = [
            X[:, 0]
            for shard in range(shards)
            for X, _ in stream.epoch(seed, seed=seed, shard=shard, shards=shards, without=without)
        ]
        kept += np.array_equal(np.sort(np.concatenate(seen)), np.setdiff1d(np.arange(rows), without))
    tally(PART, "an epoch has every row but those held out exactly once over all of 1 to 8 shards", tried, kept)
    assert kept == tried


GRADIENTS = """
import json, sys
from pathlib import Path
import torch
from isthmus.flows import FreeFormFlow
from isthmus.networks import mlp_pair
from isthmus.recipe import TrainingRecipe
from isthmus.rows import Rows
from isthmus.training import train
from watched import Watched, seen

if __name__ == "__main__":
    steps, worst, apart, moved = int(sys.argv[2]), 0.0, 0.0, 0.0
    torch.manual_seed(0)
    x = torch.randn(400, 4, dtype=torch.float64)
    for devices in (1, 2):
        torch.manual_seed(0)
        flow = FreeFormFlow(*mlp_pair(4, 2, width=16), data_dim=4, latent_dim=2)
        folder = Path(sys.argv[1], str(devices))
        folder.mkdir()
        settings = TrainingRecipe(
            max_steps=steps, batch_size=64, noise=0, precision="64-true", devices=devices, gradient_clip=None, warm_up=0
        )
        objective = Watched(folder, beta=10.0, surrogate="encoder", K=2)
        train(flow, objective, Rows(x[:300]), Rows(x[300:]), settings=settings)
    for step in range(1, steps):
        one, first, second = seen(folder.parent / "1", step), seen(folder, step), seen(folder, step, 1)
        assert torch.equal(torch.cat([first["x"], second["x"]]).sort(0).values, one["x"].sort(0).values)
        worst = max(worst, float((one["gradient"] - first["gradient"]).norm() / one["gradient"].norm()))
        apart = max(apart, float((first["weights"] - second["weights"]).abs().max()))
        moved = float((one["weights"] - first["weights"]).abs().max())
    print(json.dumps({"worst": worst, "apart": apart, "moved": moved}))
"""


def test_two_processes_train_as_one(tally, times, tmp_path):
    steps = times(10, 200)
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    (tmp_path / "seen").mkdir()
    found = child(script, tmp_path / "seen", steps)
    kept = found["worst"] < 1e-6 and found["apart"] == 0 and found["moved"] < 1e-6
    tally(
        PART,
        "two processes that share each batch have the gradient of one (to 1e-6; no noise, exact traces), and the same "
        "weights as one another, bit for bit",
        steps - 1,
        (steps - 1) * int(kept),
        largest_relative_difference=f"{found['worst']:.0e}",
    )
    assert kept, found
