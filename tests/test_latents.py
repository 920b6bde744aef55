"""Latent densities: normalised, the law of their samples, and equal to what scipy and torch say."""

import math

import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

from isthmus import latents
from isthmus.errors import InputError
from isthmus.latents import LATENTS, MultivariateStudentT, mixture, student_t


def latent(name, dim, context_dim=0):
    """One of each kind in float64, its parameters moved to where nothing is symmetric."""
    lazy = LATENTS[name](dim, context_dim).double()
    with torch.no_grad():
        for parameter in lazy.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
        if name == "mixtures":
            lazy.contexts += torch.tensor([[-1.0], [1.0]])
        if name in ("mixture", "mixtures"):
            lazy.logits += torch.randn_like(lazy.logits)
            lazy.means += torch.randn_like(lazy.means)
            lazy.scale_tril = (0.5 * torch.randn_like(lazy.scale_tril)).tril(-1) + torch.diag(
                torch.rand(dim).double() + 0.3
            )
    return lazy


def grid(dim, reach=7.0):
    """Points of R^d, spaced like sinh for the sake of heavy tails, and their weights."""
    t = torch.arange(-reach, reach, {1: 5e-4, 2: 0.05}[dim], dtype=torch.float64)
    points = torch.cartesian_prod(*[t] * dim).reshape(-1, dim)
    return points.sinh(), points.cosh().prod(1) * (t[1] - t[0]) ** dim


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", LATENTS)
def test_integrates_to_one_and_is_the_law_of_its_samples(name, dim):
    with torch.no_grad():
        base = latent(name, dim)()
        points, weights = grid(dim)
        mass = base.log_prob(points).exp() * weights
        assert float(mass.sum()) == pytest.approx(1, abs=2e-4)
        z = base.sample(torch.Size([10_000]))
        assert z.shape == (10_000, dim)
        for statistic in (torch.cos, torch.tanh, lambda t: (2 * t).sin() * t[:, :1].tanh()):
            drawn, expected = statistic(z).mean(0), (statistic(points) * mass.unsqueeze(1)).sum(0)
            assert float(((drawn - expected) / statistic(z).std(0)).abs().max()) < 4.5 / 100


@pytest.mark.parametrize("name", LATENTS)
def test_each_kind_follows_its_module_and_takes_a_context(name):
    lazy = latent(name, 3, context_dim=2)
    c = torch.linspace(-2, 2, 5).double().unsqueeze(1).repeat(1, 2)
    base = lazy(c)
    assert base.event_shape == (3,)
    z = base.sample() if base.batch_shape else base.sample(torch.Size([5]))
    value = base.log_prob(z)
    assert z.dtype == value.dtype == torch.float64
    assert z.shape == (5, 3)
    assert value.shape == (5,)
    depends = not torch.allclose(lazy(c.flip(0)).log_prob(z), value)
    assert depends is (name in ("flow", "mixtures"))


def test_each_context_has_a_mixture_of_its_own_and_another_that_of_the_nearest():
    lazy = latent("mixtures", 2, context_dim=1)
    lazy.contexts = torch.tensor([[-1.0], [1.0]]).double()
    z = torch.randn(6, 2).double()
    for j, near in ((0, [-1.0, -0.2]), (1, [1.0, 7.0])):
        own = mixture(2, components=8).double()
        own.logits, own.means, own.scale_tril = lazy.logits[j], lazy.means[j], lazy.scale_tril[j]
        for value in near:
            torch.testing.assert_close(lazy(torch.full((6, 1), value).double()).log_prob(z), own().log_prob(z))
    mixed = lazy(torch.tensor([[-1.0], [1.0], [-1.0], [1.0], [-1.0], [1.0]]).double())
    alone = [lazy(c.expand(6, 1)).log_prob(z) for c in lazy.contexts]
    torch.testing.assert_close(mixed.log_prob(z), torch.stack(alone)[[0, 1] * 3, range(6)])
    drawn = mixed.sample(torch.Size([20_000]))
    for j in range(2):
        expected = lazy.logits[j].softmax(0) @ lazy.means[j]
        torch.testing.assert_close(drawn[:, j::2].mean((0, 1)), expected, rtol=0, atol=0.05)
    both = torch.stack([lazy(c.expand(6, 1)).log_prob(z) for c in lazy.contexts])
    torch.testing.assert_close(lazy().log_prob(z), both.logsumexp(0) - math.log(2))


