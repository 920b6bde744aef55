"""The report on real models: whole, safe, accessible, and true to the verdict and to the rows."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import isthmus
from isthmus import cli
from isthmus.data.tables import Schema
from isthmus.density import NOISES, IsotropicNoise, density_of
from isthmus.diagnostics import Health, Verdict
from isthmus.errors import InputError
from isthmus.model import Model
from isthmus.recipe import Part
from isthmus.report import image_shape, render, write
from isthmus.report.baselines import Score, compare
from isthmus.report.citations import bibliography, citations
from isthmus.report.evidence import _deviations, gather
from isthmus.report.words import CHECKS, column_table, noticed, verdicts
from isthmus.rows import Rows

NASTY = '<script>alert("1")</script>'
VOID = {"meta", "link", "br", "img", "hr", "input", "use", "path"}


def fitted_to(frame, target=()):
    schema, _ = Schema.learn(frame, target)
    training = {"max_steps": 100 if len(frame.columns) == 64 else 30, "validations": 5}
    recipe = isthmus.Recipe().update(flow={"latent_dim": 2}, training=training, refit={"latent": "mixture"})
    fitted = isthmus.fit(*schema.encode(frame), recipe=recipe)
    return dataclasses.replace(fitted, schema=schema, figures=fitted.figures.but(command=f"isthmus fit '{NASTY}.csv'"))


def digits():
    columns = [f"pixel_{i}" for i in range(64)]
    return pd.DataFrame(load_digits().data[:600].astype(int), columns=columns)


def mixed(rows=160):
    rng = np.random.default_rng(0)
    t, s = rng.normal(size=(2, rows))
    frame = pd.DataFrame({NASTY: t, "b & $c$": np.sin(t) + 0.1 * s, "k": np.rint(3 * t).astype(int), "unit": "cm"})
    frame["colour"] = np.where(t > 0.5, NASTY, np.where(s > 0, "green", "blue"))
    frame["missing"] = np.where(rng.random(rows) > 0.2, s, np.nan)
    return frame


def three(rows=200):
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0)).numpy()
    return pd.DataFrame(x * [1, 1, 0.1], columns=["x", "y", "z"])


CASES = {  # table to fit, table to judge on or None, target, image
    "digits": lambda: (digits()[:300], digits()[300:], (), (8, 8)),
    "digits alone": lambda: (digits()[:300], None, (), (8, 8)),
    "mixed": lambda: (mixed(), mixed().assign(**{"new <b>": 1.0}), (), None),
    "conditional": lambda: (mixed(), mixed()[:100], ("colour",), None),
    "conditional alone": lambda: (mixed(), None, ("colour",), None),
    "three columns": lambda: (three(), three(), (), None),
    "as many dimensions as columns": lambda: (three()[["x", "y"]], three(), (), None),
    "one row": lambda: (three(), three()[:1], (), None),
}


@pytest.fixture(scope="module")
def models():
    """Models by the table they are fitted to, each fitted once."""
    known = {}

    def model(frame, target):
        key = (tuple(frame.columns), target)
        if key not in known:
            known[key] = fitted_to(frame, target)
        return known[key]

    return model


@pytest.fixture(scope="module")
def pages(models):
    """The page of each case, written and parsed once."""
    known = {}

    def page(name):
        if name not in known:
            frame, table, target, shape = CASES[name]()
            fitted = models(frame, target)
            commands = [fitted.figures.command]
            known[name] = Page(render(fitted, table, name=f"my {NASTY}", commands=commands, shape=shape))
        return known[name]

    return page


class Page(HTMLParser):
    """Elements, headings and texts of a page; raises where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.source = text
        self.open, self.elements, self.headings, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"dd", "td", "li"}:
            self.text.append(" ")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if re.fullmatch("h[1-6]", self.open[-1] if self.open else ""):
            self.headings.append((int(self.open[-1][1]), data))
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    @property
    def words(self):
        return " ".join("".join(self.text).split())


