"""The explorer without a browser: what it computes against closed forms and the library's own answers, what its widgets
do, whom its server refuses, and every mistake in one line.
"""

import _thread
import asyncio
import dataclasses
import http.client
import io
import logging
import math
import os
import re
import signal
import stat
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bokeh.document import Document
from bokeh.models.widgets import Select, Spinner, TextInput
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import isthmus
from explorations import NASTY, QUICK, digits, fitted_to, mixed, serving
from isthmus import cli, scoring
from isthmus.columns import Columns
from isthmus.density import Ambient, IsotropicNoise
from isthmus.diagnostics import Health, Verdict
from isthmus.errors import InputError
from isthmus.explorer import explore, server_class
from isthmus.explorer.exploration import BASES
from isthmus.explorer.page import Page
from isthmus.model import Model
from isthmus.networks import convolutional_pair
from isthmus.recipe import Part
from isthmus.store import Figures, Fitted


@pytest.fixture(scope="module")
def seen():
    return explore(*digits())


@pytest.fixture(scope="module")
def conditional():
    """A model conditioned on a category, a number, a boolean and a number that may be missing."""
    return explore(fitted_to(mixed(), ["colour", "k", "up", "missing"], latent_dim=1), mixed())


@pytest.fixture(scope="module")
def tables():
    return explore(fitted_to(mixed()), mixed())


# --------------------------------------------------------------------------------------------- computation


def test_codes_and_scores_are_those_of_score_and_encode(seen):
    fitted, frame = digits()
    scores, codes = scoring.score(fitted, frame), scoring.encode(fitted, frame)
    assert np.array_equal(seen.log_density, scores["log_density"])
    assert np.array_equal(seen.error, scores["reconstruction_error"])
    assert np.array_equal(seen.z, codes.to_numpy())


def test_of_a_long_table_some_rows_are_taken_and_keep_their_numbers():
    fitted, frame = digits()
    few = explore(fitted, frame, most_rows=7)
    assert len(few.z) == len(set(few.numbers)) == 7
    pd.testing.assert_frame_equal(few.frame, frame.iloc[few.numbers].reset_index(drop=True))
    assert np.allclose(few.z, scoring.encode(fitted, frame.iloc[few.numbers]).to_numpy())


def test_without_a_table_samples_of_the_model_stand_in():
    drawn = explore(digits()[0], most_rows=20)
    assert drawn.drawn
    pd.testing.assert_frame_equal(drawn.frame, scoring.sample(digits()[0], 20))


@pytest.mark.parametrize("basis", BASES)
def test_axes_are_orthonormal_and_lead_back_to_the_codes(seen, basis):
    axes = seen.axes(basis)
    u = axes.coordinates(seen.z)
    assert np.allclose(axes.directions.T @ axes.directions, np.eye(4))
    assert np.allclose(axes.codes(u), seen.z)


def test_principal_axes_are_those_of_the_codes(seen):
    u = seen.axes("principal axes").coordinates(seen.z)
    pca = PCA().fit(seen.z)
    assert np.allclose(u.mean(0), 0)
    assert np.allclose(np.cov(u.T), np.diag(pca.explained_variance_))
    assert np.array_equal(seen.axes("codes").coordinates(seen.z), seen.z)


def test_neighbours_are_the_nearest_codes(seen):
    expected = NearestNeighbors(n_neighbors=6).fit(seen.z).kneighbors(seen.z[:5])
    for row in range(5):
        nearest, distances = seen.neighbours(seen.z[row], 5, without=row)
        assert np.array_equal(nearest, expected[1][row, 1:])
        assert np.allclose(distances, expected[0][row, 1:])
    assert seen.neighbours(seen.z[3], 1)[0] == [3]


def test_a_path_is_straight_even_and_ends_at_the_two_codes(seen):
    path = seen.path(3, 8, 11)
    assert np.array_equal(path[[0, -1]], seen.z[[3, 8]])
    assert np.allclose(np.diff(path, axis=0), (seen.z[8] - seen.z[3]) / 10)


