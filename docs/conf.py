"""Sphinx configuration of the site; `build_site.py` prepares the pages it reads."""

import re
from typing import Any
from xml.sax.saxutils import escape

from docutils import nodes
from latex2mathml.converter import convert

project = "safex"
author = "the safex authors"
copyright = "the safex authors, MIT licence"
html_title = "safex"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0072B2",
        "color-brand-content": "#0072B2",
    },
    "dark_css_variables": {
        "color-brand-primary": "#56B4E9",
        "color-brand-content": "#56B4E9",
    },
}
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 4
# Pages are written for GitHub, whose titles need not begin at one.
suppress_warnings = ["myst.header"]

# Docstrings say code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
add_module_names = False


def _skip_member(
    app: Any, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out the fields of named tuples, which their class describes."""
    del app, what, name, options
    alias = (getattr(thing, "__doc__", None) or "").startswith("Alias for field")
    return True if alias else None


_ROW = re.compile(r"^\s*\|.*\|\s*$")
_ITEM = re.compile(r"( |:|\.\.|[-*+] |\d+\. )")


def _literal_lines(lines: list[str]) -> set[int]:
    """Numbers of the lines that stand apart, indented: formulas and code."""
    literal: set[int] = set()
    above = "", -1
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        apart = line.startswith("    ") and above[1] < index - 1
        follows = bool(above[0]) and not _ITEM.match(above[0])
        if line.startswith("    ") and (above[1] in literal or (apart and follows)):
            literal.add(index)
        above = line, index
    return literal


def _process_docstring(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Makes tables of Markdown tables, bars of bars, and keeps formulas' lines."""
    del app, what, name, thing, options
    result: list[str] = []
    literal = _literal_lines(lines)
    for index, line in enumerate(lines):
        if index in literal:
            before = [row for row in range(index) if lines[row].strip()]
            if before[-1] not in literal:
                result += ["::", ""]
            result.append(line)
            continue
        if not _ROW.match(line):
            # A bar is part of a formula here; reStructuredText has a use of its own.
            parts = line.split("`")
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            result.append("`".join(parts))
            continue
        first = index == 0 or not _ROW.match(lines[index - 1])
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if first:
            result += ["", ".. list-table::", "   :header-rows: 1", ""]
        if not all(set(cell) <= set("-: ") for cell in cells):
            for column, cell in enumerate(cells):
                result.append(f"   {'*' if column == 0 else ' '} - {cell}")
        last = index + 1 == len(lines) or not _ROW.match(lines[index + 1])
        if last:
            result.append("")
    lines[:] = result


def _inline_math(self: Any, node: nodes.Element) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block_math(self: Any, node: nodes.Element) -> None:
    number = node.get("number")
    label = f'<span class="eqno">({escape(str(number))})</span>' if number else ""
    formula = convert(node.astext(), display="block")
    self.body.append(f'<div class="math">{label}{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Formulas become MathML when the site is built: no script, no network."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("autodoc-process-docstring", _process_docstring)
