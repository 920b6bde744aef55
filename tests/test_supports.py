"""Supports: projections, distances, tangent frames and measures, over all of them and their products."""

import math

import pytest
import torch

from isthmus.errors import InputError
from isthmus.supports import MEASURES, SUPPORTS, Categories, Euclidean, Learned, Product, Sphere
from isthmus.volume import tangent_probes

CASES = {
    "line": Euclidean(1),
    "space": Euclidean(4),
    "circle": Sphere(2),
    "sphere": Sphere(3),
    "sphere in 20": Sphere(20),
    "levels": Categories(3, (2, 5, 1)),
    "torus": Product((Sphere(2), Sphere(2))),
    "sphere and line": Product((Sphere(3), Euclidean(2))),
    "levels and line": Product((Categories(2, (3, 4)), Euclidean(1))),
    "nested": Product((Product((Sphere(2), Euclidean(1))), Sphere(4))),
}


def rows(support, n=50):
    torch.manual_seed(0)
    return support.project(3 * torch.randn(n, support.columns, dtype=torch.float64))


@pytest.mark.parametrize("name", CASES)
def test_projected_rows_lie_on_the_support_and_stay(name):
    support = CASES[name]
    x = rows(support)
    support.check(x)
    assert float(support.distance(x).max()) < 1e-12
    torch.testing.assert_close(support.project(x), x)
    assert set(support.measure.split(" x ")) <= set(MEASURES)
    assert support.measured.startswith("nats a row, ")


@pytest.mark.parametrize("name", CASES)
def test_frames_are_orthonormal_and_tangent(name):
    """A step along the frame leaves the support by no more than its curvature, one across it by the step itself."""
    support = CASES[name]
    x, frame = rows(support), support.frame(rows(support))
    if frame is None:
        assert support.dim in (0, support.columns)
        return
    assert frame.shape == (50, support.columns, support.dim)
    torch.testing.assert_close(frame.mT @ frame, torch.eye(support.dim).double().expand(50, -1, -1))
    step = 1e-5
    for direction in frame.unbind(2):
        assert float(support.distance(x + step * direction).max()) < 10 * step**2


@pytest.mark.parametrize("name", [name for name in CASES if "line" not in name and name not in ("space", "nested")])
def test_uniform_rows_lie_on_the_support_evenly(name):
    support = CASES[name]
    torch.manual_seed(0)
    x = support.uniform(4000).double()
    assert float(support.distance(x).max()) < 1e-6
    if support.dim:
        assert float(x.mean(0).abs().max()) < 0.1


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_the_area_of_a_sphere_is_that_of_the_gaussian_integral(n):
    """Integrating exp(-|x|^2) over R^n by shells: pi^(n/2) = area * Gamma(n/2) / 2."""
    assert Sphere(n).area * math.gamma(n / 2) / 2 == pytest.approx(math.pi ** (n / 2))


def test_probes_in_a_frame_average_to_the_projection():
    x = rows(Sphere(4), 3)
    torch.manual_seed(0)
    v = tangent_probes(Sphere(4))(x, 3)
    torch.testing.assert_close(
        torch.einsum("kbi,kbj->bij", v, v) / 3, torch.eye(4).double() - x.unsqueeze(2) * x.unsqueeze(1)
    )
    torch.manual_seed(0)
    one = torch.stack([tangent_probes(Sphere(4))(x, 1)[0] for _ in range(4000)])
    mean = torch.einsum("kbi,kbj->bij", one, one) / 4000
    torch.testing.assert_close(mean, torch.eye(4).double() - x.unsqueeze(2) * x.unsqueeze(1), atol=0.15, rtol=0)


def test_rows_off_the_support_are_refused_with_the_row_and_how_far():
    x = rows(Sphere(3))
    x[7] *= 1.25
    with pytest.raises(InputError, match=r"on the sphere; got row 7 \(counted from 0\), off by 0.25; correct it"):
        Sphere(3).check(x)
    with pytest.raises(InputError, match="expected X of 3 columns; got 2"):
        Sphere(3).check(x[:, :2])
    with pytest.raises(InputError, match="got row 0"):
        Categories(1, (2,)).check(torch.tensor([[2.0]]))


def test_levels_are_learnt_from_the_rows():
    x = torch.tensor([[0.0, 4.0], [1.0, 0.0]])
    assert Categories(2, **Categories.learn(x)).n_levels == (2, 5)
    with pytest.raises(InputError, match="the number of levels of each of 2 columns"):
        SUPPORTS["categories"](2)


@pytest.mark.parametrize("call", [lambda s: s.uniform(1), lambda s: s.project(torch.zeros(1, 3))])
def test_a_learned_manifold_has_no_formula(call):
    with pytest.raises(InputError, match="a learned one"):
        call(Learned(3, 2))