@given(share=st.floats(0, 0.999))
def test_outliers_are_all_rows_below_the_cut_and_no_more_than_their_share(seen, share):
    chosen = seen.outliers(share)
    below = seen.log_density < seen.cut(share)
    assert set(chosen) == set(np.flatnonzero(below))
    assert len(chosen) <= math.ceil(share * (len(seen.z) - 1))
    assert (np.diff(seen.log_density[chosen]) >= 0).all()


def test_a_row_of_no_density_is_an_outlier():
    fitted, frame = digits()
    far = frame.iloc[:50].astype(float)
    far.loc[7, "pixel_20"] = 1e200
    found = explore(fitted, far)
    assert found.outliers(0.05)[0] == 7
    assert np.isfinite(found.cut(0.05))


def test_the_table_of_outliers_has_numbers_scores_and_columns():
    few = explore(*digits(), most_rows=100)
    table, chosen = few.outlier_table(0.1), few.outliers(0.1)
    again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert again["row"].tolist() == few.numbers[chosen].tolist()
    assert np.allclose(again["log_density"], few.log_density[chosen])
    pd.testing.assert_frame_equal(
        again[digits()[1].columns], digits()[1].iloc[few.numbers[chosen]].reset_index(drop=True)
    )


def test_decoding_is_the_models(seen):
    fitted, frame = digits()
    x = torch.from_numpy(seen.x[:4])
    assert np.allclose(seen.decode(seen.z[:4], {}), fitted.model.reconstruct(x).numpy())
    decoded = scoring.decode(fitted, scoring.encode(fitted, frame.iloc[:4]))
    pd.testing.assert_frame_equal(seen.table(seen.z[:4], {}), decoded)


def test_decoding_follows_the_context(conditional):
    z, given = conditional.z[:1], conditional.given(0)
    assert set(given) == {"colour", "k", "up", "missing"}
    other = given | {"k": given["k"] + 5}
    assert not np.allclose(conditional.decode(z, given), conditional.decode(z, other))
    assert conditional.table(z, other)["k"].tolist() == [other["k"]]
    row = scoring.decode(conditional.fitted, scoring.encode(conditional.fitted, mixed().iloc[:1]))
    pd.testing.assert_frame_equal(conditional.table(z, given), row, check_dtype=False)


def test_a_missing_value_of_the_context_is_given_as_missing(conditional):
    row = int(np.flatnonzero(mixed()["missing"].isna())[0])
    assert conditional.given(row)["missing"] is None
    assert np.isfinite(conditional.decode(conditional.z[[row]], conditional.given(row))).all()


def test_a_model_of_a_nameless_matrix_with_a_context():
    x = np.random.default_rng(0).normal(size=(60, 3))
    fitted = isthmus.fit(x, x[:, :1] ** 2, recipe=isthmus.Recipe().update(flow={"latent_dim": 1}, **QUICK))
    found = explore(fitted, pd.DataFrame(np.column_stack([x, x[:, :1] ** 2])))
    assert list(found.frame.columns) == ["c0", "c1", "c2", "context0"]
    assert [column.name for column in found.context] == ["context0"]
    x_hat = fitted.model.reconstruct(torch.from_numpy(x[:2]), torch.from_numpy(x[:2, :1] ** 2))
    decoded = [found.decode(found.z[[i]], found.given(i))[0] for i in range(2)]
    assert np.allclose(decoded, x_hat.numpy())


def test_colours_are_scores_numbers_or_levels(tables):
    assert np.array_equal(tables.values("log density"), tables.log_density)
    assert tables.values("k").dtype == np.float64
    assert set(tables.values("colour")) == {NASTY, "green", "blue"}
    assert np.isnan(tables.values("missing")).any()


# --------------------------------------------------------------------------------------------------- images


