"""Model folders: the same scores bit for bit, nothing executable, and damage told in one line."""

import dataclasses
import json
import struct

import pytest
import torch
from torch import nn

from isthmus import FreeFormFlow, InputError, Recipe, fit, load, save
from isthmus.data.tables import Schema

ROWS = torch.randn(60, 3, dtype=torch.float64) @ torch.randn(3, 4, dtype=torch.float64)
QUICK = Recipe.parse("{flow: {latent_dim: 2, network: {width: 16}}, training: {max_steps: 20}}")


@pytest.fixture(scope="module")
def fitted():
    return fit(ROWS, recipe=QUICK)


def assert_equal(one, other, c=None):
    for density in ("linearised", "ambient", "manifold"):
        assert torch.equal(one.model.log_prob(ROWS, c, density=density), other.model.log_prob(ROWS, c, density=density))
    assert (one.recipe, one.latent, one.noise, one.schema) == (other.recipe, other.latent, other.noise, other.schema)
    assert one.metrics == other.metrics
    assert list(one.log) == list(other.log)


def test_a_loaded_model_scores_bit_for_bit_the_same(fitted, tmp_path):
    assert_equal(fitted, load(save(fitted, tmp_path / "model")))


@pytest.mark.parametrize(
    "text",
    [
        "{flow: {latent_dim: 2, kind: rectangular, width: 8, transforms: 2}, objective: {kind: rectangular}}",
        "{flow: {latent_dim: 2, latent: {kind: flow, width: 8}}, density: {latent: as trained}}",
        "{flow: {latent_dim: 4}, density: {noise: component}}",
        "{columns: {standardise: false}, training: {precision: 64-true}}",
    ],
)
def test_every_kind_of_model_round_trips(text, tmp_path):
    c = torch.randn(60, 1, dtype=torch.float64)
    fitted = fit(ROWS, c, recipe=Recipe.parse(text, ["training.max_steps=3"]))
    assert_equal(fitted, load(save(fitted, tmp_path / "model")), c)


def test_nothing_in_the_folder_is_a_pickle_and_the_schema_stays(fitted, tmp_path):
    import pandas as pd

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


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_one_line(damage, fitted, tmp_path, unchecked):
    folder = save(fitted, tmp_path / "model")
    DAMAGE[damage](folder)
    with pytest.raises(InputError) as refusal:
        load(folder)
    assert "\n" not in str(refusal.value)
    assert str(tmp_path) in str(refusal.value) or "expected" in str(refusal.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="absent"):
        load(tmp_path / "absent")
