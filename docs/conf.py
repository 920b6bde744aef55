"""How Sphinx builds these pages: `make docs`. Nothing is loaded from elsewhere, so they open without a network."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # what stands beside this file, and the benchmarks

import reference  # noqa: E402
import tutorials  # noqa: E402
from docstrings import restructured  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.ext.autodoc import Options  # noqa: E402

project = "isthmus"
author = copyright = "The isthmus developers"
version = release = "0.1.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery", "mathml"]
exclude_patterns = [*tutorials.FOLDERS, "auto/scripts", "auto/start/index.rst", "auto/extending/index.rst"]
nitpicky = True  # a link that leads nowhere is an error; what annotations name may be described elsewhere
nitpick_ignore_regex = [("py:class", ".*")]
smartquotes_action = "D"  # dashes alone
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"undoc-members": True, "no-value": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": [f"auto/scripts/{name}" for name in tutorials.FOLDERS],
    "gallery_dirs": [f"auto/{name}" for name in tutorials.FOLDERS],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": ("matplotlib", "tutorials.reset"),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "write_computation_times": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "doc_module": ("isthmus",),
}

html_theme = "pydata_sphinx_theme"
html_title = "isthmus"
html_static_path = ["_static"]
html_extra_path = [f"auto/scripts/{tutorials.REPORT}", "power.html"]  # reports that pages link to
html_css_files = ["isthmus.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "isthmus"},
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_nav_level": 1,
    "navigation_depth": 3,
    "show_toc_level": 2,
    "header_links_before_dropdown": 5,
    "surface_warnings": False,
}
html_sidebars = {"auto/**": ["sidebar-nav-bs"], "*": []}

linkcheck_timeout = 20
linkcheck_ignore = [r"\.\./.*"]


def setup(app: Sphinx) -> None:
    """Write what is written by programs, and read docstrings as they are written."""
    reference.write(HERE / "auto" / "reference")
    tutorials.copy(HERE, HERE / "auto" / "scripts")
    names = reference.names()

    def process(_: Sphinx, what: str, name: str, obj: object, options: Options, lines: list[str]) -> None:
        lines[:] = restructured(lines, names)

    def skip(_: Sphinx, what: str, name: str, obj: object, skipped: bool, options: Options) -> bool | None:  # noqa: FBT001
        made = type(obj).__name__ == "_tuplegetter" or re.fullmatch(
            r"set_\w+_request|set_output|get_metadata_routing|model_config", name
        )
        return True if made else None

    app.connect("autodoc-process-docstring", process, priority=100)  # napoleon's is 500
    app.connect("autodoc-skip-member", skip)
