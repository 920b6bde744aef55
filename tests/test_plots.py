"""Figures show the data they are given, say so in words with numbers, and can be read on light and dark pages."""

import io
import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn.datasets import load_digits, load_iris

from isthmus import plots
from isthmus.plots.style import COLORS, DENSITY, INK, MODEL, ROWS, THIRD, number, shown

IRIS = load_iris().data
NAMES = ["sepal length", "<b>$width$ & co</b>", "花びらの長さ", "x" * 80]
DIGITS = load_digits().images[:6]
MAP = np.add.outer(np.arange(6.0), -np.arange(12.0))
PLACES = np.array([[10.0, 20.0], [-45.0, 170.0], [80.0, -90.0]])
LOG = [{"step": s, "log_density": -1e4 if s == 0 else -9 + s, "reconstruction": 1 / (1 + s)} for s in range(9)]
CURVE = [{"latent_dim": d, "log_likelihood": -((d - 3.0) ** 2), "standard_error": 0.3} for d in (4, 1, 2, 3)]
LEVELS = np.linspace(0.1, 0.9, 9)
MEANS = LEVELS[:, None] * np.array([1.0, -2.0, 0.0, 0.5])
SHARES = np.random.default_rng(0).dirichlet([2.0, 6.0, 1.0], 400)

PICTURES = {
    "training": lambda: plots.training_curves(LOG, [(3, "last change of beta"), (5, "weights kept")]),
    "training without events": lambda: plots.training_curves(LOG[:2]),
    "floor": lambda: plots.reconstruction_floor(np.array([1, 0.8, 0.5]), np.array([0.9, 0.4, 0.1]), 1, 0.45),
    "spectrum": lambda: plots.spectrum(np.array([2.0, 1.0, 0.01]), np.array([0.1, 0.2, 0.0]), 0.1),
    "one direction": lambda: plots.spectrum(np.array([2.0]), np.array([0.1]), 0.1),
    "latent dimension": lambda: plots.latent_dim_curve(CURVE, 3),
    "histogram": lambda: plots.histogram(IRIS[:, 0], 4.5, what="length"),
    "errors": lambda: plots.histogram(IRIS[:, 3], 2.4, what="error", unusual="above", logarithmic=True),
    "histogram with infinity": lambda: plots.histogram(np.append(IRIS[:, 0], -np.inf), 4.5, what="length"),
    "marginals": lambda: plots.marginals(IRIS, IRIS[::2] + 0.1, NAMES),
    "marginals of integers": lambda: plots.marginals(np.rint(IRIS), np.rint(IRIS), NAMES),
    "pairs": lambda: plots.pair_plot(IRIS[:, :3], IRIS[::2, :3], NAMES[:3]),
    "pairs of a constant": lambda: plots.pair_plot(np.zeros((9, 2)), np.ones((9, 2)), NAMES[:2]),
    "calibration": lambda: plots.calibration(np.linspace(0.01, 0.99, 99)),
    "codes": lambda: plots.latent_scatter(IRIS, IRIS[:, 0], "length"),
    "codes by level": lambda: plots.latent_scatter(IRIS, np.repeat(list("abcdefghij"), 15), "kind"),
    "one code": lambda: plots.latent_scatter(IRIS[:, :1], IRIS[:, 1], "width"),
    "plane": lambda: plots.manifold(IRIS[:, :2], IRIS[:, 2], IRIS[:, 2:], NAMES[:2], [IRIS[:9, :2]]),
    "space": lambda: plots.manifold(IRIS[:, :3], IRIS[:, 3], IRIS[:0, :3], NAMES[:3]),
    "map": lambda: plots.sphere_map(MAP, PLACES, PLACES[:, 0] > 60, "per steradian"),
    "map of samples": lambda: plots.sphere_map(MAP, PLACES[:2], np.zeros(2, dtype=bool), "per steradian"),
    "triangle": lambda: plots.density_triangle(
        plots.triangle_centres(9)[:, 1], SHARES, SHARES[:, 0] > 0.9, NAMES[:3], "per unit of area", whole=100.0
    ),
    "two angles": lambda: plots.angle_panels(
        [MAP[:, :6]], PLACES, PLACES[:, 0] > 60, NAMES[:2], "per radian", starts=[0, -180], turn=360
    ),
    "angles": lambda: plots.angle_panels(
        [MAP[:, :6]] * 3, np.tile(PLACES, 2), PLACES[:, 0] > 60, NAMES, "per radian", starts=[0] * 4, turn=6.283
    ),
    "profiles": lambda: plots.profiles(np.linspace(-2, 2, 50), IRIS.reshape(3, 50, 4), NAMES),
    "path": lambda: plots.path(LEVELS, MEANS, MEANS - 0.1, MEANS + 0.2, NAMES, best=0.5, beside=MEANS * 0.9),
    "path of many": lambda: plots.path(LEVELS, *(np.tile(MEANS, 5),) * 3, [f"column {j}" for j in range(20)]),
    "evidence": lambda: plots.evidence(LEVELS, -((LEVELS - 0.5) ** 2), np.full(9, 0.01)),
    "shares": lambda: plots.shares(SHARES, SHARES.mean(0), SHARES.min(0), SHARES.max(0), NAMES[:3]),
    "shares of one": lambda: plots.shares(np.eye(2)[:1], np.eye(2)[0], np.eye(2)[0], np.eye(2)[0], NAMES[:2]),
    "ternary": lambda: plots.ternary(SHARES, SHARES.mean(0), NAMES[:3]),
    "images": lambda: plots.image_rows(DIGITS.reshape(2, 3, 8, 8), ["rows", "samples"], "Digits."),
}


