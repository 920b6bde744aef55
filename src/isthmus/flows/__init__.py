"""The catalogue of flows, one file a family.

A new flow is a new file here with a final subclass of `isthmus.flow.Flow`, and a line in `FLOWS`.
"""

from isthmus.flow import Flow
from isthmus.flows.bijective import BijectiveFlow
from isthmus.flows.coupling import CouplingFlow
from isthmus.flows.freeform import FreeFormFlow
from isthmus.flows.hypersurface import HypersurfaceFlow
from isthmus.flows.iterative import IterativeFlow
from isthmus.flows.manifold import ManifoldFlow
from isthmus.flows.rectangular import RectangularFlow
from isthmus.flows.torus import TorusFlow
from isthmus.flows.variational import VariationalFlow

__all__ = [
    "FLOWS",
    "BijectiveFlow",
    "CouplingFlow",
    "FreeFormFlow",
    "HypersurfaceFlow",
    "IterativeFlow",
    "ManifoldFlow",
    "RectangularFlow",
    "TorusFlow",
    "VariationalFlow",
]

FLOWS: dict[str, type[Flow]] = {
    "freeform": FreeFormFlow,
    "rectangular": RectangularFlow,
    "bijective": BijectiveFlow,
    "coupling": CouplingFlow,
    "iterative": IterativeFlow,
    "manifold": ManifoldFlow,
    "variational": VariationalFlow,
    "hypersurface": HypersurfaceFlow,
    "torus": TorusFlow,
}
