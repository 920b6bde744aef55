"""Learn the low-dimensional manifold that data lives on, and the density on it, with any encoder and decoder.

The public names. Each is loaded when it is first asked for, so that `import isthmus` takes milliseconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isthmus.data.tables import Coordinates
    from isthmus.density import NOISES, Ambient, ComponentNoise, Density, IsotropicNoise, LowRankNoise, Own
    from isthmus.errors import InputError
    from isthmus.estimator import InjectiveFlow, InjectiveFlowDetector
    from isthmus.fitting import fit
    from isthmus.flow import Flow, Injection, LearnedManifold
    from isthmus.flows import (
        FLOWS,
        BijectiveFlow,
        FreeFormFlow,
        HypersurfaceFlow,
        ManifoldFlow,
        RectangularFlow,
        TorusFlow,
        VariationalFlow,
    )
    from isthmus.inference import Inference, MixtureWeights, PenaltyPath, ReverseKL, infer
    from isthmus.latents import LATENTS
    from isthmus.metrics import METRICS
    from isthmus.model import Model
    from isthmus.networks import NETWORKS
    from isthmus.objective import (
        OBJECTIVES,
        ExactLikelihood,
        FreeForm,
        Likelihood,
        Objective,
        Reconstruction,
        RectangularLikelihood,
        Regularised,
        Variational,
        Wasserstein,
    )
    from isthmus.recipe import Recipe
    from isthmus.rows import Rows
    from isthmus.store import Fitted, load, save
    from isthmus.supports import (
        MEASURES,
        SUPPORTS,
        Categories,
        Ellipsoid,
        Euclidean,
        Gauge,
        GroupLasso,
        LpSphere,
        Product,
        Radius,
        Rotations,
        Simplex,
        Sphere,
        Support,
        Torus,
    )
    from isthmus.training import train
    from isthmus.volume import ESTIMATORS, Surrogate, Volume

    __version__: str

__all__ = [
    "ESTIMATORS",
    "FLOWS",
    "LATENTS",
    "MEASURES",
    "METRICS",
    "NETWORKS",
    "NOISES",
    "OBJECTIVES",
    "SUPPORTS",
    "Ambient",
    "BijectiveFlow",
    "Categories",
    "ComponentNoise",
    "Coordinates",
    "Density",
    "Ellipsoid",
    "Euclidean",
    "ExactLikelihood",
    "Fitted",
    "Flow",
    "FreeForm",
    "FreeFormFlow",
    "Gauge",
    "GroupLasso",
    "HypersurfaceFlow",
    "Inference",
    "Injection",
    "InjectiveFlow",
    "InjectiveFlowDetector",
    "InputError",
    "IsotropicNoise",
    "LearnedManifold",
    "Likelihood",
    "LowRankNoise",
    "LpSphere",
    "ManifoldFlow",
    "MixtureWeights",
    "Model",
    "Objective",
    "Own",
    "PenaltyPath",
    "Product",
    "Radius",
    "Recipe",
    "Reconstruction",
    "RectangularFlow",
    "RectangularLikelihood",
    "Regularised",
    "ReverseKL",
    "Rotations",
    "Rows",
    "Simplex",
    "Sphere",
    "Support",
    "Surrogate",
    "Torus",
    "TorusFlow",
    "Variational",
    "VariationalFlow",
    "Volume",
    "Wasserstein",
    "fit",
    "infer",
    "load",
    "save",
    "train",
]

_MODULES = {
    "data.tables": ("Coordinates",),
    "density": (
        "NOISES",
        "Ambient",
        "ComponentNoise",
        "Density",
        "IsotropicNoise",
        "LowRankNoise",
        "Own",
    ),
    "errors": ("InputError",),
    "estimator": (
        "InjectiveFlow",
        "InjectiveFlowDetector",
    ),
    "fitting": ("fit",),
    "flow": (
        "Flow",
        "Injection",
        "LearnedManifold",
    ),
    "flows": (
        "FLOWS",
        "BijectiveFlow",
        "FreeFormFlow",
        "HypersurfaceFlow",
        "ManifoldFlow",
        "RectangularFlow",
        "TorusFlow",
        "VariationalFlow",
    ),
    "inference": (
        "Inference",
        "MixtureWeights",
        "PenaltyPath",
        "ReverseKL",
        "infer",
    ),
    "latents": ("LATENTS",),
    "metrics": ("METRICS",),
    "model": ("Model",),
    "networks": ("NETWORKS",),
    "objective": (
        "OBJECTIVES",
        "ExactLikelihood",
        "FreeForm",
        "Likelihood",
        "Objective",
        "Reconstruction",
        "RectangularLikelihood",
        "Regularised",
        "Variational",
        "Wasserstein",
    ),
    "recipe": ("Recipe",),
    "rows": ("Rows",),
    "store": (
        "Fitted",
        "load",
        "save",
    ),
    "supports": (
        "MEASURES",
        "SUPPORTS",
        "Categories",
        "Ellipsoid",
        "Euclidean",
        "Gauge",
        "GroupLasso",
        "LpSphere",
        "Product",
        "Radius",
        "Rotations",
        "Simplex",
        "Sphere",
        "Support",
        "Torus",
    ),
    "training": ("train",),
    "volume": (
        "ESTIMATORS",
        "Surrogate",
        "Volume",
    ),
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
