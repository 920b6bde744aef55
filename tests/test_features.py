"""Features of images: the recogniser, principal components, and Inception by a network of the same interface."""

import hashlib
import json
import sys
import time
import types

import pytest
import torch
from benchmarks.features import (
    Extractor,
    Inception,
    PrincipalComponents,
    Recogniser,
    RecogniserRecipe,
    _shifted,
    load_inception,
    train_recogniser,
)
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from isthmus.data import DATASETS
from isthmus.data.fetch import data_folder
from isthmus.errors import InputError
from isthmus.metrics import fid_like, inception_score, precision_recall

SMALL = RecogniserRecipe(steps=250, batch_size=64, width=16, dim=32, shift=0)
SHAPES = [(1, 8, 8), (1, 28, 20), (3, 5, 7), (2, 1, 9), (3, 64, 64)]


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.data / 16).float()[order], torch.tensor(data.target)[order]


@pytest.fixture(scope="module")
def recogniser(digits):
    x, labels = digits
    return train_recogniser(x[:1200], labels[:1200], (1, 8, 8), SMALL)


class Network(nn.Module):
    """The interface of torch-fidelity's extractor, and nothing learned: means of patches, and a linear map of them."""

    def __init__(
        self, name="inception", features_list=("2048", "logits_unbiased"), feature_extractor_weights_path=None
    ):
        super().__init__()
        assert tuple(features_list) == ("2048", "logits_unbiased")
        self.map = nn.Linear(12, 1008, bias=False)
        if feature_extractor_weights_path:
            self.load_state_dict(torch.load(feature_extractor_weights_path))

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        patches = nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)
        return patches, self.map(patches / 255)


# -- the recogniser ----------------------------------------------------------------------------------------------------


def test_digits_are_recognised_and_what_is_no_digit_is_seen(digits, recogniser):
    x, labels = digits
    assert recogniser.accuracy(x[1200:], labels[1200:]) > 0.95
    train, test = recogniser.features(x[:597]), recogniser.features(x[1200:])
    blurred = nn.functional.avg_pool2d(x[1200:].unflatten(1, (1, 8, 8)), 3, 1, 1).flatten(1)
    noise = torch.rand(597, 64)
    distances = [fid_like(features, test) for features in (train, *map(recogniser.features, (blurred, noise)))]
    assert distances[0] < 0.2 * distances[1] < 0.2 * distances[2]
    assert inception_score(recogniser.probabilities(x[1200:])) > 8
    assert inception_score(recogniser.probabilities(x[1200:][labels[1200:] == 3]), splits=1) < 1.5
    precision = [precision_recall(features, test).precision for features in (train, recogniser.features(noise))]
    assert precision[0] > 0.8 > 0.5 > precision[1]


def test_a_recogniser_is_the_same_again_and_leaves_the_random_state_alone(digits):
    x, labels = digits
    recipe = RecogniserRecipe(steps=3, batch_size=8, width=4, dim=8)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, again = (train_recogniser(x[:50], labels[:50], (1, 8, 8), recipe) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert first.checksum == again.checksum
    other = train_recogniser(x[:50], labels[:50], (1, 8, 8), RecogniserRecipe(**{**vars(recipe), "seed": 1}))
    assert other.checksum != first.checksum


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_of_any_shape(shape):
    recogniser = Recogniser(shape, 3, RecogniserRecipe(width=4, dim=6)).eval()
    x = torch.rand(4, shape[0] * shape[1] * shape[2])
    assert recogniser.features(x).shape == (4, 6)
    probabilities = recogniser.probabilities(x)
    assert probabilities.shape == (4, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))
    assert torch.equal(recogniser.classify(x), probabilities.argmax(1))


def test_features_of_a_row_do_not_depend_on_the_others_nor_on_its_type(digits, recogniser):
    x = digits[0][:700]  # more than are computed at once
    features = recogniser.features(x)
    torch.testing.assert_close(features[650:651], recogniser.features(x[650:651].double()), atol=1e-5, rtol=1e-4)
    assert not features.requires_grad


