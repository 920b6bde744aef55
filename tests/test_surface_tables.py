"""Tables of places, parts of a whole and angles: what is read, refused and written, and in which unit a density is."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

import isthmus
from isthmus import InputError, Recipe, scoring
from isthmus.cli import main
from isthmus.data.tables import Coordinates, Parquet, Schema, Stream, write_table
from isthmus.data.tables.systems import EARTH_RADIUS
from isthmus.plots.style import number
from isthmus.report import render
from isthmus.report.evidence import gather
from isthmus.report.places import least_likely, place_figures
from isthmus.store import load, save
from isthmus.store.formats import Config

N = 120
FEW = {"training": {"max_steps": 5}}
AT_START = {"flow": {"kind": "hypersurface", "transforms": 0}}  # the uniform law
RNG = np.random.default_rng(0)
LATITUDE = np.degrees(np.arcsin(RNG.uniform(-1, 1, N)))
LONGITUDE = RNG.uniform(-180, 180, N)
FRACTIONS = RNG.dirichlet([2, 3, 4], N)
GROUP = np.where(np.arange(N) % 2, "odd", "even")


def places(**other):
    return pd.DataFrame({"lon": LONGITUDE, "depth": np.arange(N) / 7, "lat": LATITUDE, **other})


def parts(whole=1.0):
    return pd.DataFrame(whole * FRACTIONS, columns=["sand", "silt", "clay"])


def angles(half=180.0):
    return pd.DataFrame({"phi": LONGITUDE / 180 * half, "psi": (LATITUDE + 90) / 90 * half})


# name -> table, surface, columns in their order, unit that is told, X columns, what names a density of it
CASES = {
    "places": (places(), "sphere", ("lat", "lon"), "degrees", ("x", "y", "z")),
    "directions": (
        pd.DataFrame(Schema.learn(places(), [], Coordinates(surface="sphere", columns=("lat", "lon")))[0].encode(
            places())[0], columns=["east", "north", "up"]),
        "sphere", ("east", "north", "up"), "lengths", ("east", "north", "up"),
    ),
    "fractions": (parts(), "simplex", ("sand", "silt", "clay"), "fractions", ("sand", "silt", "clay")),
    "percentages": (parts(100.0), "simplex", ("clay", "sand", "silt"), "percentages", ("clay", "sand", "silt")),
    "degrees": (angles(), "torus", ("phi", "psi"), "degrees", ("cos phi", "sin phi", "cos psi", "sin psi")),
    "radians": (angles(math.pi), "torus", ("psi", "phi"), "radians", ("cos psi", "sin psi", "cos phi", "sin phi")),
}  # fmt: skip


def learnt(frame, surface, columns=(), unit=None, given=(), *, project=False):
    return Schema.learn(frame, given, Coordinates.asked(surface, columns, unit, project=project))


@pytest.fixture(scope="module")
def fits():
    return {
        name: isthmus.fit(frame, surface=surface, columns=columns, recipe=FEW)
        for name, (frame, surface, columns, *_) in CASES.items()
    }


# ------------------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("name", CASES)
def test_columns_become_points_of_the_surface_and_come_back(name):
    frame, surface, columns, unit, features = CASES[name]
    schema, notes = learnt(frame, surface, columns)
    X, C = schema.encode(frame)
    assert schema.features == features
    assert C is None
    assert schema.coordinates.unit == unit
    assert unit in notes[0]
    recipe = Recipe.validated({"flow": {"kind": schema.coordinates.system.flow}, "support": {"kind": surface}})
    recipe.build_support(X.shape[1]).check(torch.from_numpy(X))
    table = schema.decode(X)
    assert list(table.columns) == [name for name in frame.columns if name in columns]
    pd.testing.assert_frame_equal(table, frame[list(table.columns)], rtol=1e-9, atol=1e-9)
    assert Schema.model_validate_json(schema.model_dump_json()) == schema


@pytest.mark.parametrize(
    ("names", "columns", "order", "word"),
    [
        (("lon", "lat"), ("lon", "lat"), ("lat", "lon"), "by their names"),
        (("Longitude_deg", "Latitude_deg"), (), ("Latitude_deg", "Longitude_deg"), "by their names"),
        (("LON", "y"), ("y", "LON"), ("y", "LON"), "by their names"),
        (("a", "b"), ("b", "a"), ("b", "a"), "in the order in which they were named"),
        (("plateau", "balloon"), ("balloon", "plateau"), ("balloon", "plateau"), "in the order"),
    ],
)
def test_what_is_taken_as_latitude_is_said(names, columns, order, word):
    frame = pd.DataFrame({names[0]: LONGITUDE, names[1]: LATITUDE})
    schema, notes = learnt(frame, "sphere", columns)
    assert schema.coordinates.columns == order
    assert f"latitude {order[0]!r} and longitude {order[1]!r}, {word}" in notes[0]
    assert np.allclose(schema.encode(frame)[0][:, 2], np.sin(np.radians(LATITUDE)))


def test_longitudes_and_angles_come_back_in_the_range_that_they_had():
    frame = pd.DataFrame({"lat": LATITUDE, "lon": LONGITUDE % 360})
    schema, _ = learnt(frame, "sphere")
    assert schema.coordinates.positive == (False, True)
    assert np.allclose(schema.decode(schema.encode(frame)[0]), frame)
    assert schema.decode(-schema.encode(frame)[0])["lon"].between(0, 360).all()


def test_other_columns_are_conditioned_on_or_left_out_and_both_is_said():
    schema, notes = learnt(places(group=GROUP), "sphere", ["lat", "lon"], given=["group"])
    assert schema.context_features == ("group=even", "group=odd")
    assert any("left out" in note and "'depth'" in note for note in notes)
    assert any("conditioned" in note and "'group'" in note for note in notes)
    _, C = schema.encode(places(group=GROUP))
    assert C.shape == (N, 2)


# --------------------------------------------------------------------------------------------------- what is refused

CLOSE = {"a": [1.0, 2.0, -1.5], "b": [0.5, 1.0, 1.2]}  # degrees as well as radians


def changed(frame, row, **values):
    frame = frame.copy()
    for name, value in values.items():
        frame.loc[row, name] = value
    return frame


REFUSED = {
    "a latitude": (changed(places(), 7, lat=95.0), "sphere", ("lat", "lon"), None, r"'95, off by 5' in row 7"),
    "a longitude": (changed(places(), 7, lon=-999.0), "sphere", ("lat", "lon"), None, r"'-999, off by 639' in row 7"),
    "the order": (places().rename(columns={"lon": "a", "lat": "b"}), "sphere", ("a", "b"), None, "latitude before"),
    "a gap": (changed(places(), 7, lat=None), "sphere", ("lat", "lon"), None, "missing value in row 7"),
    "an infinity": (changed(places(), 7, lat=np.inf), "sphere", ("lat", "lon"), None, "finite numbers"),
    "text": (places(group=GROUP), "sphere", ("group", "lon"), None, "expected numbers in column 'group'"),
    "one column": (places(), "sphere", ("lat",), None, "latitude and longitude.*got 1 columns"),
    "a name": (places(), "sphere", ("lat", "long"), None, "did you mean 'lon'"),
    "a name twice": (places(), "sphere", ("lat", "lat"), None, "name each once"),
    "a length": (changed(CASES["directions"][0], 7, up=3.0), "sphere", (), None, r"vectors of length 1 .* in row 7"),
    "a sum": (changed(parts(), 7, clay=FRACTIONS[7, 2] + 0.07), "simplex", (), None, r"'1.07, off by 0.07' in row 7"),
    "percentages": (parts(), "simplex", (), "percentages", "parts that sum to 100.*off by 99"),
    "sums": (parts(17.0), "simplex", (), None, "rows that sum to 17"),
    "a part of 0": (changed(parts(), 7, clay=0.0), "simplex", (), None, r"parts above 0.*got '0' in row 7.*half of"),
    "a part below": (changed(parts(), 7, clay=-0.1), "simplex", (), None, r"'-0.1, off by 0.1' in row 7"),
    "a turn": (changed(angles(), 7, phi=-999.0), "torus", (), None, r"'-999, off by 639' in row 7"),
    "a unit": (pd.DataFrame(CLOSE), "torus", (), None, "values from -1.5 to 2; name it"),
    "a unit of places": (pd.DataFrame({"lat": CLOSE["b"], "lon": CLOSE["a"]}), "sphere", (), None, "name it"),
    "an unknown unit": (angles(), "torus", (), "turns", "among degrees, radians; got 'turns'"),
    "a surface": (angles(), "klein", (), None, "among sphere, simplex, torus; got 'klein'"),
    "no surface": (angles(), None, ("phi",), None, "expected a surface; got columns without it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_off_the_surface_are_refused_with_their_number_and_how_far(name):
    frame, surface, columns, unit, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        learnt(frame, surface, columns, unit)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a latitude", {"lat": 90.0}),
        ("a length", None),
        ("a sum", {"clay": (FRACTIONS[7, 2] + 0.07) / 1.07}),
        ("a turn", {"phi": 81.0}),
    ],
)
def test_rows_off_the_surface_are_projected_when_asked(name, expected):
    frame, surface, columns, unit, _ = REFUSED[name]
    schema, notes = learnt(frame, surface, columns, unit, project=True)
    assert any("projected" in note and "(1)" in note for note in notes)
    X, _ = schema.encode(frame)
    if expected is None:
        assert np.allclose(np.linalg.norm(X, axis=1), 1)
    else:
        assert schema.decode(X).loc[7, list(expected)].to_dict() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["a part of 0", "a part below", "a gap"])
def test_what_no_projection_mends_is_refused_all_the_same(name):
    frame, surface, columns, unit, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        learnt(frame, surface, columns, unit, project=True)


def test_amounts_of_any_sum_are_fractions_where_rows_are_projected():
    schema, _ = learnt(parts(17.0), "simplex", project=True)
    assert schema.coordinates.unit == "fractions"
    assert np.allclose(schema.encode(parts(17.0))[0], FRACTIONS)


@pytest.mark.parametrize(("unit", "x"), [("degrees", np.cos(np.radians(1))), ("radians", np.cos(1))])
def test_a_unit_that_values_do_not_tell_is_named(unit, x):
    for name, asked in (("a", unit), (f"a ({unit[:3]})", None)):
        frame = pd.DataFrame(CLOSE).rename(columns={"a": name})
        schema, _ = learnt(frame, "torus", [name], asked)
        assert schema.encode(frame)[0][0, 0] == pytest.approx(x)


# ------------------------------------------------------------------------------------------------- what a model says


@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_flow_s_log_density_and_the_constant_of_their_unit(name, fits):
    frame, surface, columns, *_ = CASES[name]
    fitted, k = fits[name], len(columns)
    X, _ = fitted.schema.encode(frame)
    own = fitted.model.flow.log_prob(torch.from_numpy(X)).detach().numpy()
    units = {
        "sphere": {"steradian": 0.0, "km2": -2 * math.log(EARTH_RADIUS)},
        "simplex": {"area": 0.0, "volume": math.log(3) / 2},
        "torus": {"radian": 0.0, "degree": k * math.log(math.pi / 180)},
    }[surface]
    for unit, offset in ({None: 0.0} | units).items():
        scores = scoring.score(fitted, frame, per=unit)
        assert np.allclose(scores["log_density"], own + offset)
    figures = scoring.evaluate(fitted, frame, per=unit)
    assert figures["measure"] == fitted.density_unit(unit).phrase
    assert figures["log_density"] == pytest.approx(own.mean() + offset)
    with pytest.raises(InputError, match="unit of the density among"):
        scoring.score(fitted, frame, per="acre")


@pytest.mark.parametrize(
    ("name", "unit", "total"),
    [
        ("places", "steradian", 4 * math.pi),
        ("places", "km2", 4 * math.pi * EARTH_RADIUS**2),
        ("fractions", "area", math.sqrt(3) / 2),
        ("percentages", "volume", 1 / 2),
        ("degrees", "degree", 360**2),
        ("radians", "radian", (2 * math.pi) ** 2),
    ],
)
def test_the_uniform_law_has_one_over_the_whole_surface_in_every_unit(name, unit, total):
    frame, surface, columns, *_ = CASES[name]
    kind = Coordinates(surface=surface, columns=columns).system.flow
    fitted = isthmus.fit(frame, surface=surface, columns=columns, recipe={"flow": {"kind": kind, "transforms": 0}})
    assert np.allclose(scoring.score(fitted, frame, per=unit)["log_density"], -math.log(total))


def test_only_models_on_a_surface_have_units_to_choose_from():
    fitted = isthmus.fit(places().iloc[:10], recipe=FEW | {"flow": {"latent_dim": 1}})
    with pytest.raises(InputError, match="no other unit"):
        scoring.score(fitted, places(), per="km2")


@pytest.mark.parametrize("name", CASES)
def test_samples_are_rows_of_the_table_in_its_unit(name, fits):
    frame, _, columns, *_ = CASES[name]
    samples = scoring.sample(fits[name], 50)
    assert list(samples.columns) == [column for column in frame.columns if column in columns]
    own = scoring.score(fits[name], samples, strict=True)
    assert own["log_density"].notna().all()
    X, _ = fits[name].schema.encode(samples)
    assert np.allclose(fits[name].schema.decode(X), samples)
    assert (samples.min() > frame[samples.columns].min() - 0.6 * np.ptp(frame[samples.columns], 0)).all()


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_the_same_after_loading(name, fits, tmp_path):
    frame, *_ = CASES[name]
    again = load(save(fits[name], tmp_path / "model"))
    assert again.schema == fits[name].schema
    assert again.measured == fits[name].measured
    pd.testing.assert_frame_equal(scoring.score(again, frame), scoring.score(fits[name], frame))
    pd.testing.assert_frame_equal(scoring.sample(again, 5), scoring.sample(fits[name], 5))


def test_a_damaged_schema_is_refused(fits, tmp_path):
    folder = save(fits["places"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for change in ({"columns": ["lat", "depth"]}, {"unit": "turns"}, {"positive": []}, {"surface": "torus"}):
        config_of = json.loads(json.dumps(config))
        config_of["schema"]["coordinates"] |= change
        with pytest.raises(ValueError, match=r"coordinates|columns"):
            Config.model_validate(config_of)


def test_a_row_off_the_surface_has_a_note_and_others_their_scores(fits):
    frame = places()[["lat", "lon"]]
    bad = changed(changed(frame, 1, lat=-91.0), 2, lon=None)
    scores, clean = scoring.score(fits["places"], bad), scoring.score(fits["places"], frame)
    assert scores["log_density"].drop([1, 2]).equals(clean["log_density"].drop([1, 2]))
    assert "off by 1" in scores["note"][1]
    assert "missing" in scores["note"][2]
    alone = scoring.score(fits["places"], bad.iloc[[1]])
    assert alone["log_density"].isna().all()
    with pytest.raises(InputError, match="off by 1' in row 1 "):
        scoring.score(fits["places"], changed(frame, 1, lat=-91.0), strict=True)


def test_a_model_that_projects_goes_on_projecting():
    fitted = isthmus.fit(parts(), surface=Coordinates(surface="simplex", project=True), recipe=FEW)
    scores = scoring.score(fitted, parts(17.0), strict=True)
    assert np.allclose(scores, scoring.score(fitted, parts()))


def test_a_law_given_other_columns_and_its_samples():
    frame = places(group=GROUP)
    frame["lat"] = np.where(GROUP == "odd", 50, -50) + LATITUDE / 5
    recipe = {"training": {"max_steps": 100, "learning_rate": 0.01}}
    fitted = isthmus.fit(frame, surface="sphere", columns=["lat", "lon"], given=["group"], recipe=recipe)
    north, south = (scoring.sample(fitted, 100, given={"group": group}) for group in ("odd", "even"))
    assert list(north.columns) == ["lon", "lat", "group"]
    assert (north["lat"] > 0).mean() > 0.9 > 0.1 > (south["lat"] > 0).mean()
    held = scoring.score(fitted, frame)["log_density"].mean()
    assert held > scoring.score(fitted, frame.assign(group=GROUP[::-1]))["log_density"].mean() + 0.3
    with pytest.raises(InputError, match="expected a value for each of 'group'"):
        scoring.sample(fitted, 3)


def test_a_trained_law_of_places_integrates_to_one():
    frame = pd.DataFrame({"latitude": 20 + 8 * RNG.normal(size=400), "longitude": 170 + 15 * RNG.normal(size=400)})
    recipe = {"training": {"max_steps": 200, "learning_rate": 0.01}}
    fitted = isthmus.fit(frame, surface="sphere", columns=["latitude", "longitude"], recipe=recipe)
    nodes, weights = np.polynomial.legendre.leggauss(80)
    longitude = (np.arange(160) + 0.5) * 360 / 160 - 180
    z, turn = (values.ravel() for values in np.meshgrid(nodes, longitude, indexing="ij"))
    grid = pd.DataFrame({"latitude": np.degrees(np.arcsin(z)), "longitude": turn})
    area = np.repeat(weights, 160) * 2 * math.pi / 160 * EARTH_RADIUS**2
    density = np.exp(scoring.score(fitted, grid, per="km2")["log_density"])
    assert float((density * area).sum()) == pytest.approx(1, abs=0.01)
    assert scoring.score(fitted, frame)["log_density"].mean() > -math.log(4 * math.pi) + 1.5


def test_codes_are_refused_in_one_sentence_where_there_are_none_and_given_where_there_are(fits):
    with pytest.raises(InputError, match="expected a flow with codes; got HypersurfaceFlow"):
        scoring.encode(fits["places"], places())
    fitted = isthmus.fit(
        places(), surface="sphere", columns=["lat", "lon"], recipe=FEW | {"flow": {"kind": "manifold", "network": {}}}
    )
    codes = scoring.encode(fitted, places())
    assert list(codes.columns) == ["z0", "z1", "z2"]
    rows = scoring.decode(fitted, codes)
    assert rows["lat"].between(-90, 90).all()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"flow": {"kind": "torus"}}, "expected a support that flow 'torus' can serve"),
        ({"flow": {"latent_dim": 2}}, "no latent_dim for flow 'hypersurface'"),
        ({"columns": {"heavy_tails": False}}, "expected no columns"),
    ],
)
def test_a_recipe_that_does_not_suit_the_surface_is_refused(recipe, message):
    with pytest.raises(InputError, match=message):
        isthmus.fit(places(), surface="sphere", columns=["lat", "lon"], recipe=recipe)


def test_arrays_have_no_columns_to_name():
    with pytest.raises(InputError, match="frame with named columns beside `surface`"):
        isthmus.fit(np.zeros((5, 2)), surface="sphere")


# -------------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("name", ["places", "percentages", "radians"])
def test_python_and_the_command_line_give_one_model(name, tmp_path, capsys):
    frame, surface, columns, unit, _ = CASES[name]
    table, folder = str(tmp_path / "table.parquet"), str(tmp_path / "model")
    write_table(frame, table)
    options = ["--surface", surface, "--columns", ",".join(columns), "--set", "training.max_steps=5", "--no-report"]
    assert main(["fit", table, "-o", folder, *options]) == 0
    shown = capsys.readouterr()
    assert unit in shown.err
    assert f"in {unit}" in shown.out
    assert "per " in shown.out
    fitted = isthmus.fit(frame, surface=surface, columns=columns, recipe=FEW)
    main(["score", folder, table, "-o", str(tmp_path / "scores.parquet")])
    assert fitted.measured in capsys.readouterr().err
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(scores, scoring.score(fitted, frame))


def test_units_are_said_on_the_screen_and_in_json(fits, tmp_path, capsys):
    folder, table = str(save(fits["places"], tmp_path / "model")), str(tmp_path / "table.csv")
    write_table(places()[["lat", "lon"]], table)
    main(["inspect", folder, "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["measure"] == "nats a row, per steradian"
    assert shown["surface"]["columns"] == ["lat", "lon"]
    main(["score", folder, table, "--per", "km2"])
    assert "per square kilometre of the Earth" in capsys.readouterr().err
    main(["evaluate", folder, table, "--per", "km2", "--json"])
    assert "per square kilometre" in json.loads(capsys.readouterr().out)["measure"]
    assert main(["score", folder, table, "--per", "acre"]) == 2


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_projecting_fit_of_a_text_file_and_an_interrupted_one(tmp_path, capsys, monkeypatch):
    table, folder = str(tmp_path / "table.csv"), str(tmp_path / "model")
    write_table(parts(17.0), table)
    options = ["--surface", "simplex", "--columns", "sand,silt", "--columns", "clay", "--no-report"]
    assert main(["fit", table, "-o", folder, *options]) == 2
    assert "rows that sum to 17" in capsys.readouterr().err
    steps = ["--set", "training.max_steps=5", "--force"]
    assert main(["fit", table, "-o", folder, *options, "--project", *steps]) == 0
    assert "projected" in capsys.readouterr().err
    assert main(["fit", "--resume", f"{folder}.run", "--columns", "sand"]) == 2
    assert "--columns" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("isthmus.fitting.refit_density", interrupt)
        assert main(["fit", table, "-o", f"{folder}2", *options, "--project", *steps]) == 130
    assert main(["fit", "--resume", f"{folder}2.run"]) == 0
    assert load(f"{folder}2").schema == load(folder).schema
    assert main(["fit", table, "-o", str(tmp_path / "other"), "--columns", "sand", *steps]) == 2
    assert "expected a surface; got columns without it" in capsys.readouterr().err


def test_a_long_table_is_fitted_and_scored_in_parts(tmp_path):
    write_table(places(), tmp_path / "long.parquet")
    asked = Coordinates(surface="sphere", columns=("lat", "lon"))
    stream, notes = Stream.learn(Parquet.open(tmp_path / "long.parquet"), [], asked)
    assert "latitude 'lat'" in notes[0]
    fitted = isthmus.fit(stream, recipe=FEW)
    assert fitted.measured == "nats a row, per steradian"
    folder = save(fitted, tmp_path / "model")
    scores = [str(tmp_path / name) for name in ("usual", "per_km2")]
    for output, option in zip(scores, ([], ["--per", "km2"]), strict=True):
        assert main(["score", str(folder), str(tmp_path / "long.parquet"), "--stream", "-o", output, *option]) == 0
    usual, other = (pd.read_parquet(output)["log_density"] for output in scores)
    assert np.allclose(other - usual, -2 * math.log(EARTH_RADIUS))
    assert main(["score", str(folder), str(tmp_path / "long.parquet"), "--stream", "-o", scores[0], *option]) == 2
    with pytest.raises(InputError, match="stream alone; got a surface"):
        isthmus.fit(stream, surface="sphere")


# ---------------------------------------------------------------------------------------------------------- the report


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("places", "Map of the sphere"),
        ("directions", "Map of the sphere"),
        ("percentages", "Triangle of clay (lower left), sand (lower right) and silt (top)"),
        ("degrees", "Pairs of 2 angles"),
    ],
)
def test_a_report_draws_the_density_with_the_rows_and_lists_the_least_likely(name, words, fits):
    frame, _, columns, *_ = CASES[name]
    evidence = gather(fits[name], frame)
    (figure,) = place_figures(fits[name], evidence)
    assert figure.picture.alt.startswith(words)
    assert fits[name].measured.removeprefix("nats a row, ") in figure.picture.alt
    count = len(evidence.rows)
    assert f"{count} rows, 1 of them unusual" in figure.picture.alt
    listed = least_likely(fits[name], evidence)
    assert len(listed) == min(10, count)
    assert all(column in listed[0][1] for column in columns)
    scores = scoring.score(fits[name], frame)["log_density"]
    row = frame.iloc[int((scores - float(evidence.log_density.min())).abs().argmin())]
    for column in columns:
        assert f"{column} {number(row[column])}" in listed[0][1]


def test_a_map_shows_the_model_s_density(fits):
    (figure,) = place_figures(fits["places"], gather(fits["places"], None))
    grid = figure.picture.figure.axes[0].collections[0].get_array().reshape(72, 144)
    places = pd.DataFrame({"lat": [-88.75, 1.25, 51.25], "lon": [-178.75, 1.25, 101.25]})
    expected = scoring.score(fits["places"], places)["log_density"]
    np.testing.assert_allclose([grid[0, 0], grid[36, 72], grid[56, 112]], expected, rtol=1e-6)


def test_pairs_of_many_angles_are_drawn_from_samples():
    frame = angles().assign(omega=180 * np.tanh(RNG.normal(size=N)))
    fitted = isthmus.fit(frame, surface="torus", recipe={"flow": {"kind": "torus", "transforms": 0}})
    (figure,) = place_figures(fitted, gather(fitted, None))
    grids = [ax.collections[0].get_array() for ax in figure.picture.figure.axes if ax.axison and ax.collections]
    uniform = [np.log(np.exp(grid).mean()) for grid in grids[:3]]
    np.testing.assert_allclose(uniform, -2 * math.log(2 * math.pi), atol=0.01)


def test_a_page_says_unit_and_surface_and_a_conditional_map_its_average():
    frame = places(group=GROUP)
    fitted = isthmus.fit(frame, surface="sphere", columns=["lat", "lon"], given=["group"], recipe=FEW)
    page = render(fitted, frame)
    assert "per steradian" in page
    assert "sphere: lat, lon in degrees" in page
    assert "Map of the density" in page
    assert "averaged over the contexts of" in page
    assert "group odd" in page
    assert "Places on the sphere, in degrees" in page
    assert "standardised: mean 0" not in page
