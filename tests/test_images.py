"""Sets of images, their files, and what a density of grey levels is in bits."""

import gzip
import hashlib
import io
import math
import pickle
import sys
import types
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from isthmus.data import DATASETS
from isthmus.data.fetch import PUBLIC, data_folder
from isthmus.data.images import IMAGES, Pixels
from isthmus.data.tables.pictures import holds_images, png_grid, read_idx, read_image, read_images, write_png
from isthmus.errors import InputError

# file that there must be, splits, shape, classes
REAL = {
    "mnist": ("mnist/train-images-idx3-ubyte.gz", (50_000, 10_000, 10_000), (1, 28, 28), 10),
    "fashion_mnist": ("fashion_mnist/train-images-idx3-ubyte.gz", (50_000, 10_000, 10_000), (1, 28, 28), 10),
    "frey": ("faces/frey.npz", (1573, 196, 196), (1, 28, 20), 0),
    "olivetti": ("faces/olivetti.npz", (320, 40, 40), (1, 64, 64), 40),
}
RAW = {"dequantise": False}


# ------------------------------------------------------------------------------------------------ levels and bits


@pytest.mark.parametrize("logit", [None, 1e-6, 0.05])
@pytest.mark.parametrize("levels", [2, 256])
def test_levels_come_back_and_the_log_determinant_is_that_of_the_map(levels, logit):
    pixels = Pixels(levels, logit)
    x = torch.randint(levels, (50, 7))
    v = pixels.spread(x)
    assert torch.equal(pixels.restore(v), x.double())

    def of_real(y):
        """`spread` without its noise, for real numbers in [0, levels)."""
        return y / levels if logit is None else (logit + (1 - 2 * logit) * y / levels).logit()

    y = torch.rand(20, 7, dtype=torch.float64) * levels
    slope = torch.autograd.functional.jacobian(lambda y: of_real(y).sum(), y).log().sum(1)
    torch.testing.assert_close(pixels.log_det(of_real(y)), slope)


@pytest.mark.parametrize("logit", [None, 0.05])
def test_bits_per_dimension_of_the_law_itself_are_its_entropy(logit):
    """Of a density that is constant on the unit of each level, the bound is no bound but the value."""
    law = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    pixels, x = Pixels(4, logit), torch.cartesian_prod(*2 * [torch.arange(4)])
    v = pixels.spread(x)
    log_prob = law[x].log().sum(1) - pixels.log_det(v)  # of v: the mass of a unit of x, spread over it
    bits = pixels.bits_per_dimension(log_prob, v)
    expected = float(-(law * law.log2()).sum())
    assert float((law[x].prod(1) * bits).sum()) == pytest.approx(expected, rel=1e-12)


def test_a_uniform_density_takes_eight_bits_whatever_the_map():
    x = torch.randint(256, (30, 5))
    for pixels, log_prob in (
        (Pixels(), lambda v: torch.zeros(len(v)).double()),
        # u uniform in (a, 1 - a), v = logit(u): p(v) = s(v) s(-v) / (1 - 2a)
        (Pixels(logit=0.1), lambda v: (v.sigmoid() * (-v).sigmoid() / 0.8).log().sum(1)),
    ):
        v = pixels.spread(x)
        torch.testing.assert_close(pixels.bits_per_dimension(log_prob(v), v), torch.full((30,), 8.0).double())


@pytest.mark.parametrize("options", [{"levels": 1}, {"logit": 0.0}, {"logit": 0.5}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="expected levels >= 2"):
        Pixels(**options)


# ------------------------------------------------------------------------------------------------------ real sets


@pytest.mark.parametrize("name", REAL)
def test_real_sets(name):
    file, sizes, shape, classes = REAL[name]
    if not (data_folder() / file).exists():
        pytest.skip(f"{file} is not in the data folder")
    data = IMAGES[name](**RAW, labels=bool(classes))
    assert tuple(len(split) for split in (data.train, data.validation, data.test)) == sizes
    assert data.image == shape
    assert data.context_dim == classes
    assert 0 <= float(data.train.min()) < float(data.train.max()) <= 1
    if name == "mnist":
        every = torch.cat([data.train, data.validation])
        assert float(every.mean()) == pytest.approx(0.13066, abs=1e-5)
        assert float(every.std()) == pytest.approx(0.30811, abs=1e-5)
        assert data.test_context.sum(0).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    if name == "olivetti":
        first = np.load(data_folder() / file)["images"][0, 0, :4] / 255
        assert any(np.allclose(row[:4], first) for split in (data.train, data.validation, data.test) for row in split)


@pytest.mark.slow
def test_the_lossy_copy_of_cifar_has_every_class_in_every_split():
    if not (data_folder() / "cifar10_jpeg").exists():
        pytest.skip("CIFAR-10 is not in the data folder")
    data = IMAGES["cifar10_jpeg"](**RAW, labels=True)
    assert (len(data.train), len(data.validation), data.image) == (40_000, 10_000, (3, 32, 32))
    assert data.test_context.sum(0).tolist() == [1000] * 10
    assert int(data.validation_context.sum(0).min()) > 900
    every = torch.cat([data.train, data.validation]).reshape(-1, 3, 1024)
    assert (255 * every.mean((0, 2))).tolist() == pytest.approx([125.27, 122.93, 113.86], abs=0.01)


# ------------------------------------------------------------------------------------------------------ made-up sets


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def digits(tmp_path):
    """A folder like that of MNIST as torchvision unpacks it, with 60 + 10 images of 2 x 3."""
    raw, random = tmp_path / "MNIST" / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    x = random.integers(0, 256, (70, 2, 3))
    for part, images in (("train", x[:60]), ("t10k", x[60:])):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(len(images)) % 10))
    return tmp_path, x


