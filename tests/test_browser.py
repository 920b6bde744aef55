"""The pages as a person has them, in a real browser: they load nothing from elsewhere, work, are laid out whole and
legible, on a light and on a dark screen.

`make browser` installs a Chromium; where none can be had these tests are skipped. Screenshots go to build/screenshots.
"""

import dataclasses
import functools
import http.server
import io
import os
import re
import shutil
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from explorations import NASTY, digits, fitted_to, mixed, serving
from isthmus import report
from isthmus.explorer import explore, tags

SHOTS = Path(__file__).parents[1] / "build" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
LEAST_CONTRAST = 4.5  # of text, by the guidelines for accessible pages (WCAG 2.2, level AA)

# Elements that a person reads or presses, through all shadow roots: where they are, and whether their text is cut.
LAYOUT = """() => {
  const found = [];
  const visit = root => {
    for (const node of root.querySelectorAll("*")) {
      if (node.shadowRoot) visit(node.shadowRoot);
      if (!node.matches("button, input, select, h1, h2, h3, p, figure img, figcaption, label, a")) continue;
      const box = node.getBoundingClientRect(), style = getComputedStyle(node);
      if (box.width < 2 || box.height < 2 || style.visibility == "hidden" || node.closest(".scroll, .skip")) continue;
      found.push({tag: node.tagName, text: (node.textContent || node.value || "").trim().slice(0, 40),
        box: [box.left, box.top + scrollY, box.right, box.bottom + scrollY],
        cut: node.matches("button, h1, h2, h3, p, figcaption") && node.scrollWidth > node.clientWidth + 1
          && style.display != "inline"});
    }
  };
  visit(document);
  return found;
}"""

# Contrast of each piece of text with what lies behind it, through all shadow roots.
CONTRAST = """() => {
  const found = [];
  const rgba = color => (color.match(/[0-9.]+/g) || [0, 0, 0, 0]).map(Number).concat(1).slice(0, 4);
  const linear = v => v / 255 > .04045 ? ((v / 255 + .055) / 1.055) ** 2.4 : v / 255 / 12.92;
  const light = color => {
    const [r, g, b] = rgba(color).map(linear);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = node => {
    for (; node; node = node.parentElement || node.getRootNode().host) {
      const color = getComputedStyle(node).backgroundColor;
      if (rgba(color)[3] > .99) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const visit = root => {
    for (const node of root.querySelectorAll("*")) {
      if (node.shadowRoot) visit(node.shadowRoot);
      const own = [...node.childNodes].some(child => child.nodeType == 3 && child.textContent.trim());
      const box = node.getBoundingClientRect(), style = getComputedStyle(node);
      if (!(own || node.matches("input, select")) || !box.width || !box.height || node.matches("option")) continue;
      const color = node.closest("svg") ? style.fill : style.color;
      const [a, b] = [light(color), light(behind(node))].sort((x, y) => y - x);
      found.push({text: (node.textContent || node.value).trim().slice(0, 40), color, ratio: (a + .05) / (b + .05)});
    }
  };
  visit(document.body);
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    """Chromium from the system, or the one that playwright has downloaded."""
    with sync_playwright() as playwright:
        candidates = [os.environ.get("ISTHMUS_BROWSER"), *map(shutil.which, NAMES), playwright.chromium.executable_path]
        path = next((path for path in candidates if path and Path(path).exists()), None)
        if path is None:
            pytest.skip("no Chromium on this machine; `make browser` installs one where it can")
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # which Chromium's sandbox refuses
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def seen():
    return explore(*digits())


@pytest.fixture(scope="module")
def server(seen):
    with serving(seen, "digits") as served:
        yield served


@dataclasses.dataclass
class Visit:
    """A page, every address that it asked for, and every complaint of the browser's."""

    page: object
    requests: list
    complaints: list


