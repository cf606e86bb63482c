"""The picture of README shows a real step, and a terminal of 80 columns shows the same."""

from __future__ import annotations

import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import rpp_env
from rpp_env.rendering import _columns, render

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "step_picture.py"))


def texts(theme: str) -> list[str]:
    root = ET.parse(DOCS / "images" / f"step-{theme}.svg").getroot()  # noqa: S314 - our own
    return [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pictures_are_those_of_the_program(script: dict[str, Any], theme: str) -> None:
    drawn = script["draw"](script["taken"](), theme)
    stored = (DOCS / "images" / f"step-{theme}.svg").read_text(encoding="utf-8")
    assert drawn == stored, "run python docs/step_picture.py"
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    wide = float(root.get("width", 0))
    for text in root.iter("{http://www.w3.org/2000/svg}text"):  # nothing leaves the picture
        assert float(text.get("x", 0)) + 7.4 * len(text.text or "") <= wide


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_texts_stand_out(script: dict[str, Any]) -> None:
    for of in script["THEMES"].values():
        for colour in (of["ink"], of["grey"], *of["agents"]):
            assert contrast(colour, of["card"]) >= 4.5, colour
        assert contrast(of["ink"], of["target"]) >= 4.5


def test_a_terminal_of_80_columns_shows_the_picture(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    env = rpp_env.RPPEnv.make("movieworld", split="test", num_envs=1, seed=0)
    env.reset(seed=0)
    env.step([list(script["ACTIONS"])])
    shown = render(env, width=80, wrap=True)
    assert max(map(_columns, shown.splitlines())) == 80
    words = " ".join(shown.split())
    step = script["taken"]()
    for label, agent, lines in step.parts:
        if agent is not None:
            name, option = label.split(": option ")
            assert re.search(rf"^{name} +{option} ", shown, re.MULTILINE)
        for line in [*lines, *step.reply]:
            assert line.startswith("... ") or line in words
    assert step.verdict in words
    assert f"NDCG@10 {step.reward:.3f}" in words
    assert step.target in words
    drawn = set(" ".join(texts("light")).split())
    assert {*step.target.split(), f"{step.reward:.3f}"} <= drawn


@pytest.mark.parametrize("width", [60, 80, 132])
def test_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    env = rpp_env.RPPEnv.make("movieworld", split="test", num_envs=4, seed=3)
    env.reset(seed=3)
    for action in ([4, 4, 4, 4], [1, 4, 8, 3]):
        env.step([action] * 4)
        for user in range(4):
            shown = render(env, user, width=width, wrap=True)
            assert max(map(_columns, shown.splitlines())) <= width
            # Broken between words: every word of the prompt is whole.
            text = env.last_step.prompts[user].text
            assert set(text.split()) <= set(shown.split())
