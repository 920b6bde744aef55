"""Recipes: round trips, and refusals in one line that name the nearest valid name."""

import pytest
import torch

from isthmus.errors import InputError
from isthmus.flows import FLOWS
from isthmus.latents import LATENTS
from isthmus.networks import NETWORKS
from isthmus.objective import OBJECTIVES
from isthmus.recipe import Part, Recipe

GOOD = [
    "",
    "{seed: 3, training: {max_steps: 10, max_time: 2.5, gradient_clip: null}}",
    "{flow: {latent_dim: 2, network: {kind: mlp, width: 8, depth: 1}, latent: {kind: student_t, df: 3}}}",
    "{flow: {kind: rectangular, latent_dim: 2, width: 8, transforms: 2}, objective: {kind: rectangular, K: 2}}",
    "{objective: {surrogate: conditional, probed: 0.5}, refit: {noise: isotropic}, columns: {dequantise: false}}",
]
BAD = {
    "{trainng: {}}": "did you mean 'training'?",
    "{training: {max_stps: 3}}": "unknown key 'training.max_stps'; did you mean 'max_steps'?",
    "{training: {max_steps: many}}": "got 'many'",
    "{training: 3}": "got 3",
    "{flow: {latent_dim: 2.5}}": "got 2.5",
    "{flow: {kind: rectangle}}": "did you mean 'rectangular'?",
    "{flow: {kind: rectangular, wdth: 3}}": "did you mean 'width'?",
    "{flow: {network: {kind: mpl}}}": "did you mean 'mlp'?",
    "{flow: {network: {kind: mlp, with: 3}}}": "did you mean 'width'?",
    "{flow: {latent: {kind: normal, df: 3}}}": "unknown key 'df'",
    "{objective: {kind: freform}}": "did you mean 'freeform'?",
    "{objective: {betta: 3}}": "did you mean 'beta'?",
    "{objective: {beta: -1}}": "expected beta > 0",
    "{objective: {surrogate: decodr}}": "got 'decodr'",
    "{objective: {kind: exact, side: decoder}}": "unknown key 'side'",
    "{objective: {kind: likelihood}}": "expected an objective that can train flow 'freeform', 'freeform', 'exact'",
    "{flow: {kind: rectangular}, objective: {kind: variational}}": "expected an objective that can train",
    "{flow: {kind: bijective, latent: {kind: student_t}}}": "expected no latent for flow 'bijective'",
    "{flow: {kind: rectangular, network: {width: 8}}}": "expected no network for flow 'rectangular'",
    "{flow: {kind: bijective}, objective: {beta: 5}}": "unknown key 'beta'",
    "{flow: {kind: bijective}, refit: {noise: isotropic}}": "expected no refit.noise for flow 'bijective'",
    "{support: {kind: sphere}}": "expected a support that flow 'freeform' can serve, euclidean; got 'sphere'",
    "{support: {kind: sfere}}": "did you mean 'sphere'?",
    "{flow: {kind: bijective}, training: {noise: [0.1, 1.0]}}": "to be told noise of a range",
    "{seed: -1}": "got -1",
    "{seed: 0x10000000000000000}": "the integer 18446744073709551616, beyond 2^32",
    "{training: {learning_rate: .inf}}": "training.learning_rate: Input should be a finite number; got inf",
    "{training: {learning_rate: inf}}": "training.learning_rate: Input should be a finite number; got 'inf'",
    "{training: {weight_decay: 1.0e+999}}": "training.weight_decay: Input should be a finite number",
    "{training: {max_time: .nan}}": "training.max_time",
    "{training: {noise: .inf}}": "training.noise",
    "{flow: {latent: {kind: student_t, df: .inf}}}": "df: Input should be a finite number",
    "{objective: {beta: .inf}}": "beta",
    "{seed: 1, seed: 2}": "the key 'seed' twice",
    "[1, 2]": "got list",
    "{a: [": "expected a recipe in plain YAML",
}


@pytest.mark.parametrize("text", GOOD)
def test_round_trip(text):
    recipe = Recipe.parse(text)
    assert Recipe.parse(recipe.dump()) == recipe
    assert Recipe.validated(recipe.model_dump(mode="json")) == recipe
    flow = recipe.build_flow(4, 2)
    assert isinstance(flow, FLOWS[recipe.flow.kind])
    assert torch.isfinite(recipe.build_objective()(flow, torch.randn(8, 4)).total).all()


@pytest.mark.parametrize("text", BAD)
def test_refusals_are_one_line_with_the_nearest_name(text):
    with pytest.raises(InputError) as refusal:
        Recipe.parse(text)
    assert BAD[text] in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_settings_override_the_text():
    recipe = Recipe.parse("{seed: 1}", ["seed=2", "flow.network.kind=mlp", "objective.beta=3", "training.noise=0.5"])
    assert (recipe.seed, recipe.flow.network.kind, recipe.training.noise) == (2, "mlp", 0.5)
    assert recipe.objective.options == {"beta": 3}
    with pytest.raises(InputError, match="expected key=value; got 'seed'"):
        Recipe.parse("", ["seed"])


def test_update_replaces_some_values():
    recipe = Recipe().update(training={"max_steps": 3}, seed=5)
    assert (recipe.training.max_steps, recipe.seed, recipe.training.noise) == (3, 5, "auto")


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.yaml"):
        Recipe.read(tmp_path / "missing.yaml")


@pytest.mark.parametrize("registry", [NETWORKS, LATENTS, OBJECTIVES], ids=["network", "latent", "objective"])
def test_every_registered_name_can_be_asked_for(registry):
    for kind in registry:
        options = {"shape": (1, 4, 4)} if kind == "convolutional" else {}
        assert Part(kind=kind, **options).check(registry, "part").options == options


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 9)}]}}\n" for k in range(1, 12))
ODD = {
    "deep": "[" * 100_000,
    "no date": "seed: 2001-13-45",
    "bomb": BOMB,
    "bomb as a value": f"{BOMB}seed: *i",
    "bomb as an option": f"{BOMB}flow: {{network: {{kind: mlp, width: *i}}}}",
    "long": "seed: " + "9" * 10_000,
    "hexadecimal": "seed: 0x" + "f" * 8_000,
    "sexagesimal": "training: {max_time: " + "1:" * 4_000 + "1.5}",
    "merge keys": MERGES,
    "one merge key": "training: {<<: {max_steps: 3}}",
    "an anchor": "seed: &a 3",
    "a tag": "seed: !!bool maybe",
    "an unknown tag": "seed: !!python/name:os.system",
    "a key twice": "seed: 3\nseed: 4",
    "a key twice, deep": "{flow: {network: {width: 3, width: 4}}}",
    "a key that is no text": "{[1]: 2}",
    "larger than any": "#" * 2_000_000,
}


@pytest.mark.parametrize("what", ODD)
def test_odd_files_are_refused_in_one_short_line(what, tmp_path):
    (tmp_path / "recipe.yaml").write_text(ODD[what])
    with pytest.raises(InputError) as refusal:
        Recipe.read(tmp_path / "recipe.yaml")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1_000


def test_options_are_of_the_type_that_is_asked_for():
    recipe = Recipe.parse("{flow: {network: {kind: mlp, width: '8', depth: 1.0}}}")
    assert recipe.build_flow(3, 1).encoder.layers[0][0].out_features == 8