@pytest.fixture
def visit(browser):
    """Opens an address in a window of a width."""
    contexts = []

    def open_page(url, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(120_000)  # a busy machine is no fault of the page's
        contexts.append(context)
        page = context.new_page()
        seen = Visit(page, [], [])
        context.on("request", lambda request: seen.requests.append(request.url))
        page.on("websocket", lambda socket: seen.requests.append(socket.url))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("console", lambda m: seen.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.goto(url)
        return seen

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def explorer(visit, server):
    """The explorer, its first row shown."""

    def open_page(width=1280, scheme="light"):
        visited = visit(server.one_time_url(), width, scheme)
        visited.page.get_by_text("Row 0;").wait_for()
        visited.page.wait_for_function("() => Bokeh.documents.length && Bokeh.documents[0].is_idle")
        return visited

    return open_page


def picture(page, caption):
    """The source of the picture above a caption."""
    return page.locator(f'figure:has(figcaption:text-is("{caption}")) img').get_attribute("src")


def becomes(page, caption, source):
    """Waits until a source is that of the picture above a caption."""
    page.wait_for_function(
        """([caption, source]) => {
          const images = [];
          const visit = root => root.querySelectorAll("*").forEach(node => {
            if (node.shadowRoot) visit(node.shadowRoot);
            if (node.tagName == "IMG" && node.alt == caption) images.push(node);
          });
          visit(document);
          return images.length == 1 && images[0].src == source;
        }""",
        arg=[caption, source],
    )


def drawn(seen, features):
    """The source of the picture of a row of features."""
    return re.search('src="([^"]*)"', tags.picture(seen.pixels.images(features[None])[0], ""))[1]


# ----------------------------------------------------------------------------------------------- both pages


@pytest.fixture(scope="module")
def report_file(tmp_path_factory):
    fitted, frame = digits()
    return report.write(fitted, tmp_path_factory.mktemp("report") / "report.html", frame[:300], image="8x8")


def check_layout(page, name, width):
    """Nothing sticks out, is cut, lies on anything else or is too pale; a picture of the page is kept."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}_{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    elements = page.evaluate(LAYOUT)
    assert len(elements) > 10
    assert [e for e in elements if e["cut"] or e["box"][0] < 0 or e["box"][2] > width + 1] == []
    assert [(a, b) for i, a in enumerate(elements) for b in elements[:i] if overlap(a["box"], b["box"])] == []
    words = page.evaluate(CONTRAST)
    assert len(words) > 10
    assert [word for word in words if word["ratio"] < LEAST_CONTRAST] == []


def overlap(a, b, slack=3):
    """Whether two boxes lie on one another, neither inside the other."""
    across, down = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    inside = any(all(p[i] >= q[i] - 1 and p[i + 2] <= q[i + 2] + 1 for i in (0, 1)) for p, q in ((a, b), (b, a)))
    return across > slack and down > slack and not inside


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_opens_from_disk_alone(visit, report_file, width, scheme):
    visited = visit(report_file.as_uri(), width, scheme)
    assert "Report on the model" in visited.page.inner_text("h1")
    assert visited.page.locator("svg[role=img]").count() > 5
    check_layout(visited.page, f"report_{scheme}", width)
    assert visited.requests == [report_file.as_uri()]
    assert visited.complaints == []


def test_the_report_prints_whole(visit, report_file):
    page = visit(report_file.as_uri(), scheme="dark").page
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden()
    assert page.locator("pre[aria-label=Recipe]").bounding_box()["height"] > 100  # the settings, closed on a screen
    assert page.pdf(path=SHOTS / "report.pdf", format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_explorer_loads_from_its_own_server_alone(explorer, server, width, scheme):
    visited = explorer(width, scheme)
    check_layout(visited.page, f"explorer_{scheme}", width)
    asked = [url for url in visited.requests if not url.startswith(("data:", "blob:"))]
    assert len(asked) > 3
    assert [url for url in asked if not url.replace("ws:", "http:").startswith(server.url)] == []
    assert visited.complaints == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_explorer_of_columns_is_laid_out_too(explorer, scheme):
    page = explorer(390, scheme).page
    page.get_by_label("Show rows as").select_option("columns")
    page.locator("th", has_text="pixel_63").first.wait_for(state="attached")
    check_layout(page, f"explorer_columns_{scheme}", 390)


def test_the_explorer_follows_when_the_screen_turns_dark(explorer):
    page = explorer().page
    figure = page.locator(".bk-Figure").first
    assert grey(figure.screenshot()) > 200
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(1000)
    assert grey(figure.screenshot()) < 60


def grey(screenshot):
    """The median of its pixels."""
    return np.median(Image.open(io.BytesIO(screenshot)).convert("L"))


@pytest.mark.parametrize("target", [(), ("colour", "k", "missing")])
def test_names_and_values_of_a_table_are_text_and_nothing_else(visit, target):
    """A tag that got through would ask for a picture."""
    with serving(explore(fitted_to(mixed(), target), mixed()), NASTY) as served:
        visited = visit(served.one_time_url(), 390)
        visited.page.get_by_text("Row 0;").wait_for()
        visited.page.get_by_label("Colour", exact=True).select_option("colour")
        visited.page.locator("li", has_text=NASTY[:12]).wait_for()
        check_layout(visited.page, f"explorer_{'given' if target else 'mixed'}", 390)
    assert visited.page.locator("img").count() == 0
    assert visited.complaints == []


# -------------------------------------------------------------------------------------------- the explorer


def test_a_click_on_a_point_shows_its_row(explorer, seen):
    page = explorer().page
    u = seen.axes("principal axes").coordinates(seen.z)[:, :2]
    apart = np.linalg.norm(u[:, None] - u[None], axis=2) + 1e9 * np.eye(len(u))
    row = int(apart.min(1).argmax())
    place = page.evaluate(
        """([x, y]) => {
          const view = Bokeh.index.get_by_id(Bokeh.documents[0].get_model_by_name("map").id);
          const box = view.canvas_view.el.getBoundingClientRect();
          return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
        }""",
        [float(v) for v in u[row]],
    )
    page.mouse.click(*place)
    page.get_by_text(f"Row {row};").wait_for()
    becomes(page, "row", drawn(seen, seen.x[row]))
    becomes(page, "decoded", drawn(seen, seen.decode(seen.z[[row]], {})[0]))
    nearest = seen.neighbours(seen.z[row], 8, without=row)[0]
    assert [page.get_by_text(f"row {i}, at").count() for i in nearest] == [1] * 8


def test_a_slider_changes_the_decoded_picture(explorer, seen):
    page = explorer().page
    before = picture(page, "decoded")
    handle = page.locator(".noUi-handle").first
    handle.focus()
    for _ in range(20):
        handle.press("ArrowRight")
    axes = seen.axes("principal axes")
    u = axes.coordinates(seen.z[[0]])
    u[0, 0] = page.evaluate("() => Bokeh.documents[0].get_model_by_name('sliders').children[0].value")
    expected = drawn(seen, seen.decode(axes.codes(u), {})[0])
    assert expected != before
    becomes(page, "decoded", expected)
    page.get_by_role("button", name="Back to the row").click()
    becomes(page, "decoded", before)


def test_the_path_plays_from_one_row_to_another(explorer):
    page = explorer().page
    start, end = (picture(page, caption) for caption in ("0%", "100%"))
    assert start != end
    assert picture(page, "decoded") == start
    page.get_by_role("button", name="Play").click()
    becomes(page, "decoded", end)


def test_the_outliers_come_as_csv(explorer, seen):
    page = explorer().page
    with page.expect_download() as download:
        page.get_by_text("Download them as CSV").click()
    assert download.value.suggested_filename == "outliers.csv"
    table = pd.read_csv(download.value.path())
    expected = seen.outlier_table(0.01)
    assert len(expected) > 0
    assert table["row"].tolist() == expected["row"].tolist()
    assert np.allclose(table, expected)


def test_colour_and_axes_can_be_chosen(explorer):
    visited = explorer()
    page = visited.page
    before = page.locator(".bk-Figure").first.screenshot()
    page.get_by_label("Colour", exact=True).select_option("pixel_20")
    page.get_by_label("Axes").select_option("codes")
    page.wait_for_function("() => Bokeh.documents[0].get_model_by_name('across').value == 'z0'")
    assert page.locator(".bk-Figure").first.screenshot() != before
    assert visited.complaints == []


@pytest.mark.parametrize("path", ["", "login?token=wrong"])
def test_a_browser_that_was_not_let_in_is_refused(browser, server, path):
    page = browser.new_page()
    answer = page.goto(server.url + path)
    assert answer.status == 403
    assert "start isthmus explore again" in page.content()
    assert "Bokeh" not in page.content()
    page.close()


@pytest.mark.parametrize("kind", ["address", "file", "link of another origin"])
def test_a_browser_is_let_in_and_keeps_no_token(kind, browser, server, monkeypatch, tmp_path):
    """By any way in; from then on it may reload, and no script may read its cookie."""
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    monkeypatch.setenv("HOME", str(tmp_path))
    with closing(browser.new_context()) as context:
        page = context.new_page()
        if kind == "file":
            server.open_browser()
            page.goto(opened[0])
        elif kind == "address":
            page.goto(server.one_time_url())
        else:
            (tmp_path / "link.html").write_text(f'<a href="{server.one_time_url()}">explorer</a>')
            page.goto((tmp_path / "link.html").as_uri())
            page.get_by_text("explorer").click()
        for _ in range(2):
            page.get_by_text("Row 0;").wait_for()
            assert page.url == server.url
            assert page.evaluate("document.cookie") == ""
            page.reload()
        assert [(c["httpOnly"], c["sameSite"], c["expires"]) for c in context.cookies()] == [(True, "Strict", -1)]


def test_another_origin_gets_no_connection(explorer, server, tmp_path):
    """Even in the browser that was let in; the explorer's own page does."""
    url = server.url.replace("http:", "ws:") + "ws"
    connect = """url => new Promise(done => {
      const socket = new WebSocket(url, ["bokeh", "none"]);
      socket.onopen = () => done("open");
      socket.onerror = () => done("refused");
    })"""
    own = explorer().page
    assert own.evaluate(connect, url) == "open"
    (tmp_path / "index.html").write_text("<title>elsewhere</title>")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever).start()
        page = own.context.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        assert page.evaluate(connect, url) == "refused"
        other.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Tests keep quiet."""
