"""`model.safetensors`: what may be built for it, and what may stand in it.

The networks are built from the recipe in `config.json` before the tensors are read. So that a damaged recipe cannot
ask for more memory or time than its file is worth, the file's header is read first, and building stands under a
`Budget` of numbers and operations that follows from it.
"""

import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from isthmus.data.tables.wording import one_line
from isthmus.errors import InputError
from isthmus.store.folders import regular

__all__ = ["Budget", "Header", "TensorType", "read_header", "read_tensors"]

_NUMBERS, _NUMBERS_EACH = 4_000_000, 8  # that building may make: in any case, and for each number in the file
_OPERATIONS, _OPERATIONS_EACH = 20_000, 200  # likewise, and for each tensor
_COUNT = 1_000  # of layers, components and the like, in any case

_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}

# What a module may declare of a parameter or buffer of its own or below it, in its attribute `constraints`.
_CONSTRAINTS: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "positive": ("positive numbers", lambda tensor, _: (tensor > 0) & tensor.isfinite()),
    "cholesky": ("positive diagonals", lambda tensor, _: tensor.diagonal(dim1=-2, dim2=-1) > 0),
    "constant": ("what the recipe builds", lambda tensor, built: tensor == built),
    "extended": ("numbers, none of them NaN,", lambda tensor, _: ~tensor.isnan()),
    "finite": ("finite numbers", lambda tensor, built: tensor.to(built.dtype).isfinite()),
}


class TensorType(NamedTuple):
    """What the header says about a tensor: its type as safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]


Header = dict[str, TensorType]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(regular(path), framework="pt") as file:
            yield file
    except OSError as error:
        raise InputError(
            f"expected a model folder with {path.name}; got {path}: {one_line(error)}; check the path"
        ) from error
    except safetensors.SafetensorError as error:
        raise InputError(
            f"expected tensors in {path}; got {one_line(error)}; the model is damaged, fit it again"
        ) from error


def read_header(path: Path) -> Header:
    """Read names, types and shapes of the tensors in a file; no tensor is read.

    Raises:
        InputError: there is no such file, or something else in it.
    """
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return {name: TensorType(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


class Budget(TorchDispatchMode):
    """Refuses, before it is done, an operation that makes more numbers than are left, and one operation too many.

    Both follow from a file's header: building a model makes each of its numbers a few times, and each of its tensors by
    some operations.

    Args:
        header: of the file that is built for.

    Raises:
        InputError: what is built is too large for the file.

    Example:
        >>> with Budget({}):
        ...     torch.empty(10**15)
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected networks as large as the tensors of the model; got larger ones; ...
    """

    def __init__(self, header: Header) -> None:
        super().__init__()
        sizes = [math.prod(shape) for _, shape in header.values()]
        self.numbers = _NUMBERS + _NUMBERS_EACH * sum(sizes)
        self.operations = _OPERATIONS + _OPERATIONS_EACH * len(sizes)
        self.count = max([_COUNT, len(sizes), *(side for _, shape in header.values() for side in shape)])

    def check_counts(self, options: Any) -> None:
        """Refuse a count of layers, units or components that no tensor accounts for.

        Args:
            options: of what is to be built, nested as in JSON.
        """
        if any(isinstance(leaf, int) and leaf > self.count for leaf in tree_leaves(options)):
            self._refuse()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations -= 1
        if self.operations < 0 or (_at_most(args, kwargs) > self.numbers and _size(func, args, kwargs) > self.numbers):
            self._refuse()
        made = func(*args, **kwargs)
        if not any(result.alias_info for result in func._schema.returns):  # neither in place nor a view
            self.numbers -= _numbers(made)
        return made

    def _refuse(self) -> None:
        raise InputError(
            "expected networks as large as the tensors of the model; got larger ones; it is damaged, fit it again"
        )


def _at_most(*arguments: Any) -> int:
    """Return a number that the numbers made by an operation cannot exceed, found fast."""
    leaves = tree_leaves(arguments)
    sides = [abs(leaf) for leaf in leaves if isinstance(leaf, int)] + [
        x.numel() for x in leaves if isinstance(x, Tensor)
    ]
    return math.prod(max(1, side) ** 2 for side in sides)  # squared for the identity matrix


def _size(func: Any, args: Any, kwargs: dict[str, Any]) -> int:
    """Return how many numbers an operation makes, found without doing it."""
    if torch.Tag.dynamic_output_shape in func.tags or torch.Tag.data_dependent_output in func.tags:
        return _numbers((args, kwargs))  # a choice among what goes in
    if any(result.alias_info for result in func._schema.returns):
        return 0
    args, kwargs = tree_map(_without_numbers, (args, kwargs))
    placed = any(argument.name == "device" for argument in func._schema.arguments)
    return _numbers(func(*args, **(kwargs | {"device": "meta"} if placed else kwargs)))


def _numbers(made: Any) -> int:
    return sum(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor))


def _without_numbers(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def read_tensors(
    path: Path, header: Header, model: nn.Module, *, finite: bool, renamed: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Read the tensors of a file that holds just what a model expects.

    Args:
        path: the file.
        header: its header.
        model: has tensors of the names, types and shapes that are expected, and says by its modules' `constraints` what
            else must be true of them.
        finite: whether the weights are those of our own networks, which are finite. NaN is refused in any, as every
            score would be NaN.
        renamed: prefixes of names in the file, and what they are called now.

    Raises:
        InputError: names, types, shapes or values are others.
    """
    expected = model.state_dict()
    names = {_now(name, renamed or {}): name for name in header}
    header = {now: header[name] for now, name in names.items()}
    wanted = {name: TensorType(_TYPES[stored(tensor).dtype], tuple(tensor.shape)) for name, tensor in expected.items()}
    if header != wanted:
        name = min(name for name, _ in header.items() ^ wanted.items())
        raise InputError(f"expected {_told(wanted, name)} in {path}; got {_told(header, name)}; the model is damaged")
    with _opened(path) as file:
        tensors = {name: file.get_tensor(names[name]) for name in wanted}
    constraints = _constraints(model)
    for name, tensor in tensors.items():
        usual = "finite" if finite else "extended"
        kinds = {constraints.get(name, usual), usual} - ({"finite"} if constraints.get(name) == "extended" else set())
        for expectation, holds in (_CONSTRAINTS[kind] for kind in sorted(kinds)):
            if not bool(holds(tensor, expected[name]).all()):
                raise InputError(
                    f"expected {expectation} as {name!r} in {path}; got others; the model is damaged, fit it again"
                )
    return tensors


def _constraints(model: nn.Module) -> dict[str, str]:
    """Return what the modules of a model declare of its parameters and buffers, by their full names."""
    declared: dict[str, str] = {}
    names = list(model.state_dict())
    for prefix, module in model.named_modules():
        own = f"{prefix}." if prefix else ""
        for pattern, kind in getattr(module, "constraints", {}).items():
            declared |= {name: kind for name in names if fnmatch.fnmatchcase(name, own + pattern)}
    return declared


def _now(name: str, renamed: Mapping[str, str]) -> str:
    for old, new in renamed.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def stored(tensor: Tensor) -> Tensor:
    """Return a tensor of a model as files have it: fractions in double precision, whatever computes with them."""
    return tensor.double() if tensor.is_floating_point() else tensor


def _told(header: Header, name: str) -> str:
    if name not in header:
        return f"no {name[:100]!r}"
    dtype, shape = header[name]
    return f"{name[:100]!r} of type {dtype} and shape {shape}"
