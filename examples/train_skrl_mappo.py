"""Train skrl's MAPPO on the four agents, on many users at once.

skrl's own wrapper accepts `rpp_env.parallel_env`, with one user at a time. `Users` gives skrl a
whole batch instead, with one call of the model per step, and begins new episodes itself, as skrl
expects of several environments.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from skrl.envs.wrappers.torch import MultiAgentEnvWrapper
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.multi_agents.torch.mappo import MAPPO, MAPPO_CFG
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import nn

import rpp_env

FAST = "RPP_ENV_FAST" in os.environ
STEPS, COPIES, ITERATIONS = 5, *((16, 2) if FAST else (256, 100))
WORLD: dict[str, Any] = {"num_users": 120, "num_items": 100} if FAST else {}


class Users(MultiAgentEnvWrapper):
    """A batch of users, each value as a tensor (users, ...) per agent."""

    def __init__(self, copies: int, **options: Any) -> None:
        super().__init__(rpp_env.parallel_env(**options))  # names and spaces
        self.users = rpp_env.RPPEnv.make(num_envs=copies, **options)
        self.seed: int | None = options.get("seed")

    @property
    def num_envs(self) -> int:
        return self.users.num_envs

    def each(self, values: np.ndarray) -> dict[str, torch.Tensor]:
        """Convert (users, agents, ...) or (users,) to a tensor for each agent."""
        if values.ndim == 1:
            values = np.repeat(values[:, None, None], len(self.possible_agents), axis=1)
        tensors = torch.as_tensor(values, device=self.device)
        tensors = tensors.float() if tensors.is_floating_point() else tensors
        return dict(zip(self.possible_agents, tensors.unbind(1), strict=True))

    def reset(self) -> Any:
        observations, _ = self.users.reset()
        return self.each(observations), {}

    def step(self, actions: dict[str, torch.Tensor]) -> Any:
        joint = torch.cat([actions[agent] for agent in self.possible_agents], dim=1)
        step = self.users.step(joint.cpu().numpy())
        # The agents observe the time, so the time limit may count as termination, with value 0.
        # skrl would otherwise propagate the next user's rewards across it.
        ended = step.terminated | step.truncated
        observations = step.observations
        if ended.all():
            observations, _ = self.users.reset()
        given = (observations, step.rewards, ended, np.zeros_like(ended))
        return *map(self.each, given), {}

    def state(self) -> dict[str, torch.Tensor]:
        state = torch.as_tensor(self.users.state(), device=self.device)
        return dict.fromkeys(self.possible_agents, state)

    def render(self, *_: Any, **__: Any) -> None: ...

    def close(self) -> None: ...


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(inputs), nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


class Policy(CategoricalMixin, Model):
    def __init__(self, observation_space: Any, action_space: Any) -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space)
        CategoricalMixin.__init__(self)
        self.net = network(self.num_observations, self.num_actions)

    def compute(self, inputs: Any, role: str) -> Any:
        return self.net(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    def __init__(self, state_space: Any) -> None:
        Model.__init__(self, state_space=state_space)
        DeterministicMixin.__init__(self)
        self.net = network(self.num_states, 1)

    def compute(self, inputs: Any, role: str) -> Any:
        return self.net(inputs["states"]), {}


class Greedy:
    """The trained agents as a policy for `rpp_env.evaluate`; skrl's own evaluation samples."""

    def __init__(self, policies: list[Policy]) -> None:
        self.policies = policies

    def act(self, observations: Any, masks: Any = None, greedy: bool = True, memory: Any = None):
        seen = torch.as_tensor(observations).unbind(1)
        with torch.no_grad():
            best = [p.net(x).argmax(-1) for p, x in zip(self.policies, seen, strict=True)]
        return torch.stack(best, dim=1).numpy(), memory


set_seed(0)
torch.set_num_threads(1)  # networks this small gain nothing from more
env = Users(COPIES, split="train", seed=0, **WORLD)
names = env.possible_agents
models = {
    agent: {
        "policy": Policy(env.observation_space(agent), env.action_space(agent)),
        "value": Value(env.state_space(agent)),
    }
    for agent in names
}
config = MAPPO_CFG(
    rollouts=STEPS,
    learning_epochs=4,
    mini_batches=4,
    discount_factor=0.95,
    entropy_loss_scale=0.01,
    # skrl 2.1 refuses the empty defaults of these.
    **{
        f"{part}_kwargs": {agent: {} for agent in names}
        for part in ("learning_rate_scheduler", "observation_preprocessor", "state_preprocessor")
    },
    value_preprocessor_kwargs={agent: {} for agent in names},
)
config.experiment.write_interval = config.experiment.checkpoint_interval = 0
mappo = MAPPO(
    possible_agents=names,
    models=models,
    memories={agent: RandomMemory(memory_size=STEPS, num_envs=COPIES) for agent in names},
    observation_spaces=env.observation_spaces,
    state_spaces=env.state_spaces,
    action_spaces=env.action_spaces,
    device="cpu",
    cfg=config,
)
held_out = rpp_env.RPPEnv.make(split="validation", num_envs=500, **WORLD)
trained = Greedy([models[agent]["policy"] for agent in names])


def score() -> float:
    report = rpp_env.evaluate(trained, held_out, baselines=("random",))
    return report.lines["policy"]["ndcg@10"].value


print(f"validation NDCG@10 before training: {score():.3f}")
timesteps = STEPS * ITERATIONS
SequentialTrainer(
    env=env, agents=mappo, cfg={"timesteps": timesteps, "disable_progressbar": True}
).train()
print(f"validation NDCG@10 after training:  {score():.3f}")
