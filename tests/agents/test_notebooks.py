"""Notebooks run from top to bottom, and their saved outputs are current.

``RPP_WRITE_DOCS=1 python -m pytest tests/agents/test_notebooks.py`` writes the outputs anew. What
is trained differs between processors, so stored outputs are not compared number by number.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rpp_env.data.folders import write_text

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs").rglob("*.ipynb"))
ALT = {
    "first-policy": "A grid of shares: for each habit of the users a row, for each role a column. "
    "Rows differ, so the policy chooses roles by user."
}
"""Alternative text of a notebook's picture."""


def run(cells: list[dict[str, Any]], alt: str) -> list[list[dict[str, Any]]]:
    """The outputs of each cell of code: what it printed, and its picture."""
    import matplotlib.pyplot as plt

    outputs, names = [], {"__name__": "__main__"}
    for cell in cells:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), names)  # noqa: S102 - our own notebook
        made: list[dict[str, Any]] = []
        if text := printed.getvalue():
            lines = text.splitlines(keepends=True)
            made.append({"name": "stdout", "output_type": "stream", "text": lines})
        for number in plt.get_fignums():
            picture = io.BytesIO()
            plt.figure(number).savefig(picture, dpi=100, metadata={"Software": None})
            plt.close(number)
            data = base64.b64encode(picture.getvalue()).decode()
            made.append(
                {
                    "data": {"image/png": data},
                    "metadata": {"alt": alt},
                    "output_type": "display_data",
                }
            )
        outputs.append(made)
    return outputs


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(ALT)


@pytest.mark.slow
@pytest.mark.timeout(600)  # it trains, on a busy machine
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:.*non-interactive:UserWarning")  # plt.show(), without a screen
def test_a_notebook_runs_from_top_to_bottom(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    monkeypatch.chdir(tmp_path)
    outputs = run(cells, ALT[path.stem])
    assert [[sorted(o) for o in made] for made in outputs] == [
        [sorted(o) for o in cell["outputs"]] for cell in cells
    ] or os.environ.get("RPP_WRITE_DOCS")
    if os.environ.get("RPP_WRITE_DOCS"):
        for number, (cell, made) in enumerate(zip(cells, outputs, strict=True), 1):
            cell["outputs"], cell["execution_count"] = made, number
        write_text(path, json.dumps(book, indent=1, ensure_ascii=False) + "\n")