def test_rows_become_the_pictures_they_were(seen):
    images = seen.pixels.images(seen.x)
    assert images.shape == (900, 8, 8, 1)
    assert np.array_equal(images[:, :, :, 0], np.rint(255 * digits()[1].to_numpy().reshape(-1, 8, 8) / 16))


def test_channels_come_first_in_a_row_and_last_in_a_picture():
    x = np.arange(20 * 12, dtype=float).reshape(20, 12) + np.random.default_rng(0).normal(size=(20, 12))
    fitted = isthmus.fit(x, recipe=isthmus.Recipe().update(flow={"latent_dim": 1}, **QUICK))
    found = explore(fitted, pd.DataFrame(x), image="3x2x2")
    image = found.pixels.images(x)[4]
    assert image.shape == (2, 2, 3)
    expected = 255 * (x[4].reshape(3, 2, 2) - x.min()) / (x.max() - x.min())
    assert np.array_equal(image[1, 0], np.rint(expected[:, 1, 0]))
    assert explore(fitted, pd.DataFrame(x)).pixels is None


@pytest.mark.parametrize(
    ("image", "said"),
    [("8x9", "8 x 9 = 72"), ("8", "'8'"), ("8x0", "'8x0'"), ("4x4x4", "1 or 3 channels"), ("1x1x8x8", "'1x1x8x8'")],
)
def test_an_image_that_does_not_fit_is_refused(image, said):
    with pytest.raises(InputError, match=said):
        explore(*digits(), image=image, most_rows=5)


def test_text_is_no_image(tables):
    with pytest.raises(InputError, match="not all of them plain numbers"):
        explore(tables.fitted, mixed(), image="1x7")


# ------------------------------------------------------------------------------------------------- mistakes


def test_a_table_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="expected the columns"):
        explore(digits()[0], mixed())
    with pytest.raises(InputError, match="table with rows"):
        explore(digits()[0], digits()[1].iloc[:0])


def test_a_conditional_model_needs_a_table(conditional):
    with pytest.raises(InputError, match="conditioned on 'k', 'colour'"):
        explore(conditional.fitted)


def test_unknown_choices_are_refused(seen):
    with pytest.raises(InputError, match="principal axes"):
        seen.axes("tilted")
    with pytest.raises(InputError, match="'colour'"):
        seen.values("colour")