@pytest.mark.parametrize("name", CASES)
def test_a_page_is_whole_and_loads_nothing(pages, name):
    page, text = pages(name), pages(name).source
    assert len(text.encode()) < 3_000_000
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        assert not any(key.startswith("on") for key in attributes)
        for key, value in attributes.items():
            if key in {"src", "href", "srcset", "action", "data"}:
                assert value.startswith(("#", "data:image/png;base64,"))
            if key == "style":
                assert "http" not in value
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert not any("@import" in style or "http" in style for style in styles)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", CASES)
def test_a_page_can_be_read_by_everyone(pages, name):
    page = pages(name)
    levels = [level for level, _ in page.headings]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == sum(tag == "figure" for tag, _ in page.elements) >= 5
    for attributes in drawings:
        assert attributes["role"] == "img"
        words = re.search(f'id="{attributes["aria-labelledby"]}"[^>]*>([^<]+)<', page.source)[1]
        assert re.search(r"\d", words)
        assert len(words) > 40
    for _, attributes in page.elements:
        assert attributes.get("aria-labelledby", ids[0]) in ids
        assert attributes.get("href", "#").removeprefix("#") in {*ids, ""} or "data:" in attributes["href"]
    tags = dict(page.elements[:1])
    assert tags["html"]["lang"] == "en"
    assert any(tag == "meta" and a.get("name") == "viewport" for tag, a in page.elements)
    for query in ("prefers-color-scheme: dark", "@media print", "max-width"):
        assert query in page.source


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_comes_first_and_is_that_of_the_fit(pages, models, name):
    frame, _, target, _ = CASES[name]()
    health = models(frame, target).figures.health
    page = pages(name)
    headline = page.headings[1][1]
    assert page.headings[1][0] == 2
    words = {"ok": "can be trusted", "warn": "with care", "fail": "Do not rely"}
    order = list(words)
    shown = next(status for status, text in words.items() if text in headline)
    assert order.index(shown) >= order.index(health.status)
    assert (shown == "fail") == (health.status == "fail")
    first_screen = page.words[: page.words.index("What was learned")]
    for verdict in health.verdicts:
        found = verdict.sentence.split(";")[0][1:]
        assert found in page.words
        assert (found in first_screen) == (verdict.status != "ok")


@pytest.mark.parametrize("name", CASES)
def test_what_users_write_is_escaped(pages, name):
    assert "<script" not in pages(name).source.lower()
    assert f"Report on the model my {NASTY}" in pages(name).words
    if name == "mixed":
        assert NASTY in pages(name).words
        assert "new <b>" in pages(name).words


SECTIONS = ("New rows against real ones", "Scores of rows", "Against simpler models")


@pytest.mark.parametrize("name", CASES)
def test_without_a_table_the_page_says_what_one_would_add(pages, name):
    headings = [text for _, text in pages(name).headings]
    alone = CASES[name]()[1] is None
    assert ("No table was given" in pages(name).words) == alone
    if name != "one row":
        assert all((section in headings) != alone for section in SECTIONS)


def test_what_the_model_has_seen_is_said(pages):
    assert "judged are 16 rows that the fit held out" in pages("mixed").words
    assert "Of the 300 rows of the table 100 are judged" in pages("digits").words
    assert "whether the model has seen some of its rows cannot be told" in pages("digits").words


def test_columns_and_what_was_done_to_them_are_named(pages):
    words = pages("mixed").words
    for what in ("categories", "constant: left out", "missing values filled in", "in this table but not in the model"):
        assert what in words
    assert "Conditioned on 3 context features" in pages("conditional").words


# ------------------------------------------------------------------------------------ what the page is made of


def test_held_out_rows_are_those_of_the_fit(models):
    frame, fitted = digits()[:300], models(digits()[:300], ())
    evidence = gather(fitted, frame)
    assert (evidence.source, len(evidence.rows.x), len(evidence.learn.x)) == ("held out", 30, 270)
    expected = fitted.figures.validation
    assert float(evidence.log_density.mean()) == pytest.approx(expected["log_density_linearised"])
    assert gather(fitted, frame.iloc[::-1]).source == "given"  # another order, another split
    together = torch.cat([evidence.rows.x, evidence.learn.x])
    x = fitted.model.columns.round_integers(fitted.model.columns.restore(together)).sort(0).values
    np.testing.assert_array_equal(x, np.sort(fitted.schema.encode(frame)[0], axis=0))


