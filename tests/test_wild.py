"""The estimators where scikit-learn's users put them: searches, pipelines, workers, frames, routed metadata."""

import io
import pickle

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from isthmus import InjectiveFlow, InjectiveFlowDetector, InputError

X, y = load_iris(return_X_y=True)
QUICK = {
    "flow": {"network": {"width": 8}},
    "training": {"validations": 1},
    "refit": {"latent": "gaussian", "noise": "isotropic"},
}


def quick(n_components=2, estimator=InjectiveFlow, **parameters):
    return estimator(n_components, **{"max_steps": 10, "recipe": QUICK, "random_state": 0, **parameters})


@pytest.fixture(scope="module")
def fitted():
    return quick().fit(X)


def scores_in_a_worker(flow, rows):
    return flow.score_samples(rows)


def test_it_goes_to_workers_and_files_and_comes_back_with_the_same_bits(fitted):
    file = io.BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    scores = fitted.score_samples(X)
    np.testing.assert_array_equal(joblib.load(file).score_samples(X), scores)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).score_samples(X), scores)
    calls = (joblib.delayed(scores_in_a_worker)(fitted, X) for _ in range(2))
    for found in joblib.Parallel(n_jobs=2, backend="loky")(calls):
        np.testing.assert_allclose(found, scores, rtol=1e-12)


def test_a_search_over_n_components_with_two_jobs_agrees_with_one(fitted):
    grids = [
        GridSearchCV(quick(), {"n_components": np.array([1, 2])}, cv=2, n_jobs=jobs).fit(X, y).cv_results_
        for jobs in (1, 2)
    ]
    np.testing.assert_allclose(grids[0]["mean_test_score"], grids[1]["mean_test_score"], rtol=1e-9)


def test_codes_feed_a_classifier_within_cross_validation():
    pipeline = make_pipeline(StandardScaler(), quick(max_steps=50), LogisticRegression())
    assert cross_val_score(pipeline, X, y, cv=2).mean() > 0.6


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_are_transformed_by_name_and_come_out_named(library):
    frame = load_iris(as_frame=True).data
    frame = frame if library == "pandas" else pl.from_pandas(frame)
    names = list(frame.columns)
    transformer = ColumnTransformer([("codes", quick(), names[:3]), ("rest", "passthrough", names[3:])])
    codes = transformer.set_output(transform=library).fit_transform(frame)
    assert isinstance(codes, pd.DataFrame if library == "pandas" else pl.DataFrame)
    assert list(codes.columns) == ["codes__injectiveflow0", "codes__injectiveflow1", f"rest__{names[3]}"]
    assert list(transformer.get_feature_names_out()) == list(codes.columns)


def test_columns_that_disagree_are_refused_in_the_words_of_scikit_learn(fitted):
    frame = pd.DataFrame(X, columns=list("abcd"))
    flow = quick().fit(frame)
    assert list(flow.feature_names_in_) == list("abcd")
    with pytest.raises(ValueError, match=r"The feature names should match those that were passed during fit"):
        flow.score_samples(frame.rename(columns={"d": "e"}))
    with pytest.raises(ValueError, match=r"X has 3 features, but InjectiveFlow is expecting 4 features as input"):
        fitted.transform(X[:, :3])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        flow.transform(X)
    assert list(flow.get_feature_names_out()) == ["injectiveflow0", "injectiveflow1"]


def test_metadata_is_routed_through_a_pipeline_and_a_search():
    context, weight = np.repeat([[0.0], [5.0]], 75, axis=0), np.arange(150.0) % 3
    rows = np.random.default_rng(0).normal(size=(150, 2)) + context
    with config_context(enable_metadata_routing=True):
        flow = quick(1).set_fit_request(context=True, sample_weight=True)
        flow.set_score_request(context=True, sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=True), flow)
        pipeline.fit(rows, context=context, sample_weight=weight)
        routed = pipeline.score(rows, context=context)
        scaled = StandardScaler().fit(rows, sample_weight=weight).transform(rows)
        alone = quick(1).fit(scaled, context=context, sample_weight=weight)
        assert routed == pytest.approx(alone.score_samples(scaled, context=context).mean())
        routed = pipeline.score(rows, context=context, sample_weight=weight)
        assert routed == pytest.approx(np.average(alone.score_samples(scaled, context=context), weights=weight))
        search = GridSearchCV(flow, {"beta": [1.0, 10.0]}, cv=2, error_score="raise")
        search.fit(rows, context=context, sample_weight=weight)
        assert np.isfinite(search.best_score_)
        codes = quick(1).set_fit_request(context=True).set_transform_request(context=True)
        assert codes.fit_transform(rows, context=context).shape == (150, 1)


@pytest.mark.parametrize("estimator", [InjectiveFlow, InjectiveFlowDetector])
def test_a_weight_is_a_repetition(estimator):
    weight = np.random.default_rng(0).integers(0, 3, len(X))
    weighted = quick(estimator=estimator).fit(X, sample_weight=weight)
    repeated = quick(estimator=estimator).fit(X.repeat(weight, axis=0))
    np.testing.assert_allclose(weighted.score_samples(X), repeated.score_samples(X))
    if estimator is InjectiveFlowDetector:
        np.testing.assert_array_equal(weighted.predict(X), repeated.predict(X))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25, 0.5])
def test_no_training_row_stands_at_the_cut_where_the_last_bit_would_decide(share):
    detector = quick(estimator=InjectiveFlowDetector, contamination=share).fit(X)
    nearest = np.abs(detector.decision_function(X)).min()
    assert nearest > 1e-6
    alone = [detector.predict(row[None])[0] for row in X[:20]]
    np.testing.assert_array_equal(detector.predict(X)[:20], alone)


def test_a_second_fit_forgets_the_first(fitted):
    twice = quick().fit(pd.DataFrame(X[:, :3], columns=list("abc"))).fit(X)
    np.testing.assert_array_equal(twice.score_samples(X), fitted.score_samples(X))
    assert twice.n_features_in_ == 4
    assert not hasattr(twice, "feature_names_in_")


def test_parameters_go_round_and_the_page_shows_them(fitted):
    parameters = fitted.get_params()
    again = InjectiveFlow().set_params(**parameters)
    assert again.get_params() == parameters
    assert clone(fitted).get_params() == parameters
    assert "n_components" in repr(again) or "InjectiveFlow(" in repr(again)
    for shown in (estimator_html_repr(fitted), InjectiveFlowDetector()._repr_html_()):
        assert "InjectiveFlow" in shown
    with pytest.raises(ValueError, match="Invalid parameter 'components'"):
        again.set_params(components=3)


@pytest.mark.parametrize("d", ["two", 1.5, 2.0, None, True and "all"])
def test_dimensions_that_are_no_whole_number_are_refused(d):
    with pytest.raises(InputError, match=f"got n_components={d!r}"):
        quick(d).fit(X)


def test_a_read_only_map_of_a_file_is_read(tmp_path, fitted):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    np.testing.assert_array_equal(quick().fit(mapped).score_samples(mapped), fitted.score_samples(X))
