"""scikit-learn's own checks, without exceptions, and the estimators in the wild."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from isthmus import InjectiveFlow, InjectiveFlowDetector, InputError, Recipe

X = load_iris().data


@parametrize_with_checks([InjectiveFlow(max_steps=10), InjectiveFlowDetector(max_steps=10)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def flow():
    return InjectiveFlow(2, max_steps=200, random_state=0).fit(X)


def test_codes_points_and_scores_agree_with_one_another(flow):
    Z = flow.transform(X)
    np.testing.assert_allclose(flow.inverse_transform(Z), flow.reconstruct(X))
    assert flow.score(X) == pytest.approx(flow.score_samples(X).mean())
    assert (
        flow.transform(X.astype(np.float32)).dtype == flow.inverse_transform(Z.astype(np.float32)).dtype == np.float32
    )


def test_samples_repeat_with_a_seed_and_lie_on_the_manifold_without_noise(flow):
    np.testing.assert_array_equal(flow.sample(5), flow.sample(5))
    on_manifold, around = flow.sample(500, noise=False), flow.sample(500)
    assert (
        np.square(on_manifold - flow.reconstruct(on_manifold)).sum(1).mean()
        < 0.5 * np.square(around - flow.reconstruct(around)).sum(1).mean()
    )


def test_same_seed_same_model_and_pickle_and_clone(flow):
    again = clone(flow).fit(X)
    np.testing.assert_array_equal(flow.score_samples(X), again.score_samples(X))
    np.testing.assert_array_equal(flow.score_samples(X), pickle.loads(pickle.dumps(flow)).score_samples(X))
    assert not np.array_equal(flow.score_samples(X), flow.set_params(random_state=1).fit(X).score_samples(X))
    flow.set_params(random_state=0).fit(X)


def test_grid_search_maximises_nats_in_a_pipeline():
    pipeline = make_pipeline(PowerTransformer(), InjectiveFlow(max_steps=50, random_state=0))
    search = GridSearchCV(pipeline, {"injectiveflow__n_components": [1, 3]}, cv=2, n_jobs=2).fit(X)
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])
    assert np.isfinite(search.best_score_)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_output_frames_carry_names(library):
    flow = InjectiveFlow(2, max_steps=20, random_state=0).set_output(transform=library)
    assert list(flow.fit_transform(load_iris(as_frame=True).data).columns) == ["injectiveflow0", "injectiveflow1"]


def test_context_is_conditioned_on():
    context = np.repeat([[0.0], [5.0]], 75, axis=0)
    rows = np.random.default_rng(0).normal(size=(150, 2)) + context
    flow = InjectiveFlow(1, max_steps=300, random_state=0).fit(rows, context=context)
    assert abs(flow.sample(200, context=[[5.0]]).mean() - 5) < 1 < abs(flow.sample(200, context=[[0.0]]).mean() - 5)
    assert flow.score(rows, context=context) > flow.score(rows, context=5 - context) + 5
    with pytest.raises(InputError, match="expected 1 context columns for 150 rows; got none"):
        flow.score(rows)


def test_arguments_go_before_the_recipe():
    recipe = {"flow": {"network": {"width": 16}, "latent_dim": 3}, "objective": {"beta": 7.0}}
    for form in (recipe, Recipe.validated(recipe)):
        fitted = InjectiveFlow(2, max_steps=5, recipe=form).fit(X).fitted_
        assert fitted.model.flow.latent_dim == 2
        assert fitted.recipe.objective.options["beta"] == 7.0
        assert fitted.recipe.flow.network.options["width"] == 16


@pytest.mark.parametrize("density", ["linearised", "ambient", "manifold"])
def test_every_density_is_deterministic(flow, density):
    flow = clone(flow).set_params(density=density, max_steps=20).fit(X)
    np.testing.assert_array_equal(flow.score_samples(X), flow.score_samples(X))
    np.testing.assert_allclose(flow.score_samples(X)[:3], flow.score_samples(X[:3]), atol=1e-6)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_detector_calls_the_asked_share_outliers_and_far_rows_too(share):
    detector = InjectiveFlowDetector(2, contamination=share, max_steps=50, random_state=0).fit(X)
    assert (detector.predict(X) == -1).mean() == pytest.approx(share, abs=0.03)
    assert (detector.predict(X + 20) == -1).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 5}, "n_features=4; got n_components=5"),
        ({"n_components": 0}, "got n_components=0"),
        ({"beta": -1.0}, "expected beta > 0"),
        ({"recipe": {"trainng": {}}}, "did you mean 'training'"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(InputError, match=message):
        InjectiveFlow(**{"max_steps": 5, **parameters}).fit(X)
