"""The pages of the API reference: one a module, written before every build into `docs/auto/reference`.

Everything on them comes from the docstrings. A module that is a folder lists what it exports, then what else its own
modules make public; a dict of the catalogue (`FLOWS`, `OBJECTIVES`, ...) becomes a table of its entries.
"""

import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

from docstrings import restructured

import isthmus
from isthmus.recipe import Part, Recipe
from isthmus.report.citations import bibliography

__all__ = ["modules", "names", "write"]

_FOREIGN = "BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, OutlierMixin, object"
_WIDTH = 100  # of a value in a table


def modules() -> list[str]:
    """The modules that have a page: all that stand directly in the package."""
    return sorted(f"isthmus.{found.name}" for found in pkgutil.iter_modules(isthmus.__path__) if found.name[0] != "_")


@cache
def names() -> dict[str, str]:
    """What a docstring may write between backticks -> the full name: modules, and capitalised public names.

    Example:
        >>> names()["FreeFormFlow"], names()["isthmus.refit"]
        ('isthmus.flows.FreeFormFlow', 'isthmus.refit')
    """
    found: dict[str, str] = {}
    for module in modules():
        found[module] = module
        for home, public in _public(module):
            for name in public:
                found[f"{home}.{name}"] = f"{home}.{name}"
                if name[0].isupper():
                    found.setdefault(name, f"{home}.{name}")
    return found


def write(folder: Path) -> None:
    """Write the pages, and the publications; a page that is as it should be is left alone and not built again.

    Args:
        folder: where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"index": _index(), **{module.removeprefix("isthmus."): _page(module) for module in modules()}}
    for name, page in pages.items():
        file = folder / f"{name}.rst"
        if not file.exists() or file.read_text() != page:
            file.write_text(page)
    (folder / "methods.bib").write_text("\n\n".join(bibliography().values()) + "\n")
    for file in set(folder.glob("*.rst")) - {folder / f"{name}.rst" for name in pages}:
        file.unlink()


def _public(module: str) -> Iterator[tuple[str, list[str]]]:
    """The module and those in it, each with the public names that are first met there."""
    seen: set[int] = set()
    for home in [module, *_inside(module)]:
        loaded = importlib.import_module(home)
        public = [name for name in _exported(loaded) if id(getattr(loaded, name)) not in seen]
        seen |= {id(getattr(loaded, name)) for name in public}
        yield home, public


def _exported(module: ModuleType) -> list[str]:
    """The names in `__all__`; without one, what is defined there and does not begin with an underscore."""
    own = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    return list(getattr(module, "__all__", (name for name in own if name[0] != "_")))


def _inside(module: str) -> list[str]:
    path = getattr(importlib.import_module(module), "__path__", None)
    return [] if path is None else sorted(found.name for found in pkgutil.walk_packages(path, f"{module}."))


def _index() -> str:
    entries = "\n".join(f"   {module.removeprefix('isthmus.')}" for module in modules())
    rows = [(f":py:obj:`isthmus.{name} <{home}>`", _summary(getattr(isthmus, name))) for name, home in _homes()]
    return "\n".join(
        [
            *_title("API reference", "="),
            "Everything here comes from the docstrings; the tests run every example in them. Densities are in nats.",
            "",
            "What ``import isthmus`` gives",
            "-----------------------------",
            "",
            *_table(rows),
            "Modules",
            "-------",
            "",
            ".. toctree::",
            "   :maxdepth: 1",
            "",
            entries,
            "",
        ]
    )


def _homes() -> Iterator[tuple[str, str]]:
    """The names of the package itself, and the place where each is described."""
    described = {id(getattr(importlib.import_module(home), name)): f"{home}.{name}" for home, name in _every()}
    return ((name, described[id(getattr(isthmus, name))]) for name in isthmus.__all__)


def _every() -> Iterator[tuple[str, str]]:
    for module in modules():
        for home, public in _public(module):
            yield from ((home, name) for name in public)


def _page(module: str) -> str:
    parts = _title(module, "=")
    for home, public in _public(module):
        if home != module:
            if not public:
                continue
            parts += _title(home, "-")
        loaded = importlib.import_module(home)
        data = [name for name in public if not _documented(getattr(loaded, name))]
        members = ", ".join(name for name in public if name not in data)
        parts += [f".. automodule:: {home}", *([f"   :members: {members}"] * bool(members))]
        parts += [f"   :inherited-members: {_FOREIGN}"] * (home == "isthmus.estimator") + [""]
        for name in data:
            parts += _data(home, name, getattr(loaded, name))
    if module == "isthmus.recipe":
        parts += _keys()
    return "\n".join(parts)


def _keys() -> list[str]:
    """Every key of a recipe: its default, what it may be, what it means."""
    lines = [*_title("Keys of a recipe", "-"), "Beside a ``kind`` stand the options of what it names.", ""]
    for section, field in Recipe.model_fields.items():
        keys = getattr(field.annotation, "model_fields", {"": field})
        rows = []
        for key, entry in keys.items():
            default = getattr(entry.default, "kind", entry.default)
            meaning = f"; {entry.description}" if entry.description else ""
            text = f"{_allowed(entry.annotation)}, by default `{default}`{meaning}"
            rows.append((f"``{section}.{key}``".replace(".``", "``"), text))
        lines += _table(rows)
    return lines


def _allowed(annotation: Any) -> str:
    """What a key may be, in words."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if get_origin(annotation) is Annotated:
        return _allowed(inner[0])
    if inner:
        return " or ".join(_allowed(part) for part in inner)
    if inspect.isclass(annotation) and issubclass(annotation, Part):
        return "a kind with its options"
    return {"str": "a name", "NoneType": "none"}.get(annotation.__name__, annotation.__name__)


def _documented(entry: Any) -> bool:
    """Whether it is a class or a function, so that it has a docstring of its own."""
    return inspect.isclass(entry) or inspect.isroutine(entry)


def _data(home: str, name: str, entry: Any) -> list[str]:
    """A constant: the entries of a dict as a table, else its value."""
    lines = [f".. py:data:: {name}", f"   :module: {home}", ""]
    if not isinstance(entry, Mapping):
        return [*lines[:2], f"   :value: {' '.join(repr(entry).split())}", ""]
    rows = [(f"``{key}``", _summary(getattr(value, "function", value))) for key, value in entry.items()]
    return [*lines, *(f"   {line}" if line else "" for line in _table(rows))]


def _summary(entry: Any) -> str:
    """The first line of a docstring; of a dict its keys, of another value the value itself."""
    if isinstance(entry, Mapping):
        return ", ".join(f"`{key}`" for key in entry)
    if callable(entry):
        return (inspect.getdoc(getattr(entry, "func", entry)) or "").partition("\n")[0]
    return f"`{textwrap.shorten(str(entry), _WIDTH)}`"


def _table(rows: list[tuple[str, str]]) -> list[str]:
    lines = [".. list-table::", "   :widths: 30 70", ""]
    for first, text in rows:
        lines += [f"   * - {first}", f"     - {' '.join(restructured([text], names()))}"]
    return [*lines, ""]


def _title(text: str, mark: str) -> list[str]:
    return [text, mark * len(text), ""]