def test_all_densities_are_scored_on_the_same_rows_in_the_user_s_units(models):
    fitted = models(digits()[:300], ())
    evidence = gather(fitted, digits()[300:])
    ours, ppca, mixture = compare(fitted, evidence)
    columns = fitted.model.columns
    x, learn = (columns.restore(rows.x).numpy() for rows in (evidence.rows, evidence.learn))
    assert ours.mean == pytest.approx(float(fitted.model.log_prob(torch.from_numpy(x)).mean()))
    kept, scale = columns.kept.numpy(), columns.scale[columns.kept].numpy()
    value = PCA(2).fit(learn[:, kept] / scale).score(x[:, kept] / scale) - np.log(scale).sum()
    assert ppca.mean == pytest.approx(value, rel=1e-4)
    assert ppca.ahead == pytest.approx(ours.mean - ppca.mean)
    assert mixture.mean > ppca.mean  # ten kinds of digits
    assert mixture.ahead_error > 0


def test_curved_columns_are_scored_in_the_user_s_units(models):
    frame = np.exp(3 * three(300).set_axis(["u", "v", "w"], axis=1))
    fitted = models(frame, ())
    assert fitted.model.columns.heavy_tailed
    evidence = gather(fitted, frame)
    x = fitted.model.columns.restore(evidence.rows.x)
    np.testing.assert_allclose(evidence.log_density, fitted.model.log_prob(x), rtol=1e-9)
    ours, ppca, _ = compare(fitted, evidence)
    assert abs(ours.mean - ppca.mean) < 5  # on the same scale
    assert any(what.startswith("heavy-tailed") for what, _, _ in column_table(fitted, None))


@pytest.mark.parametrize("name", NOISES)
def test_deviations_are_those_of_the_noise_s_covariance(name):
    sizes = {"isotropic": (), "component": (3,), "low_rank": (3, 2)}[name]
    noise = NOISES[name](4, *sizes).double()
    if name != "isotropic":
        root = torch.randn(3, 4, 4, dtype=torch.float64)
        noise.set_covariances(root @ root.mT + torch.eye(4))
    K = len(noise.half_log_det())
    normal = torch.nn.functional.normalize(torch.randn(5, 2, 4, dtype=torch.float64), dim=2)
    whitening = noise.whiten(torch.eye(4, dtype=torch.float64))  # rows: Sigma_k^(-1/2) e_i
    precision = torch.einsum("ika,jka->kij", whitening, whitening)
    expected = torch.einsum("nqi,kij,nqj->nqk", normal, torch.linalg.inv(precision), normal).sqrt()
    found = _deviations(noise, normal)
    assert found.shape == (5, 2, K)
    torch.testing.assert_close(found, expected)


def test_residuals_of_the_model_s_own_samples_are_calibrated(models):
    fitted = models(three(), ())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        rows = fitted.model.sample(1200)
    evidence = gather(fitted, pd.DataFrame(rows.numpy(), columns=list("xyz")))
    ordered = evidence.surface.pit.sort().values
    assert float((ordered - torch.linspace(0, 1, len(ordered))).abs().max()) < 0.08
    assert evidence.samples.energy.p_value > 0.01
    assert evidence.c2st < 0.6


def test_a_page_is_made_of_its_seed_and_leaves_state_and_model_alone(models, pages):
    pages("three columns")
    fitted = models(three(), ())
    state, tensors = torch.random.get_rng_state(), {k: v.clone() for k, v in fitted.model.state_dict().items()}
    command = [fitted.figures.command]
    assert render(fitted, three(), name=f"my {NASTY}", commands=command) == pages("three columns").source
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(v, tensors[k]) for k, v in fitted.model.state_dict().items())


# ------------------------------------------------------------------------------------ what it says


def judged(fitted, *statuses, noticed=()):
    names = list(CHECKS)
    health = Health(tuple(Verdict(names[i], s, 1.0, 2.0, f"finding {i}") for i, s in enumerate(statuses)))
    return verdicts(dataclasses.replace(fitted, figures=fitted.figures.but(health=health)), noticed)


