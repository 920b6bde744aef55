"""Three toy laws, as a user would write them: each a class and a line in `FLOWS`, and nothing else anywhere."""

from typing import final

import torch
from torch import nn
from torch.distributions import VonMises

from isthmus.errors import InputError
from isthmus.flow import Estimate, Flow, Injection
from isthmus.supports import Euclidean, Support
from isthmus.volume import Volume


@final
class OnCircle(Flow):
    """A von Mises law on the circle, of unit vectors in the plane: exact, with respect to arc length."""

    supports = ("sphere",)

    def __init__(self, rows: Support, context_dim: int = 0) -> None:
        super().__init__(rows, context_dim)
        self.angle, self.log_concentration = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def law(self, temperature=1.0):
        return VonMises(self.angle, self.log_concentration.exp() / max(temperature, 1e-3) ** 2)

    def log_prob(self, x, c=None):
        return self.law().log_prob(torch.atan2(x[:, 1], x[:, 0]))

    def sample(self, n, c=None, *, temperature=1.0):
        angle = self.law(temperature).sample((n,))
        return torch.stack([angle.cos(), angle.sin()], 1)


@final
class Counted(Flow):
    """Counts of levels, smoothed, read off the rows by `start`; its log probability is only estimated, by drawing."""

    supports, exact, objective = ("categories",), False, "start"

    def __init__(self, rows: Support, context_dim: int = 0) -> None:
        super().__init__(rows, context_dim)
        self.register_buffer("counts", torch.ones(rows.n_levels))

    def start(self, rows):
        for row in rows.x.long().tolist():
            self.counts[tuple(row)] += 1

    def sample(self, n, c=None, *, temperature=1.0):
        if temperature != 1:
            raise InputError(f"expected temperature 1 for counts; got {temperature}; leave it out")
        index = torch.multinomial(self.counts.flatten().float(), n, replacement=True)
        return torch.stack(torch.unravel_index(index, self.counts.shape), 1).to(self.counts)

    def log_prob(self, x, c=None):
        return self.estimate(x, c).value

    def estimate(self, x, c=None, *, n_points=128, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            hits = (self.sample(n_points * 64).unsqueeze(0) == x.unsqueeze(1)).all(2).double()
        share = (hits.sum(1) + 0.5) / (hits.shape[1] + 1)
        return Estimate(share.log().to(x), ((1 - share) / (share * hits.shape[1])).sqrt().to(x))


@final
class Normalised(Injection):
    """ActNorm: a shift and a scale that the first batch sets, and a flag, a bool buffer, that says it did."""

    def __init__(self, data_dim: int, latent_dim: int, context_dim: int = 0) -> None:
        super().__init__(Euclidean(data_dim), latent_dim, context_dim)
        self.shift, self.log_scale = nn.Parameter(torch.zeros(data_dim)), nn.Parameter(torch.zeros(data_dim))
        self.register_buffer("initialised", torch.tensor(False))

    def start(self, rows):
        if not self.initialised:
            self.shift.copy_(rows.x.mean(0))
            self.log_scale.copy_(rows.x.std(0).log())
            self.initialised.fill_(True)

    def encode(self, x, c=None):
        return (x - self.shift) * (-self.log_scale).exp()

    def decode(self, z, c=None):
        return z * self.log_scale.exp() + self.shift

    def volume(self, x, c=None):
        return Volume(self.encode(x), x, self.log_scale.sum().expand(len(x)))


TOYS = {"on_circle": OnCircle, "counted": Counted, "normalised": Normalised}  # lines of `FLOWS`
