"""Model folders: the same scores bit for bit, nothing executable, and damage told in one line."""

import dataclasses
import hashlib
import json
import os
import resource
import shutil
import struct
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from isthmus import FreeFormFlow, InputError, Recipe, fit, load, save, scoring
from isthmus.data.tables import Schema
from isthmus.store import FORMAT, MIGRATIONS
from isthmus.store.folders import sign
from isthmus.store.formats import SIGNED
from isthmus.store.tensors import Budget

ROWS = torch.randn(60, 3, dtype=torch.float64) @ torch.randn(3, 4, dtype=torch.float64)
QUICK = Recipe.parse("{flow: {latent_dim: 2, network: {width: 16}}, training: {max_steps: 20}}")


@pytest.fixture(scope="module")
def fitted():
    return fit(ROWS, recipe=QUICK)


def assert_equal(one, other, c=None):
    for density in ("linearised", "ambient", "manifold"):
        assert torch.equal(one.model.log_prob(ROWS, c, density=density), other.model.log_prob(ROWS, c, density=density))
    assert (one.recipe, one.latent, one.noise, one.schema) == (other.recipe, other.latent, other.noise, other.schema)
    assert one.figures == other.figures
    assert list(one.log) == list(other.log)


def test_a_loaded_model_scores_bit_for_bit_the_same(fitted, tmp_path):
    assert_equal(fitted, load(save(fitted, tmp_path / "model")))


@pytest.mark.parametrize(
    "text",
    [
        "{flow: {latent_dim: 2, kind: rectangular, width: 8, transforms: 2}, objective: {kind: rectangular}}",
        "{flow: {latent_dim: 2, latent: {kind: flow, width: 8}}, refit: {latent: as trained}}",
        "{flow: {latent_dim: 4}, refit: {noise: component}}",
        "{columns: {standardise: false}, training: {precision: 64-true}}",
    ],
)
def test_every_kind_of_model_round_trips(text, tmp_path):
    c = torch.randn(60, 1, dtype=torch.float64)
    fitted = fit(ROWS, c, recipe=Recipe.parse(text, ["training.max_steps=3"]))
    assert_equal(fitted, load(save(fitted, tmp_path / "model")), c)


def test_a_model_with_a_mixture_for_each_class_round_trips(tmp_path):
    c = (torch.arange(60) % 2).double().unsqueeze(1)
    recipe = QUICK.update(refit={"latent": "mixture", "noise": "isotropic"})
    fitted = fit(ROWS + 9 * c, c, recipe=recipe)
    assert fitted.latent.kind == "mixtures"
    assert_equal(fitted, load(save(fitted, tmp_path / "model")), c)


def test_nothing_in_the_folder_is_a_pickle_and_the_schema_stays(fitted, tmp_path):
    schema, _ = Schema.learn(pd.DataFrame(ROWS.numpy(), columns=list("abcd")))
    folder = save(dataclasses.replace(fitted, schema=schema), tmp_path / "model")
    assert {path.suffix for path in folder.iterdir()} == {"", ".json", ".safetensors", ".yaml", ".csv"}
    assert load(folder).schema == schema
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_existing_folder_is_replaced_only_by_force(fitted, tmp_path):
    folder = save(fitted, tmp_path / "model")
    with pytest.raises(InputError, match="exists"):
        save(fitted, folder)
    save(fitted, folder, force=True)
    with pytest.raises(InputError):
        save(fitted, tmp_path / "absent" / "model")


def test_modules_of_ones_own_are_asked_for(tmp_path):
    def build():
        pair = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2)), nn.Linear(2, 4)
        return FreeFormFlow(*pair, data_dim=4, latent_dim=2)

    fitted = fit(ROWS, flow=build(), recipe=QUICK)
    folder = save(fitted, tmp_path / "model")
    with pytest.raises(InputError, match="modules"):
        load(folder)
    assert_equal(fitted, load(folder, flow=build()))


