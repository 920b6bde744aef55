"""Is this fit healthy, how many dimensions has the data, and how much noise?

`x` are standardised rows (n, D), `c` their context or None, `f` the encoder and `g` the decoder of a flow, `z = f(x)`.
Each diagnostic is a function on a flow (or on a `Density`) in float64 and on rows, and returns a small record of
numbers with their units. `measure` runs them all, `judge` holds them against `LIMITS`, `examine` does both and returns
a `Health`: verdicts, causes before symptoms, each with one sentence on what is wrong and what to do.

| module | questions |
|---|---|
| `dimension` | of the data alone: intrinsic and correlation dimension, the noise floor of flat pieces |
| `geometry` | residuals against that floor, `f'` against the pseudo-inverse of `g'`, singular values, curvature |
| `likelihood` | codes, samples and densities against what the model claims; the surrogate's gradient |
| `universality` | what one more coupling would gain, what a volume-preserving flow cannot learn |

A new diagnostic is a function and a record in one of these, a property of `Measurements`, an entry of `LIMITS` with the
measured reason, and one of `CHECKS` in `judging`, which says what kind of density or flow it asks for.
"""

from isthmus.diagnostics.dimension import FlatPieces, correlation_dimension, flat_pieces, intrinsic_dimension
from isthmus.diagnostics.geometry import (
    Curvature,
    PseudoInverse,
    Reconstruction,
    Spectrum,
    curvature,
    pseudo_inverse,
    reconstruction,
    spectrum,
)
from isthmus.diagnostics.health import Health, Verdict
from isthmus.diagnostics.judging import LIMITS, Limits, examine, judge, steadiness
from isthmus.diagnostics.likelihood import (
    Agreement,
    Codes,
    Generalisation,
    GradientQuality,
    Samples,
    TwoSample,
    agreement,
    codes,
    generalisation,
    gradient_quality,
    samples,
    two_sample,
)
from isthmus.diagnostics.measuring import Measurements
from isthmus.diagnostics.universality import (
    AffineGain,
    VolumePreservingLimit,
    affine_gain,
    non_standardness,
    volume_preserving_limit,
    volume_preserving_limit_on_grid,
    whitening_bound,
)

__all__ = [
    "LIMITS",
    "AffineGain",
    "Agreement",
    "Codes",
    "Curvature",
    "FlatPieces",
    "Generalisation",
    "GradientQuality",
    "Health",
    "Limits",
    "Measurements",
    "PseudoInverse",
    "Reconstruction",
    "Samples",
    "Spectrum",
    "TwoSample",
    "Verdict",
    "VolumePreservingLimit",
    "affine_gain",
    "agreement",
    "codes",
    "correlation_dimension",
    "curvature",
    "examine",
    "flat_pieces",
    "generalisation",
    "gradient_quality",
    "intrinsic_dimension",
    "judge",
    "non_standardness",
    "pseudo_inverse",
    "reconstruction",
    "samples",
    "spectrum",
    "steadiness",
    "two_sample",
    "volume_preserving_limit",
    "volume_preserving_limit_on_grid",
    "whitening_bound",
]
