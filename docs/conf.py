"""The site: Sphinx with MyST, furo and numpydoc. ``make docs`` builds it into docs/_build/html."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import rpp_env

project = "rpp_env"
author = "rpp_env contributors"
copyright = "rpp_env contributors"  # noqa: A001
release = version = rpp_env.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "results"]
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4
autodoc_typehints = "none"  # numpydoc's parameter lists say the types
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False
html_theme = "furo"
html_title = "rpp_env"
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["tables.js"]


def notebook(app: Any, name: str, source: list[str]) -> None:
    """Put the cells of the notebook that a page names, with what they printed, into the page."""
    named = re.search(r"<!-- notebook: (\S+) -->", source[0])
    if named is None:
        return
    file = Path(app.env.doc2path(name)).parent / named[1]
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    parts = [f"You can {{download}}`download this notebook <{named[1]}>` and run it."]
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            if "text" in output:
                parts.append(f"```text\n{''.join(output['text'])}```")
            else:
                alt = output["metadata"]["alt"]
                data = "".join(output["data"]["image/png"].split())
                parts.append(f'<img alt="{alt}" src="data:image/png;base64,{data}">')
    title = parts.pop(1)  # a page begins with its title
    heading, _, rest = title.partition("\n")
    source[0] = "\n\n".join([heading, rest.strip(), *parts])


def setup(app: Any) -> None:
    app.connect("source-read", notebook)
