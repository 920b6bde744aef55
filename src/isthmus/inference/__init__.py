"""Laws learnt from a log density instead of rows: variational inference on any support, with a verdict.

| module | what it is |
|---|---|
| `objective` | the reverse Kullback-Leibler divergence, with a temperature |
| `weights` | importance weights, and what they say of a law |
| `law` | `infer`, the fit, and `Inference`, what came of it |
| `penalty` | `PenaltyPath`: the posterior of a regression on the level sets of its penalty |
| `mixing` | `MixtureWeights`: the posterior of the weights of known components |
"""

from isthmus.inference.law import Inference, infer
from isthmus.inference.mixing import MixtureWeights
from isthmus.inference.objective import LogDensity, ReverseKL, conditions
from isthmus.inference.penalty import Path, PenaltyPath
from isthmus.inference.weights import Weights, pareto_k

__all__ = [
    "Inference",
    "LogDensity",
    "MixtureWeights",
    "Path",
    "PenaltyPath",
    "ReverseKL",
    "Weights",
    "conditions",
    "infer",
    "pareto_k",
]
