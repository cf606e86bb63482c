from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_agents.plots import learning_curve, smooth
from rpp_env.errors import InvalidData, InvalidOption


def write(folder: Path, rewards: Any, *, every: int = 5) -> Path:
    folder.mkdir(parents=True)
    rows = [
        f"{i + 1},{(i + 1) * 100},{reward},{reward + 0.1 if (i + 1) % every == 0 else ''}"
        for i, reward in enumerate(rewards)
    ]
    (folder / "progress.csv").write_text("\n".join(["iteration,steps,reward,eval_reward", *rows]))
    return folder


def test_smoothing_is_centred_and_keeps_a_straight_line() -> None:
    line = np.linspace(0, 1, 50)
    np.testing.assert_allclose(smooth(line, 0.2), line)
    spike = np.zeros(51)
    spike[25] = 1
    smoothed = smooth(spike, 0.08)
    assert smoothed[22:29] == pytest.approx([0, *[1 / 5] * 5, 0], abs=1e-12)
    assert smoothed[[0, 50]].tolist() == [0, 0]
    assert smooth(np.ones(1)).tolist() == [1.0]


def test_one_run_and_several(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folders = [
        write(tmp_path / str(seed), np.linspace(0, 1, 40 + seed) + rng.normal(0, 0.1, 40 + seed))
        for seed in range(3)
    ]
    lines = {"random": 0.2, "fixed": 0.5}
    for runs, name in ((folders[:1], "one.png"), (folders, "three.svg")):
        path = learning_curve(runs, tmp_path / "plots" / name, label="MAPPO", lines=lines)
        assert path.stat().st_size > 5000
    assert (tmp_path / "plots" / "one.png").read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_drawn_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="at least one run"):
        learning_curve([], tmp_path / "x.png")
    with pytest.raises(InvalidData, match=r"progress\.csv"):
        learning_curve([tmp_path], tmp_path / "x.png")
    with pytest.raises(InvalidOption, match="no finished iteration"):
        learning_curve([write(tmp_path / "empty", [])], tmp_path / "x.png")
