"""Images on the command line: a folder or an .npz in, a model, codes, scores in bits, samples and grids out."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from bokeh.document import Document

from isthmus import Recipe, cli, fit, grids, load, report, scoring
from isthmus.cli.fit import _sha256
from isthmus.columns import Columns
from isthmus.data.tables import Schema, read_table, write_table
from isthmus.data.tables.pictures import holds_images, image_files, read_image, read_images, write_png
from isthmus.density import Ambient, IsotropicNoise
from isthmus.errors import InputError
from isthmus.explorer import explore
from isthmus.explorer.page import Page
from isthmus.flows import FreeFormFlow
from isthmus.model import Model
from isthmus.networks import linear_pair
from isthmus.store import Figures, Fitted

SIDE, ROWS = 8, 60
SMALL = ["--latent-dim", "2", "--set", "training.max_steps=30", "--set", "training.validations=2", "--set"]
SMALL += ["flow.network={kind: convolutional, channels: 4, blocks: 1}"]


def blobs(n=ROWS):
    """Spots in the left half (class 0) and the right half (class 1), and a border that is always black."""
    random, place = np.random.default_rng(0), np.arange(SIDE)
    label = np.arange(n) % 2
    at = np.stack([random.uniform(2, 5, n), 2 + 3 * label + random.uniform(-0.5, 0.5, n)], 1)
    squares = (place[None, :, None] - at[:, :1, None]) ** 2 + (place[None, None] - at[:, 1:, None]) ** 2
    images = np.rint(255 * np.exp(-squares / 3)).astype(np.uint8)
    images[:, 0] = 0
    return images, label


def run(*arguments):
    assert cli.main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of images with a folder a class, and a model of them given the class."""
    root = tmp_path_factory.mktemp("pictures")
    images, label = blobs()
    for k, image in enumerate(images):
        folder = root / "images" / ("left", "right")[label[k]]
        folder.mkdir(parents=True, exist_ok=True)
        write_png(image, folder / f"{k:02}.png")
    np.savez(root / "images.npz", images=images, labels=label)
    run("fit", root / "images", "-o", root / "model", "--given", "label", "--no-report", *SMALL)
    return root


# ------------------------------------------------------------------------------------------------------- columns


def test_pixels_have_one_mean_one_scale_one_range_and_none_is_left_out():
    x = torch.tensor(blobs()[0].reshape(ROWS, -1)).double()
    columns = Columns.learn(x, image=(1, SIDE, SIDE))
    assert columns.dim == SIDE**2
    assert bool(columns.integer.all())
    for value in (columns.mean, columns.scale, columns.low, columns.high):
        assert len(value.unique()) == 1
    assert float(columns.mean[0]) == pytest.approx(float(x.mean()))
    assert float(columns.scale[0]) == pytest.approx((float(x.var(correction=0)) + 1 / 12) ** 0.5)
    assert (float(columns.low[0]), float(columns.high[0])) == (0.0, 255.0)
    torch.testing.assert_close(columns.restore(columns.standardise(x)), x)
    torch.testing.assert_close(columns.log_det(x), torch.full((ROWS,), -64 * math.log(columns.scale[0])).double())
    assert not bool(Columns.learn(x / 255, image=(1, SIDE, SIDE)).integer.any())


def test_rows_that_are_no_such_images_are_refused():
    with pytest.raises(InputError, match=r"rows of 60 numbers for images of shape \(3, 4, 5\); got 64"):
        fit(torch.randn(30, 64), recipe=Recipe.parse("columns: {image: [3, 4, 5]}"))
    with pytest.raises(InputError, match="expected a column that varies"):
        fit(torch.zeros(30, 60), recipe=Recipe.parse("columns: {image: [3, 4, 5]}"))


