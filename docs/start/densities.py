"""
Laws from a log density
=======================

Everything else on these pages learns from rows. Here there are none: a law is known by its log density up to a constant
- a posterior, an energy - on a surface that is known too, and :py:func:`isthmus.infer <isthmus.inference.infer>` learns
to draw from it, with its normalised density and the constant, the *evidence*. Two uses are commands of their own: the
path of a penalised regression with intervals, and the weights of a mixture.
"""

# %%
# Any log density
# ---------------
#
# Two heaps on the sphere, of weights 0.7 and 0.3 (von Mises-Fisher laws with concentration 20). The function takes
# points on the surface, and its density is with respect to the surface's own area.

import math

import torch

from isthmus import infer

north, east = torch.eye(3, dtype=torch.float64)[[2, 0]]


def log_density(x, c):
    """Return the log density of points up to a constant: the heaps without their normaliser."""
    return torch.stack([math.log(0.7) + 20 * (x @ north - 1), math.log(0.3) + 20 * (x @ east - 1)]).logsumexp(0)


law = infer(log_density, "sphere", columns=3, training={"max_steps": 800})
draws = law.sample(10_000)
evidence = law.log_evidence()
print(f"share of the first heap: {(draws @ north > draws @ east).double().mean():.3f}")
print(f"log evidence: {evidence.value.item():.3f} with standard error {evidence.standard_error.item():.3f}")
print(f"the truth: {math.log(2 * math.pi / 20):.3f}")

# %%
# Such a law can leave a heap out and look perfect where it draws. So every one ends with verdicts: on the effective
# sample size of its importance weights, on their largest ones (Pareto's k), and on whether laws from other starts find
# what this one does not.

for verdict in law.health.verdicts:
    print(f"{verdict.status:5} {verdict.name}: {verdict.sentence}")

# %%
# The path of a penalised regression, with intervals
# --------------------------------------------------
#
# The LASSO's path is the best fit for each level t of the sum of the coefficients' sizes. It has no intervals, and a
# prior ``exp(-lambda g)`` that would give some depends on how the penalty g is written (g or its square). A level set
# does not: all coefficients whose penalty is t are taken to be equally likely before the data, and their posterior is a
# law on the surface ``{g = t}``, here the faces of an octahedron of three dimensions, learned for all t at once (Negri,
# Arend Torres and Roth 2025).
#
# 442 patients with diabetes: the progression of the disease a year later, by body mass index, blood pressure, and two
# measurements of the blood serum.

import io
import shlex
from contextlib import redirect_stderr

import pandas as pd
from sklearn.datasets import load_diabetes

from isthmus.cli import main

patients = load_diabetes(as_frame=True, scaled=False).frame
patients[["bmi", "bp", "s3", "s5", "target"]].to_csv("diabetes.csv", index=False)


def isthmus(line):
    """Run a command as a shell does, and show what it says."""
    print(f"$ isthmus {line}")
    with redirect_stderr(io.StringIO()) as said:
        main(shlex.split(line))
    print("\n".join(line for line in said.getvalue().splitlines() if "step" not in line))


isthmus("path diabetes.csv --response target --penalty l1 -o path.csv --report path.html --steps 1000")

# %%
# The table has a row for each level and column; the page, path.html, has the verdicts and these pictures. At the lowest
# levels the posterior lies near the corners of the octahedron, as the LASSO does. The level of the highest evidence is
# a choice of t without cross-validation: with so many patients to a column it is that of least squares, no shrinkage.
# After 1,000 steps the law is not exact at the lowest levels, and the command says so; its means and intervals are
# weighed by importance all the same, and by default it takes 2,000.

path = pd.read_csv("path.csv")
path.query("column == 'bmi'").iloc[::5].round(3)

# %%

import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 2, sharex=True, figsize=(7, 5), layout="constrained")
for ax, (name, rows) in zip(axes.flat, path.groupby("column", sort=False), strict=True):
    ax.fill_between(rows.level, rows.low, rows.high, alpha=0.3, label="interval of 90 %")
    ax.plot(rows.level, rows["mean"], label="posterior mean")
    ax.axhline(0, color="grey", lw=0.6)
    ax.set_title(name)
axes[1, 0].set_xlabel("level of the penalty")
axes[1, 1].set_xlabel("level of the penalty")
axes[0, 0].legend()
plt.show()

# %%
# ``--penalty`` takes ``l2`` (ridge), ``lp:0.5`` and any other power, ``l1+l2:0.5``, and ``group`` for columns of text.
# "Equally likely" needs a measure, and ``--measure`` says which: ``surface``, the area of the level set; ``cone``, the
# volume of the cone over it; ``coarea``, what a prior in the whole space that is flat on each level set leaves there,
# its area divided by the length of the penalty's gradient. The three are the same for ``l1`` and ``l2``.
#
# In Python it is a scikit-learn estimator, :py:class:`~isthmus.inference.penalty.PenaltyPath`: ``fit(X, y)``,
# ``path(levels)``, ``predict(X)``.
#
# The weights of a mixture
# ------------------------
#
# Components that are known, rows that are not told apart: which share does each component have? Here the components
# are Gaussians of three cultivars of wine, each with known examples; the rows are 60 other wines, of which 12, 33 and
# 15 are of the first, second and third.

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.datasets import load_wine

X, kind = load_wine(return_X_y=True)
X = X[:, [0, 6, 9]]  # alcohol, flavanoids, colour
rest = np.random.default_rng(0).permutation(len(X))
mixed = np.concatenate([rest[kind[rest] == k][:n] for k, n in enumerate((12, 33, 15))])
known = np.setdiff1d(rest, mixed)
components = [
    multivariate_normal(X[known][kind[known] == k].mean(0), np.cov(X[known][kind[known] == k].T)) for k in range(3)
]
log_likelihoods = np.stack([component.logpdf(X[mixed]) for component in components], 1)
pd.DataFrame(log_likelihoods, columns=["first", "second", "third"]).to_csv("wines.csv", index=False)

isthmus("mixture-weights wines.csv --alpha 1 -o weights.csv --steps 500")
pd.read_csv("weights.csv").round(3)
