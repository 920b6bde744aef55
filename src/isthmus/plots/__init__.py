"""Figures of a model, from arrays: the only place that imports matplotlib, and never its windows.

Every function returns a `Picture`: matplotlib's figure, and in words with numbers what is to be seen in it. A picture
goes into a page by `Picture.svg`, into a file by `Picture.png`.

| module | figures of |
|---|---|
| `fitting` | training, reconstruction against the noise floor, spectrum, choice of the latent dimension |
| `density` | scores with the outlier cut, samples against rows, calibration off the surface |
| `maps` | densities on known surfaces: a map of the sphere, a triangle of parts, pairs of angles |
| `surface` | codes, the surface in the data's space, walks along it |
| `posterior` | laws from a log density: penalty paths, evidence, mixture weights |

A new figure is a function in one of them, decorated with `styled`: arrays in, `Picture` out.
"""

from isthmus.plots.density import calibration, histogram, kolmogorov_smirnov, marginals, pair_plot
from isthmus.plots.fitting import latent_dim_curve, reconstruction_floor, spectrum, training_curves
from isthmus.plots.maps import angle_panels, density_triangle, sphere_map, triangle_centres
from isthmus.plots.posterior import evidence, path, shares, ternary
from isthmus.plots.style import Picture
from isthmus.plots.surface import image_rows, latent_scatter, manifold, profiles

__all__ = [
    "Picture",
    "angle_panels",
    "calibration",
    "density_triangle",
    "evidence",
    "histogram",
    "image_rows",
    "kolmogorov_smirnov",
    "latent_dim_curve",
    "latent_scatter",
    "manifold",
    "marginals",
    "pair_plot",
    "path",
    "profiles",
    "reconstruction_floor",
    "shares",
    "spectrum",
    "sphere_map",
    "ternary",
    "training_curves",
    "triangle_centres",
]