@pytest.mark.parametrize("statuses", [("ok", "ok"), ("ok", "warn"), ("warn", "fail", "ok"), ()])
@pytest.mark.parametrize("table", ["ok", "warn"])
def test_the_headline_is_the_worst_of_all(models, statuses, table):
    fitted = models(three(), ())
    found = judged(fitted, *statuses, noticed=(Verdict("simpler", table, 1.0, 2.0, "a simpler model is better"),))
    worst = max((*statuses, table), key=("ok", "warn", "fail").index) if statuses else "unknown"
    assert found.status == worst
    assert len(found.concerns) == sum(status != "ok" for status in (*statuses, table))
    assert len(found.uses) == 3
    if statuses:
        scoring = found.uses[0]
        assert scoring.status == worst


def test_a_check_says_which_uses_it_concerns(models):
    found = judged(models(three(), ()), *("fail" if name == "samples" else "ok" for name in CHECKS))
    assert [use.status for use in found.uses] == ["ok", "fail", "ok"]


def test_every_check_has_a_question(models):
    names = {v.name for v in models(three(), ()).figures.health.verdicts}
    assert names <= set(CHECKS)


@pytest.mark.parametrize(("ahead", "status"), [(3.0, "ok"), (0.1, "ok"), (-3.0, "warn")])
def test_a_better_simpler_model_is_a_warning(models, ahead, status):
    fitted = models(three(), ())
    scores = [Score("model", 0.0, 0.1), Score("PPCA", 0.0, 0.1, ahead, 0.1), Score("mixture", 0.0, 0.1, 9.0, 0.1)]
    found = {v.name: v.status for v in noticed(fitted, gather(fitted, three()), scores)}
    assert found["simpler"] == status


def test_rows_of_another_law_are_noticed(models):
    fitted = models(three(), ())
    for frame, status in ((three(3000)[300:], "ok"), (three().add([0.0, 0.0, 1.0]), "warn")):
        assert {v.name: v.status for v in noticed(fitted, gather(fitted, frame), [])}["shift"] == status


@pytest.mark.parametrize(
    ("objective", "flow", "keys"),
    [
        ({"surrogate": "encoder"}, {}, {"sorrenson2024", "zuko"}),
        ({"surrogate": "conditional"}, {}, {"sorrenson2024", "rafae2026"}),
        ({}, {}, {"sorrenson2024", "rafae2026"}),
        ({"kind": "rectangular"}, {"kind": "rectangular"}, {"caterini2021", "dinh2017"}),
        ({"kind": "exact"}, {}, {"sorrenson2024"}),
        ({"kind": "reconstruction"}, {}, {"zuko"}),
        ({"kind": "variational"}, {"kind": "variational"}, {"kingma2014"}),
        ({"kind": "wasserstein"}, {}, {"tolstikhin2018"}),
        ({"kind": "regularised"}, {}, {"ghosh2020"}),
        ({"kind": "likelihood"}, {"kind": "bijective"}, {"durkan2019"}),
        ({"kind": "likelihood"}, {"kind": "bijective", "transform": "maf"}, {"papamakarios2017"}),
        ({"kind": "likelihood"}, {"kind": "bijective", "transform": "realnvp"}, {"dinh2017"}),
        ({"kind": "likelihood"}, {"kind": "bijective", "transforms": 0}, {"zuko"}),
    ],
)
def test_the_publications_of_what_was_used_are_cited(models, objective, flow, keys):
    fitted = models(three(), ())
    recipe = isthmus.Recipe.validated({"flow": {"latent_dim": "auto", **flow}, "objective": objective})
    model = Model(density_of(recipe.build_flow(3, 3), IsotropicNoise(3)), fitted.model.columns)
    other = dataclasses.replace(fitted, recipe=recipe, model=model, latent=Part(kind="as trained"))
    found = citations(other, gather(fitted, None), baselines=False)
    cited = {key for key, entry in bibliography().items() if entry in found}
    others = {"sorrenson2024", "rafae2026", "caterini2021", "dinh2017", "kingma2014", "durkan2019", "papamakarios2017"}
    others |= {"tolstikhin2018", "ghosh2020"}
    assert keys <= cited
    assert cited & others == keys & others
    assert "tipping1999" not in cited
    for key, entry in bibliography().items():
        assert entry.startswith("@")
        assert f"{{{key}," in entry
        assert entry.count("{") == entry.count("}")


# ------------------------------------------------------------------------------------ files and the command line


