"""benchmarks/two_models.py, with models of a few lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import two_models

    return two_models


def test_models_agree_with_themselves_and_not_with_their_opposite(benchmark: Any) -> None:
    rewards = np.random.default_rng(0).random((40, 12)) + np.linspace(0, 2, 12)
    assert benchmark.agreement(rewards, rewards).value == pytest.approx(1)
    assert benchmark.agreement(rewards, -rewards).value == pytest.approx(-1)
    noise = benchmark.agreement(*np.random.default_rng(1).random((2, 40, 12)))
    assert noise.low < noise.value < noise.high < 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")  # of a dozen users
def test_the_page_has_four_cells_for_each_way_to_choose(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "two_models --models table:smollm2-movieworld letters:Letters --model-options {}"
    words += " --dataset movieworld --train-users 12 --users 10 --seeds 1 --out"
    monkeypatch.setattr(sys, "argv", [*words.split(), str(tmp_path)])
    benchmark.main()
    found = json.loads((tmp_path / "two-models.json").read_text())
    assert (found["train users"], found["users"]) == (12, 10)
    names = ("smollm2-movieworld", "letters:Letters")
    assert set(found["scores"]) == {
        f"{way} / {one} / {other}"
        for way in ("best fixed prompt", "supervised")
        for one in names
        for other in names
    }
    for way in ("best fixed prompt", "supervised"):
        gaps = []
        for one, other in (names, names[::-1]):
            own, foreign = (found["scores"][f"{way} / {x} / {one}"] for x in (one, other))
            gaps.append(own["value"] - foreign["value"])
            said = found["contrasts"][f"{way}: own minus other's on {one}"]
            assert said["value"] == pytest.approx(gaps[-1])
        mean = found["contrasts"][f"{way}: own minus other's"]["value"]
        assert mean == pytest.approx(np.mean(gaps))
