import math

import numpy as np
import pytest
import torch

from isthmus.data.fetch import data_folder
from isthmus.data.tabular import TABLES
from isthmus.errors import InputError

# rows, columns, columns that vary in the training rows of the seed 0, file
REAL = {
    "satimage": (6435, 36, 36, "uci_small/satimage.npz"),
    "texture": (5500, 40, 40, "uci_small/texture.npz"),
    "penbased": (10992, 16, 16, "uci_small/penbased.npz"),
    "optdigits": (5620, 64, 62, "uci_small/optdigits.npz"),
    "magic": (19020, 10, 10, "uci_small/magic.npz"),
    "gasdrift": (6697, 128, 128, "gasdrift/gasdrift_8of10_batches.npz"),
    "airsea": (19985, 14, 14, "airsea/esku_heat_budget.npz"),
    "rna": (9478, 14, 14, "torus/rna.tsv"),
    "volcanoes": (827, 3, 3, "earth/volerup.csv"),
    "earthquakes": (6120, 3, 3, "earth/quakes_all.csv"),
    "floods": (4875, 3, 3, "earth/flood.csv"),
    "fires": (12809, 3, 3, "earth/fire.csv"),
    "load_curves": (1090, 48, 48, "load_curves/vic_elec_daily.npz"),
    "digits": (1797, 64, 61, None),
    "breast_cancer": (569, 30, 30, None),
}
RAW = {"standardise": False, "dequantise": False}


def splits(data):
    return data.train, data.validation, data.test


def joined(data):
    return torch.cat(splits(data)).double()


def rows_of(x):
    """The rows as a sorted list, whatever their order."""
    return sorted(map(tuple, np.asarray(x, dtype=np.float32).tolist()))


@pytest.fixture
def real():
    def load(name, **options):
        file = REAL[name][3]
        if file and not (data_folder() / file).exists():
            pytest.skip(f"{file} is not in the data folder")
        return TABLES[name](**options)

    return load


@pytest.fixture
def made(tmp_path):
    """A folder with a made-up `satimage`: integers, a continuous column, a constant, one constant but for one row."""
    (tmp_path / "uci_small").mkdir()
    random, rows = np.random.default_rng(0), 100
    x = np.column_stack([random.integers(0, 5, (rows, 2)), random.normal(3.0, 2.0, rows), np.full((rows, 2), 7)])
    x[np.random.default_rng(0).permutation(rows)[0], 4] = 8
    np.savez(tmp_path / "uci_small" / "satimage.npz", x=x.astype(np.float32))
    return tmp_path, x


# -- every real table -----------------------------------------------------------------------------------------------


def test_every_table_is_checked():
    assert set(REAL) == set(TABLES)


