"""One table of what users pass as a table: each entry gives the model it should, or one sentence says why not."""

import datetime
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch

from isthmus import InjectiveFlow, InputError, Recipe, fit
from isthmus.matrices import fingerprint, matrix
from isthmus.scoring import score

QUICK = Recipe.parse(
    "{flow: {latent_dim: 1, network: {width: 8}}, training: {max_steps: 5, validations: 1},"
    " refit: {latent: gaussian, noise: isotropic}}"
)
T = np.random.default_rng(0).normal(size=(40, 3)) @ np.random.default_rng(1).normal(size=(3, 3))
WHOLE = np.random.default_rng(2).integers(0, 6, (40, 3))


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def planted(value):
    """The table with this in row 3, column 1."""
    table = T.copy()
    table[3, 1] = value
    return table


# ------------------------------------------------------- the same numbers in another form: the same matrix, bit by bit

SAME = {
    "list": T.tolist(),
    "tuples": tuple(map(tuple, T)),
    "objects": T.astype(object),
    "decimals": [[Decimal(repr(float(v))) for v in row] for row in T],
    "read-only": frozen(T),
    "Fortran order": np.asfortranarray(T),
    "not contiguous": np.repeat(T, 2, 0)[::2],
    "negative strides": T[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": T.astype(">f8"),
    "long double": T.astype(np.longdouble),
    "unaligned": np.frombuffer(b"x" + T.tobytes(), offset=1, dtype=np.float64).reshape(T.shape),
    "a field of records": np.rec.fromarrays([np.zeros(40, np.int8), T], dtype=[("i", "i1"), ("x", "f8", 3)])["x"],
    "nothing masked": np.ma.masked_array(T),
    "pandas": pd.DataFrame(T),
    "pandas, nullable": pd.DataFrame(T).convert_dtypes(),
    "pandas, a name twice": pd.DataFrame(T, columns=["a", "a", "b"]),
    "pandas, sparse storage": pd.DataFrame.sparse.from_spmatrix(sp.csr_matrix(T)),
    "polars": pl.DataFrame(T),
    "tensor": torch.tensor(T),
    "tensor with gradient": torch.tensor(T, requires_grad=True),
    "tensor, transposed": torch.tensor(T.T.copy()).T,
    "tensor, lazily negated": torch.complex(torch.zeros(40, 3).double(), -torch.tensor(T)).conj().imag,
}


@pytest.mark.parametrize("form", SAME)
def test_the_form_of_a_table_changes_no_bit(form, unchecked):
    assert torch.equal(matrix(SAME[form], "X"), torch.from_numpy(T))


def test_a_file_mapped_into_memory_is_read_and_not_written(tmp_path):
    np.save(tmp_path / "table.npy", T)
    before, mapped = (tmp_path / "table.npy").read_bytes(), np.load(tmp_path / "table.npy", mmap_mode="r")
    one, other = fit(mapped, recipe=QUICK).model, fit(T, recipe=QUICK).model
    assert torch.equal(one.log_prob(torch.tensor(T)), other.log_prob(torch.tensor(T)))
    assert (tmp_path / "table.npy").read_bytes() == before


DTYPES = [np.int8, np.uint8, np.uint64, np.int64, np.float16, np.float32, np.longdouble, bool]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_real_numbers_is_taken_by_its_value(dtype):
    given = WHOLE.astype(dtype)
    assert torch.equal(matrix(given, "X").double(), torch.from_numpy(given.astype(np.float64)))
    assert torch.equal(matrix(torch.tensor(WHOLE).bfloat16(), "X"), torch.tensor(WHOLE).double())
    assert matrix(given, "X").dtype == (torch.float32 if dtype == np.float32 else torch.float64)


def test_a_float32_table_gives_the_model_of_its_numbers():
    narrow, x = T.astype(np.float32), torch.tensor(T)
    one, other = (fit(X, recipe=QUICK).model for X in (narrow, narrow.astype(np.float64)))
    assert torch.equal(one.log_prob(x), other.log_prob(x))
    assert fingerprint(matrix(narrow, "X")) == fingerprint(matrix(narrow.astype(np.float64), "X"))
    assert fingerprint(matrix(narrow, "X")) != fingerprint(matrix(T, "X"))


# ---------------------------------------------------------------------------------------- what is refused, and how

REFUSED = {
    "nan": (planted(np.nan), "got nan in row 3, column 1"),
    "inf": (planted(np.inf), "got inf in row 3, column 1"),
    "nan in float32": (planted(np.nan).astype(np.float32), "got nan in row 3, column 1"),
    "inf in float32": (planted(-np.inf).astype(np.float32), "got -inf in row 3, column 1"),
    "near the largest float": (T / np.abs(T).max() * 1e308, r"expected numbers up to 1e\+300 in X"),
    "beyond the largest float": (T.astype(np.longdouble) * np.longdouble(10) ** 400, "got .*inf in row 0, column 0"),
    "beyond any float": ([[10**400, 1], [2, 3]], "expected numbers in X; got 10+ in row 0, column 0"),
    "none": ([[1.0, 2.0], [None, 3.0]], "got nan in row 1, column 0"),
    "missing in pandas": (pd.DataFrame({"a": pd.array([1, None], "Int64")}), "got <NA> in row 1, column 0|got nan"),
    "missing in polars": (pl.DataFrame({"a": [1.0, None]}), "got nan in row 1, column 0"),
    "masked": (np.ma.masked_array(T, mask=T > 1), "got masked entries"),
    "rows masked": ([np.ma.masked_array([1.0, 2.0], mask=[True, False])] * 3, "got masked entries"),
    "objects": (np.array([[1.0, "a"], [2.0, "b"]], dtype=object), "got 'a' in row 0, column 1"),
    "text": (np.array([["1", "2"], ["3", "4"]]), "got values of type <U1"),
    "bytes": (np.array([[b"1", b"2"]]), r"got values of type \|S1"),
    "text in pandas": (pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), "got 'x' in row 0, column 1"),
    "text in polars": (pl.DataFrame({"a": ["x"]}), "got 'x' in row 0, column 0"),
    "categories": (pd.DataFrame({"a": pd.Categorical(["u", "v"])}), "got 'u' in row 0, column 0"),
    "complex": (T + 1j, "got values of type complex128"),
    "complex tensor": (torch.tensor(T + 1j), "got values of type torch.complex128"),
    "conjugated": (torch.tensor(T + 1j).conj(), "got values of type torch.complex128"),
    "times": ((T * 1e6).astype("M8[s]"), "got times of type datetime64"),
    "durations": ((T * 1e6).astype("m8[s]"), "got times of type timedelta64"),
    "times in pandas": (pd.DataFrame({"a": pd.date_range("2020", periods=4)}), "got times"),
    "times in polars": (pl.DataFrame({"a": [datetime.datetime(2020, 1, 1)]}), "got times of type Datetime"),
    "dates": ([[datetime.date(2020, 1, 1)]], "got datetime.date"),
    "records": (np.array([(1.0, 2.0)], dtype=[("a", "f8"), ("b", "f8")]), "got shape|got values of type"),
    "sparse": (sp.csr_matrix(T), "got csr_matrix; convert it to a dense array"),
    "sparse array": (sp.coo_array(T), "got coo_array"),
    "sparse tensor": (torch.tensor(T).to_sparse(), "sparse or nested tensor of layout torch.sparse_coo"),
    "a tensor without data": (torch.zeros(3, 3, device="meta"), "no data"),
    "lazy polars": (pl.DataFrame(T).lazy(), "got LazyFrame"),
    "ragged": ([[1.0, 2.0], [3.0]], "inhomogeneous"),
    "ragged objects": (np.array([[1.0, 2.0], [3.0]], dtype=object), r"got shape \(2,\)"),
    "one number": (3.0, "got float"),
    "nothing": (None, "got NoneType"),
    "words": ("table.csv", "got str"),
    "a function": (print, "got builtin_function_or_method"),
    "a generator": ((row for row in T), "got generator"),
    "a vector": (T[:, 0], r"got shape \(40,\)"),
    "a series": (pd.Series(T[:, 0]), r"got shape \(40,\)"),
    "three dimensions": (np.zeros((3, 4, 5)), r"got shape \(3, 4, 5\)"),
    "no rows": (np.zeros((0, 3)), r"got shape \(0, 3\)"),
    "no columns": (np.zeros((5, 0)), r"got shape \(5, 0\)"),
    "one row": (T[:1], "got 3 constant columns"),
    "one value": (np.ones((50, 2)), "got 2 constant columns"),
    "less than rounding": (T + 1e15, "none of which varies by more than 1e-12"),
    "d > D": (T[:, :1] @ [[1.0]], "1 <= latent dimension <= 1 columns; got 2"),
}


