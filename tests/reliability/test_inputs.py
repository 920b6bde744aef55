"""Bad input is answered in one sentence; the same numbers give the same bits; rows do not see one another."""

import json
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cases import INJECTIONS, make_flow
from isthmus import InputError, Recipe, cli, fit, latents, model
from isthmus.columns import Columns
from isthmus.density import ComponentNoise, IsotropicNoise, LowRankNoise, ambient, density_of
from isthmus.flows import FLOWS
from isthmus.model import Model

QUICK = Recipe.parse(
    "{flow: {latent_dim: 1, network: {width: 8}}, training: {max_steps: 5, validations: 1},"
    " refit: {latent: gaussian, noise: isotropic}}"
)


def some(count):
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


TABLES = hnp.arrays(np.float64, st.tuples(st.integers(2, 7), st.integers(1, 4)), elements=st.floats(-1e6, 1e6))
PLACES = st.tuples(st.integers(0, 6), st.integers(0, 3))


# ------------------------------------------------------------------------------------------------------ bad input


def planted(value):
    def plant(x, i, j):
        x = x.copy()
        x[i, j] = value
        return x

    return plant


def cell(value):
    return lambda x, i, j: planted(value)(x.astype(object), i, j)


NUMBERS = {
    "nan": planted(np.nan),
    "infinity": planted(np.inf),
    "minus infinity": planted(-np.inf),
    "too large": planted(-3e305),
    "constant": lambda x, i, j: np.full_like(x, x[i, j]),
    "one row": lambda x, i, j: x[i : i + 1],
    "no rows": lambda x, i, j: x[:0],
    "no columns": lambda x, i, j: x[:, :0],
    "vector": lambda x, i, j: x[i],
    "three dimensions": lambda x, i, j: x[None],
}
OTHERS = {
    "text": cell("seven"),
    "a number as text": cell("7"),
    "bytes": cell(b"7"),
    "list": cell([1.0]),
    "date": cell(pd.Timestamp("2020-01-01")),
    "complex cell": cell(1j),
    "missing": cell(pd.NA),
    "none": cell(None),
    "long": cell(10**400),
    "complex": lambda x, i, j: x + 1j,
    "text only": lambda x, i, j: x.astype(str),
    "times": lambda x, i, j: x.astype("M8[s]"),
    "durations": lambda x, i, j: x.astype("m8[h]"),
    "records": lambda x, i, j: np.rec.fromarrays([x[:, 0], x[:, 0]]),
    "masked": lambda x, i, j: np.ma.masked_array(x, mask=x == x[i, j]),
    "sparse": lambda x, i, j: sp.csr_array(x),
    "sparse tensor": lambda x, i, j: torch.tensor(x).to_sparse(),
    "complex tensor": lambda x, i, j: torch.tensor(x + 1j),
    "ragged": lambda x, i, j: [*x.tolist(), [0.0] * (x.shape[1] + 1)],
    "generator": lambda x, i, j: iter(x),
    "nothing": lambda x, i, j: None,
    "number": lambda x, i, j: float(x[i, j]),
}
FRAMES = {  # named columns of other kinds become numbers by a schema: a model, unless the numbers say no
    "text in pandas": lambda x, i, j: pd.DataFrame(x).assign(text="a"),
    "category in pandas": lambda x, i, j: pd.DataFrame(x).assign(c=pd.Categorical(["a"] * len(x))),
    "times in pandas": lambda x, i, j: pd.DataFrame(x.astype("M8[s]")),
    "text in polars": lambda x, i, j: pl.DataFrame(x).with_columns(t=pl.lit("a")),
}
GAPS = {("nan", "pandas"), ("nan", "polars")}  # a gap in a frame is a missing value
FORMS = {
    "array": lambda x: x,
    "Fortran order": np.asfortranarray,
    "reversed": lambda x: x[::-1],
    "float32": lambda x: np.clip(x, -3e38, 3e38).astype(np.float32) if np.isfinite(x).all() else x.astype(np.float32),
    "list": lambda x: x.tolist(),
    "objects": lambda x: x.astype(object),
    "pandas": lambda x: pd.DataFrame(x) if x.ndim == 2 else x,
    "polars": lambda x: pl.DataFrame(x) if x.ndim == 2 and x.size else x,
    "tensor": lambda x: torch.tensor(x.copy()),
}


