"""Speed of likelihood training, as ratios in one run: against a plain autoencoder and against the research form.

    python -m benchmarks.speed [--case NAME ...] [--rounds 5] [--steps 20] [--json] [--append FILE] [--reference PATH]
                               [--device cuda] [--precision bf16] [--mode reduce-overhead]
    python -m benchmarks.speed --fit | --curves [--append FILE]

Every variant of a case trains the same networks with the same optimiser on the same kind of batch; one round times a
few steps of each variant, one after the other, so that a busy machine slows all of them. Ratios are taken within a
round, and the median of the rounds is reported with their range; on a CPU one thread computes, and the seconds of a
step are those of the processor. The autoencoder is timed eager and compiled, and the faster one is the yardstick.
"Ours" is the free-form objective with the surrogate of the publication, `encoder`, so that the research form computes
the same thing; the library's default, `conditional`, stands beside it.

Peak memory is that of all tensors alive in a step, parameters and optimiser state included, measured in a process of
its own; so are the seconds to the end of a first compiled step, with an empty cache and again with a full one.
`--reference` takes a checkout of the publication's code (github.com/vislearn/FFF), whose own loss is timed beside.
`--fit` compares a whole fit with a plain loop; `--curves` measures how cost grows with dimensions, batch and probes.

| module | measures |
|---|---|
| `cases` | nothing: networks, sizes, and what they run on |
| `steps` | time and memory of a step |
| `densities` | exact log-likelihoods and samples a second |
| `fits` | whole fits |
| `curves` | growth |
| `record` | all of one case, one JSON object |
| `page` | nothing: results as tables |
"""

import os
import platform
from pathlib import Path
from typing import Any

import torch

__all__ = ["machine"]


def machine(device: str = "cpu") -> dict[str, Any]:
    """What figures are measured on; `load` is how many processes wanted a core in the last minute."""
    return {
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