@pytest.mark.parametrize("df", [1.0, 2.5, 30.0])
def test_student_t_is_that_of_scipy(df):
    z = 3 * torch.randn(20, 3, dtype=torch.float64)
    for d in (1, 2, 3):
        expected = stats.multivariate_t(shape=torch.eye(d).numpy(), df=df).logpdf(z[:, :d].numpy())
        found = student_t(d, df=df).double()().log_prob(z[:, :d])
        torch.testing.assert_close(found, torch.as_tensor(expected).reshape(20), rtol=1e-10, atol=1e-10)


def test_columns_of_the_student_t_share_one_scale():
    z = MultivariateStudentT(torch.tensor(8.0), 2).sample(torch.Size([40_000]))
    assert float(torch.corrcoef(z.T)[0, 1].abs()) < 0.02
    assert float(torch.corrcoef(z.abs().T)[0, 1]) > 0.05
    assert float(z.var()) == pytest.approx(8 / 6, rel=0.05)
    assert MultivariateStudentT(torch.tensor(8.0), 2).sample().shape == (2,)


def test_student_t_is_differentiable_through_its_samples():
    df = torch.tensor(5.0, requires_grad=True)
    MultivariateStudentT(df, 2).rsample((3,)).sum().backward()
    assert df.grad.isfinite()


@pytest.mark.parametrize("df", [0.0, -1.0])
def test_student_t_refuses_no_degrees_of_freedom(df):
    with pytest.raises(InputError, match=r"expected degrees of freedom > 0; got .*; 5 is a usual choice"):
        student_t(2, df=df)


def test_mixture_is_the_weighted_sum_of_its_gaussians():
    lazy, z = latent("mixture", 2), torch.randn(9, 2, dtype=torch.float64)
    parts = [
        share.log() + MultivariateNormal(mean, scale_tril=tril).log_prob(z)
        for share, mean, tril in zip(lazy.logits.softmax(0), lazy.means, lazy.scale_tril, strict=True)
    ]
    torch.testing.assert_close(lazy().log_prob(z), torch.stack(parts).logsumexp(0), rtol=1e-12, atol=1e-12)


def far_apart():
    lazy = latents.mixture(2, components=2)
    lazy.means = torch.tensor([[-9.0, 0.0], [9.0, 0.0]])
    return lazy


def of_classes():
    lazy = latents.mixtures(2, 1, contexts=2, components=2)
    lazy.means = torch.tensor([[[-9.0, 0.0], [9.0, 0.0]], [[0.0, -9.0], [0.0, 9.0]]])
    lazy.contexts = torch.tensor([[0.0], [1.0]])
    return lazy


COLD = {
    "normal": (lambda: latents.normal(3), None),
    "student_t": (lambda: latents.student_t(3), None),
    "flow": (lambda: latents.flow(2, transforms=1, width=8), None),
    "flow given c": (lambda: latents.flow(2, 1, transforms=1, width=8), torch.zeros(4000, 1)),
    "mixture": (far_apart, None),
    "mixtures": (of_classes, torch.ones(4000, 1)),
    "all mixtures": (of_classes, None),
}


@pytest.mark.parametrize("name", COLD)
def test_colder_codes_are_likelier_and_stay_at_their_modes(name):
    """Codes scaled towards the origin, as once was done, put half of them between the modes of a mixture."""
    make, c = COLD[name]
    torch.manual_seed(0)
    base = make()(c)
    means = [float(base.log_prob(latents.draw(base, 4000, t)).detach().mean()) for t in (0.0, 0.3, 0.6, 1.0)]
    assert means == sorted(means, reverse=True)
    assert means[1] > means[3] + 0.3


def test_a_density_without_a_colder_form_refuses_a_temperature():
    uniform = torch.distributions.Independent(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)), 1)
    assert latents.draw(uniform, 3).shape == (3, 2)
    with pytest.raises(InputError, match="expected temperature 1 for codes of a Independent"):
        latents.draw(uniform, 3, 0.5)
