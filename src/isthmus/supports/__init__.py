"""Where rows and codes live: the support of a law, and the measure that its density is with respect to.

A density is a density *of something*: of R^n with respect to volume, of a sphere with respect to its own surface area,
of categories with respect to counting, where it is a probability. A `Support` says which values a row may take, how far
a row is off them, and what a tangent vector is: the d columns of `frame(x)` are an orthonormal basis of the directions
in which a row can move, so that changes of volume and probes are taken in these.

| support | rows | dim | measure |
|---|---|---|---|
| `Euclidean` | any finite numbers | n | volume |
| `Sphere` | unit vectors | n - 1 | surface area |
| `Simplex` | parts of a whole: numbers >= 0 that sum to 1 | n - 1 | surface area |
| `LpSphere`, `Ellipsoid`, `GroupLasso`, `Gauge` | level sets of norms and penalties | n - 1 | surface area |
| `Radius` | a surface around the origin of any radius, which may be learnt | n - 1 | surface area |
| `Torus` | angles, each as cosine and sine | n / 2 | radians of each angle |
| `Categories` | whole numbers 0, 1, ..., fewer than the levels of their column | 0 | counting |
| `Product` | columns of several supports side by side | the sum | the product |
| `Rotations` | rotation matrices, row by row | 3 | volume of rotations, whose lengths are angles |
| `Learned` | points of a manifold that no formula gives: that of a decoder | d | volume on the manifold |

Values are in nats; `measured` is the phrase that is printed beside every one of them.

| module | supports |
|---|---|
| `contract` | none: the contract `Support`, and the measures |
| `flat` | numbers, levels, products of supports, and the manifold that a decoder learns |
| `starlike`, `surfaces` | surfaces that every ray from the origin meets once: what they share; each of them |
| `compact` | other closed manifolds |
| `rotations` | the rotations of space |
"""

from isthmus.supports.compact import Torus
from isthmus.supports.contract import MEASURES, Support
from isthmus.supports.flat import Categories, Euclidean, Learned, Product
from isthmus.supports.rotations import Rotations
from isthmus.supports.starlike import LevelSet, StarLike
from isthmus.supports.surfaces import Ellipsoid, Gauge, GroupLasso, LpSphere, Radius, Simplex, Sphere

__all__ = [
    "MEASURES",
    "SUPPORTS",
    "Categories",
    "Ellipsoid",
    "Euclidean",
    "Gauge",
    "GroupLasso",
    "Learned",
    "LevelSet",
    "LpSphere",
    "Product",
    "Radius",
    "Rotations",
    "Simplex",
    "Sphere",
    "StarLike",
    "Support",
    "Torus",
]

SUPPORTS: dict[str, type[Support]] = {
    "euclidean": Euclidean,
    "sphere": Sphere,
    "simplex": Simplex,
    "lp_sphere": LpSphere,
    "ellipsoid": Ellipsoid,
    "group_lasso": GroupLasso,
    "torus": Torus,
    "rotations": Rotations,
    "categories": Categories,
}
"""Name in a recipe -> support of all columns of a table."""
