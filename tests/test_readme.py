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


def block(holds: str) -> str:
    """The one block of code that holds these words."""
    (found,) = (code for code in BLOCKS if holds in code)
    return found


def test_the_first_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(block("default_rng"), names)  # noqa: S102 - our own page
    assert names["observations"].shape == (256, 4, 152)
    assert "These are the 20 candidate films:" in capsys.readouterr().out


def test_the_other_clothes_fit() -> None:
    names: dict[str, Any] = {"rpp_env": rpp_env, "gymnasium": gymnasium}
    exec(block("rpp_env.env(...)").replace("(...)", "()"), names)  # noqa: S102


def test_sentences_are_rewritten(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"rpp_env": rpp_env}
    exec(block('rewrite="embedded"'), names)  # noqa: S102
    assert names["step"].infos["rewritten"].sum() > 0
    assert "results, one per line, as a JSON list of titles" in capsys.readouterr().out


def test_a_recommender_of_ones_own() -> None:
    names: dict[str, Any] = {}
    popularity = {t: i for i, t in enumerate(rpp_env.load_dataset("movieworld").titles)}
    names["known"] = popularity
    code = block("MostPopular").replace("MostPopular(...)", "MostPopular(known)")
    exec(code, names)  # noqa: S102
    env = names["env"]
    env.reset(seed=0)
    assert 0 < env.step([[0, 2, 0, 0]] * env.num_envs).rewards.mean() < 1


def test_a_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"rpp_env": rpp_env}
    exec(block("qmix.train").replace("seed=1", "seed=1, total_steps=512"), names)  # noqa: S102
    env = names["env"]
    observations, _ = env.reset(seed=0)
    actions, _ = names["policy"].act(observations, greedy=True)
    assert actions.shape == (256, 4)
    assert (tmp_path / "runs/qmix-1/policy.safetensors").is_file()
