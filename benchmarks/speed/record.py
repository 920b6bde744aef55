"""Everything of one case as one JSON object, what needs a process of its own included."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import CASES, Setting
from benchmarks.speed.densities import measure_densities
from benchmarks.speed.steps import YARDSTICKS, peak_bytes, ratio, step_function, time_steps, variants

__all__ = ["alone", "compile_seconds", "import_seconds", "measure"]

_OVER_AUTOENCODER = {
    "ours_over_autoencoder": "ours",
    "default_over_autoencoder": "default",
    "part_probed_over_autoencoder": "part probed",
    "default_part_probed_over_autoencoder": "default, part probed",
}


def alone(task: str, case: str, variant: str, setting: Setting) -> Any:
    """What `main` prints for a task of one variant, as in a new process."""
    chosen = variants(CASES[case], setting)[variant]
    if task == "peak":
        return peak_bytes(CASES[case], setting, chosen)
    step, start = step_function(CASES[case], setting, chosen), time.perf_counter()
    step()
    setting.synchronise()
    return time.perf_counter() - start


def _in_new_process(task: str, case: str, variant: str, setting: Setting, **environment: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.speed", "--alone", task, case, variant]
    command += ["--device", setting.device, "--precision", setting.precision]
    command += ["--mode", setting.mode] if setting.mode else []
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


def compile_seconds(case: str, setting: Setting) -> dict[str, float]:
    """Seconds until the first compiled step is done: with an empty cache, and again with what it left there."""
    with tempfile.TemporaryDirectory() as folder:
        first, again = (_in_new_process("first", case, "ours", setting, TORCHINDUCTOR_CACHE_DIR=folder) for _ in "12")
    return {"empty_cache": first, "full_cache": again}


def import_seconds() -> dict[str, float]:
    """Seconds of a process that imports isthmus, and of one that imports torch alone; the better of two."""

    def seconds(module: str) -> float:
        """From start to end."""
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        return time.perf_counter() - start

    return {module: min(seconds(module), seconds(module)) for module in ("isthmus", "torch")}


def measure(
    name: str,
    setting: Setting | None = None,
    *,
    rounds: int = 5,
    steps: int = 20,
    checkout: Path | None = None,
    processes: bool = True,
) -> dict[str, Any]:
    """All ratios of one case.

    Args:
        name: of the case.
        setting: what it is computed on.
        rounds: how often each ratio is taken.
        steps: timed in each round, of each variant.
        checkout: of the publication's code, to be timed beside.
        processes: whether to measure what takes processes of its own, memory and compilation.
    """
    setting, case = setting or Setting(), CASES[name]
    seconds = time_steps(case, setting, rounds, steps, checkout)
    yardstick = min(YARDSTICKS, key=lambda variant: statistics.median(seconds[variant]))
    over = {variant: ratio(found, seconds[yardstick]) for variant, found in seconds.items() if variant != yardstick}
    ratios = {key: over[variant] for key, variant in _OVER_AUTOENCODER.items() if variant in over}
    for variant, key in (("reference", "reference_over_ours"), ("research code", "research_code_over_ours")):
        if variant in seconds:
            ratios[key] = ratio(seconds[variant], seconds["ours"])
    record: dict[str, Any] = {"yardstick": yardstick, "over_autoencoder": over}
    record["milliseconds"] = {variant: 1e3 * statistics.median(found) for variant, found in seconds.items()}
    if processes:
        compared = [variant for variant in (yardstick, "ours", "default", "reference") if variant in seconds]
        peaks = {variant: _in_new_process("peak", name, variant, setting) for variant in compared}
        ratios |= {
            "memory_over_autoencoder": ratio(peaks["ours"], peaks[yardstick]),
            "default_memory_over_autoencoder": ratio(peaks["default"], peaks[yardstick]),
        }
        record["peak_megabytes"] = {variant: max(found) / 1e6 for variant, found in peaks.items()}
        record["compile_seconds"] = compile_seconds(name, setting)
    densities = measure_densities(case, setting, rounds)
    ratios["log_likelihood_over_vmap"] = densities["log_likelihood"].pop("over_vmap")
    return {
        "case": name,
        "surrogate": "encoder",
        **{key: found["median"] for key, found in ratios.items()},
        "ranges": {key: [found["min"], found["max"]] for key, found in ratios.items()},
        "targets": case.targets,
        **record,
        **densities,
        "setting": asdict(setting),
    }
