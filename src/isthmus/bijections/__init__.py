"""Bijections of R^n, and of coordinates on lines and circles: what flows with an exact density are made of.

What zuko has is used from zuko; here is what it lacks.

| module | holds |
|---|---|
| `contract` | `Bijection`, a zuko lazy transform that rows can start |
| `linear` | `ActNorm`, `Scale`, `Orthogonal`, `LULinear`: their log determinant is one constant |
| `couplings` | `Coupling`: some columns are moved by functions that the others decide, affine, additive, GIN, spline |
| `kernels` | `KernelConditioner`: what decides the functions, for small tables |
| `radial` | `Radial`: a monotone function of the radius, the repair of volume-preserving flows |
| `moments` | `MomentCoupling`: conditional means and deviations by bins, without gradients |
| `bends` | `Layer`, `layers`: coordinates on lines and circles, for flows on known surfaces |
"""

from isthmus.bijections.bends import Bend, Layer, layers
from isthmus.bijections.contract import Bijection
from isthmus.bijections.couplings import FUNCTIONS, Coupling
from isthmus.bijections.kernels import KERNELS, KernelConditioner
from isthmus.bijections.linear import ActNorm, LULinear, Orthogonal, Scale
from isthmus.bijections.moments import (
    MomentCoupling,
    Moments,
    Whitening,
    conditional_moments,
    cross_fitted_gain,
    reflected,
    reflector,
)
from isthmus.bijections.radial import Radial

__all__ = [
    "FUNCTIONS",
    "KERNELS",
    "ActNorm",
    "Bend",
    "Bijection",
    "Coupling",
    "KernelConditioner",
    "LULinear",
    "Layer",
    "MomentCoupling",
    "Moments",
    "Orthogonal",
    "Radial",
    "Scale",
    "Whitening",
    "conditional_moments",
    "cross_fitted_gain",
    "layers",
    "reflected",
    "reflector",
]
