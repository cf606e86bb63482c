"""The ids: in Gymnasium's registry, and in PettingZoo's where it has one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium
import pettingzoo
import pytest
from gymnasium.vector import AutoresetMode

import rpp_env
from rpp_env import RULES, JointEnv, JointVectorEnv, register_all
from rpp_env.models import echo
from rpp_env.parallel import RPPParallelEnv

SMALL: dict[str, Any] = {"num_users": 60, "num_items": 100}


@pytest.mark.parametrize("rules", RULES)
def test_gymnasium_makes_one(rules: str) -> None:
    env = gymnasium.make(f"rpp_env:{rules}", model=echo(), **SMALL)
    assert isinstance(env.unwrapped, JointEnv)
    assert env.unwrapped.core.rules == RULES[rules]
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()


@pytest.mark.parametrize("rules", RULES)
def test_gymnasium_makes_many(rules: str) -> None:
    env = gymnasium.make_vec(f"rpp_env:{rules}", num_envs=5, model=echo(), **SMALL)
    assert isinstance(env.unwrapped, JointVectorEnv)
    assert env.unwrapped.core.rules == RULES[rules]
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.num_envs == 5
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()


def test_the_module_in_the_id_is_enough() -> None:
    code = (
        "import gymnasium; from gymnasium.envs.registration import _find_spec; "
        "assert 'RPP-v0' not in gymnasium.registry; print(_find_spec('rpp_env:RPP-v0').id)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "RPP-v0"


def test_registering_twice_changes_nothing() -> None:
    before = dict(gymnasium.registry)
    register_all()
    assert gymnasium.registry == before


@pytest.mark.skipif(not hasattr(pettingzoo, "register"), reason="PettingZoo before 1.27")
@pytest.mark.parametrize("rules", RULES)
def test_pettingzoo_makes_both_kinds(rules: str) -> None:
    for name in (f"rpp_env/{rules}", f"rpp_env/{rules[:-3]}"):
        env = pettingzoo.make("parallel", name, model=echo(), **SMALL)
        assert isinstance(env, RPPParallelEnv)
        assert env.core.rules == RULES[rules]
    aec = pettingzoo.make("aec", f"rpp_env/{rules}", model=echo(), max_cycles=2, **SMALL)
    assert aec.unwrapped.max_cycles == 2


def test_the_versioned_module() -> None:
    from rpp_env import rpp_v0

    assert rpp_v0.env is rpp_env.env
    assert rpp_v0.raw_env is rpp_env.raw_env
    assert rpp_v0.parallel_env is rpp_env.parallel_env


def test_the_version_is_the_distributions() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert rpp_env.__version__ == project["project"]["version"]
