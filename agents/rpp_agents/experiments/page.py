"""One self-contained HTML page of a study: tables, learning curves, choices, users.

The page is a file to open, mail or put on any server. It loads nothing: style and script stand in
it, and its Content-Security-Policy forbids every request and every script but the one whose digest
it names. What comes from outside (titles, sentences, replies) is only ever set as text.

The data, as far as it is there (any list may be empty, and any part left out)::

    title: str
    found: [str]                                            what was found, in sentences
    about: [str]                                            paragraphs
    primary: {text, estimate: [value, low, high], smallest: float} or None
    tables: [{id, title, note, columns: [{name, kind, help}], rows: [[cell]]}]
        kind: "text", "number", "interval" (a cell is [value, low, high]) or "count"; None for none
    curves: [{id, title, xlabel, ylabel, log: bool, lines: [{name, value}],
              series: [{name, x, y, low, high}]}]           low and high may be None
    choices: [{setting, method, kinds: [str], counts: [int],
               parts: [{agent, options: [str], shares: [[float]]}]}]    a row of shares per kind
    users: [{setting, user, kind, history: [str], candidates: [str], target: int,
             views: [{method, step, paragraphs: [{part, text}], reply, order: [int],
                      named, rank, ndcg}]}]                 target and order: 0-based candidates

`rank` counts from 1, and is 0 where the model did not name the target. `part` is an agent's name,
``"candidates"`` or ``"contract"``.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rpp_env.data.folders import whole_file

__all__ = ["write_page"]

_TEMPLATE = Path(__file__).with_name("page.html")


def write_page(data: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a study.

    Parameters
    ----------
    data : mapping
        What the page shows; the module's docstring says how it is laid out. NumPy's numbers and
        arrays are taken too; numbers that are not finite become None.
    path : path
        The file. It is written whole or not at all, and replaces what was there.

    Returns
    -------
    Path
        Where the page is.

    Raises
    ------
    TypeError
        For what JSON cannot say.
    """
    path = Path(path)
    template = _TEMPLATE.read_text(encoding="utf-8")
    filled = {
        "policy": _policy(template),
        "title": html.escape(str(data.get("title") or "Study")),
        "data": _embedded(data),
    }
    # One pass: what is put in may itself look like a place to fill.
    page = re.sub(r"\{\{(policy|title|data)\}\}", lambda found: filled[found[1]], template)
    with whole_file(path) as file:
        file.write(page.encode())
    return path


def _embedded(data: Mapping[str, Any]) -> str:
    """Encode JSON that no text can break out of: only ASCII, and nothing that HTML interprets."""
    text = json.dumps(_plain(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    raise TypeError(
        f"a page holds text, numbers, lists and mappings; got {type(value).__name__}: {value!r:.80}"
    )


def _policy(template: str) -> str:
    """Return a Content-Security-Policy that allows only this script and this style."""

    def digest(tag: str) -> str:
        found = re.search(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        assert found, f"page.html has no <{tag}>"
        return base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()

    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{digest('script')}'",
            f"style-src 'sha256-{digest('style')}'",
            "img-src data:",  # the empty icon, so that browsers ask no server for one
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
