"""Files are written whole or not at all, never through a link, and nothing that a user keeps is written over."""

import json
import os
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isthmus import InputError, Recipe, fit, load, save
from isthmus.data.tables import write_table
from isthmus.data.tables.pictures import write_png
from isthmus.disk import appending, check_output_file, read_plain, replacing, write_durably
from isthmus.grids import GRIDS
from isthmus.store import holds
from isthmus.store.pages import GRID_NAMES, is_own

SOURCE = Path(__file__).parents[1] / "src" / "isthmus"
QUICK = Recipe.parse("{flow: {latent_dim: 1, network: {width: 4}}, training: {max_steps: 2}}")


def test_a_file_comes_to_its_name_whole_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "a"
    write_durably(path, b"old")
    path.chmod(0o600)
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half", None])
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["a"])
    write_durably(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)


def test_a_link_is_replaced_and_what_it_points_to_is_not_written(tmp_path):
    (tmp_path / "victim").write_bytes(b"dear to me")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    write_durably(tmp_path / "a", b"new")
    assert [(tmp_path / name).read_bytes() for name in ("a", "victim")] == [b"new", b"dear to me"]


def test_nothing_but_a_plain_file_is_added_to_or_read(tmp_path):
    (tmp_path / "victim").write_bytes(b"dear to me")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "pipe"):
        with pytest.raises(OSError, match=name), appending(tmp_path / name):
            pass
        with pytest.raises(OSError, match=name):
            read_plain(tmp_path / name, 10)
    with pytest.raises(OSError, match="more than 5"):
        read_plain(tmp_path / "victim", 5)
    assert (tmp_path / "victim").read_bytes() == b"dear to me"
    assert not (tmp_path / "nothing").exists()


def test_an_output_is_no_input_and_what_exists_needs_force(tmp_path):
    table, other = tmp_path / "table", tmp_path / "other"
    table.touch()
    other.touch()
    os.link(table, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(table)
    check_output_file(tmp_path / "new", [table])
    check_output_file(other, [table], force=True)
    for name in ("table", "hard", "soft"):
        for force in (False, True):
            with pytest.raises(InputError, match="apart from the input"):
                check_output_file(tmp_path / name, [other, table], force=force)
    with pytest.raises(InputError, match="--force"):
        check_output_file(other, [table])
    with pytest.raises(InputError, match="which is none"):
        check_output_file(tmp_path, force=True)


# What may write or rename a file by itself, and how often. A fit writes its scratch files in folders that it has made
# under random names, which only their owner may enter.
WAYS = re.compile(
    r"os\.(?:replace|rename|open|link)\(|\.rename\(|\.write_(?:text|bytes)\(|\bopen\([^)]*\"[wax]|save_file\(|torch\.save\("
)
ALLOWED = {
    "disk.py": 5,  # the one place
    "runs.py": 2,  # folders, to and from random names
    "store/folders.py": 4,  # folders likewise; files out of a folder of our own; checksums into it
    "store/__init__.py": 4,  # into a folder of our own
    "store/figures.py": 1,  # likewise
    "training/checkpoint.py": 1,  # into memory
    "training/trainee.py": 1,  # into a folder of our own
    "explorer/server.py": 1,  # into a folder of our own
    "pipes.py": 1,  # to read
    "cli/streams.py": 2,  # the null device
    "data/tables/columns.py": 1,  # of a series
    "data/tables/files.py": 2,  # of columns; into an archive
}


def test_there_is_one_place_that_writes_files():
    counts = {}
    for path in SOURCE.rglob("*.py"):
        code = "\n".join(line for line in path.read_text().splitlines() if not re.match(r"\s*(>>>|\.\.\.)", line))
        counts[str(path.relative_to(SOURCE))] = len(WAYS.findall(code))
    assert {name: count for name, count in counts.items() if count > ALLOWED.get(name, 0)} == {}


# ------------------------------------------------------------------------------------ models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of the same table."""
    rows = np.random.default_rng(0).normal(size=(30, 2))
    folder = tmp_path_factory.mktemp("models")
    return [load(save(fit(rows, recipe=QUICK.update(seed=seed)), folder / str(seed))) for seed in (0, 1)]


def test_a_folder_holds_its_model_and_no_other(models, tmp_path):
    save(models[0], tmp_path / "model")
    assert holds(tmp_path / "model", models[0])
    assert not holds(tmp_path / "model", models[1])
    assert not holds(tmp_path, models[0])


def test_pages_of_the_old_model_go_and_those_of_a_user_stay(models, tmp_path):
    folder = save(models[0], tmp_path / "model")
    (folder / "report.html").write_text("<html><footer>Written by isthmus 0.1.0. </footer></html>")
    write_png(np.zeros((2, 2), np.uint8), folder / "samples.png")
    (folder / "neighbours.png").write_bytes(b"a photo of the neighbours")
    assert [is_own(folder / name) for name in ("report.html", "samples.png", "neighbours.png")] == [True, True, False]
    save(models[1], folder, force=True)
    assert sorted(path.suffix for path in folder.iterdir()).count(".png") == 1
    assert not (folder / "report.html").exists()
    assert (folder / "neighbours.png").read_bytes() == b"a photo of the neighbours"
    assert set(GRID_NAMES) == set(GRIDS)


def test_an_edit_of_the_figures_is_noticed(models, tmp_path):
    folder = save(models[0], tmp_path / "model")
    text = (folder / "metrics.json").read_text()
    status = json.loads(text)["health"]["status"]
    (folder / "metrics.json").write_text(text.replace(f'"{status}"', '"ok"' if status != "ok" else '"warn"'))
    with pytest.raises(InputError, match="another checksum"):
        load(folder)
    (folder / "metrics.json").write_text(text)
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in lines if "metrics" not in line))
    with pytest.raises(InputError, match="another checksum"):
        load(folder)


def test_a_status_that_is_not_the_worst_verdict_is_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(Path(__file__).parent / "models" / "format4", folder)
    record = json.loads((folder / "metrics.json").read_text())
    record["health"]["verdicts"][0]["status"] = "fail"
    (folder / "metrics.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="the worst verdict is 'fail'"):
        load(folder)


def test_other_files_in_the_folder_of_a_model_are_not_read(models, tmp_path):
    folder = save(models[0], tmp_path / "model")
    os.mkfifo(folder / "pipe")
    (folder / "self").symlink_to(folder / "self")
    (folder / "huge").touch()
    os.truncate(folder / "huge", 10**12)
    assert load(folder).recipe == models[0].recipe


def test_the_python_functions_replace_as_pandas_does(tmp_path):
    for value in (1.0, 2.0):
        write_table(pd.DataFrame({"a": [value]}), tmp_path / "a.csv")
    assert pd.read_csv(tmp_path / "a.csv")["a"].tolist() == [2.0]