def test_rows_of_networks_for_images_are_drawn_as_images():
    pixels = np.random.default_rng(0).uniform(size=(60, 64))
    recipe = isthmus.Recipe.parse(
        "{flow: {latent_dim: 2, network: {kind: convolutional, shape: [1, 8, 8], channels: 2}},"
        " training: {max_steps: 2, validations: 1}, refit: {latent: gaussian, noise: isotropic}}"
    )
    fitted = isthmus.fit(pixels, recipe=recipe)
    page = Page(render(fitted))
    assert "Walks along the surface, from −2 to 2 standard deviations. Mean grey value" in page.words
    others = recipe.update(flow={"latent_dim": 2, "network": {"kind": "linear"}})
    assert "Mean grey value" not in Page(render(dataclasses.replace(fitted, recipe=others))).words


def test_what_happened_in_training_is_marked(models):
    fitted = models(three(), ())
    row = {"step": 0.0, "log_density": -3.0, "reconstruction": 1.0, "beta": 1.0}
    log = [row, row | {"step": 1, "log_density": float("nan")}, row | {"step": 2, "beta": 2.0}]
    log.append(row | {"step": 3, "log_density": -9.0, "beta": 2.0})
    figures = fitted.figures.but(best_step=2, skipped_steps=7, retreats=2)
    page = Page(render(dataclasses.replace(fitted, log=log, figures=figures)))
    assert (
        "Marked: not finite at step 1; last change of beta at step 2; largest setback at step 3; weights" in page.words
    )
    assert "7 steps were left out, their gradient not being finite, and 2 times it went back" in page.words


def test_fit_writes_a_report_and_report_writes_another(tmp_path, capsys):
    three(60).to_csv(tmp_path / "t.csv", index=False)
    table, model = str(tmp_path / "t.csv"), tmp_path / "model"
    short = ["--latent-dim", "1", "--set", "training.max_steps=20", "--set", "refit.latent=mixture"]
    assert cli.main(["fit", table, "-o", str(model), *short]) == 0
    page = (model / "report.html").read_text()
    assert f"isthmus fit {table} -o {model} --latent-dim 1" in page
    assert json.loads((model / "config.json").read_text())["versions"]["torch"] in page
    assert not [path for path in model.iterdir() if path.name.startswith(".")]
    other = tmp_path / "other.html"
    assert cli.main(["report", str(model), "-o", str(other)]) == 0
    assert f"isthmus report {model} -o {other}" in other.read_text()
    assert capsys.readouterr().out.splitlines()[-1].split() == ["report", str(other)]
    assert cli.main(["report", str(model), table]) == 0
    assert (model / "report.html").read_text() != page
    (model / "report.html").unlink()
    isthmus.load(model)


def test_ctrl_c_in_the_report_leaves_the_model(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("isthmus.report.write", interrupt)
    three(60).to_csv(tmp_path / "t.csv", index=False)
    arguments = ["fit", str(tmp_path / "t.csv"), "-o", str(tmp_path / "m"), "--set", "training.max_steps=5"]
    arguments += ["--latent-dim", "1", "--set", "refit.latent=mixture"]
    assert cli.main(arguments) == 0
    isthmus.load(tmp_path / "m")


def test_a_report_is_written_whole_or_not_at_all(tmp_path, models, monkeypatch):
    fitted, page = models(three(), ()), tmp_path / "page.html"
    page.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        write(fitted, page)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert page.read_text() == "old"


@pytest.mark.parametrize("text", ["8", "8x", "x8", "0x8", "8x8x8", "8 by 8", "²x2"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError):
        image_shape(text)


def test_rows_come_back_only_for_the_table_of_the_fit():
    X = np.random.default_rng(0).normal(size=(40, 3))
    mixture = {"latent": "mixture", "noise": "isotropic"}
    fitted = isthmus.fit(
        X, recipe=isthmus.Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 2}, refit=mixture)
    )
    train, held_out = isthmus.fitting.rows_again(fitted, X)
    assert isinstance(train, Rows)
    assert (len(train.x), len(held_out.x)) == (36, 4)
    for other in (X[::-1], X[:39], X + 1e-12):
        with pytest.raises(InputError):
            isthmus.fitting.rows_again(fitted, other)
    weighted = isthmus.fit(X, recipe=fitted.recipe, sample_weight=np.ones(40))
    with pytest.raises(InputError):
        isthmus.fitting.rows_again(weighted, X)
