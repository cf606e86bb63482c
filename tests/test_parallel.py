"""The PettingZoo wrapper: dictionaries around a core with one user."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

import rpp_env
from rpp_env import (
    ActionMaskInObservation,
    InvalidAction,
    InvalidOption,
    JointEnv,
    JointVectorEnv,
    ResetNeeded,
    ScriptedModel,
)
from rpp_env.core import COUNTS, IDENTIFIERS, METRICS
from rpp_env.models import echo, silent
from rpp_env.parallel import RPPParallelEnv
from rpp_env.sentences import AGENTS

SMALL: dict[str, Any] = {"num_users": 60, "num_items": 100}
ACTIONS = dict(zip(AGENTS, (3, 4, 3, 0), strict=True))


def make(model: Any = None, **options: Any) -> RPPParallelEnv:
    return rpp_env.parallel_env(model=model or echo(), **{"seed": 0, **SMALL, **options})


def test_spaces_are_native_and_always_the_same_objects() -> None:
    env = make()
    assert isinstance(env, ParallelEnv)
    assert env.possible_agents == list(AGENTS)
    assert [env.action_space(agent) for agent in AGENTS] == [Discrete(n) for n in (5, 5, 9, 5)]
    for agent in AGENTS:
        assert env.action_space(agent) is env.action_space(agent)
        assert env.observation_space(agent) is env.observation_space(agent)
        assert env.observation_space(agent) == Box(-1, 1, (152,), np.float32)
    assert env.state_space == Box(-1, 1, (167,), np.float32)


def test_an_episode() -> None:
    env = make()
    assert env.agents == []
    observations, infos = env.reset(seed=0)
    for _ in range(5):
        assert env.agents == list(AGENTS)
        assert set(observations) == set(infos) == set(AGENTS)
        assert list(infos[AGENTS[0]]) == [*METRICS, *COUNTS, *IDENTIFIERS]
        observations, rewards, terminated, truncated, infos = env.step(ACTIONS)
        assert len(set(rewards.values())) == 1
        assert all(type(reward) is float for reward in rewards.values())
        assert all(env.observation_space(agent).contains(observations[agent]) for agent in AGENTS)
        assert all(type(flag) is bool for flag in (*terminated.values(), *truncated.values()))
        assert all(type(value) in (int, float) for value in infos[AGENTS[2]].values())
        assert env.state_space.contains(env.state())
    assert all(truncated.values())
    assert not any(terminated.values())
    assert env.agents == []
    assert env.state_space.contains(env.state())
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(ACTIONS)


def test_the_bandit_terminates() -> None:
    env = make(rules="RPPBandit-v0")
    env.reset()
    _, _, terminated, truncated, _ = env.step(ACTIONS)
    assert all(terminated.values())
    assert not any(truncated.values())


def test_infos_of_agents_are_their_own() -> None:
    env = make()
    _, infos = env.reset()
    infos["role_playing"]["rank"] = 99
    assert infos["history_records"]["rank"] == 0


def test_masks_are_there_only_where_actions_are_padded() -> None:
    for padded in (False, True):
        env = make(padded_actions=padded)
        _, infos = env.reset(seed=0)
        seen = []
        for _ in range(2):
            assert all(("action_mask" in info) == padded for info in infos.values())
            seen += [info.get("action_mask") for info in infos.values()]
            *_, infos = env.step(ACTIONS)
    assert [env.action_space(agent).n for agent in AGENTS] == [9] * 4
    assert [mask.sum() for mask in seen[:4]] == [5, 5, 9, 5]
    for i, mask in enumerate(seen):
        assert mask.dtype == np.int8
        assert not any(np.shares_memory(mask, other) for other in seen[:i])


def test_masked_actions_are_mapped_and_counted_and_action_nine_raises() -> None:
    env, native = make(padded_actions=True), make()
    env.reset(seed=0)
    native.reset(seed=0)
    mapped = env.step(dict(zip(AGENTS, (8, 5, 8, 7), strict=True)))
    plain = native.step(dict(zip(AGENTS, (3, 0, 8, 2), strict=True)))
    for agent in AGENTS:
        assert mapped[4][agent]["masked_actions"] == 3
        assert np.array_equal(mapped[0][agent], plain[0][agent])
    assert mapped[1] == plain[1]
    with pytest.raises(InvalidAction, match=r"'output_format' chose 9 for user 0.*0\.\.8"):
        env.step({**ACTIONS, "output_format": 9})


def test_actions_out_of_range_or_missing_are_refused() -> None:
    env = make(ScriptedModel(lambda _: pytest.fail("asked")))
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"'role_playing' chose 5 for user 0; .*0\.\.4"):
        env.step({**ACTIONS, "role_playing": 5})
    with pytest.raises(InvalidAction, match="'output_format' gave None"):
        env.step(dict.fromkeys(AGENTS[:3], 0))
    with pytest.raises(InvalidAction, match=r"'role_playing' gave 1\.5"):
        env.step({**ACTIONS, "role_playing": 1.5})  # type: ignore[dict-item]
    assert env.agents == list(AGENTS)


def test_numpy_integers_are_actions() -> None:
    env = make()
    env.reset()
    env.step({agent: np.int32(1) for agent in AGENTS})


def test_a_step_needs_a_reset() -> None:
    with pytest.raises(ResetNeeded, match="before the first reset"):
        make().step(ACTIONS)


def test_the_user_can_be_named() -> None:
    env = make()
    env.reset(options={"users": [3]})
    assert env.core.playing.tolist() == [3]
    token = env.core.tasks.task(7).user
    env.reset(options={"users": [token]})
    assert env.core.playing.tolist() == [7]
    with pytest.raises(InvalidOption, match="one user; options name 2"):
        env.reset(options={"users": [1, 2]})


def test_there_is_one_user() -> None:
    with pytest.raises(InvalidOption, match="plays one user at a time"):
        make(num_envs=3)
    with pytest.raises(InvalidOption, match="this core plays 2"):
        RPPParallelEnv(rpp_env.RPPEnv.make(model=echo(), num_envs=2, **SMALL))


def test_index_names() -> None:
    env = make(agent_names="index")
    assert env.possible_agents == ["agent_0", "agent_1", "agent_2", "agent_3"]
    env.reset()
    env.step(dict.fromkeys(env.agents, 0))


def test_masks_can_move_into_the_observation() -> None:
    for padded, sizes in ((True, [9, 9, 9, 9]), (False, [5, 5, 9, 5])):
        env = ActionMaskInObservation(make(padded_actions=padded))
        observations, infos = env.reset(seed=0)
        kept = []
        for _ in range(2):
            for agent, n in zip(AGENTS, sizes, strict=True):
                assert env.observation_space(agent) is env.observation_space(agent)
                assert env.observation_space(agent).contains(observations[agent])
                mask = observations[agent]["action_mask"]
                assert mask.shape == (n,)
                assert mask.sum() == (9 if agent == "reasoning_guidance" else 5)
                assert "action_mask" not in infos[agent]
                env.action_space(agent).sample(mask)
                kept.append(mask)
            observations, *_, infos = env.step(ACTIONS)
        assert not any(np.shares_memory(a, b) for i, a in enumerate(kept) for b in kept[:i])
        assert env.state().shape == (167,)


def test_the_last_step_has_the_texts() -> None:
    env = rpp_env.env(model=echo(), **SMALL)
    env.reset(seed=0)
    assert env.unwrapped.last_step is None
    for agent in AGENTS:
        env.step(ACTIONS[agent])
    step = env.unwrapped.last_step
    assert step.prompts[0].text.startswith("You are a ranker")
    assert step.rankings[0].text.startswith("1. ")


# ---- pictures ----


def plain(text: str) -> str:
    for code in ("0", "1", "2", "1;7", "32", "33", "35", "36"):
        text = text.replace(f"\x1b[{code}m", "")
    assert "\x1b" not in text
    return text


def test_a_picture_holds_the_prompt_the_reply_and_the_place_of_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    env = make(render_mode="ansi")
    env.reset(seed=0)
    before = env.render()
    assert before is not None
    assert "before the first step" in plain(before)
    _, rewards, *_ = env.step(ACTIONS)
    picture = env.render()
    assert picture is not None
    step = env.last_step
    assert step is not None
    assert step.prompts is not None
    assert step.rankings is not None
    text, task = plain(picture), step.prompts[0].task
    assert f"user {task.user}  step 1 of 5" in text
    assert step.prompts[0].text in text
    assert step.rankings[0].text in text
    assert f"{task.target}, shown as number {task.position + 1}, was ranked" in text
    assert f"NDCG@10 {rewards['role_playing']:.3f}" in text
    # Four colours for four agents, and the target marked in prompt, reply and verdict.
    assert all(f"\x1b[{colour}m" in picture for colour in (32, 33, 35, 36))
    assert picture.count("\x1b[1;7m") == 3
    monkeypatch.setenv("NO_COLOR", "1")
    assert env.render() == text


def test_human_is_written_out_at_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    env = make(silent(), render_mode="human")
    env.reset(seed=0)
    assert capsys.readouterr().out == ""
    env.step(ACTIONS)
    out = plain(capsys.readouterr().out)
    assert "(the reply is empty)" in out
    assert "was not named; 0 of 20 named" in out
    assert env.render() is None
    assert plain(capsys.readouterr().out) == out


@pytest.mark.parametrize("begun", [False, True], ids=["before reset", "after the end"])
def test_no_actions_of_no_agents_are_an_empty_step(begun: bool) -> None:
    env = make(rules="RPPBandit-v0")
    if begun:
        env.reset()
        env.step(ACTIONS)
    assert env.step({}) == ({}, {}, {}, {}, {})
    assert env.agents == []
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(ACTIONS)


def test_no_actions_of_agents_at_play_are_refused() -> None:
    env = make()
    env.reset()
    with pytest.raises(InvalidAction, match="'role_playing' gave None"):
        env.step({})


def test_actions_of_agents_that_do_not_exist_are_refused() -> None:
    env = make(ScriptedModel(lambda _: pytest.fail("asked")))
    env.reset(seed=0)
    for name in ("role", "agent_0", 3):
        actions: Any = {**ACTIONS, name: 0}
        with pytest.raises(InvalidAction, match=f"{name!r}, which is not an agent; .*role_play"):
            env.step(actions)


def test_spaces_are_public_by_name() -> None:
    env = make(padded_actions=True)
    for wrapper in (env, ActionMaskInObservation(env)):
        assert list(wrapper.observation_spaces) == list(wrapper.action_spaces) == list(AGENTS)
        for agent in AGENTS:
            assert wrapper.observation_spaces[agent] is wrapper.observation_space(agent)
            assert wrapper.action_spaces[agent] is wrapper.action_space(agent)


def test_environments_do_not_share_lists_of_metadata() -> None:
    one, joint, many = (
        make(),
        JointEnv(model=echo(), **SMALL),
        JointVectorEnv(model=echo(), **SMALL),
    )
    for env in (one, joint, many):
        env.metadata["render_modes"].append("added")
    for fresh in (make(), JointEnv(model=echo(), **SMALL), JointVectorEnv(model=echo(), **SMALL)):
        assert "added" not in fresh.metadata["render_modes"]
        assert "added" not in type(fresh).metadata["render_modes"]
    RPPParallelEnv.metadata["render_modes"].append("added")
    try:
        assert "added" not in JointEnv.metadata["render_modes"]
    finally:
        RPPParallelEnv.metadata["render_modes"].remove("added")


def test_the_infos_hold_the_users() -> None:
    env = make(max_cycles=2)
    for row in (5, 2):
        _, infos = env.reset(options={"users": [row]})
        for _ in range(2):
            users = {info["user"] for info in infos.values()}
            assert users == {int(env.core.tasks.users[row])}
            assert all(type(user) is int for user in users)
            *_, infos = env.step(ACTIONS)


@pytest.mark.parametrize("mode", [None, "ansi", "human", "rgb_array"])
def test_there_is_nothing_to_render_before_the_first_reset(mode: str | None) -> None:
    many = mode if mode != "human" else None
    for env in (
        make(render_mode=mode),
        JointEnv(model=echo(), render_mode=mode, **SMALL),
        JointVectorEnv(2, model=echo(), render_mode=many, **SMALL),
    ):
        with pytest.raises(ResetNeeded, match=r"render\(\) before the first reset"):
            env.render()


def test_without_a_mode_nothing_is_rendered() -> None:
    env = make()
    env.reset()
    assert env.render() is None
    with pytest.raises(InvalidOption, match=r"is not known.*ansi, human, rgb_array"):
        make(render_mode="rgb")


def test_an_environment_can_be_sent_to_another_process() -> None:
    env = make("embedded")
    env.reset(seed=0)
    env.step(ACTIONS)
    copy = pickle.loads(pickle.dumps(env))  # noqa: S301 - our own bytes
    assert copy.agents == env.agents
    for _ in range(2):
        mine, other = env.step(ACTIONS), copy.step(ACTIONS)
        assert mine[1:4] == other[1:4]
        assert mine[4] == other[4]
        assert all(np.array_equal(mine[0][agent], other[0][agent]) for agent in AGENTS)
