"""Stricter than users: types and shapes are checked, every test starts from one random state and leaves none behind.

`ISTHMUS_NO_TYPECHECK=1` leaves the type checks out, for timing; a type-checked function does not compile.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

# scikit-learn's checks pass wrong types to the estimators on purpose.
ESTIMATORS = ("estimator", "inference")
SOURCE = Path(__file__).parents[1] / "src" / "isthmus"
CHECKED = [f"isthmus.{path.stem}" for path in SOURCE.iterdir() if path.stem[0] != "_" and path.stem not in ESTIMATORS]
CHECKED += [f"isthmus.inference.{name}" for name in ("law", "objective", "weights")]

if "ISTHMUS_NO_TYPECHECK" not in os.environ:
    jaxtyping.install_import_hook(CHECKED, "checking.typechecker")

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="try promises of docs/reliability.md in full; run soak tests")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--soak"):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="minutes long: `make soak` runs it"))


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def unchecked():
    """Switches off the type checks of the test run, so that shapes they forbid reach the checks that users have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def fresh_python():
    """Runs code as a user would, in a new interpreter without type checks; returns what it printed, read as JSON."""

    def run(code, *arguments):
        paths = [str(Path(__file__).parent), str(SOURCE.parent)]
        command = [sys.executable, "-W", "error::UserWarning", "-c", code, *arguments]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
