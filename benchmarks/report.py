"""What the results file of the defaults says: a summary of plain values, and the same as text. Misses are spelt out."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.sections import METHODS, Key, Record
from benchmarks.sets import SETS

__all__ = ["plain", "summary", "text"]

Results = Mapping[Key, Record]

BEATEN = ("ppca", "autoencoder_mixture")  # one component, a Gaussian, is among the mixtures that it chooses from
_SHORT = {"encoder_surrogate": "encoder", "autoencoder_gaussian": "ae gaussian", "autoencoder_mixture": "ae mixture"}


# -- summary -----------------------------------------------------------------------------------------------------------


def summary(results: Results) -> dict[str, Any]:
    """Every section that has results, as plain values."""
    found: dict[str, Any] = {}
    if names := [name for name in SETS if any(key[:2] == ("tables", name) for key in results)]:
        found["tables"] = tables({name: of_set(results, name) for name in names})
    for section in ("toys", "beta", "sabotage", "timing"):
        if runs := [record for key, record in results.items() if key[0] == section]:
            passed = [record for record in runs if record.get("passed")]
            missed = [f"{record['set']} seed {record['seed']}" for record in runs if not record.get("passed")]
            found[section] = {"passed": len(passed), "of": len(runs), "missed": missed, "runs": runs}
    return found


def of_set(results: Results, name: str) -> dict[str, dict[int, Record]]:
    """Method -> seed -> record of one table."""
    found: dict[str, dict[int, Record]] = {}
    for (section, set_name, seed, method), record in results.items():
        if (section, set_name) == ("tables", name):
            found.setdefault(method, {})[seed] = record
    return found


def tables(sets: Mapping[str, dict[str, dict[int, Record]]]) -> dict[str, Any]:
    """One record a set, and on how many of them isthmus is above."""
    rows = {name: one_set(methods) for name, methods in sets.items()}
    counts = {}
    for comparison in ("above_best", "above_gmm", "above_nsf"):
        compared = {name: row[comparison] for name, row in rows.items() if row[comparison] is not None}
        missed = [name for name, value in compared.items() if not above(comparison, value)]
        counts[comparison] = {"passed": len(compared) - len(missed), "of": len(compared), "missed": missed}
    return {"sets": rows, "counts": counts, "of": len(SETS)}


def above(comparison: str, difference: float) -> bool:
    """Whether a difference counts: strictly above the best of the plain rivals, at least as good as the others."""
    return difference > 0 if comparison == "above_best" else difference >= 0


def one_set(methods: Mapping[str, Mapping[int, Record]]) -> Record:
    """Mean and spread over seeds of each method, and by how much isthmus is above the rivals, in nats a row."""
    own = [record for _, record in sorted(methods.get("isthmus", {}).items())]
    done = [record for record in own if "failed" not in record]
    return {
        "log_likelihood": {method: mean_and_spread(of_seeds.values()) for method, of_seeds in methods.items()},
        "median": {method: mean_and_spread(of_seeds.values(), "median") for method, of_seeds in methods.items()},
        "above_best": difference(methods, BEATEN),
        "above_gmm": difference(methods, ("gmm",)),
        "above_nsf": difference(methods, ("nsf",)),
        "seeds": sorted(methods.get("isthmus", {})),
        "latent_dim": [record["latent_dim"] for record in done],
        "seconds": statistics.mean(record["seconds"] for record in done) if done else None,
        "fits": done,
        "failures": [
            f"{method} seed {seed}: {record['failed']}"
            for method, of_seeds in methods.items()
            for seed, record in of_seeds.items()
            if "failed" in record
        ],
    }


def value(record: Record, name: str = "log_likelihood") -> float:
    """The headline log-likelihood, or its median over rows; of a failed run minus infinity."""
    return -math.inf if "failed" in record else float(record[name])


def mean_and_spread(records: Iterable[Record], name: str = "log_likelihood") -> dict[str, float | None]:
    """Mean and standard deviation over seeds; None where a run failed, or for the spread of one seed."""
    values = [value(record, name) for record in records]
    if not all(map(math.isfinite, values)):
        return {"mean": None, "spread": None}
    return {"mean": statistics.mean(values), "spread": statistics.stdev(values) if len(values) > 1 else None}


def difference(methods: Mapping[str, Mapping[int, Record]], rivals: Sequence[str]) -> float | None:
    """Mean over seeds of isthmus less that of the best rival, over the seeds that all have; None without such a seed.

    A failed isthmus is minus infinity; a failed rival leaves the comparison of its seed open.
    """
    shared = set(methods.get("isthmus", {}))
    for rival in rivals:
        shared &= {seed for seed, record in methods.get(rival, {}).items() if "failed" not in record}
    if not shared:
        return None
    own, *others = (
        statistics.mean(value(methods[method][seed]) for seed in sorted(shared)) for method in ("isthmus", *rivals)
    )
    return own - max(others)


def plain(value: Any) -> Any:
    """For JSON: numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- text --------------------------------------------------------------------------------------------------------------


def text(found: Mapping[str, Any]) -> str:
    """The summary as a readable table."""
    parts = [tables_text(found["tables"])] if "tables" in found else []
    parts += [section_text(section, found[section]) for section in _LINES if section in found]
    return "\n\n".join(parts) if parts else "no results yet"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first and the last to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others, last in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:-1], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells, last]))
    return lines