@pytest.fixture(scope="module")
def picture():
    """Each picture, drawn once."""
    drawn = {}
    return lambda name: drawn.setdefault(name, PICTURES[name]())


@pytest.mark.parametrize("name", PICTURES)
def test_a_figure_is_one_drawing_in_the_page_s_colours_and_loads_nothing(picture, name):
    svg = picture(name).svg("fig-1")
    root = ET.fromstring(svg)  # well-formed, also with names like <b>
    assert root.tag == "svg"
    assert "width" not in root.attrib
    assert "viewBox" in root.attrib
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == picture(name).alt
    assert "currentColor" in svg
    assert INK not in svg
    ids = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
    assert len(ids) == len(set(ids))
    assert all(i.startswith("fig-1-") for i in ids)
    links = [value for node in root.iter() for key, value in node.attrib.items() if key.split("}")[-1] == "href"]
    assert all(link.startswith(("#fig-1-", "data:image/png;base64,")) for link in links)
    assert {link[1:] for link in links if link[0] == "#"} | set(re.findall(r"url\(#([^)]*)\)", svg)) <= set(ids)


@pytest.mark.parametrize("name", PICTURES)
def test_a_figure_says_in_words_with_numbers_what_is_seen(picture, name):
    alt = picture(name).alt
    assert re.search(r"\d", alt)
    assert alt.endswith(".")
    assert len(alt) > 40
    assert "nan" not in alt


@pytest.mark.parametrize("name", PICTURES)
def test_a_figure_is_a_png_too_and_its_labels_lie_inside(picture, name):
    pixels = np.asarray(Image.open(io.BytesIO(picture(name).png())).convert("L"))
    assert 0.002 < (pixels < 200).mean() < 0.9  # something is drawn
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border > 250).all()


def contrast(color, page):
    def luminance(c):
        rgb = np.array(to_rgb(c))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    bright, dark = sorted((luminance(color), luminance(page)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("page", ["#ffffff", "#15181c"])
def test_colours_stand_out_on_light_and_on_dark_pages(color, page):
    assert contrast(color, page) >= 3


# Linear sRGB as a protanope and a deuteranope see it, Machado, Oliveira, Fernandes 2009.
BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.mark.parametrize("blind", BLIND)
def test_rows_and_samples_differ_for_colour_blind_readers(blind):
    seen = [np.array(BLIND[blind]) @ np.array(to_rgb(color)) for color in (ROWS, MODEL, THIRD)]
    for i in range(3):
        for j in range(i):
            assert np.linalg.norm(seen[i] - seen[j]) > 0.25


def test_points_and_lines_are_the_data_given(picture):
    top, bottom = picture("training").figure.axes
    np.testing.assert_array_equal(top.lines[0].get_ydata(), [row["log_density"] for row in LOG])
    np.testing.assert_array_equal(bottom.lines[0].get_ydata(), [row["reconstruction"] for row in LOG])
    assert [line.get_xdata()[0] for line in top.lines[1:]] == [3, 5]
    panels = picture("codes").figure.axes[:3]
    drawn = [set(map(tuple, np.asarray(ax.collections[0].get_offsets()))) for ax in panels]
    assert drawn == [set(map(tuple, IRIS[:, pair])) for pair in ([0, 1], [0, 2], [1, 2])]
    pairs = picture("pairs").figure.axes
    np.testing.assert_array_equal(pairs[3].collections[0].get_offsets(), IRIS[:, [0, 1]])
    np.testing.assert_array_equal(pairs[1].collections[0].get_offsets(), IRIS[::2, [1, 0]])
    lines = picture("profiles").figure.axes[0].lines
    widest = np.ptp(IRIS[:50], axis=0).argmax()
    np.testing.assert_array_equal(lines[0].get_ydata(), IRIS[:50, widest])
    sheet = picture("images").figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(sheet[:8, :8], DIGITS[0])
    np.testing.assert_array_equal(sheet[-8:, -8:], DIGITS[5])


def test_bars_beyond_the_cut_are_marked_and_counted(picture):
    bars = picture("histogram").figure.axes[0].patches
    assert sum(bar.get_height() for bar in bars) == len(IRIS)
    for bar in bars:
        beyond = bar.get_x() < 4.5
        assert (bar.get_hatch() is not None) == beyond
    assert f"{(IRIS[:, 0] < 4.5).sum()} rows" in picture("histogram").alt


@pytest.mark.parametrize(("shift", "distance"), [(0.0, 0.0), (1e-9, 1 / 100), (50.0, 0.5), (1e3, 1.0)])
def test_the_distance_of_columns_is_that_of_kolmogorov_and_smirnov(shift, distance):
    x = np.arange(100.0)
    assert plots.kolmogorov_smirnov(x, x + shift) == pytest.approx(distance)


def test_the_best_dimension_is_named(picture):
    assert "3 was chosen, 3 is highest" in picture("latent dimension").alt


@pytest.mark.parametrize(("quantiles", "middle"), [(np.linspace(0, 1, 2001), 50), (np.full(200, 0.5), 100)])
def test_calibration_counts_the_middle(quantiles, middle):
    assert f"{middle} % lie in the half" in plots.calibration(quantiles).alt


def test_many_points_stay_small():
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    assert len(plots.latent_scatter(x, x[:, 0], "x").svg("a")) < 300_000


def test_settings_of_matplotlib_are_left_alone():
    before = dict(matplotlib.rcParams)
    plots.calibration(np.linspace(0, 1, 9)).svg("a")
    assert dict(matplotlib.rcParams) == before


def test_the_density_s_scale_rises_in_brightness():
    brightness = np.asarray(DENSITY.colors)[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) >= 0).all()
    assert np.ptp(brightness) > 0.3


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (-0.0, "0"), (1234.5, "1,234"), (-2.5, "−2.5"), (1e-5, "1e−05"), (np.inf, "inf")]
)
def test_numbers_in_sentences(value, text):
    assert number(value) == text


