"""The picture of a step: positions, colours of the agents, and long texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import RenderCollection
from numpy.typing import NDArray

import rpp_env
from rpp_env import JointVectorEnv, RPPEnv
from rpp_env.models import ScriptedModel, echo, silent
from rpp_env.rendering import (
    _ON_PAPER,
    COLOURS,
    SIZE,
    TARGET,
    _columns,
    _fonts,
    _Page,
    _ranked,
    _wrapped,
    picture,
)
from rpp_env.sentences import AGENTS
from rpp_env.task import Ranking, RankingTask

pytest.importorskip("matplotlib", reason="the picture needs the extra 'agents'")

SMALL: dict[str, Any] = {"num_users": 60, "num_items": 100}
ACTIONS = dict(zip(AGENTS, (3, 4, 3, 0), strict=True))
LEFT, RIGHT = np.s_[:, : SIZE[0] // 2], np.s_[:, SIZE[0] // 2 :]


def make(model: Any = None, **options: Any) -> Any:
    return rpp_env.parallel_env(
        model=model or echo(), render_mode="rgb_array", **{**SMALL, **options}
    )


def has(seen: NDArray[np.uint8], colour: str) -> bool:
    """Is any pixel of this colour? Letters have some at full strength."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((seen == rgb).all(axis=-1).any())


def test_a_picture_is_an_array_of_one_size() -> None:
    env = make()
    env.reset(seed=0)
    first = env.render()
    env.step(ACTIONS)
    second = env.render()
    for seen in (first, second):
        assert (seen.shape, seen.dtype) == ((SIZE[1], SIZE[0], 3), np.uint8)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, env.render())
    assert not np.shares_memory(second, env.render())
    again = make()
    again.reset(seed=0)
    again.step(ACTIONS)
    np.testing.assert_array_equal(second, again.render())


def test_the_four_parts_have_their_agents_colours_on_both_sides() -> None:
    env = make()
    env.reset(seed=0)
    env.step(ACTIONS)
    seen = env.render()
    for agent in AGENTS:
        colour = _ON_PAPER[COLOURS[AGENTS.index(agent)]]
        assert has(seen[LEFT], colour), agent  # in the prompt
        assert has(seen[RIGHT], colour), agent  # among the choices
    env.step({**ACTIONS, "role_playing": 0})  # no role
    assert not has(env.render()[LEFT], _ON_PAPER[COLOURS[0]])


def test_the_bar_is_as_long_as_the_reward() -> None:
    """The candidate that stands first earns 1 from the echo; silence earns nothing."""
    green = _ON_PAPER[COLOURS[3]]
    foot = np.s_[-50:, SIZE[0] // 2 :]
    for model, reward in ((echo(), 1.0), (silent(), 0.0)):
        env = make(model)
        env.reset(options={"users": [_first(env.core)]})
        _, rewards, *_ = env.step(ACTIONS)
        assert set(rewards.values()) == {reward}
        assert has(env.render()[foot], green) == bool(reward)


def _first(env: RPPEnv) -> int:
    return int(np.flatnonzero(env.tasks.position == 0)[0])


def test_long_replies_are_cut_with_a_count_and_write_over_nothing() -> None:
    short, long = (
        make(ScriptedModel(lambda _, n=lines: "a word and another\n" * n)) for lines in (20, 500)
    )
    pictures = []
    for env in (short, long):
        env.reset(seed=0)
        env.step(ACTIONS)
        pictures.append(env.render())
    foot = pictures[0][-80:], pictures[1][-80:]
    np.testing.assert_array_equal(*foot)
    lines = env.core.last_step.rankings[0].text.count("\n")
    assert lines == 500


@pytest.mark.parametrize(
    "text",
    [
        "word " * 60,
        "w" * 500,
        "電影" * 200,
        "one\ttwo\x1b[31mthree\nfour\u200b",
        "",
        "  " * 100 + "end",
    ],
)
def test_wrapped_lines_keep_every_letter_and_fit(text: str) -> None:
    from PIL import Image, ImageDraw

    page = _Page(ImageDraw.Draw(Image.new("RGB", SIZE)), _fonts(), 600)
    lines = list(_wrapped([[("name  ", "1"), (text, None)]], page.columns))
    joined = "".join(part for line in lines for part, _ in line)
    expected = "name " + "".join(c if c.isprintable() else " " for c in text)
    assert joined.replace(" ", "") == expected.replace(" ", "")
    assert all(sum(_columns(part) for part, _ in line) <= page.columns for line in lines)


def test_titles_in_other_scripts_and_marks_draw_without_a_warning() -> None:
    env = make(ScriptedModel(lambda _: "1. 電影 $x$ Ünïcode 🎬 \x00\x1b]0;t\x07"))
    env.reset(seed=0)
    env.step(ACTIONS)
    assert env.render().shape[2] == 3


def test_a_table_has_a_picture_without_words(tmp_path: Path) -> None:
    users = RPPEnv.make(max_users=3, **SMALL)
    rpp_env.tabulate(users, tmp_path / "t.rpptable")
    env = make(f"table:{tmp_path / 't.rpptable'}")
    env.reset(seed=0)
    env.step(ACTIONS)
    assert has(env.render()[LEFT], _ON_PAPER[COLOURS[1]])


def test_many_users_have_a_picture_each() -> None:
    env = JointVectorEnv(3, model=echo(), render_mode="rgb_array", **SMALL)
    env.reset(seed=0)
    env.step(np.array([[1, 2, 3, 4]] * 3))
    seen = env.render()
    assert seen is not None
    assert len({picture.tobytes() for picture in seen}) == 3  # type: ignore[union-attr]
    np.testing.assert_array_equal(seen[1], picture(env.core, 1))


def test_gymnasium_collects_the_frames_of_an_episode() -> None:
    made = partial(gymnasium.make, "rpp_env:RPP-v0", model=echo(), render_mode="rgb_array", **SMALL)
    env = RenderCollection(made())
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    frames: Any = env.render()
    assert len(frames) == 6
    assert len({frame.tobytes() for frame in frames}) == 6


def test_videos_are_recorded(tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="MoviePy is not installed")
    from gymnasium.wrappers import RecordVideo

    made = gymnasium.make("rpp_env:RPP-v0", model=echo(), render_mode="rgb_array", **SMALL)
    env = RecordVideo(made, str(tmp_path / "videos"), episode_trigger=lambda _: True)
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    env.close()
    (video,) = tmp_path.glob("videos/*.mp4")
    assert video.stat().st_size > 1000


@pytest.mark.parametrize(
    ("target", "named", "shown"),
    [
        (0, 3, ["1. t0 *", "2. t1", "3. t2"]),
        (10, 12, [*(f"{i + 1}. t{i}" for i in range(10)), "11. t10 *", "... 1 more"]),
        (14, 20, [*(f"{i + 1}. t{i}" for i in range(10)), "...", "15. t14 *", "... 5 more"]),
        (14, 12, [*(f"{i + 1}. t{i}" for i in range(10)), "... 2 more"]),
        (0, 0, ["(no candidate was ranked)"]),
    ],
)
def test_a_ranking_without_a_reply_shows_ten_places_and_the_targets(
    target: int, named: int, shown: list[str]
) -> None:
    titles = tuple(f"t{i}" for i in range(20))
    lines = _ranked(Ranking(tuple(range(20)), named), RankingTask("u", (), titles, titles[target]))
    assert [text + " *" * (code == TARGET) for ((text, code),) in lines] == shown
