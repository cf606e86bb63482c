"""RPPFeedback-v0 and the option `feedback`: which agents observe which response."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_env import RPPEnv
from rpp_env.episode import ACCEPTED
from rpp_env.errors import InvalidOption
from rpp_env.metrics import chance_ndcg
from rpp_env.models import echo, oracle, silent
from rpp_env.sentences import AGENTS

RULES = "RPPFeedback-v0"
SMALL: dict[str, Any] = {"num_users": 300, "num_items": 120}
KINDS = ("reward", "rank", "accepted")
BLOCKS = ("response", "best_response", "best_sentences", "best_shown", "best_level")


def make(model: Any = "embedded", **options: Any) -> RPPEnv:
    return RPPEnv.make(
        model=model, **{"rules": RULES, "num_envs": 12, "seed": 0, **SMALL, **options}
    )


def played(env: RPPEnv, steps: int | None = None, seed: int = 1) -> list[rpp_env.Step]:
    """An episode of random actions."""
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    shape = (env.num_envs, len(env.nvec))
    return [env.step(rng.integers(0, env.nvec, shape)) for _ in range(steps or env.max_cycles)]


def block(env: RPPEnv, step: rpp_env.Step, name: str) -> np.ndarray[Any, Any]:
    return step.observations[:, 0, env.observer.layout[name]]


def test_the_id_is_rpp_v0_with_more_steps_and_the_response() -> None:
    env, plain = make(), make(rules="RPP-v0")
    assert (env.episode.id, env.max_cycles, env.episode.feedback) == (RULES, 15, "reward")
    assert env.tasks.digest == plain.tasks.digest
    assert env.nvec.tolist() == plain.nvec.tolist()
    assert [name for name in env.observer.layout if name not in plain.observer.layout] == [*BLOCKS]
    for mine, theirs in zip(played(env, 5), played(plain, 5), strict=True):
        assert (mine.rewards == theirs.rewards).all()


def test_oracle_echo_and_silent() -> None:
    tasks = make(echo()).tasks
    for step in played(make(oracle(tasks), num_envs=len(tasks)), 3):
        assert (step.rewards == 1).all()
    means = [step.rewards.mean() for step in played(make(echo(), num_envs=len(tasks)), 1)]
    assert means[0] == pytest.approx(chance_ndcg(20), abs=0.05)
    for step in played(make(silent()), 3):
        assert not step.rewards.any()
        assert not step.observations[..., make(silent()).observer.layout["response"]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_feedback_shows_its_value(kind: str) -> None:
    env = make(feedback=kind)
    shown: dict[str, Any] = {
        "reward": lambda step: step.rewards,
        "rank": lambda step: np.where(step.infos["rank"] > 0, (21 - step.infos["rank"]) / 20, 0),
        "accepted": lambda step: (step.infos["rank"] > 0) & (step.infos["rank"] <= ACCEPTED),
    }
    best = np.zeros(12)
    seen = set()
    for step in played(env):
        expected = shown[kind](step).astype(np.float32)
        best = np.maximum(best, expected)
        assert block(env, step, "response")[:, 0].tolist() == expected.tolist()
        assert block(env, step, "best_response")[:, 0].tolist() == best.tolist()
        seen |= set(expected.tolist())
    assert len(seen) > 2 if kind != "accepted" else seen == {0, 1}


@pytest.mark.parametrize("rules", ["RPP-v0", RULES])
def test_without_feedback_observations_are_those_without_the_option(rules: str) -> None:
    """Bit for bit: the blocks are there only where the user's response is seen."""
    env, plain = make(rules=rules, feedback="none"), make(rules=rules)
    kept = [name for name in plain.observer.layout if name not in BLOCKS]
    assert [*env.observer.layout] == kept
    for mine, theirs in zip(played(env), played(plain), strict=True):
        for name in kept:
            at, there = env.observer.layout[name], plain.observer.layout[name]
            mine_too = mine.observations[..., at].tobytes()
            assert mine_too == theirs.observations[..., there].tobytes()
        if rules == "RPP-v0":
            assert mine.observations.tobytes() == theirs.observations.tobytes()


