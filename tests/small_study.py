"""A shipped study at a small size, run and reported by the command."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from rpp_agents.cli import main


def run_small(
    name: str, changes: Iterable[tuple[str, str]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[dict[tuple[str, str], Any], str]:
    """Run a shipped study with parts of its file replaced.

    Returns the calls of each (setting, method) and the text of the report.
    """
    text = (files("rpp_agents") / f"experiments/presets/study/{name}.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    small, out = folder / "small.toml", folder / "out"
    small.write_text(text)
    assert main(["study", str(small), "--processes", "1", "--out", str(out)]) == 0, (
        capsys.readouterr().err
    )
    lines = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    calls = {(one["setting"], one["method"]): one["training"]["calls"] for one in lines}
    return calls, (out / "report.md").read_text()
