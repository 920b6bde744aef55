"""A finished model: the preparation of columns and the density of prepared rows together, in the user's own units.

Inside, columns are standardised, see `isthmus.columns`; outside, everything is in the user's units: data, samples, and
densities, whose log-determinant of the preparation is always included. Computation is in float64, so that the score of
a row does not depend on the rows beside it; networks that convolve are in float32, see `isthmus.flow.in_double`, and
scores of images may differ by about 1e-3 nats with the rows beside them.
"""

import copy
import math
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from isthmus.columns import Columns
from isthmus.density import Ambient, Density
from isthmus.errors import InputError
from isthmus.flow import Context, Estimate, Flow, Injection, in_double
from isthmus.levels import Levels
from isthmus.matrices import doubled, matrix

__all__ = ["Model"]

Rows = Float[Tensor, "batch n"] | ArrayLike
RowContext = Float[Tensor, "batch C"] | ArrayLike | None

_ROWS = 4096
_OFFSETS = 8  # at which a row of integers is spread over their units; even
_MANY_COLUMNS, _FEW_OFFSETS = 256, 2  # over so many integers in a row a sum averages by itself


@final
class Model(nn.Module):
    """A density of rows with the preparation of the user's columns.

    Rows are tensors, arrays or frames of numbers in the user's units, (batch, n) with n the user's columns; codes are
    (batch, d); densities (batch,) in nats. Everything but networks that convolve is computed in float64, in chunks of
    rows.

    Args:
        density: of prepared rows, with its flow.
        columns: preparation of the data's columns.
        context_columns: preparation of the context's columns, None where there is no context.
        levels: what the networks are told beside the context; nothing by default.

    Example:
        >>> from isthmus.density import Ambient, IsotropicNoise
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(3, 1), data_dim=3, latent_dim=1)
        >>> model = Model(Ambient(flow, IsotropicNoise(3, 0.1)), Columns(3))
        >>> model.encode(torch.zeros(4, 3)).shape, model.log_prob(torch.zeros(4, 3)).dtype
        (torch.Size([4, 1]), torch.float64)
    """

    def __init__(
        self,
        density: Density,
        columns: Columns,
        context_columns: Columns | None = None,
        levels: Levels | None = None,
    ) -> None:
        super().__init__()
        self.density, self.columns, self.context_columns = density, columns, context_columns
        self.levels = levels or Levels()
        self.requires_grad_(requires_grad=False)
        in_double(self).eval()
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.data = tensor.data.contiguous()  # as a file has it: strides change the last bit of a product

    @property
    def flow(self) -> Flow:
        """The flow of prepared rows."""
        return self.density.flow

    @property
    def measured(self) -> str:
        """The unit and the measure of every log density of a row: `nats a row, per unit of ...`."""
        return self.density.rows.measured

    @property
    def level(self) -> dict[str, float]:
        """The noise and beta that the networks are told, those of them that training drew from a range."""
        return self.levels.values(self._told)

    @property
    def _told(self) -> list[float]:
        return [] if self.flow.levels is None else self.flow.levels.tolist()

    def at(self, *, noise: float | None = None, beta: float | None = None) -> "Model":
        """Return a copy of the model, its networks told another noise or beta.

        Codes, reconstructions and points of the manifold are those of this level. A refitted latent density and the
        noise off the manifold stay what they were at the level of the fit: before densities are read, or noisy samples
        drawn, refit them (`isthmus.refit.refit_density` on `at(...).flow` and `isthmus.fitting.rows_again`).

        Args:
            noise: standard deviation of the input noise on standardised columns, within the range of the recipe's
                `training.noise`; None keeps the level.
            beta: weight of the squared reconstruction error, within the range of `objective.beta`; likewise.

        Returns:
            A copy.

        Raises:
            InputError: training had no such range, or the value is not within it.

        Example:
            >>> from isthmus import Recipe, fit
            >>> recipe = {"flow": {"latent_dim": 1}, "objective": {"beta": [1, 100]}, "training": {"max_steps": 5}}
            >>> model = fit(torch.randn(40, 3), recipe=Recipe.validated(recipe)).model
            >>> [round(at.level["beta"]) for at in (model, model.at(beta=10))]
            [100, 10]
        """
        levels = torch.tensor(self.levels.changed(self._told, noise=noise, beta=beta))
        model = copy.deepcopy(self)
        if model.flow.levels is not None:
            model.flow.levels.copy_(levels)
        return model

    def encode(self, x: Rows, c: RowContext = None) -> Float[Tensor, "batch d"]:
        """Return codes `f(x)`.

        Raises:
            InputError: the flow has no codes.
        """
        flow = self.injection
        return self._by_rows(lambda u, c: flow.encode(self.columns.standardise(u), c), self._checked(x), c)

    def decode(self, z: Float[Tensor, "batch d"] | ArrayLike, c: RowContext = None) -> Float[Tensor, "batch n"]:
        """Return the points `g(z)`."""
        flow = self.injection
        return self._by_rows(lambda z, c: self.columns.restore(flow.decode(z, c)), matrix(z, "codes"), c)

    def reconstruct(self, x: Rows, c: RowContext = None) -> Float[Tensor, "batch n"]:
        """Return the points that rows are mapped to, `g(f(x))`."""
        return self._by_rows(self._reconstruct, self._checked(x), c)

    def reconstruction_error(self, x: Rows, c: RowContext = None) -> Float[Tensor, " batch"]:
        """Return the squared distance of each row to its reconstruction, on standardised columns.

        Args:
            x: data, (batch, n).
            c: context, (batch, C), or None.

        Returns:
            (batch,); infinity where a row is so far away that arithmetic overflows, never NaN.
        """

        def error(x: Tensor, c: Context) -> Tensor:
            """Return the squared distances of some rows."""
            off = self.columns.standardise(x) - self.columns.standardise(self._reconstruct(x, c))
            return off.square().sum(1)

        return _finite_or(math.inf, self._by_rows(error, self._checked(x), c))

    @property
    def injection(self) -> Injection:
        """The flow, where it has codes.

        Raises:
            InputError: it has none.
        """
        if not isinstance(self.flow, Injection):
            raise InputError(
                f"expected a flow with codes; got {type(self.flow).__name__}, which has none; it can score and sample"
            )
        return self.flow

    def evaluation(self, density: str | None) -> str:
        """Return the name of an evaluation of the density, the usual one where none is named.

        Args:
            density: one of `density.names`, or None.

        Raises:
            InputError: the density has no such evaluation.
        """
        names = self.density.names
        if density is not None and density not in names:
            raise InputError(f"expected a density among {', '.join(names)}; got {density!r}; choose one of them")
        return density or names[0]

    def log_prob(self, x: Rows, c: RowContext = None, *, density: str | None = None) -> Float[Tensor, " batch"]:
        """Return the log density of each row in nats, in the user's units, the preparation's log-determinant included.

        Of an integer in a column of integers it is the mean over the unit around it, at fixed offsets: a lower bound of
        the integer's log probability. (At the integer itself it may be far above.) Numbers between the integers are
        taken as they are. It is the density of a *row*; `flow.log_prob` is that of the flow's own law.

        Args:
            x: data, (batch, n).
            c: context, (batch, C), or None.
            density: one of `density.names`, the first by default. Around a learned manifold: `linearised` or `ambient`
                (importance-sampled), of x in R^n, constant columns left out; or `manifold`, of the reconstruction of x
                with respect to d-dimensional volume on the learned manifold. Of a law of rows: `own`.

        Returns:
            (batch,) in nats, with respect to the measure that `measured` names; minus infinity where a row is so far
            away that arithmetic overflows, never NaN.

        Raises:
            InputError: the density has no such evaluation.
        """
        if self.evaluation(density) == "ambient":
            return self.estimate(x, c).value
        function = self._manifold if density == "manifold" else self._log_prob
        return _finite_or(-math.inf, self._by_rows(function, self._checked(x), c))

    def estimate(self, x: Rows, c: RowContext = None, *, n_points: int = 128) -> Estimate:
        """Return the most faithful log density there is, with its standard error, (batch,) in nats, user's units.

        Where a row is so far away that arithmetic overflows, the density is minus infinity and its error infinite.
        """

        def sided(x: Tensor, c: Context) -> Tensor:
            """Return value and standard error side by side."""
            values, errors = [], []
            for y in self._spread(x):
                value, error = self.density.estimate(self.columns.standardise(y), c, n_points=n_points)
                values.append(value + self.columns.log_det(y))
                errors.append(error)
            error = torch.stack(errors).square().sum(0).sqrt() / len(errors)
            return torch.stack([torch.stack(values).mean(0), error], 1)

        value, error = self._by_rows(sided, self._checked(x), c).unbind(1)
        return Estimate(_finite_or(-math.inf, value), _finite_or(math.inf, error))

    def sample(
        self, n: int, c: RowContext = None, *, noise: bool = True, temperature: float = 1.0, truncation: float = 1.0
    ) -> Float[Tensor, "n n_columns"]:
        """Draw rows: from the density, or with `noise=False` on the manifold; integer columns are not rounded.

        Args:
            n: number of rows, >= 1.
            c: one context row for all, or n of them; required by a conditional model.
            noise: whether to add the noise off the manifold.
            temperature: scale of codes about their modes, and of noise; 1 is the model, less is more typical.
            truncation: share in (0, 1] of the codes to draw from, the likeliest ones under the latent density: of 16
                codes a row one of as many as that is kept. 1 is the model; less gives more typical rows.

        Returns:
            (n, columns) in the user's units.
        """
        if n < 1 or not 0 <= temperature < math.inf:
            raise InputError(f"expected n >= 1 rows and a finite temperature >= 0; got {n} and {temperature}")
        inner = None
        if c is not None or self.context_columns is not None:
            c = None if c is None else matrix(c, "context")
            c = c.expand(n, -1) if c is not None and len(c) == 1 else c
            inner = self._inner_context(c, torch.empty(n, 0))
        x = self.density.sample(n, inner, noise=noise, temperature=temperature, truncation=truncation)
        return self.columns.restore(x)

    def _spread(self, x: Tensor) -> list[Tensor]:
        """Return the rows, or where they hold integers of integer columns, copies spread over the unit around."""
        whole = self.columns.integer & (x == x.round())
        if not bool(whole.any()):
            return [x]
        kept = self.columns.kept
        count = _OFFSETS if int(self.columns.integer.sum()) < _MANY_COLUMNS else _FEW_OFFSETS
        offsets = torch.zeros(count // 2, x.shape[1]).to(x)
        draws = SobolEngine(self.columns.dim, scramble=True, seed=0).draw(count // 2, dtype=torch.float64)
        offsets[:, kept] = draws.to(x) - 0.5
        return [x + whole * offset for offset in torch.cat([offsets, -offsets])]

    def _log_prob(self, x: Tensor, c: Context) -> Tensor:
        values = [
            self.density.log_prob(self.columns.standardise(y), c) + self.columns.log_det(y) for y in self._spread(x)
        ]
        return torch.stack(values).mean(0)

    def _reconstruct(self, x: Tensor, c: Context) -> Tensor:
        return self.columns.restore(self.injection.reconstruct(self.columns.standardise(x), c))

    def _manifold(self, x: Tensor, c: Context) -> Tensor:
        if not isinstance(self.density, Ambient):
            raise InputError("expected a learned manifold; got a law of rows; score with density 'own'")
        return self.density.manifold(self.columns.standardise(x), c, restore=self.columns.restore_kept)

    def _checked(self, x: ArrayLike | Tensor) -> Tensor:
        rows, n = matrix(x, "X"), self.columns.mean.shape[0]
        if rows.shape[1] != n:
            raise InputError(
                f"expected rows of {n} columns; got shape {tuple(rows.shape)}; give the columns of the fit"
            )
        return rows

    def _inner_context(self, context: ArrayLike | Context, rows: Tensor) -> Context:
        c = None if context is None else matrix(context, "context")
        if self.context_columns is None:
            if c is not None:
                raise InputError(f"expected no context; got {c.shape[1]} columns; this model was fitted without one")
            return None
        n = self.context_columns.mean.shape[0]
        if c is None or c.shape != (rows.shape[0], n):
            got = "none" if c is None else f"shape {tuple(c.shape)}"
            raise InputError(f"expected {n} context columns for {rows.shape[0]} rows; got {got}; give the context")
        return self.context_columns.standardise(doubled(c))

    @torch.no_grad()
    def _by_rows(self, function: Callable[[Tensor, Context], Tensor], x: Tensor, context: RowContext) -> Tensor:
        """Apply a function of rows in the user's units and of prepared context, in float64, some rows at a time."""
        c = self._inner_context(context, x)
        return torch.cat(
            [
                function(doubled(x[start : start + _ROWS]), None if c is None else c[start : start + _ROWS])
                for start in range(0, max(1, x.shape[0]), _ROWS)
            ]
        )


def _finite_or(limit: float, values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Replace what is not finite, as of rows beyond arithmetic, by the limit that it tends to.

    On the way infinities are subtracted from one another, so that NaN and either infinity mean the same.
    """
    return torch.where(values.isfinite(), values, limit)