def test_a_file_gives_the_same_recogniser(recogniser, digits, tmp_path):
    recogniser.save(tmp_path / "r.safetensors")
    again = Recogniser.load(tmp_path / "r.safetensors")
    assert again.checksum == recogniser.checksum
    assert (again.shape, again.classes, again.recipe) == ((1, 8, 8), 10, SMALL)
    assert torch.equal(again.features(digits[0][:9]), recogniser.features(digits[0][:9]))
    assert [file.name for file in tmp_path.iterdir()] == ["r.safetensors"]
    with pytest.raises(InputError, match="could not write"):
        recogniser.save(tmp_path / "nowhere" / "r.safetensors")


def test_damaged_files_are_refused(recogniser, tmp_path):
    file = tmp_path / "r.safetensors"
    recogniser.save(file)
    whole, tensors = file.read_bytes(), recogniser.state_dict()
    record = {"shape": [1, 8, 8], "classes": 10, "recipe": vars(SMALL)}

    def refused():
        with pytest.raises(InputError, match=r"expected a recogniser in .*; got .*; train it again"):
            Recogniser.load(file)

    for content in (b"", whole[: len(whole) // 2], b"x" * 100):
        file.write_bytes(content)
        refused()
    for wrong in ({"classes": 11}, {"shape": [1, 8]}, {"recipe": {"width": 10**9}}, {"recipe": {"depth": 3}}):
        save_file(dict(tensors), file, {"recogniser": json.dumps(record | wrong)})
        refused()
    for damaged in ({}, {"head.bias": torch.full((10,), torch.nan)}, {"head.bias": torch.zeros(10).double()}):
        save_file({**tensors, **damaged} if damaged else {}, file, {"recogniser": json.dumps(record)})
        refused()
    save_file(dict(tensors), file)
    refused()
    file.unlink()
    refused()


def test_the_checksum_covers_every_weight(recogniser):
    class Constant(Extractor):
        """One number and one buffer."""

        def __init__(self, weight, buffer):
            super().__init__((1, 1, 1))
            self.weight = nn.Parameter(torch.tensor([weight]))
            self.register_buffer("buffer", torch.tensor([buffer]))

        def _features(self, x):
            return x

    sums = [Constant(*values).checksum for values in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0))]
    assert len(set(sums)) == 3
    assert sums[0] == sums[3]
    assert len(recogniser.checksum) == 64


def test_shifts_move_whole_pixels_and_repeat_edges():
    x = torch.arange(2 * 3 * 4).reshape(1, 2 * 3 * 4).float().repeat(200, 1)
    moved = _shifted(x, (2, 3, 4), 1).reshape(200, 2, 3, 4)
    image = x[0].reshape(2, 3, 4)
    possible = [
        torch.stack([channel[row][:, column] for channel in image])
        for row in ([0, 0, 1], [0, 1, 2], [1, 2, 2])
        for column in ([0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 3])
    ]
    counts = [int((moved == one).flatten(1).all(1).sum()) for one in possible]
    assert sum(counts) == 200
    assert min(counts) > 0
    assert torch.equal(_shifted(x, (2, 3, 4), 0), x)


@pytest.mark.soak
def test_mnist_is_recognised_after_a_minute_of_one_core():
    if not (data_folder() / "mnist").exists():
        pytest.skip("MNIST is not in the data folder")
    data = DATASETS["mnist"](labels=True)
    start = time.process_time()
    recogniser = train_recogniser(data.train, data.train_context.argmax(1), data.image)
    assert time.process_time() - start < 120
    assert recogniser.accuracy(data.test, data.test_context.argmax(1)) >= 0.985


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_rows_that_are_no_images_are_refused(digits, recogniser):
    x, labels = digits
    for rows in (x[:5, :63], x[:0], x[0]):
        with pytest.raises(InputError, match=r"as rows of 64 pixels; got shape"):
            recogniser.features(rows)
    for rows in (2 * x[:5], x[:5] - 0.1, torch.full((5, 64), torch.nan)):
        with pytest.raises(InputError, match=r"pixels in \[0, 1\]; got"):
            recogniser.probabilities(rows)
    for wrong in (labels[:4], labels[:5] - 20):
        with pytest.raises(InputError, match="expected a label >= 0 for each of 5 images"):
            train_recogniser(x[:5], wrong, (1, 8, 8), SMALL)
    with pytest.raises(InputError, match="expected at least 2 classes; got 1"):
        train_recogniser(x[:5], torch.zeros(5, dtype=torch.long), (1, 8, 8), SMALL)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"width": 0}, {"learning_rate": 0.0}, {"shift": -1}])
