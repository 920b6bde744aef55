"""How every figure looks, and how it gets into a page.

Text and axes are drawn in one dark colour that `Picture.svg` replaces by the text colour of the page, so one figure is
legible on a light and on a dark page. Data colours stay: all have a contrast of at least 3 with white and with the dark
page, and can be told apart by colour-blind readers; where two meet, they differ in shape or line style too. Many points
are rasterised inside the vector drawing, without a background.
"""

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from isthmus.data.tables.wording import one_line

__all__ = [
    "COLORS",
    "CORNERS",
    "DENSITY",
    "GREY",
    "INK",
    "MODEL",
    "ROWS",
    "THIRD",
    "Picture",
    "canvas",
    "number",
    "points",
    "shown",
    "styled",
]

INK = "#0a0b0c"  # in a page, its text colour
MODEL, ROWS, THIRD, FOURTH, GREY = "#d55e00", "#2f80c3", "#009e73", "#b0609f", "#808080"
COLORS = (ROWS, MODEL, THIRD, FOURTH, "#8a7a00", GREY)
DENSITY = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.28, 0.85, 256)), "density")
WIDTH = 4.2  # inches; a phone shows it at its true size
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])  # of the triangle of three parts
DPI = 160
VECTOR_POINTS = 300  # more than that are rasterised

_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "text.parse_math": False,  # a column may be called $x
    "svg.fonttype": "none",
    "svg.hashsalt": "isthmus",
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
}

P = ParamSpec("P")


class Picture(NamedTuple):
    """A figure and what is to be seen in it, in words with numbers.

    Attributes:
        figure: matplotlib's, bound to no window.
        alt: for those who do not see it.
    """

    figure: Figure
    alt: str

    def svg(self, name: str, described_by: str | None = None) -> str:
        """Return an `<svg>` element for a page, in the page's own colours.

        Args:
            name: prefix of its ids, unique in the page.
            described_by: id of an element that holds `alt`; if not given, the drawing carries it itself.

        Returns:
            The element, without a fixed size.
        """
        text = self._saved("svg", transparent=True, metadata={"Date": None, "Creator": None}).decode()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        box = re.search(r'viewBox="[^"]*"', text)
        label = f'aria-labelledby="{described_by}"' if described_by else f'aria-label="{escape(self.alt)}"'
        head = f'<svg {box[0] if box else ""} role="img" {label} focusable="false">'
        body = head + text[text.index(">") + 1 :].strip()
        body = re.sub(r'\bid="', f'id="{name}-', body)
        body = re.sub(r'(href="#|url\(#)', rf"\1{name}-", body)
        body = body.replace("xlink:href", "href")  # links within the page and embedded pixels only
        return body.replace(INK, "currentColor")

    def png(self) -> bytes:
        """Return the figure as a PNG image of its own, on white."""
        return self._saved("png", facecolor="white")

    def _saved(self, form: str, **options: Any) -> bytes:
        file = io.BytesIO()
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's own fonts may have it
            self.figure.savefig(file, format=form, **options)
        return file.getvalue()


def styled(function: Callable[P, Picture]) -> Callable[P, Picture]:
    """Draw with this module's settings, and leave matplotlib's as they were."""
    return matplotlib.rc_context(_STYLE)(function)


def canvas(rows: int = 1, columns: int = 1, *, height: float = 2.9, **options: Any) -> tuple[Figure, list[Any]]:
    """Return a figure of one page column's width, with its axes row by row.

    Args:
        rows: of axes.
        columns: of axes.
        height: of the figure, in inches.
        options: of matplotlib's `Figure.subplots`.

    Example:
        >>> len(canvas(2, 2)[1])
        4
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def points(ax: Axes, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], **options: Any) -> Any:
    """Draw a scatter plot that stays small however many points it has.

    Args:
        ax: where.
        x: of each point.
        y: of each point.
        options: of matplotlib's `scatter`.

    Returns:
        Matplotlib's collection.
    """
    size = float(np.clip(220 / np.sqrt(max(1, len(x))), 2.0, 14.0))
    defaults = {"s": size, "linewidths": 0, "alpha": 0.7, "rasterized": len(x) > VECTOR_POINTS}
    return ax.scatter(x, y, **(defaults | options))


def log_scale(ax: Any, which: str, low: float, high: float) -> None:
    """Set a logarithmic scale whose labels are plain numbers, however short it is.

    Args:
        ax: where.
        which: "x" or "y".
        low: the smallest value shown, > 0.
        high: the largest.
    """
    ax.set(**{f"{which}scale": "log"})
    axis = getattr(ax, f"{which}axis")
    locator = LogLocator(subs=(1.0, 2.0, 5.0)) if high > 8 * low else MaxNLocator(5)
    axis.set_major_locator(LogLocator() if high > 1e3 * low else locator)
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def nats(value: float) -> str:
    """Format a log density as a sentence has it: two decimals, as differences count.

    Example:
        >>> nats(-112.046)
        '−112.05'
    """
    return f"{round(value, 2) + 0.0:,.2f}".replace("-", "−") if np.isfinite(value) else str(value)


def shown(name: object, limit: int = 22) -> str:
    """Shorten a column's name to the room that an axis has for it.

    Example:
        >>> shown("a very long name of a column")
        'a very long name of a…'
    """
    text = one_line(name, 200)
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def number(value: float) -> str:
    """Format a number as a sentence has it.

    Example:
        >>> number(1234567.0), number(0.012345), number(-3.0)
        ('1,234,567', '0.0123', '−3')
    """
    if not np.isfinite(value):
        return str(value)
    value += 0.0  # no minus before a zero
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")
