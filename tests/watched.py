"""An objective that writes down what each process sees, in a module that started processes can import."""

from pathlib import Path

import torch
from torch import distributed

from isthmus.objective import FreeForm


class Watched(FreeForm):
    """For each step a file of the batch, the weights, and the gradient that the step before was made with.

    At the step `broken` every process fails.
    """

    def __init__(self, folder, *, broken=None, **options):
        super().__init__(**options)
        self.folder, self.broken, self.step = folder, broken, 0

    def __call__(self, flow, x, c=None, weight=1.0):
        if self.step == self.broken:
            raise ArithmeticError("broken")
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        parameters = [p for p in flow.parameters() if p.requires_grad]
        gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        seen = {"x": x.detach().clone(), "weights": flat(parameters), "gradient": flat(gradient)}
        torch.save(seen, Path(self.folder) / f"{self.step}-{rank}.pt")
        self.step += 1
        return super().__call__(flow, x, c, weight)


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def seen(folder, step, rank=0):
    return torch.load(Path(folder) / f"{step}-{rank}.pt")
