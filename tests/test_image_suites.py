"""Measures of models of images: features and their files, samples, bits, and telling images of another set."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from benchmarks import images
from benchmarks.features import PrincipalComponents
from benchmarks.fits import dataset
from benchmarks.images import Judge, auroc, extractor
from benchmarks.measures import MEASURES
from benchmarks.suites import Suite, matches
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from isthmus.data import DATASETS, Dataset
from isthmus.data.tables.pictures import read_image
from isthmus.errors import InputError

COMPONENTS = {
    "flow": {"latent_dim": 5, "network": {"kind": "linear"}},
    "objective": {"kind": "reconstruction"},
    "training": {"max_steps": 0},
    "refit": {"latent": "gaussian", "noise": "isotropic"},
    "columns": {"image": [1, 8, 8], "standardise": False, "heavy_tails": False, "dequantise": False},
}
SPEC = {
    "data": {"name": "tiny_digits", "labels": True},
    "features": {"kind": "recogniser", "steps": 200, "width": 8, "dim": 16, "shift": 0},
    "recipe": COMPONENTS,
    "refits": {"gaussian": {}, "flow": {"latent": "flow", "noise": "isotropic", "flow_steps": 50}},
    "scored": 20,
}
NETWORK = {"kind": "convolutional", "channels": 4, "blocks": 1, "width": 8}


def tiny_digits(*, labels=False, noise=False, seed=0):
    """scikit-learn's digits with pixels (x + u) / 17; or noise."""
    digits, random = load_digits(), np.random.default_rng(seed)
    order = random.permutation(1797)
    x = (digits.data[order] + random.random((1797, 64))) / 17
    x = torch.tensor(random.random((1797, 64)) if noise else x).float()
    c = torch.eye(10)[torch.tensor(digits.target[order])] if labels else torch.zeros(1797, 0)
    contexts = {"train_context": c[:1400], "validation_context": c[1400:1500], "test_context": c[1500:]}
    image = (1, 8, 8)
    return Dataset("tiny_digits", x[:1400], x[1400:1500], x[1500:], image=image, **(contexts if labels else {}))


@pytest.fixture(autouse=True)
def _tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(DATASETS, "tiny_digits", tiny_digits)
    monkeypatch.setattr(images, "RECOGNISERS", tmp_path / "recognisers")
    monkeypatch.setattr(images, "GRIDS", tmp_path / "grids")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "tiny_digits", tiny_digits)
        for name in ("RECOGNISERS", "GRIDS"):
            patch.setattr(images, name, tmp_path_factory.mktemp(name.lower()))
        return list(MEASURES["images"](SPEC, 0))


def test_principal_components_of_digits_are_measured(rows):
    shared, gaussian, flow = rows
    assert [row.extra for row in rows] == [{}, {"sampler": "gaussian"}, {"sampler": "flow"}]
    assert json.loads(json.dumps([row.values for row in rows])) == [row.values for row in rows]
    data = tiny_digits()
    components = PrincipalComponents.of(torch.cat([data.train, data.validation]), (1, 8, 8), 5)
    residual = data.test - components.mean - components.features(data.test) @ components.axes
    assert shared.values["reconstruction"] == pytest.approx(float(residual.square().sum(1).mean()), rel=0.02)
    assert shared.values["reconstruction_per_pixel"] == pytest.approx(shared.values["reconstruction"] / 64)
    assert shared.values["recognised"] > 0.9
    assert shared.values["feature_fid_floor"] < shared.values["feature_fid_reconstructed"]
    assert shared.values["feature_fid_reconstructed"] < gaussian.values["feature_fid"]
    assert 0 < shared.values["fid_like_reconstructed"] <= shared.values["reconstruction"]
    for name in ("precision", "recall"):
        assert 0 < gaussian.values[name] < 1
    assert 1 < gaussian.values["inception_score"] < 10
    assert flow.values["latent"] == "flow True"
    assert gaussian.values["latent"] == "mixture 1"


def test_the_tables_of_the_suite_show_what_is_measured(rows):
    for described in Suite.read("images_mnist").record["tables"]:
        shown = described.get("values") or [described["value"]]
        assert set(shown) <= {name for row in rows for name in row.values}, described["title"]


