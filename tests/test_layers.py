"""The structure that the design promises, read off the source: imports point down, heavy libraries have one place."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "isthmus"
MODULES = sorted(SOURCE.rglob("*.py"))

# Modules of the same level never import one another, but for those of one folder.
LEVELS = {
    0: {"errors", "interrupts", "deadline"},
    1: {
        *("autodiff", "bijections", "disk", "latents", "levels", "matrices", "mixtures", "networks", "pipes"),
        *("resources", "rows"),
    },
    2: {"supports"},
    3: {"volume"},
    4: {"flow"},
    5: {"flows", "density", "metrics", "data", "columns"},
    6: {"objective", "model", "diagnostics", "vetting"},
    7: {"recipe"},
    8: {"refit", "store"},
    9: {"runs"},
    10: {"training"},
    11: {"sweep"},
    12: {"fitting", "inference"},
    13: {"estimator", "scoring", "plots"},
    14: {"report", "screens", "explorer", "parts", "grids"},
    15: {"cli"},
}
LEVEL = {module: level for level, modules in LEVELS.items() for module in modules}

# Where a heavy library may be imported at all; `import isthmus` imports none of them.
HEAVY = {
    "lightning": {"training"},
    "matplotlib": {"plots"},
    "jinja2": {"report"},
    "sklearn": {"data", "estimator", "columns", "metrics", "mixtures", "diagnostics", "inference", "report"},
    "pandas": {"data", "scoring", "report", "explorer", "cli", "parts", "grids"},
    "pyarrow": {"data"},
    "pooch": {"data"},
    "requests": {"data"},
    "typer": {"cli"},
    "bokeh": {"explorer"},
    "tornado": {"explorer"},
    "PIL": {"data", "explorer"},
    "torchvision": {"data"},
    "ray": {"parts"},
}


def place(path):
    """`flows` for flows/freeform.py, `flow` for flow.py."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down_and_heavy_libraries_keep_their_place(path):
    here = place(path)
    for module, name in imports(ast.parse(path.read_text())):
        top = module.split(".")[0]
        assert here in HEAVY.get(top, {here}), f"{here} imports {top}"
        if top == "isthmus" and here != "__init__":
            there = name if module == "isthmus" else module.split(".")[1]
            assert there == here or LEVEL[there] < LEVEL[here], f"{here} imports {there}"


def test_every_module_has_a_level():
    assert {place(path) for path in MODULES} - {"__init__"} == set(LEVEL)


def test_importing_the_package_loads_nothing_heavy(fresh_python):
    loaded = fresh_python("import json, sys, isthmus; print(json.dumps(sorted(sys.modules)))")
    assert not set(loaded) & set(HEAVY)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_assert_no_print_no_blanket_except_and_a_docstring_everywhere(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert)
        assert not (isinstance(node, ast.Name) and node.id == "print"), f"line {node.lineno} prints"
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in {"everything", "Exception", "BaseException"}, f"line {node.lineno} catches {caught}"
