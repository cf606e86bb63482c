"""PettingZoo's suite, and what it does not check: 500 steps, bit for bit."""

from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_env import ActionMaskInObservation, rpp_v0

with warnings.catch_warnings():
    # The suite imports examples of its own by the way that PettingZoo has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import (
        api_test,
        max_cycles_test,
        parallel_seed_test,
        render_test,
        seed_test,
        state_test,
    )
    from pettingzoo.test.parallel_test import parallel_api_test

# What the native form is meant to have; the padded one, with index names, is there for all others.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Agents have different action space sizes"),
    pytest.mark.filterwarnings("ignore:We recommend agents to be named in the format"),
]

RULES = pytest.mark.parametrize("rules", rpp_env.RULES)


@RULES
def test_parallel_api(options: dict[str, Any], rules: str) -> None:
    parallel_api_test(rpp_env.parallel_env(**options, rules=rules), num_cycles=30)


def test_parallel_api_with_masks_in_the_observation(par_env: Any) -> None:
    parallel_api_test(ActionMaskInObservation(par_env), num_cycles=30)


@RULES
def test_aec_api(options: dict[str, Any], rules: str) -> None:
    api_test(rpp_env.env(**options, rules=rules), num_cycles=30)


def test_seeds(options: dict[str, Any]) -> None:
    parallel_seed_test(partial(rpp_env.parallel_env, **options), num_cycles=20)
    seed_test(partial(rpp_env.env, **options), num_cycles=20)


def test_state(options: dict[str, Any]) -> None:
    state_test(rpp_env.env(**options), rpp_env.parallel_env(**options), num_cycles=12)


def test_max_cycles(options: dict[str, Any]) -> None:
    makers = {name: partial(getattr(rpp_v0, name), **options) for name in rpp_v0.__all__}
    max_cycles_test(SimpleNamespace(**makers))
    if options["dataset"] == "movieworld" and not options.get("padded_actions"):
        max_cycles_test(rpp_v0)


def test_rendering(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    render_test(partial(rpp_env.env, **options))
    assert "NDCG@10" in capsys.readouterr().out


def replay(env: Any, steps: int, seed: int) -> list[bytes]:
    """Everything that `steps` steps give, as bytes."""
    rng = np.random.default_rng(seed)
    kept = []
    observations, infos = env.reset(seed=seed)
    for _ in range(steps):
        if not env.agents:
            observations, infos = env.reset()
        kept += [observation.tobytes() for observation in observations.values()]
        kept += [repr(info).encode() for info in infos.values()]
        kept.append(env.state().tobytes())
        actions = {agent: int(rng.integers(env.action_space(agent).n)) for agent in env.agents}
        observations, *flags, infos = env.step(actions)
        kept.append(repr(flags).encode())
    return kept


def check_500_steps(**options: Any) -> None:
    """With resets in between; the released `parallel_seed_test` compares a single step."""
    first, second = (rpp_env.parallel_env(**options) for _ in range(2))
    seen = replay(first, 500, seed=3)
    assert seen == replay(second, 500, seed=3)
    again = replay(first, 50, seed=3)
    assert seen[: len(again)] == again
    assert seen[: len(again)] != replay(second, 50, seed=4)


def test_500_steps_are_the_same_to_the_bit(options: dict[str, Any]) -> None:
    check_500_steps(**options)


@pytest.mark.parametrize("rules", ["RPPBandit-v0", "RPPPaper-v0"])
def test_500_steps_of_other_rules_are_the_same_to_the_bit(rules: str) -> None:
    check_500_steps(num_users=120, num_items=100, rules=rules)