def test_a_suite_extends_another():
    digits, clothing = Suite.read("images_mnist"), Suite.read("images_fashion")
    assert clothing.record["axes"] == digits.record["axes"]
    assert clothing.record["title"] != digits.record["title"]
    of_digits = {(run.cell["method"], run.seed): run for run in digits.runs()}
    of_clothing = list(clothing.runs())
    assert {run.cell["method"] for run in of_clothing} >= {"default", "autoencoder", "fif"}
    for other in of_clothing:
        run = of_digits[other.cell["method"], other.seed]
        assert other.spec["recipe"].pop("training") | {"validations": 20} == run.spec["recipe"].pop("training")
        assert other.spec["recipe"] == run.spec["recipe"]
        assert (run.spec["data"]["name"], other.spec["data"]["name"]) == ("mnist", "fashion_mnist")
    pairs = {run.cell["pair"] for run in Suite.read("images_anomaly").runs()}
    assert len(pairs) == 2


def test_methods_of_a_suite_differ_in_nothing_but_what_makes_them():
    runs = {run.cell["method"]: run.spec for run in Suite.read("images_mnist").runs([0])}
    ours = [runs.pop("default"), runs.pop("default_all_probed")]
    assert runs["fif"]["recipe"]["training"].pop("learning_rate") == 1e-3  # the publication's
    rate, free = {"learning_rate": 2e-3}, {"noise": 0.01, "compile": True}
    for spec in runs.values():
        assert rate | spec["recipe"]["training"] | free == rate | runs["fif"]["recipe"]["training"]
        assert spec["recipe"]["columns"] == runs["fif"]["recipe"]["columns"]
        assert spec["refits"].keys() == {"normal", "gaussian", "mixture", "flow"}
    assert all(spec["refits"].keys() == {"own", "normal", "mixture"} for spec in ours)
    for spec in (*ours, *runs.values()):
        assert spec["recipe"]["flow"]["network"] == runs["fif"]["recipe"]["flow"]["network"]
        assert (spec["recipe"]["training"]["batch_size"], spec["budget"]) == (128, 200)
        assert spec["price"] > 0.05
        assert spec["features"] == runs["fif"]["features"]


def test_a_recogniser_is_trained_once_a_set_and_anew_for_another_recipe(monkeypatch):
    trained = []
    train = images.train_recogniser

    def counting(*arguments):
        trained.append(arguments[-1])
        return train(*arguments)

    monkeypatch.setattr(images, "train_recogniser", counting)
    spec = {**SPEC, "features": {"kind": "recogniser", "steps": 2, "width": 4, "dim": 8}}
    data = dataset(spec["data"])
    first = extractor(spec, data)
    assert extractor({**spec, "data": {**spec["data"], "test_rows": 20}}, data).checksum == first.checksum
    assert len(trained) == 1
    other = extractor({**spec, "features": {**spec["features"], "seed": 1}}, data)
    assert other.checksum != first.checksum
    extractor({**spec, "data": {**spec["data"], "train_rows": 100}}, data)
    assert len(trained) == 3
    assert len(list(images.RECOGNISERS.iterdir())) == 3


def test_sets_without_labels_have_principal_components():
    spec = {"data": {"name": "tiny_digits"}, "features": {"kind": "principal", "dim": 7}}
    data = dataset(spec["data"])
    found = extractor(spec, data)
    assert isinstance(found, PrincipalComponents)
    judged = Judge.of(found, data.test).judged(data.train[:297])
    assert judged.keys() == {"not_finite", "feature_fid", "precision", "recall"}
    with pytest.raises(InputError, match="expected labels for a recogniser; got none of tiny_digits"):
        extractor({**spec, "features": {"kind": "recogniser"}}, data)
    with pytest.raises(InputError, match="expected a set of images; got sine"):
        extractor(spec, DATASETS["sine"](n_train=50, n_validation=5, n_test=5))


def test_inception_is_asked_for_where_a_suite_wants_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    spec = {"data": {"name": "tiny_digits"}, "features": {"kind": "inception"}}
    with pytest.raises(InputError, match="expected torch-fidelity, for features of Inception"):
        extractor(spec, dataset(spec["data"]))


def test_the_test_images_themselves_are_perfect_and_what_is_no_number_is_counted():
    data = tiny_digits(labels=True)
    judge = Judge.of(PrincipalComponents.of(data.train, data.image, 7), data.test)
    perfect = judge.judged(data.test)
    assert perfect["feature_fid"] == pytest.approx(0, abs=1e-6)
    assert (perfect["precision"], perfect["recall"], perfect["not_finite"]) == (1, 1, 0)
    broken = torch.cat([data.test, torch.full((3, 64), torch.nan)])
    assert judge.judged(broken) == {**perfect, "not_finite": 3}
    assert judge.distance(data.test + 0.1) > 0.01
    assert judge.judged(data.test * 5)["feature_fid"] == judge.judged((data.test * 5).clamp(0, 1))["feature_fid"]


