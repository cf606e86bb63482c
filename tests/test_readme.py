"""The README's code runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import rpp_env

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[0], names)  # noqa: S102 - our own page
    assert names["observations"].shape == (256, 4, 152)
    assert "These are the 20 candidate films:" in capsys.readouterr().out


def test_the_other_clothes_fit() -> None:
    names: dict[str, Any] = {"rpp_env": rpp_env, "gymnasium": gymnasium}
    exec(BLOCKS[1].replace("rpp_env.env(...)", "rpp_env.env()"), names)  # noqa: S102


def test_a_recommender_of_ones_own() -> None:
    names: dict[str, Any] = {}
    popularity = {t: i for i, t in enumerate(rpp_env.load_dataset("movieworld").titles)}
    names["known"] = popularity
    exec(BLOCKS[2].replace("MostPopular(...)", "MostPopular(known)"), names)  # noqa: S102
    env = names["env"]
    env.reset(seed=0)
    assert 0 < env.step([[0, 2, 0, 0]] * env.num_envs).rewards.mean() < 1
