"""The main job on real data: scikit-learn's digits, default recipe, against PPCA and a Gaussian mixture."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from isthmus import InjectiveFlow
from isthmus.metrics import c2st_auc, energy_distance

N_SAMPLES = 2_000


@pytest.fixture(scope="module")
def digits():
    """Integer table without constant columns, a held-out third, and both dequantised, in the table's units."""
    table = load_digits().data
    table = table[:, table.std(0) > 0]
    rng = np.random.default_rng(0)
    order = rng.permutation(len(table))
    test, train = table[order[: len(table) // 3]], table[order[len(table) // 3 :]]
    return train, test, *(rows + rng.uniform(-0.5, 0.5, rows.shape) for rows in (train, test))


@pytest.fixture(scope="module")
def rivals(digits):
    """The best probabilistic PCA of any dimension and the mixture that BIC chooses: test nats and samples."""
    _, _, train, test = digits
    mean, scale = train.mean(0), train.std(0)
    u, v = (train - mean) / scale, (test - mean) / scale
    pca = max((PCA(d).fit(u) for d in range(1, u.shape[1])), key=lambda fit: fit.score(v))
    mixture = min(
        (GaussianMixture(k, random_state=0, reg_covar=1e-3).fit(u) for k in range(1, 9)), key=lambda m: m.bic(u)
    )
    rng = np.random.default_rng(0)
    samples = rng.multivariate_normal(pca.mean_, pca.get_covariance(), N_SAMPLES), mixture.sample(N_SAMPLES)[0]
    nats = [fit.score(v) - np.log(scale).sum() for fit in (pca, mixture)]
    return nats, [mean + scale * rows for rows in samples]


@pytest.mark.slow
def test_default_recipe_beats_ppca_and_mixture(digits, rivals):
    train, test, dequantised_train, dequantised_test = digits
    nats, rival_samples = rivals
    flow = InjectiveFlow(10, random_state=0).fit(train)
    estimate = flow.fitted_.model.estimate(torch.as_tensor(dequantised_test))
    assert float(estimate.value.mean()) >= max(nats) + 8

    scale, low, high = dequantised_train.std(0), train.min(0), train.max(0)
    rounded = [flow.sample(N_SAMPLES), *(rows.round().clip(low, high) for rows in rival_samples)]
    samples = [flow.fitted_.model.sample(N_SAMPLES).numpy(), *rival_samples]

    def scores(metric, rows, reference):
        return [metric(torch.as_tensor(r / scale), torch.as_tensor(reference / scale)) for r in rows]

    ours, *theirs = scores(energy_distance, samples, dequantised_test)
    assert ours < min(theirs)
    ours, *theirs = (abs(auc - 0.5) for auc in scores(c2st_auc, rounded, test))
    assert ours < min(theirs)