def test_a_folder_of_torchvision_is_read_and_split_officially(digits):
    folder, x = digits
    data = IMAGES["mnist"](folder=folder, labels=True, **RAW)
    flat = torch.tensor(x.reshape(70, 6) / 255).float()
    assert torch.equal(torch.cat([data.train, data.validation, data.test]), flat)
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 10)
    assert torch.equal(data.test_context, torch.eye(10))


def test_dequantised_rows_lie_in_the_unit_of_their_level_and_follow_the_seed(digits):
    folder, x = digits
    data, again, other = (IMAGES["mnist"](folder=folder, seed=seed) for seed in (0, 0, 1))
    assert torch.equal((256 * data.train).floor(), torch.tensor(x[:50].reshape(50, 6)).float())
    assert torch.equal(data.train, again.train)
    assert not torch.equal(data.train, other.train)
    curved = IMAGES["mnist"](folder=folder, logit=0.05)
    assert torch.equal(Pixels(logit=0.05).restore(curved.train.double()), (256 * data.train).floor().double())
    with pytest.raises(InputError, match="expected dequantise beside logit"):
        IMAGES["mnist"](folder=folder, logit=0.05, **RAW)


def old_pickle(record):
    """As NumPy before 2 wrote it."""
    return pickle.dumps(record, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_batches_of_cifar_are_read_without_running_them(tmp_path):
    folder, random = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    x = random.integers(0, 256, (60, 3072), dtype=np.uint8)
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        record = {"data": x[10 * k : 10 * k + 10], "labels": list(range(10))}
        (folder / name).write_bytes(old_pickle(record))
    data = IMAGES["cifar10"](folder=tmp_path, labels=True, **RAW)
    assert torch.equal(torch.cat([data.train, data.validation, data.test]), torch.tensor(x / 255).float())
    assert (len(data.train), data.image) == (40, (3, 32, 32))
    (folder / "test_batch").write_bytes(pickle.dumps({"data": print}))
    with pytest.raises(InputError, match="a pickled dict of arrays"):
        IMAGES["cifar10"](folder=tmp_path)


def make_celeba(root):
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    ramp = np.broadcast_to(np.arange(178, dtype=np.uint8), (218, 178))
    for k in range(3):
        write_png(np.stack([ramp, ramp // 2, np.full_like(ramp, 60 * k)], 2), folder / "img_align_celeba" / f"{k}.png")
    (folder / "list_eval_partition.txt").write_text("".join(f"{k}.png {k}\n" for k in range(3)))


def test_faces_are_cropped_and_resized(tmp_path):
    make_celeba(tmp_path)
    data = IMAGES["celeba"](folder=tmp_path, **RAW)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [1, 1, 1]
    assert data.image == (3, 64, 64)
    red, _, blue = 255 * data.test.reshape(3, 64, 64)
    across = 19 + (np.arange(64) + 0.5) * 140 / 64 - 0.5  # the middle 140 of 178 columns, each of the 64 in its middle
    assert red[0].tolist() == pytest.approx(across, abs=1.0)
    assert blue.unique().tolist() == [120]


def test_missing_faces_come_by_torchvision_or_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(InputError, match="no torchvision to download it"):
        IMAGES["celeba"](folder=tmp_path)
    datasets = types.ModuleType("torchvision.datasets")
    datasets.CelebA = lambda root, download: make_celeba(tmp_path) if download and root == str(tmp_path) else None
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    assert len(IMAGES["celeba"](folder=tmp_path).test) == 1


def test_every_set_has_a_place_among_the_data_sets_and_no_classes_where_it_has_none(tmp_path):
    assert IMAGES.items() <= DATASETS.items()
    (tmp_path / "faces").mkdir()
    np.savez(tmp_path / "faces" / "frey.npz", images=np.zeros((20, 4, 3), np.uint8))
    assert len(IMAGES["frey"](folder=tmp_path).train) == 16
    with pytest.raises(InputError, match="expected a set with classes"):
        IMAGES["frey"](folder=tmp_path, labels=True)


# ---------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_and_their_damage(tmp_path, suffix):
    pack = gzip.compress if suffix else bytes
    path, array = tmp_path / f"a-idx3-ubyte{suffix}", np.random.default_rng(0).integers(0, 256, (3, 4, 5))
    path.write_bytes(pack(idx(array)))
    assert np.array_equal(read_idx(path), array)
    for damaged in (idx(array)[:-1], idx(array)[:6], b"\0\0\x0d" + idx(array)[3:], b""):
        path.write_bytes(pack(damaged))
        with pytest.raises(InputError, match="expected an idx file of bytes"):
            read_idx(path)
    if suffix:
        path.write_bytes(pack(idx(array))[:-9])
        with pytest.raises(InputError, match="expected an idx file in"):
            read_idx(path)


def test_a_folder_with_a_folder_a_class(tmp_path):
    random = np.random.default_rng(0)
    grey, colour = random.integers(0, 256, (5, 4), dtype=np.uint8), random.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert not holds_images(tmp_path)
    write_png(grey, tmp_path / "one" / "a.png")
    (tmp_path / "one" / "notes.txt").write_text("no image")
    assert holds_images(tmp_path)
    images, labels = read_images(tmp_path)
    assert labels == ["one"]
    assert np.array_equal(images, grey[None, None])
    Image.fromarray(np.dstack([colour, grey]), "RGBA").save(tmp_path / "two" / "b.png")
    write_png(grey, tmp_path / "z.PNG")
    images, labels = read_images(tmp_path)
    assert labels == ["", "one", "two"]
    assert np.array_equal(images, np.stack([*2 * [np.stack(3 * [grey])], colour.transpose(2, 0, 1)]))
    write_png(colour[:3], tmp_path / "two" / "c.png")
    with pytest.raises(InputError, match=r"of one size, 5 x 4, .* got 3 x 4 in .*c.png; resize them"):
        read_images(tmp_path)
    (tmp_path / "long.parquet").touch()
    assert not holds_images(tmp_path)


def test_what_is_no_image_of_eight_bits_is_refused(tmp_path):
    path = tmp_path / "a.png"
    for make in (
        lambda: path.write_bytes(b"no image"),
        lambda: path.write_bytes(b""),
        lambda: Image.fromarray(np.zeros((2, 2), np.uint16)).save(path),
        lambda: Image.new("L", (8000, 8000)).save(path),
    ):
        make()
        with pytest.raises(InputError, match="expected an image in"):
            read_image(path)
    write_png(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8), path)
    content = path.read_bytes()
    for side in (10_000, 100_000):  # pillow warns of the first and refuses the second
        head = b"IHDR" + 2 * side.to_bytes(4, "big") + content[24:29]
        path.write_bytes(content[:12] + head + zlib.crc32(head).to_bytes(4, "big") + content[33:])
        with pytest.raises(InputError, match="expected an image in"):
            read_image(path)
    path.write_bytes(content[:-500])
    with pytest.raises(InputError, match="expected an image in"):
        read_image(path)


def test_a_grid_holds_every_image_whole():
    images = np.random.default_rng(0).integers(0, 255, (5, 3, 30, 20), dtype=np.uint8)
    grid = png_grid(images, 3, gap=1)
    assert grid.shape == (63, 64, 3)
    for k, image in enumerate(images):
        top, left = 1 + 31 * (k // 3), 1 + 21 * (k % 3)
        assert np.array_equal(grid[top : top + 30, left : left + 20], image.transpose(1, 2, 0))
    assert math.prod(grid.shape) - images.size == int((grid == 255).sum())
    enlarged = png_grid(images[:1, :, :8, :8], 1, gap=0)
    assert np.array_equal(enlarged[::7, ::7], images[0, :, :8, :8].transpose(1, 2, 0))
    buffer = io.BytesIO()
    write_png(grid, buffer)
    assert np.array_equal(read_image(io.BytesIO(buffer.getvalue())), grid)


def test_checksums_of_downloads_are_those_of_the_originals():
    """Of Fashion-MNIST, whose files in the data folder are the originals byte for byte."""
    if not (data_folder() / "fashion_mnist").exists():
        pytest.skip("Fashion-MNIST is not in the data folder")
    for file in [file for file in PUBLIC if file.startswith("fashion_mnist")]:
        content = (data_folder() / file).read_bytes()
        assert PUBLIC[file][1] == f"md5:{hashlib.md5(content).hexdigest()}", file
