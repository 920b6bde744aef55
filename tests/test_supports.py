"""Supports: projections, distances, tangent frames and measures, over all of them and their products."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from scipy.spatial.transform import Rotation

from cases import SURFACES, by_quadrature, half_log_det, jacobians
from isthmus.autodiff import pull, push
from isthmus.errors import InputError
from isthmus.supports import (
    MEASURES,
    SUPPORTS,
    Categories,
    Ellipsoid,
    Euclidean,
    GroupLasso,
    Learned,
    LevelSet,
    LpSphere,
    Product,
    Radius,
    Rotations,
    Simplex,
    Sphere,
    StarLike,
    Torus,
)
from isthmus.volume import tangent_probes

CASES = {f"{name} in {d}": make(d) for name, make in SURFACES.items() for d in (2, 5) if name != "sphere"} | {
    "line": Euclidean(1),
    "space": Euclidean(4),
    "circle": Sphere(2),
    "sphere": Sphere(3),
    "sphere in 20": Sphere(20),
    "levels": Categories(3, (2, 5, 1)),
    "torus": Product((Sphere(2), Sphere(2))),
    "sphere and line": Product((Sphere(3), Euclidean(2))),
    "levels and line": Product((Categories(2, (3, 4)), Euclidean(1))),
    "rotations": Rotations(),
    "rotations and circle": Product((Rotations(), Sphere(2))),
    "nested": Product((Product((Sphere(2), Euclidean(1))), Sphere(4))),
    "angles": Torus(6),
    "parts and angles": Product((Simplex(3), Torus(4), LpSphere(3, 1.5))),
}


@torch.no_grad()
def rows(support, n=50):
    torch.manual_seed(0)
    x = 3 * torch.randn(n, support.columns, dtype=torch.float64)
    parts = getattr(support, "parts", (support,))
    return support.project(x.abs() if any(getattr(part, "orthant", False) for part in parts) else x)


@pytest.mark.parametrize("name", CASES)
def test_projected_rows_lie_on_the_support_and_stay(name):
    support = CASES[name]
    x = rows(support)
    support.check(x)
    assert float(support.distance(x).detach().max()) < 1e-12
    torch.testing.assert_close(support.project(x), x)
    assert set(support.measure.split(" x ")) <= set(MEASURES)
    assert support.measured.startswith("nats a row, ")


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_frames_are_orthonormal_and_tangent(name):
    """A small step along the frame leaves the support by far less than the step."""
    support = CASES[name]
    x, frame = rows(support), support.frame(rows(support))
    if frame is None:
        assert support.dim in (0, support.columns)
        return
    assert frame.shape == (50, support.columns, support.dim)
    torch.testing.assert_close(frame.mT @ frame, torch.eye(support.dim).double().expand(50, -1, -1))
    step = 1e-9
    for direction in frame.unbind(2):
        assert float(support.distance(x + step * direction).max()) < 1e-2 * step


@pytest.mark.parametrize("name", [name for name in CASES if "line" not in name and name not in ("space", "nested")])
@torch.no_grad()
def test_uniform_rows_lie_on_the_support_evenly(name):
    support = CASES[name]
    torch.manual_seed(0)
    x = support.uniform(4000).double()
    assert float(support.distance(x).max()) < 2e-6
    assert support.uniform(0).shape == (0, support.columns)
    if support.dim and not any(word in name for word in ("simplex", "parts", "network")):
        assert float(x.mean(0).abs().max()) < 0.1


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_the_area_of_a_sphere_is_that_of_the_gaussian_integral(n):
    """Integrating exp(-|x|^2) over R^n by shells: pi^(n/2) = area * Gamma(n/2) / 2."""
    assert Sphere(n).area().value * math.gamma(n / 2) / 2 == pytest.approx(math.pi ** (n / 2))


# ------------------------------------------------------------------------------------------- star-like surfaces


@pytest.mark.parametrize("d", [2, 3, 10, 50])
@pytest.mark.parametrize("name", SURFACES)
def test_the_stretch_is_half_the_log_determinant_of_the_star_map(name, d):
    """J^T J in any orthonormal basis of the sphere's tangents; F2 is checked against F3 by the way."""
    surface, sphere = SURFACES[name](d), Sphere(d)
    torch.manual_seed(d)
    n = sphere.direction(torch.randn(3, d).double())
    n = n.abs() if surface.orthant else n
    brute = half_log_det(jacobians(lambda b, v: surface.project(v[None])[0], n) @ sphere.frame(n))
    torch.testing.assert_close(surface.log_stretch(n), brute, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(StarLike.log_stretch(surface, n), brute, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(surface.log_stretch(n.float()).double(), brute, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(surface.log_stretch(n), brute, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SURFACES)
def test_gradients_of_the_stretch_are_right_for_directions_and_for_parameters(name):
    surface = SURFACES[name](4)
    n = Sphere(4).direction(torch.tensor([[0.3, 0.8, 0.2, 0.5], [0.6, 0.1, 0.9, 0.3]]).double())
    if name != "sphere":
        assert torch.autograd.gradcheck(
            lambda v: surface.log_stretch(v / v.norm(dim=1, keepdim=True)), n.requires_grad_()
        )
    if name == "network":
        bias = surface.function.layers[0].bias

        def stretch(value):
            network = torch.func.functional_call
            return Radius(4, lambda v: network(surface.function, {"layers.0.bias": value}, v)).log_stretch(n.detach())

        assert torch.autograd.gradcheck(stretch, bias.detach().clone().requires_grad_())


@pytest.mark.parametrize("name", SURFACES)
def test_float32_is_finite_in_ten_thousand_columns(name):
    surface = SURFACES[name](10_000)
    torch.manual_seed(0)
    n = Sphere(10_000).direction(torch.randn(2, 10_000))
    n = (n.abs() if surface.orthant else n).requires_grad_()
    log_stretch = surface.log_stretch(n)
    assert log_stretch.isfinite().all()
    if log_stretch.requires_grad:
        log_stretch.sum().backward()
        assert n.grad.isfinite().all()
    x = surface.project(n.detach()).detach()
    assert float(surface.distance(x).detach().max()) < 1e-5
    assert surface.log_measure(x, "cone").isfinite().all()


AREAS = {
    "sphere": 4 * math.pi,
    "simplex": math.sqrt(3) / 2,
    "p = 1": 4 * math.sqrt(3),
    "p = 4": 17.587189069097,
    "p = 2": 4 * math.pi * 0.7**2,
}


@pytest.mark.parametrize("name", sorted(SURFACES.keys() - {"p = 0.5"}))  # whose quadrature is slow to converge
@torch.no_grad()
def test_areas_and_uniform_rows_are_those_of_quadrature_in_three_columns(name):
    surface = SURFACES[name](3)
    area = by_quadrature(surface, lambda x: torch.ones(len(x)).double())
    assert area == pytest.approx(AREAS.get(name, area), rel=1e-9)
    value, error = surface.area(40_000)
    assert value == pytest.approx(area, abs=4 * error + 1e-6 * area)
    torch.manual_seed(0)
    x = surface.uniform(20_000).double()
    for moment in (lambda x: x[:, 0] ** 2, lambda x: x.abs().amax(1), lambda x: x[:, 1]):
        drawn, slack = moment(x), 0.02 if name in ("gauge", "gauge of parts", "network") else 0.0
        error = 4 * float(drawn.std()) / math.sqrt(len(x))
        assert float(drawn.mean()) == pytest.approx(by_quadrature(surface, moment) / area, abs=error + slack)


def test_areas_of_ellipsoids_and_cusps_are_those_of_closed_forms():
    """4 pi R_G(a^2 b^2, a^2 c^2, b^2 c^2), by Carlson's integral; perimeters of an ellipse and of p = 1/2."""
    a, b, c = 1.0, 0.9, 0.8
    exact = 4 * math.pi * special.elliprg(a**2 * b**2, a**2 * c**2, b**2 * c**2)
    assert exact == pytest.approx(10.16213852176352, rel=1e-12)
    assert by_quadrature(Ellipsoid(3, (a, b, c)), lambda x: torch.ones(len(x)).double()) == pytest.approx(
        exact, rel=1e-9
    )
    value, error = LpSphere(2, 0.5).area(40_000)
    assert value == pytest.approx(4 * (1 + math.log(1 + math.sqrt(2)) / math.sqrt(2)), abs=4 * error)
    value, error = Ellipsoid(2, (3.0, 1.0)).area(40_000)
    assert value == pytest.approx(12 * special.ellipe(1 - 1 / 9), abs=4 * error)


@pytest.mark.parametrize("name", sorted(SURFACES.keys() - {"p = 0.5"}))  # of whose stretch the variance is infinite
@torch.no_grad()
def test_areas_in_ten_columns_agree_with_uniform_directions(name):
    surface = SURFACES[name](10)
    value, error = surface.log_area(20_000)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        pool = StarLike.propose(surface, 200_000)
    weight = pool.log_weight.double().exp()
    by_directions = pool.log_total + float(weight.mean().log())
    spread = float(weight.std() / weight.mean()) / math.sqrt(len(weight))
    assert value == pytest.approx(by_directions, abs=4 * math.hypot(error, spread) + 1e-5)


@pytest.mark.parametrize(("p", "mean"), [(0.5, 0.17253), (1.0, 0.457), (1.5, 0.631), (2.0, 0.738), (4.0, 0.903)])
def test_uniform_rows_of_p_spheres_are_uniform_in_area_not_in_the_cone_measure(p, mean):
    """The mean of the largest coordinate in five columns; for p = 0.5 the cone measure has 0.1523."""
    torch.manual_seed(0)
    largest = LpSphere(5, p).uniform(40_000).abs().amax(1)
    assert float(largest.mean()) == pytest.approx(mean, abs=4 * float(largest.std()) / 200 + 5e-4)


@pytest.mark.parametrize("name", SURFACES)
@torch.no_grad()
def test_measures_are_one_law_where_the_slope_is_constant(name):
    surface = SURFACES[name](4)
    torch.manual_seed(0)
    x = surface.uniform(200).double()
    cone, coarea = surface.log_measure(x, "cone"), surface.log_measure(x, "coarea")
    torch.testing.assert_close(cone - coarea, torch.full((200,), math.log(surface.level / 4)).double())
    assert not surface.log_measure(x, "surface").any()
    constant = name in ("sphere", "simplex", "p = 1", "p = 2", "groups")
    assert (float(coarea.std()) < 1e-6) is constant
    if isinstance(surface, LevelSet):
        torch.testing.assert_close(coarea, -surface.log_slope(x), rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="'surface', 'cone' or 'coarea'; got 'volume'"):
        surface.log_measure(x, "volume")


def test_cones_fill_the_ball():
    """The mean of the cone measure's density over the surface, times its area, is the volume inside."""
    surface = LpSphere(3, 4.0)
    volume = by_quadrature(surface, lambda x: surface.log_measure(x, "cone").exp())
    assert volume == pytest.approx((2 * math.gamma(1.25)) ** 3 / math.gamma(1.75), rel=1e-9)


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 4.0])
def test_exact_zeros_near_and_at_sparse_vertices(p):
    """Everything near a vertex is finite; at exact zeros only p < 1 has an infinite stretch, and no normal."""
    surface = LpSphere(4, p)
    near = torch.tensor([[1.0, 1e-30, -1e-25, 1e-35]]).requires_grad_()
    assert surface.log_stretch(near).isfinite().all()
    (gradient,) = torch.autograd.grad(surface.log_stretch(near).sum(), near, allow_unused=True, materialize_grads=True)
    assert not gradient.isnan().any()
    at = torch.tensor([[0.8, 0.0, 0.6, 0.0]]).double()
    assert surface.log_radius(at).isfinite().all()
    assert surface.log_stretch(at).isposinf().all() if p < 1 else surface.log_stretch(at).isfinite().all()
    if p < 1:
        with pytest.raises(InputError, match=r"p = 0.5 has no tangent plane; got row 0 \(counted from 0\)"):
            surface.frame(at)
    else:
        assert surface.frame(at).isfinite().all()


def test_a_row_of_zeros_is_off_every_surface_and_so_is_nan():
    for name, make in SURFACES.items():
        surface = make(3)
        zero = torch.zeros(1, 3).double()
        assert float(surface.distance(zero).detach()) == (pytest.approx(1.0) if surface.columns else 0), name
        assert not surface.project(zero).any()
        with pytest.raises(InputError, match="got row 0"):
            surface.check(torch.full((1, 3), torch.nan).double())


def test_simplices_refuse_what_is_below_zero():
    with pytest.raises(InputError, match=r"on the simplex; got row 1 .*off by 0.1; correct it"):
        Simplex(3).check(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.1, -0.1]]).double())
    assert Simplex(2).project(torch.tensor([[-1.0, 3.0]])).tolist() == [[0.0, 1.0]]


