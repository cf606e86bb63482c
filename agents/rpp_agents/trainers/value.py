"""Value learning for several agents: the shared part of IQL, VDN and QMIX.

Every agent has a network that estimates the value of each of its actions, and takes the best one:
actions are `Discrete`. The three differ in one argument, the `mixer`, which combines the agents'
Q-values into the value that is trained on the reward: each value alone (IQL), their sum (VDN), or
any function of them and of the state that increases with each of them (QMIX). None of these can
change the order of an agent's actions, so the agents' own best actions are the team's best ones,
and agents can act without knowledge of each other. The rest is shared: replay, double Q-learning
with a target network, and exploration by random actions.

If an episode is truncated, its next state is by default evaluated at the time of the last step
(`truncation="stop"`; `rpp_agents.rollout.mask_truncation_time` explains why).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rpp_agents.actors import MASKED, QNetwork, make_actor
from rpp_agents.networks import FeatureNorm, Memory
from rpp_agents.observing import ObservationConfig
from rpp_agents.policy import QPolicy, epsilon_greedy
from rpp_agents.rollout import (
    BatchedEnv,
    Truncation,
    check_rewards,
    clock_columns,
    env_actions,
    info_means,
    reset_ended,
    what_follows,
)
from rpp_agents.trainers.replay import Replay
from rpp_agents.training import check_numbers, kept_tensors, restore_tensors
from rpp_env.errors import InvalidOption, ResetNeeded

__all__ = ["Config", "Mixer", "ValueLearner", "td_targets"]


@dataclass(frozen=True)
class Config(ObservationConfig):
    """Options of value learning."""

    truncation: Truncation = "stop"
    """What follows the last step of a truncated episode: the value of its last observation, whose
    time no step begins at (bootstrap), the value of that observation at the time before (stop), or
    nothing, as after a termination (terminate)."""
    rollout_steps: int = 0
    """Number of steps of every environment in an iteration; 0: one episode, at most 128."""
    updates: int = 1
    """Number of gradient steps after every step of the environments (which step together)."""
    batch: int = 512
    """Number of transitions in a gradient step."""
    capacity: int = 50_000
    """Capacity of the replay buffer; when it is full, the oldest transitions are overwritten."""
    target_update: float = 0.01
    """Update of the target network: below 1, the share by which it moves after every gradient
    step; from 1, the number of gradient steps after which it is copied."""
    epsilon: float = 1.0
    """Probability of a random action at the start, for each agent separately."""
    epsilon_end: float = 0.05
    """Probability of a random action when exploration has ended; it falls linearly."""
    explore: float = 0.3
    """Share of the run after which `epsilon_end` is reached."""
    learning_rate: float = 1e-3
    """Adam's learning rate at the start."""
    schedule: Literal["linear", "constant"] = "linear"
    """Whether the learning rate falls linearly to 0 over the run."""
    huber: float = 10.0
    """TD error from which the loss is linear instead of square."""
    weight_decay: float = 0.0
    """Share by which each weight shrinks at a gradient step, times the learning rate (AdamW)."""
    max_grad_norm: float = 10.0
    """Maximum norm of the gradient."""
    normalize_rewards: bool = False
    """Whether to divide rewards by their running standard deviation; the mean is kept."""
    normalize_inputs: bool = True
    """Whether to normalise the networks' inputs to mean 0 and deviation 1 (running statistics)."""
    shared: bool = False
    """Whether all agents share a network, with the agent's index as input."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the agents' networks."""
    layer_norm: bool = False
    """Whether to normalise each vector before the agents' first layers."""
    blind: bool = False
    """Whether the agents see only the time; a mixer, used in training only, sees all."""
    memory: int = 0
    """Width of the state of a GRU in which each agent remembers the episode; 0: no memory. The
    replay buffer then holds whole sequences (rollouts of one environment) with the state before
    their first step, `capacity` and `batch` still count transitions, and gradient steps are taken
    after each rollout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "updates", "batch", "capacity")
        check_numbers(self, 0, "rollout_steps", "memory", "weight_decay")
        check_numbers(self, 0, "epsilon", "epsilon_end", "explore", highest=1)
        check_numbers(
            self, 0, "target_update", "learning_rate", "huber", "max_grad_norm", above=True
        )
        if not self.hidden or min(self.hidden) < 1:
            raise InvalidOption(
                f"hidden must name at least one width of 1 or more, not {self.hidden}"
            )


class Mixer(nn.Module):
    """Combines the agents' Q-values into the value that is trained on the reward."""

    sees_state = False
    """Whether it also takes the team's state (B, s)."""
    one_value = False
    """Whether it returns one value for the team, trained on its reward; else one per agent."""

    def forward(self, values: Tensor, *state: Tensor) -> Tensor:
        """Return (B, n) or (B, 1) for the agents' values (B, n)."""
        raise NotImplementedError