# no matrices, but tables that `fit` makes numbers of
AS_FRAMES = {case for case in REFUSED if "pandas" in case or "polars" in case} | {"categories", "words"}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_table_of_numbers_is_refused_in_one_sentence(case, unchecked):
    X, message = REFUSED[case]
    recipe = QUICK.update(flow={"latent_dim": 2}) if case == "d > D" else QUICK
    with pytest.raises(InputError, match=message) as refusal:
        matrix(X, "X") if case in AS_FRAMES else fit(X, recipe=recipe)
    assert "\n" not in str(refusal.value)


def test_a_fit_takes_frames_with_names_kinds_and_gaps():
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    columns = {"x": x, "kind": np.where(x > 0, "a", "b"), "gap": np.where(rng.random(60) < 0.1, np.nan, -x)}
    pandas = fit(pd.DataFrame(columns), recipe=QUICK)
    polars = fit(pl.DataFrame(columns).with_columns(pl.col("gap").fill_nan(None)), recipe=QUICK)
    assert [column.kind for column in pandas.schema.columns] == ["number", "category", "number"]
    assert [column.name for column in polars.schema.columns] == list(columns)
    table = pd.DataFrame(columns)
    assert np.array_equal(score(pandas, table)["log_density"], score(polars, table)["log_density"])


