"""Surrogates against the exact trace, the exact change of volume against brute force, and the estimator's own laws."""

import pytest
import torch

from cases import PAIRS, gradients, half_log_det, jacobians, maps, randn, row_maps
from isthmus.errors import InputError
from isthmus.volume import (
    ESTIMATORS,
    SURROGATES,
    Surrogate,
    Volume,
    conjugate_gradient,
    exact,
    log_volume,
    orthonormal_probes,
)

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
OPTIONS = {"conjugate_gradient": {"tolerance": 1e-14, "max_iterations": 30}}


# ------------------------------------------------------------------------------------- surrogates and the trace


def traces(name, modules, c, x):
    """z, x_hat and the matrices A whose traces have the surrogate's gradient, re-derived from whole Jacobians."""
    (f, g), (f_row, g_row) = maps(modules, c), row_maps(modules, c)
    z = f(x)
    x_hat = g(z)
    F = jacobians(f_row, x_hat.detach() if name == "encoder_on_manifold" else x)
    G = jacobians(g_row, z)
    by_encoder, by_decoder = -F @ G.detach(), F.detach() @ G
    pinv = torch.linalg.pinv(G.detach())
    return z, x_hat, {"decoder": by_decoder, "conjugate_gradient": pinv @ G}.get(name, by_encoder), by_decoder


def reference(name, modules, c, x, v):
    """z, x_hat and `1/K sum_k v_k^T A v_k`; conditional: the decoder's where `v^T (f' g' - I) v > 0`."""
    z, x_hat, A, by_decoder = traces(name, modules, c, x)
    form = torch.einsum("kbi,bij,kbj->kb", v, A, v)
    if name == "conditional":
        defect = torch.einsum("kbi,bij,kbj->kb", v, by_decoder.detach() - torch.eye(v.shape[2]), v)
        form = torch.where(defect > 0, torch.einsum("kbi,bij,kbj->kb", v, by_decoder, v), form)
    return z, x_hat, form.mean(0)