def test_bits_per_dimension_are_those_of_the_mass_of_the_pixels():
    """Of independent normal pixels: the mean of -log2 of the density over each pixel's unit, by quadrature."""
    sigma, columns = (
        40.0,
        Columns.learn(torch.tensor([[0.0, 0.0], [255.0, 255.0]]).double(), image=(1, 1, 2), standardise=False),
    )
    flow = FreeFormFlow(*linear_pair(2, 1), 2, 1)
    for parameter in flow.parameters():
        torch.nn.init.zeros_(parameter)  # a point: all else is noise
    recipe = Recipe.parse("columns: {image: [1, 1, 2]}")
    schema, _ = Schema.learn(pd.DataFrame({"image": [np.zeros((1, 2), np.uint8)]}))
    model = Model(Ambient(flow, IsotropicNoise(2, sigma)), columns)
    fitted = Fitted(model, recipe, recipe.flow.latent, recipe.flow.latent, Figures(), schema=schema)
    pixels = np.array([[[3, 50]], [[10, 0]]], np.uint8)
    scores = scoring.score(fitted, pd.DataFrame({"image": list(pixels)}))
    unit = np.linspace(-0.5, 0.5, 2001)
    nats = [
        np.trapezoid((p + unit) ** 2 / (2 * sigma**2), unit) + np.log(sigma * (2 * np.pi) ** 0.5) for p in pixels.flat
    ]
    expected = np.reshape(nats, (2, 2)).sum(1) / (2 * np.log(2))
    assert scores["bits_per_dimension"].to_numpy() == pytest.approx(expected, abs=1e-4)
    assert "bits_per_dimension" not in scoring.score(fitted, pd.DataFrame({"image": list(pixels)}), density="manifold")


# -------------------------------------------------------------------------------------------------- command line


def test_a_folder_of_images_is_fitted_by_the_network_that_is_named(made):
    fitted = load(made / "model")
    assert fitted.recipe.columns.image == fitted.schema.image == (1, SIDE, SIDE)
    assert fitted.recipe.flow.network.kind == "convolutional"
    assert fitted.recipe.flow.network.options["shape"] == [1, SIDE, SIDE]
    assert (fitted.model.flow.data_dim, fitted.model.flow.context_dim) == (SIDE**2, 2)
    assert [column.name for column in fitted.schema.columns] == ["image", "label"]


def test_convolutions_are_what_images_get_where_no_network_is_named(made, tmp_path):
    small = [*SMALL[:-2], "--set", "training.max_steps=0", "--no-report"]
    for named, kind in (([], "convolutional"), (["--set", "flow.network.kind=skip"], "skip")):
        run("fit", made / "images.npz", "-o", tmp_path / kind, *small, *named)
        assert load(tmp_path / kind).recipe.flow.network.kind == kind


def test_scores_and_codes_of_the_same_images(made, tmp_path):
    for source in ("images", "images.npz"):
        frame = read_table(made / source)
        if source == "images.npz":
            frame = frame.assign(label=np.where(frame["label"].astype(int) == 1, "right", "left"))
            np.savez(tmp_path / source, images=np.stack(list(frame["image"])), label=frame["label"].to_numpy(str))
        where = (made if source == "images" else tmp_path) / source
        for verb in ("score", "encode"):
            run(verb, made / "model", where, "-o", tmp_path / f"{verb}_{source}.csv")
    for verb, columns in (
        ("score", ["log_density", "reconstruction_error", "bits_per_dimension"]),
        ("encode", ["z0", "z1", "label"]),
    ):
        one, other = (pd.read_csv(tmp_path / f"{verb}_{source}.csv") for source in ("images", "images.npz"))
        assert one.columns.tolist()[:3] == columns
        order = np.argsort(np.arange(ROWS) % 2, kind="stable")  # the folders come one after the other
        assert np.allclose(one[columns[:2]], other[columns[:2]].iloc[order])
    scores = pd.read_csv(tmp_path / "score_images.csv")
    assert np.allclose(scores["bits_per_dimension"], -scores["log_density"] / (64 * math.log(2)))


