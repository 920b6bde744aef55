import hashlib
import math

import pytest
import torch

from isthmus.data.fetch import data_folder
from isthmus.data.maf import power


def hashed(rows):
    return hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:16]


def gaussian_log_likelihood(fitted, x):
    """Mean over `x`, and its standard error, under the normal law with the mean and covariance of `fitted`."""
    fitted, x = fitted.double(), x.double()
    law = torch.distributions.MultivariateNormal(fitted.mean(0), fitted.T.cov())
    log_prob = law.log_prob(x)
    return log_prob.mean().item(), 2 * log_prob.std().item() / math.sqrt(len(x))


@pytest.fixture(scope="session")
def whole_power():
    if not (data_folder() / "power" / "power_uci_full.npz").exists():
        pytest.skip("the POWER table is not in the data folder")
    return power()


def test_power_is_the_published_table(whole_power):
    splits = (whole_power.train, whole_power.validation, whole_power.test)
    assert [tuple(rows.shape) for rows in splits] == [(1_659_917, 6), (184_435, 6), (204_928, 6)]
    assert [hashed(rows) for rows in splits] == ["5d87a78bd6c33239", "72124ea4960c5f8a", "3f0a1c19e5a652b1"]
    mean, error = gaussian_log_likelihood(whole_power.train, whole_power.test)
    assert mean == pytest.approx(-7.742, abs=5e-4)
    assert error == pytest.approx(0.024, abs=5e-4)
