"""Training on several processes: each has its own rows, all have the same weights, and what comes of it comes back."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from isthmus import Recipe
from isthmus.columns import Columns
from isthmus.data.tables import Parquet, Stream
from isthmus.errors import InputError
from isthmus.flows import FreeFormFlow
from isthmus.networks import mlp_pair
from isthmus.objective import FreeForm
from isthmus.recipe import TrainingRecipe
from isthmus.rows import Rows
from isthmus.training import LongRows, train
from longtables import write_parts
from watched import Watched, seen

ROWS, STEPS, SIZE = 240, 6, 40  # one epoch


@pytest.fixture
def long_rows(tmp_path):
    """A stream of three columns, the first the number of the row; standardised, with none held out."""
    x = np.random.default_rng(0).normal(size=(ROWS, 2))
    frame = pd.DataFrame({"row": np.arange(ROWS, dtype=float), "a": x[:, 0], "b": x[:, 1]})
    stream, _ = Stream.learn(Parquet.open(write_parts(frame, tmp_path, [100, 140], row_group_size=50)))
    return LongRows(stream, Columns.learn(torch.from_numpy(stream.X)), None, np.empty(0, dtype=np.int64))


def test_two_processes_share_an_epoch_of_a_stream_and_hand_back_what_came_of_it(long_rows, tmp_path):
    settings = TrainingRecipe(
        max_steps=STEPS, batch_size=SIZE, noise=0, devices=2, validations=3, max_time=1e6, precision="64-true"
    )
    torch.manual_seed(0)
    flow = FreeFormFlow(*mlp_pair(3, 2, width=8), data_dim=3, latent_dim=2)
    before = torch.random.get_rng_state()
    held_out = next(long_rows.epoch(9, seed=1, shard=0, shards=1))
    history = train(flow, Watched(tmp_path), long_rows, held_out, settings=settings, run_dir=tmp_path / "run")

    batches = [[seen(tmp_path, step, rank) for rank in range(2)] for step in range(STEPS)]
    restored = torch.cat([long_rows.columns.restore(one["x"])[:, 0] for both in batches for one in both])
    assert sorted(restored.round().long().tolist()) == list(range(ROWS))
    assert all(len(one["x"]) == SIZE // 2 for both in batches for one in both)
    for first, second in batches:
        assert torch.equal(first["weights"], second["weights"])
        assert torch.equal(first["gradient"], second["gradient"])
    assert not torch.equal(batches[0][0]["weights"], batches[-1][0]["weights"])

    assert [row["step"] for row in history.rows] == [0, 2, 4, 6]
    assert history.steps == STEPS
    assert history.best_step == max(history.rows, key=lambda row: row["log_density"])["step"]
    assert 0 < history.seconds < 600
    assert history.earlier == 0
    after = torch.cat([p.detach().flatten() for p in flow.parameters()])
    if history.best_step < STEPS:
        assert torch.equal(after, batches[history.best_step][0]["weights"])
    else:
        assert not torch.equal(after, batches[-1][0]["weights"])
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["step"].tolist() == [0, 2, 4, 6]
    assert (tmp_path / "run" / "checkpoint.ckpt").exists()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_processes_go_on_as_if_they_had_never_stopped(tmp_path):
    """With noise and probes that each process draws of its own: rows are zero, so that what it sees is its noise."""
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
    x[:200] = 0
    settings = TrainingRecipe(max_steps=STEPS, batch_size=SIZE, noise=0.1, devices=2, validations=3, keep="last")

    def trained(run_dir, broken=None):
        torch.manual_seed(0)
        flow = FreeFormFlow(*mlp_pair(3, 2, width=8), data_dim=3, latent_dim=2)
        objective = Watched(tmp_path, broken=broken)
        history = train(flow, objective, Rows(x[:200]), Rows(x[200:]), settings=settings, seed=3, run_dir=run_dir)
        return flow.state_dict(), history

    whole, history = trained(None)
    first, second = (seen(tmp_path, 0, rank)["x"] for rank in range(2))
    assert not torch.isclose(first, second).any()
    with pytest.raises(ProcessRaisedException, match="broken"):
        trained(tmp_path / "run", broken=STEPS - 1)
    again, other = trained(tmp_path / "run")
    assert 0 < other.earlier < other.seconds
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert [row["reconstruction"] for row in other.rows] == [row["reconstruction"] for row in history.rows]


def test_fewer_rows_than_devices_are_refused():
    flow, rows = FreeFormFlow(*mlp_pair(3, 2, width=8), data_dim=3, latent_dim=2), Rows(torch.randn(3, 3))
    with pytest.raises(InputError, match="a row for each of 4 devices; got 3"):
        train(flow, FreeForm(), rows, rows, settings=TrainingRecipe(devices=4, max_steps=2))


def test_the_recipe_knows_devices():
    assert Recipe().training.devices == 1
    assert Recipe.parse("training: {devices: 4}").training.devices == 4
    with pytest.raises(InputError, match="devices"):
        Recipe.parse("training: {devices: 0}")