def test_samples_are_images_given_their_class(made, tmp_path):
    for name in ("s.npz", "s.png"):
        run("sample", made / "model", "-n", 9, "--given", "label=left", "-o", tmp_path / name)
    with np.load(tmp_path / "s.npz") as stored:
        assert stored["images"].shape == (9, SIDE, SIDE)
        assert stored["images"].dtype == np.uint8
        assert stored["labels"].tolist() == ["left"] * 9
        first = stored["images"][0]
    grid = read_table(tmp_path / "s.png")["image"][0]
    assert grid.shape == (3 * 56 + 8, 3 * 56 + 8)
    assert np.array_equal(grid[2 : 2 + 56 : 7, 2 : 2 + 56 : 7], first)


def test_what_cannot_be_said_of_images_is_told(made, tmp_path, capsys):
    for arguments, told in (
        (["sample", made / "model", "-n", "2", "-o", tmp_path / "s.png"], "a value for each of 'label'"),
        (["sample", made / "model", "-n", "2", "--given", "label=up", "-o", tmp_path / "s.png"], "one of the levels"),
        (["sample", made / "model", "-n", "2", "--given", "label=left", "-o", tmp_path / "s.jpg"], ".png"),
        (["sample", made / "model", "-n", "2", "--given", "label=left", "-o", tmp_path / "s.csv"], ".npz or .png file"),
        (["sample", made / "model", "-n", "2", "--given", "label=left", "-o", tmp_path / "s.npy"], "s.npy'; name one"),
        (["sample", made / "model", "-n", "2", "--given", "label=left"], "got standard output, which is CSV"),
        (["grids", made / "model", made / "images", "-o", tmp_path / "gone"], "expected an existing folder"),
        (["fit", tmp_path, "-o", tmp_path / "m"], "Parquet"),
    ):
        assert cli.main([str(argument) for argument in arguments]) == 2
        assert told in capsys.readouterr().err


def test_a_folder_of_images_is_known_again_and_a_changed_one_is_not(made, tmp_path):
    folder = shutil.copytree(made / "images", tmp_path / "images")
    before, image = _sha256(str(folder)), folder / "left" / "00.png"
    assert before == _sha256(str(folder))
    content = image.read_bytes()
    write_png(np.zeros((SIDE, SIDE), np.uint8), image)
    assert _sha256(str(folder)) != before
    image.write_bytes(content)
    assert _sha256(str(folder)) == before
    image.rename(folder / "right" / "00.png")
    assert _sha256(str(folder)) != before


# --------------------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("conditional", [True, False])
def test_grids_show_what_they_say(made, tmp_path, conditional):
    frame, fitted = read_table(made / "images"), load(made / "model")
    if not conditional:
        schema, _ = Schema.learn(frame)
        recipe = fitted.recipe.update(training={"max_steps": 5})
        fitted = Fitted(**{**vars(fit(schema.encode(frame)[0], recipe=recipe)), "schema": schema})
    files = grids.write(fitted, frame, tmp_path)
    assert [file.name for file in files] == [f"{name}.png" for name in grids.GRIDS]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    cells = {}
    for file in files:
        grid = read_table(file)["image"][0]
        cells[file.stem] = grid[2:, 2:].reshape(-1, 58, 10, 58)[:, :56:7, :, :56:7].transpose(0, 2, 1, 3)
    images = np.stack(list(frame["image"]))
    assert len(cells["samples"]) == (2 if conditional else 10)
    evenly = np.linspace(0, ROWS - 1, 40).round().astype(int)
    assert np.array_equal(cells["reconstructions"][::2].reshape(-1, SIDE, SIDE), images[evenly])
    x, c = scoring.tensors(fitted, frame)
    rebuilt = fitted.model.columns.round_integers(fitted.model.reconstruct(x, c))[evenly]
    assert np.array_equal(cells["reconstructions"][1::2].reshape(40, -1), rebuilt.numpy())
    ends = np.linspace(0, ROWS - 1, 16).round().astype(int)
    first = fitted.model.columns.round_integers(fitted.model.reconstruct(x, c))[ends[::2]]
    assert np.array_equal(cells["interpolations"][:, 0].reshape(8, -1), first.numpy())
    samples, *nearest = cells["neighbours"].astype(float)
    distances = ((samples[:, None] - images.astype(float)) ** 2).sum((2, 3))
    for line, found in enumerate(nearest):
        shown = ((samples - found) ** 2).sum((1, 2))
        assert shown == pytest.approx(np.sort(distances, 1)[:, line], rel=0.05, abs=200)  # samples are shown rounded