def rewrite(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def header_of(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_header(path, change):
    header, body = header_of(path)
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def flatten_first(header):
    name = next(key for key, value in header.items() if key != "__metadata__" and len(value["shape"]) == 2)
    header[name]["shape"] = [header[name]["shape"][0] * header[name]["shape"][1]]


DAMAGE = {
    "no tensors": lambda f: (f / "model.safetensors").unlink(),
    "no config": lambda f: (f / "config.json").unlink(),
    "no metrics": lambda f: (f / "metrics.json").unlink(),
    "empty tensors": lambda f: (f / "model.safetensors").write_bytes(b""),
    "cut tensors": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
    "huge header": lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"),
    "wrong shape": lambda f: with_header(f / "model.safetensors", flatten_first),
    "renamed tensor": lambda f: with_header(f / "model.safetensors", lambda h: h.update(x=h.pop(next(iter(h))))),
    "garbage config": lambda f: (f / "config.json").write_bytes(b"\x00\xff{"),
    "config is a list": lambda f: (f / "config.json").write_text("[]"),
    "unknown version": lambda f: rewrite(f / "config.json", lambda r: r.update(format=99)),
    "unknown key": lambda f: rewrite(f / "config.json", lambda r: r.update(surprise=1)),
    "another dimension": lambda f: rewrite(f / "config.json", lambda r: r.update(latent_dim=3)),
    "d > D": lambda f: rewrite(f / "config.json", lambda r: r.update(latent_dim=9)),
    "unknown latent": lambda f: rewrite(f / "config.json", lambda r: r.update(latent={"kind": "os.system"})),
    "unknown noise": lambda f: rewrite(f / "config.json", lambda r: r.update(noise={"kind": "eval"})),
    "garbage log": lambda f: (f / "log.csv").write_text("step\nx\n"),
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_one_line(damage, signed, fitted, tmp_path, unchecked):
    folder = save(fitted, tmp_path / "model")
    DAMAGE[damage](folder)
    if signed:
        sign(folder, [name for name in SIGNED if (folder / name).exists()])
    with pytest.raises(InputError) as refusal:
        load(folder)
    assert "\n" not in str(refusal.value)
    assert str(tmp_path) in str(refusal.value) or "expected" in str(refusal.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="absent"):
        load(tmp_path / "absent")


MODELS = Path(__file__).parent / "models"


@pytest.mark.parametrize("folder", sorted(path for path in MODELS.iterdir() if path.is_dir()), ids=lambda f: f.name)
def test_every_format_there_has_been_scores_as_it_did(folder):
    record = json.loads(folder.with_suffix(".json").read_text())
    fitted = load(folder)
    for density, wanted in record["scores"].items():
        found = scoring.score(fitted, pd.DataFrame(record["rows"]), density=density)
        assert list(found) == list(wanted)
        for name in ("log_density", "reconstruction_error"):
            assert found[name].to_numpy() == pytest.approx(wanted[name], rel=1e-6)


def test_there_is_a_folder_of_every_format_and_a_way_from_each_to_the_next():
    assert {f"format{version}" for version in (*MIGRATIONS, FORMAT)} == {
        path.name.partition("_")[0] for path in MODELS.iterdir() if path.is_dir()
    }
    assert list(MIGRATIONS) == list(range(2, FORMAT))


def test_a_format_to_come_is_told(fitted, tmp_path):
    folder = save(fitted, tmp_path / "model")
    rewrite(folder / "config.json", lambda record: record.update(format=FORMAT + 1))
    with pytest.raises(InputError, match="newer isthmus"):
        load(folder)


def test_the_checksums_are_those_of_coreutils(fitted, tmp_path):
    folder = save(fitted, tmp_path / "model")
    lines = [line.split("  ") for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert [name for _, name in lines] == ["config.json", "model.safetensors", "metrics.json"]
    for digest, name in lines:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def damaged(fitted, tmp_path, change, values=()):
    """A folder whose checksums are those of its damaged files."""
    folder = save(fitted, tmp_path / "model")
    rewrite(folder / "config.json", change)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    for name, value in values:
        tensors[name] = torch.full_like(tensors[name], value)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    sign(folder, list(SIGNED))
    return folder


UNSOUND = {
    "NaN weight": ("density.flow.encoder.layers.0.linear.bias", torch.nan),
    "infinite weight": ("density.flow.encoder.layers.0.linear.bias", torch.inf),
    "scale of 0": ("columns.scale", 0.0),
    "infinite scale": ("columns.scale", torch.inf),
    "negative width": ("columns.width", -1.0),
    "no finite mean": ("columns.mean", torch.inf),
    "columns that are not there": ("columns.kept", False),
}


@pytest.mark.parametrize("what", UNSOUND)
def test_numbers_that_no_model_has_are_refused(what, fitted, tmp_path):
    with pytest.raises(InputError, match="damaged"):
        load(damaged(fitted, tmp_path, lambda record: None, [UNSOUND[what]]))


@pytest.mark.parametrize(
    ("latent", "scale"),
    [
        ("as trained", "_1"),
        ("flow", "base.scale"),
        ("flow", "transform.transforms.0.scale"),
        ("gaussian", "scale_tril"),
    ],
)
def test_a_latent_density_without_extent_is_refused(latent, scale, tmp_path):
    recipe = Recipe().update(
        flow={"latent_dim": 1}, training={"max_steps": 2}, refit={"latent": latent, "flow_steps": 2}
    )
    folder = damaged(fit(ROWS, recipe=recipe), tmp_path, lambda record: None, [(f"density.flow.latent.{scale}", 0.0)])
    with pytest.raises(InputError, match="damaged"):
        load(folder)


HUGE = {
    "width": lambda r: r["recipe"]["flow"]["network"].update(width=10**6),
    "depth": lambda r: r["recipe"]["flow"]["network"].update(depth=10**12),
    "many layers": lambda r: r["recipe"]["flow"]["network"].update(width=1, depth=999),
    "columns": lambda r: r.update(data_dim=10**6, n_columns=10**6),
    "latent": lambda r: r.update(latent={"kind": "mixture", "components": 10**7}),
    "latent flow": lambda r: r.update(latent={"kind": "flow", "transforms": 1000, "width": 1000}),
    "noise": lambda r: r.update(noise={"kind": "component", "components": 10**9}),
    "rectangular": lambda r: r["recipe"].update(flow={"kind": "rectangular", "transforms": 999, "width": 999}),
    "bijective": lambda r: r["recipe"].update(flow={"kind": "bijective", "transforms": 10**9, "width": 10**9}),
}


@pytest.mark.parametrize("what", HUGE)
def test_a_recipe_larger_than_its_tensors_is_refused_before_it_is_built(what, fitted, tmp_path):
    folder = damaged(fitted, tmp_path, HUGE[what])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def test_a_budget_is_spent_by_what_is_made_and_by_nothing_else():
    with Budget({}) as budget:
        x = torch.ones(1000)
        left = budget.numbers
        x.unsqueeze(0).add_(1.0)
        assert budget.numbers == left
        with pytest.raises(InputError):
            x.repeat(10_000)
        with pytest.raises(InputError):
            torch.eye(100_000)
        with pytest.raises(InputError):
            any(x.add_(1.0) is None for _ in range(10**9))


def test_loading_leaves_the_schema_of_a_damaged_type(fitted, tmp_path):
    schema, _ = Schema.learn(pd.DataFrame(ROWS.numpy(), columns=list("abcd")))
    fitted = dataclasses.replace(fitted, schema=schema)
    for dtype in ("", "S999999999", "no type", "datetime64[ns]"):
        folder = damaged(fitted, tmp_path, lambda r, dtype=dtype: r["schema"]["columns"][0].update(dtype=dtype))
        with pytest.raises(InputError, match="no table has a column"):
            load(folder)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "metrics.json", "log.csv"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: p.symlink_to(p), lambda p: p.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_waited_for(name, make, fitted, tmp_path):
    folder = save(fitted, tmp_path / "model")
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(InputError):
        load(folder)


def test_a_log_of_any_length_is_not_read(fitted, tmp_path):
    folder = save(fitted, tmp_path / "model")
    with (folder / "log.csv").open("r+b") as file:
        file.truncate(10**12)  # a hole
    with pytest.raises(InputError, match="at most"):
        load(folder)


def test_a_mask_that_the_recipe_does_not_build_is_refused(tmp_path):
    recipe = Recipe.parse(
        "{flow: {kind: rectangular, latent_dim: 2, transforms: 2, width: 4}, training: {max_steps: 1}}"
    )
    folder = damaged(fit(ROWS, recipe=recipe), tmp_path, lambda record: None)
    name = next(name for name in header_of(folder / "model.safetensors")[0] if name.endswith("mask"))
    (tmp_path / "again").mkdir()
    with pytest.raises(InputError, match="what the recipe builds"):
        load(damaged(fit(ROWS, recipe=recipe), tmp_path / "again", lambda record: None, [(name, True)]))


def test_a_long_name_in_a_header_is_told_in_short(fitted, tmp_path):
    folder = save(fitted, tmp_path / "model")
    with_header(folder / "model.safetensors", lambda header: next(iter(header.values())).update(dtype="x" * 100_000))
    sign(folder, list(SIGNED))
    with pytest.raises(InputError) as refusal:
        load(folder)
    assert len(str(refusal.value)) < 1_000
