"""Formulas as MathML, which every browser draws itself: no script, no fonts, no network."""

from docutils import nodes
from math_core import LatexToMathML
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

__all__ = ["setup"]

_CONVERTER = LatexToMathML()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer; `html_math_renderer = "mathml"` is then Sphinx's choice, as the only one."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mathml(latex: str, *, block: bool) -> str:
    r"""A `<math>` element.

    Args:
        latex: the formula, without dollars.
        block: whether it stands on lines of its own.

    Example:
        >>> mathml("x^2", block=False)
        '<math><msup><mi>x</mi><mn>2</mn></msup></math>'
    """
    return _CONVERTER.convert_with_local_state(latex, displaystyle=block)


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.math_block) -> None:
    number = f'<span class="eqno">({get_node_equation_number(self, node)})</span>' if node["number"] else ""
    tag = self.starttag(node, "div", CLASS="math")
    self.body.append(f"{tag}{number}{mathml(node.astext(), block=True)}</div>\n")
    raise nodes.SkipNode
