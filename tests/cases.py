"""The tables that the property tests run over: encoder-decoder pairs of every kind, one instance of every flow; and the
brute-force answers they are held against, which use nothing of `isthmus.autodiff`.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.autograd.functional import jacobian
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from isthmus import networks
from isthmus.flow import Injection, LearnedManifold, WholeSpace
from isthmus.flows import FLOWS, FreeFormFlow, ManifoldFlow, VariationalFlow
from isthmus.networks.chains import Modulate
from isthmus.rows import Rows
from isthmus.supports import (
    SUPPORTS,
    Ellipsoid,
    Euclidean,
    Gauge,
    GroupLasso,
    Learned,
    LpSphere,
    Radius,
    Simplex,
    Sphere,
)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# -------------------------------------------------------------------------------- modules as users write them


class Residual(nn.Module):
    """A skip around LayerNorm and a nonlinear branch; the context is added after the first layer."""

    def __init__(self, inputs, outputs, context_dim, width=12):
        super().__init__()
        self.lift, self.context = nn.Linear(inputs, width), nn.Linear(max(1, context_dim), width)
        self.norm, self.branch = nn.LayerNorm(width), nn.Linear(width, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x, c=None):
        h = self.lift(x) if c is None else self.lift(x) + self.context(c)
        return self.head(h + torch.nn.functional.gelu(self.branch(self.norm(h))))


class Attention(nn.Module):
    """One token a column (and a context column), attention between them, pooled to the outputs."""

    def __init__(self, inputs, outputs, context_dim, width=8):
        super().__init__()
        tokens = inputs + context_dim
        self.place, self.scale = nn.Parameter(torch.randn(tokens, width)), nn.Parameter(torch.randn(tokens, width))
        self.mix, self.head = self.mixer(width), nn.Linear(tokens * width, outputs)

    def forward(self, x, c=None):
        columns = x if c is None else torch.cat([x, c], 1)
        tokens = self.place + self.scale * columns.unsqueeze(2)
        return self.head((tokens + self.attend(tokens)).flatten(1))


class MultiheadAttention(Attention):
    def mixer(self, width):
        return nn.MultiheadAttention(width, 2, batch_first=True)

    def attend(self, tokens):
        return self.mix(tokens, tokens, tokens, need_weights=False)[0]


class FusedAttention(Attention):
    def mixer(self, width):
        return nn.Linear(width, 3 * width)

    def attend(self, tokens):
        heads = self.mix(tokens).unflatten(2, (6, -1)).transpose(1, 2)
        return scaled_dot_product_attention(*heads.chunk(3, 1)).transpose(1, 2).flatten(2)


class WithoutForwardMode(torch.autograd.Function):
    """x * exp(-x^2): reverse mode by hand, as current torch wants it; neither a jvp nor a vmap rule."""

    @staticmethod
    def forward(x):
        return x * (-(x**2)).exp()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 - 2 * x**2) * (-(x**2)).exp()


class Legacy(torch.autograd.Function):
    """The same as it was written before `setup_context`: `torch.func` refuses it altogether."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return WithoutForwardMode.forward(x)

    backward = WithoutForwardMode.backward


