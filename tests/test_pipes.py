"""A pipe in place of a file is read to its end by every verb; one that nothing is written to is refused at once."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isthmus import cli
from isthmus.data.tables import read_table, write_table
from isthmus.errors import InputError
from isthmus.recipe import Recipe

RECIPE = "{training: {max_steps: 2, validations: 1}, density: {latent: gaussian, noise: isotropic}}"
VERBS = ["score", "encode", "evaluate", "report", "explore", "grids", "decode"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipes")
    x = np.random.default_rng(0).normal(size=(60, 2))
    write_table(pd.DataFrame(x, columns=["a", "b"]), folder / "table.csv")
    write_table(pd.DataFrame({"z0": x[:, 0]}), folder / "codes.csv")
    (folder / "recipe.yaml").write_text(RECIPE)
    fit = ["fit", folder / "table.csv", "-o", folder / "model", "--recipe", folder / "recipe.yaml"]
    assert cli.main([str(word) for word in [*fit, "--latent-dim", "1", "--no-report"]]) == 0
    return folder


@pytest.fixture
def piped(tmp_path):
    """`piped(content, wait)` makes a pipe into which a thread writes, the second half after `wait` seconds."""
    threads = []

    def pipe(content, wait=0.0, name="pipe"):
        path = tmp_path / name
        os.mkfifo(path)

        def feed():
            with path.open("wb", buffering=0) as file:
                for half in (content[: len(content) // 2], content[len(content) // 2 :]):
                    threading.Event().wait(wait)
                    file.write(half)

        threads.append(threading.Thread(target=feed))
        threads[-1].start()
        threading.Event().wait(0.2)  # until it is there to write
        return path

    yield pipe
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("wait", [0.0, 0.5])
def test_a_pipe_is_read_as_a_file_is(model, piped, wait):
    assert read_table(piped((model / "table.csv").read_bytes(), wait)).equals(read_table(model / "table.csv"))
    assert Recipe.read(piped(RECIPE.encode(), wait, "recipe")) == Recipe.parse(RECIPE)


def test_more_than_a_pipe_holds_is_read_whole(piped):
    assert len(read_table(piped(b"a,b\n" + b"1,2\n" * 200_000))) == 200_000


def test_a_fit_and_a_score_of_what_the_shell_pipes(model, tmp_path):
    isthmus = f"{sys.executable} -m isthmus.cli"
    out = tmp_path / "piped"
    fit = f"fit <(cat {model}/table.csv) --recipe <(sleep 0.5; cat {model}/recipe.yaml) --latent-dim 1 --no-report"
    score = f"score {out} <(cat {model}/table.csv) -o {tmp_path}/scores.csv"
    done = subprocess.run(
        ["bash", "-c", f"{isthmus} {fit} -o {out} && {isthmus} {score}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(read_table(tmp_path / "scores.csv")) == 60
    assert (out / "model.safetensors").read_bytes() == (model / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["t", "t.csv", "t.parquet", "images-idx3-ubyte"])
@pytest.mark.parametrize("verb", ["fit", "fit --recipe", "fit two", *VERBS])
def test_a_pipe_that_nothing_is_written_to_is_refused_at_once(verb, name, model, tmp_path, capsys):
    pipe = tmp_path / name
    os.mkfifo(pipe)
    folder, out = model / "model", ["-o", tmp_path / "out"]
    arguments = {
        "fit": ["fit", pipe, *out],
        "fit two": ["fit", pipe, pipe, *out],
        "fit --recipe": ["fit", model / "table.csv", *out, "--recipe", pipe],
    }.get(verb, [verb, folder, pipe])
    assert cli.main([str(word) for word in arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert ("expected files that end in .parquet" if verb == "fit two" else "a pipe that a program writes to") in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_is_refused_at_once(device):
    for read in (read_table, Recipe.read):
        with pytest.raises(InputError, match="expected a file, or a pipe"):
            read(Path(device))


def test_pipes_in_folders_are_no_tables(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    os.mkfifo(tmp_path / "images" / "a" / "1.png")
    os.mkfifo(tmp_path / "t.parquet")
    for folder in (tmp_path, tmp_path / "images"):
        assert cli.main(["fit", str(folder), "-o", str(tmp_path / "model")]) == 2


def test_a_fit_does_not_go_on_with_a_pipe_in_place_of_its_table(model, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_bytes((model / "table.csv").read_bytes())
    fit = ["fit", str(table), "-o", str(tmp_path / "m"), "--max-unpacked", "1GiB"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isthmus.cli.fit._go_on", lambda *_, **__: None)
        assert cli.main(fit) == 0
    table.unlink()
    os.mkfifo(table)
    assert cli.main(["fit", "--resume", str(tmp_path / "m.run")]) == 2
    assert "got no such file" in capsys.readouterr().err
