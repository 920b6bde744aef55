"""The rivals are recipes of the library; where a rival has a closed form or another implementation, both agree."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from isthmus.fitting import fit, rows_again
from isthmus.recipe import Recipe
from isthmus.report import render
from isthmus.store import load, save

RIVALS = {
    "pca": """
        flow: {latent_dim: 2, network: {kind: linear}}
        objective: {kind: reconstruction}
        training: {max_steps: 0}
        refit: {latent: gaussian, noise: isotropic}""",
    "mixture": """
        flow: {kind: bijective, transforms: 0}
        objective: {kind: likelihood}
        training: {max_steps: 0}
        refit: {latent: mixture}""",
    "spline flow": """
        flow: {kind: bijective, transforms: 2, width: 16}
        objective: {kind: likelihood}
        training: {max_steps: 30}
        refit: {latent: as trained}""",
    "variational autoencoder": """
        flow: {kind: variational, latent_dim: 2}
        objective: {kind: variational}
        training: {max_steps: 30}""",
    "wasserstein autoencoder": """
        flow: {latent_dim: 2}
        objective: {kind: wasserstein}
        training: {max_steps: 30}""",
    "regularised autoencoder": """
        flow: {latent_dim: 2}
        objective: {kind: regularised, decoder: gradient_penalty}
        training: {max_steps: 30}
        refit: {latent: mixture}""",
    "two phases": """
        flow: {kind: rectangular, latent_dim: 2, latent_transforms: 0, transforms: 2, width: 16}
        objective: {kind: reconstruction}
        training: {max_steps: 20, keep: last}
        refit: {latent: flow, noise: isotropic, flow_steps: 20}""",
}


@pytest.fixture(scope="module")
def iris():
    x = np.random.default_rng(0).permutation(load_iris().data)
    return x + 0.05 * np.random.default_rng(1).normal(size=x.shape)  # no equal rows


@pytest.fixture(scope="module")
def fits(iris):
    return {name: fit(iris, recipe=Recipe.parse(text)) for name, text in RIVALS.items()}


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_fits_scores_samples_and_is_stored(fits, iris, name, tmp_path):
    fitted, x = fits[name], torch.as_tensor(iris)
    save(fitted, tmp_path / "model")
    model, again = fitted.model, load(tmp_path / "model").model
    assert model.sample(5).shape == (5, 4)
    for density in model.density.names:
        value = model.log_prob(x, density=density)
        assert value.isfinite().all()
        assert torch.equal(again.log_prob(x, density=density), value)


def test_linear_networks_without_training_are_the_principal_components(fits, iris):
    model = fits["pca"].model
    train, _ = rows_again(fits["pca"], iris)
    pca = PCA(2).fit(train.x.numpy())
    expected = pca.inverse_transform(pca.transform(train.x.numpy()))
    found = model.flow.reconstruct(train.x)
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-4, atol=1e-5)  # networks start in float32


def test_a_mixture_on_the_whole_space_is_that_mixture(fits, iris):
    model, (train, held_out) = fits["mixture"].model, rows_again(fits["mixture"], iris)
    logits = model.flow.latent().logits
    assert fits["mixture"].noise is None
    options = {"reg_covar": 1e-3 * float(train.x.numpy().var(0).mean()), "random_state": 0}
    expected = GaussianMixture(len(logits), **options).fit(train.x.numpy()).score_samples(held_out.x.numpy())
    torch.testing.assert_close(model.density.log_prob(held_out.x), torch.as_tensor(expected))


def test_on_the_whole_space_both_densities_are_the_flow_s_own(fits, iris):
    model, x = fits["spline flow"].model, torch.as_tensor(iris)
    u = model.columns.standardise(x)
    expected = model.flow.log_prob(u).detach() + model.columns.log_det(x)
    torch.testing.assert_close(model.log_prob(x), expected)
    value, error = model.estimate(x)
    torch.testing.assert_close(value, expected)
    assert not error.any()
    torch.testing.assert_close(model.reconstruct(x), x, rtol=1e-6, atol=1e-6)


def test_no_training_keeps_the_start_and_scores_it(fits):
    figures = fits["pca"].figures
    assert (figures.steps, figures.best_step) == (0, 0)
    assert figures.validation["reconstruction_mse"] > 0
    assert figures.latent_dim_curve == []


def test_the_last_weights_are_kept_where_asked_for(iris):
    texts = {
        keep: f"{{flow: {{latent_dim: 2}}, training: {{max_steps: 400, keep: {keep}}}}}" for keep in ("best", "last")
    }
    found = {keep: fit(iris, recipe=Recipe.parse(text)).figures for keep, text in texts.items()}
    assert found["last"].best_step == found["last"].steps - found["last"].steps % 20
    assert found["best"].best_step < found["last"].best_step


def test_the_whole_space_has_no_dimension_to_choose(fits):
    assert fits["spline flow"].model.flow.latent_dim == 4
    assert [v.name for v in fits["spline flow"].figures.health.verdicts] == [
        "training",
        "codes",
        "samples",
        "generalisation",
    ]


def test_a_flow_of_the_whole_space_has_a_report_too(fits, iris):
    """It has no residuals, no noise and an exact reconstruction; nothing of the page may stumble over that."""
    page = render(fits["spline flow"], pd.DataFrame(iris, columns=list("abcd")))
    assert "Report on the model" in page
    assert "nan" not in re.sub(r"<(script|style|svg).*?</\1>", "", page, flags=re.DOTALL).lower().split()