def answer(X):
    """How `fit` answers: the message of an InputError, or what else happened."""
    try:
        fit(X, recipe=QUICK)
    except InputError as error:
        said = str(error)
        return None if said.startswith("expected ") and "; got " in said and "\n" not in said else said
    except Exception as error:  # noqa: BLE001 (whatever else comes is what must not)
        return f"{type(error).__name__}: {error}"
    return "a model"


def test_bad_tables_are_answered_in_one_sentence_and_left_alone(times, tally, unchecked):
    tried, fitted, wrong, faults = 0, 0, [], NUMBERS | OTHERS | FRAMES

    @some(times(200, 5000))
    @given(TABLES, PLACES, st.sampled_from(list(faults)), st.sampled_from(list(FORMS)))
    def run(x, place, fault, form):
        nonlocal tried, fitted
        i, j = place[0] % x.shape[0], place[1] % x.shape[1]
        bad = faults[fault](x, i, j)
        if fault == "too large" and form == "float32":
            return  # no float32 is
        X = FORMS[form](bad) if fault in NUMBERS else bad
        before = X.tobytes() if isinstance(X, np.ndarray) and X.dtype != object else None
        said = answer(X)
        tried += 1
        suits = said == "a model" and (fault in FRAMES or (fault, form) in GAPS)
        fitted += suits
        if not (said is None or suits) or (before is not None and X.tobytes() != before):
            wrong.append((fault, form, said))

    run()
    promise = "A table that cannot work is refused by `fit` in one sentence, and left as it was"
    tally("Bad input", promise, tried, tried - len(wrong), faults=len(faults), forms=len(FORMS), fitted=fitted)
    assert not wrong, wrong[:5]
    assert fitted


FILES = {
    "infinity": lambda x, i, j: pd.DataFrame(planted(np.inf)(x, i, j)).to_csv(index=False),
    "constant": lambda x, i, j: pd.DataFrame(np.full_like(x, x[i, j])).to_csv(index=False),
    "one row": lambda x, i, j: pd.DataFrame(x[i : i + 1], columns=list("abcd")[: x.shape[1]]).to_csv(index=False),
    "a name twice": lambda x, i, j: "a,a\n" + "".join(f"{v},{v}\n" for v in x[:, j]),
    "one field more": lambda x, i, j: "a,b\n1,2\n" + "3," * (3 + i) + "\n",
    "empty": lambda x, i, j: "",
    "a header alone": lambda x, i, j: "a,b,c\n",
    "bytes": lambda x, i, j: x.tobytes(),
    "text of many levels": lambda x, i, j: "a\n" + "".join(f"level {k}\n" for k in range(len(x))),
}


def test_bad_files_end_with_code_2_and_one_line(times, tally, tmp_path, capsys):
    tried, wrong = 0, []

    @some(times(30, 600))
    @given(TABLES, PLACES, st.sampled_from(list(FILES)), st.sampled_from([".csv", ".npy", ".parquet", ".tsv"]))
    def run(x, place, fault, suffix):
        nonlocal tried
        content = FILES[fault](x, place[0] % x.shape[0], place[1] % x.shape[1])
        table, folder = tmp_path / f"table{suffix}", tmp_path / "model"
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
        before = table.read_bytes()
        code = cli.main(["fit", str(table), "-o", str(folder), "--set", "training.max_steps=1"])
        said = capsys.readouterr()
        tried += 1
        *_, last = said.err.splitlines()
        once = last.startswith("isthmus: error: ") and said.err.count("error: ") == 1 and "Traceback" not in said.err
        clean = code == 2 and once and not said.out
        if not clean or table.read_bytes() != before or sorted(p.name for p in tmp_path.iterdir()) != [table.name]:
            wrong.append((fault, suffix, code, said.err[-300:]))
        table.unlink()

    run()
    promise = "A file that holds no table ends `isthmus fit` with code 2, one line, and nothing written"
    tally("Bad input", promise, tried, tried - len(wrong), faults=len(FILES))
    assert not wrong, wrong[:3]


# -------------------------------------------------------------------------------------------------- the same bits

