"""Proximal policy optimisation for several agents: the shared part of MAPPO and IPPO.

The two differ in one argument, `critic_input`: a critic of the team's state (``"state"``, MAPPO) or
of each agent's own observation (``"observations"``, IPPO). The rest follows Yu et al. 2022 ("The
Surprising Effectiveness of PPO in Cooperative Multi-Agent Games") and their code: decentralised
actors, generalised advantage estimation, value normalisation, a clipped Huber loss for the values,
advantages normalised over the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rpp_agents.actors import TeamActor, independent, make_actor
from rpp_agents.networks import Critic, ValueNorm, central_critic, local_critic
from rpp_agents.observing import ObservationConfig
from rpp_agents.policy import NetworkPolicy
from rpp_agents.rollout import (
    BatchedEnv,
    Collector,
    CriticInput,
    Rollout,
    clock_columns,
    env_actions,
)
from rpp_agents.training import check_numbers, kept_tensors, restore_tensors
from rpp_env.errors import InvalidOption

__all__ = ["PPO", "Config", "OnPolicy", "gae"]


@dataclass(frozen=True)
class Config(ObservationConfig):
    """Options of PPO."""

    rollout_steps: int = 0
    """Number of steps of every environment between updates; 0: one episode, at most 128."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation: 0 uses the critic, 1 the returns."""
    learning_rate: float = 3e-3
    """Adam's learning rate at the start, for actors and critic."""
    schedule: Literal["linear", "constant"] = "linear"
    """Whether the learning rate falls linearly to 0 over the run."""
    epochs: int = 2
    """Number of passes over each rollout."""
    minibatches: int = 4
    """Number of minibatches in each pass."""
    clip: float = 0.2
    """Clipping range of the probability ratio and of the normalised value."""
    entropy: float = 0.05
    """Weight of the entropy bonus at the start."""
    entropy_end: float = 0.001
    """Weight of the entropy bonus at the end; it changes linearly."""
    huber: float = 10.0
    """Error at which the value loss turns from square to linear, in normalised units."""
    weight_decay: float = 0.0
    """Share by which each weight shrinks at a gradient step, times the learning rate (AdamW)."""
    max_grad_norm: float = 10.0
    """Maximum norm of the actors' gradient and of the critic's gradient."""
    value_norm: bool = True
    """Whether to normalise the critic's targets by running statistics of the returns."""
    normalize_inputs: bool = True
    """Whether to normalise the networks' inputs to mean 0 and deviation 1 (running statistics)."""
    normalize_advantages: bool = True
    """Whether to normalise the advantages of each rollout to mean 0 and deviation 1."""
    shared: bool = False
    """Whether all agents share a network, with the agent's index as input."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of actors and critic."""
    layer_norm: bool = True
    """Whether to normalise each vector before the networks' first layers."""
    blind: bool = False
    """Whether the actors see only the time; the critic, used in training only, sees all."""
    memory: int = 0
    """Width of the state of a GRU in which each agent, and the critic, remembers the episode; 0: no
    memory. Minibatches are then of whole sequences, each a rollout of one environment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "epochs", "minibatches")
        check_numbers(self, 0, "rollout_steps", "entropy", "entropy_end", "memory", "weight_decay")
        check_numbers(self, 0, "learning_rate", "clip", "huber", "max_grad_norm", above=True)
        check_numbers(self, 0, "gae_lambda", highest=1)
        if not self.hidden or min(self.hidden) < 1:
            raise InvalidOption(
                f"hidden must name at least one width of 1 or more, not {self.hidden}"
            )


# The algorithm


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Compute generalised advantage estimates (Schulman et al. 2016).

    Parameters
    ----------
    rewards, values, next_values : (T, B, n)
        `next_values` are those after the step in the same episode: of the true final state if the
        step was an episode's last.
    terminated, ended : bool (T, B)
        Where the episode ended by itself, so that the next value counts as 0; and where it ended
        for any reason, so that later advantages belong to another episode.
    gamma, lam : float

    Returns
    -------
    (T, B, n)
    """
    alive, goes_on = ((~over).to(rewards.dtype)[..., None] for over in (terminated, ended))
    deltas = rewards + gamma * alive * next_values - values
    advantages = torch.empty_like(deltas)
    following = torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = deltas[t] + gamma * lam * goes_on[t] * following
        advantages[t] = following
    return advantages


