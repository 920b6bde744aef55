"""Damaged files: nothing but `InputError` or a valid result, in bounded memory and time, and nothing executed."""

import collections
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isthmus import Recipe, fit, save
from isthmus.data.tables import Schema, write_table

HERE = Path(__file__).parent
CHUNK = 2_000  # seeds of one child

KINDS = {
    "freeform": "{flow: {latent_dim: 1, network: {width: 4, depth: 1}}, refit: {latent: mixture, noise: component}}",
    "lowrank": "{flow: {latent_dim: 2, network: {kind: linear}}, refit: {latent: mixture, noise: low_rank}}",
    "variational": "{flow: {kind: variational, latent_dim: 1, network: {kind: mlp, width: 4}}, "
    "objective: {kind: variational}}",
    "rectangular": "{flow: {kind: rectangular, latent_dim: 2, transforms: 1, width: 4, latent_transforms: 1}, "
    "objective: {kind: rectangular}, refit: {latent: as trained}}",
    "student": "{flow: {latent_dim: 1, network: {kind: residual, width: 4}, latent: {kind: student_t}}, "
    "refit: {latent: as trained}}",
    "flow": "{flow: {latent_dim: 2, network: {width: 4}, latent: {kind: flow, width: 4, transforms: 1}}, "
    "refit: {latent: as trained}}",
    **{
        transform: f"{{flow: {{kind: bijective, transform: {transform}, transforms: 1, width: 4}}, "
        "objective: {kind: likelihood}}"
        for transform in ("nsf", "maf", "realnvp")
    },
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=60), "y": rng.exponential(size=60), "n": rng.poisson(3, 60)})
    frame["t"] = rng.choice(["a", "b"], 60)
    schema, _ = Schema.learn(frame)
    for name, text in KINDS.items():
        recipe = Recipe.parse(text, ["training.max_steps=2", "training.validations=2"])
        if recipe.flow.kind == "bijective":
            recipe = recipe.update(flow={"latent_dim": len(schema.features)})
        fitted = fit(schema.encode(frame)[0], recipe=recipe)
        (folder / name).mkdir()
        save(_with(fitted, schema), folder / name / "model")
        frame.iloc[:1].to_json(folder / name / "row.json", orient="table")
    (folder / "old").mkdir()
    shutil.copytree(HERE.parent / "models" / "format2", folder / "old" / "model")
    rows = json.loads((HERE.parent / "models" / "format2.json").read_text())["rows"]
    pd.DataFrame(rows[:1]).to_json(folder / "old" / "row.json", orient="table")
    return folder


def _with(fitted, schema):
    from dataclasses import replace

    return replace(fitted, schema=schema)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    frame = pd.DataFrame({"x": np.arange(8.0) / 3, "n": range(8), "t": list("abcdabcd")})
    frame["when"] = pd.date_range("2026-01-01", periods=8)
    frame.loc[2, "x"] = np.nan
    for suffix in ("csv", "tsv", "csv.gz", "parquet", "feather"):
        write_table(frame, folder / f"table.{suffix}")
    numbers = frame[["x", "n"]].astype(float)
    write_table(numbers, folder / "table.npz")
    np.save(folder / "table.npy", numbers.to_numpy())
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 5), dtype=np.uint8)
    write_table(pd.DataFrame({"image": list(images)}), folder / "images.png")
    np.savez(folder / "images.npz", images=images, labels=np.arange(8))
    (folder / "idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes())
    return folder


def tried(kind, folder, seeds):
    """How often inputs were used, refused or broke a promise, and which did."""
    counts, broken = collections.Counter(), []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    first = 0
    while first < seeds:
        last = min(first + CHUNK, seeds)
        command = [sys.executable, str(HERE / "mutants.py"), kind, str(folder), str(first), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        broken += [line for line in lines if "seed" in line]
        if done.returncode == 0:
            counts.update(lines[-1])
            first = last
        else:
            at = max(int(line) for line in done.stderr.splitlines() if line.isdigit())
            reason = next((line for line in reversed(done.stderr.splitlines()) if not line.isdigit()), "")
            broken.append({"seed": at, "went": f"exit {done.returncode}: {reason}"})
            first = at + 1
    return counts, broken


@pytest.mark.parametrize("kind", ["models", "tables"])
def test_a_damaged_file_is_refused_or_used(kind, times, tally, request):
    seeds = times(300, 20_000)
    counts, broken = tried(kind, request.getfixturevalue(kind), seeds)
    what = {"models": "A damaged model folder", "tables": "A damaged table"}[kind]
    promise = f"{what} is refused in one sentence or used, within 5 s and 1 GiB, and nothing in it is executed"
    tally("Files", promise, seeds, seeds - len({line["seed"] for line in broken}), **counts)
    assert not broken, broken[:10]