def test_without_the_extra_the_command_says_how_to_get_it(monkeypatch, capsys):
    for name in list(sys.modules):
        if name.split(".")[0] == "bokeh":
            monkeypatch.setitem(sys.modules, name, None)
        if name in {f"isthmus.explorer.{part}" for part in ("server", "page", "views")}:
            monkeypatch.delitem(sys.modules, name)
    assert cli.main(["explore", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pip install 'isthmus[explore]'" in said


# ------------------------------------------------------------------------------------------------- the page


def page_of(exploration):
    document = Document()
    return Page(document, exploration, name="<demo>"), document


def widget(document, name):
    return document.get_model_by_name(name)


def text(document, name):
    return widget(document, name).text


def later(document):
    """What bokeh would do when its timers end."""
    callbacks = document.session_callbacks
    for callback in callbacks:
        document.callbacks.remove_session_callback(callback)
        callback.callback()
    return len(callbacks)


def test_choosing_a_row_shows_it_its_code_and_its_neighbours(seen):
    page, document = page_of(seen)
    page.choose(5)
    assert np.array_equal(page.code, seen.z[5])
    assert np.allclose(page.decoded, seen.decode(seen.z[[5]], {})[0])
    assert "Row 5;" in text(document, "row_title")
    assert text(document, "row_pictures").count("<img") == 2
    assert [f"row {i}," in text(document, "neighbours") for i in seen.neighbours(seen.z[5], 8, 5)[0]] == [True] * 8


def test_a_click_on_the_map_and_a_typed_number_choose_rows():
    few = explore(*digits(), most_rows=30)
    page, document = page_of(few)
    widget(document, "map").renderers[0].data_source.selected.indices = [11]
    assert page.row == 11
    assert widget(document, "number").value == few.numbers[11]
    widget(document, "number").value = int(few.numbers[4])
    assert page.row == 4


@pytest.mark.parametrize("basis", BASES)
def test_sliders_move_the_code_along_the_axes(seen, basis):
    page, document = page_of(seen)
    widget(document, "basis").value = basis
    page.choose(3)
    axes = seen.axes(basis)
    sliders = widget(document, "sliders").children
    place = axes.coordinates(seen.z[[3]])[0]
    assert [slider.value for slider in sliders] == pytest.approx(place)
    sliders[1].value = place[1] = 0.25
    assert later(document) == 1
    assert np.allclose(page.code, axes.codes(place[None])[0])
    assert np.allclose(page.decoded, seen.decode(axes.codes(place[None]), {})[0])


def test_a_dragged_slider_is_decoded_once(seen):
    page, document = page_of(seen)
    slider = widget(document, "sliders").children[0]
    before = page.decoded.copy()
    for value in np.linspace(-1, 1, 50):
        slider.value = float(value)
    assert np.array_equal(page.decoded, before)
    assert later(document) == 1
    assert seen.axes(BASES[0]).coordinates(page.code[None])[0, 0] == pytest.approx(1.0)


def test_of_many_dimensions_the_first_have_sliders_and_the_others_stay():
    x = np.random.default_rng(0).normal(size=(80, 13))
    recipe = isthmus.Recipe().update(flow={"latent_dim": 12, "network": {"width": 16}}, **QUICK)
    found = explore(isthmus.fit(x, recipe=recipe), pd.DataFrame(x))
    page, document = page_of(found)
    page.choose(6)
    sliders = widget(document, "sliders").children
    before = found.axes(BASES[0]).coordinates(found.z[[6]])[0]
    sliders[0].value += 0.5
    later(document)
    after = found.axes(BASES[0]).coordinates(page.code[None])[0]
    assert len(sliders) == 10
    assert after - before == pytest.approx([0.5] + [0] * 11)


def test_the_path_is_played_to_its_end_and_stops(seen):
    page, document = page_of(seen)
    widget(document, "start").value, widget(document, "end").value = 2, 9
    assert text(document, "stills").count("<img") == 9
    widget(document, "play").active = True
    (callback,) = document.session_callbacks
    places = 0
    while document.session_callbacks:
        callback.callback()
        places += 1
    assert places == 40
    assert np.allclose(page.code, seen.z[9])
    assert not widget(document, "play").active


def test_the_context_is_that_of_the_row_until_it_is_chosen(conditional):
    page, document = page_of(conditional)
    page.choose(4)
    controls = dict(zip(["k", "colour", "missing", "up"], widget(document, "context").children, strict=True))
    kinds = {name: type(control) for name, control in controls.items()}
    assert kinds == {"k": Spinner, "colour": Select, "missing": TextInput, "up": Select}
    assert controls["k"].value == conditional.given(4)["k"]
    before = page.decoded
    controls["k"].value += 3
    assert page.given["k"] == conditional.given(4)["k"] + 3
    assert not np.allclose(page.decoded, before)
    controls["missing"].value = "much"
    assert "much" in text(document, "message")
    controls["missing"].value = ""
    assert text(document, "message") == ""
    assert page.given["missing"] is None


def test_the_cut_lists_outliers_and_links_to_their_table(tables):
    _, document = page_of(tables)
    widget(document, "share").value = 10
    chosen = tables.outliers(0.1)
    assert f"{len(chosen)} of 160 rows" in text(document, "outliers_title")
    assert "outliers.csv?share=0.1000" in text(document, "outliers_title")
    assert widget(document, "outliers").source.data["0"] == [str(n) for n in chosen]


def test_a_click_on_an_outlier_chooses_it(tables):
    page, document = page_of(tables)
    widget(document, "share").value = 10
    widget(document, "outliers").source.selected.indices = [2]
    assert page.row == tables.outliers(0.1)[2]


def test_a_row_that_is_not_there_is_said():
    few = explore(*digits(), most_rows=30)
    page, document = page_of(few)
    absent = next(i for i in range(900) if i not in few.numbers)
    widget(document, "number").value = absent
    assert page.row == 0
    assert f"expected one of the 30 rows shown; got {absent}" in text(document, "message")
    widget(document, "number").value = int(few.numbers[1])
    assert text(document, "message") == ""


def test_rows_that_are_no_pictures_are_shown_as_columns(tables):
    page, document = page_of(tables)
    page.choose(7)
    assert "<img" not in "".join(text(document, name) for name in ("row_table", "neighbours", "code_table", "stills"))
    assert "&lt;img" in text(document, "row_table")
    profile = widget(document, "row_profile").renderers[0].data_source.data
    u = tables.standardised(tables.x)
    assert np.allclose(profile["first"], u[7])
    assert np.allclose(profile["second"], tables.standardised(tables.decode(tables.z[[7]], {}))[0])
    titles = [column.title for column in widget(document, "outliers").columns]
    assert not any("<" in title for title in titles)


@pytest.mark.parametrize("what", ["log density", "k", "colour", "missing", "up"])
def test_every_colour_has_its_key(tables, what):
    _, document = page_of(tables)
    widget(document, "colour").value = what
    colors = widget(document, "map").renderers[0].data_source.data["color"]
    assert len(set(colors)) > 1
    assert all(len(color) == 7 for color in colors)
    levels = what in ("colour", "up")
    assert text(document, "key").count("<li>") == (len(set(tables.values(what))) if levels else 0)


def test_a_model_that_is_not_trusted_says_so(tables):
    assert page_of(tables)[1].template_variables["untrusted"] is None
    health = Health((Verdict("reconstruction", "fail", 9.0, 1.0, "Residuals are <large>."),))
    fitted = dataclasses.replace(tables.fitted, figures=tables.fitted.figures.but(health=health))
    _, document = page_of(dataclasses.replace(tables, fitted=fitted))
    assert "Residuals are <large>." in document.template_variables["untrusted"]


def test_a_slider_of_a_convolutional_model_of_784_pixels_answers_in_a_tenth_of_a_second():
    flow = isthmus.FreeFormFlow(*convolutional_pair(784, 16, shape=(1, 28, 28)), 784, 16)
    x = torch.rand(8, 784, dtype=torch.float64)
    model = Model(Ambient(flow, IsotropicNoise(784, 0.5)), Columns.learn(x, heavy_tails=False))
    fitted = Fitted(model, isthmus.Recipe(), Part(kind="as trained"), Part(kind="isotropic"), Figures())
    page, document = page_of(explore(fitted, pd.DataFrame(x.numpy())))
    slider, seconds = widget(document, "sliders").children[0], []
    for value in np.linspace(slider.start, slider.end, 30):
        started = time.process_time()  # of this process alone, however busy the machine
        slider.value = float(value)
        later(document)
        seconds.append(time.process_time() - started)
    assert np.allclose(page.decoded, model.decode(torch.from_numpy(page.code[None]))[0].numpy())
    assert 'src="data:image/png' in text(document, "code_pictures")
    assert np.quantile(seconds, 0.9) < 0.1


# ----------------------------------------------------------------------------------------------- the server


@pytest.fixture(scope="module")
def server(tables):
    with serving(tables) as served:
        yield served


def visitor():
    """What opens addresses as a browser does, with cookies of its own."""
    return urllib.request.build_opener(urllib.request.HTTPCookieProcessor())


def status(url, opener=None, **headers):
    try:
        with (opener or visitor()).open(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.fixture
def admitted(server):
    opener = visitor()
    assert status(server.one_time_url(), opener) == 200
    return opener


def cookie_of(opener):
    (processor,) = (handler for handler in opener.handlers if isinstance(handler, urllib.request.HTTPCookieProcessor))
    (cookie,) = processor.cookiejar
    return cookie


def test_only_this_machine_is_served(server):
    assert server.url.startswith("http://127.0.0.1:")
    assert len(server.one_time_url().partition("token=")[2]) >= 32


@pytest.mark.parametrize("path", ["", "autoload.js", "metadata", "ws", "outliers.csv", "login"])
@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?bokeh-session-id=1"])
def test_without_token_and_cookie_everything_is_refused(server, path, query):
    assert status(server.url + path + query) == 403
    assert status(server.url + path + query, Cookie=f"{cookie_name(server)}=wrong") == 403


def cookie_name(server):
    return f"isthmus-{urllib.parse.urlsplit(server.url).port}"


def test_a_token_lets_one_browser_in_once(server, admitted):
    url = server.one_time_url()
    with visitor().open(url, timeout=30) as answer:
        cookie, body = answer.headers["Set-Cookie"], answer.read().decode()
    assert cookie.startswith(f"{cookie_name(server)}=")
    assert "; httponly; path=/; samesite=strict" in cookie.lower()
    assert 'content="0; url=/"' in body
    assert "token" not in body
    assert [status(url), status(url, admitted), status(url.replace("/login", "/"))] == [403] * 3
    assert status(server.url, admitted) == 200


def test_with_the_cookie_page_and_download_come(server, admitted, tables):
    assert status(server.url, admitted) == 200
    with admitted.open(f"{server.url}outliers.csv?share=0.1", timeout=30) as answer:
        table = pd.read_csv(answer)
    assert table["row"].tolist() == tables.outliers(0.1).tolist()
    assert [status(f"{server.url}outliers.csv{share}", admitted) for share in ("", "?share=2", "?share=x")] == [400] * 3


HOSTS = [
    *(("127.0.0.1:{port}", 200), ("localhost:{port}", 200), ("LocalHost:{port}", 200), ("[::1]:{port}", 200)),
    *(("127.0.0.1", 403), ("localhost:1", 403), ("example.org", 403), ("example.org:{port}", 403)),
    *(("127.0.0.1.example.org:{port}", 403), ("localhost.:{port}", 403), ("127.0.0.2:{port}", 403)),
]


@pytest.mark.parametrize(("host", "expected"), HOSTS)
@pytest.mark.parametrize("path", ["", "outliers.csv?share=0.1", "static/js/bokeh.min.js"])
def test_a_name_from_elsewhere_that_points_here_is_refused(server, admitted, path, host, expected):
    cookie, port = cookie_of(admitted), urllib.parse.urlsplit(server.url).port
    headers = {"Host": host.format(port=port), "Cookie": f"{cookie.name}={cookie.value}"}
    assert status(server.url + path, **headers) == expected


def handshake(server, origin, cookie=None):
    """The status of an answer to a page of an origin that wants to connect."""
    url = urllib.parse.urlsplit(server.url)
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": "bokeh, none",
        "Sec-WebSocket-Version": "13",
        "Origin": origin.format(port=url.port),
        **({"Cookie": f"{cookie.name}={cookie.value}"} if cookie else {}),
    }
    with closing(http.client.HTTPConnection(url.hostname, url.port, timeout=30)) as connection:
        connection.request("GET", "/ws", headers=upgrade)
        with connection.getresponse() as answer:
            return answer.status


ORIGINS = [
    *(("http://127.0.0.1:{port}", 101), ("http://localhost:{port}", 101), ("http://[::1]:{port}", 101)),
    *(("http://127.0.0.1:1", 403), ("https://example.org", 403), ("http://example.org:{port}", 403), ("null", 403)),
]


@pytest.mark.parametrize(("origin", "expected"), ORIGINS)
def test_connections_from_other_origins_are_refused(server, admitted, origin, expected):
    assert handshake(server, origin, cookie_of(admitted)) == expected
    assert handshake(server, origin) == 403


def test_what_the_environment_says_of_bokeh_changes_none_of_it(server, admitted, monkeypatch):
    monkeypatch.setenv("BOKEH_RESOURCES", "cdn")
    monkeypatch.setenv("BOKEH_ALLOW_WS_ORIGIN", "*")
    with admitted.open(server.url, timeout=30) as answer:
        page = answer.read().decode()
    sources = re.findall('src="([^"]*)"', page)
    assert len(sources) > 1
    assert all(source.startswith("/static/js/") for source in sources)
    assert handshake(server, "https://example.org", cookie_of(admitted)) == 403


def access_lines(caplog, count):
    """What tornado has logged; an answer comes before its line."""
    end = time.monotonic() + 30
    while True:
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("tornado")]
        if sum("/login" in line for line in lines) >= count or time.monotonic() > end:
            return lines
        time.sleep(0.01)


def test_log_lines_hold_no_token_and_no_query(server, caplog):
    caplog.set_level(logging.DEBUG)
    opener, url = visitor(), server.one_time_url()
    token = url.partition("token=")[2]
    assert [status(url, opener), status(url), status(f"{server.url}?token={token}")] == [200, 403, 403]
    assert status(f"{server.url}outliers.csv?share=0.1", opener) == 200
    assert status(url, Host="example.org") == 403
    lines = access_lines(caplog, 3)
    assert sum("/login" in line for line in lines) == 3
    assert sum("/outliers.csv" in line for line in lines) == 1
    assert not any("?" in line or token in line or cookie_of(opener).value in line for line in lines)


@pytest.fixture
def browsers(monkeypatch):
    """The addresses that browsers were started with: what other users see of their command lines."""
    started = []
    monkeypatch.setattr("webbrowser.open", lambda url: started.append(url) or True)
    return started


def test_a_browser_is_told_the_token_by_a_file_of_the_user_alone(tables, browsers, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0)
    try:
        with serving(tables) as served:
            assert served.open_browser()
            (url,) = browsers
            path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
            assert url == path.as_uri()
            assert path.parent.parent == tmp_path
            assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)] == [0o600, 0o700]
            target = re.search(r'url=([^"]*)"', path.read_text())[1]
            opener = visitor()
            assert status(target, opener) == 200
            assert list(tmp_path.iterdir()) == []
            assert [status(target), status(served.url, opener)] == [403, 200]
            assert served.open_browser()
        assert list(tmp_path.iterdir()) == []
    finally:
        os.umask(before)


