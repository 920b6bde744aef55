"""What this machine has: memory for networks, devices to train on. Whatever needs more is refused before any work."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from isthmus.errors import InputError

__all__ = ["check_devices", "check_networks", "least_bytes", "memory"]

_BYTES_OF_A_NUMBER = 16  # a weight, its gradient and both moments of Adam
_BYTES_OF_A_LAYER = 3_000  # objects of Python, 3,800 measured
_PROCESSES = 8  # of the CPU, which any machine may run; more only where it has as many processors
_OF_WIDTH = ("blocks", "transforms", "latent_transforms")  # options that count layers of width x width or more


def memory() -> int:
    """Return the bytes of memory of this machine.

    Example:
        >>> memory() > 2**28
        True
    """
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def least_bytes(options: Mapping[str, Any]) -> int:
    """Return the bytes that training networks takes at least, by their sizes alone: the squares of inner layers.

    Args:
        options: of one of the library's networks, flows or latent densities, by name, defaults included.

    Example:
        >>> least_bytes({"width": 1000, "depth": 3})
        32038000
    """
    sizes = {name: value for name, value in options.items() if isinstance(value, int)}
    width, depth = sizes.get("width", 1), sizes.get("depth")
    channels = sizes.get("channels", width)
    inner = depth - 1 if depth else 0
    of_width = sum(sizes.get(name, 0) for name in _OF_WIDTH) if depth != 1 else 0
    of_channels = inner + sizes.get("bottlenecks", 0)  # where there are channels, width is that of the blocks alone
    numbers = width + channels + width**2 * of_width + channels**2 * of_channels
    return numbers * _BYTES_OF_A_NUMBER + (of_width + of_channels) * _BYTES_OF_A_LAYER


def check_networks(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse networks that cannot fit into the memory of this machine.

    Args:
        parts: key of the recipe -> the options under it, see `least_bytes`.

    Raises:
        InputError: one cannot.

    Example:
        >>> check_networks({"flow.network": {"width": 2**20, "depth": 2**10}})
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected networks that fit into the ... GiB of memory here; got flow.network ...
    """
    for key, options in parts.items():
        if least_bytes(options) > memory():
            sizes = ", ".join(f"{name} {value}" for name, value in options.items() if type(value) is int)
            takes = f"which takes at least {least_bytes(options) >> 30:,} GiB to train"
            have = f"networks that fit into the {memory() / 2**30:.3g} GiB of memory here"
            raise InputError(f"expected {have}; got {key} of {sizes}, {takes}; give smaller sizes")


def check_devices(devices: int, accelerator: str = "cpu") -> None:
    """Refuse to train on more accelerators than this machine has, or more processes of the CPU than are of any use.

    Args:
        devices: how many are asked for.
        accelerator: `cpu`, `gpu`, or `auto`, which is an accelerator where there is one.

    Raises:
        InputError: it has fewer.

    Example:
        >>> check_devices(2**31)
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected at most ... for training.devices on this machine; got 2147483648; ...
    """
    accelerated = accelerator != "cpu" and torch.accelerator.is_available()
    most = torch.accelerator.device_count() if accelerated else max(_PROCESSES, os.cpu_count() or 1)
    if devices > most:
        kind = "accelerators" if accelerated else "processes of the CPU"
        raise InputError(
            f"expected at most {most} {kind} for training.devices on this machine; got {devices}; ask for fewer"
        )
