"""A training on disk: Lightning's own checkpoint, always a whole one, and read without executing anything."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from isthmus.disk import write_durably
from isthmus.errors import InputError
from isthmus.runs import CHECKPOINT, writing


class DurableFiles(TorchCheckpointIO):
    """How Lightning writes checkpoints: whole or not at all, see `isthmus.disk`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Replace the file at `path`.

        Args:
            checkpoint: tensors and plain values.
            path: the file.
            storage_options: none are known.

        Raises:
            InputError: it cannot be written; the one before stays.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with writing(Path(path).parent):
            write_durably(Path(path), content.getbuffer())


def read(run_dir: Path, identity: str) -> dict[str, Any] | None:
    """Read the checkpoint in a folder, if there is one to go on from.

    Args:
        run_dir: the folder.
        identity: of the training that is to go on.

    Returns:
        Its tensors and values; None where there is none, or that of another training that came to its end.

    Raises:
        InputError: it is damaged, or that of another training which has not ended.
    """
    path = run_dir / CHECKPOINT
    if not path.exists():
        return None
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        kept = checkpoint["trainee"]
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"expected a checkpoint in {path}; got {reason}; remove {run_dir} to start over") from error
    if kept["identity"] == identity:
        return checkpoint
    if kept["over"]:
        return None
    raise InputError(
        f"expected the rows, settings and untrained flow that the unfinished training in {run_dir} began with; got "
        "others; go on with the same, with a seed where the flow is built, or remove that folder to start over"
    )


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of the generators that noise and probes are drawn from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put the generators back to where they were."""
    torch.set_rng_state(state["cpu"])
    if device.type in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state[device.type])
