"""The number of dimensions of data that have one."""

import pytest
import torch

from cases import randn
from isthmus.data import DATASETS
from isthmus.diagnostics import intrinsic_dimension
from isthmus.errors import InputError


def turned(x, D):
    return x @ torch.linalg.qr(randn(D, x.shape[1])).Q.T


@pytest.mark.parametrize("d", [1, 2, 4, 7])
def test_flat_data_have_the_dimension_of_their_plane(d):
    for x in (randn(3000, d), torch.rand(3000, d).double()):
        estimate = intrinsic_dimension(turned(x, 9))
        assert estimate == pytest.approx(d, rel=0.15)
        assert intrinsic_dimension(x) <= d


@pytest.mark.parametrize(("name", "d"), [("sine", 1), ("sphere", 2), ("swiss_roll", 2), ("torus", 2)])
def test_curved_data_have_the_dimension_of_their_manifold(name, d):
    assert round(intrinsic_dimension(DATASETS[name](noise=0.0).train)) == d


def test_noise_raises_the_dimension():
    x = turned(randn(2000, 2), 6)
    estimates = [intrinsic_dimension(x + noise * randn(2000, 6)) for noise in (0.0, 0.05, 0.2, 5.0)]
    assert estimates == sorted(estimates)
    assert estimates[-1] > 4.5


def test_units_turns_order_and_repetitions_do_not_matter():
    x = turned(randn(500, 3), 5)
    expected = intrinsic_dimension(x)
    for same in (1e-6 * x, 1e6 * x, x + 10, turned(x, 5), x.flip(0), x.repeat(3, 1), x.float()):
        assert intrinsic_dimension(same) == pytest.approx(expected, rel=1e-3)


def test_rows_that_all_but_coincide_are_no_points():
    x = turned(randn(500, 3), 5)
    assert intrinsic_dimension(torch.cat([x, x[:50] + 1e-10])) == pytest.approx(intrinsic_dimension(x), rel=0.2)


def test_few_rows_still_have_a_dimension():
    for rows in (3, 4, 10):
        assert 0 < intrinsic_dimension(randn(rows, 3)) <= 3


def test_what_has_no_dimension_is_refused():
    for x in (randn(2, 3), torch.ones(50, 3), torch.tensor([[0.0], [1.0]]).repeat(9, 1)):
        with pytest.raises(InputError, match=r"expected 3 different rows to estimate a dimension from; got [12];"):
            intrinsic_dimension(x)
    for neighbours in (0, 1, 2):
        with pytest.raises(InputError, match=f"expected neighbours >= 3; got {neighbours};"):
            intrinsic_dimension(randn(50, 3), neighbours=neighbours)


def test_large_tables_are_thinned():
    x = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    value, few = intrinsic_dimension(x), intrinsic_dimension(x[:: len(x) // 4_000])
    assert value == pytest.approx(2, abs=0.15)
    assert value == pytest.approx(few, abs=0.15)  # as of a few thousand of its rows
