"""Coupling flows of R^D, by a list of layers or a preset: affine, additive, volume-preserving, splines; kernels."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, final

import torch
from annotated_types import Ge, Gt
from zuko.lazy import LazyComposedTransform

from isthmus.bijections import ActNorm, Bijection, Coupling, LULinear, Orthogonal, Radial, Scale
from isthmus.errors import InputError
from isthmus.flow import WholeSpace
from isthmus.rows import Rows

__all__ = ["LAYERS", "PRESETS", "CouplingFlow"]

LayerName = Literal["actnorm", "affine", "additive", "gin", "spline", "scale", "orthogonal", "lu", "radial"]
PresetName = Literal["nsf_coupling", "realnvp", "nice", "gin", "volume_preserving+radial"]

_COUPLINGS = ("affine", "additive", "gin", "spline")
_TRANSFORMS = 8  # blocks of a preset

LAYERS: dict[str, Callable[[int], Bijection]] = {
    "actnorm": ActNorm,
    "scale": Scale,
    "orthogonal": Orthogonal,
    "lu": LULinear,
    "radial": Radial,
}
"""Name -> layer of so many columns; couplings are the names in `isthmus.bijections.FUNCTIONS`."""

_CITES: dict[str, tuple[str, ...]] = {
    "affine": ("dinh2017",),
    "additive": ("dinh2014",),
    "gin": ("sorrenson2020",),
    "spline": ("durkan2019",),
    "actnorm": ("kingma2018",),
    "lu": ("kingma2018",),
    "radial": ("draxler2024",),
}


class Preset(NamedTuple):
    """Layers at the data, a block that is repeated, and layers at the latent space."""

    first: tuple[LayerName, ...]
    block: tuple[LayerName, ...]
    last: tuple[LayerName, ...] = ()


PRESETS: dict[str, Preset] = {
    "nsf_coupling": Preset((), ("actnorm", "spline")),
    "realnvp": Preset(("actnorm",), ("affine",)),
    "nice": Preset(("actnorm",), ("additive",), ("scale",)),
    "gin": Preset(("actnorm",), ("gin",), ("scale",)),
    "volume_preserving+radial": Preset(("actnorm",), ("gin",), ("scale", "radial")),
}


@final
class CouplingFlow(WholeSpace):
    """Couplings of the whole of R^D with an exact density, cheap in both directions; D = d.

    | `layers` | repeated | what it can learn |
    |---|---|---|
    | `nsf_coupling` | ActNorm, a spline coupling | everything in the limit; of one column as well |
    | `realnvp` | an affine coupling | everything in the limit; of one column a normal law |
    | `nice` | an additive coupling, in the end one scale | keeps volumes: one mode, its height given |
    | `gin` | a GIN coupling, in the end one scale | keeps volumes likewise; three columns at least |
    | `volume_preserving+radial` | as `gin` (of fewer columns `nice`), in the end a monotone radius | the repair |

    Instead of a preset a list of names in `LAYERS` and of couplings, from the data on: `[actnorm, affine, lu]`.

    Args:
        data_dim: D >= 1.
        latent_dim: must be D.
        context_dim: number of context columns, 0 for none.
        layers: a preset or a list of layers.
        transforms: how often the block, or the list, is repeated; 8 of a preset and 1 of a list by default.
        conditioner: what decides the functions of a coupling: `mlp`, a network with two hidden layers, or `kernel`, an
            expansion around points that rows lend, for tables of few rows.
        bound: on the log scale of each affine coupling, > 0.
        width: of the hidden layers of `mlp`; 64 by default.
        points: of `kernel`; 50 by default.
        kernel: of `kernel`: `squared_exponential` (by default) or `matern`.

    Raises:
        InputError: the latent dimension is not D; `gin` on fewer than three columns; an option that the conditioner
            does not read.

    References:
        Draxler, Wahl, Schnörr, Köthe (2024), On the universality of volume-preserving and coupling-based normalizing
        flows, arXiv 2402.06578; English, Kirchler, Lippert (2023), arXiv 2307.14839; the layers' own are with them, in
        `isthmus.bijections`.

    Example:
        >>> flow = CouplingFlow(3, 3, layers="realnvp", transforms=2, width=8)
        >>> x = torch.randn(4, 3)
        >>> torch.allclose(flow.reconstruct(x), x, atol=1e-4)
        True
    """

    transform: LazyComposedTransform

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        context_dim: int = 0,
        *,
        layers: PresetName | tuple[LayerName, ...] = "nsf_coupling",
        transforms: Annotated[int, Ge(1)] | None = None,
        conditioner: Literal["mlp", "kernel"] = "mlp",
        bound: Annotated[float, Gt(0)] = 5.0,
        width: Annotated[int, Ge(1)] | None = None,
        points: Annotated[int, Ge(1)] | None = None,
        kernel: Literal["squared_exponential", "matern"] | None = None,
    ) -> None:
        super().__init__(data_dim, latent_dim, context_dim)
        own = {"width": width, "points": points, "kernel": kernel}
        self.check_options({"layers": layers, "conditioner": conditioner, **own})
        options: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
        names = _names(layers, transforms, data_dim)
        self.cites = tuple(dict.fromkeys(key for name in names for key in _CITES.get(name, ())))
        if conditioner == "kernel":
            self.cites += ("english2023",)
        bijections: list[Bijection] = []
        for name in names:
            if name in _COUPLINGS:
                number = sum(isinstance(layer, Coupling) for layer in bijections)
                how = {"function": name, "number": number, "bound": bound, "conditioner": conditioner}
                bijections.append(Coupling(data_dim, context_dim, options=options, **how))  # type: ignore[arg-type]
            else:
                bijections.append(LAYERS[name](data_dim))
        self.transform = LazyComposedTransform(*bijections)

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse a list without layers, and options of the conditioner that is not taken."""
        if not options.get("layers", "nsf_coupling"):
            raise InputError("expected at least one layer of a coupling flow; got none; name a preset or layers")
        conditioner = options.get("conditioner", "mlp")
        for name in ("points", "kernel") if conditioner == "mlp" else ("width",):
            if options.get(name) is not None:
                raise InputError(
                    f"expected no {name} with conditioner {conditioner!r}, which does not read it; got "
                    f"{options[name]!r}; leave it out"
                )

    @torch.no_grad()
    def start(self, rows: Rows) -> None:
        """Start each layer by the rows as they reach it: ActNorm, points and lengths of kernels, the radius."""
        like = next(self.parameters())
        x, c = rows.x.to(like), None if rows.c is None else rows.c.to(like)
        for layer in self.transform.transforms:
            layer.start(x, c)
            x = layer(c)(x)


def _names(layers: str | tuple[LayerName, ...], transforms: int | None, columns: int) -> list[LayerName]:
    """Return the names of all layers, from the data on."""
    if isinstance(layers, str):
        first, block, last = PRESETS[layers]
        if layers == "volume_preserving+radial" and columns < 3:
            block = ("additive",)
        names = [*first, *block * (transforms or _TRANSFORMS), *last]
    else:
        names = list(layers) * (transforms or 1)
    if "gin" in names and columns < 3:
        raise InputError(
            f"expected at least 3 columns for GIN couplings, whose log scales have mean 0 over the columns that a "
            f"coupling moves, so that one alone has none; got {columns}; use 'additive' or 'nice'"
        )
    return names