def test_recipes_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match="expected positive numbers"):
        RecogniserRecipe(**wrong)


# -- principal components ----------------------------------------------------------------------------------------------


def test_all_principal_components_keep_the_distance_and_fewer_lose_what_hardly_varies(digits):
    x, y = digits[0][:800], digits[0][800:1600] * 0.7
    full = PrincipalComponents.of(x, (1, 8, 8), 64)
    assert full.features(x).shape == (800, 64)
    assert fid_like(full.features(x), full.features(y)) == pytest.approx(fid_like(x, y), rel=1e-4)
    few = PrincipalComponents.of(x, (1, 8, 8), 5)
    torch.testing.assert_close(few.features(x), full.features(x)[:, :5], atol=1e-4, rtol=0)
    assert 0.1 * fid_like(x, y) < fid_like(few.features(x), few.features(y)) < fid_like(x, y)
    assert PrincipalComponents.of(x[:4], (1, 8, 8)).features(x).shape == (800, 3)
    assert few.checksum != full.checksum


def test_principal_components_need_images_and_a_number_that_fits(digits):
    with pytest.raises(InputError, match="at least 2 images"):
        PrincipalComponents.of(digits[0][:1], (1, 8, 8))
    with pytest.raises(InputError, match="expected 1 to 64 principal components; got 0"):
        PrincipalComponents((1, 8, 8), 0)


# -- Inception ---------------------------------------------------------------------------------------------------------


def test_inception_is_given_bytes_of_three_channels():
    seen = []

    class Seeing(Network):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    levels = torch.arange(256).repeat(2)[: 2 * 196].reshape(2, 196)
    for x in (levels / 255, (levels + torch.rand(2, 196)).clamp(max=levels + 0.999) / 256):
        extractor = Inception(Seeing(), (1, 14, 14))
        assert extractor.features(x).shape == (2, 12)
        assert torch.equal(seen.pop(), levels.to(torch.uint8).reshape(2, 1, 14, 14).expand(-1, 3, -1, -1))
    torch.testing.assert_close(extractor.probabilities(x).sum(1), torch.ones(2))
    colours = Inception(Seeing(), (3, 2, 2)).features(torch.arange(12).reshape(1, 12) / 255)
    assert colours.tolist() == [list(range(12))]
    with pytest.raises(InputError, match="got 2 channels"):
        Inception(Network(), (2, 4, 4))


def test_inception_comes_from_the_users_disk_or_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("ISTHMUS_DATA", str(tmp_path))
    name = "torch_fidelity.feature_extractor_inceptionv3"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"expected torch-fidelity.*; pip install torch-fidelity"):
        load_inception((1, 8, 8))
    module = types.ModuleType(name)
    module.FeatureExtractorInceptionV3 = Network
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(InputError, match=r"expected the weights of Inception in .*inception/weights-.*; put https://"):
        load_inception((1, 8, 8))
    file = tmp_path / "inception" / "weights-inception-2015-12-05-6726825d.pth"
    file.parent.mkdir()
    network = Network()
    torch.save(network.state_dict(), file)
    with pytest.raises(InputError, match=r"with a SHA-256 of 6726825d\.\.\.; got [0-9a-f]{64}"):
        load_inception((1, 8, 8))
    found = load_inception((1, 8, 8), sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    x = torch.rand(3, 64)
    assert found.checksum == Inception(network, (1, 8, 8)).checksum
    assert torch.equal(found.probabilities(x), Inception(network, (1, 8, 8)).probabilities(x))
