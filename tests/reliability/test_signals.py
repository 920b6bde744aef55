"""What a signal to stop does to a command: one line, the exit code of the signal, and nothing half written."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isthmus import load

SOURCE = Path(__file__).parents[2] / "src"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
QUICK = ("training.max_steps=60", "training.validations=3", "flow.latent_dim=1", "density.latent=gaussian")
FIT = ("fit", "table.csv", "-o", "new", *(word for setting in QUICK for word in ("--set", setting)))

# Runs command lines, each in a fork of a process that has imported everything, perhaps with a signal at a call of a
# function.
FORKS = """
import json, os, signal, sys
from importlib import import_module
for module in ("cli.fit", "fitting", "training", "report", "scoring", "screens"):
    import_module(f"isthmus.{module}")
from isthmus.cli import main

def watch(number, where, call):
    module, _, names = where.partition(":")
    *path, name = names.split(".")
    owner = import_module(module)
    for part in path:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), []
    def watched(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return real(*arguments, **options)
    setattr(owner, name, watched)

for line in sys.stdin:
    arguments, *moment = json.loads(line)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
        log = os.open("log.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        if moment:
            watch(*moment)
        code = main(arguments)
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
MOMENTS = {  # verb, function, at which of its calls; in training Lightning has handlers of its own
    "fit: reading": (FIT, "isthmus.data.tables:read_table", 1),
    "fit: columns": (FIT, "isthmus.columns:Columns.learn", 1),
    "fit: a step": (FIT, "isthmus.training.trainee:Trainee.training_step", 7),
    "fit: a validation": (FIT, "isthmus.training.trainee:scores", 2),
    "fit: the last step": (FIT, "isthmus.training.trainee:Trainee.on_train_end", 1),
    "fit: a checkpoint": (FIT, "isthmus.training.trainee:Trainee._save", 1),
    "fit: the refit": (FIT, "isthmus.fitting:refit_density", 1),
    "fit: the model": (FIT, "isthmus.store:_write", 1),
    "score": (("score", "model", "table.csv", "-o", "new.csv"), "isthmus.scoring:score", 1),
    "score: writing": (("score", "model", "table.csv", "-o", "new.csv"), "pyarrow.csv:write_csv", 1),
    "encode": (("encode", "model", "table.csv", "-o", "new.npy"), "isthmus.scoring:encode", 1),
    "sample": (("sample", "model", "-n", "9", "-o", "new.parquet"), "isthmus.scoring:sample", 1),
}
FEW = ("fit: a step", "fit: the last step", "sample")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, and a place for the rest."""
    folder = tmp_path_factory.mktemp("signals")
    x = np.random.default_rng(0).normal(size=120)
    pd.DataFrame({"x": x, "y": np.sin(x), "z": x**2}).round(3).to_csv(folder / "table.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def isthmus(folder):
    """Runs a command line, perhaps with a signal: the exit code and what it said."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", FORKS], cwd=folder, env=environment, **pipes) as process:

        def run(arguments, *moment):
            process.stdin.write(json.dumps([arguments, *moment]) + "\n")
            return int(process.stdout.readline()), (folder / "log.txt").read_text()

        code, said = run([*FIT[:3], "model", *FIT[4:], "--no-report"])
        assert code == 0, said
        yield run


def outcome(isthmus, folder, moment, number):
    """What is wrong with how a command ended, nothing if all is well."""
    arguments, where, call = MOMENTS[moment]
    before = {path.name for path in folder.iterdir()}
    code, said = isthmus(arguments, int(number), where, call)
    new = {path.name for path in folder.iterdir()} - before
    *_, last = said.splitlines() or [""]
    wrong = [] if code == CODES[number] else [f"code {code}"]
    if "Traceback" in said or not last.startswith("isthmus: interrupted"):
        wrong.append(said[-600:])
    if "--resume new.run" in last:
        code, said = isthmus(("fit", "--resume", "new.run"))
        wrong += [] if code == 0 and new == {"new.run"} else [f"{new}, {said[-600:]}"]
        load(folder / "new")
    elif new:
        wrong.append(f"left {new}")
    for name in {path.name for path in folder.iterdir()} - before:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return wrong


def test_a_signal_to_stop_is_one_line_and_a_code(isthmus, folder, times, tally):
    moments = times(FEW, tuple(MOMENTS))
    numbers = times((signal.SIGTERM,), tuple(CODES))
    cases = [(moment, number) for moment in moments for number in numbers]
    wrong = {f"{moment}, {number.name}": outcome(isthmus, folder, moment, number) for moment, number in cases}
    wrong = {case: why for case, why in wrong.items() if why}
    promise = "SIGINT, SIGTERM or SIGHUP ends a command with 130, 143 or 129, one line, and nothing half written"
    tally("Crash and resume", promise, len(cases), len(cases) - len(wrong), moments=len(moments))
    assert not wrong
