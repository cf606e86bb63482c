"""benchmarks/rewriting.py: what it compares and counts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import rewriting

    return rewriting


def run(benchmark: Any, out: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> Any:
    words = f"rewriting --users 12 --reasonings 1 8 --shown 5 20 {words} --out"
    monkeypatch.setattr(sys, "argv", [*words.split(), str(out)])
    benchmark.main()
    return json.loads((out / "rewriting.json").read_text())


def test_sentences_are_counted_and_scores_are_paired(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(benchmark, tmp_path, monkeypatch, "")
    assert found["sentences"]["sentences"] == 4 * 12 * 3
    assert found["sentences"]["refused"] == 0
    assert 0 < found["sentences"]["changed"] <= 4 * 12 * 3
    cells = found["cells"]
    assert len(cells) == 4 + 3
    for one in cells.values():
        gap = one["after"]["value"] - one["before"]["value"]
        assert one["difference"]["value"] == pytest.approx(gap)
    four = [one["after"]["value"] for name, one in cells.items() if name.startswith("reasoning")]
    assert cells["mean of all"]["after"]["value"] == pytest.approx(sum(four) / 4)


def test_a_model_of_nonsense_changes_nothing(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes "1. Up" whatever it is asked, which is no sentence: the catalog's are sent."""
    words = "--model letters:Letters --model-options {} --rank-by likelihood"
    found = run(benchmark, tmp_path, monkeypatch, words)
    assert found["sentences"]["refused"] == found["sentences"]["sentences"]
    assert all(one["difference"]["value"] == 0 for one in found["cells"].values())
    assert found["faults"] == {"says nothing": pytest.approx(found["calls"]["prompts"] * 3)}
