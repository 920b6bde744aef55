"""Tables and pictures as HTML that loads nothing; whatever comes from a user is escaped."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from PIL import Image

from isthmus.data.tables.wording import one_line
from isthmus.plots.style import number, shown

__all__ = ["cell", "gallery", "key", "picture", "plain", "scale", "table"]

_LONGEST_CELL = 40


def plain(value: Any) -> str:
    r"""Format a value as a line of text: numbers to three significant digits, nothing for a missing one.

    Args:
        value: a number, a text, a time or a missing value.

    Example:
        >>> plain(0.012345), plain(7), plain("two\nlines"), plain(float("nan"))
        ('0.0123', '7', 'two lines', '')
    """
    if pd.isna(value):
        return ""
    return number(float(value)) if isinstance(value, float | np.floating) else one_line(value, _LONGEST_CELL)


def cell(value: Any) -> str:
    """Format a value like `plain`, as HTML that breaks between words only, and not at the hyphens of a date.

    Args:
        value: a number, a text, a time or a missing value.

    Example:
        >>> cell("<b>"), cell(pd.Timestamp("2020-01-01 12:30"))
        ('&lt;b&gt;', '<span>2020-01-01</span> <span>12:30:00</span>')
    """
    text = escape(plain(value))
    return " ".join(f"<span>{word}</span>" for word in text.split()) if " " in text and "-" in text else text


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table, the first cell of each line its heading, in a frame of its own that scrolls.

    Args:
        head: the headings of the columns.
        lines: the cells.

    Example:
        >>> table(["column", "row"], [("a", 1.0)])
        '<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">column</th><th
        scope="col">row</th></tr></thead><tbody><tr><th scope="row">a</th><td>1</td></tr></tbody></table></div>'
    """
    top = "".join(f'<th scope="col">{escape(shown(text))}</th>' for text in head)
    body = "".join(_line(first, rest) for first, *rest in lines)
    head_and_body = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll" tabindex="0"><table>{head_and_body}</table></div>'


def _line(first: Any, rest: Sequence[Any]) -> str:
    cells = "".join(f"<td>{cell(value)}</td>" for value in rest)
    return f'<tr><th scope="row">{escape(shown(plain(first)))}</th>{cells}</tr>'


def picture(image: UInt8[np.ndarray, "h w channels"], caption: str) -> str:
    """Return HTML of an image with a line below it.

    Args:
        image: grey or red, green and blue.
        caption: what it shows.

    Example:
        >>> picture(np.zeros((8, 8, 1), dtype=np.uint8), "nothing")[:61]
        '<figure><img alt="nothing" src="data:image/png;base64,iVBORw0'
    """
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(buffer, "PNG")
    source = base64.b64encode(buffer.getvalue()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{source}"><figcaption>{text}</figcaption></figure>'


def gallery(images: UInt8[np.ndarray, "n h w channels"], captions: Sequence[str], size: str) -> str:
    """Return HTML of images beside one another.

    Args:
        images: as `picture` has them.
        captions: of each.
        size: "large" or "small".

    Example:
        >>> gallery(np.zeros((2, 8, 8, 1), dtype=np.uint8), ["one", "two"], "small").count("<img")
        2
    """
    figures = "".join(picture(image, caption) for image, caption in zip(images, captions, strict=True))
    return f'<div class="gallery {size}">{figures}</div>'


def scale(colors: Sequence[str], title: str, labels: Iterable[float]) -> str:
    """Return a colour scale: which colour means which number.

    Args:
        colors: as CSS has them, evenly spaced from the lowest number to the highest.
        title: what the numbers are.
        labels: numbers evenly spaced from the lowest to the highest, both included.

    Example:
        >>> scale(["#000000", "#ffffff"], "height (m)", [0.0, 2.0]).partition("</i>")
        ('<div class="scale"><p>height (m)</p><i style="background:linear-gradient(90deg,#000000,#ffffff)">', '</i>',
        '<p><span>0</span><span>2</span></p></div>')
    """
    words = "".join(f"<span>{number(label)}</span>" for label in labels)
    gradient = f'<i style="background:linear-gradient(90deg,{",".join(colors)})"></i>'
    return f'<div class="scale"><p>{cell(title)}</p>{gradient}<p>{words}</p></div>'


def key(colors: Sequence[str], names: Sequence[str]) -> str:
    """Return a legend of colours: which colour means which level.

    Args:
        colors: as CSS has them.
        names: of the levels.

    Example:
        >>> key(["#0000ff"], ["blue"])
        '<ul class="key"><li><i style="background:#0000ff"></i>blue</li></ul>'
    """
    entries = (f'<li><i style="background:{c}"></i>{cell(name)}</li>' for c, name in zip(colors, names, strict=True))
    return f'<ul class="key">{"".join(entries)}</ul>'
