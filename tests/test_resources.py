"""What a machine has too little of is refused by name, before any work, and nothing that fits is."""

import os
import resource

import numpy as np
import pandas as pd
import pytest

from isthmus import Recipe, cli, resources
from isthmus.errors import InputError

TOO_LARGE = {  # setting -> the key that is named
    "flow.network={kind: mlp, width: 4000000000}": "flow.network of width 4000000000, depth 2",
    "flow.network={kind: skip, width: 400000, depth: 100}": "flow.network of width 400000, depth 100",
    "flow.network={kind: skip, depth: 4000000000}": "flow.network of width 256, depth 4000000000",
    "flow.network={kind: residual, blocks: 4000000000}": "flow.network of width 256, depth 2, blocks 4000000000",
    "flow.network={kind: convolutional, width: 4000000000}": "flow.network of ",
    "flow.network={kind: residual_convolutional, bottlenecks: 4000000000}": "flow.network of ",
    "flow.network={kind: transformer, channels: 4000000000}": "flow.network of ",
    "flow={kind: bijective, transforms: 4000000000}": "flow of transforms 4000000000",
    "flow={kind: rectangular, width: 4000000000}": "flow of transforms 6, width 4000000000",
    "flow.latent={kind: flow, width: 4000000000}": "flow.latent of transforms 3, width 4000000000",
}
SMALL = {
    "mlp": {"width": 40, "depth": 3},
    "skip": {"width": 50, "depth": 1},
    "residual": {"width": 30, "depth": 2, "blocks": 3},
    "linear": {},
    "convolutional": {"width": 60, "blocks": 2, "channels": 8},
    "residual_convolutional": {"width": 20, "blocks": 1, "bottlenecks": 2, "channels": 8},
    "transformer": {"width": 70, "blocks": 2, "channels": 8, "depth": 3},
}


@pytest.mark.parametrize("setting", TOO_LARGE)
def test_networks_beyond_memory_are_refused_before_any_work(setting, tmp_path, capsys):
    pd.DataFrame(np.eye(6)).to_csv(tmp_path / "t.csv", index=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert cli.main(["fit", str(tmp_path / "t.csv"), "-o", str(tmp_path / "model"), "--set", setting]) == 2
    said = capsys.readouterr().err
    assert f"got {TOO_LARGE[setting]}" in said
    assert "GiB of memory here" in said
    assert "give smaller sizes" in said
    assert said.count("\n") == 1
    assert os.listdir(tmp_path) == ["t.csv"]
    with pytest.raises(InputError, match="GiB of memory here"):
        Recipe.parse("", [setting]).build_flow(6, 6)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_more_devices_than_there_are_are_refused_before_any_work(tmp_path, capsys):
    pd.DataFrame(np.eye(6)).to_csv(tmp_path / "t.csv", index=False)
    fit = ["fit", str(tmp_path / "t.csv"), "-o", str(tmp_path / "model"), "--devices", "4000000000"]
    assert cli.main(fit) == 2
    said = capsys.readouterr().err
    assert "processes of the CPU for training.devices on this machine; got 4000000000" in said
    assert "got 4000000000; ask for fewer" in said
    assert os.listdir(tmp_path) == ["t.csv"]
    Recipe.parse("", ["training.devices=8"]).check_machine()


@pytest.mark.parametrize("kind", SMALL)
def test_networks_take_at_least_what_is_said(kind, monkeypatch):
    """So that nothing which fits is refused."""
    recipe = Recipe.parse("", [f"flow.network={ {'kind': kind, **SMALL[kind]} }"])
    shape = {"shape": (1, 8, 8)} if "channels" in SMALL[kind] else {}
    recipe = recipe.update(flow={"network": {"kind": kind, **SMALL[kind], **shape}})
    flow = recipe.build_flow(64, 2)
    objects = 3_000 * sum(1 for _ in flow.modules())
    numbers = sum(p.numel() for p in flow.parameters()) + sum(b.numel() for b in flow.buffers())
    assert 0 < resources.least_bytes({**SMALL[kind]}) <= 16 * numbers + objects


@pytest.mark.parametrize("kind", ["bijective", "rectangular"])
def test_flows_take_at_least_what_is_said(kind):
    flow = Recipe.parse("", [f"flow={{kind: {kind}, transforms: 3, width: 50}}"]).build_flow(4, 4)
    numbers = sum(p.numel() for p in flow.parameters()) + sum(b.numel() for b in flow.buffers())
    assert resources.least_bytes({"transforms": 3, "width": 50}) <= 16 * numbers