def tables_text(found: Mapping[str, Any]) -> str:
    """Log-likelihoods, what was fitted, counts and misses."""
    heads = [_SHORT.get(method, method) for method in METHODS]
    rows = [["set", *heads, "above best", "at least gmm", "d", "seconds"]]
    fits = [["set", "seed", "linearised", "latent", "noise", "beta", "steps", "curve", "status", "failing (warning)"]]
    medians = [["set", *heads]]
    failures = []
    for name, row in found["sets"].items():
        numbers = [number(row["log_likelihood"].get(method)) for method in METHODS]
        verdicts = [verdict(comparison, row[comparison]) for comparison in ("above_best", "above_gmm")]
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.0f}"
        rows.append([name, *numbers, *verdicts, ",".join(map(str, row["latent_dim"])) or "-", seconds])
        medians.append([name, *(number(row["median"].get(method)) for method in METHODS)])
        fits += [fit_cells(name, record) for record in row["fits"]]
        failures += [f"FAILED {name} {failure}" for failure in row["failures"]]
    lines = [
        "tables: held-out log-likelihood, nats a row in standardised units, mean and standard deviation over seeds;",
        f"above the best of {', '.join(BEATEN)}?",
        *aligned(rows),
        *failures,
        "",
        *counts_text(found),
        "",
        "the same, median over rows instead of mean: a few wild rows decide the mean of gasdrift",
        *aligned(medians),
        "",
        *aligned(fits),
    ]
    return "\n".join(lines)


def counts_text(found: Mapping[str, Any]) -> list[str]:
    """On how many sets isthmus is above."""
    words = {
        "above_best": f"above the best of {', '.join(BEATEN)}",
        "above_gmm": "at least the Gaussian mixture",
        "above_nsf": "at least the neural spline flow of equal time",
    }
    lines = []
    for comparison, said in words.items():
        count = found["counts"][comparison]
        pending = found["of"] - count["of"]
        line = f"{said} on {count['passed']} of {count['of']} sets" + (
            f", {pending} not compared yet" if pending else ""
        )
        lines.append(line + missed_text(count["missed"]))
    return lines


def missed_text(missed: Sequence[str]) -> str:
    """The misses, if there are any."""
    return f"; MISSED: {', '.join(missed)}" if missed else ""


def number(stats: Mapping[str, float | None] | None) -> str:
    """`mean ± spread`."""
    if stats is None:
        return "-"
    if stats["mean"] is None:
        return "failed"
    return f"{stats['mean']:.2f}" + ("" if stats["spread"] is None else f" ± {stats['spread']:.2f}")


def verdict(comparison: str, value: float | None) -> str:
    """`yes` or `NO` with the difference in nats a row."""
    if value is None:
        return "-"
    return f"{'yes' if above(comparison, value) else 'NO'} {value:+.2f}"


def kind(part: Mapping[str, Any]) -> str:
    """A latent or a noise in a word: `mixture 8`."""
    return " ".join(str(value) for value in part.values())


def flags(record: Record) -> str:
    """Verdicts that fail, and in brackets those that warn."""
    warning = f"({', '.join(record['warning'])})" if record["warning"] else ""
    return " ".join(part for part in (", ".join(record["failing"]), warning) if part) or "-"


def beta(record: Record) -> str:
    """The weight of the reconstruction error."""
    return "-" if record["beta"] is None else f"{record['beta']:.3g}"


def fit_cells(name: str, record: Record) -> list[str]:
    """One fit of a table."""
    off = f"{record['linearised'] - record['log_likelihood']:+.2f}"
    parts = [kind(record["latent"]), kind(record["noise"]), beta(record), str(record["steps"])]
    curve = "yes" if record["latent_dim_curve"] else "no"
    return [name, str(record["seed"]), off, *parts, curve, record["status"], flags(record)]


def toy_cells(record: Record) -> list[str]:
    """Dimension found and true, residual over the noise."""
    return [str(record["latent_dim"]), str(record["truth"]), f"{record['excess']:+.2f}"]


def beta_cells(record: Record) -> list[str]:
    """Residual over the noise, and beta."""
    return [f"{record['excess']:+.3f}", f"{record['target']}", beta(record)]


def sabotage_cells(record: Record) -> list[str]:
    """What should be named, and whether it is named first."""
    return [record["expected"], "yes" if record["first"] else "no"]


def timing_cells(record: Record) -> list[str]:
    """Seconds allowed."""
    return [f"{record['target']:.0f}"]


_LINES = {
    "toys": (toy_cells, ("d found", "d true", "residual / noise - 1"), "found the right latent dimension"),
    "beta": (beta_cells, ("residual / noise - 1", "at most", "beta"), "reached the noise floor"),
    "sabotage": (sabotage_cells, ("expected", "named first"), "named what was spoilt"),
    "timing": (timing_cells, ("at most",), "within the time"),
}


def section_text(section: str, found: Mapping[str, Any]) -> str:
    """One line a run of a section, and how many are as they should be."""
    cells, heads, said = _LINES[section]
    rows = [["set", "seed", "", *heads, "seconds", "status", "failing (warning)"]]
    failures = []
    for record in found["runs"]:
        if "failed" in record:
            failures.append(f"FAILED {record['set']} seed {record['seed']}: {record['failed']}")
            continue
        mark = "yes" if record["passed"] else "NO"
        rest = [f"{record['seconds']:.0f}", record["status"], flags(record)]
        rows.append([record["set"], str(record["seed"]), mark, *cells(record), *rest])
    count = f"{said}: {found['passed']} of {found['of']}{missed_text(found['missed'])}"
    return "\n".join([section, *aligned(rows), *failures, count])
