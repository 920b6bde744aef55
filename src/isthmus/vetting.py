"""Check modules of a user's own before they are trained: what is wrong with them would show after hours, or never."""

import copy
import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isthmus.autodiff import pull, push
from isthmus.errors import InputError
from isthmus.flow import Context, Flow, Networked

__all__ = ["vet"]

_log = logging.getLogger(__name__)

_ROWS = 4
_TOLERANCE = 1e-2  # of products in single precision; those that torch gets wrong are off by half and more


def vet(flow: Flow) -> None:
    """Check encoder and decoder of a flow on a few rows; where forward mode gets them wrong, leave it out.

    The Jacobian-vector product of forward mode is silently wrong through some operators of torch (2.13:
    `scatter_reduce` by products, `cholesky_inverse`). So `w . (J v)` is compared with `(w^T J) . v`; where they differ
    `flow.forward_mode` is set to False, so that products are computed in reverse mode, and a warning says so.

    Args:
        flow: any flow; one that is not of two modules is left alone.

    Raises:
        InputError: a module is lazy, does not take rows of the flow's width, returns anything but one row of the right
            width for each, draws noise where it is not in training, or is cut off from its input (`detach`).

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> vet(FreeFormFlow(nn.Linear(3, 2), nn.Linear(2, 2), data_dim=3, latent_dim=2))
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a decoder that makes rows of 3 numbers of codes of 2; got shape (4, 2) of
            (4, 2); correct its last layer
    """
    if not isinstance(flow, Networked):
        return
    for name, module in (("encoder", flow.encoder), ("decoder", flow.decoder)):
        _refuse_lazy(name, module)
    trial = copy.deepcopy(flow).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, x, width in _probes(trial):
            _check(trial, name, x, width)
            error = _disagreement(trial, name, x, width)
            if error > _TOLERANCE:
                flow.forward_mode = False
                _log.warning(
                    "through the %s torch's forward-mode products are wrong by %.0f %%; reverse mode is used, which is "
                    "slower",
                    *(name, 100 * error),
                )
    if any(isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0 for layer in flow.modules()):
        _log.warning("dropout draws noise in training: the change of volume is then that of another network each time")


def _refuse_lazy(name: str, module: nn.Module) -> None:
    if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        raise InputError(f"expected an {name} whose shapes are known; got a lazy one; call it once before the fit")


def _probes(flow: Networked) -> Iterator[tuple[str, Tensor, int]]:
    """Yield encoder and decoder, each with inputs and the width of its outputs."""
    for name, inputs, outputs in (
        ("encoder", flow.data_dim, flow.latent_dim),
        ("decoder", flow.latent_dim, flow.data_dim),
    ):
        module = getattr(flow, name)
        dtype = next((parameter.dtype for parameter in module.parameters()), torch.get_default_dtype())
        yield name, torch.randn(_ROWS, inputs, dtype=dtype), outputs


def _context(flow: Networked, x: Tensor) -> Context:
    return x.new_zeros(len(x), flow.context_dim) if flow.context_dim else None


def _check(flow: Networked, name: str, x: Tensor, width: int) -> None:
    """Refuse a module that cannot be trained, or scored with."""
    what = f"rows of {width} numbers of codes of {x.shape[1]}"
    if name == "encoder":
        what = f"codes of {width} numbers of rows of {x.shape[1]}"
    expected = f"expected {'an' if name == 'encoder' else 'a'} {name} that makes {what}"
    module, x, c = getattr(flow, name), x.requires_grad_(), flow.told(_context(flow, x), len(x))
    arguments = (x,) if c is None else (x, c)
    try:
        y = module(*arguments)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise InputError(f"{expected}; got an error, {type(error).__name__}: {first}; correct its layers") from error
    if not isinstance(y, Tensor):
        raise InputError(f"{expected}; got a {type(y).__name__}; return one tensor")
    if y.shape != (len(x), width):
        raise InputError(f"{expected}; got shape {tuple(y.shape)} of {tuple(x.shape)}; correct its last layer")
    if not y.requires_grad or torch.autograd.grad(y.sum(), x, allow_unused=True, retain_graph=True)[0] is None:
        raise InputError(f"{expected}, differentiable; got outputs that are cut off from the inputs; leave out detach")
    if not torch.equal(y, module(*arguments)):
        raise InputError(f"{expected}, the same each time; got others the second time; draw no noise in evaluation")


@torch.no_grad()
def _disagreement(flow: Networked, name: str, x: Tensor, width: int) -> float:
    """Return the relative difference between `w . (J v)` in forward mode and `(w^T J) . v` in reverse mode."""
    module = flow.maps(_context(flow, x))[0 if name == "encoder" else 1]
    x, v, w = x.detach(), torch.randn_like(x), torch.randn(len(x), width, dtype=x.dtype)
    forward, reverse = (w * push(module, x, v)[1]).sum(1), (pull(module, x, w)[1] * v).sum(1)
    return float((forward - reverse).norm() / reverse.norm().clamp_min(1e-12))
