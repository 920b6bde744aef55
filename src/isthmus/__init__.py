"""Learn the low-dimensional manifold that data lives on, and the density on it, with any encoder and decoder.

The public names. Those that need Lightning or scikit-learn are loaded when they are first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from isthmus.ambient import Ambient, ComponentNoise, IsotropicNoise
from isthmus.errors import InputError
from isthmus.flow import Flow
from isthmus.flows import FLOWS, FreeFormFlow, RectangularFlow
from isthmus.objective import OBJECTIVES, ExactLikelihood, FreeForm, Reconstruction, RectangularLikelihood
from isthmus.volume import ESTIMATORS, Surrogate, Volume

if TYPE_CHECKING:
    from isthmus.estimator import InjectiveFlow, InjectiveFlowDetector
    from isthmus.fitting import fit
    from isthmus.model import Model
    from isthmus.recipe import Recipe
    from isthmus.store import load, save
    from isthmus.training import train

__all__ = [
    "ESTIMATORS",
    "FLOWS",
    "OBJECTIVES",
    "Ambient",
    "ComponentNoise",
    "ExactLikelihood",
    "Flow",
    "FreeForm",
    "FreeFormFlow",
    "InjectiveFlow",
    "InjectiveFlowDetector",
    "InputError",
    "IsotropicNoise",
    "Model",
    "Recipe",
    "Reconstruction",
    "RectangularFlow",
    "RectangularLikelihood",
    "Surrogate",
    "Volume",
    "fit",
    "load",
    "save",
    "train",
]

_LAZY = {
    "InjectiveFlow": "estimator",
    "InjectiveFlowDetector": "estimator",
    "Model": "model",
    "Recipe": "recipe",
    "fit": "fitting",
    "load": "store",
    "save": "store",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'isthmus' has no attribute {name!r}")
    return getattr(importlib.import_module(f"isthmus.{_LAZY[name]}"), name)
