"""The option `truncation`, the same for all trainers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from rpp_agents import iql, mappo, qmix
from rpp_agents.rollout import what_follows
from rpp_agents.trainers import a2c, vdn
from rpp_agents.trainers.a2c import A2C
from rpp_agents.trainers.ppo import PPO
from rpp_agents.trainers.qmix import monotonic
from rpp_agents.trainers.value import ValueLearner

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Endless:
    """One state in which each step pays 1, cut off after two; column 1 is the time."""

    agents = ("one",)
    action_spaces = (Discrete(2),)
    observation_width = state_width = 2
    max_cycles = 2
    num_envs = 4
    clock = state_clock = slice(1, 2)
    time = 0

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.time = 0
        return self.seen(), {}

    def seen(self) -> Any:
        return np.tile(np.float32([1, self.time / 2]), (4, 1, 1))

    def state(self) -> Any:
        return self.seen()[:, 0]

    def action_masks(self) -> Any:
        return np.ones((1, 2), np.int8)

    def step(self, actions: Any) -> Any:
        self.time += 1
        over = np.full(4, self.time == 2)
        return SimpleNamespace(
            observations=self.seen(),
            rewards=np.ones(4),
            terminated=np.zeros(4, bool),
            truncated=over,
            infos={},
        )


EXPECTED = {"bootstrap": (1.0, False), "stop": (0.5, False), "terminate": (1.0, True)}


@pytest.mark.parametrize("truncation", EXPECTED)
@pytest.mark.parametrize("kind", ["mappo", "ippo", "a2c", "qmix"])
def test_all_trainers_follow_the_option(kind: str, truncation: Any) -> None:
    learner: Any
    if kind == "qmix":
        config = qmix.Config(truncation=truncation, normalize_inputs=False)
        learner = ValueLearner(Endless(), config, monotonic)
        learner.reset(0)
        learner.play(0.0)
        learner.play(0.0)
        kept = {name: x[4:8].numpy() for name, x in learner.replay.data.items()}
        times = [kept["next_observations"][..., 1], kept["next_state"][..., 1]]
        ended = kept["terminated"]
    else:
        if kind == "a2c":
            learner = A2C(Endless(), a2c.Config(truncation=truncation))
        else:
            given: Any = "state" if kind == "mappo" else "observations"
            learner = PPO(Endless(), mappo.Config(truncation=truncation), given)
        learner.reset(0)
        rollout = learner.collector.collect(learner.choose, 2)
        assert not rollout.terminated[0].any()
        assert (rollout.next_inputs[0][..., 1] == 0.5).all()
        assert rollout.ended[1].all()
        times, ended = [rollout.next_inputs[1][..., 1]], rollout.terminated[1]
    time, over = EXPECTED[truncation]
    assert all((found == time).all() for found in times)
    assert (ended == over).all()


def test_the_defaults_equal_each_trainers_earlier_behaviour() -> None:
    assert {module.Config().truncation for module in (mappo, a2c)} == {"bootstrap"}
    assert {module.Config().truncation for module in (iql, vdn, qmix)} == {"stop"}


def test_a_termination_is_one_under_every_option() -> None:
    step: Any = SimpleNamespace(
        terminated=np.array([True, False]), truncated=np.array([True, False])
    )
    after, before = np.full((2, 3), 2.0, np.float32), np.ones((2, 3), np.float32)
    for truncation in ("bootstrap", "stop", "terminate"):
        seen, ended = what_follows(truncation, step, after, before, slice(2, 3))  # type: ignore[arg-type]
        assert (seen == after).all()
        assert ended.tolist() == [True, False]


@pytest.mark.parametrize(("truncation", "worth"), [("terminate", 1.0), ("stop", 2.0)])
def test_values_of_the_last_step_are_those_of_the_option(truncation: Any, worth: float) -> None:
    """With a discount of 0.5: 1 if nothing follows, and 2 if the clock stops there for ever."""
    config = mappo.Config(
        truncation=truncation,
        gamma=0.5,
        gae_lambda=0.0,
        value_norm=False,
        normalize_inputs=False,
        layer_norm=False,
        schedule="constant",
        learning_rate=1e-2,
        hidden=(16,),
    )
    learner = PPO(Endless(), config, "state")
    learner.reset(0)
    for _ in range(150):
        learner.iterate(0.0)
    last = torch.tensor([[1.0, 0.5]])
    assert float(learner.critic(last).detach()) == pytest.approx(worth, abs=0.1)
