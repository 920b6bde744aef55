"""Directional derivatives against brute force, for every kind of network."""

import pytest
import torch

from cases import PAIRS, Case, jacobians, maps, row_maps
from isthmus.autodiff import jacobian, pull, pullback, push

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(params=PAIRS)
def case(request):
    return PAIRS[request.param]


def sides(case: Case, rows=4):
    """Encoder and decoder with their points and true Jacobians."""
    modules, (x, c) = case.modules(), case.data(rows)
    z = torch.randn(rows, case.d, dtype=torch.float64)
    for f, f_row, point in zip(maps(modules, c), row_maps(modules, c), (x, z), strict=True):
        yield f, point, jacobians(f_row, point).detach()


@pytest.mark.parametrize("K", [None, 1, 3])
def test_products_are_those_of_the_true_jacobian(case, K):
    for f, x, J in sides(case):
        v, w = (torch.randn(*[K] * (K is not None), 4, J.shape[i], dtype=torch.float64) for i in (2, 1))
        y, forward = push(f, x, v)
        y_too, backward = pull(f, x, w)
        torch.testing.assert_close(y, f(x), **CLOSE)
        torch.testing.assert_close(y_too, f(x), **CLOSE)
        torch.testing.assert_close(forward, torch.einsum("bmn,...bn->...bm", J, v), **CLOSE)
        torch.testing.assert_close(backward, torch.einsum("bmn,...bm->...bn", J, w), **CLOSE)


@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
def test_whole_jacobian_in_chunks(case, chunk):
    for f, x, J in sides(case):
        y, found = jacobian(f, x, chunk=chunk)
        torch.testing.assert_close(y, f(x), **CLOSE)
        torch.testing.assert_close(found, J, **CLOSE)


@pytest.mark.parametrize(("outputs", "passes"), [(None, 2), (5, 1)])
def test_a_map_is_evaluated_once_where_the_number_of_its_outputs_is_known(outputs, passes):
    calls = []

    def f(x):
        calls.append(x)
        return torch.cat([x.sin(), x.cos(), x[:, :1]], 1)

    x = torch.randn(4, 2)
    with torch.no_grad():
        y, J = jacobian(f, x, outputs=outputs)
    assert len(calls) == passes
    torch.testing.assert_close(y, f(x))
    torch.testing.assert_close(J, jacobians(lambda _, row: f(row.unsqueeze(0)).squeeze(0), x))


@pytest.mark.parametrize("needs_grad", [False, True])
def test_the_callers_tensors_are_left_alone(case, needs_grad):
    for f, x, J in sides(case):
        v, w = (torch.randn(2, 4, J.shape[i], dtype=torch.float64) for i in (2, 1))
        tensors = [t.requires_grad_(needs_grad) for t in (x, v, w)]
        copies = [t.detach().clone() for t in tensors]
        push(f, x, v), pull(f, x, w), jacobian(f, x)
        for tensor, copy in zip(tensors, copies, strict=True):
            assert torch.equal(tensor, copy)
            assert tensor.requires_grad is needs_grad
            assert tensor.is_leaf
            assert tensor.grad is None


def test_nothing_is_recorded_without_gradients_and_all_of_it_with(case):
    def results(f, x, v, w):
        y, transpose = pullback(f, x)
        return [y, transpose(w), transpose(w[0]), *push(f, x, v), *push(f, x, v[0]), *jacobian(f, x)]

    for f, x, J in sides(case):
        v, w = (torch.randn(2, 4, J.shape[i], dtype=torch.float64) for i in (2, 1))
        with torch.no_grad():
            frozen = results(f, x, v, w)
        recorded = results(f, x, v, w)
        assert not any(result.requires_grad for result in frozen)
        assert all(result.requires_grad for result in recorded)
        for one, other in zip(frozen, recorded, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)


def test_networks_for_inference_have_the_same_jacobian(case):
    """The fast paths that torch takes in evaluation mode without gradients have no derivatives of their own."""
    modules, (x, c) = case.modules(), case.data()
    expected = jacobian(maps(modules, c)[0], x)[1]
    for module in modules:
        module.eval().requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(jacobian(maps(modules, c)[0], x)[1], expected, **CLOSE)


@pytest.mark.parametrize("name", PAIRS)
def test_products_are_differentiable_in_points_and_vectors(name):
    for f, x, J in sides(PAIRS[name], rows=2):
        v, w = (torch.randn(2, J.shape[i], dtype=torch.float64, requires_grad=True) for i in (2, 1))
        x.requires_grad_()
        assert torch.autograd.gradcheck(lambda x, w, f=f: pull(f, x, w)[1], (x, w))
        assert torch.autograd.gradcheck(lambda x, f=f: jacobian(f, x)[1], (x,))
        if (
            "user" not in name and "transformer" not in name
        ):  # their LayerNorm: torch differentiates the tangent wrongly, see the module
            assert torch.autograd.gradcheck(lambda x, v, f=f: push(f, x, v)[1], (x, v))


def test_no_rows_have_no_derivatives():
    x = torch.zeros(0, 3)
    assert push(torch.sin, x, torch.zeros(2, 0, 3))[1].shape == (2, 0, 3)
    assert pull(torch.sin, x, x)[1].shape == (0, 3)
    assert jacobian(torch.sin, x)[1].shape == (0, 3, 3)


def test_an_error_of_the_users_own_map_is_raised_in_its_own_words():
    def broken(x):
        raise RuntimeError("the user's own words")

    x = torch.zeros(2, 3)
    for call in (lambda: push(broken, x, x), lambda: pull(broken, x, x), lambda: jacobian(broken, x)):
        with pytest.raises(RuntimeError, match="the user's own words"):
            call()


def test_running_out_of_memory_is_not_tried_twice():
    calls = []

    def hungry(x):
        calls.append(x)
        raise torch.OutOfMemoryError

    for call in (push, pull):
        with pytest.raises(torch.OutOfMemoryError):
            call(hungry, torch.zeros(2, 3), torch.zeros(2, 3))
    assert len(calls) == 2
