"""What stops a fit: `kill -9`, at random times and at the worst moments, and a disk that is full."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

from isthmus import load

FIT = ("fit", "table.csv", "-o", "model", "--no-report", "--seed", "1")
SETTINGS = (
    "training.max_steps=160",
    "training.patience=99",
    "training.validations=8",
    "flow.network={kind: skip, width: 16}",
    "refit.latent=gaussian",
)

# Runs the command line, killed at a call of a function, counted from the first call of another; it saves often.
KILLED = """
import os, signal, sys
from importlib import import_module
from isthmus.training import trainee
trainee._TIME_BETWEEN_SAVES, trainee._SAVE_EVERY = 0, 0.02
*spec, call = sys.argv[1:4]
seen = dict.fromkeys(spec, 0)
def watch(where):
    module, _, names = where.partition(":")
    *path, name = names.split(".")
    owner = import_module(module)
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, name)
    def watched(*arguments, **options):
        seen[where] += bool(seen[spec[0]]) or where == spec[0]
        if where == spec[1] and seen[where] == int(call):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(owner, name, watched)
for where in seen:
    watch(where)
from isthmus.cli import main
sys.exit(main(sys.argv[4:]))
"""
START, TRAINING = "isthmus.cli:main", "isthmus.fitting:train"
MOMENTS = {  # in the order of a run: from which call on, at which call, how often at most
    "reading the table": (START, "isthmus.data.tables:Schema.encode", 1),
    "trying a curve": (START, "isthmus.training.trainee:Trainee.training_step", 30),
    "searching the dimension": ("isthmus.fitting:_choose", "isthmus.training.trainee:Trainee.training_step", 60),
    "noting a decision": ("isthmus.fitting:_choose", "isthmus.runs:write_durably", 3),
    "a step": (TRAINING, "isthmus.training.trainee:Trainee.training_step", 40),
    "a validation": (TRAINING, "isthmus.training.judging:noise_sigma", 3),
    "within a checkpoint": (TRAINING, "os:fsync", 4),
    "before a checkpoint's name": (TRAINING, "os:replace", 4),
    "the refit": (START, "isthmus.fitting:refit_density", 1),
    "writing the model": ("isthmus.store:_write", "os:fsync", 3),
    "before the model's name": (START, "isthmus.store.folders:_commit", 1),
    "removing the folder": ("isthmus.store:save", "shutil:rmtree", 3),
}
FEW = ("searching the dimension", "within a checkpoint", "before the model's name")


def start(folder, arguments, moment=None, call=0):
    """A real process of the command line."""
    program = ["-m", "isthmus.cli"] if moment is None else ["-c", KILLED, *MOMENTS[moment][:2], str(call)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *program, *arguments]
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def finish(process, folder):
    assert process.wait() == 0, (folder / "log.txt").read_text()


def in_folder(path):
    path.mkdir()
    pd.DataFrame(load_breast_cancer().data[:, :6]).to_csv(path / "table.csv", index=False)
    return path


def test_a_killed_fit_goes_on_to_the_same_model(tmp_path, times, tally):
    fresh = [*FIT, *itertools.chain(*(("--set", setting) for setting in SETTINGS))]
    whole = in_folder(tmp_path / "whole")
    begun = time.monotonic()
    finish(start(whole, fresh), whole)
    longest, expected = time.monotonic() - begun, (whole / "model" / "model.safetensors").read_bytes()
    draw = random.Random(0)
    kills = times(3, 20)
    plan = list(FEW) if kills == len(FEW) else [*MOMENTS, *(kills - len(MOMENTS)) * ["any time"]]
    folder, chain, killed, kept, moments, numbers = None, 0, 0, 0, set(), itertools.count()

    def check():
        nonlocal kept, chain
        same = (folder / "model" / "model.safetensors").read_bytes() == expected
        kept, chain = kept + same * chain, 0

    while killed < kills:
        if not chain:
            folder = in_folder(tmp_path / f"run{next(numbers)}")
        moment = plan[killed]
        arguments = ["fit", "--resume", "model.run"] if (folder / "model.run").exists() else fresh
        if moment == "any time":
            process = start(folder, arguments)
            time.sleep(draw.uniform(0, longest))
            process.kill()
        else:
            process = start(folder, arguments, moment, draw.randint(1, MOMENTS[moment][2]))
        code = process.wait()
        assert code in (0, -signal.SIGKILL), (folder / "log.txt").read_text()
        if code:
            killed, chain = killed + 1, chain + 1
            moments.add(moment)
        if chain and (folder / "model").exists() and not (folder / "model.run").exists():
            check()
    if chain:
        finish(start(folder, ["fit", "--resume", "model.run"] if (folder / "model.run").exists() else fresh), folder)
        check()
    promise = "a fit killed by `kill -9` and resumed, however often, writes the same model.safetensors byte for byte"
    tally("Crash and resume", promise, killed, kept, moments=len(moments))
    assert kept == killed


# Runs a command with a small disk of its own mounted at a folder, which nobody else sees; keeps what it left there.
ALONE = """
folder, size, kept = sys.argv[1:4]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder], check=True)
for name in os.listdir("model"):
    os.makedirs(f"{folder}/model", exist_ok=True)
    shutil.copy(f"model/{name}", f"{folder}/model")
