"""The refit of latent and noise: what it can represent, what it finds, and that held-out rows decide."""

import pytest
import torch
from torch import nn

from cases import randn
from isthmus.density import Ambient, ComponentNoise, LowRankNoise, gaussian_components
from isthmus.errors import InputError
from isthmus.flows import FreeFormFlow
from isthmus.recipe import Recipe, RefitRecipe
from isthmus.refit import fit_flow, fit_mixture, refit_density
from isthmus.rows import Rows


def covariances(K, D):
    root = randn(K, D, D)
    return root @ root.mT + 0.1 * torch.eye(D)


def low_rank(sigma, rank):
    noise = LowRankNoise(sigma.shape[1], sigma.shape[0], rank).double()
    noise.set_covariances(sigma)
    return noise


def implied(noise, D):
    """Sigma_k, from what `whiten` does to the unit vectors."""
    W = noise.whiten(torch.eye(D).double()).movedim(1, 0).mT
    return torch.linalg.inv(W.mT @ W)


@pytest.mark.parametrize(("K", "D"), [(1, 1), (3, 4), (2, 7)])
def test_low_rank_noise_of_full_rank_is_a_full_covariance(K, D):
    sigma, v = covariances(K, D), randn(5, D)
    full = ComponentNoise(D, K).double()
    full.set_covariances(sigma)
    noise = low_rank(sigma, D)
    torch.testing.assert_close(noise.whiten(v).square().sum(-1), full.whiten(v).square().sum(-1))
    torch.testing.assert_close(noise.half_log_det(), full.half_log_det())
    torch.testing.assert_close(implied(noise, D), sigma)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_low_rank_noise_whitens_what_it_colours_and_keeps_the_total_variance(rank):
    K, D = 2, 6
    sigma = covariances(K, D)
    noise = low_rank(sigma, rank)
    cut = implied(noise, D)
    torch.testing.assert_close(noise.half_log_det(), 0.5 * torch.logdet(cut))
    for k in range(K):
        component = torch.full((D,), k)
        colored = noise.color(torch.eye(D).double(), component)  # rows are Sigma^(1/2) e_i
        torch.testing.assert_close(colored.mT @ colored, cut[k])
        scale = sigma[k].diagonal()
        assert float((cut[k].diagonal() / scale).sum()) == pytest.approx(D)  # of the correlation matrix: its trace
    own = torch.linspace(0.5, 2, D).double().diag()
    one_direction = own @ (torch.eye(D) + 3 * torch.ones(D, D) / D).double() @ own
    torch.testing.assert_close(implied(low_rank(one_direction.unsqueeze(0), rank), D)[0], one_direction)


