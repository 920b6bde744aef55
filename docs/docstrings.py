"""Docstrings are plain text with the marks of Markdown; autodoc reads reStructuredText: the one turned into the other.

What is changed, before napoleon reads the sections (`Args:` and so on): code between single backticks becomes code, or
a link if it is a public name; indented formulas and tables of Markdown become what they are; characters that mean
something else in reStructuredText are escaped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["restructured"]

_CODE = re.compile(r"(`[^`]+`)")
_ESCAPED = re.compile(r"(?P<kept>(?<![\w*])\*\w[^*]*\*(?![\w*]))|(?P<mark>[*|\\]|_\b)")
_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Warns|References|Examples?|Notes?):")
_BULLET = re.compile(r"(\s*)\*(\s.*)")
_ROW = re.compile(r"\|.*\|")
_RULE = re.compile(r"\|[-| ]+\|")


def restructured(lines: Sequence[str], names: Mapping[str, str]) -> list[str]:
    r"""A docstring as reStructuredText.

    Args:
        lines: of the docstring, without its indentation.
        names: what is written between backticks -> the full name that it links to.

    Returns:
        The new lines.

    Example:
        >>> restructured(["As `Flow` with `a * b`, |x|:", "", "    x = z_"], {"Flow": "isthmus.flow.Flow"})
        ['As :py:obj:`Flow <isthmus.flow.Flow>` with ``a * b``, \\|x\\|:', '', '::', '', '    x = z_']
    """
    return list(_converted(list(_joined(lines)), names))


def _joined(lines: Sequence[str]) -> Iterator[str]:
    """The lines, code that runs over the end of a line put on the line where it starts."""
    pending = ""
    for line in lines:
        line = f"{pending} {line.strip()}" if pending else line
        pending = ""
        if line.count("`") % 2 and not line.lstrip().startswith(">>>"):
            pending = line
            continue
        yield line
    if pending:
        yield pending


def _converted(lines: Sequence[str], names: Mapping[str, str]) -> Iterator[str]:
    section = literal = table = False
    before, margin = "", ""
    for line in lines:
        row, indented = bool(_ROW.fullmatch(line)), line.startswith("    ")
        if line.strip() and not indented:
            section, literal = bool(_SECTION.fullmatch(line)), False
            margin = "  " if line.startswith(("* ", "  ")) else ""
        if table and not row:
            yield ""
        if row:
            yield from () if table else (".. list-table::", "   :header-rows: 1", "")
            yield from () if _RULE.fullmatch(line) else _row(line, names)
        elif literal or line.lstrip().startswith((">>>", "...")):
            yield line
        elif indented and not section and not before.strip():
            literal = True
            yield from (f"{margin}::", "", line)
        else:
            yield _text(line, names)
        before, table = line, row


def _row(line: str, names: Mapping[str, str]) -> Iterator[str]:
    cells = [_text(cell.strip(), names) for cell in re.split(r"(?<!\\)\|", line.strip("| "))]
    yield f"   * - {cells[0]}"
    yield from (f"     - {cell}" for cell in cells[1:])


def _text(line: str, names: Mapping[str, str]) -> str:
    bullet = _BULLET.fullmatch(line)
    if bullet:
        return f"{bullet[1]}*{_text(bullet[2], names)}"
    parts = [_code(part[1:-1], names) if i % 2 else _escaped(part, i) for i, part in enumerate(_CODE.split(line))]
    return "".join(parts)


def _escaped(text: str, place: int) -> str:
    """Plain text; after code a letter needs a mark that ends the code."""
    escaped = _ESCAPED.sub(lambda found: found["kept"] or f"\\{found['mark']}", text)
    return r"\ " * (place > 0 and text[:1].isalnum()) + escaped


def _code(text: str, names: Mapping[str, str]) -> str:
    return f":py:obj:`{text} <{names[text]}>`" if text in names else f"``{text}``"
