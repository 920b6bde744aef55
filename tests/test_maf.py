"""The published preparation, written again here with pandas as the publication has it, and the figures it must give."""

import hashlib
import math
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from isthmus.data import maf
from isthmus.data.fetch import data_folder
from isthmus.data.frames import read_frame
from isthmus.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures" / "tabular"
GAS = FIXTURES / "gas" / "ethylene_CO.pickle"
SHAPES = {"power": (60, 6, 3), "gas": (100, 8, 2), "hepmass": (75, 21, 10), "miniboone": (100, 43, 21)}


def splits(data):
    return data.train, data.validation, data.test


def gaussian_log_likelihood(fitted, x):
    """Mean over `x`, and twice its standard error, under the normal law with the mean and covariance of `fitted`."""
    fitted, x = fitted.double(), x.double()
    law = torch.distributions.MultivariateNormal(fitted.mean(0), fitted.T.cov(correction=0))
    log_prob = law.log_prob(x)
    return log_prob.mean().item(), 2 * log_prob.std().item() / math.sqrt(len(x))


def at_hand(file):
    if not (data_folder() / file).exists():
        pytest.skip(f"{file} is not in the data folder")


def close(tensor, expected):
    return np.allclose(tensor.numpy(), np.asarray(expected, dtype=np.float64), rtol=1e-5, atol=1e-6)


# -- every one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_names_and_splits_by_tenths(name):
    rows, data_dim, latent_dim = SHAPES[name]
    data = getattr(maf, name)(folder=FIXTURES)
    assert (data.name, data.data_dim, data.latent_dim) == (name, data_dim, latent_dim)
    assert sum(map(len, splits(data))) == rows
    assert len(data.columns) == (0 if name == "miniboone" else data_dim)
    rest = len(data.train) + len(data.validation)
    assert len(data.validation) == int(0.1 * rest)
    if name != "hepmass":
        assert len(data.test) == int(0.1 * rows)
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in splits(data))
    assert len(torch.cat(splits(data)).unique(dim=0)) == rows


@pytest.mark.parametrize("name", SHAPES)
def test_another_table_is_refused(name, tmp_path):
    for source in FIXTURES.rglob(f"{name}/*"):
        target = tmp_path / name / source.name
        target.parent.mkdir(exist_ok=True)
        if source.suffix == ".npy":
            np.save(target, np.load(source)[:, 1:])
        elif source.suffix == ".pickle":
            target.write_bytes(source.read_bytes()[:-100])
        else:
            pd.read_csv(source).iloc[:, : 20 if "test" in source.name else 99].to_csv(target, index=False)
    with pytest.raises(InputError, match=f"expected .* in .*{name}.*; got .*; put the original there"):
        getattr(maf, name)(folder=tmp_path)


# -- POWER ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def whole_power():
    at_hand("power/power_uci_full.npz")
    return maf.power()


def test_power_is_the_published_table(whole_power):
    assert [tuple(part.shape) for part in splits(whole_power)] == [(1_659_917, 6), (184_435, 6), (204_928, 6)]
    hashes = [hashlib.sha256(part.numpy().tobytes()).hexdigest()[:16] for part in splits(whole_power)]
    assert hashes == ["5d87a78bd6c33239", "72124ea4960c5f8a", "3f0a1c19e5a652b1"]


def test_a_gaussian_on_power_scores_as_published(whole_power):
    mean, error = gaussian_log_likelihood(whole_power.train, whole_power.test)
    assert (mean, error) == (pytest.approx(-7.742, abs=5e-4), pytest.approx(0.024, abs=5e-4))


def test_power_from_integers_equals_power_from_the_archive(tmp_path):
    x = np.load(FIXTURES / "power" / "data.npy")
    keys = {"gap_x1000": 1000, "grp_x1000": 1000, "voltage_x100": 100, "gi_x10": 10}
    integers = {key: (x[:, i] * unit).round().astype(np.uint16) for i, (key, unit) in enumerate(keys.items())}
    (tmp_path / "power").mkdir()
    sm, minute = x[:, 4:7].astype(np.uint8), x[:, 7].astype(np.uint16)
    np.savez(tmp_path / "power" / "power_uci_full.npz", **integers, sm=sm, minute_of_day=minute)
    for ours, expected in zip(splits(maf.power(folder=tmp_path)), splits(maf.power(folder=FIXTURES)), strict=True):
        assert torch.equal(ours, expected)


def test_power_is_the_shuffled_table_spread_over_its_units():
    x = np.load(FIXTURES / "power" / "data.npy")[:, [0, 2, 4, 5, 6, 7]]
    for seed in (42, 1):
        random = np.random.RandomState(seed)
        shuffled = x.copy()
        random.shuffle(shuffled)
        voltage, active, rest = random.rand(60, 1), random.rand(60, 1), random.rand(60, 3)
        noisy = shuffled + np.hstack([active / 1000, voltage / 100, rest, 0 * active])
        mean, scale = noisy[:54].mean(0), noisy[:54].std(0)
        assert close(torch.cat(splits(maf.power(folder=FIXTURES, seed=seed))), (noisy - mean) / scale)


# -- GAS ------------------------------------------------------------------------------------------------------------


