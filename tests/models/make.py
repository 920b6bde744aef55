"""A small model folder with every kind of column, and its scores, as the present version writes them.

Run once when the format changes, `python tests/models/make.py tests/models/formatN`; what it wrote is never changed.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from isthmus import Recipe, fit, save, scoring
from isthmus.data.tables import Schema

RECIPE = """
flow: {latent_dim: 2, network: {kind: skip, width: 8, depth: 1}}
training: {max_steps: 200, batch_size: 64}
refit: {latent: mixture, noise: component}
"""


def table(rows=300):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=rows)
    temperature = rng.normal(20.0, 5.0, rows)
    return pd.DataFrame(
        {
            "income": np.exp(8.0 + 2.0 * hidden),
            "visits": rng.poisson(np.exp(1.0 + 0.3 * hidden)),
            "height": np.where(rng.random(rows) < 0.1, np.nan, 1.7 + 0.1 * hidden + 0.01 * temperature),
            "colour": pd.Series(rng.choice(["red", "green", "blue"], rows)).mask(rng.random(rows) < 0.1),
            "unit": "cm",
            "temperature": temperature,
        }
    )


def main(folder):
    frame = table()
    schema, _ = Schema.learn(frame, ["temperature"])
    fitted = dataclasses.replace(fit(*schema.encode(frame), recipe=Recipe.parse(RECIPE)), schema=schema)
    save(fitted, folder)
    rows = frame.iloc[:20]
    scores = {name: scoring.score(fitted, rows, density=name).to_dict("list") for name in ("linearised", "ambient")}
    record = {"rows": json.loads(rows.to_json(orient="records", double_precision=15)), "scores": scores}
    Path(folder).with_suffix(".json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
