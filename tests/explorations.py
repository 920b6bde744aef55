"""What the tests of the explorer look at: a model of the digits, tables of every kind of column, and a server."""

import asyncio
import contextlib
import dataclasses
import functools
import threading

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

import isthmus
from isthmus.data.tables import Schema
from isthmus.explorer import server_class

NASTY = '<img src=x onerror="alert(1)">'
QUICK = {"training": {"max_steps": 20, "validations": 1}, "refit": {"latent": "gaussian", "noise": "isotropic"}}


@functools.cache
def digits():
    """A small model of 900 handwritten digits, and their table of 64 pixels."""
    frame = pd.DataFrame(load_digits().data[:900].astype(int), columns=[f"pixel_{i}" for i in range(64)])
    schema, _ = Schema.learn(frame)
    recipe = isthmus.Recipe().update(
        flow={"latent_dim": 4, "network": {"kind": "skip", "width": 64}},
        objective={"kind": "freeform", "beta": 10},
        training={"max_steps": 300, "batch_size": 64, "validations": 2},
        refit=QUICK["refit"],
        columns={"heavy_tails": False},
    )
    return dataclasses.replace(isthmus.fit(*schema.encode(frame), recipe=recipe), schema=schema), frame


def mixed(rows=160):
    """Every kind of column, some with names and values that a page has to escape."""
    rng = np.random.default_rng(0)
    t, s = rng.normal(size=(2, rows))
    frame = pd.DataFrame({NASTY: t, "$$b$$ & c": np.sin(t) + 0.1 * s, "k": np.rint(3 * t).astype(int), "unit": "cm"})
    frame["colour"] = np.where(t > 0.5, NASTY, np.where(s > 0, "green", "blue"))
    frame["missing"] = np.where(rng.random(rows) > 0.2, s, np.nan)
    frame["when"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.rint(1000 * t), unit="s")
    return frame.assign(up=t > 0)


def fitted_to(frame, target=(), latent_dim=2):
    """A model that knows the table's columns, hardly trained."""
    schema, _ = Schema.learn(frame, target)
    recipe = isthmus.Recipe().update(flow={"latent_dim": latent_dim, "network": {"width": 16}}, **QUICK)
    return dataclasses.replace(isthmus.fit(*schema.encode(frame), recipe=recipe), schema=schema)


@contextlib.contextmanager
def serving(exploration, name="model"):
    """The server of an exploration's page, run by a thread of its own."""
    ready, parts = threading.Event(), []

    def serve():
        asyncio.set_event_loop(asyncio.new_event_loop())
        parts.extend([server_class()(exploration, name=name), asyncio.get_event_loop()])
        ready.set()
        parts[0].run()
        parts[0].close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(60)
    try:
        yield parts[0]
    finally:
        parts[1].call_soon_threadsafe(parts[1].stop)
        thread.join(60)
