"""Lines of the package by folder, raw and of code, now and at git revisions: `python -m tests.tree [REVISION ...]`."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def code_lines(source):
    """The number of lines that are neither blank, nor comments, nor of a docstring."""
    tree, prose = ast.parse(source), set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            prose |= set(range(body[0].lineno, body[0].end_lineno + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(line.strip()) and line.strip()[0] != "#" and number not in prose for number, line in lines)


def sources(revision):
    """Yield the path below the package, and the text, of every module."""
    if not revision:
        for path in sorted((ROOT / "src" / "isthmus").rglob("*.py")):
            yield path.relative_to(ROOT / "src" / "isthmus"), path.read_text()
        return
    git = ["git", "-C", str(ROOT)]
    names = subprocess.check_output([*git, "ls-tree", "-r", "--name-only", revision, "src/isthmus"], text=True)
    for name in names.split():
        if name.endswith(".py"):
            text = subprocess.check_output([*git, "show", f"{revision}:{name}"], text=True)
            yield Path(name).relative_to("src/isthmus"), text


def count(revision=""):
    """Folder -> raw and code lines; modules at the top are together."""
    raw, code = Counter(), Counter()
    for path, text in sources(revision):
        place = f"{path.parts[0]}/" if len(path.parts) > 1 else "modules at the top"
        for key in (place, "all"):
            raw[key] += len(text.splitlines())
            code[key] += code_lines(text)
    return raw, code


def main(revisions):
    """Print a table of Markdown."""
    counts = {revision or "now": count(revision) for revision in (*revisions, "")}
    print("| folder |", " | ".join(f"{name}: raw, code" for name in counts), "|")
    print("|---|" + "---:|" * len(counts))
    for place in sorted(
        {place for raw, _ in counts.values() for place in raw}, key=lambda place: (place == "all", place)
    ):
        print(f"| {place} |", " | ".join(f"{raw[place]:,}, {code[place]:,}" for raw, code in counts.values()), "|")


if __name__ == "__main__":
    main(sys.argv[1:])
