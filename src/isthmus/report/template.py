"""What all pages share: the template and the way to a file.

`page.html` is a template of jinja2, which escapes whatever comes from a user.
"""

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from isthmus.data.tables.wording import one_line
from isthmus.disk import write_durably
from isthmus.errors import InputError
from isthmus.report.figures import Figure

__all__ = ["check_file", "filled", "placed", "write"]

_VERSIONS = ("isthmus", "torch", "zuko", "lightning", "scikit-learn", "numpy")
_STATES = {"ok": "✓ passed", "warn": "! warning", "fail": "✗ failed"}


def filled(
    *, commands: Sequence[str], bibtex: Sequence[str], versions: Mapping[str, str] | None = None, **values: Any
) -> str:
    """Return a page.

    Args:
        commands: what made it.
        bibtex: entries to cite.
        versions: of libraries; those of now if not given.
        values: all other variables of `page.html`.

    Returns:
        A page that loads nothing.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["sentence"] = _sentence
    page = environment.from_string(resources.files("isthmus.report").joinpath("page.html").read_text("utf-8"))
    return page.render(
        words=_STATES,
        commands=[one_line(command, 2000) for command in commands],
        versions=", ".join(f"{name} {version}" for name, version in (versions or _versions()).items()),
        version=metadata.version("isthmus"),
        bibtex="\n\n".join(bibtex),
        **values,
    )


def placed(name: str, figure: Figure) -> dict[str, Any]:
    """Return what the template needs of a figure.

    Args:
        name: unique in the page.
        figure: heading, guide and picture.
    """
    heading, guide, picture = figure
    svg = Markup(picture.svg(name, f"{name}-seen"))
    return {"id": name, "heading": heading, "guide": guide, "alt": picture.alt, "svg": svg}


def write(page: str, output: Path) -> Path:
    """Write a page to a file: whole, or not at all.

    Args:
        page: HTML.
        output: the file; it is replaced if it exists.

    Returns:
        The file.

    Raises:
        InputError: it cannot be written.
    """
    check_file(output)
    try:
        write_durably(output, page.encode())
    except OSError as error:
        raise InputError(f"could not write {output}: {error.strerror}; choose another file") from error
    return output


def check_file(output: Path) -> None:
    """Refuse a name that no page can have.

    Args:
        output: the file.

    Raises:
        InputError: it does not end in .html, or is in no folder.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"expected a file that ends in .html; got {output}; rename it")
    if output.is_dir() or not output.parent.is_dir():
        raise InputError(f"expected a file in an existing folder; got {output}; choose another")


def _sentence(text: str) -> str:
    """Return a text with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _VERSIONS}