@pytest.mark.parametrize("case", ["masked", "times", "times in pandas", "times in polars", "nan", "sparse", "complex"])
def test_the_estimator_refuses_them_too_when_fitted_and_after(case):
    flow = InjectiveFlow(1, recipe=QUICK.model_dump(mode="json"))
    with pytest.raises((ValueError, TypeError)):
        flow.fit(REFUSED[case][0])
    flow.fit(T)
    with pytest.raises((ValueError, TypeError)):
        flow.score_samples(REFUSED[case][0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_context_and_codes_are_checked_wherever_they_are_given(bad):
    C = T[:, :1]
    flow = InjectiveFlow(1, recipe=QUICK.model_dump(mode="json")).fit(T, context=C)
    wrong = np.where(C[0, 0] == C, bad, C)
    for call in (flow.score_samples, flow.transform, flow.reconstruct):
        with pytest.raises(InputError, match="in row 0, column 0"):
            call(T, context=wrong)
    for call in (lambda: flow.sample(40, context=wrong), lambda: flow.inverse_transform(wrong, context=C)):
        with pytest.raises(InputError, match="in row 0, column 0"):
            call()
    for n, temperature in ((0, 1.0), (3, -1.0), (3, math.nan)):
        with pytest.raises(InputError, match="n >= 1 rows and a finite temperature"):
            flow.fitted_.model.sample(n, torch.tensor(C[:1]), temperature=temperature)


# ------------------------------------------------------------------------------------ extremes that make a model

EXTREME = {
    "1e300": T * 1e300 / np.abs(T).max(),
    "1e-300": T * 1e-300,
    "denormal": T * 1e-310,
    "one far row": np.vstack([T, [1e30, 0, 0]]),
    "one row at the end of the range": np.vstack([T, [1e300, 0, 0]]),
    "a large offset": T + 1e9,
    "two rows": T[:2],
    "one column": T[:, :1],
    "duplicated columns": np.hstack([T, T]),
    "one-hot": np.eye(4)[WHOLE[:, 0] % 4],
    "whole numbers": WHOLE,
    "large whole numbers": 2.0**60 * WHOLE,
    "a constant column": np.insert(T, 1, 5.0, axis=1),
    "scales apart": T * [1e-12, 1.0, 1e12],
}


@pytest.mark.parametrize("case", EXTREME)
def test_extreme_tables_make_finite_models(case):
    X = EXTREME[case]
    before = X.copy()
    model = fit(X, recipe=QUICK).model
    x = torch.from_numpy(X.astype(np.float64))
    for values in (model.log_prob(x), model.encode(x), model.reconstruct(x), model.sample(20)):
        assert bool(torch.isfinite(values).all())
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e-5, 1e5, 1e12, 1e280])
def test_units_shift_every_density_by_the_logarithm_of_the_scale(scale, d):
    recipe = QUICK.update(flow={"latent_dim": d})
    one, other = fit(T, recipe=recipe).model, fit(T * scale, recipe=recipe).model
    for density, columns in (("linearised", 3), ("ambient", 3), ("manifold", d)):
        shift = one.log_prob(torch.tensor(T), density=density) - other.log_prob(
            torch.tensor(T * scale), density=density
        )
        truth = torch.full_like(shift, columns * math.log(scale))
        torch.testing.assert_close(shift, truth, rtol=1e-6, atol=1e-4)


def test_more_columns_than_rows_and_many_of_them():
    X = np.random.default_rng(0).normal(size=(25, 5_000))
    model = fit(X, recipe=QUICK).model
    assert bool(torch.isfinite(model.log_prob(torch.from_numpy(X[:2]))).all())


def test_a_million_equal_rows_have_nothing_to_learn():
    with pytest.raises(InputError, match="got 2 constant columns"):
        fit(np.full((1_000_000, 2), 3.7, dtype=np.float32), recipe=QUICK)
