"""Standard output: UTF-8 tables, screens that any terminal shows, and one line where it cannot be written."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from isthmus import cli
from isthmus.data.tables import read_table

SOURCE = Path(cli.__file__).parents[2]
ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
NAMES = ["größe", "日本", "a\x1b[2Jb"]


def shell(command, **environment):
    """Run a command line of the shell in which `isthmus` is this package's."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"} | environment
    command = f'isthmus() {{ "{sys.executable}" -m isthmus.cli "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", command], capture_output=True, env=environment, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    frame = pd.DataFrame({name: [float((i * k) % 7) for i in range(40)] for k, name in enumerate(NAMES, 2)})
    frame["farbe"] = ["grün", "weiß"] * 20
    frame.to_csv(folder / "t.csv", index=False)
    options = ["--latent-dim", "1", "--set", "training.max_steps=5", "--no-report"]
    assert cli.main(["fit", str(folder / "t.csv"), "-o", str(folder / "m"), *options]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_are_utf_8_and_screens_are_escaped(folder, encoding):
    here, setting = {"cwd": folder}, ENCODINGS[encoding]
    done = shell(f"cd '{here['cwd']}' && isthmus sample m -n 3 && isthmus inspect m", **setting)
    assert done.returncode == 0, done.stderr
    table, _, screen = done.stdout.partition(b"model ")
    columns = pd.read_csv(io.BytesIO(table)).columns.tolist()
    assert columns == read_table(folder / "t.csv").columns.tolist()
    text = screen.decode({"C": "ascii"}.get(encoding, encoding))
    assert "\x1b" not in text
    assert r"a\x1b[2Jb" in text
    assert ("日本" if encoding == "utf-8" else r"\u65e5\u672c") in text


VERBS = {
    "fit": "isthmus fit t.csv -o new --latent-dim 1 --set training.max_steps=5 --no-report",
    "score": "isthmus score m t.csv",
    "encode": "isthmus encode m t.csv",
    "sample": "isthmus sample m -n 3",
    "evaluate": "isthmus evaluate m t.csv --json",
    "inspect": "isthmus inspect m",
    "list": "isthmus list flows",
    "version": "isthmus --version",
    "help": "isthmus score --help",
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "output", [">&-", pytest.param("> /dev/full", marks=pytest.mark.skipif("not Path('/dev/full').exists()"))]
)
def test_an_output_that_cannot_be_written_is_one_line(folder, verb, output):
    if "full" in output and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done = shell(f"cd '{folder}' && rm -rf new && {VERBS[verb]} {output}", PYTHONIOENCODING="ascii")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 74
    assert [line for line in lines if line.startswith("isthmus: error: ")] == lines[-1:]
    assert "expected to write to standard output; got" in lines[-1]
    assert "Traceback" not in done.stderr.decode()
    assert b"Exception ignored" not in done.stderr


@pytest.mark.slow
def test_closed_streams_that_are_not_needed_are_no_fault(folder):
    done = shell(f"cd '{folder}' && isthmus score m t.csv -o out.csv >&- 2>&- <&- && isthmus list flows 2>&-")
    assert done.returncode == 0
    assert len(read_table(folder / "out.csv")) == 40
    assert done.stdout.startswith(b"freeform")


def test_streams_of_the_caller_are_left_as_they_were():
    before = sys.stdout, sys.stderr
    assert cli.main(["list", "flows"]) == 0
    assert (sys.stdout, sys.stderr) == before