def test_angles_of_a_torus_are_those_of_its_rows():
    angles = torch.tensor([[0.5, -3.0, 2.0]]).double()
    x = Torus.rows(angles)
    torch.testing.assert_close(Torus.angles(x), angles)
    (jacobian,) = jacobians(lambda b, a: Torus.rows(a[None])[0], angles)
    torch.testing.assert_close(Torus(6).frame(x)[0], jacobian)
    assert Torus(6).measured == "nats a row, per radian of each angle"


REFUSED = {
    "two columns for each angle": lambda: Torus(3),
    "p to be positive": lambda: LpSphere(3, 0.0),
    "radius to be positive": lambda: GroupLasso(2, (0, 1), radius=-1.0),
    "an axis for each of 3 columns": lambda: Ellipsoid(3, (1.0, 2.0)),
    "every axis to be positive": lambda: Ellipsoid(2, (1.0, math.inf)),
    "a group, 0, 1, ..., for each of 3": lambda: GroupLasso(3, (0, 2, 2)),
    "a weight for each of 2 groups": lambda: GroupLasso(3, (0, 1, 1), (1.0,)),
    "every weight to be positive": lambda: GroupLasso(2, (0, 1), (1.0, 0.0)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_options_that_make_no_surface_are_refused(message):
    with pytest.raises(InputError, match=message):
        REFUSED[message]()


# ------------------------------------------------------------------------------------------------------ the rest


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


# ---------------------------------------------------------------------------------------------------- rotations


def matrices(kind, n=6):
    torch.manual_seed(0)
    rotations, noise = Rotations().uniform(n).double(), torch.randn(n, 9, dtype=torch.float64)
    reflected = (rotations.unflatten(1, (3, 3)) * torch.tensor([1.0, 1.0, -0.5])).flatten(1)
    return {"rotations": rotations, "near": rotations + 0.3 * noise, "any": noise, "reflected": reflected}[kind]


@pytest.mark.parametrize("kind", ["rotations", "near", "any", "reflected"])
def test_the_projection_to_rotations_is_the_nearest_one_with_right_derivatives(kind):
    """scipy aligns vectors by the same problem; derivatives against differences, in both modes, and once more."""
    project, x = Rotations().project, matrices(kind)
    for M, R in zip(x.unflatten(1, (3, 3)), project(x).unflatten(1, (3, 3)), strict=True):
        nearest = Rotation.align_vectors(M.mT.numpy(), np.eye(3))[0].as_matrix()
        np.testing.assert_allclose(R.numpy(), nearest, atol=1e-9)
    v, w, u = torch.randn(3, *x.shape, dtype=torch.float64).unbind()
    forward, reverse = push(project, x, v)[1], pull(project, x, w)[1]
    difference = (project(x + 1e-6 * v) - project(x - 1e-6 * v)) / 2e-6
    torch.testing.assert_close(forward, difference, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close((w * forward).sum(1), (reverse * v).sum(1), rtol=1e-10, atol=1e-10)
    for product in (lambda x: (push(project, x, v)[1] * w).sum(1), lambda x: (pull(project, x, w)[1] * v).sum(1)):
        at = x.clone().requires_grad_()
        (second,) = torch.autograd.grad(product(at).sum(), at)
        expected = (product(x + 1e-5 * u) - product(x - 1e-5 * u)) / 2e-5
        torch.testing.assert_close((second * u).sum(1), expected, rtol=1e-4, atol=1e-4)


def test_rotations_have_the_volume_of_their_angles():
    """The angle of Haar's law has the density (1 - cos a) / pi; balls of angle a have the volume 8 pi (a - sin a)."""
    torch.manual_seed(0)
    trace = Rotations().uniform(20_000).double()[:, ::4].sum(1)
    angle = ((trace - 1) / 2).clamp(-1, 1).acos()
    for a in (0.5, 1.0, 2.0, 3.0):
        share = 8 * math.pi * (a - math.sin(a)) / Rotations().area().value
        assert float((angle < a).double().mean()) == pytest.approx(share, abs=0.012)
    x, t = Rotations().project(Rotations().uniform(3).double()), 1e-2
    moved = Rotations().project(x + t * Rotations().frame(x)[:, :, 0])
    trace = (moved * x).sum(1)  # of the rotation from one to the other
    torch.testing.assert_close(((trace - 1) / 2).acos(), torch.full((3,), t / 2**0.5).double(), rtol=1e-4, atol=0)


def test_rotations_have_nine_columns():
    with pytest.raises(InputError, match="expected the 9 entries of a matrix as columns, row by row"):
        SUPPORTS["rotations"](4)
