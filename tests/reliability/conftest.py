"""What every test of a promise has: how often to try, and where to write down how it went."""

import json
import os
import time
from pathlib import Path

import pytest

TALLIES = Path(__file__).parents[2] / "build" / "reliability"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.reliability)


@pytest.fixture
def times(request):
    """`times(few, many)`: how often to try something, few times in `make test`, many in `make soak`."""
    return lambda few, many: many if request.config.getoption("--soak") else few


@pytest.fixture
def tally(request):
    """`tally(part, promise, tried, kept, **figures)` writes a line of the table in docs/reliability.md.

    `part` is the heading under which the line stands, `promise` a sentence, `kept` how many of the `tried` kept it.
    """
    start = time.perf_counter()

    def write(part, promise, tried, kept, **figures):
        TALLIES.mkdir(parents=True, exist_ok=True)
        line = {"part": part, "promise": promise, "tried": tried, "kept": kept, "figures": figures}
        line["in full"] = request.config.getoption("--soak")
        with (TALLIES / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl").open("a") as file:
            file.write(json.dumps({**line, "seconds": time.perf_counter() - start}) + "\n")

    return write
