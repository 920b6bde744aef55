"""What every tutorial starts from: the catalogues as the library has them, and one random state."""

from typing import Any

import torch

from isthmus.data import DATASETS
from isthmus.flows import FLOWS
from isthmus.latents import LATENTS
from isthmus.metrics import METRICS
from isthmus.networks import NETWORKS
from isthmus.objective import OBJECTIVES

__all__ = ["CATALOGUES", "start"]

CATALOGUES: dict[str, dict[str, Any]] = {
    "FLOWS": FLOWS,
    "OBJECTIVES": OBJECTIVES,
    "NETWORKS": NETWORKS,
    "LATENTS": LATENTS,
    "DATASETS": DATASETS,
    "METRICS": METRICS,
}
_COMPLETE = {name: dict(catalogue) for name, catalogue in CATALOGUES.items()}


def start(_: dict[str, Any], __: str) -> None:
    """Undo what another tutorial added; the gallery calls this before each."""
    for name, catalogue in CATALOGUES.items():
        catalogue.clear()
        catalogue.update(_COMPLETE[name])
    torch.manual_seed(0)