def plane_with(noise_scale, *, n=600, D=6):
    """Rows on a plane through the origin with Gaussian noise of a given standard deviation for each column."""
    torch.manual_seed(0)
    axes = torch.linalg.qr(randn(D, 2)).Q
    z = torch.cat([0.3 * randn(n // 2, 2) - 2, 0.3 * randn(n - n // 2, 2) + 2])[torch.randperm(n)]
    x = z @ axes.mT + noise_scale * randn(n, D)
    flow = FreeFormFlow(nn.Linear(D, 2, bias=False), nn.Linear(2, D, bias=False), D, 2).double()
    with torch.no_grad():
        flow.encoder.weight.copy_(axes.mT)
        flow.decoder.weight.copy_(axes)
    return flow, Rows(x[: 2 * n // 3]), Rows(x[2 * n // 3 :])


@pytest.mark.parametrize(
    ("latent", "noise"),
    [("as trained", "isotropic"), ("gaussian", "component"), ("mixture", "low_rank"), ("flow", "isotropic")],
)
def test_the_recipe_can_ask_for_a_kind(latent, noise):
    flow, train, held_out = plane_with(torch.tensor(0.1))
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    refit = refit_density(flow, train, held_out, RefitRecipe(latent=latent, noise=noise))
    assert refit.latent.kind == {"gaussian": "mixture"}.get(latent, latent)
    assert refit.latent.options.get("components", 1) == 1 or latent == "mixture"
    assert refit.noise.kind == noise
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    assert {c["noise"]["kind"] for c in refit.candidates} == {noise}


def test_held_out_rows_choose_a_mixture_for_two_clusters_and_correlated_noise_where_it_is():
    even, uneven = torch.tensor(0.1), torch.tensor([0.02, 0.5, 0.02, 0.5, 0.02, 0.5]).double()
    for scale, kinds in ((even, {"isotropic", "low_rank", "component"}), (uneven, {"low_rank", "component"})):
        flow, train, held_out = plane_with(scale)
        refit = refit_density(flow, train, held_out, RefitRecipe())
        assert refit.latent.kind == "mixture"
        assert refit.latent.options["components"] >= 2
        assert refit.noise.kind in kinds
        value = float(refit.density.linearised(held_out.x).mean())
        assert value == pytest.approx(max(c["log_likelihood"] for c in refit.candidates))
        components = gaussian_components(refit.density.flow.base())
        z = flow.encode(held_out.x).detach()
        assert components is not None
        truth = Ambient(refit.density.flow, refit.density.noise).linearised(held_out.x)
        assert bool(truth.isfinite().all())
        assert z.shape[1] == components[1].shape[1]


def test_no_direction_gets_less_noise_than_a_thousandth_of_a_column():
    flow, train, held_out = plane_with(torch.tensor([0.3, 0.0, 0.0, 0.0, 0.3, 0.3]).double())
    refit = refit_density(flow, train, held_out, RefitRecipe(latent="gaussian", noise="component"))
    variances = torch.linalg.eigvalsh(implied(refit.density.noise, 6))
    assert float(variances.min()) >= 1e-6 * (1 - 1e-6)


def test_a_flow_latent_beats_the_gaussian_it_starts_from():
    torch.manual_seed(1)
    z = randn(2_000, 2)
    z = torch.stack([z[:, 0], 0.5 * z[:, 1] + z[:, 0].square() - 1], 1)
    state = torch.get_rng_state()
    fitted = fit_flow(z[:1_500], transforms=2, width=32)
    assert torch.equal(torch.get_rng_state(), state)
    value = float(fitted().log_prob(z[1_500:]).mean())
    gaussian = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov()).log_prob(z[1_500:]).mean()
    assert value > float(gaussian) + 0.2


def test_a_flow_latent_does_not_care_for_the_units_of_the_codes():
    """The splines bend [-5, 5] alone, and the codes of a plain autoencoder lie anywhere."""
    torch.manual_seed(1)
    z = randn(1_500, 2)
    z = torch.stack([z[:, 0], 0.5 * z[:, 1] + z[:, 0].square() - 1], 1)
    scale, shift = torch.tensor([40.0, 0.01]).double(), torch.tensor([300.0, -2.0]).double()
    near, far = (fit_flow(codes, transforms=2, width=32, steps=300)() for codes in (z, z * scale + shift))
    expected = near.log_prob(z) - scale.log().sum()
    torch.testing.assert_close(far.log_prob(z * scale + shift), expected, rtol=0, atol=0.2)  # in other roundings
    assert float(far.log_prob(z * scale + shift).mean()) == pytest.approx(float(expected.mean()), abs=0.02)
    assert bool(((far.sample((500,)) - shift) / scale).abs().max() < 10)


def test_a_flow_latent_reaches_codes_far_out():
    """Codes with a Student-t's tails, of which half a percent lie beyond five standard deviations."""
    torch.manual_seed(0)
    law = torch.distributions.StudentT(torch.tensor(3.0).double())
    z, others = law.sample((2, 3_000, 2))
    value = float(fit_flow(z, transforms=2, width=32)().log_prob(others).mean())
    assert value > float(law.log_prob(others).sum(1).mean()) - 0.1


def test_a_wrong_kind_is_refused_by_name():
    with pytest.raises(InputError, match=r"refit\.latent.*got .mixtures"):
        Recipe.parse("refit: {latent: mixtures}")


def test_a_mixture_ends_on_all_rows():
    """Expectation maximisation keeps mean and covariance of the rows it ends on, here of those it did not begin on."""
    z = torch.randn(60_000, 2, dtype=torch.float64)
    z[torch.arange(60_000) % 3 > 0] += 4  # the mixture begins on every third row
    base = fit_mixture(z, 2)()
    mean = base.logits.softmax(0) @ base.base.loc
    torch.testing.assert_close(mean, z.mean(0), rtol=1e-3, atol=1e-3)


def test_codes_that_differ_between_classes_get_a_mixture_for_each():
    """The codes of each class are two Gaussians, elsewhere for each: only a density that knows the class finds them."""
    labels = torch.arange(600) % 3
    c = torch.nn.functional.one_hot(labels).double()
    z = 4 * labels.unsqueeze(1) + 0.3 * randn(600, 1) + (torch.rand(600, 1) > 0.5).double()
    rows = Rows(torch.cat([z, 0.01 * randn(600, 2)], 1), c)
    flow = FreeFormFlow(Told(nn.Linear(3, 1)), Told(nn.Linear(1, 3)), data_dim=3, latent_dim=1, context_dim=3).double()
    with torch.no_grad():
        flow.encoder.map.weight.copy_(torch.tensor([[1.0, 0, 0]]))
        flow.decoder.map.weight.copy_(torch.tensor([[1.0], [0], [0]]))
        flow.encoder.map.bias.zero_(), flow.decoder.map.bias.zero_()
    refit = refit_density(flow, rows, rows, RefitRecipe(latent="mixture", noise="isotropic"))
    assert (refit.latent.kind, refit.latent.contexts) == ("mixtures", 3)
    assert refit.latent.components >= 2
    drawn = refit.density.sample(600, c, noise=False)[:, 0]
    for label in range(3):
        own = drawn[labels == label]
        assert bool(((own > 4 * label - 1.5) & (own < 4 * label + 2.5)).all())
        assert float(own.mean()) == pytest.approx(4 * label + 0.5, abs=0.15)
    exact = refit.density.importance_sampled(rows.x[:30], c[:30], n_points=1024)
    close = refit.density.linearised(rows.x[:30], c[:30])
    assert float((exact.value - close).abs().max()) < 0.5  # the decoder is linear: only quasi-random points differ
    few = refit_density(flow, Rows(rows.x[:8], c[:8]), rows, RefitRecipe(latent="mixture", noise="isotropic"))
    assert few.latent.kind == "mixture"  # less than four rows of each class


class Told(nn.Module):
    """A map that is told a context and does not mind."""

    def __init__(self, map):
        super().__init__()
        self.map = map

    def forward(self, x, c):
        return self.map(x)