BITS = """
import hashlib, json, sys
import numpy as np, pandas as pd, torch
from isthmus import Recipe, fit, scoring
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3))
C, whole, heavy = X[:, :1], np.round(2 * X), np.exp(2 * rng.normal(size=(240, 3)))
base = {"flow": {"latent_dim": 1, "network": {"width": 16}}, "training": {"max_steps": 20, "validations": 2}}
variants = {
    "default density": (X, None, {}), "plain": (X, None, {}), "context": (X, C, {}),
    "float32": (X.astype("f4"), None, {}), "whole": (whole, None, {}),
    "heavy tails": (heavy, None, {}), "auto": (X, None, {"latent_dim": "auto"}),
    "64-true": (X, None, {"precision": "64-true"}), "bf16-mixed": (X, None, {"precision": "bf16-mixed"}),
    "compiled": (X, None, {"compile": True}),
}
def digest(name):
    X, C, options = variants[name]
    recipe = Recipe().update(
        flow={**base["flow"], **{k: v for k, v in options.items() if k == "latent_dim"}},
        training={**base["training"], **{k: v for k, v in options.items() if k != "latent_dim"}},
    )
    if name != "default density":
        recipe = recipe.update(refit={"latent": "gaussian", "noise": "isotropic"})
    junk = [np.empty(rng.integers(1, 999)) for _ in range(rng.integers(1, 99))]  # other places in memory
    fitted = fit(X.copy(), None if C is None else C.copy(), recipe=recipe)
    model, hash = fitted.model, hashlib.sha256()
    x, c = torch.tensor(X).double(), None if C is None else torch.tensor(C)
    for density in model.density.names:
        hash.update(np.ascontiguousarray(model.log_prob(x, c, density=density)))
    hash.update(np.ascontiguousarray(model.encode(x, c)))
    torch.manual_seed(0)
    hash.update(np.ascontiguousarray(model.sample(60, c)))
    frame = pd.DataFrame(x.numpy(), columns=list("abc"))
    if name == "default density":
        figures = {k: v for k, v in scoring.evaluate(fitted, frame).items() if k != "seconds"}
        hash.update(json.dumps(figures).encode())
    figures = {k: v for k, v in fitted.figures.plain().items() if "seconds" not in k}
    hash.update(json.dumps(figures).encode())
    return hash.hexdigest()
print(json.dumps({name: [digest(name) for _ in range(2)] for name in sys.argv[1:]}))
"""


def test_the_same_seed_gives_the_same_bits(times, tally, fresh_python):
    names = ["default density", "context", "whole", "64-true", "bf16-mixed"]
    names += times([], ["plain", "float32", "heavy tails", "auto", "compiled"])
    runs = [fresh_python(BITS, *names) for _ in range(2)]
    distinct = {name: len({digest for run in runs for digest in run[name]}) for name in names}
    kept = sum(count == 1 for count in distinct.values())
    promise = (
        "The same seed gives the same bits: fit, densities, codes, samples and figures, twice in each of 2 processes"
    )
    tally("Numbers", promise, len(names), kept, fits=4 * len(names))
    assert kept == len(names), distinct


# --------------------------------------------------------------------------------------------- rows and their batch


NOISES = {"isotropic": IsotropicNoise, "component": ComponentNoise, "low_rank": LowRankNoise}
KINDS = [
    (kind, C, latent, noise)
    for kind in INJECTIONS
    if "euclidean" in INJECTIONS[kind].supports
    for C in (0, 2)
    for latent in (None, "mixture", "student_t", "flow")
    for noise in ([None] if FLOWS[kind].exact else NOISES if latent == "mixture" else ["isotropic"])
]


def make_model(kind, C, latent, noise):
    """A model, with rows and context for it; its columns have all scales, one holds integers, one is constant."""
    D, d = (4, 4) if FLOWS[kind].exact else (4, 2)
    flow = make_flow(kind, D, d, C)
    if latent == "mixture":
        flow.latent = latents.mixture(d, components=3).double()
        flow.latent.means = torch.randn(3, d).double()
    elif latent is not None:
        flow.latent = latents.LATENTS[latent](d, C).double()
    if noise in ("component", "low_rank"):
        roots = torch.randn(3, D, D).double()
        off = NOISES[noise](D, 3, *[2] * (noise == "low_rank")).double()
        off.set_covariances(0.1 * roots @ roots.mT / D + 0.05 * torch.eye(D))
    else:
        off = None if noise is None else IsotropicNoise(D, 0.3)
    x = torch.randn(200, 5).double() * torch.tensor([1e-3, 10.0, 0.0, 3.0, 1e4])
    x[:, 3] = x[:, 3].round()
    c = torch.randn(200, C).double() if C else None
    context = None if c is None else Columns.learn(c, dequantise=False, drop=False)
    return Model(density_of(flow, off), Columns.learn(x), context), x[:7], c if c is None else c[:7]