@pytest.mark.parametrize("name", REAL)
def test_rows_columns_and_names(name, real):
    rows, _, varying, _ = REAL[name]
    data = real(name)
    assert (data.name, data.data_dim, data.latent_dim) == (name, varying, None)
    assert [len(part) for part in splits(data)] == [rows - 2 * (rows // 10), rows // 10, rows // 10]
    assert data.columns == () or len(set(data.columns)) == varying
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in splits(data))
    both = torch.cat([data.train, data.validation]).double()
    assert both.mean(0).abs().max() < 1e-6
    assert (both.std(0, correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("name", REAL)
def test_the_splits_are_the_rows_of_the_table_each_once(name, real):
    one, other = (real(name, seed=seed, **RAW) for seed in (0, 1))
    assert rows_of(joined(one)) == rows_of(joined(other))
    assert not torch.equal(one.train, other.train)
    assert torch.equal(real(name, seed=1, **RAW).test, other.test)


@pytest.mark.parametrize("name", REAL)
def test_columns_of_integers_are_spread_over_their_unit_and_no_others(name, real):
    raw, spread = (joined(real(name, standardise=False, dequantise=on)) for on in (False, True))
    noise, whole = spread - raw, (raw == raw.round()).all(0)
    assert torch.equal(whole.any(), torch.tensor(name in {"satimage", "penbased", "optdigits", "digits"}))
    assert not noise[:, ~whole].any()
    if whole.any():
        assert noise.abs().max() <= 0.5
        error = 5 / math.sqrt(noise[:, whole].numel())
        assert noise[:, whole].mean().item() == pytest.approx(0.0, abs=error)
        assert noise[:, whole].var().item() == pytest.approx(1 / 12, abs=error)
        assert len(spread.unique(dim=0)) == len(spread)


def test_the_heat_budget_obeys_its_three_laws(real):
    data = real("airsea", **RAW)
    column = dict(zip(data.columns, joined(data).T, strict=True))
    for left, first, *others in (("SAT", "SST", "AT"), ("FDR", "FSR", "FUL"), ("FDH", "FDR", "FLH", "FSH")):
        assert (column[left] - column[first] + sum(column[other] for other in others)).abs().max() < 0.016


def test_torsion_angles_lie_on_circles(real):
    data = real("rna", standardise=False)
    pairs = joined(data).reshape(-1, 7, 2)
    assert torch.allclose(pairs.norm(dim=2), torch.ones((), dtype=torch.float64), atol=1e-6)
    assert data.columns[:2] == ("cos_alpha", "sin_alpha")
    first = torch.deg2rad(torch.tensor(-69.168933, dtype=torch.float64))
    assert (pairs[:, 0] - torch.stack([first.cos(), first.sin()])).abs().sum(1).min() < 1e-6


# -- made-up tables: what needs no file -----------------------------------------------------------------------------


def test_columns_that_are_constant_in_training_are_left_out(made):
    folder, x = made
    data = TABLES["satimage"](folder=folder, **RAW)
    assert data.data_dim == 3
    assert rows_of(joined(data)) == rows_of(x[:, :3])
    odd = np.flatnonzero(x[:, 4] == 8)
    trained = next(seed for seed in range(1, 9) if odd in np.random.default_rng(seed).permutation(100)[20:])
    assert TABLES["satimage"](folder=folder, seed=trained, **RAW).data_dim == 4


def test_test_rows_do_not_move_the_others(made):
    folder, x = made
    data = TABLES["satimage"](folder=folder)
    x[np.random.default_rng(0).permutation(100)[:10], 2] *= 100
    np.savez(folder / "uci_small" / "satimage.npz", x=x.astype(np.float32))
    moved = TABLES["satimage"](folder=folder)
    assert torch.equal(moved.train, data.train)
    assert torch.equal(moved.validation, data.validation)
    assert not torch.equal(moved.test, data.test)


def test_angles_from_a_file(tmp_path):
    (tmp_path / "torus").mkdir()
    file = tmp_path / "torus" / "rna.tsv"
    degrees = np.random.default_rng(0).uniform(-180, 180, (30, 7))
    file.write_text("".join("402d\tG\t" + "\t".join(f"{angle:.6f}" for angle in row) + "\n" for row in degrees))
    data = TABLES["rna"](folder=tmp_path, **RAW)
    radians = np.deg2rad(degrees.round(6))
    expected = np.stack([np.cos(radians), np.sin(radians)], 2).reshape(30, 14)
    assert np.allclose(sorted(joined(data).tolist()), sorted(expected.tolist()), atol=1e-6)
    file.write_text("402d\tG\tno angle\n")
    with pytest.raises(InputError, match=r"expected a structure, a base and seven angles .* in .*rna\.tsv; got"):
        TABLES["rna"](folder=tmp_path)


def test_places_from_a_file(tmp_path):
    """East of Greenwich on the equator, the poles, and a place in the west and south; comments and names left out."""
    (tmp_path / "earth").mkdir()
    file = tmp_path / "earth" / "flood.csv"
    file.write_text("# where from\nlat,long\n0.0,90\n90,0\n-90,12\n-30.0,-90.0\n" + "1,2\n" * 16)
    x = joined(TABLES["floods"](folder=tmp_path, **RAW))
    assert x.norm(dim=1).allclose(torch.ones(20).double(), atol=1e-6)
    for place in ([0, 1, 0], [0, 0, 1], [0, 0, -1], [0, -(0.75**0.5), -0.5]):
        assert float((x - torch.tensor(place).double()).norm(dim=1).min()) < 1e-6
    file.write_text("lat,long\n1.0\n")
    with pytest.raises(InputError, match=r"expected a latitude and a longitude in degrees a row in .*flood\.csv; got"):
        TABLES["floods"](folder=tmp_path)


def test_a_table_that_is_nowhere(tmp_path):
    with pytest.raises(InputError, match=rf"expected the file uci_small/magic\.npz in {tmp_path}; got none; put it"):
        TABLES["magic"](folder=tmp_path)