class OnPolicy(ABC):
    """A learner that plays with its current policy, and updates once on each rollout.

    Attributes
    ----------
    collector : Collector
        Collects rollouts from the environment.
    policy : NetworkPolicy
    critic : Critic
    rng : numpy.random.Generator
    rollout_steps : int
        Number of steps of a rollout, in each copy of the environment.
    device : torch.device
    """

    collector: Collector
    policy: NetworkPolicy
    critic: Critic
    rng: np.random.Generator
    rollout_steps: int
    device: torch.device
    _memory: NDArray[np.float32] | None = None
    _critic_memory: Tensor | None = None

    def reset(self, seed: int) -> None:
        """See `Learner.reset`."""
        self.collector.reset(seed)
        self._memory = self._critic_memory = None

    def iterate(self, progress: float) -> dict[str, float]:
        """See `Learner.iterate`."""
        start = self._going_on()
        rollout = self.collector.collect(self.choose, self.rollout_steps)
        rollout = replace(rollout, memory=start)
        return {
            "reward": float(rollout.rewards.mean()),
            **self.update(rollout, progress=progress),
            **{f"info/{key}": value for key, value in rollout.infos.items()},
        }

    def choose(
        self, observations: NDArray[np.float32], masks: NDArray[np.bool_]
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return sampled actions, (B, n) or (B, n, k), and their log-probabilities."""
        if self.policy.actor.memory is None:
            return self.policy.choose(observations, masks, self.rng)
        memory = self._going_on()
        actions, log_probs, self._memory = self.policy.recall(observations, masks, self.rng, memory)
        return actions, log_probs

    def _going_on(self) -> NDArray[np.float32] | None:
        """Return the actors' memory, with zeros where an episode begins; None at the start."""
        if self._memory is None:
            return None
        return np.where(self.collector.begun[:, None, None], np.float32(0), self._memory)

    def _sequences(self, rollout: Rollout) -> dict[str, Tensor]:
        """Return where episodes begin (T, B), and the memories before the first step (B, k, h)."""
        actors, critics = self.policy.actor.memory, self.critic.memory
        assert actors is not None
        assert critics is not None
        batch = rollout.ended.shape[1]
        start, critic = rollout.memory, self._critic_memory
        return {
            "begins": self._tensor(rollout.begins),
            "start": actors.start(batch) if start is None else self._tensor(start),
            "critic_start": critics.start(batch) if critic is None else critic,
        }

    def _keep(self, rollout: Rollout, read: Tensor, start: Tensor) -> None:
        """Keep the critic's memory after a rollout, from its inputs `read` (T, B, ...)."""
        assert self.critic.memory is not None
        last = self.critic.memory.states(read[-1]).reshape_as(start)
        self._critic_memory = last * ~self._tensor(rollout.ended[-1])[:, None, None]

    @abstractmethod
    def update(self, rollout: Rollout, *, progress: float = 0.0) -> dict[str, float]:
        """Update on one rollout; `progress` (0..1) is the position on the schedules."""

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


class PPO(OnPolicy):
    """Actors, critic and their optimisers.

    Parameters
    ----------
    env : BatchedEnv
        Only its sizes are read.
    config : Config
    critic_input : "state" or "observations"
        The critic's input. Either way it has one value for each agent.
    actor : type of TeamActor, optional
        Kind of actor; by default that of agents that choose separately in their spaces (see
        `rpp_agents.actors`). The advantage of a joint choice is the mean of the agents' advantages.
    """

    def __init__(
        self,
        env: BatchedEnv,
        config: Config,
        critic_input: CriticInput,
        actor: type[TeamActor] | None = None,
    ) -> None:
        agents, self.config = len(env.agents), config
        actions = env_actions(env)
        shape: dict[str, Any] = {
            "hidden": config.hidden,
            "layer_norm": config.layer_norm,
            "normalize": config.normalize_inputs,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            acting = make_actor(
                actor or independent(actions),
                env.observation_width,
                actions,
                shared=config.shared,
                visible=clock_columns(env) if config.blind else None,
                memory=config.memory,
                **shape,
            )
            shape["memory"] = config.memory
            critic = (
                central_critic(env.state_width, agents, **shape)
                if critic_input == "state"
                else local_critic(env.observation_width, agents, shared=config.shared, **shape)
            )
        self.collector = Collector(
            env, critic_input, team_reward=config.team_reward, truncation=config.truncation
        )
        self.rollout_steps = config.rollout_steps or min(int(env.max_cycles), 128)
        self.steps = self.rollout_steps * env.num_envs
        self.device = torch.device(config.device)
        self.actor, self.critic = acting.to(self.device), critic.to(self.device)
        self.norm = ValueNorm(agents).to(self.device)
        self.optimizer = torch.optim.AdamW(
            [*self.actor.parameters(), *self.critic.parameters()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            eps=1e-5,
            fused=True,
        )
        self.rng = np.random.default_rng(config.seed)
        self.policy = NetworkPolicy(self.actor, seed=config.seed)

    def update(self, rollout: Rollout, *, progress: float = 0.0) -> dict[str, float]:
        """Update on one rollout; `progress` (0..1) is the position on the schedules."""
        config = self.config
        rate = config.learning_rate * (1 - progress if config.schedule == "linear" else 1.0)
        bonus = config.entropy + progress * (config.entropy_end - config.entropy)
        self.optimizer.param_groups[0]["lr"] = rate

        observations, raw = self._tensor(rollout.observations), self._tensor(rollout.inputs)
        with torch.no_grad():
            # Normalised once: the statistics are constant during the update.
            features = self.actor.features(observations.flatten(0, 1))
            inputs = self.critic.norm(raw)
            read, sequences = inputs, {}
            if self.critic.memory is not None:
                sequences = self._sequences(rollout)
                read = self.critic.remember(inputs, sequences["begins"], sequences["critic_start"])
                self._keep(rollout, read, sequences["critic_start"])
            old_values = self.critic.net(read)
            values = self._real(old_values)
            advantages = gae(
                self._tensor(rollout.rewards),
                values,
                self._next_values(values, rollout, read),
                self._tensor(rollout.terminated),
                self._tensor(rollout.ended),
                config.discount,
                config.gae_lambda,
            )
            returns = advantages + values
            if config.value_norm:
                self.norm.update(returns)
                targets = self.norm.normalize(returns)
            else:
                targets = returns
            explained = 1 - (returns - values).var() / returns.var().clamp(min=1e-8)
            if rollout.log_probs.shape[-1] == 1:
                advantages = advantages.mean(-1, keepdim=True)
            if config.normalize_advantages:
                advantages = (advantages - advantages.mean()) / (
                    advantages.std(correction=0) + 1e-5
                )

        played = {
            "masks": self._tensor(rollout.masks),
            "actions": self._tensor(rollout.actions),
            "old_log_probs": self._tensor(rollout.log_probs),
            "advantages": advantages,
            "inputs": inputs,
            "old_values": old_values,
            "targets": targets,
        }
        if sequences:
            # Whole sequences, with the environments first.
            data = {name: tensor.transpose(0, 1) for name, tensor in played.items()}
            features = features.reshape(*inputs.shape[:2], *features.shape[1:])
            data["features"] = features.transpose(0, 1)
            data |= sequences | {"begins": sequences["begins"].T}
        else:
            data = {name: tensor.flatten(0, 1) for name, tensor in played.items()}
            data["features"] = features
        parts = [data]
        if config.minibatches > 1:
            order = torch.from_numpy(self.rng.permutation(len(data["features"]))).to(self.device)
            parts = [
                {name: tensor.index_select(0, part) for name, tensor in data.items()}
                for part in order.tensor_split(min(config.minibatches, len(order)))
            ]
        rows = [
            self._descend(parts[i], bonus)
            for _ in range(config.epochs)
            for i in self.rng.permutation(len(parts))
        ]
        # Last, because the probabilities above are compared with those of the rollout.
        self.actor.observe(observations)
        self.critic.observe(raw)
        metrics = {name: torch.stack([row[name] for row in rows]).mean(0) for name in rows[0]}
        return {name: float(value) for name, value in metrics.items()} | {
            "explained_variance": float(explained),
            "learning_rate": rate,
            "entropy_bonus": bonus,
        }

    def _remembered(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the memories over a minibatch of sequences; return it as a minibatch of steps."""
        assert self.actor.memory is not None
        begins = data["begins"].T
        features, inputs = (data[name].transpose(0, 1) for name in ("features", "inputs"))
        steps = {
            name: tensor.transpose(0, 1)
            for name, tensor in data.items()
            if name not in ("begins", "start", "critic_start")
        }
        steps["features"] = self.actor.memory(features, begins, data["start"])
        steps["inputs"] = self.critic.remember(inputs, begins, data["critic_start"])
        return {name: tensor.flatten(0, 1) for name, tensor in steps.items()}

    def _next_values(self, values: Tensor, rollout: Rollout, read: Tensor | None = None) -> Tensor:
        """Values after each step: the next row's, except where an episode or the rollout ends.

        `read` (T, B, ...) are the critic's inputs with its memory, if it has one.
        """
        following = values.roll(-1, dims=0)
        last = rollout.ended.copy()
        last[-1] = True
        # Values after a termination are multiplied by 0.
        cut = self._tensor(last & ~rollout.terminated)
        after = self.critic.norm(self._tensor(rollout.next_inputs)[cut])
        if self.critic.memory is not None and read is not None:
            after = self.critic.after(after, read[cut])
        following[cut] = self._real(self.critic.net(after))
        return following

    def _descend(self, data: dict[str, Tensor], bonus: float) -> dict[str, Tensor]:
        """Take one gradient step for the actors and one for the critic."""
        clip, delta = self.config.clip, self.config.huber
        if "begins" in data:
            data = self._remembered(data)
        chosen, spread = self.actor.evaluate(data["features"], data["masks"], data["actions"])
        change = chosen - data["old_log_probs"]
        ratio = change.exp()
        gains = torch.minimum(
            ratio * data["advantages"], ratio.clamp(1 - clip, 1 + clip) * data["advantages"]
        )
        spread = spread.mean()
        policy_loss = -gains.mean()

        values, old = self.critic.net(data["inputs"]), data["old_values"]
        clipped = old + (values - old).clamp(-clip, clip)
        losses = [
            F.huber_loss(x, data["targets"], delta=delta, reduction="none")
            for x in (values, clipped)
        ]
        value_loss = torch.maximum(*losses).mean()

        self.optimizer.zero_grad()
        # The two share no weights, so one backward pass gives separate gradients.
        (policy_loss - bonus * spread + value_loss).backward()  # type: ignore[no-untyped-call]
        actor_norm, critic_norm = (
            torch.nn.utils.clip_grad_norm_(module.parameters(), self.config.max_grad_norm)
            for module in (self.actor, self.critic)
        )
        self.optimizer.step()
        with torch.no_grad():
            return {
                "policy_loss": policy_loss.detach(),
                "value_loss": value_loss.detach(),
                "entropy": spread.detach(),
                "kl": (ratio - 1 - change).mean(),
                "clipped": ((ratio - 1).abs() > clip).float().mean(),
                "actor_gradient": actor_norm,
                "critic_gradient": critic_norm,
            }

    def _real(self, values: Tensor) -> Tensor:
        """Convert the critic's outputs to units of reward."""
        return self.norm.denormalize(values) if self.config.value_norm else values

    # Content of a checkpoint

    @property
    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"actor": self.actor, "critic": self.critic, "norm": self.norm}

    def tensors(self) -> dict[str, Tensor]:
        """See `Learner.tensors`."""
        return kept_tensors(self._modules, {"ppo": self.optimizer})

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Learner.restore`."""
        restore_tensors(self._modules, {"ppo": self.optimizer}, tensors)