code = subprocess.run([sys.executable, "-m", "isthmus.cli", *sys.argv[4:]]).returncode
shutil.copytree(folder, kept)
sys.exit(code)
"""
QUICK = ("flow.latent_dim=2", "columns.heavy_tails=false")
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def command(arguments, folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def isthmus(*arguments, folder, inside=()):
    program = ["-c", "import os, shutil, subprocess, sys" + ALONE, *inside] if inside else ["-m", "isthmus.cli"]
    return command([*(NAMESPACE if inside else []), sys.executable, *program, *arguments], folder)


@pytest.fixture
def folder(tmp_path):
    """A table, a model of it, and a place to mount a disk."""
    folder = in_folder(tmp_path / "here")
    (folder / "disk").mkdir()
    mounted = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "disk"]
    if shutil.which("unshare") is None or command(mounted, folder).returncode:
        pytest.skip("no disk can be mounted in a namespace of its own here")
    return folder


def test_a_full_disk_keeps_the_model_that_was_there(folder, times, tally):
    settings = [word for setting in (*SETTINGS, *QUICK) for word in ("--set", setting)]
    first, second = ([*FIT[:-1], seed, *settings, "--force"] for seed in ("1", "2"))
    assert isthmus(*second, folder=folder).returncode == 0
    new = (folder / "model" / "model.safetensors").read_bytes()
    assert isthmus(*first, folder=folder).returncode == 0
    old = (folder / "model" / "model.safetensors").read_bytes()
    room = sum(-(-path.stat().st_size // 4096) * 4 for path in (folder / "model").iterdir())  # KiB
    second[3] = "disk/model"
    tried, kept, full = times(2, 20), 0, 0
    for number, size in enumerate(np.linspace(room + 8, 8 * room, tried).astype(int)):
        done = isthmus(*second, folder=folder, inside=("disk", str(size), f"kept{number}"))
        model = folder / f"kept{number}" / "model"
        load(model)
        ended = (model / "model.safetensors").read_bytes(), done.returncode
        full += done.returncode == 2
        said = [line for line in done.stderr.splitlines() if "error" in line or "Traceback" in line]
        one_line = len(said) == 1 and "No space left on device" in said[0] and done.stderr.endswith(f"{said[0]}\n")
        kept += ended == (new, 0) or (ended == (old, 2) and one_line)
    promise = "where a disk becomes full during a fit one line says so, and the model that was there stays"
    tally("Crash and resume", promise, tried, kept, full=full)
    assert kept == tried
    assert full