def test_bits_of_noise_by_a_gaussian_in_closed_form():
    """Uniform pixels take 8 bits; a Gaussian of their variance log2 sqrt(2 pi e / 12) more."""
    recipe = {
        **COMPONENTS,
        "flow": {"kind": "bijective", "latent_dim": "auto", "transforms": 0},
        "objective": {"kind": "likelihood"},
        "refit": {"latent": "gaussian"},
    }
    spec = {"data": {"name": "tiny_digits", "noise": True}, "features": {"kind": "principal", "dim": 4}}
    shared, row = MEASURES["images"]({**spec, "recipe": recipe, "scored": 297}, 0)
    expected = 8 + math.log2(math.sqrt(2 * math.pi * math.e / 12))
    assert row.values["bits"] == pytest.approx(expected, abs=0.05)  # 1,260 rows for 2,080 covariances
    assert shared.values["reconstruction"] == pytest.approx(0, abs=1e-9)


def test_a_conditional_model_is_told_the_class_and_asked_for_it():
    recipe = {**COMPONENTS, "flow": {"latent_dim": 4, "network": {**NETWORK, "conditioning": "film"}}}
    recipe |= {"objective": {"kind": "freeform", "beta": 10}}
    recipe["training"] = {"max_steps": 150, "validations": 1, "compile": False, "keep": "last", "noise": 0.01}
    spec = {**SPEC, "recipe": recipe, "refits": {"gaussian": {"latent": "gaussian"}}, "conditional": True}
    spec |= {"data": {**SPEC["data"], "test_rows": 200}, "scored": 8, "grid": "tried"}
    shared, row = MEASURES["images"](spec, 0)
    lines = read_image(images.GRIDS / "tried-tiny_digits-gaussian-0.png")
    assert lines.shape[:2] == (10 * (56 + 2) + 2, 10 * (56 + 2) + 2)  # a line a class, of images enlarged sevenfold
    assert row.values["named_as_asked"] > 0.2  # chance is 0.1
    assert math.isfinite(row.values["bits"])
    assert shared.values["recognised"] > 0.9


# -- images of another set ---------------------------------------------------------------------------------------------


def test_the_area_under_the_curve_is_that_of_scikit_learn():
    usual, unusual = torch.randint(8, (60,)).double(), torch.randint(4, 12, (40,)).double()
    expected = roc_auc_score([0] * 60 + [1] * 40, torch.cat([usual, unusual]))
    assert auroc(usual, unusual) == pytest.approx(expected)
    assert auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, torch.inf])) == 0.875
    assert auroc(torch.tensor([0.0]), torch.tensor([torch.nan])) == 0


def test_noise_is_told_from_digits_by_density_and_by_reconstruction():
    spec = {**SPEC, "against": {"name": "tiny_digits", "noise": True}, "scored": 100}
    rows = {row.extra["score"]: row.values for row in MEASURES["anomaly"](spec, 0)}
    assert rows.keys() == {"ambient", "linearised", "reconstruction"}
    for values in rows.values():
        assert values["auroc"] > 0.99
        assert values["unusual"] > values["usual"]
    assert rows["ambient"]["usual"] == pytest.approx(rows["linearised"]["usual"], rel=1e-3)  # a linear decoder


def test_a_rival_of_the_whole_space_gives_bits():
    spec = {**SPEC, "against": {"name": "tiny_digits", "noise": True}, "scored": 100, "rival": "maf", "budget": 4.0}
    (row,) = MEASURES["anomaly"](spec, 0)
    assert row.extra == {"score": "ambient"}
    assert 4 < row.values["usual"] < 8  # digits of 17 levels have fewer bits than noise
    assert row.values["auroc"] > 0.99
    assert row.values["steps"] > 5
    assert row.values["parameters"] > 10**6


def test_sets_of_other_shapes_are_no_rivals():
    with pytest.raises(InputError, match="expected images of equal shape"):
        list(MEASURES["anomaly"]({**SPEC, "against": {"name": "sine", "n_train": 50}}, 0))


def test_published_values_belong_to_rows_that_are_made():
    suite = Suite.read("pythae_celeba")
    for published in suite.record["published"]:
        where = dict(published["where"])
        sampler = where.pop("sampler")
        (run,) = (run for run in suite.runs() if matches(run.cell, where))
        assert sampler in run.spec["refits"]
