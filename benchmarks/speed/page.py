"""Results as tables: the last line of each case, the ratios wanted beside them, and which were missed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.speed.curves import AXES, QUANTITIES, START, exponent
from benchmarks.tables import aligned, markdown, number

__all__ = ["block", "plain"]

Record = Mapping[str, Any]

AT_MOST = (
    "ours_over_autoencoder",
    "part_probed_over_autoencoder",
    "default_part_probed_over_autoencoder",
    "memory_over_autoencoder",
)
RATIOS = {
    "ours_over_autoencoder": "ours / autoencoder",
    "part_probed_over_autoencoder": "part probed / autoencoder",
    "default_over_autoencoder": "default / autoencoder",
    "default_part_probed_over_autoencoder": "default, part probed / autoencoder",
    "reference_over_ours": "research form / ours",
    "research_code_over_ours": "research code / ours",
    "memory_over_autoencoder": "memory, ours / autoencoder",
    "log_likelihood_over_vmap": "exact log-likelihood, vmap / ours",
}

FITS = {
    "ours": "the same networks",
    "default": "the default, d = 3",
    "short": "the default in a fifth of the steps",
    "plain_loop": "plain loop",
}


def plain(record: Record) -> str:
    """One record for a terminal."""
    if "costs" in record:
        costs = (
            f"{name} {cost['seconds']:.2g} s {cost['bytes'] / 1e6:.3g} MB" for name, cost in record["costs"].items()
        )
        return f"{record['axis']} = {record['value']}: {', '.join(costs)}"
    if "plain_loop" in record:
        return aligned(_fit_rows([record]))
    rows = [["", "median", "range", "wanted"], *(_ratio_row(record, name) for name in RATIOS if name in record)]
    times = [[name, f"{found:.2f} ms"] for name, found in record["milliseconds"].items()]
    return f"\n{record['case']} (yardstick: {record['yardstick']})\n{aligned(rows)}\n\n{aligned(times)}"


def block(records: Iterable[Record]) -> str:
    """The part of the page that results decide."""
    last = {_key(record): record for record in records}
    of = list(last.values())
    steps = [record for record in of if "yardstick" in record]
    parts = [_steps(group) for group in _by_device(steps)]
    if fitted := [record for record in of if "plain_loop" in record]:
        parts += ["## A whole fit", markdown(_fit_rows(fitted))]
    if points := [record for record in of if "costs" in record]:
        parts += ["## Growth", _growth(points)]
    return "\n\n".join(parts)


def _key(record: Record) -> tuple[Any, ...]:
    setting = record.get("setting", {})
    return record["case"], record.get("value"), *(setting.get(key) for key in ("device", "precision", "mode"))


def _by_device(records: Sequence[Record]) -> list[list[Record]]:
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault((record["machine"]["device"], *_key(record)[2:]), []).append(record)
    return list(groups.values())


def _steps(records: Sequence[Record]) -> str:
    machine, setting = records[0]["machine"], records[0]["setting"]
    device = machine["processor"] if setting["device"] == "cpu" else machine["device"]
    mode = f", mode {setting['mode']}" if setting["mode"] else ""
    loads = [record["machine"]["load"] for record in records]
    days = sorted({record["finished"][:10] for record in records})
    words = (
        f"Torch {machine['torch']}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}{mode}; measured "
        f"{', '.join(days)} under a load of {min(loads):.1f} to {max(loads):.1f} processes, this one included."
    )
    names = [name for name in RATIOS if any(name in record for record in records)]
    ratios = [["case", *(RATIOS[name] for name in names)]]
    ratios += [[record["case"], *(_cell(record, name) for name in names)] for record in records]
    rates = [["case", "log-likelihoods / s", "largest error", "of vmap", "samples / s", "first step, s", "cached, s"]]
    rates += [_rates(record) for record in records]
    imports = ", ".join(f"`import {name}` {found:.1f} s" for name, found in records[-1]["import_seconds"].items())
    missed = [f"{record['case']}: {RATIOS[name]}" for record in records for name in names if _missed(record, name)]
    verdict = f"Missed: {'; '.join(missed)}." if missed else "Every ratio asked for is reached."
    title = f"## {device}, {setting['precision']}"
    return "\n\n".join([title, words, markdown(ratios), verdict, markdown(rates), f"{imports}."])


def _cell(record: Record, name: str) -> str:
    if name not in record:
        return "-"
    _, median, spread, wanted = _ratio_row(record, name)
    text = f"{median} ({spread})" + (f", {wanted}" if wanted else "")
    return f"**{text}: missed**" if _missed(record, name) else text


def _ratio_row(record: Record, name: str) -> list[str]:
    low, high = record["ranges"][name]
    wanted = record["targets"].get(name)
    sign = "≤" if name in AT_MOST else "≥"
    return [RATIOS[name], f"{record[name]:.2f}", f"{low:.2f} .. {high:.2f}", f"{sign} {wanted:g}" if wanted else ""]


def _missed(record: Record, name: str) -> bool:
    if name not in record or name not in record["targets"]:
        return False
    wanted = record["targets"][name]
    return record[name] > wanted if name in AT_MOST else record[name] < wanted


def _rates(record: Record) -> list[str]:
    exact, seconds = record["log_likelihood"], record.get("compile_seconds", {})
    errors = [f"{exact[name]:.1e}" for name in ("largest_error", "largest_error_of_vmap")]
    compiled = [f"{seconds[name]:.1f}" if seconds else "-" for name in ("empty_cache", "full_cache")]
    rates = [number(round(rate)) for rate in (exact["rows_per_second"], record["samples_per_second"])]
    return [record["case"], rates[0], *errors, rates[1], *compiled]


def _fit_rows(records: Sequence[Record]) -> list[list[str]]:
    rows = [["", "steps", "seconds", "of a core", "FID-like", "reconstruction error", "plain loop / this"]]
    for record in records:
        for name, shown in FITS.items():
            if name not in record:
                continue
            found, faster = record[name], record.get(f"plain_loop_over_{name}")
            wanted = record["targets"].get(f"plain_loop_over_{name}")
            times = [f"{found[key]:.0f}" for key in ("seconds", "processor_seconds")]
            errors = [f"{found[key]:.4f}" for key in ("fid_like", "reconstruction")]
            verdict = "" if faster is None else f"{faster:.2f}, ≥ {wanted:g}" + (": missed" if faster < wanted else "")
            rows.append([shown, f"{found.get('steps', record['steps']):,}", *times, *errors, verdict])
    return rows


def _growth(records: Sequence[Record]) -> str:
    """Exponents of the cost's growth, of time and of memory, beyond the largest of three values."""
    axes = [axis for axis in AXES if sum(record["axis"] == axis for record in records) > 2]
    rows = [["cost of", *(f"in {axis}: time, memory" for axis in axes)]]
    for quantity in QUANTITIES:
        cells = []
        for axis in axes:
            own = [record for record in records if record["axis"] == axis and quantity in record["costs"]]
            values = [record["value"] for record in own]
            slopes = [
                exponent(values, [record["costs"][quantity][unit] for record in own])
                for unit in ("seconds", "bytes")
                if len(own) > 2
            ]
            cells.append(", ".join(f"{slope:.2f}" for slope in slopes) or "-")
        rows.append([quantity, *cells])
    start = ", ".join(f"{name} = {value}" for name, value in START.items())
    return f"Exponents over the largest three values of each axis; elsewhere {start}.\n\n{markdown(rows)}"