def test_gas_is_prepared_as_published():
    names, values = read_frame(GAS)
    frame = pd.DataFrame(values, columns=names).drop(columns=["Meth", "Eth", "Time"])
    while ((crowded := (frame.corr() > 0.98).sum(axis=1)) > 1).any():
        frame = frame.drop(columns=frame.columns[np.flatnonzero(crowded > 1)[0]])
    data = maf.gas(folder=FIXTURES)
    assert data.columns == tuple(frame.columns) == ("R2", "R3", "R6", "R8", "R10", "R12", "R14", "R16")
    assert close(torch.cat(splits(data)), (frame - frame.mean()) / frame.std())


def test_a_frame_of_an_old_pandas_is_read_exactly():
    """The fixture, drawn again."""
    random, rows = np.random.RandomState(1), 400
    groups = np.repeat(range(7), [3, 3, 2, 2, 2, 2, 2])
    sensors = random.randn(rows, 7)[:, groups] + 0.05 * random.randn(rows, 16)
    sensors[:, 0] = random.randn(rows)
    sensors[:, 1:3] = sensors[:, :1] + 0.175 * random.randn(rows, 2)
    ethylene = random.choice([0.0, 13.33, 20.0], rows)
    table = np.column_stack([0.01 * np.arange(rows), np.zeros(rows), ethylene, sensors])
    names, values = read_frame(GAS)
    assert names == ["Time", "Meth", "Eth", *(f"R{i}" for i in range(1, 17))]
    assert np.array_equal(values, table[random.permutation(rows)[:100]])


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_a_command_is_refused_before_it_does(tmp_path, protocol):
    path, mark = tmp_path / "evil.pickle", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {mark}"), protocol))
    with pytest.raises(InputError, match=r"got the name (posix|nt)\.system, which no frame needs"):
        read_frame(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize(
    "call", [Call(eval, "1"), Call(getattr, 1, "real"), Call(np.load, "x"), Call(pd.DataFrame, [1])]
)
def test_no_function_of_a_pickle_is_called(tmp_path, call):
    path = tmp_path / "evil.pickle"
    path.write_bytes(pickle.dumps({"_data": call}))
    with pytest.raises(InputError, match=r"expected a frame of numbers .* got .*; put the original there"):
        read_frame(path)


@pytest.mark.parametrize(
    "content", [b"", b"text", pickle.dumps(3), pickle.dumps({"_data": 1}), GAS.read_bytes()[:2000]]
)
def test_what_is_no_frame_is_refused(tmp_path, content):
    path = tmp_path / "x.pickle"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected a frame of numbers"):
        read_frame(path)


# -- HEPMASS --------------------------------------------------------------------------------------------------------


def test_hepmass_is_prepared_as_published():
    train, test = (pd.read_csv(FIXTURES / "hepmass" / f"1000_{split}.csv") for split in ("train", "test"))
    train, test = (frame[frame["# label"] == 1].drop(columns="# label") for frame in (train, test))
    test = test.drop(columns="mass")
    kept = [name for name, column in train.items() if sorted(Counter(column).items())[0][1] <= 5]
    data = maf.hepmass(folder=FIXTURES)
    assert data.columns == tuple(kept)
    assert {"f1", "f2"} < set(kept)  # one repeats its largest value, the other its smallest five times
    mean, scale = train[kept].mean(), train[kept].std()
    assert close(torch.cat([data.train, data.validation]), (train[kept] - mean) / scale)
    assert close(data.test, (test[kept] - mean) / scale)
    assert (len(data.validation), len(data.test)) == (5, 25)


# -- MINIBOONE ------------------------------------------------------------------------------------------------------


def test_miniboone_keeps_the_order_and_standardises_by_all_but_the_test_rows():
    x = np.load(FIXTURES / "miniboone" / "data.npy")
    data = maf.miniboone(folder=FIXTURES)
    assert close(torch.cat(splits(data)), (x - x[:90].mean(0)) / x[:90].std(0))


def test_a_gaussian_on_the_part_of_miniboone_at_hand():
    at_hand("miniboone/miniboone_maf_val_standardised_f8.npy")
    if (data_folder() / "miniboone" / "data.npy").exists():
        pytest.skip("all of MINIBOONE is in the data folder")
    data = maf.miniboone()
    assert (data.name, *map(len, splits(data))) == ("miniboone_part", 2956, 328, 3648)
    mean, error = gaussian_log_likelihood(torch.cat([data.train, data.validation]), data.test)
    assert (mean, error) == (pytest.approx(-37.72, abs=5e-3), pytest.approx(1.25, abs=1e-2))


def test_part_of_miniboone_from_files(tmp_path):
    (tmp_path / "miniboone").mkdir()
    x = np.load(FIXTURES / "miniboone" / "data.npy")
    for split, rows in (("val", x[:40]), ("test", x[40:])):
        np.save(tmp_path / "miniboone" / f"miniboone_maf_{split}_standardised_f8.npy", rows)
    data = maf.miniboone(folder=tmp_path)
    assert data.name == "miniboone_part"
    assert [len(part) for part in splits(data)] == [36, 4, 60]
    assert close(torch.cat(splits(data)), x)