def test_only_images_have_grids():
    fitted = fit(torch.randn(30, 3), recipe=Recipe.parse("{flow: {latent_dim: 1}, training: {max_steps: 2}}"))
    with pytest.raises(InputError, match="expected a model of images"):
        grids.draw(fitted, pd.DataFrame(torch.randn(5, 3).numpy()))


def test_a_fit_writes_grids_beside_its_report(made, tmp_path):
    run("fit", made / "images.npz", "-o", tmp_path / "model", *SMALL, "--json")
    there = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"report.html", *(f"{name}.png" for name in grids.GRIDS)} <= there
    run("grids", tmp_path / "model", made / "images.npz", "-o", tmp_path)
    assert (tmp_path / "samples.png").read_bytes() == (tmp_path / "model" / "samples.png").read_bytes()
    assert json.loads((tmp_path / "model" / "config.json").read_text())["recipe"]["columns"]["image"] == [1, 8, 8]


def test_images_are_drawn_by_the_report_and_the_explorer(made, tmp_path):
    fitted, images = load(made / "model"), read_table(made / "images")
    page = report.write(fitted, tmp_path / "report.html", images)
    assert "Walks along the surface, from −2 to 2 standard deviations." in page.read_text()
    exploration = explore(fitted, images)
    assert exploration.pixels.shape == (1, SIDE, SIDE)
    pixels = np.stack(images["image"].tolist()).reshape(len(images), -1)
    assert np.array_equal(exploration.frame.iloc[:, : SIDE**2], pixels)
    assert exploration.frame["label"].tolist() == images["label"].tolist()
    decoded = exploration.table(exploration.z, exploration.given(0))
    assert list(decoded.columns) == list(exploration.frame.columns)
    assert exploration.outlier_table(0.1).shape[1] == 3 + exploration.frame.shape[1]
    Page(Document(), exploration)


def test_hidden_folders_and_those_of_archives_are_no_classes(tmp_path):
    for name in ("cat", ".ipynb_checkpoints", "__MACOSX", ".git"):
        (tmp_path / name).mkdir()
        write_png(np.zeros((4, 5), np.uint8), tmp_path / name / "a.png")
    assert [label for _, label in image_files(tmp_path)] == ["cat"]
    assert read_images(tmp_path)[1] == ["cat"]
    (tmp_path / "cat" / "a.png").unlink()
    assert not holds_images(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_as_the_camera_was_held(tmp_path, orientation):
    from PIL import Image

    pixels = np.zeros((16, 24), np.uint8)
    pixels[:8, :8] = 200
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = read_image(tmp_path / "a.jpg")[..., 0]
    assert found.shape == ((16, 24) if orientation < 5 else (24, 16))
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    bright = {at: int(found[at]) > 100 for at in [(0, 0), (0, -1), (-1, 0), (-1, -1)]}
    assert bright == {at: at == corners[orientation] for at in bright}


@pytest.mark.parametrize("beside", [["images"], ["label", "labels"], ["file"], ["images", "labels", "allow_pickle"]])
def test_columns_beside_images_keep_their_names_and_values_in_an_archive(tmp_path, beside):
    frame = pd.DataFrame({"image": [np.full((4, 5), k, np.uint8) for k in range(6)]})
    frame = frame.assign(**{name: 10 * place + np.arange(6) % 3 for place, name in enumerate(beside)})
    write_table(frame, tmp_path / "t.npz")
    back = read_table(tmp_path / "t.npz")
    known = {"labels": "label"} if "label" not in beside else {}
    for name in beside:
        assert back[known.get(name, name)].tolist() == frame[name].tolist()
    assert np.array_equal(np.stack(back["image"]), np.stack(frame["image"]))
