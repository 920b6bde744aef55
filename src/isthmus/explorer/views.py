"""The figures of the page: the map of the codes, and a row beside what the model makes of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    Range1d,
    TapTool,
)
from bokeh.models import PlainText as Plain
from bokeh.models.annotations import Legend, LegendItem
from bokeh.models.widgets import Div
from bokeh.plotting import figure
from jaxtyping import Float, Int

from isthmus.explorer import tags
from isthmus.explorer.exploration import Axes, Exploration
from isthmus.plots.style import COLORS, DENSITY, GREY, INK, MODEL, ROWS, shown

__all__ = ["SCORES", "Map", "Portrait", "Text"]

SCORES = ("log density", "reconstruction error")
_CLIP = (0.01, 0.99)  # the colour scale leaves out the outermost values
_NAMED_FEATURES = 30  # as many have room for their names
_TABLE_LINES = 200
_SCALE_LABELS = 5
_PALETTE = [f"#{''.join(f'{round(255 * part):02x}' for part in rgba[:3])}" for rgba in DENSITY(np.arange(256))]


class Text:
    """A piece of HTML that changes.

    Args:
        name: of its place in the page.

    Example:
        >>> text = Text("remark")
        >>> text.show("<p>careful</p>")
        >>> text.model.visible
        True
    """

    def __init__(self, name: str) -> None:
        self.model = Div(name=name, sizing_mode="stretch_width", disable_math=True)

    def show(self, html: str) -> None:
        """Replace the text; an empty one takes no room."""
        self.model.update(text=html, visible=bool(html))


class Map:
    """Codes of the rows, coloured; with the chosen row, the outliers, the code of the sliders and the path.

    Args:
        exploration: the rows.
        key: where the meaning of colours goes that stand for levels.

    Example:
        >>> from isthmus import fit, Recipe
        >>> from isthmus.explorer import explore
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> exploration = explore(fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe), most_rows=9)
        >>> drawn = Map(exploration, Text("key"))
        >>> drawn.place(exploration.axes("codes"), "z0", "log density")
        >>> bool((drawn.rows.data["x"] == exploration.z[:, 0]).all())
        True
    """

    def __init__(self, exploration: Exploration, key: Text) -> None:
        self._exploration, self._key = exploration, key
        n = len(exploration.z)
        self._axes, self._names = exploration.axes("codes"), ("z0", SCORES[0])
        columns: dict[str, Any] = {"x": np.zeros(n), "y": np.zeros(n), "color": [GREY] * n, "shown": [""] * n}
        columns |= {"row": exploration.numbers, "density": exploration.log_density, "error": exploration.error}
        self.rows = ColumnDataSource(columns)
        self._overlays = {name: ColumnDataSource({"x": [], "y": []}) for name in ("outliers", "path", "chosen", "code")}
        self.figure = self._drawn()

    def _drawn(self) -> figure:
        plot = figure(
            name="map",
            height=440,
            sizing_mode="stretch_width",
            tools="pan,box_zoom,wheel_zoom,reset,save",
            active_drag=None,
            toolbar_location="above",
        )
        plot.toolbar.logo = None
        size = float(np.clip(260 / np.sqrt(len(self._exploration.z)), 5.0, 12.0))
        dots = plot.scatter("x", "y", source=self.rows, size=size, fill_color="color", line_color=None, fill_alpha=0.8)
        dots.nonselection_glyph = dots.selection_glyph = None
        plot.scatter(
            "x",
            "y",
            source=self._overlays["outliers"],
            size=size + 5,
            fill_color=None,
            line_color=MODEL,
            line_width=1.5,
        )
        for color, halo in (("white", 3.0), (INK, 0.0)):  # seen on a light page, on a dark one, and over points
            plot.line(
                "x", "y", source=self._overlays["path"], line_color=color, line_width=2 + halo, line_dash="dashed"
            )
            ring: dict[str, Any] = {"size": size + 9, "fill_color": None, "line_width": 2.5 + halo}
            plot.scatter("x", "y", source=self._overlays["chosen"], line_color=color, **ring)
            cross: dict[str, Any] = {"size": 15, "marker": "x", "line_width": 3 + halo}
            plot.scatter("x", "y", source=self._overlays["code"], line_color=color, **cross)
        scores = [("row", "@row"), ("log density", "@density{0,0.00} nats"), ("error", "@error{0,0.00}")]
        scores.append(("colour", "@shown"))
        plot.add_tools(HoverTool(renderers=[dots], tooltips=scores, description="Values", limit=1))
        plot.add_tools(TapTool(renderers=[dots]))
        return plot

    def place(self, axes: Axes, horizontal: str, vertical: str) -> None:
        """Choose what is drawn against what: names of coordinates, or `SCORES`."""
        self._axes, self._names = axes, (horizontal, vertical)
        for axis, name, values in zip("xy", self._names, map(self._values, self._names), strict=True):
            self.rows.data[axis] = values
            getattr(self.figure, f"{axis}axis").axis_label = Plain(text=name)

    def color(self, what: str) -> None:
        """Choose what the colours stand for: one of `SCORES`, or a column."""
        values = self._exploration.values(what)
        self.rows.data["shown"] = [tags.cell(value) for value in values]
        if values.dtype.kind == "f":
            finite = values[np.isfinite(values)]
            low, high = _range(finite)
            place = np.clip((values - low) / (high - low), 0, 1)
            colors = [GREY if np.isnan(p) else _PALETTE[round(255 * p)] for p in place]
            title = f"{what} (nats)" if what == "log density" else what
            self._key.show(tags.scale(_PALETTE[::15], title, np.linspace(low, high, _SCALE_LABELS)))
        else:
            levels, counts = np.unique(values, return_counts=True)
            common = levels[np.argsort(-counts, kind="stable")][: len(COLORS) - 1]
            by_level = dict(zip(common, COLORS, strict=False))
            colors = [by_level.get(value, GREY) for value in values]
            others = len(levels) > len(common)
            self._key.show(tags.key([*by_level.values(), *[GREY] * others], [*by_level, *["others"] * others]))
        self.rows.data["color"] = colors

    def mark(self, name: str, z: Float[np.ndarray, "k d"]) -> None:
        """Draw "path" or "code" at codes; nothing where an axis is not a coordinate."""
        names, u = self._axes.names, self._axes.coordinates(z)
        if not set(self._names) <= set(names):
            u = u[:0]
        columns = [u[:, names.index(n) if n in names else 0] for n in self._names]
        self._overlays[name].data = dict(zip("xy", columns, strict=True))

    def ring(self, name: str, rows: Int[np.ndarray, " k"]) -> None:
        """Draw a ring around "chosen" rows or around "outliers"."""
        self._overlays[name].data = {axis: np.asarray(self.rows.data[axis])[rows] for axis in "xy"}

    def _values(self, name: str) -> Float[np.ndarray, " n"]:
        if name in SCORES:
            return self._exploration.values(name)
        return self._axes.coordinates(self._exploration.z)[:, self._axes.names.index(name)]


class Portrait:
    """One or two rows: as pictures, or as a profile of standardised columns and a table.

    Args:
        name: of its places in the page: NAME_pictures, NAME_profile, NAME_table.
        exploration: the rows.

    Example:
        >>> from isthmus import fit, Recipe
        >>> from isthmus.explorer import explore
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> exploration = explore(fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe), most_rows=9)
        >>> portrait = Portrait("row", exploration)
        >>> portrait.show(exploration.x[:2], ["one", "other"], [("c0", 0.5, 1.5)], pictures=False)
        >>> portrait.profile.visible, portrait.table.model.text.count("<td>")
        (True, 2)
    """

    def __init__(self, name: str, exploration: Exploration) -> None:
        self._exploration = exploration
        self.pictures, self.table = Text(f"{name}_pictures"), Text(f"{name}_table")
        names = exploration.standardised_names
        zeros = np.zeros(len(names))
        self._source = ColumnDataSource({"feature": np.arange(len(names)), "first": zeros, "second": zeros})
        self._low, self._high = _range(exploration.standardised(exploration.x))
        self.profile = figure(
            name=f"{name}_profile",
            height=260,
            sizing_mode="stretch_width",
            tools="",
            toolbar_location=None,
            x_range=Range1d(start=-0.5, end=len(names) - 0.5),
            y_range=Range1d(start=self._low, end=self._high),
        )
        self._draw(names)

    @property
    def models(self) -> list[Div | figure]:
        """The figures and tables of the page."""
        return [self.pictures.model, self.profile, self.table.model]

    def show(
        self,
        features: Float[np.ndarray, "k features"],
        labels: Sequence[str],
        lines: Sequence[Sequence[object]] = (),
        *,
        pictures: bool,
    ) -> None:
        """Show rows.

        Args:
            features: of one or two rows; a profile draws the first as dots, the second as a line.
            labels: what they are.
            lines: of the table: column, and a value for each of the rows; without lines there is no table.
            pictures: whether to show pictures.
        """
        pixels = self._exploration.pixels
        as_pictures = pictures and pixels is not None
        self.profile.visible = not as_pictures
        if pixels is not None and as_pictures:
            self.pictures.show(tags.gallery(pixels.images(features), labels, "large"))
            self.table.show("")
            return
        self.pictures.show("")
        u = self._exploration.standardised(features)
        self._source.data = {"feature": np.arange(u.shape[1]), "first": u[0], "second": u[-1]}
        for item, label in zip(self._items, labels, strict=True):
            item.update(label={"value": label})
        self._low, self._high = min(self._low, float(u.min())), max(self._high, float(u.max()))
        self.profile.y_range.update(start=self._low, end=self._high)
        more = len(lines) - _TABLE_LINES
        rest = f"<p>and {more:,} more columns</p>" if more > 0 else ""
        self.table.show(tags.table(["column", *labels], lines[:_TABLE_LINES]) + rest if lines else "")

    def _draw(self, names: Sequence[str]) -> None:
        plot, source = self.profile, self._source
        line: Any = plot.line("feature", "second", source=source, line_color=MODEL, line_width=2)
        dots: Any = plot.scatter("feature", "first", source=source, size=6, fill_color=ROWS, line_color=None)
        self._items = [LegendItem(label="", renderers=[dots]), LegendItem(label="", renderers=[line])]
        legend = Legend(items=[*self._items], orientation="horizontal", border_line_color=None, margin=0)
        legend.update(padding=2, background_fill_color=None)
        plot.add_layout(legend, "above")
        plot.yaxis.axis_label = "standardised"
        if len(names) <= _NAMED_FEATURES:
            plot.xaxis.ticker = FixedTicker(ticks=list(range(len(names))))
            plot.xaxis.major_label_overrides = {i: Plain(text=shown(name, 16)) for i, name in enumerate(names)}
            plot.xaxis.major_label_orientation = 1.0
        else:
            plot.xaxis.axis_label = "column, counted from 0"


def _range(values: Float[np.ndarray, "*n"]) -> tuple[float, float]:
    """Return the range that holds most of the values."""
    low, high = np.quantile(values, _CLIP) if values.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1.0