def test_the_response_is_all_that_observations_know_of_the_target() -> None:
    """With another target, and nothing else changed, only the blocks of the response differ."""
    env = make(echo(), num_envs=40)
    tasks = replace(env.tasks, position=(env.tasks.position + 7) % 20)
    other = env.remade(tasks=tasks, num_envs=40)
    differ: set[str] = set()
    for mine, theirs in zip(played(env), played(other), strict=True):
        assert (mine.rewards != theirs.rewards).any()
        differ |= {
            name
            for name, at in env.observer.layout.items()
            if (mine.observations[..., at] != theirs.observations[..., at]).any()
        }
    assert differ == set(BLOCKS)


def test_the_best_prompt_is_the_first_with_the_best_response() -> None:
    env = make()
    steps = played(env)
    rewards = np.stack([step.rewards for step in steps])
    own = {
        name: np.stack([block(env, step, name) for step in steps])
        for name in ("sentences", "shown", "level")
    }
    users = np.arange(env.num_envs)
    for t in range(len(steps)):
        first = rewards[: t + 1].argmax(axis=0)
        some = (rewards[: t + 1].max(axis=0) > 0)[:, None]
        for name, values in own.items():
            best = block(env, steps[t], f"best_{name}")
            assert (best == np.where(some, values[first, users], 0)).all()


def test_a_reset_clears_responses_of_masked_users_only() -> None:
    env = make()
    last = played(env, 4)[-1]
    mask = np.arange(12) % 3 == 0
    observations, _ = env.reset(options={"reset_mask": mask})
    for name in BLOCKS:
        at = env.observer.layout[name]
        assert not observations[mask][..., at].any()
        kept = last.observations[~mask][..., at]
        assert observations[~mask][..., at].tobytes() == kept.tobytes()
    step = env.step(np.zeros((12, 4), np.int64))
    begun = block(env, step, "best_response")[mask, 0]
    assert begun.tolist() == step.rewards[mask].astype(np.float32).tolist()


def test_observations_that_are_read_late_are_the_same() -> None:
    """Also after later steps, and where some users began anew in between."""
    seen: list[list[bytes]] = []
    for late in (False, True):
        env = make()
        steps = []
        env.reset(seed=1)
        rng = np.random.default_rng(1)
        for t in range(12):
            steps.append(env.step(rng.integers(0, env.nvec, (12, 4))))
            if not late:
                assert steps[-1].observations is not None
            if t == 6:
                env.reset(options={"reset_mask": np.arange(12) % 2 == 0})
        seen.append([step.observations.tobytes() for step in reversed(steps)])
    assert seen[0] == seen[1]


def test_private_agents_see_the_response_and_their_own_part_of_the_best_prompt() -> None:
    env = make(observe="private")
    layout = env.observer.layout
    step = played(env, 6)[-1]
    sees = {
        agent: {name for name, at in layout.items() if step.observations[:, i, at].any()}
        & set(BLOCKS)
        for i, agent in enumerate(AGENTS)
    }
    both = {"response", "best_response"}
    assert sees == {
        "role_playing": both,
        "history_records": both | {"best_shown", "best_level"},
        "reasoning_guidance": both,
        "output_format": both | {"best_sentences"},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_replays_the_responses_bit_for_bit(kind: str, tmp_path: Path) -> None:
    env = make(max_users=6, num_envs=6, feedback=kind)
    rpp_env.tabulate(env, tmp_path / "t.rpptable")
    again = make(f"table:{tmp_path}/t.rpptable", max_users=6, num_envs=6, feedback=kind)
    for live, replayed in zip(played(env), played(again), strict=True):
        assert live.rewards.tobytes() == replayed.rewards.tobytes()
        assert live.observations.tobytes() == replayed.observations.tobytes()
    assert env.state().tobytes() == again.state().tobytes()


def test_a_table_of_rpp_v0_serves_this_id_too(tmp_path: Path) -> None:
    plain = make(rules="RPP-v0", max_users=4, num_envs=4)
    rpp_env.tabulate(plain, tmp_path / "t.rpptable")
    again = make(f"table:{tmp_path}/t.rpptable", max_users=4, num_envs=4)
    for live, replayed in zip(played(make(max_users=4, num_envs=4)), played(again), strict=True):
        assert live.observations.tobytes() == replayed.observations.tobytes()


def test_other_ids_take_the_option() -> None:
    env = make(rules="RPPPaper-v0", feedback="accepted")
    assert "best_response" in env.observer.layout
    with pytest.raises(InvalidOption, match="feedback is 'rewards'"):
        make(feedback="rewards")
