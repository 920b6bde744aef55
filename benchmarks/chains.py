"""Long Markov chains for the targets of the suite `chains`, by NumPyro's NUTS, in an environment of its own.

    pip install numpyro==0.22.0 scikit-learn
    python -m benchmarks.chains

Writes `benchmarks/results/chains_reference.jsonl`: of each target the means and standard deviations of four chains, the
smallest effective sample size of a column, and the seconds of one processor, compilation included. Nothing of isthmus
is imported.

* `penalty`: the coefficients of the diabetes data on the level set `sum |b_k| = t`, t at six tenths of that of least
  squares, noise of 0.7 standard deviations. `b = t z / |z|_1` of independent Laplace variables z is uniform on it.
* `weights`: the weights of six known components in 300 rows, with Dirichlet(1/2) before.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["REFERENCE", "SIGMA", "mixture", "regression"]

REFERENCE = Path(__file__).parent / "results" / "chains_reference.jsonl"
SIGMA, SHARE, ALPHA = 0.7, 0.6, 0.5
CHAINS, WARM_UP, DRAWS = 4, 1_000, 10_000

Array = NDArray[np.float64]


def regression() -> tuple[Array, Array, float]:
    """Return the standardised columns and response of the diabetes data, and the level t."""
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    least_squares, *_ = np.linalg.lstsq(X, y, rcond=None)
    return X, y, SHARE * float(np.abs(least_squares).sum())


def mixture() -> Array:
    """Return log densities of 300 rows under six normal laws a unit and a half apart, (300, 6)."""
    generator = np.random.default_rng(0)
    places = 1.5 * np.arange(6)
    rows = generator.choice(places, 300, p=[0.3, 0.05, 0.4, 0.0, 0.2, 0.05]) + generator.standard_normal(300)
    return -0.5 * (rows[:, None] - places) ** 2 - 0.5 * np.log(2 * np.pi)


def _models() -> dict[str, Any]:
    """Return the two models of NumPyro, and the name of what is compared."""
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as laws

    X, y, t = regression()
    rows = jnp.asarray(mixture())

    def penalty() -> None:
        z = numpyro.sample("z", laws.Laplace(0.0, 1.0).expand([X.shape[1]]).to_event(1))
        b = numpyro.deterministic("compared", t * z / jnp.abs(z).sum())
        numpyro.sample("y", laws.Normal(jnp.asarray(X) @ b, SIGMA).to_event(1), obs=jnp.asarray(y))

    def weights() -> None:
        w = numpyro.sample("compared", laws.Dirichlet(jnp.full(rows.shape[1], ALPHA)))
        numpyro.factor("rows", jnp.log(jnp.exp(rows) @ w).sum())

    return {"penalty": penalty, "weights": weights}


def run(name: str, model: Any) -> dict[str, Any]:
    """Return what four chains of a model say."""
    import jax
    import numpyro
    from numpyro.diagnostics import effective_sample_size, gelman_rubin
    from numpyro.infer import MCMC, NUTS

    begun = time.process_time()
    chains = MCMC(
        NUTS(model, target_accept_prob=0.9),
        num_warmup=WARM_UP,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    chains.run(jax.random.PRNGKey(0))
    drawn = np.asarray(chains.get_samples(group_by_chain=True)["compared"])
    seconds = time.process_time() - begun
    together = drawn.reshape(-1, drawn.shape[-1])
    return {
        "target": name,
        "mean": together.mean(0).tolist(),
        "deviation": together.std(0).tolist(),
        "draws": len(together),
        "effective": float(np.min(effective_sample_size(drawn))),
        "r_hat": float(np.max(gelman_rubin(drawn))),
        "divergent": int(chains.get_extra_fields()["diverging"].sum()),
        "seconds": seconds,
        "numpyro": numpyro.__version__,
        "jax": jax.__version__,
    }


def main() -> None:
    """Write the reference."""
    import jax

    jax.config.update("jax_enable_x64", True)  # noqa: FBT003 (jax's own form)
    lines = [json.dumps(run(name, model)) for name, model in _models().items()]
    REFERENCE.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