def apart(one, other):
    """The largest difference, as a share of the larger of the value and 1 nat."""
    return float(((one - other).abs() / other.abs().clamp_min(1)).max())


def test_rows_do_not_depend_on_the_rows_beside_them(times, tally, monkeypatch):
    tried, kept, worst = 0, 0, 0.0
    kinds = KINDS[:: times(7, 1)]
    for kind in kinds:
        whole, x, c = make_model(*kind)
        for density in whole.density.names:

            def score(index, density=density, whole=whole, x=x, c=c):
                return whole.log_prob(x[index], None if c is None else c[index], density=density)

            order = torch.randperm(7)
            together = score(slice(None))
            differences = [apart(score(order), together[order]), apart(score(slice(2, 3)), together[2:3])]
            with monkeypatch.context() as patch:
                patch.setattr(model, "_ROWS", 4)
                patch.setattr(ambient, "_CHUNK_NUMBERS", 1)
                differences.append(apart(score(slice(None)), together))
            tried, kept = tried + 1, kept + (max(differences) < 1e-6)
            worst = max(worst, *differences)
    promise = "The density of a row depends neither on the other rows nor on their order, number or chunks"
    tally("Numbers", promise, tried, kept, models=len(kinds), largest_relative_difference=f"{worst:.0e}")
    assert kept == tried
    assert math.isfinite(worst)


# ------------------------------------------------------------------------------------------------------- memory

MEMORY = """
import json, sys
import numpy as np
from pathlib import Path
from isthmus import InjectiveFlow, Recipe, fit
recipe = Recipe.parse(
    "{flow: {latent_dim: 2, network: {width: 16}}, training: {max_steps: 20, validations: 1},"
    " refit: {latent: gaussian, noise: isotropic}}"
)
def resident(what):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])
rng = np.random.default_rng(0)
flow = InjectiveFlow(2, recipe=recipe).fit(rng.normal(size=(3000, 10)))  # imports what is imported late
before = resident("VmRSS")
n, dtype, verb = int(sys.argv[1]), sys.argv[2], sys.argv[3]
X = np.empty((n, 10), dtype=dtype)
for rows in np.array_split(X, max(1, n // 100_000)):
    rows[:] = rng.normal(size=rows.shape)
total = float(X.sum())
fit(X, recipe=recipe) if verb == "fit" else flow.score_samples(X)
assert float(X.sum()) == total
print(json.dumps(resident("VmHWM") - before))
"""


@pytest.mark.skipif("not __import__('sys').platform.startswith('linux')")
def test_no_table_is_copied_twice(times, tally, fresh_python):
    spare = 150e6  # bytes, for the 250,000 rows at most of which the density is fitted
    cases = times(
        [(1_000_000, "float64", "fit"), (200_000, "float64", "score")],
        [
            (n, dtype, verb)
            for n, verb in ((10_000_000, "fit"), (1_000_000, "score"))
            for dtype in ("float64", "float32")
        ],
    )
    ratios = {}
    for n, dtype, verb in cases:
        most, table = fresh_python(MEMORY, str(n), dtype, verb), 80 * n
        ratios[f"{verb} {n:.0e} {dtype}"] = ((most - spare * (n < 10_000_000)) / table, most / table)
    kept = sum(ratio <= 2.5 for ratio, _ in ratios.values())
    figures = {name: f"{ratio:.2f}" for name, (_, ratio) in ratios.items()}
    promise = (
        "Peak memory stays below 2.5 times the table in float64, the table itself included (plus 150 MB below 1e7 rows)"
    )
    tally("Numbers", promise, len(cases), kept, **figures)
    assert kept == len(cases), json.dumps(figures)
