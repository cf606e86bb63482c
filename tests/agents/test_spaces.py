"""Learners on other prompts than sentences: a small SASRec reads vectors and tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_sasrec import WIDTH, Slotted, small_world, trained

from rpp_agents import a2c, central, ippo, iql, mappo, qmix, vdn
from rpp_agents.policy import load_policy
from rpp_env import Dataset, InvalidOption, RPPEnv
from rpp_env.episode import Episode
from rpp_env.evaluation.baselines import fixed_prompts, search_fixed
from rpp_env.prompting import Rankings
from rpp_env.recommenders.sasrec import SASRec
from rpp_env.testing import check_space
from rpp_env.tokens import TokenPrompts
from rpp_env.vectors import CodebookPrompts, PrefixPrompts, VectorPrompts

NAMES = ("first", "second")
FEW: dict[str, Any] = {"total_steps": 64, "evaluations": 1, "eval_episodes": 8, "hidden": (16,)}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return small_world()


@pytest.fixture(scope="module")
def sasrec(data: Dataset) -> SASRec:
    return trained(data)


@pytest.fixture(scope="module")
def items(sasrec: SASRec) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = sasrec.weights["items.weight"].numpy()
    return vectors


def learner(trainer: Any, **options: Any) -> Callable[[RPPEnv, RPPEnv], Any]:
    return lambda env, eval_env: trainer.train(
        env, trainer.Config(**{**FEW, **options}), eval_env=eval_env
    )


def test_actors_learn_vectors(data: Dataset, sasrec: SASRec) -> None:
    space = VectorPrompts(2 * np.eye(WIDTH)[:4], NAMES)
    learners = [learner(mappo), learner(ippo), learner(a2c)]
    check_space(space, sasrec, data, learners=learners, load=load_policy)


def test_every_learner_chooses_from_a_codebook(
    data: Dataset, sasrec: SASRec, items: NDArray[np.float32]
) -> None:
    space = CodebookPrompts(items[:4] * 4, NAMES)
    learners = [learner(trainer) for trainer in (mappo, iql, vdn, qmix, central)]
    learners.append(lambda env, _: search_fixed(env)[0])
    check_space(space, sasrec, data, learners=learners, load=load_policy)


def test_learners_fill_slots(data: Dataset, sasrec: SASRec, items: NDArray[np.float32]) -> None:
    tokens = np.arange(3, 9)
    space = TokenPrompts(tokens, items[tokens], NAMES)
    learners = [learner(mappo), learner(iql)]
    check_space(space, Slotted(sasrec, items), data, learners=learners, load=load_policy)


@pytest.mark.parametrize("trainer", [iql, vdn, qmix, central], ids=lambda t: t.__name__)
def test_algorithms_that_count_actions_refuse_vectors(
    data: Dataset, sasrec: SASRec, trainer: Any
) -> None:
    env = RPPEnv.make(
        data, sasrec, space=VectorPrompts(np.eye(WIDTH)), rules=Episode("test-v0", 1), num_envs=4
    )
    with pytest.raises(InvalidOption, match=r"Box|vectors"):
        trainer.train(env, trainer.Config(**FEW))


def test_mappo_finds_a_prefix_that_helps(data: Dataset, sasrec: SASRec, tmp_path: Path) -> None:
    """A world where one direction is good: what is paid rises with the first number of a code."""

    class First:
        """Ranks the target higher the larger the first number of the prefix is."""

        reads = PrefixPrompts

        def rank(self, prompts: PrefixPrompts) -> Rankings:
            value = np.asarray(prompts.prefix)[:, 0, 0]
            K = prompts.tasks.num_candidates
            place = np.clip(np.round((1 - value) / 2 * (K - 1)), 0, K - 1).astype(int)
            order = (np.arange(K) - place[:, None] + prompts.tasks.position[:, None]) % K
            return Rankings(order, np.full(len(order), K))

    env = RPPEnv.make(
        data,
        First(),
        space=VectorPrompts(np.eye(2)),
        rules=Episode("test-v0", 1),
        num_envs=64,
        seed=0,
    )
    config = mappo.Config(total_steps=6_000, evaluations=0, seed=0, hidden=(32,))
    policy = mappo.train(env, config)
    env.reset(seed=1)
    seen, _ = env.reset(seed=1)
    actions, _ = policy.act(seen, env.action_masks(), greedy=True)
    assert actions[:, 0, 0].mean() > 0.8
    assert env.step(actions).rewards.mean() > 0.8


def test_halving_finds_the_entry_that_helps(data: Dataset) -> None:
    class Sorted:
        """Ranks the target first under entry 2 of the codebook, and last under the others."""

        reads = PrefixPrompts

        def rank(self, prompts: PrefixPrompts) -> Rankings:
            K = prompts.tasks.num_candidates
            good = np.asarray(prompts.prefix)[:, :, 0].sum(axis=1) == 4
            place = np.where(good, 0, K - 1)
            order = (np.arange(K) - place[:, None] + prompts.tasks.position[:, None]) % K
            return Rankings(order, np.full(len(order), K))

    space = CodebookPrompts(np.arange(5.0)[:, None] * np.ones(3), NAMES)
    env = RPPEnv.make(data, Sorted(), space=space, rules=Episode("test-v0", 1), num_envs=16, seed=0)
    best, mean = search_fixed(env, budget=400)
    assert mean == 1.0
    assert best.plan.sum() == 4
    assert len(fixed_prompts(space, 1)) == 25
    first, second = best.plan[0].tolist()
    assert best.described(space) == f"first {first}, second {second}"
