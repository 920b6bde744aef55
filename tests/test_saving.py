"""A crash, a full disk or a lost right to write leaves the old or the new model, and nothing else under its name."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import safetensors.torch

from isthmus import InputError, Recipe, fit, load, save
from isthmus.store import folders

QUICK = Recipe.parse("{flow: {latent_dim: 1, network: {width: 4}}, training: {max_steps: 2}}")
ROWS = [[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]]


@pytest.fixture(scope="module")
def old_and_new():
    return fit(ROWS, recipe=QUICK), fit(ROWS, recipe=QUICK.update(seed=1))


def keep(folder):
    """Files of a user's own, in the folder of a model."""
    (folder / "notes.md").write_text("dear to me")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("main")


def kept(folder):
    return [(folder / name).read_text() for name in ("notes.md", ".git/HEAD")] == ["dear to me", "main"]


class Crash(BaseException):
    """What no `except OSError` sees."""


STEPS = [
    *((os, name) for name in ("replace", "fsync", "mkdir", "chmod", "open")),
    *((Path, name) for name in ("rename", "rmdir", "write_text", "chmod", "open")),
    *((tempfile, "mkdtemp"), (shutil, "rmtree"), (safetensors.torch, "save_file"), (folders, "sync")),
]


def fail_at(monkeypatch, owner, name, at, error):
    """The call of that number raises; returns how often it was called."""
    real, calls = getattr(owner, name), []

    def call(*arguments, **options):
        calls.append(name)
        if len(calls) == at:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


def saved(fitted, folder):
    """Whether a model could be written; a refusal is one line."""
    try:
        save(fitted, folder, force=True)
    except (InputError, Crash) as refusal:
        if "\n" in str(refusal):
            raise AssertionError("more than one line") from refusal
        return False
    return True


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system"), Crash()]
)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0].__name__}.{step[1]}")
def test_whatever_fails_the_old_or_the_new_model_stands(step, error, old_and_new, tmp_path, monkeypatch):
    old, new = old_and_new
    folder, at, called = tmp_path / "model", 0, True
    save(old, folder)
    keep(folder)
    while called:
        at += 1
        with monkeypatch.context() as patch:
            calls = fail_at(patch, *step, at, error)
            failed = not saved(new, folder)
        called = len(calls) >= at
        stands = load(folder).recipe
        assert stands in (old.recipe, new.recipe)
        assert failed or stands == new.recipe
        assert kept(folder)
        save(old, folder, force=True)
    assert kept(folder)


KILLED = """
import os, signal, sys
import isthmus, isthmus.store.folders, pathlib, safetensors.torch, shutil
at, calls = int(sys.argv[1]), []
def counted(real):
    def call(*arguments, **options):
        calls.append(real)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
fitted = isthmus.load(sys.argv[2])
for owner, name in ((os, "fsync"), (os, "replace"), (pathlib.Path, "rename"), (pathlib.Path, "write_text"),
                    (pathlib.Path, "rmdir"), (shutil, "rmtree"), (safetensors.torch, "save_file")):
    setattr(owner, name, counted(getattr(owner, name)))
isthmus.save(fitted, sys.argv[3], force=True)
"""


def test_a_killed_process_leaves_the_old_or_the_new_model(old_and_new, tmp_path):
    old, new = old_and_new
    source, folder = save(new, tmp_path / "source"), save(old, tmp_path / "model")
    keep(folder)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    outcomes = []
    for at in (5, 13, 16, 18, 20, 22, 24, 25, 99):
        command = [sys.executable, "-c", KILLED, str(at), str(source), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        halfway = (folder / ".isthmus-replacing" / "SHA256SUMS").exists()
        outcomes.append((done.returncode, halfway, load(folder).recipe == new.recipe))
        assert load(folder).recipe in (old.recipe, new.recipe)
        assert kept(folder)
        assert not (folder / ".isthmus-replacing").exists()
        save(old, folder, force=True)
    assert (-signal.SIGKILL, False, False) in outcomes
    assert (-signal.SIGKILL, True, True) in outcomes  # killed between the renames of two files
    assert (-signal.SIGKILL, False, True) in outcomes
    assert (0, False, True) in outcomes


def test_a_file_larger_than_allowed_is_told(old_and_new, tmp_path):
    """As a full disk, but inside the library that writes the tensors."""
    old, new = old_and_new
    source, folder = save(new, tmp_path / "source"), save(old, tmp_path / "model")
    code = (
        "import isthmus, resource, sys; fitted = isthmus.load(sys.argv[1]); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); isthmus.save(fitted, sys.argv[2], force=True)"
    )
    command = [sys.executable, "-c", code, str(source), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "InputError: expected to write a model" in last
    assert "too large" in last
    assert load(folder).recipe == old.recipe
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "source"]


def test_a_link_to_a_folder_stays_one(old_and_new, tmp_path):
    old, new = old_and_new
    save(old, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save(new, tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink()
    assert load(tmp_path / "real").recipe == new.recipe
