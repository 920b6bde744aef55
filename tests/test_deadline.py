"""A fit in a limited time: each phase does what the clock allows, and one that is taken up knows what was spent."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer

from isthmus import Recipe, fit, fitting
from isthmus.deadline import LEAST_TRAINING, Deadline
from isthmus.flows import FreeFormFlow
from isthmus.networks import mlp_pair
from isthmus.recipe import RefitRecipe
from isthmus.refit import refit_density
from isthmus.report import render
from isthmus.report.evidence import _affordable_rows
from isthmus.rows import Rows
from isthmus.training import trainee

X = load_breast_cancer().data[:, :6]


def test_a_fit_in_no_time_says_so_before_the_training_and_estimates_the_dimension(caplog):
    with caplog.at_level(logging.INFO, "isthmus"):
        fitted = fit(X, recipe=Recipe().update(training={"max_time": 0.001}))
    said = [record.getMessage() for record in caplog.records]
    late = next(number for number, line in enumerate(said) if "the fit takes about" in line)
    assert said[late + 1].startswith("training in")
    assert fitted.figures.latent_dim_curve == []
    assert fitted.figures.curving is None
    assert len(fitted.figures.density_candidates) < 10
    assert np.isfinite(fitted.figures.validation["log_density_linearised"])


def test_in_less_time_fewer_densities_are_tried():
    flow = FreeFormFlow(*mlp_pair(3, 1, width=8), data_dim=3, latent_dim=1)
    rows = Rows(torch.randn(3_000, 3).double())
    choice = RefitRecipe()
    free, tight = (refit_density(flow, rows, rows, choice, deadline=d).candidates for d in (Deadline(), Deadline(1e-3)))
    assert len(tight) < len(free)
    assert {candidate["latent"]["kind"] for candidate in tight} <= {"as trained", "mixture"}


def test_without_a_limit_nothing_looks_at_what_is_left():
    deadline = Deadline()
    assert deadline.left() == deadline.until(0.1).left() == float("inf")
    assert deadline.rows(1, 1) is None
    recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
    assert fitting._training(recipe, None, deadline) is recipe.training


def test_training_has_what_the_search_left_but_a_least_share():
    recipe = Recipe().update(training={"max_time": 100.0})
    early, late = Deadline(100.0), Deadline(100.0)
    early.earlier, late.earlier = 10.0, 90.0
    seconds = [fitting._training(recipe, None, deadline).max_time for deadline in (early, late)]
    assert seconds == pytest.approx([52.0, 100 * LEAST_TRAINING], abs=0.5)


def test_a_fit_that_is_taken_up_knows_what_was_spent(monkeypatch, tmp_path):
    recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_time": 30.0, "max_steps": 40, "patience": 99})
    monkeypatch.setattr(trainee, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(trainee, "_TIME_BETWEEN_SAVES", 0.0)
    real, calls = trainee.Trainee.training_step, []

    def step(self, *arguments):
        calls.append(1)
        if len(calls) == 20:
            raise ArithmeticError
        return real(self, *arguments)

    monkeypatch.setattr(trainee.Trainee, "training_step", step)
    first, second = Deadline(30.0), Deadline(30.0)
    with pytest.raises(ArithmeticError):
        fit(X, recipe=recipe, run_dir=tmp_path, deadline=first)
    fitted = fit(X, recipe=recipe, run_dir=tmp_path, deadline=second)
    assert 0 < second.earlier <= first.spent()
    assert fitted.figures.steps == 40
    assert len(calls) == 41


def test_a_classifier_that_takes_too_long_is_left_out_of_the_report_which_says_so():
    wide = torch.randn(150, 400, generator=torch.Generator().manual_seed(0)).double().numpy()
    fitted = fit(wide, recipe=Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5}))
    frame = pd.DataFrame(wide, columns=[f"c{j}" for j in range(400)])
    late, early = Deadline(10.0), Deadline(600.0)
    late.earlier = 9.5
    pages = [render(fitted, frame, deadline=deadline) for deadline in (late, early)]
    assert ["no time for the classifier" in page for page in pages] == [True, False]
    assert ["classifier (AUC)" in page for page in pages] == [False, True]


def test_the_classifier_learns_from_what_the_time_is_enough_for():
    rows = [_affordable_rows(D, Deadline(s)) for D, s in ((10, 60), (1_024, 20), (4_096, 17), (4_096, 120))]
    assert rows == pytest.approx([500, 86, 0, 87], abs=40)
    assert _affordable_rows(100_000, Deadline()) == 500
