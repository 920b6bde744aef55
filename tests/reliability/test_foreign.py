"""Files that are not ours: whatever a user keeps where isthmus writes is never lost, and no link is written through."""

import contextlib
import io
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isthmus import InputError, Recipe, cli, fit, load, runs, save
from isthmus.data.tables import Schema, write_table
from isthmus.store import FORMAT

QUICK = Recipe.parse("{flow: {latent_dim: 1, network: {width: 4}}, training: {max_steps: 2}}")
PART = "Files that are not ours"


def run(*arguments):
    """Runs the command line in this process: its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def content(folder):
    """Everything in a folder: what it is, and what is in it."""

    def of(path):
        if path.is_symlink():
            return "link", os.readlink(path)
        return ("file", path.read_bytes()) if path.is_file() else ("other", path.is_fifo())

    return {str(path.relative_to(folder)): of(path) for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table, two models of it, one of images and its images."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=40), "b": rng.normal(size=40)})
    frame.to_csv(folder / "table.csv", index=False)
    schema, _ = Schema.learn(frame)
    for seed in (0, 1):
        save(fit(schema.encode(frame)[0], recipe=QUICK.update(seed=seed)), folder / f"model{seed}")
    write_table(pd.DataFrame({"image": list(rng.integers(0, 256, (12, 8, 8), dtype=np.uint8))}), folder / "images.npz")
    options = ("--latent-dim", "1", "--no-report", "--set", "training.max_steps=1")
    assert run("fit", folder / "images.npz", "-o", folder / "pictures", *options)[0] == 0
    return folder


# ------------------------------------------------------------------------------------ folders that are no model


def text(name, words):
    return lambda folder: (folder / name).write_text(words)


NOW = b'"format": %d' % FORMAT


def change(name, new):
    return lambda folder: (folder / name).write_bytes(new((folder / name).read_bytes()))


def project(folder):
    """A repository with a configuration of its own."""
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("main")
    (folder / "config.json").write_text('{"port": 8080}')


NO_MODELS = {  # what makes a folder, from nothing or from a model (True)
    "a configuration of something else": (False, project),
    "an empty configuration": (False, text("config.json", "{}")),
    "no JSON": (False, text("config.json", "port: 8080")),
    "a list": (False, text("config.json", "[]")),
    "a format and no more": (False, text("config.json", '{"format": 5}')),
    "nothing": (False, lambda folder: None),
    "photos": (False, text("beach.jpg", "...")),
    "tensors alone": (True, lambda folder: (folder / "config.json").unlink()),
    "no tensors": (True, lambda folder: (folder / "model.safetensors").unlink()),
    "no checksums": (True, lambda folder: (folder / "SHA256SUMS").unlink()),
    "no figures": (True, lambda folder: (folder / "metrics.json").unlink()),
    "changed tensors": (True, change("model.safetensors", lambda data: data[:-1] + b"x")),
    "changed configuration": (True, change("config.json", lambda data: data + b" ")),
    "a format to come": (
        True,
        change("config.json", lambda data: data.replace(b'"format": %d' % FORMAT, b'"format": 99')),
    ),
    "a pipe": (False, lambda folder: os.mkfifo(folder / "config.json")),
    "a link to itself": (False, lambda folder: (folder / "config.json").symlink_to(folder / "config.json")),
    "a folder for a configuration": (False, lambda folder: (folder / "config.json").mkdir()),
}


def test_a_folder_that_is_no_model_is_never_written_to(made, tmp_path, tally):
    tried, kept = 0, 0
    for (name, (of_model, arrange)), linked, force in itertools.product(
        NO_MODELS.items(), (False, True), (False, True)
    ):
        home = tmp_path / str(tried)
        home.mkdir()
        folder = home / "target"
        shutil.copytree(made / "model0", folder) if of_model else folder.mkdir()
        arrange(folder)
        (home / "link").symlink_to(folder)
        before = content(home)
        output = home / ("link" if linked else "target")
        code, out, err = run("fit", made / "table.csv", "-o", output, *["--force"] * force)
        tried += 1
        held = (code, out, len(err.splitlines())) == (2, "", 1) and "--force" not in err and "no model" in err
        kept += held and content(home) == before
        assert kept == tried, (name, linked, force, err)
    tally(
        PART, "A folder that is no model is refused by `fit`, with `--force` and through links, unchanged", tried, kept
    )


KEEPSAKES = {
    "notes": text("notes.md", "dear to me"),
    "a repository": lambda folder: (folder / ".git").mkdir() or (folder / ".git" / "HEAD").write_text("main"),
    "photos": text("beach.jpg", "..."),
    "a photo of the neighbours": text("neighbours.png", "not ours"),
    "a report of ones own": text("report.html", "<html>my thesis</html>"),
    "a link": lambda folder: (folder / "thesis").symlink_to("/etc/hostname"),
    "a broken link": lambda folder: (folder / "gone").symlink_to("/no/such/file"),
    "a pipe": lambda folder: os.mkfifo(folder / "pipe"),
    "a folder in a folder": lambda folder: (folder / "a" / "b").mkdir(parents=True),
    "a model": lambda folder: shutil.copytree(folder, folder.parent / "copy") and None,
    "hidden files": text(".env", "SECRET=1"),
    "another table": text("table.csv", "a,b\n1,2\n"),
    "names like ours": text("config.json.bak", "{}"),
    "what a killed save left": lambda folder: (folder / ".isthmus-abc").mkdir(),
}
OURS = {"config.json", "model.safetensors", "metrics.json", "recipe.yaml", "log.csv", "SHA256SUMS"}


def test_what_a_user_keeps_in_the_folder_of_a_model_stays(made, tmp_path, tally):
    new, tried, kept = load(made / "model1"), 0, 0
    for (name, arrange), linked in itertools.product(KEEPSAKES.items(), (False, True)):
        home = tmp_path / str(tried)
        folder = home / "model"
        shutil.copytree(made / "model0", folder)
        arrange(folder)
        if linked:
            (home / "link").symlink_to(folder)
        before = content(home)
        save(new, home / ("link" if linked else "model"), force=True)
        after = content(home)
        differing = {path for path in {*before, *after} if before.get(path) != after.get(path)}
        tried += 1
        kept += load(folder).recipe == new.recipe and differing <= {f"model/{file}" for file in OURS}
        assert kept == tried, (name, linked, differing)
    tally(PART, "What else is in the folder of a model stays when the model is replaced", tried, kept)


# ------------------------------------------------------------------------------------ outputs


def verbs(home):
    """Of each verb that writes a file: its arguments, the option with the output, its inputs, and the file written."""
    table, codes, model = home / "table.csv", home / "codes.csv", home / "model0"
    tables = {"score": table, "encode": table, "decode": codes}
    for verb, read in tables.items():
        yield (verb, model, read), home / "out.csv", [read, model / "log.csv"]
    yield ("sample", model, "-n", "2"), home / "out.csv", [model / "log.csv"]
    yield ("report", model), home / "out.html", []
    yield ("grids", home / "pictures", home / "images.npz"), home / "pictures" / "samples.png", []


def arrangements(home):
    """Command lines, and whether each is refused."""
    for arguments, output, inputs in verbs(home):
        option = () if arguments[0] == "grids" else ("-o", output)
        yield f"{arguments[0]}: what exists", (*arguments, *option), output, None, True
        yield f"{arguments[0]}: what exists, by force", (*arguments, *option, "--force"), output, None, False
        for source, link, force in itertools.product(inputs, (None, os.link, os.symlink), (False, True)):
            where = source if link is None else output
            name = f"{arguments[0]}: {source.name} as output, by {link and link.__name__}, force {force}"
            yield name, (*arguments, "-o", where, *["--force"] * force), where, (link, source), True


def test_no_verb_writes_over_what_exists_or_over_its_input(made, tmp_path, times, tally):
    home = tmp_path / "home"
    shutil.copytree(made, home)
    assert run("encode", home / "model0", home / "table.csv", "-o", home / "codes.csv")[0] == 0
    every = list(arrangements(home))
    tried, kept = 0, 0
    for name, arguments, output, made_of, refused in every[:: times(3, 1)]:
        if made_of is None:
            output.write_text("dear to me")
        elif made_of[0]:
            made_of[0](made_of[1], output)
        before = content(home)
        code, _, err = run(*arguments)
        tried += 1
        held = (code, len(err.splitlines())) == (2, 1) if refused else code == 0
        held = held and (content(home) == before) == refused
        kept += held
        assert held, (name, code, err)
        if output.parent == home and output.name.startswith("out."):
            output.unlink(missing_ok=True)
    promise = "A verb writes over what exists with `--force` only, and never over an input, its links included"
    tally(PART, promise, tried, kept)


# ------------------------------------------------------------------------------------ folders of runs

WRITTEN = [
    *("run.json", "recipe.yaml", "table.csv", "decisions.json", "checkpoint.ckpt", "log.csv", "hparams.yaml"),
    *("lock", "events.out.tfevents.1", "curved", "straight", "latent_dim_2", "curved/log.csv"),
    "latent_dim_2/checkpoint.ckpt",
]
KINDS = {
    "link to a file": lambda path, home: path.symlink_to(home / "victim"),
    "broken link": lambda path, home: path.symlink_to(home / "nothing"),
    "link to a folder": lambda path, home: path.symlink_to(home / "victims"),
    "pipe": lambda path, _: os.mkfifo(path),
}


def prepared(home, made, name, kind):
    """The folder of a run in which something waits under a name that is written to."""
    home.mkdir()
    (home / "victim").write_text("dear to me")
    (home / "victims").mkdir()
    (home / "victims" / "log.csv").write_text("dear to me")
    command = {"arguments": [], "given": [], "force": True, "report": False}
    table = str(made / "table.csv")
    runs.begin(
        home / "model.run", runs.Command(**command, table=table, sha256=None), {"recipe.yaml": QUICK.dump().encode()}
    )
    path = home / "model.run" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    KINDS[kind](path, home)


def test_links_and_pipes_in_the_folder_of_a_run_are_refused(made, tmp_path, tally):
    tried, kept = 0, 0
    for name, kind in itertools.product(WRITTEN, KINDS):
        home = tmp_path / str(tried)
        prepared(home, made, name, kind)
        before = content(home)
        code, out, err = run("fit", "--resume", home / "model.run", "--force")
        held = (code, out, len(err.splitlines())) == (2, "", 1) and content(home) == before
        if name not in ("recipe.yaml", "table.csv"):  # which a function does not read
            (home / "model.run" / "run.json").unlink() if name != "run.json" else None
            before = content(home)
            with pytest.raises(InputError):
                fit(np.zeros((9, 2)), recipe=QUICK, run_dir=home / "model.run")
            held = held and content(home) == before
        tried, kept = tried + 1, kept + held
        assert held, (name, kind, err)
    promise = "A link or a pipe under a name in the folder of a run is refused, and nothing outside is written"
    tally(PART, promise, tried, kept)


def test_what_a_run_says_replaces_no_model(made, tmp_path):
    home = tmp_path / "home"
    prepared(home, made, "curved/log.csv", "pipe")
    shutil.rmtree(home / "model.run" / "curved")
    shutil.copytree(made / "model0", home / "model")
    path, before = home / "model.run" / "run.json", content(home / "model")
    record = json.loads(path.read_text())
    for forged in ({}, {"saving": True}):
        path.write_text(json.dumps({**record, **forged, "command": {**record["command"], "sha256": digest(made)}}))
        code, _, err = run("fit", "--resume", home / "model.run")
        assert (code, "which exists" in err) == (2, True), err
        assert content(home / "model") == before
    for wrong in (
        [],
        {"command": None},
        {"command": {}},
        {"comand": 1},
        {"command": record["command"], "saving": "yes"},
    ):
        path.write_text(json.dumps(wrong))
        code, out, err = run("fit", "--resume", home / "model.run", "--force")
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert content(home / "model") == before


def digest(made):
    import hashlib

    return hashlib.sha256((made / "table.csv").read_bytes()).hexdigest()


def test_names_of_old_scratch_files_are_not_followed(made, tmp_path):
    """Names under which files used to be written before they were renamed."""
    victim = tmp_path / "victim"
    victim.write_text("dear to me")
    shutil.copytree(made / "pictures", tmp_path / "pictures")
    for name in (".report.html.part", ".samples.png.part", "report.html.new", ".SHA256SUMS.part", ".pictures.replaced"):
        (tmp_path / "pictures" / name).symlink_to(victim)
    assert run("grids", tmp_path / "pictures", made / "images.npz")[0] == 0
    assert run("report", tmp_path / "pictures")[0] == 0
    assert run("report", tmp_path / "pictures")[0] == 0  # its own report
    assert victim.read_text() == "dear to me"


def test_files_of_a_users_own_in_the_folder_of_a_run_stay(tmp_path):
    (tmp_path / "log.csv").write_text("day,mood\n")
    with pytest.raises(InputError, match="choose another"):
        fit(np.random.default_rng(0).normal(size=(30, 2)), recipe=QUICK, run_dir=tmp_path)
    (tmp_path / "log.csv").rename(tmp_path / "diary.csv")
    fit(np.random.default_rng(0).normal(size=(30, 2)), recipe=QUICK, run_dir=tmp_path)
    assert (tmp_path / "diary.csv").read_text() == "day,mood\n"
    assert not Path(tmp_path, "curved").exists()