def test_a_port_in_use_is_said(server, tables):
    port = urllib.parse.urlsplit(server.url).port
    with pytest.raises(InputError, match="another --port"):
        server_class()(tables, port=port)


@pytest.fixture
def heeds_ctrl_c():
    """As in a terminal: a program that is started in the background ignores it; each has a loop of its own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("browser", ["refused", "none", "opened"])
def test_the_command_prints_the_address_serves_and_ends_with_ctrl_c(browser, tables, tmp_path, capsys, monkeypatch):
    isthmus.save(tables.fitted, tmp_path / "model")
    mixed().to_parquet(tmp_path / "table.parquet")
    monkeypatch.setattr("webbrowser.open", lambda _: browser == "opened")
    monkeypatch.setenv("HOME", str(tmp_path))
    answers = []

    def visit():
        out, end = "", time.monotonic() + 300  # on a busy machine
        try:
            while "\n" not in out and time.monotonic() < end:
                time.sleep(0.05)
                out += capsys.readouterr().out
            answers.extend([out, status(out.split()[0])])
        finally:
            _thread.interrupt_main()

    visiting = threading.Thread(target=visit)
    visiting.start()
    arguments = ["explore", tmp_path / "model", tmp_path / "table.parquet", "--rows", "20"]
    arguments += ["--no-browser"] if browser == "refused" else []
    assert cli.main([str(argument) for argument in arguments]) == 0
    visiting.join(300)
    address, answer = answers
    assert address.count("\n") == 1
    assert (("token" in address), answer) == ((False, 403) if browser == "opened" else (True, 200))
    assert {path.name for path in tmp_path.iterdir()} == {"model", "table.parquet"}
