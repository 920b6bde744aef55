"""The ambient density: closed forms where the decoder is linear, normalised where it is not, honest where it is bad."""

import math

import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.distributions import MultivariateNormal

from cases import descend, make_flow, randn
from isthmus.data import DATASETS
from isthmus.density import Ambient, ComponentNoise, IsotropicNoise, ambient, gaussian_components, log_normal, tangent
from isthmus.errors import InputError
from isthmus.flows import FreeFormFlow
from isthmus.latents import LATENTS, mixture
from isthmus.networks import mlp_pair
from isthmus.objective import FreeForm

EXACT = {"rtol": 1e-8, "atol": 1e-8}


def isotropic(D, sigma):
    noise = IsotropicNoise(D).double()
    noise.sigma.fill_(sigma)
    return noise


def covariance(*shape):
    root = randn(*shape, shape[-1])
    return root @ root.mT + 0.1 * torch.eye(shape[-1])


def component_noise(covariances):
    noise = ComponentNoise(covariances.shape[1], covariances.shape[0]).double()
    noise.set_covariances(covariances)
    return noise


def gaussian_mixture(d, K):
    lazy = mixture(d, components=K).double()
    lazy.logits, lazy.means, lazy.scale_tril = randn(K), randn(K, d), torch.linalg.cholesky(covariance(K, d))
    return lazy


def linear_flow(B, b, latent=None):
    """A linear decoder, and an encoder that has nothing to do with it: the density must not mind."""
    D, d = B.shape
    encoder, decoder = nn.Linear(D, d).double(), nn.Linear(d, D).double()
    with torch.no_grad():
        decoder.weight.copy_(B)
        decoder.bias.copy_(b)
    return FreeFormFlow(encoder, decoder, D, d, latent=latent).double()