C = TypeVar("C", bound=Config)

# The algorithm


def td_targets(rewards: Tensor, next_values: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """Compute TD targets: the reward plus, unless terminated, the discounted next value.

    `rewards` and `next_values` are (B, m), `terminated` is bool (B,). A truncated episode is not
    terminated: its true last state has a value.
    """
    return rewards + gamma * (~terminated)[:, None] * next_values


class ValueLearner:
    """The agents' networks, their target, a mixer and a replay.

    Parameters
    ----------
    env : BatchedEnv
        The environment to play.
    config : Config
    mixer : callable
        Makes the mixer for this environment and config. If it returns one value for the team, the
        reward is the team's: the mean over agents if each has its own, so that the size of rewards
        does not depend on the number of agents.
    """

    def __init__(self, env: BatchedEnv, config: C, mixer: Callable[[BatchedEnv, C], Mixer]) -> None:
        self.env, self.config = env, config
        actions = env_actions(env)
        agents = len(env.agents)
        self.device = torch.device(config.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = make_actor(
                QNetwork,
                env.observation_width,
                actions,
                hidden=config.hidden,
                layer_norm=config.layer_norm,
                shared=config.shared,
                normalize=config.normalize_inputs,
                visible=clock_columns(env) if config.blind else None,
                memory=config.memory,
            ).to(self.device)
            self.mixer = mixer(env, config).to(self.device)
        # The target shares the input statistics: only the layers after them are copied.
        self.learnt = nn.ModuleDict({"net": self.network.net, "mixer": self.mixer})
        if self.network.memory is not None:
            self.learnt["memory"] = self.network.memory
        self.target = copy.deepcopy(self.learnt).requires_grad_(False)
        self.state_norm = FeatureNorm(env.state_width).to(self.device)
        self.reward_norm = FeatureNorm(1).to(self.device)
        self._ahead, self._behind = (list(x.parameters()) for x in (self.learnt, self.target))
        self.optimizer = torch.optim.AdamW(
            self._ahead, lr=config.learning_rate, eps=1e-5, weight_decay=config.weight_decay
        )
        self.gradient_steps = 0

        self.sees_state: bool = self.mixer.sees_state
        self.outputs: int = 1 if self.mixer.one_value else agents
        seen = ((agents, env.observation_width), torch.float32)
        fields = {
            "observations": seen,
            "actions": ((agents,), torch.int64),
            "rewards": ((self.outputs,), torch.float32),
            "terminated": ((), torch.bool),
            "next_observations": seen,
            "next_masks": (actions.legal.shape, torch.bool),
        }
        if self.sees_state:
            fields["state"] = fields["next_state"] = ((env.state_width,), torch.float32)
        self.team = config.team_reward or self.mixer.one_value
        self.rollout_steps = config.rollout_steps or min(int(env.max_cycles), 128)
        capacity = config.capacity
        if self.network.memory is not None:
            length = self.rollout_steps
            capacity = max(capacity // length, env.num_envs)
            fields = {name: ((length, *shape), kind) for name, (shape, kind) in fields.items()}
            fields["begins"] = ((length,), torch.bool)
            fields["start"] = ((agents, config.memory), torch.float32)
        self.replay = Replay(capacity, fields)
        self.steps = self.rollout_steps * env.num_envs
        self.rng = np.random.default_rng(config.seed)
        self.policy = QPolicy(self.network, epsilon=config.epsilon_end, seed=config.seed)
        self._observations: NDArray[np.float32] | None = None
        self._memory: NDArray[np.float32] | None = None
        self._begins = np.zeros(env.num_envs, np.bool_)
        self._sequence: list[dict[str, NDArray[Any]]] = []

    def reset(self, seed: int) -> None:
        """See `Learner.reset`."""
        self._observations = self.env.reset(seed=seed)[0]
        self._memory = None

    def epsilon(self, progress: float) -> float:
        """Return the probability of a random action at this share of the run."""
        start, end, share = self.config.epsilon, self.config.epsilon_end, self.config.explore
        return start + (end - start) * min(progress / share, 1.0) if share else end

    def iterate(self, progress: float) -> dict[str, float]:
        """See `Learner.iterate`."""
        config, epsilon = self.config, self.epsilon(progress)
        rate = config.learning_rate * (1 - progress if config.schedule == "linear" else 1.0)
        self.optimizer.param_groups[0]["lr"] = rate
        played: list[dict[str, float]] = []
        learnt: list[dict[str, Tensor]] = []
        recurrent = self.network.memory is not None
        start = self._memory
        for _ in range(self.rollout_steps):
            played.append(self.play(epsilon))
            if not recurrent:
                learnt += [self.learn() for _ in range(config.updates)]
        if recurrent:
            self._add_sequences(start)
            learnt = [self.learn() for _ in range(config.updates * self.rollout_steps)]
        return {
            **{key: float(np.mean([row[key] for row in played])) for key in played[0]},
            **{key: float(torch.stack([row[key] for row in learnt]).mean()) for key in learnt[0]},
            "epsilon": epsilon,
            "learning_rate": rate,
        }

    def play(self, epsilon: float) -> dict[str, float]:
        """Play one step of every environment, into the replay buffer."""
        env, observations = self.env, self._observations
        if observations is None:
            raise ResetNeeded("call reset(seed) before the first step")
        values, legal, memory = self.policy.recall(observations, env.action_masks(), self._memory)
        actions = epsilon_greedy(values, legal, epsilon, self.rng)
        states = {"state": env.state()} if self.sees_state else {}
        step = env.step(actions)
        rule = self.config.truncation
        following, terminated = what_follows(
            rule, step, step.observations, observations, getattr(env, "clock", None)
        )
        if self.sees_state:
            states["next_state"], _ = what_follows(
                rule, step, env.state(), states["state"], getattr(env, "state_clock", None)
            )
        check_rewards(np.asarray(step.rewards))
        paid = np.asarray(step.rewards, np.float32).reshape(env.num_envs, -1)
        rewards = paid.mean(axis=1, keepdims=True) if self.team else paid
        masks = env.action_masks() != 0
        transition: dict[str, NDArray[Any]] = dict(
            observations=observations,
            actions=actions,
            rewards=np.broadcast_to(rewards, (env.num_envs, self.outputs)),
            terminated=terminated,
            next_observations=following,
            next_masks=np.broadcast_to(masks, (env.num_envs, *masks.shape[-2:])),
            **states,
        )
        ended = step.terminated | step.truncated
        if self.network.memory is None:
            self.replay.add(**transition)
        else:
            self._sequence.append(transition | {"begins": self._begins})
            self._begins = ended
            self._memory = np.where(ended[:, None, None], np.float32(0), memory)
        if self.config.normalize_inputs:
            self.network.observe(self._tensor(observations))
            if self.sees_state:
                self.state_norm.update(self._tensor(states["state"]))
        if self.config.normalize_rewards:
            self.reward_norm.update(self._tensor(rewards))
        self._observations = reset_ended(env, step.observations, ended)
        infos = {f"info/{key}": mean for key, mean in info_means(env, step.infos).items()}
        return {"reward": float(paid.mean()), **infos}

    def _add_sequences(self, start: NDArray[np.float32] | None) -> None:
        """Put the rollout into the replay buffer, a sequence for each environment."""
        steps, self._sequence = self._sequence, []
        # The state before the first step is 0 where an episode began with it.
        steps[0]["begins"] = np.zeros_like(steps[0]["begins"])
        memory = self.network.memory
        assert memory is not None
        batch = self.env.num_envs
        self.replay.add(
            **{name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]},
            start=memory.start(batch).cpu().numpy() if start is None else start,
        )

    def learn(self) -> dict[str, Tensor]:
        """Take one gradient step on transitions from the replay buffer."""
        config, memory = self.config, self.network.memory
        count = config.batch if memory is None else max(config.batch // self.rollout_steps, 1)
        batch = {
            name: tensor.to(self.device)
            for name, tensor in self.replay.sample(self.rng, count).items()
        }
        if memory is None:
            features = self.network.features(batch["observations"])
        else:
            features, batch = self._remembered(batch)
        with torch.no_grad():
            targets = self.targets(batch)
        state = [self.state_norm(batch["state"])] if self.sees_state else []
        values = self.network.net(features)
        chosen = values.gather(-1, batch["actions"][..., None])[..., 0]
        mixed = self.mixer(chosen, *state)
        loss = nn.functional.huber_loss(mixed, targets, delta=config.huber)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = nn.utils.clip_grad_norm_(self._ahead, config.max_grad_norm)
        self.optimizer.step()
        self.gradient_steps += 1
        self._follow()
        return {"loss": loss.detach(), "value": mixed.detach().mean(), "gradient": gradient}

    def _remembered(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the memories over sequences (S, T, ...).

        Returns the network's inputs (S * T, n, f + h), and the batch as transitions (S * T, ...),
        with ``next_features`` and ``target_features``: the inputs after the step, of the network
        and of its target.
        """
        memory = self.network.memory
        assert memory is not None
        begins, start = batch.pop("begins").T, batch.pop("start")
        seen = batch["observations"].transpose(0, 1)
        steps = {name: tensor.transpose(0, 1).flatten(0, 1) for name, tensor in batch.items()}
        features = self.network.features(seen)
        remembered = memory(features, begins, start).flatten(0, 1)
        with torch.no_grad():
            following = self.network.features(steps["next_observations"])
            steps["next_features"] = memory.step(following, memory.states(remembered))
            target = self.target["memory"]
            assert isinstance(target, Memory)
            before = target.states(target(features, begins, start).flatten(0, 1))
            steps["target_features"] = target.step(following, before)
        return remembered, steps

    def targets(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Compute the targets of a batch's mixed values.

        Double Q-learning: the network chooses the next actions, its target evaluates them.
        """
        inputs = batch.get("next_features")
        if inputs is None:  # without a memory
            inputs = self.network.features(batch["next_observations"])
        judged = batch.get("target_features", inputs)
        legal = self.network.legal & batch["next_masks"]
        best = self.network.net(inputs).masked_fill(~legal, MASKED).argmax(-1, keepdim=True)
        worth = self.target["net"](judged).gather(-1, best)[..., 0]
        state = [self.state_norm(batch["next_state"])] if self.sees_state else []
        rewards = batch["rewards"]
        if self.config.normalize_rewards:
            rewards = rewards / self._reward_scale()
        return td_targets(
            rewards, self.target["mixer"](worth, *state), batch["terminated"], self.config.discount
        )

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the target network."""
        period = self.config.target_update
        if period >= 1 and self.gradient_steps % int(period):
            return
        for behind, ahead in zip(self._behind, self._ahead, strict=True):
            behind.lerp_(ahead, min(period, 1.0))

    def _reward_scale(self) -> Tensor:
        seen = self.reward_norm
        return (seen.square - seen.mean**2).clamp(min=1e-4).sqrt().float()

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    # Content of a checkpoint

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {
            "network": self.network,
            "mixer": self.mixer,
            "target": self.target,
            "state_norm": self.state_norm,
            "reward_norm": self.reward_norm,
        }

    def tensors(self) -> dict[str, Tensor]:
        """See `Learner.tensors`."""
        return {
            **kept_tensors(self._modules, {"learnt": self.optimizer}),
            **self.replay.tensors(),
            "gradient_steps": torch.tensor(self.gradient_steps),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Learner.restore`."""
        restore_tensors(self._modules, {"learnt": self.optimizer}, tensors)
        self.replay.restore(tensors)
        self.gradient_steps = int(tensors["gradient_steps"])
