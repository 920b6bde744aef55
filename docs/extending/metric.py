"""
A metric
========

A metric compares samples with reference rows and returns a number, whose unit and direction it states. Here: do samples
have the correlations that rows have?
"""

import torch

from isthmus.errors import InputError
from isthmus.metrics import METRICS, Metric


def correlation_gap(samples: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest difference between the correlations of columns, in [0, 2]. Lower is better; it has no unit.

    Args:
        samples: generated rows, (n, D).
        reference: rows to compare with, (m, D).

    Raises:
        InputError: a column does not vary.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
        >>> correlation_gap(x, x * torch.tensor([1.0, -1.0]))
        2.0
    """
    gaps = samples.double().T.corrcoef() - reference.double().T.corrcoef()
    if not gaps.isfinite().all():
        raise InputError("expected columns that vary; got a constant one; leave it out")
    return float(gaps.abs().max())


METRICS["correlation_gap"] = Metric("correlation_gap", correlation_gap, "none", "lower")

# %%
# The command line lists it, and benchmarks find it by name.

from isthmus.cli import main

main(["list", "metrics"])

# %%
# With a model of the wines of scikit-learn, against rows that were not used:

from sklearn.datasets import load_wine

from isthmus import Recipe, fit

X = torch.tensor(load_wine().data)
X = (X / X.std(0))[torch.randperm(len(X), generator=torch.Generator().manual_seed(0))]
fitted = fit(X[:120], recipe=Recipe.parse("{flow: {latent_dim: 3}, training: {max_steps: 300}}"))

torch.manual_seed(0)
samples = fitted.model.sample(len(X) - 120)
for name in ("correlation_gap", "energy_distance"):
    metric = METRICS[name]
    value, floor = metric.function(samples, X[120:]), metric.function(X[:120], X[120:])
    print(f"{name}: samples {value:.3f}, training rows {floor:.3f} ({metric.better} is better)")