def plane(low, high, step):
    axes = [torch.arange(a, b, step, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*axes), step**2


# ------------------------------------------------------------------------------------------------- linear decoder


@pytest.mark.parametrize(("D", "d"), [(5, 2), (4, 1), (6, 5)])
def test_principal_components_have_the_likelihood_of_scikit_learn(D, d):
    X = randn(200, D) @ randn(D, D) + randn(D)
    pca = PCA(d).fit(X.numpy())
    sigma2 = float(pca.noise_variance_)
    V, variances = torch.as_tensor(pca.components_).T, torch.as_tensor(pca.explained_variance_)
    model = Ambient(linear_flow(V * (variances - sigma2).sqrt(), torch.as_tensor(pca.mean_)), isotropic(D, sigma2**0.5))
    expected = torch.as_tensor(pca.score_samples(X.numpy()))
    torch.testing.assert_close(model.linearised(X), expected, **EXACT)
    value, error = model.estimate(X, n_points=16)
    torch.testing.assert_close(value, expected, **EXACT)
    assert float(error.max()) < 1e-8


@pytest.mark.parametrize("noise", ["isotropic", "component"])
@pytest.mark.parametrize(("D", "d", "K"), [(4, 2, 3), (3, 3, 2), (5, 1, 1)])
def test_mixtures_are_mixtures_of_factor_analysers(D, d, K, noise):
    B, b, latent, x = randn(D, d), randn(D), gaussian_mixture(d, K), 2 * randn(30, D)
    covariances = covariance(K, D) if noise == "component" else 0.09 * torch.eye(D).double().expand(K, D, D)
    model = Ambient(
        linear_flow(B, b, latent), component_noise(covariances) if noise == "component" else isotropic(D, 0.3)
    )
    tril = latent.scale_tril
    parts = MultivariateNormal(latent.means @ B.T + b, B @ tril @ tril.mT @ B.T + covariances)
    joint = latent.logits.log_softmax(0) + parts.log_prob(x.unsqueeze(1))
    torch.testing.assert_close(model.linearised(x), joint.logsumexp(1), **EXACT)
    torch.testing.assert_close(model.estimate(x, n_points=32).value, joint.logsumexp(1), **EXACT)

    drawn, n = model.sample(20_000), 20_000
    w = latent.logits.softmax(0)
    for statistic, truth in (
        (drawn, w @ parts.loc),
        (drawn.square(), w @ (parts.loc.square() + parts.covariance_matrix.diagonal(dim1=1, dim2=2))),
    ):
        assert float(((statistic.mean(0) - truth) / statistic.std(0)).abs().max()) < 4.5 / n**0.5


# --------------------------------------------------------------------------------------------- curved decoders


@pytest.fixture(scope="module")
def sine():
    """The paper's toy with a good and a bad fit, and the noise that held-out residuals show."""
    data, models = DATASETS["sine"](noise=0.1), {}
    for name, steps in (("good", 1500), ("bad", 60)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            flow = FreeFormFlow(*mlp_pair(2, 1, width=64), 2, 1)
            batch = lambda: (data.train[torch.randint(len(data.train), (256,))],)  # noqa: E731
            descend(flow, FreeForm(50.0), batch, steps, 1e-2, anneal=True)
        flow = flow.double()
        with torch.no_grad():
            sigma = float((data.validation - flow.reconstruct(data.validation.double())).square().sum(1).mean().sqrt())
        models[name] = Ambient(flow, isotropic(2, sigma))
    return data, models


@pytest.mark.parametrize("fit", ["good", "bad"])
def test_a_trained_model_integrates_to_one_and_never_beats_the_truth(sine, fit):
    data, models = sine
    model, x = models[fit], data.test[:1000].double()
    sigma = float(model.noise.sigma)
    assert (sigma < 0.13) is (fit == "good")
    reach = data.train.abs().amax(0) + 5 * sigma
    points, cell = plane(-reach, reach, 0.6 * sigma)
    assert float(model.estimate(points, n_points=64).value.exp().sum() * cell) == pytest.approx(1, abs=0.01)
    linearised, (sampled, error) = model.linearised(x), model.estimate(x)
    for value in (sampled, linearised) if fit == "good" else (sampled,):
        excess = value - data.log_prob(x)
        assert float(excess.mean()) < 3 * float(excess.std()) / 1000**0.5
    if fit == "good":
        assert float((sampled - data.log_prob(x)).mean()) > -0.2
        assert float((sampled - linearised).abs().mean()) < 0.05
        assert float(error.median()) < 0.02


def test_importance_sampling_tends_to_the_integral_over_the_codes(sine):
    """Held against plain quadrature over z; with few points it lies below on average."""
    data, models = sine
    x, z = data.test[:200].double(), torch.arange(-7, 7, 2e-3, dtype=torch.float64).unsqueeze(1)
    for model in models.values():
        with torch.no_grad():
            log_noise = MultivariateNormal(torch.zeros(2).double(), model.noise.sigma**2 * torch.eye(2)).log_prob(
                x.unsqueeze(1) - model.flow.decode(z)
            )
            truth = (log_noise + model.flow.base().log_prob(z)).logsumexp(1) + torch.tensor(2e-3).double().log()
        value, error = model.estimate(x, n_points=2048)
        assert float(((value - truth).abs() / (4 * error + 1e-3)).max()) < 1
        assert float((value - truth).abs().mean()) < 0.01
        crude = [model.estimate(x, n_points=8, seed=seed) for seed in range(20)]
        assert float(crude[0].standard_error.mean()) > 4 * float(error.mean())
        assert -0.05 < float(torch.stack([value - truth for value, _ in crude]).mean()) < 0.005


class Circles(nn.Module):
    """Each code an angle of a circle of its own."""

    def forward(self, z):
        return torch.stack([z.cos(), z.sin()], 2).flatten(1)


class Angles(nn.Module):
    """The angles, all wrong by the same."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def forward(self, x):
        cos, sin = x.unflatten(1, (-1, 2)).unbind(2)
        return torch.atan2(sin, cos) + self.wrong


@pytest.mark.parametrize("latent", ["normal", "mixture"])
@pytest.mark.parametrize("wrong", [0.0, 0.5, 1.2])
def test_the_integral_over_many_codes_is_found_from_an_encoder_that_is_off(wrong, latent):
    """Held against a product of integrals over one angle each; an unfitted mixture is N(0, I) too."""
    d, sigma = 8, 0.1
    flow = FreeFormFlow(Angles(wrong), Circles(), 2 * d, d, latent=LATENTS[latent](d)).double()
    x, z = flow.decode(0.5 * randn(40, d)) + sigma * randn(40, 2 * d), torch.arange(-8, 8, 1e-3, dtype=torch.float64)
    gap = x.unflatten(1, (d, 1, 2)) - Circles()(z.unsqueeze(1))  # 40 d points 2
    constant = 2 * math.log(sigma) + 1.5 * math.log(2 * math.pi)
    log_joint = -0.5 * (gap / sigma).square().sum(3) - 0.5 * z.square() - constant
    truth = (log_joint.logsumexp(2) + math.log(1e-3)).sum(1)
    value, error = Ambient(flow, isotropic(2 * d, sigma)).importance_sampled(x)
    assert float((value - truth).abs().mean()) < 0.05
    assert float(error.mean()) < 0.1


@pytest.mark.parametrize("latent", LATENTS)
def test_any_latent_integrates_to_one_on_an_untrained_network(latent):
    flow = FreeFormFlow(*mlp_pair(2, 1, width=16), 2, 1, latent=LATENTS[latent](1)).double()
    with torch.no_grad():
        for p in flow.decoder.parameters():
            p *= 2.0
    points, cell = plane((-7, -7), (7, 7), 0.12)
    for sigma in (0.25, 0.5):
        model = Ambient(flow, isotropic(2, sigma))
        assert model.linearised(points).isfinite().all()
        assert float(model.estimate(points).value.exp().sum() * cell) == pytest.approx(1, abs=0.02)


# -------------------------------------------------------------------------------------------- what every row may ask


def conditional(name):
    """A curved flow in R^3 with each kind of latent; with a context also in the latent."""
    if name == "given c":
        return make_flow("rectangular", 3, 2, 2, transforms=2, width=8, latent_transforms=2)
    latent = gaussian_mixture(2, 3) if name == "mixture" else LATENTS[name](2).double()
    return FreeFormFlow(*mlp_pair(3, 2, width=16), 3, 2, latent=latent).double()


@pytest.mark.parametrize("name", [*LATENTS, "given c"])
def test_a_row_depends_on_no_other_row_nor_on_how_rows_are_cut(name, monkeypatch):
    x, c = randn(9, 3), randn(9, 2) if name == "given c" else None
    noises = [isotropic(3, 0.2)] + [component_noise(covariance(3, 3))] * (name == "mixture")
    for noise in noises:
        model = Ambient(conditional(name), noise)
        together = [model.linearised(x, c), *model.estimate(x, c)]
        for numbers in (1, 20_000):
            monkeypatch.setattr(ambient, "_CHUNK_NUMBERS", numbers)
            apart = [model.linearised(x, c), *model.estimate(x, c)]
            torch.testing.assert_close(apart, together, rtol=1e-10, atol=1e-10)
        monkeypatch.undo()
        for i in range(9):
            row = x[i : i + 1], None if c is None else c[i : i + 1]
            alone = [model.linearised(*row), *model.estimate(*row)]
            torch.testing.assert_close(alone, [t[i : i + 1] for t in together], rtol=1e-10, atol=1e-10)
        at = tangent(model.flow, x, c)
        known = [model.linearised(x, c, at=at), *model.importance_sampled(x, c, at=at)]
        torch.testing.assert_close(known, together[:3], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [*LATENTS, "given c"])
def test_evaluation_is_deterministic_and_moves_no_generator(name):
    model, x, c = Ambient(conditional(name), isotropic(3, 0.2)), randn(4, 3), randn(4, 2) if name == "given c" else None
    state = torch.random.get_rng_state()
    first, again, other = (model.estimate(x, c, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.value, other.value)
    assert not first.value.requires_grad
    assert not model.linearised(x, c).requires_grad
    if name in {"normal", "mixture"}:  # other densities, torch's and zuko's, cannot do with no rows
        assert model.linearised(x[:0]).shape == (0,)


@pytest.mark.parametrize("name", [*LATENTS, "given c"])
def test_samples_are_codes_decoded_with_noise_at_any_temperature(name):
    model, c = Ambient(conditional(name), isotropic(3, 1e-6)), randn(50, 2) if name == "given c" else None
    x = model.sample(50, c)
    assert x.shape == (50, 3)
    if name == "given c":  # the rectangular encoder finds its own manifold again
        torch.testing.assert_close(x, model.flow.reconstruct(x, c).detach(), rtol=0, atol=1e-4)
    else:
        modes = torch.unique(model.sample(50, temperature=0.0).round(decimals=6), dim=0)
        assert len(modes) <= (model.flow.latent.logits.numel() if name.startswith("mixture") else 1)
    wide = Ambient(model.flow, isotropic(3, 0.2))
    cold, warm = (wide.linearised(wide.sample(50, c, temperature=t), c).mean() for t in (0.3, 1.0))
    assert cold > warm
    if c is not None:
        with pytest.raises(InputError, match="one context row for each of 7 samples; got 50"):
            model.sample(7, c)


def test_truncation_draws_from_the_likeliest_codes():
    flow = linear_flow(torch.tensor([[1.0], [0.0]]).double(), torch.zeros(2).double())
    model = Ambient(flow, isotropic(2, 0.5))
    whole, half, few = (model.sample(20_000, noise=False, truncation=share)[:, 0] for share in (1, 0.5, 0.125))
    # of |z| under N(0, 1) a half lies below 0.674, an eighth below 0.157; 16 candidates know these places roughly
    assert float(whole.std()) == pytest.approx(1, abs=0.03)
    assert float((half.abs() < 0.674).double().mean()) > 0.9
    assert float((few.abs() < 0.157).double().mean()) > 0.7
    assert float(few.abs().max()) < float(half.abs().max()) < float(whole.abs().max())
    assert float(model.sample(20_000, truncation=0.125)[:, 1].std()) == pytest.approx(0.5, abs=0.02)  # noise is whole
    with pytest.raises(InputError, match=r"share of the codes in \(0, 1\]"):
        model.sample(3, truncation=0.0)


@pytest.mark.parametrize("name", LATENTS)
def test_any_latent_can_be_truncated(name):
    flow = conditional(name)
    model = Ambient(flow, isotropic(3, 0.2))
    assert model.sample(64, truncation=0.1).isfinite().all()
    whole, few = (flow.base().log_prob(model._likely_codes(500, None, 1.0, share)[0]) for share in (1.0, 0.1))
    assert float((few.mean() - whole.mean()).detach()) > 0.5


@torch.no_grad()
def test_truncated_rows_keep_their_context():
    flow, c = conditional("given c"), randn(64, 2)
    model = Ambient(flow, isotropic(3, 0.2))
    rows = [model.sample(64, c, noise=False, truncation=share) for share in (0.1, 1.0)]
    few, whole = (flow.base(c).log_prob(flow.encode(x, c)) for x in rows)  # this encoder gives the codes drawn
    assert float(few.mean()) > float(whole.mean()) + 0.5


# -------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    "noise", [isotropic(3, 0.4), component_noise(torch.diag_embed(torch.rand(4, 3).double() + 0.1))]
)
def test_noise_whitens_what_it_colours(noise):
    e, K = randn(8, 3), noise.half_log_det().shape[0]
    for k in range(K):
        coloured = noise.color(e, torch.full((8,), k))
        torch.testing.assert_close(noise.whiten(coloured)[:, k], e, **EXACT)
        root = noise.color(torch.eye(3).double(), torch.full((3,), k))
        torch.testing.assert_close(noise.half_log_det()[k], torch.linalg.slogdet(root).logabsdet, **EXACT)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_noise_of_no_width_is_refused(sigma):
    with pytest.raises(InputError, match="expected sigma > 0, the standard deviation of the noise; got "):
        IsotropicNoise(2, sigma)


@pytest.mark.parametrize(("latent", "K"), [("normal", 3), ("student_t", 2), ("mixture", 7), ("flow", 8)])
def test_noise_with_other_components_than_the_latent_is_refused(latent, K):
    """It would silently be counted K times."""
    flow = FreeFormFlow(*mlp_pair(3, 2, width=8), 3, 2, latent=LATENTS[latent](2)).double()
    model = Ambient(flow, component_noise(covariance(K, 3)))
    calls = (model.linearised, model.importance_sampled, lambda x: model.sample(len(x)))
    for call in calls:
        with pytest.raises(InputError, match=f"expected noise of one component or of .* as the latent has; got {K};"):
            call(randn(4, 3))


def test_only_gaussian_latents_have_gaussian_components():
    for name, lazy in LATENTS.items():
        components = gaussian_components(lazy(2)())
        assert (components is None) is (name in {"student_t", "flow"})
        if components is not None:
            log_weights, means, tril = components
            z = torch.randn(5, 2)
            log_prob = (log_weights + MultivariateNormal(means, scale_tril=tril).log_prob(z.unsqueeze(1))).logsumexp(1)
            torch.testing.assert_close(lazy(2)().log_prob(z), log_prob)


def test_a_row_beyond_arithmetic_does_not_stop_the_others():
    flow = FreeFormFlow(*mlp_pair(3, 1), data_dim=3, latent_dim=1).double()
    ambient = Ambient(flow, IsotropicNoise(3, 0.1)).double()
    alone = ambient.linearised(torch.zeros(1, 3, dtype=torch.float64))
    rows = torch.stack([torch.zeros(3), torch.full((3,), torch.nan)]).double()
    values = ambient.linearised(rows)
    assert torch.allclose(values[:1], alone)
    assert values[1].isnan()


@pytest.mark.parametrize(
    ("points", "factors"), [((), ()), ((5,), ()), ((5,), (5,)), ((5, 3), (3,)), ((4, 5, 3), (3,)), ((5, 1), (3,))]
)
def test_normal_densities_with_factors_of_some_of_the_dimensions(points, factors):
    offset, some = randn(*points, 2), randn(*factors, 2, 2)
    tril = torch.linalg.cholesky(some @ some.mT + 0.1 * torch.eye(2).double())
    expected = MultivariateNormal(torch.zeros(2).double(), scale_tril=tril).log_prob(offset)
    torch.testing.assert_close(log_normal(offset, tril), expected)
