"""The documentation without building it: every name is explained, every link leads somewhere, all code runs."""

import ast
import doctest
import glob
import html
import re
import shlex
import shutil
import sys
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest
import torch
from benchmarks import pages

from isthmus import fitting
from isthmus.cli import main
from isthmus.data import DATASETS
from isthmus.data.tables import write_table
from isthmus.density import NOISES
from isthmus.diagnostics import LIMITS
from isthmus.flows import FLOWS
from isthmus.latents import LATENTS
from isthmus.metrics import METRICS
from isthmus.networks import NETWORKS
from isthmus.objective import OBJECTIVES
from isthmus.recipe import Recipe
from isthmus.report.words import CHECKS
from isthmus.supports import SUPPORTS
from isthmus.volume import SURROGATES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted(chain(DOCS.glob("start/*.py"), DOCS.glob("extending/*.py")))
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
CATALOGUES = {
    "flows": FLOWS,
    "objectives": OBJECTIVES,
    "networks": NETWORKS,
    "latents": LATENTS,
    "noises": NOISES,
    "supports": SUPPORTS,
    "surrogates": SURROGATES,
    "datasets": DATASETS,
    "metrics": METRICS,
}


def name(path):
    return str(path.relative_to(ROOT))


@pytest.fixture
def helpers(monkeypatch):
    """The modules beside `conf.py`."""
    monkeypatch.syspath_prepend(str(DOCS))
    import docstrings
    import reference

    yield docstrings, reference
    for module in ("docstrings", "reference"):
        del sys.modules[module]


# ------------------------------------------------------------------------------------------------- nothing is left out


@pytest.mark.parametrize("catalogue", CATALOGUES)
def test_the_page_on_choosing_names_every_entry(catalogue):
    page = (DOCS / "choosing.md").read_text()
    assert [entry for entry in CATALOGUES[catalogue] if f"`{entry}`" not in page] == []


def test_the_page_on_reports_explains_every_check():
    page = (DOCS / "start" / "report.py").read_text()
    checks = (set(CHECKS) | set(LIMITS)) - {"code_scale", "nearest", "residuals"}  # second limits of other checks
    assert sorted(check for check in checks if f"``{check}``" not in page) == []


def test_the_reference_has_a_page_a_module_with_every_public_name_and_every_entry(helpers, tmp_path):
    _, reference = helpers
    reference.write(tmp_path)
    modules = {
        path.stem for path in (ROOT / "src" / "isthmus").iterdir() if path.stem[0] != "_" and path.suffix in ("", ".py")
    }
    assert {path.stem for path in tmp_path.glob("*.rst")} == modules | {"index"}
    for module in modules:
        page = (tmp_path / f"{module}.rst").read_text()
        public = getattr(sys.modules[f"isthmus.{module}"], "__all__", ["InputError"])
        assert [entry for entry in public if not re.search(rf"\b{entry}\b", page)] == [], module
    index = (tmp_path / "index.rst").read_text()
    assert [entry for entry in sys.modules["isthmus"].__all__ if f"isthmus.{entry}" not in index] == []
    entries = (tmp_path / "data.rst").read_text() + (tmp_path / "density.rst").read_text()
    assert [entry for entry in [*DATASETS, *NOISES] if f"``{entry}``" not in entries] == []


def test_every_tutorial_is_in_the_table_of_contents_and_documented():
    for folder in ("start", "extending"):
        listed = re.findall(rf"^   auto/{folder}/(\w+)$", (DOCS / f"{folder}.rst").read_text(), re.MULTILINE)
        assert set(listed) == {path.stem for path in TUTORIALS if path.parent.name == folder}
    assert all(ast.get_docstring(ast.parse(path.read_text())) for path in TUTORIALS)


# --------------------------------------------------------------------------------------------------- figures and links


def test_figures_on_the_first_pages_are_those_of_the_results():
    for page in (ROOT / "README.md", DOCS / "index.md"):
        assert pages.with_numbers(page.read_text()) == page.read_text(), "run python -m benchmarks.pages"
        assert "| digits |" in page.read_text()


def test_the_sentence_before_the_figures_counts_them():
    text = (DOCS / "index.md").read_text()
    table = text[text.index("<!-- numbers -->") : text.index("<!-- end -->")]
    values = [[float(mean) for mean in re.findall(r"(-?[\d.]+) ±", line)] for line in table.splitlines()[3:]]
    above = [sum(own > row[j] for own, *row in values) for j in range(4)]
    words = "of probabilistic PCA and of an autoencoder on all ten, of a\nGaussian mixture on nine, and of a neural"
    assert (len(values), above) == (10, [10, 9, 10, 6])  # PCA, Gaussian mixture, autoencoder, spline flow
    assert words in text
    assert "on six" in text


