"""The page's widgets, and what happens when they are used.

Three things are chosen: a row, a code, and the context that codes are decoded with. Choosing a row chooses its code and
its context; sliders, the path and its play button move the code. A slider that is dragged speaks faster than codes are
decoded: `_PAUSE` milliseconds after its first word the latest code is decoded, and those before it never are.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.models import Column, ColumnDataSource, InlineStyleSheet
from bokeh.models.ui import UIElement
from bokeh.models.widgets import Button, DataTable, Select, Slider, Spinner, TableColumn, TextInput, Toggle
from bokeh.themes import Theme
from jaxtyping import Float

from isthmus import scoring
from isthmus.data.tables import columns as tables
from isthmus.data.tables.wording import one_line
from isthmus.errors import InputError
from isthmus.explorer import tags
from isthmus.explorer.exploration import BASES, Exploration
from isthmus.explorer.views import SCORES, Map, Portrait, Text
from isthmus.plots.style import nats, number, shown

__all__ = ["Page"]

_PAUSE = 20  # ms
_SLIDERS = 10
_NEIGHBOURS = 8
_FIRST_COLUMNS = 4  # of the table, in lists of rows
_STEPS, _STILLS, _FRAME = 40, 9, 80  # of a path: places it stops at, pictures shown at once, ms a place
_SHARE, _LARGEST_SHARE = 1.0, 20.0  # % of the rows below the cut
_LISTED = 500  # outliers
_LIVE_COLUMNS = 100  # with more there is no table of the decoded columns: it would be slow
_MISSING = "(missing)"


class Page:
    """All widgets of one visitor, added to a document.

    Args:
        document: of bokeh; its template is set.
        exploration: what is shown.
        name: of the model.

    Attributes:
        row: the chosen row, counted from 0 in the exploration.
        code: the chosen code, (d,).
        given: the chosen context, by column.
        decoded: features of the code last decoded, (features,), in the user's units.

    Example:
        >>> from isthmus import fit, Recipe
        >>> from isthmus.explorer import explore
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> fitted = fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe)
        >>> page = Page(Document(), explore(fitted))
        >>> page.choose(3)
        >>> page.row, page.decoded.shape
        (3, (2,))
    """

    def __init__(self, document: Document, exploration: Exploration, *, name: str = "model") -> None:
        self._document, self._exploration = document, exploration
        self._quiet = self._waiting = False
        self._playing: Any = None
        self._roots: list[UIElement] = []
        self._index = {int(number): i for i, number in enumerate(exploration.numbers)}
        self._axes = exploration.axes(BASES[0])
        self.row, self.code, self.given = 0, exploration.z[0], exploration.given(0)
        self.decoded, self._cut_share = exploration.x[0], _SHARE / 100
        self._add_views()
        self._add_map_controls()
        self._add_row_controls()
        self._add_code_controls()
        self._add_path_controls()
        self._add_outliers()
        self._choose_basis(BASES[0])
        self._choose_share(_SHARE)
        self.choose(0)
        self._choose_ends()
        style = InlineStyleSheet(css=_text("widgets.css"))
        document.theme = Theme(json={"attrs": {"StyledElement": {"stylesheets": [style]}}})  # of whatever is drawn
        with document.models.freeze():  # or each root would have all of them counted anew
            for root in self._roots:
                document.add_root(root)
        document.title = f"{one_line(name, 80)}: explorer"
        document.template = _text("page.html")  # type: ignore[assignment]  # text is as good
        document.template_variables.update(
            model=one_line(name, 80),
            summary=self._summary(),
            untrusted=scoring.untrusted(exploration.fitted),
            conditional=bool(self._controls),
        )

    # ------------------------------------------------------------------------------------------------- choices

    def choose(self, row: int) -> None:
        """Choose a row, its code and its context, and show it.

        Args:
            row: counted from 0 in the exploration.
        """
        self.row, self.given = row, self._exploration.given(row)
        with self._silence():
            self._number.value = int(self._exploration.numbers[row])
            for column, control in self._controls.items():
                control.value = self._as_control(control, self.given[column])
        self._show_row()
        self.move(self._exploration.z[row])

    def move(self, code: Float[np.ndarray, " d"]) -> None:
        """Choose a code, and show what it stands for.

        Args:
            code: (d,).
        """
        self.code = code
        place = self._axes.coordinates(code[None])[0]
        with self._silence():
            for slider, value in zip(self._sliders, place, strict=False):
                slider.value = float(np.clip(value, slider.start, slider.end))
        self.render()

    def render(self) -> None:
        """Decode the chosen code in the chosen context, and show it.

        Raises:
            InputError: the context does not suit the model.
        """
        self.decoded = self._exploration.decode(self.code[None], self.given)[0]
        self._map.mark("code", self.code[None])
        (nearest,), (distance,) = self._exploration.neighbours(self.code, 1)
        row = self._exploration.numbers[nearest]
        self._say("code_title", f"Nearest row: {row}, at a distance of {number(distance)}.")
        self._show_decoded()

    # ------------------------------------------------------------------------------------------------- widgets

    def _add(self, name: str, model: Any, changed: Callable[[Any], None] | None = None, on: str = "value") -> Any:
        """Put a widget into the page; `changed` is told its new value, but for values that the page itself sets."""
        model.update(name=name, sizing_mode="stretch_width")
        if changed:
            self._listen(model, changed, on)
        self._roots.append(model)
        return model

    def _listen(self, model: Any, changed: Callable[[Any], None], on: str = "value") -> None:
        def heard(_attribute: str, _old: Any, new: Any) -> None:
            """Handle a visitor's change, not one of the page's own."""
            if not self._quiet:
                with self._told():
                    changed(new)

        model.on_change(on, heard)

    def _add_button(self, name: str, label: str, pressed: Callable[[], None]) -> None:
        def heard() -> None:
            """Handle a visitor's press of the button."""
            with self._told():
                pressed()

        self._add(name, Button(label=label)).on_click(heard)

    def _add_views(self) -> None:
        names = ("message", "key", "row_title", "neighbours", "code_title", "stills", "outliers_title")
        self._texts = {name: Text(name) for name in names}
        self._map = Map(self._exploration, self._texts["key"])
        self._portraits = {name: Portrait(name, self._exploration) for name in ("row", "code")}
        self._roots += [self._map.figure, *(text.model for text in self._texts.values())]
        self._roots += [model for portrait in self._portraits.values() for model in portrait.models]

    def _add_map_controls(self) -> None:
        columns = [name for name in self._exploration.frame.columns if name not in SCORES]
        self._add("basis", _menu("Axes", BASES), self._choose_basis)
        self._across = self._add("across", _menu("Across"), lambda _: self._place())
        self._up = self._add("up", _menu("Up"), lambda _: self._place())
        self._add("colour", _menu("Colour", [*SCORES, *columns]), self._map.color)
        self._listen(self._map.rows.selected, self._tap, "indices")
        self._map.color(SCORES[0])

    def _add_row_controls(self) -> None:
        kinds = ["pictures", "columns"] if self._exploration.pixels else ["columns"]
        self._number = self._add("number", self._row_number("Row, counted from 0"), self._type_row)
        self._kind = self._add("kind", _menu("Show rows as", kinds), lambda _: self._show_kind())

    def _add_code_controls(self) -> None:
        count = min(_SLIDERS, len(self.code))
        self._sliders = [Slider(start=-1, end=1, value=0, step=0.01, format="0.00") for _ in range(count)]
        self._controls = {column.name: self._control(column) for column in self._exploration.context}
        for slider in self._sliders:
            self._listen(slider, lambda _: self._slide())
        for control in self._controls.values():
            self._listen(control, lambda _: self._choose_context())
        columns: dict[str, list[UIElement]] = {"sliders": [*self._sliders], "context": [*self._controls.values()]}
        for name, widgets in columns.items():
            for widget in widgets:
                widget.update(sizing_mode="stretch_width")
            if widgets:
                self._add(name, Column(children=[*widgets]))
        self._add_button("back", "Back to the row", lambda: self.choose(self.row))

    def _control(self, column: tables.Column) -> Select | Spinner | TextInput:
        """Return the widget that a value of a context column is chosen with."""
        missing = [_MISSING] if column.has_missing else []
        title = one_line(column.name, 40)
        if column.kind in ("category", "boolean"):
            levels = [str(level) for level in column.levels] or ["True", "False"]
            return _menu(title, [*levels, *missing])
        if column.kind == "number" and not missing:
            spread = float(np.ptp(self._exploration.values(column.name)))
            return Spinner(title=title, step=1.0 if column.integer else spread / 100 or 1.0)
        return TextInput(title=title, placeholder=_MISSING if missing else "")

    def _add_path_controls(self) -> None:
        self._ends = {
            "start": self._add("start", self._row_number("From row"), lambda _: self._choose_ends()),
            "end": self._add("end", self._row_number("To row"), lambda _: self._choose_ends()),
        }
        self._ends["end"].value = int(self._exploration.numbers[-1])
        self._add_button("start_here", "Start at chosen row", lambda: self._end_here("start"))
        self._add_button("end_here", "End at chosen row", lambda: self._end_here("end"))
        place = Slider(title="Place on the path (%)", start=0, end=100, value=0, step=100 / _STEPS)
        self._place_on_path = self._add("place", place, lambda _: self._go())
        self._play = self._add("play", Toggle(label="Play"), self._switch, "active")

    def _add_outliers(self) -> None:
        slider = Slider(title="Rows below the cut (%)", start=0, end=_LARGEST_SHARE, value=_SHARE, step=0.5)
        self._add("share", slider, self._choose_share)
        titles = ["row", "log density", "error", *self._first_columns()]
        columns = [
            TableColumn(field=str(i), title=escape(shown(title)), width=max(90, 9 * len(shown(title))), sortable=False)
            for i, title in enumerate(titles)
        ]
        self._outliers = ColumnDataSource({str(i): [] for i in range(len(titles))})
        table = DataTable(source=self._outliers, columns=columns, index_position=None, autosize_mode="none")
        table.update(height=260, reorderable=False)
        self._add("outliers", table)
        self._listen(self._outliers.selected, self._click_outlier, "indices")

    def _row_number(self, title: str) -> Spinner:
        numbers = self._exploration.numbers
        return Spinner(title=title, low=0, high=int(numbers[-1]), step=1, value=int(numbers[0]))

    def _first_columns(self) -> list[str]:
        """Return the columns of the table that say something of a row in a list."""
        names = list(self._exploration.frame.columns)
        context = [column.name for column in self._exploration.context]
        return context if self._exploration.pixels else names[:_FIRST_COLUMNS]

    # ------------------------------------------------------------------------------------ what widgets are told

    def _choose_basis(self, basis: str) -> None:
        self._axes = self._exploration.axes(basis)
        names = [*self._axes.names, *SCORES]
        with self._silence():
            for select, value in ((self._across, names[0]), (self._up, names[1])):
                select.update(options=names, value=value)
            u = self._axes.coordinates(self._exploration.z)
            for slider, name, low, high in zip(self._sliders, names, u.min(0), u.max(0), strict=False):
                edge = 0.1 * (high - low) or 1.0
                start, end = float(low - edge), float(high + edge)
                slider.update(title=name, start=start, end=end, step=(end - start) / 200)
        self._place()
        self.move(self.code)

    def _place(self) -> None:
        self._map.place(self._axes, self._across.value, self._up.value)
        self._map.ring("chosen", np.array([self.row]))
        self._map.ring("outliers", self._exploration.outliers(self._cut_share))
        self._map.mark("code", self.code[None])
        self._map.mark("path", self._path(2))

    def _tap(self, indices: Sequence[int]) -> None:
        if indices:
            with self._silence():
                self._map.rows.selected.indices = []
            self.choose(indices[0])

    def _click_outlier(self, indices: Sequence[int]) -> None:
        if indices:
            self.choose(self._index[int(self._outliers.data["0"][indices[0]])])

    def _type_row(self, value: float | None) -> None:
        self.choose(self._known(value))

    def _show_kind(self) -> None:
        self._show_row()
        self._choose_ends()
        self.render()

    def _slide(self) -> None:
        u = self._axes.coordinates(self.code[None])[0]
        u[: len(self._sliders)] = [slider.value for slider in self._sliders]
        self.code = self._axes.codes(u[None])[0]
        if not self._waiting:
            self._waiting = True
            self._document.add_timeout_callback(self._render_latest, _PAUSE)

    def _render_latest(self) -> None:
        self._waiting = False
        with self._told():
            self.render()

    def _choose_context(self) -> None:
        values = {name: control.value for name, control in self._controls.items()}
        self.given = {name: None if value in ("", _MISSING) else value for name, value in values.items()}
        self.render()
        self._show_stills()

    def _choose_ends(self) -> None:
        self._map.mark("path", self._path(2))
        self._show_stills()

    def _end_here(self, end: str) -> None:
        self._ends[end].value = int(self._exploration.numbers[self.row])

    def _go(self) -> None:
        self.move(self._path(_STEPS + 1)[round(self._place_on_path.value * _STEPS / 100)])

    def _switch(self, on: bool) -> None:  # noqa: FBT001 (bokeh hands over the state of a button)
        if on and self._playing is None:
            self._playing = self._document.add_periodic_callback(self._advance, _FRAME)
        elif not on and self._playing is not None:
            self._document.remove_periodic_callback(self._playing)
            self._playing = None

    def _advance(self) -> None:
        """Advance by one place; from the end back to the start, and stop the next time that it gets to the end."""
        step, value = 100 / _STEPS, self._place_on_path.value
        self._place_on_path.value = 0 if value > 100 - step / 2 else value + step
        if self._place_on_path.value > 100 - step / 2:
            self._play.active = False

    def _choose_share(self, percent: float) -> None:
        e, self._cut_share = self._exploration, percent / 100
        chosen = e.outliers(self._cut_share)
        self._map.ring("outliers", chosen)
        listed = chosen[:_LISTED]
        columns = [e.numbers[listed].tolist(), [nats(value) for value in e.log_density[listed]], e.error[listed]]
        columns += [e.frame[name].iloc[listed] for name in self._first_columns()]
        data = {str(i): [tags.plain(value) for value in values] for i, values in enumerate(columns)}
        self._outliers.update(data=data)
        link = f"outliers.csv?share={self._cut_share:.4f}"
        self._texts["outliers_title"].show(
            f"<p>{len(chosen):,} of {len(e.z):,} rows have a log density below {nats(e.cut(self._cut_share))} nats. "
            f'<a href="{link}" download="outliers.csv">Download them as CSV</a></p>'
        )

    # ------------------------------------------------------------------------------------------- what is shown

    def _show_row(self) -> None:
        e, row = self._exploration, self.row
        lower = 100 * float(np.mean(e.log_density < e.log_density[row]))
        words = [
            f"Row {e.numbers[row]}",
            f"log density {nats(e.log_density[row])} nats, above that of {lower:.0f}% of the rows",
            f"reconstruction error {number(e.error[row])}",
            *(f"{name} = {tags.plain(value)}" for name, value in self.given.items()),
        ]
        self._say("row_title", "; ".join(words) + ".")
        code = e.z[row][None]
        features = np.concatenate([e.x[[row]], e.decode(code, self.given)])
        self._portraits["row"].show(features, ["row", "reconstruction"], self._lines(code), pictures=self._pictures)
        self._map.ring("chosen", np.array([row]))
        self._show_neighbours()

    def _show_neighbours(self) -> None:
        e = self._exploration
        nearest, distances = e.neighbours(e.z[self.row], _NEIGHBOURS, without=self.row)
        if e.pixels is not None and self._pictures:
            captions = [f"row {e.numbers[i]}, at {number(r)}" for i, r in zip(nearest, distances, strict=True)]
            self._texts["neighbours"].show(tags.gallery(e.pixels.images(e.x[nearest]), captions, "small"))
            return
        names = self._first_columns()
        lines = [
            (e.numbers[i], r, nats(e.log_density[i]), e.error[i], *(e.frame[name].iloc[i] for name in names))
            for i, r in zip(nearest, distances, strict=True)
        ]
        self._texts["neighbours"].show(tags.table(["row", "distance", "log density", "error", *names], lines))

    def _show_decoded(self) -> None:
        if self._pictures:
            self._portraits["code"].show(self.decoded[None], ["decoded"], pictures=True)
            return
        labels = [f"row {self._exploration.numbers[self.row]}", "decoded"]
        features = np.stack([self._exploration.x[self.row], self.decoded])
        narrow = self._exploration.frame.shape[1] <= _LIVE_COLUMNS
        lines = self._lines(self.code[None]) if narrow else []
        self._portraits["code"].show(features, labels, lines, pictures=False)

    def _show_stills(self) -> None:
        e, codes = self._exploration, self._path(_STILLS)
        captions = [f"{100 * i / (_STILLS - 1):.0f}%" for i in range(_STILLS)]
        if e.pixels is not None and self._pictures:
            html = tags.gallery(e.pixels.images(e.decode(codes, self.given)), captions, "small")
        else:
            table = e.table(codes[::2], self.given)
            html = tags.table(["column", *captions[::2]], [(name, *table[name]) for name in table.columns])
        self._texts["stills"].show(html)

    def _lines(self, code: Float[np.ndarray, "1 d"]) -> list[tuple[Any, ...]]:
        """Return, column by column, the chosen row beside what a code stands for; none where pictures are shown."""
        if self._pictures:
            return []
        frame, decoded = self._exploration.frame, self._exploration.table(code, self.given)
        return [(name, frame[name].iloc[self.row], decoded[name].iloc[0]) for name in frame.columns]

    # ---------------------------------------------------------------------------------------------------- small

    @property
    def _pictures(self) -> bool:
        return self._kind.value == "pictures"

    def _path(self, steps: int) -> Float[np.ndarray, "steps d"]:
        start, end = (self._known(self._ends[name].value) for name in ("start", "end"))
        return self._exploration.path(start, end, steps)

    def _known(self, value: float | None) -> int:
        """Find a row by its number in the user's table."""
        row = None if value is None else self._index.get(int(value))
        if row is None:
            raise InputError(f"expected one of the {len(self._index):,} rows shown; got {value}; choose another")
        return row

    def _as_control(self, control: Select | Spinner | TextInput, value: Any) -> Any:
        if isinstance(control, Spinner):
            return float(value)
        if value is None:
            return _MISSING if isinstance(control, Select) else ""
        return str(value)

    def _summary(self) -> str:
        e = self._exploration
        rows = "rows drawn from the model, as there was no table" if e.drawn else "rows"
        columns = e.frame.shape[1] - len(e.context)
        return f"{len(e.z):,} {rows}; {columns:,} columns; latent dimension {e.z.shape[1]}"

    def _say(self, place: str, text: str) -> None:
        self._texts[place].show(f"<p>{escape(text)}</p>")

    @contextlib.contextmanager
    def _silence(self) -> Iterator[None]:
        """Ignore changes of widgets meanwhile, as they are no choice of the visitor's."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Show on the page what is wrong with a choice."""
        try:
            yield
        except InputError as error:
            self._texts["message"].show(f'<p class="warning" role="alert">{escape(str(error))}</p>')
        else:
            self._texts["message"].show("")


def _menu(title: str, options: Sequence[str] = ()) -> Select:
    """Return a menu of options, the first of them chosen."""
    choices: list[str | tuple[Any, str]] = [*options]
    return Select(title=title, options=choices, value=options[0] if options else "")


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
