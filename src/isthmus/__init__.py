"""Learn the low-dimensional manifold that data lives on, and the density on it, with any encoder and decoder.

The public names. Each is loaded when it is first asked for, so that `import isthmus` takes milliseconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isthmus.density import Ambient, ComponentNoise, IsotropicNoise
    from isthmus.errors import InputError
    from isthmus.estimator import InjectiveFlow, InjectiveFlowDetector
    from isthmus.fitting import fit
    from isthmus.flow import Flow
    from isthmus.flows import FLOWS, FreeFormFlow, RectangularFlow
    from isthmus.model import Model
    from isthmus.objective import OBJECTIVES, ExactLikelihood, FreeForm, Reconstruction, RectangularLikelihood
    from isthmus.recipe import Recipe
    from isthmus.store import load, save
    from isthmus.training import train
    from isthmus.volume import ESTIMATORS, Surrogate, Volume

    __version__: str

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

_MODULES = {
    "density": ("Ambient", "ComponentNoise", "IsotropicNoise"),
    "errors": ("InputError",),
    "estimator": ("InjectiveFlow", "InjectiveFlowDetector"),
    "fitting": ("fit",),
    "flow": ("Flow",),
    "flows": ("FLOWS", "FreeFormFlow", "RectangularFlow"),
    "model": ("Model",),
    "objective": ("OBJECTIVES", "ExactLikelihood", "FreeForm", "RectangularLikelihood", "Reconstruction"),
    "recipe": ("Recipe",),
    "store": ("load", "save"),
    "training": ("train",),
    "volume": ("ESTIMATORS", "Surrogate", "Volume"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("isthmus")
    if name not in _HOME:
        raise AttributeError(f"module 'isthmus' has no attribute {name!r}")
    return getattr(importlib.import_module(f"isthmus.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
