"""Write what was measured into the documentation: every figure there comes from the lines in `benchmarks/results`.

    python -m benchmarks.pages [--check]

`docs/reproduction.md` is written whole, from the suites. Elsewhere it is blocks between `<!-- mark -->` and
`<!-- end -->`: `defaults` in `docs/defaults.md`, `speed` and `probed` in `docs/speed.md`, `numbers` in `README.md` and
`docs/index.md`, and suites by their names in `docs/known_surfaces.md`, which are left out of the first page.
`--check` writes nothing, and fails where a page is not what the results say.
"""

import argparse
import re
import sys
from pathlib import Path

from benchmarks import defaults
from benchmarks.report import number, summary, text
from benchmarks.run import RESULTS, read
from benchmarks.speed import page as speed
from benchmarks.suites import Suite, names
from benchmarks.tables import Found, markdown, page, tables

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = {
    "toy_transition": "The transition: error and likelihood of the noisy sine against beta",
    "toy_pathology": "Curves that the four surrogates learn",
    "hutchinson_variance": "Variance of the trace estimate and error of the gradient",
    "gradient_quality": "Cosine of surrogate and exact gradient along training",
    "singular_values": "Singular values of the decoder's Jacobian",
    "images_conditional": "Digits and clothing that the default drew, a line for each class that it was asked for",
    "speed_curves": "Time and memory of steps and of both changes of volume against d, D, batch and probes",
}
SURFACES = ("stretch_cost", "inference", "penalty_path", "coverage", "chains", "earth")
SHOWN = {
    "isthmus": "isthmus",
    "ppca": "probabilistic PCA",
    "gmm": "Gaussian mixture",
    "autoencoder_mixture": "autoencoder, then mixture",
    "nsf": "neural spline flow",
}
HEAD = """# Tables of the papers, side by side

Written by `python -m benchmarks.pages` from `benchmarks/results`, which `python -m benchmarks.run SUITE` fills: a suite
is one file in `benchmarks/suites`, every rival in it a recipe of the library. Each line of the results holds the
machine, the versions, the seed and the time. Two cores without an accelerator, one thread a process; seconds were
measured beside other processes, and are upper bounds.

How to read the values: `fid_like` is the squared Wasserstein distance of the Gaussians with the moments of samples and
of test rows, `energy` the energy distance, `c2st` the area under the curve of a classifier between them (0.5 is best);
each of samples on the manifold, and with `_noisy` of samples with the noise off it, which is the density in R^D that
`ambient_ll` scores. `manifold_nll` is exact, and cannot be compared across latent dimensions. Rows named
`normal` sample the latent N(0, I) that was trained, rows named `mixture` a mixture refitted to the codes of the same
networks. Data are standardised, likelihoods are nats a row.
"""


def reproduction() -> str:
    """The page of all suites that have results."""
    parts = [HEAD]
    for name in sorted({*names()} - {*SURFACES}):
        file = RESULTS / f"{name}.jsonl"
        if file.exists():
            head, *rest = page(Suite.read(name), file, markdown).split("\n\n")
            parts.append("\n\n".join([f"## {head}", *rest]))
            if (DOCS / "figures" / f"{name}.png").exists():
                parts.append(f"![{FIGURES[name]}](figures/{name}.png)")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def placed(page: str, mark: str, block: str) -> str:
    """A page with a block of results between `<!-- mark -->` and `<!-- end -->`."""
    pattern = rf"(<!-- {mark} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{block}\n{found[2]}", page, flags=re.DOTALL)


def with_defaults(page: str) -> str:
    """`docs/defaults.md` with its block of results as they are now."""
    block = text(summary(defaults.read(defaults.RESULTS)))
    block = "\n".join(line.rstrip() for line in block.split("\n"))
    return placed(page, "defaults", f"```text\n{block}\n```")


def with_numbers(page: str) -> str:
    """A page with the table of held-out log-likelihoods as it is now, the best of each line in bold."""
    lines = [["table", *SHOWN.values()], ["---", *("---:" for _ in SHOWN)]]
    for name, found in summary(defaults.read(defaults.RESULTS))["tables"]["sets"].items():
        values = {method: found["log_likelihood"].get(method) for method in SHOWN}
        done = {method: value["mean"] for method, value in values.items() if value and value["mean"] is not None}
        best = max(done, key=lambda method: done[method], default="")
        cells = [f"**{number(value)}**" if method == best else number(value) for method, value in values.items()]
        lines.append([name, *cells])
    block = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return placed(page, "numbers", block)


def with_speed(page: str) -> str:
    """`docs/speed.md` with its block of results as they are now, those of a CPU before those of other devices."""
    records = [record for file in sorted(RESULTS.glob("speed_*.jsonl")) for record in read(file)]
    block = speed.block(records)
    if (DOCS / "figures" / "speed_curves.png").exists():
        block += f"\n\n![{FIGURES['speed_curves']}](figures/speed_curves.png)"
    suite = Suite.read("part_probed")
    found = Found(suite, RESULTS / "part_probed.jsonl")
    probed = "\n\n".join(markdown(rows) for _, rows in tables(found, suite.record["tables"]))
    return placed(placed(page, "speed", block), "probed", probed)


def with_surfaces(page: str) -> str:
    """`docs/known_surfaces.md` with the tables of its suites as they are now, and what the runs took."""
    for name in SURFACES:
        suite = Suite.read(name)
        found = Found(suite, RESULTS / f"{name}.jsonl")
        hours = sum(record["seconds"] for record in found.records) / 3600
        shown = [f"{title}.\n\n{markdown(rows)}" for title, rows in tables(found, suite.record["tables"])]
        runs = f"Budget: {suite.record['budget']} {len(found.records)} runs, {hours:.1f} hours."
        page = placed(page, name, "\n\n".join([runs, *shown, *found.failures()]))
    return page


def pages() -> dict[Path, str]:
    """Every page that holds results, as it should be."""
    file, fast, surfaces = DOCS / "defaults.md", DOCS / "speed.md", DOCS / "known_surfaces.md"
    shown = {page: with_numbers(page.read_text()) for page in (DOCS.parent / "README.md", DOCS / "index.md")}
    shown |= {file: with_defaults(file.read_text()), fast: with_speed(fast.read_text())}
    shown |= {surfaces: with_surfaces(surfaces.read_text())}
    return {DOCS / "reproduction.md": reproduction(), **shown}


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [file for file, content in pages().items() if not file.exists() or file.read_text() != content]
    if check and stale:
        sys.exit(f"not what the results say: {', '.join(map(str, stale))}; run python -m benchmarks.pages")
    for file, content in pages().items():
        file.write_text(content)


if __name__ == "__main__":
    main()