def test_names_are_one_short_line():
    assert shown("a\nb\x00c") == "a b?c"
    assert len(shown("x" * 500, 12)) == 12


def test_a_path_shows_the_columns_of_the_largest_means():
    means = np.tile(MEANS, 5)
    figure = plots.path(LEVELS, means, means, means, [f"column {j}" for j in range(20)]).figure
    assert {ax.get_title("left") for ax in figure.axes} >= {f"column {j}" for j in range(1, 20, 4)}
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), MEANS[:, 1])


def test_parts_of_a_whole_lie_at_their_places_in_the_triangle():
    (ax,) = plots.ternary(np.eye(3), np.full(3, 1 / 3), ["a", "b", "c"]).figure.axes
    corners = ax.collections[0].get_offsets()
    distances = np.linalg.norm(corners - np.roll(corners, 1, 0), axis=1)
    np.testing.assert_allclose(distances, 1)
    np.testing.assert_allclose(np.ravel(ax.lines[-1].get_data()), np.mean(corners, axis=0))
    names = {text.get_text(): text.xy for text in ax.texts}
    np.testing.assert_allclose([names[name] for name in "abc"], corners)


def test_a_map_s_cells_and_rows_lie_at_their_latitudes_and_longitudes():
    ax = plots.sphere_map(MAP, PLACES, np.array([False, False, True]), "per steradian").figure.axes[0]
    mesh, dots, crosses = ax.collections
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[0, 0], [-np.pi, -np.pi / 2])
    np.testing.assert_allclose(corners[-1, -1], [np.pi, np.pi / 2])
    np.testing.assert_allclose(mesh.get_array().reshape(MAP.shape), MAP)
    np.testing.assert_allclose(np.degrees(dots.get_offsets()), PLACES[:2, ::-1])
    np.testing.assert_allclose(np.degrees(crosses.get_offsets()), PLACES[2:, ::-1])


def test_the_small_triangles_of_a_density_cover_the_large_one():
    for n in (1, 2, 5):
        centres = plots.triangle_centres(n)
        assert centres.shape == (n * n, 3)
        np.testing.assert_allclose(centres.mean(0), 1 / 3)
        np.testing.assert_allclose(centres.sum(1), 1)
        assert centres.min() > 0
    rows = np.eye(3)
    picture = plots.density_triangle(centres[:, 2], rows, np.zeros(3, dtype=bool), ["a", "b", "c"], "per unit of area")
    ax = picture.figure.axes[0]
    corners = ax.collections[1].get_offsets()
    names = {text.get_text(): text.get_position() for text in ax.texts}
    assert [np.linalg.norm(corners - names[name], axis=1).argmin() for name in "abc"] == [0, 1, 2]
    np.testing.assert_allclose(ax.collections[0].get_array(), centres[:, 2])


def test_every_pair_of_the_first_three_angles_has_a_panel_over_a_whole_turn():
    grids = [np.full((4, 4), float(k)) for k in range(3)]
    names = ["a", "b", "c", "d"]
    figure = plots.angle_panels(
        grids, np.zeros((1, 4)), np.array([False]), names, "per degree", starts=[0, -180, 0, 0], turn=360
    ).figure
    panels = [ax for ax in figure.axes if ax.axison and ax.collections and ax.get_xlim()[1] - ax.get_xlim()[0] == 360]
    assert [float(ax.collections[0].get_array().flat[0]) for ax in panels] == [0, 1, 2]
    assert [(ax.get_xlim()[0], ax.get_ylim()[0]) for ax in panels] == [(0, -180), (0, 0), (-180, 0)]
