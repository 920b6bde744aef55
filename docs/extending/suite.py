"""
A benchmark suite
=================

A suite is one YAML file in ``benchmarks/suites``: what its runs share, what varies, and what was published. It needs a
checkout of the repository; the runs are the product of the axes, each a recipe of the library. Here three latent
dimensions, on the wines of :doc:`dataset`.
"""

import tempfile
from pathlib import Path

import torch
import yaml
from sklearn.datasets import load_wine

from isthmus.data import DATASETS, Dataset


def wine(*, seed: int = 0) -> Dataset:
    """Chemical analyses of Italian wines, with scikit-learn (178 x 13)."""
    x = torch.tensor(load_wine().data)[torch.randperm(178, generator=torch.Generator().manual_seed(seed))]
    x = ((x - x[:160].mean(0)) / x[:160].std(0)).float()
    return Dataset("wine", x[:142], x[142:160], x[160:])


DATASETS["wine"] = wine

TEXT = """
title: Wines, and their dimension
question: How many dimensions do the wines have?
source: our own question
budget: 150 optimiser steps a run.
measure: fit
seeds: [0, 1]
base:
  data: {name: wine}
  recipe:
    flow: {network: {kind: skip, width: 32}}
    training: {max_steps: 150}
    refit: {latent: gaussian, noise: isotropic}
axes:
  latent_dim: {at: recipe.flow.latent_dim, values: [1, 3, 6]}
tables:
  - title: Likelihood and reconstruction
    rows: [latent_dim]
    values: [ambient_ll, reconstruction, energy, health]
"""

# %%
# In a checkout the text is saved as ``benchmarks/suites/wine.yaml``; then ``python -m benchmarks.run wine`` makes the
# runs that are missing, ``python -m benchmarks.tables wine`` prints what was found, and ``python -m
# benchmarks.pages`` puts it on the page :doc:`../../reproduction`. The same by hand:

from benchmarks.defaults import append
from benchmarks.run import perform
from benchmarks.suites import Suite
from benchmarks.tables import markdown, page

suite = Suite("wine", yaml.safe_load(TEXT))
results = Path(tempfile.mkdtemp()) / "wine.jsonl"
for run in suite.runs():
    append(results, perform(suite, run))
print(page(suite, results, markdown))
