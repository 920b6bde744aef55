"""What held-out rows say of a flow while it is trained."""

import copy

import torch

from isthmus.flow import Flow, in_double
from isthmus.objective import Objective
from isthmus.rows import Rows

Row = dict[str, float | int]


@torch.no_grad()
def scores(flow: Flow, objective: Objective, held_out: Rows) -> Row:
    """Return what the held-out rows, in float64, say of a flow, as the objective judges it; in nats a row."""
    return dict(objective.score(in_double(copy.deepcopy(flow)).eval(), held_out))