def anchors(page):
    """Where a link into a page of Markdown may lead: its labels, and its headings as GitHub and MyST name them."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^\((.+)\)=$", text, re.MULTILINE))


LABELS = set(chain.from_iterable(anchors(page) for page in DOCS.glob("*.md")))


def page_of(source, target):
    """The file that a link within the documentation leads to; pages in `auto` are made from scripts and modules."""
    path = (source.parent / target).resolve()
    made = re.fullmatch(rf"{DOCS}/auto/(start|extending|reference)/(\w+)", str(path))
    if made is None:
        return path
    if made[1] == "reference":
        module = ROOT / "src" / "isthmus" / made[2]
        return (
            DOCS / "reference.py"
            if made[2] == "index"
            else next((p for p in (module, module.with_suffix(".py")) if p.exists()), path)
        )
    return DOCS / made[1] / f"{made[2]}.py"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_of_a_page_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)#?([^)\s]*)\)", text):
        file = page_of(page, target) if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in (anchors(file) if target else LABELS), f"{target}#{anchor}"


@pytest.mark.parametrize("source", [*TUTORIALS, *DOCS.glob("*.rst")], ids=name)
def test_links_of_a_tutorial_lead_somewhere(source):
    text, place = source.read_text(), source if source.suffix == ".rst" else DOCS / "auto" / source.relative_to(DOCS)
    for target in re.findall(r":doc:`(?:[^`<]*<)?([^`>]+)>?`", text):
        file = page_of(place, target)
        assert file.exists() or file.with_suffix(".md").exists(), target
    assert [label for label in re.findall(r":ref:`[^<`]*<([^>]+)>`", text) if label not in LABELS] == []


def test_reports_that_pages_link_to_are_kept_or_written_by_a_tutorial():
    written = "".join(path.read_text() for path in TUTORIALS)
    text = written + (DOCS / "index.md").read_text()
    names = set(re.findall(r'(?:href="|<../../)(\w+\.html)[">]', text))
    assert names == {"report.html", "power.html"}
    for report in names:
        assert (DOCS / report).exists() or f'report.write(fitted, Path("{report}")' in written


def test_the_report_on_power_is_that_of_the_commands_beside_it():
    page = html.unescape((DOCS / "power.html").read_text())
    assert len(page.encode()) < 1_500_000
    assert re.search(r'(?:src|href)="(?!#|data:)', page) is None
    commands = re.findall(r"^    (isthmus .*)$", (DOCS / "power.py").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert "\n".join(commands) in page


# ------------------------------------------------------------------------------------------------------ the code runs


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_code_on_a_page_runs(page, monkeypatch, tmp_path):
    """Sessions give what they show; other code runs on a small table, with few steps where a recipe is left out."""
    quick = Recipe.parse("{flow: {latent_dim: 2}, training: {max_steps: 8}, refit: {latent: gaussian}}")
    asked = fitting._recipe
    monkeypatch.setattr(fitting, "_recipe", lambda recipe, flow: quick if recipe is None else asked(recipe, flow))
    monkeypatch.chdir(tmp_path)
    X = torch.randn(60, 61)
    space = {"X": X.numpy(), "x": X[:5]}
    for block in blocks(page):
        if not block.startswith(">>>"):
            exec(compile(block, name(page), "exec"), space)
    sessions = "\n".join(block for block in blocks(page) if block.startswith(">>>"))
    test = doctest.DocTestParser().get_doctest(sessions, {}, name(page), None, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0


SHELL = [page for page in PAGES if "```sh\nisthmus" in page.read_text()]


SURFACES = {  # table -> columns
    "quakes": ["longitude", "latitude"],
    "soils": ["sand", "silt", "clay"],
    "torsions": ["delta", "chi"],
}


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture
def tables(monkeypatch, tmp_path, page):
    """The tables that commands of the pages read, the folder of an interrupted fit, and few steps for all of them."""
    quick = Recipe.parse("{flow: {latent_dim: 1}, training: {max_steps: 8}, refit: {latent: gaussian}}")
    if page.name == "surfaces.md":
        quick = Recipe.parse("{training: {max_steps: 8}}")
    monkeypatch.setattr("isthmus.recipe.Recipe.parse", lambda *_: quick)
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame(torch.randn(90, 3).numpy(), columns=list("abc"))
    write_table(frame, "measurements.csv")
    write_table(frame[:20], "new.csv")
    for name, columns in SURFACES.items():
        values = torch.distributions.Dirichlet(torch.full((len(columns),), 30.0)).sample((90,)).numpy()
        write_table(pd.DataFrame(100 * values, columns=columns), f"{name}.csv")
        write_table(pd.DataFrame(100 * values[:20], columns=columns), f"{name}_test.csv")
    Path("big").mkdir()
    for part in range(2):
        write_table(frame[part::2], f"big/{part}.parquet")
    with monkeypatch.context() as patch:
        patch.setattr("isthmus.fitting.refit_density", interrupt)
        assert main(["fit", "measurements.csv", "-o", "model"]) == 130
    Path("model.run").rename("interrupted")


@pytest.mark.parametrize("page", SHELL, ids=name)
def test_commands_on_a_page_run(page, tables):
    shell = "".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
    for command in re.findall(r"^isthmus .*$", shell, re.MULTILINE):
        if "--resume model.run" in command:
            shutil.rmtree("model")
            Path("interrupted").rename("model.run")
        words = [sorted(glob.glob(word)) if "*" in word else [word] for word in shlex.split(command)[1:]]
        assert main(list(chain(*words))) == 0, command


def test_docstrings_become_restructured_text(helpers):
    for module in helpers:
        assert doctest.testmod(module).failed == 0
    convert = helpers[0].restructured
    table = ["| a | b |", "|---|---|", "| 1 | 2 |", "after"]
    assert convert(["A *word*, 2 * 3, a_ and `Flow`s.", "* one", "  of `a", "  b`"], {"Flow": "isthmus.flow.Flow"}) == [
        "A *word*, 2 \\* 3, a\\_ and :py:obj:`Flow <isthmus.flow.Flow>`\\ s.",
        "* one",
        "  of ``a b``",
    ]
    assert convert(table, {})[-4:] == ["   * - 1", "     - 2", "", "after"]
