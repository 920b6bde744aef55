"""Edits of `metrics.json`: a figure of another type is refused in one sentence, or every verb works with it."""

import contextlib
import copy
import io
import json
import math
import shutil
from pathlib import Path

import pandas as pd

from isthmus import InputError, cli, load

MODEL = Path(__file__).parents[1] / "models" / "format4"  # whose figures have no checksum, so that edits are read
WRONG = (None, True, "x", "", -1, 2.5, 10**30, math.inf, -math.inf, math.nan, [], [1], {}, {"a": 1}, [[]])


def places(value, path=()):
    """Where something stands in the figures; of a list its first entry."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


def edits(record):
    """Each figure replaced by what it is not, or left out."""
    for path in places(record):
        for wrong in (*WRONG, ...):
            edited = copy.deepcopy(record)
            owner = edited
            for key in path[:-1]:
                owner = owner[key]
            if wrong is ...:
                del owner[path[-1]]
            else:
                owner[path[-1]] = wrong
            yield path, wrong, edited


def said(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, err.getvalue()


def test_figures_of_another_type_are_refused_or_used(tmp_path, times, tally):
    folder, table = tmp_path / "model", tmp_path / "table.csv"
    shutil.copytree(MODEL, folder)
    pd.DataFrame(json.loads(MODEL.with_suffix(".json").read_text())["rows"]).to_csv(table, index=False)
    path, tried, kept, used = folder / "metrics.json", 0, 0, 0
    verbs = (("inspect", folder), ("score", folder, table), ("evaluate", folder, table), ("report", folder))
    every = list(edits(json.loads(path.read_text())))
    for place, wrong, record in every[:: times(40, 1)]:
        path.write_text(json.dumps(record))
        tried += 1
        try:
            load(folder)
        except InputError as error:
            kept += "\n" not in str(error) and "metrics.json" in str(error)
        else:
            verb = verbs[used % len(verbs)]
            code, err = said(*verb)
            used += 1
            held = code == 0 or (code, len(err.splitlines())) == (2, 1)
            kept += held
            assert held, (place, wrong, verb, err)
    assert kept == tried
    promise = "An edit of `metrics.json` is refused in one sentence or used by the verbs, each in turn"
    tally("Files", promise, tried, kept, used=used)
