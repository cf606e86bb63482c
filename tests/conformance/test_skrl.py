"""skrl: its wrapper of the parallel environment, its seeds and its time limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_env.sentences import AGENTS

pytest.importorskip("skrl", reason="skrl is not installed")

import torch
from skrl.envs.wrappers.torch import wrap_env
from skrl.models.torch import CategoricalMixin, Model
from skrl.multi_agents.torch.mappo.mappo import compute_gae
from skrl.utils import set_seed

WORLD: dict[str, Any] = {"num_users": 3000, "num_items": 100}


def test_the_wrapper_reads_public_spaces(world: dict[str, Any]) -> None:
    made = rpp_env.parallel_env(**world)
    env = wrap_env(made, verbose=False)
    assert env.observation_spaces is made.observation_spaces
    assert env.action_spaces is made.action_spaces
    assert all(space is made.state_space for space in env.state_spaces.values())
    observations, _ = env.reset()
    assert {x.shape for x in observations.values()} == {(1, made.core.observation_width)}
    for _ in range(5):
        actions = {agent: torch.zeros(1, 1, dtype=torch.int64) for agent in env.agents}
        _, rewards, terminated, truncated, _ = env.step(actions)
        assert {x.shape for x in rewards.values()} == {(1, 1)}
    assert all(x.item() for x in truncated.values())
    assert not any(x.item() for x in terminated.values())
    assert not env.agents
    assert env.state()[AGENTS[0]].shape == (1, made.core.state_width)


def test_its_wrappers_all_begin_with_the_seed_of_the_library() -> None:
    def firsts(count: int) -> set[bytes]:
        envs = [wrap_env(rpp_env.parallel_env(**WORLD), verbose=False) for _ in range(count)]
        return {env.reset()[0][AGENTS[0]].numpy().tobytes() for env in envs}

    set_seed(0)
    zero = firsts(3)
    assert len(zero) == 1
    set_seed(1)
    assert zero.isdisjoint(firsts(1))


def test_by_default_a_truncated_episode_flows_into_the_next() -> None:
    """So a trainer of RPP-v0 sets `time_limit_bootstrap`, or counts the end as terminated."""
    no, yes = torch.tensor([[False], [False]]), torch.tensor([[True], [False]])
    given = {"rewards": torch.tensor([[0.0], [1.0]]), "values": torch.zeros(2, 1)}
    given |= {"terminated": no, "last_values": torch.zeros(1)}
    returns = [
        compute_gae(**given, truncated=cut, time_limit_bootstrap=kept)[0][0].item()
        for cut, kept in ((no, False), (yes, False), (yes, True))
    ]
    assert returns[0] == returns[1] > 0.9
    assert returns[2] == 0


def test_a_categorical_policy_names_no_greedy_action() -> None:
    """So `trainer.eval` samples whatever it is set to, and the example takes the best itself."""

    class Policy(CategoricalMixin, Model):  # type: ignore[misc]
        def __init__(self, env: Any) -> None:
            agent = AGENTS[0]
            Model.__init__(
                self,
                observation_space=env.observation_space(agent),
                action_space=env.action_space(agent),
            )
            CategoricalMixin.__init__(self)

        def compute(self, inputs: Any, role: str) -> Any:
            return torch.zeros(len(inputs["observations"]), self.num_actions), {}

    env = rpp_env.parallel_env(**WORLD)
    seen = torch.as_tensor(env.reset()[0][AGENTS[0]])[None]
    _, outputs = Policy(env).act({"observations": seen}, role="policy")
    assert "mean_actions" not in outputs
    assert np.prod(outputs["net_output"].shape) == 5
