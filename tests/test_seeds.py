"""Without a seed copies play different users; with a seed, through any API, the same ones."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import rpp_env
from rpp_env import JointEnv, JointVectorEnv, RPPEnv
from rpp_env.errors import InvalidOption

SMALL: dict[str, Any] = {"num_users": 3000, "num_items": 100}
FEWEST = 3  # different users among four copies: two may meet by chance, and hardly ever three


def core(**options: Any) -> RPPEnv:
    return RPPEnv.make(num_envs=2, **SMALL, **options)


def aec(**options: Any) -> Any:
    return rpp_env.env(**SMALL, **options)


def many(**options: Any) -> JointVectorEnv:
    return JointVectorEnv(2, **SMALL, **options)


APIS: dict[str, Callable[..., Any]] = {
    "core": core,
    "parallel": partial(rpp_env.parallel_env, **SMALL),
    "aec": aec,
    "joint": partial(JointEnv, **SMALL),
    "vector": many,
}

# Of 40 tasks, six at a time: the first two resets after seed 0, and the first after seed 1.
FIRST = [[11, 27, 4, 24, 23, 2], [3, 34, 18, 1, 10, 22], [9, 23, 17, 28, 0, 7]]


@pytest.fixture(params=APIS)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return APIS[request.param]


def rows_of(env: Any) -> list[int]:
    """Who plays, whatever the API."""
    played: RPPEnv = env if isinstance(env, RPPEnv) else env.unwrapped.core
    return played.playing.tolist()


def begun(env: Any, **seed: int) -> list[int]:
    env.reset(**seed)
    return rows_of(env)


def test_copies_without_a_seed_play_other_users(make: Callable[..., Any]) -> None:
    assert len({tuple(begun(make())) for _ in range(4)}) >= FEWEST


def test_the_seed_that_was_drawn_repeats_the_episodes(make: Callable[..., Any]) -> None:
    env = make()
    seen = [begun(env) for _ in range(3)]
    seed = env.np_random_seed
    assert type(seed) is int
    for again in (env, make()):
        assert [begun(again, seed=seed), begun(again), begun(again)] == seen
        assert again.np_random_seed == seed


def test_a_seed_that_is_read_before_the_first_reset_is_used(make: Callable[..., Any]) -> None:
    env = make()
    seed = env.np_random_seed
    assert begun(env) == begun(make(), seed=seed)
    assert env.np_random_seed == seed


def test_the_constructors_seed_decides_the_first_reset(make: Callable[..., Any]) -> None:
    first, second = make(seed=7), make(seed=7)
    assert first.np_random_seed == 7
    assert [begun(first), begun(first)] == [begun(second), begun(second)]
    assert begun(make(seed=7)) == begun(make(), seed=7)
    assert begun(first, seed=0) == begun(make(seed=0)) == begun(second, seed=0)
    assert first.np_random_seed == 0


def test_given_seeds_always_play_the_same_users() -> None:
    """Written down before seeds were drawn: a result of seed 0 stays what it was."""
    env = RPPEnv.make(num_users=60, num_items=100, num_envs=6)
    env.reset(seed=0)
    assert env.playing.tolist() == FIRST[0]
    env.reset()
    assert env.playing.tolist() == FIRST[1]
    env.reset(seed=1)
    assert env.playing.tolist() == FIRST[2]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])  # noqa: S301
def test_copies_of_one_that_was_not_reset_play_other_users(copied: Callable[[Any], Any]) -> None:
    env = rpp_env.parallel_env(**SMALL)
    assert len({tuple(begun(copied(env))) for _ in range(4)}) >= FEWEST
    assert len({tuple(begun(copied(rpp_env.parallel_env(seed=3, **SMALL)))) for _ in "ab"}) == 1


@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv])
def test_gymnasiums_copies_play_other_users(vector: Any) -> None:
    make = partial(gymnasium.make, "rpp_env:RPP-v0", **SMALL)
    envs = vector([make] * 4)
    observations, infos = envs.reset()
    assert len(np.unique(observations, axis=0)) >= FEWEST
    assert len(set(infos["user"].tolist())) >= FEWEST
    seeds = envs.np_random_seed
    again, _ = envs.reset(seed=list(seeds))
    np.testing.assert_array_equal(again, observations)
    envs.close()


def test_gymnasiums_generator_is_seeded_too() -> None:
    for env in (JointEnv(**SMALL), many()):
        env.reset()
        expected = np.random.default_rng(env.np_random_seed)
        assert env.np_random.bit_generator.state == expected.bit_generator.state
        before = env.np_random
        env.reset()
        assert env.np_random is before


def test_users_of_a_reset_leave_the_seed_alone() -> None:
    env = core(seed=5)
    env.reset(options={"users": [3, 4]})
    assert env.np_random_seed == 5
    assert begun(env) == begun(core(seed=5))


@pytest.mark.parametrize("seed", [-1, 1.5, "0", [1]])
def test_invalid_seeds_are_refused(seed: Any) -> None:
    with pytest.raises(InvalidOption, match="a seed is an integer of 0 or more, or None; got"):
        core(seed=seed)
    env = core(seed=2)
    with pytest.raises(InvalidOption, match="a seed is an integer of 0 or more, or None; got"):
        env.reset(seed=seed)
    assert begun(env) == begun(core(seed=2))


@pytest.mark.parametrize("seed", [np.int64(7), np.uint32(7)])
def test_numpys_integers_are_seeds(seed: Any) -> None:
    assert begun(core(seed=seed)) == begun(core(), seed=seed) == begun(core(seed=7))