class Operator(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


class LegacyAttention(FusedAttention):
    def attend(self, tokens):
        return Legacy.apply(super().attend(tokens))


def image_case(pair, shape, C=0, **options):
    """A pair for images, its FiLM layers away from the zeros that they start from."""

    def build(D, d, C):
        modules = pair(D, d, C, shape=shape, blocks=1, width=8, **options)
        for layer in (layer for module in modules for layer in module.modules() if isinstance(layer, Modulate)):
            nn.init.normal_(layer.affine.weight, std=0.1)
        return modules

    return Case(build, D=math.prod(shape), C=C)


def user_pair(module):
    return lambda D, d, C: (module(D, d, C), module(d, D, C))


def operator_pair(function):
    def perceptron(inputs, outputs):
        return networks.Network(nn.Linear(inputs, 10), Operator(function), nn.Linear(10, outputs))

    return lambda D, d, C: (perceptron(D + C, d), perceptron(d + C, D))


# -------------------------------------------------------------------------------------------------- the tables


@dataclass(frozen=True)
class Case:
    """A pair of networks in float64 with data that fits it."""

    pair: Callable
    D: int = 5
    d: int = 3
    C: int = 0

    def modules(self):
        return tuple(module.double() for module in self.pair(self.D, self.d, self.C))

    def flow(self):
        return FreeFormFlow(*self.modules(), self.D, self.d, self.C)

    def data(self, rows=4):
        c = randn(rows, self.C) if self.C else None
        return randn(rows, self.D), c


PAIRS = {
    "mlp": Case(lambda D, d, C: networks.mlp_pair(D, d, C, width=8)),
    "residual": Case(lambda D, d, C: networks.residual_pair(D, d, C, width=8, depth=1)),
    "linear": Case(networks.linear_pair),
    "skip": Case(lambda D, d, C: networks.skip_pair(D, d, C, width=8)),
    "convolutional": image_case(networks.convolutional_pair, (1, 4, 8), channels=4),
    "smooth convolutional": image_case(networks.convolutional_pair, (2, 4, 3), channels=4, kernel=5, smooth=True),
    "residual convolutional": image_case(networks.residual_convolutional_pair, (1, 5, 8), channels=4, bottlenecks=1),
    "transformer": image_case(networks.transformer_pair, (1, 4, 8), channels=8, depth=1, heads=2),
    "user": Case(user_pair(Residual)),
    "multihead": Case(user_pair(MultiheadAttention)),
    "fused": Case(user_pair(FusedAttention)),
    "no forward mode": Case(operator_pair(WithoutForwardMode)),
    "legacy": Case(operator_pair(Legacy)),
    "legacy attention": Case(user_pair(LegacyAttention)),
}
PAIRS |= {f"{name} given c": dataclasses.replace(case, C=2) for name, case in PAIRS.items()}
PAIRS |= {
    f"convolutional given {way} c": image_case(networks.convolutional_pair, (1, 4, 8), 2, channels=4, conditioning=way)
    for way in ("one_hot", "embedded")
}

DIMENSIONS = {
    "d < D": (5, 2, 0),
    "d = 1": (3, 1, 0),
    "d = D": (3, 3, 0),
    "given c": (4, 2, 2),
    "d = D given c": (3, 3, 2),
}


INJECTIONS = {name: kind for name, kind in FLOWS.items() if issubclass(kind, Injection)}
LAWS = {name: kind for name, kind in FLOWS.items() if not issubclass(kind, Injection)}  # of known supports, no codes


def fits(name, D, d):
    """Whether a flow exists at these dimensions."""
    return d == D or issubclass(FLOWS[name], LearnedManifold)


def modules_of(name, D, d, C=0):
    """The networks that a flow is built of, none where it has its own."""
    if FLOWS[name] is ManifoldFlow:  # near the identity, so that every row has a code
        pair = networks.skip_pair(D, d, C, width=16)
        networks.start_at_identity(*pair)
        return pair
    count = {FreeFormFlow: 2, VariationalFlow: 3}.get(FLOWS[name], 0)
    encoder, decoder = networks.mlp_pair(D, d, C, width=16)
    return (encoder, decoder, networks.mlp_pair(D, d, C, width=16)[0])[:count]


def make_flow(name, D=5, d=2, C=0, **options):
    """An instance of every entry of FLOWS, in float64, its parameters away from any symmetric start."""
    if name in LAWS:
        flow = FLOWS[name](SUPPORTS[FLOWS[name].supports[0]](D), C, **options).double()
    else:
        flow = FLOWS[name](*modules_of(name, D, d, C), D, d, C, **options).double()
    with torch.no_grad():
        if isinstance(flow, WholeSpace):
            flow.start(bent_rows(D, C))
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return flow


def bent_rows(D, C=0, n=600):
    """Rows whose columns depend on the first one and on the context."""
    x, c = randn(n, D), randn(n, C) if C else None
    return Rows(x + 0.5 * x[:, :1].square() + (0.0 if c is None else c.sum(1, keepdim=True)), c)


def rows_for(flow, n=6):
    """Rows that a flow takes, in float64: of its manifold where that is known."""
    known = not isinstance(flow.rows, Euclidean | Learned)
    return flow.rows.uniform(n).double() if known else randn(n, flow.data_dim)


# -------------------------------------------------------------------------------------------------- brute force


def maps(modules, c=None):
    """Encoder and decoder with the context bound, as `Flow.maps` hands them over."""
    return tuple((lambda x, net=net: net(x)) if c is None else (lambda x, net=net: net(x, c)) for net in modules)


def row_maps(modules, c=None):
    """The same for one row, by its number: (b, x) -> f(x), x without the batch dimension."""

    def bind(net):
        return lambda b, x: (net(x[None]) if c is None else net(x[None], c[b : b + 1]))[0]

    return tuple(bind(net) for net in modules)


def jacobians(f, x):
    """f'(x) of every row, (batch, m, n), by reverse mode a row and an output at a time; differentiable."""
    with sdpa_kernel(SDPBackend.MATH):
        return torch.stack([jacobian(lambda t, b=b: f(b, t), x[b], create_graph=True) for b in range(len(x))])


def half_log_det(J, dim=None):
    """1/2 log det J^T J of tall matrices, J J^T of wide ones, from the singular values, the `dim` largest ones."""
    return torch.linalg.svdvals(J)[:, :dim].log().sum(1)


def gradients(value, parameters):
    """The gradient of a sum, with zeros where there is none, flat."""
    parts = torch.autograd.grad(value.sum(), list(parameters), retain_graph=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


# ------------------------------------------------------------------------------------------- known surfaces


def elastic(x):
    """A gauge between the 1-norm and the 2-norm."""
    return 0.5 * x.abs().sum(1) + 0.5 * x.norm(dim=1)


class Bumps(nn.Module):
    """A network as log radius."""

    def __init__(self, columns):
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Linear(columns, 16), nn.Tanh(), nn.Linear(16, 1)
        self.layers = nn.Sequential(*layers).double()

    def forward(self, n):
        return self.layers(n.double()).to(n)


SURFACES = {
    "sphere": Sphere,
    "simplex": Simplex,
    "p = 0.5": lambda d: LpSphere(d, 0.5),
    "p = 1": LpSphere,
    "p = 1.5": lambda d: LpSphere(d, 1.5, 2.0),
    "p = 2": lambda d: LpSphere(d, 2.0, 0.7),
    "p = 4": lambda d: LpSphere(d, 4.0),
    "ellipsoid": lambda d: Ellipsoid(d, tuple(1 + 0.3 * k / d for k in range(d))),
    "groups": lambda d: GroupLasso(d, tuple(k % ((d + 1) // 2) for k in range(d)), radius=3.0),
    "gauge": lambda d: Gauge(d, elastic),
    "gauge of parts": lambda d: Gauge(d, elastic, positive=True),
    "network": lambda d: Radius(d, Bumps(d)),
}


@torch.no_grad()
def by_quadrature(surface, function, per_panel=200):
    """The integral of a function over a surface of R^3, by angles; panels end where coordinates are 0."""
    u, w = (torch.as_tensor(t) for t in np.polynomial.legendre.leggauss(per_panel))
    theta, weight = (u + 1) * torch.pi / 4, w * torch.pi / 4
    t, f = torch.cartesian_prod(theta, theta).unbind(1)
    octant = torch.stack([t.cos(), t.sin() * f.cos(), t.sin() * f.sin()], 1)
    signs = torch.tensor([1.0, -1.0]).double()
    signs = torch.ones(1, 3).double() if surface.orthant else torch.cartesian_prod(signs, signs, signs)
    area = torch.cartesian_prod(weight, weight).prod(1) * t.sin()
    total = torch.zeros(()).double()
    for sign in signs:
        n = octant * sign
        total += (area * surface.log_stretch(n).exp() * function(surface.project(n))).sum()
    return float(total)


# ------------------------------------------------------------------------------------------------ training


def descend(flow, objective, batch, steps, learning_rate, *, anneal=False):
    optimiser = torch.optim.Adam(flow.parameters(), learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(flow, *batch()).total.mean().backward()
        optimiser.step()
        if anneal:
            decay.step()
