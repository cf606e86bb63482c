"""The site: Sphinx with MyST, furo and numpydoc. ``make docs`` builds it into docs/_build/html."""

from __future__ import annotations

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