def test_estimators_say_which_numbers_are_values():
    f, g = maps(PAIRS["mlp"].modules())
    for name, estimate in ESTIMATORS.items():
        assert isinstance(estimate(f, g, randn(3, 5)), Volume if name == "exact" else Surrogate)


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("case", PAIRS.values(), ids=PAIRS)
def test_gradient_is_that_of_the_forms_and_with_all_probes_of_the_trace(case, name, K):
    modules, (x, c) = case.modules(), case.data()
    parameters = [p for module in modules for p in module.parameters()]
    v = orthonormal_probes(randn(4, case.d), K)
    found = ESTIMATORS[name](*maps(modules, c), x, K=K, probes=v, **OPTIONS.get(name, {}))
    expected = reference(name, modules, c, x, v)
    for one, other, differentiable in zip(found, expected, (torch.square, torch.exp, torch.clone), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
        by_surrogate, by_form = gradients(differentiable(one), parameters), gradients(differentiable(other), parameters)
        torch.testing.assert_close(by_surrogate, by_form, **CLOSE)
    if case.d == K and name != "conditional":  # conditional has no trace: it chooses between two, probe by probe
        trace = traces(name, modules, c, x)[2].diagonal(dim1=1, dim2=2).sum(1)
        torch.testing.assert_close(gradients(found.surrogate, parameters), gradients(trace, parameters), **CLOSE)


@pytest.mark.parametrize("case", PAIRS.values(), ids=PAIRS)
def test_exact_and_conjugate_gradients_have_the_gradient_of_the_log_determinant(case):
    modules, (x, c) = case.modules(), case.data()
    parameters = [p for module in modules for p in module.parameters()]
    f_row, g_row = row_maps(modules, c)
    z = maps(modules, c)[0](x)
    truth = {"decoder": half_log_det(jacobians(g_row, z)), "encoder": -half_log_det(jacobians(f_row, x))}
    for side, expected in truth.items():
        found = exact(*maps(modules, c), x, side=side)
        torch.testing.assert_close(found.log_volume, expected, **CLOSE)
        torch.testing.assert_close(gradients(found.log_volume, parameters), gradients(expected, parameters), **CLOSE)
        with torch.no_grad():  # values alone are computed in forward mode
            torch.testing.assert_close(exact(*maps(modules, c), x, side=side, chunk=2).log_volume, expected, **CLOSE)
    solved = conjugate_gradient(*maps(modules, c), x, K=case.d, tolerance=1e-14, max_iterations=30)
    expected = gradients(truth["decoder"], parameters)
    torch.testing.assert_close(gradients(solved.surrogate, parameters), expected, **CLOSE)


def test_decoder_surrogate_is_exact_where_the_encoder_is_the_pseudo_inverse():
    modules, z0 = PAIRS["mlp"].modules(), randn(4, 3)
    x, J = modules[1](z0).detach(), jacobians(row_maps(modules)[1], z0)
    inverse, decoder = torch.linalg.pinv(J).detach(), list(modules[1].parameters())
    found = ESTIMATORS["decoder"](lambda t: z0 + (inverse @ (t - x).unsqueeze(2)).squeeze(2), modules[1], x, K=3)
    torch.testing.assert_close(gradients(found.surrogate, decoder), gradients(half_log_det(J), decoder), **CLOSE)


def test_surrogates_can_be_evaluated_without_gradients_and_move_no_tensor_of_the_caller():
    modules, x = PAIRS["mlp"].modules(), randn(3, 5)
    before = x.clone()
    with torch.no_grad():
        for name in SURROGATES:
            found = ESTIMATORS[name](*maps(modules), x)
            assert not any(part.requires_grad for part in found)
    assert torch.equal(x, before)
    assert not x.requires_grad


# ------------------------------------------------------------------------------------------------------- probes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("K", [1, 2, 4])
def test_probes_are_orthogonal_of_squared_length_d(K, dtype):
    v = orthonormal_probes(torch.zeros(50, 4, dtype=dtype), K)
    assert v.shape == (K, 50, 4)
    assert v.dtype == dtype
    gram = torch.einsum("kbi,lbi->bkl", v, v)
    torch.testing.assert_close(gram, 4 * torch.eye(K, dtype=dtype).expand(50, K, K), rtol=0, atol=0.1)
    if dtype == torch.float64:
        torch.testing.assert_close(gram, 4 * torch.eye(K, dtype=dtype).expand(50, K, K))


@pytest.mark.parametrize("K", [0, 5, -1])
@pytest.mark.parametrize("name", SURROGATES)
def test_more_probes_than_dimensions_are_refused(name, K):
    f = torch.nn.Linear(6, 4)
    with pytest.raises(InputError, match=rf"expected 1 <= K <= latent dimension 4; got K = {K};"):
        ESTIMATORS[name](f, torch.nn.Linear(4, 6), torch.zeros(2, 6), K=K)


def test_a_draw_of_zeros_is_no_nan(monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    assert orthonormal_probes(torch.ones(3, 1)).isfinite().all()


@pytest.mark.parametrize("d", [1, 2, 6])
def test_variance_over_probes_has_its_closed_form(d):
    """2d/(d+2) (|S|^2 - tr(A)^2/d) (d-K)/(d-1) / K, S the symmetric part; and the mean is the trace."""
    A, n = randn(d, d), 60_000
    S = (A + A.T) / 2
    single = 2 * d / (d + 2) * (S.square().sum() - A.trace() ** 2 / d)
    for K in range(1, d + 1):
        values = -ESTIMATORS["encoder"](lambda x: x @ A.T, torch.clone, torch.zeros(n, d).double(), K=K).surrogate
        variance = single / K * (d - K) / max(1, d - 1)
        torch.testing.assert_close(values.mean(), A.trace(), rtol=0, atol=float(4 * (variance / n).sqrt()) + 1e-10)
        torch.testing.assert_close(values.var(), variance, rtol=0.05, atol=1e-10)


# --------------------------------------------------------------------------- conjugate gradients, log determinant


def test_conjugate_gradients_solve_each_row_by_itself_until_it_is_solved():
    scales = torch.logspace(0, 3, 4, dtype=torch.float64)
    B = torch.linalg.qr(randn(6, 4)).Q * scales
    pushes = []

    def decode(z):
        pushes.append(z)
        return z @ B.T

    def solve(x, v, **options):
        pushes.clear()
        return conjugate_gradient(lambda x: x[:, :4], decode, x, K=4, probes=v, **options).surrogate, len(pushes)

    x, v = randn(5, 6), orthonormal_probes(randn(5, 4), 4)
    loose, cheap = solve(x, v, tolerance=0.5)
    tight, dear = solve(x, v, tolerance=1e-13, max_iterations=40)
    assert cheap < dear
    torch.testing.assert_close(tight, torch.full((5,), 4.0, dtype=torch.float64), rtol=1e-8, atol=0)  # tr J^+ J = d
    assert (loose - 4).abs().max() > 1e-6
    alone = torch.cat([solve(x[i : i + 1], v[:, i : i + 1], tolerance=0.5)[0] for i in range(5)])
    torch.testing.assert_close(loose, alone, **CLOSE)


def test_log_volume_of_scaled_turned_and_flattened_matrices():
    J, Q, scale = randn(7, 6, 3), torch.linalg.qr(randn(6, 6)).Q, torch.tensor([2.0, 0.5, 3.0]).double()
    expected = half_log_det(J)
    torch.testing.assert_close(log_volume(J), expected, **CLOSE)
    torch.testing.assert_close(log_volume(J.mT), expected, **CLOSE)
    torch.testing.assert_close(log_volume(Q @ J), expected, **CLOSE)
    torch.testing.assert_close(log_volume(J * scale), expected + scale.log().sum(), **CLOSE)
    J[0, :, 1] = 0
    assert log_volume(J)[0] == -torch.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_log_volume_keeps_small_singular_values_and_the_dtype_it_is_asked_for(dtype):
    J = torch.linalg.qr(randn(1, 6, 3)).Q * torch.tensor([1.0, 1e-3, 1e-6])
    assert log_volume(J.to(dtype)).dtype == torch.float64
    assert log_volume(J.to(dtype), None).dtype == torch.promote_types(dtype, torch.float32)
    found = log_volume(J.float() if dtype == torch.bfloat16 else J.to(dtype), None).double()
    torch.testing.assert_close(found, torch.tensor([1e-9]).double().log(), rtol=0, atol=0.1)
