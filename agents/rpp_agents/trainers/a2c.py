"""A2C: the learner of the RPP paper, corrected or as released.

=================  ==========================================================================
actors             decentralised, one network each
critics            ``critic="own"``: one each, on what its actor sees; ``"central"``: one for
                   all, on ``env.state()``, with one value for each agent
last ranking       encoded by a GRU if the environment shows it as a sequence
                   (``RPPEnv(ranking="sequence")``), once for all agents, trained with them
TD error           d = r + gamma * V(s') - V(s), with V(s') a constant, and 0 after termination;
                   a truncated episode is continued by its true last state's value
critic loss        d^2, summed over agents
actor loss         -log pi(a | o) * d with d a constant, summed; minus an entropy bonus
rewards            each user's own
action sizes       any: actions that an agent does not have, or may not take, have probability 0
=================  ==========================================================================

After Mao et al., "Reinforced Prompt Personalization for Recommendation with Large Language Models"
(https://arxiv.org/abs/2407.17115), and its code (https://github.com/maowenyu-11/RPP at 6189a8a; it
holds the files named below), which was read, not copied.

`Config.paper` has their numbers: one gradient step of Adam (3e-4 for actors and GRU, 5e-4 for
critics) after each step of all users, gamma 0.95, one hidden layer of 64, plain TD errors. The
original made 15 such steps in all. The defaults of `Config` differ in order to learn in a few
hundred thousand steps of users: higher learning rates that fall to 0; a whole episode between
updates, four gradient steps on it, and generalised TD errors (lambda 0.95: with 0 the critics are
trusted before they are accurate); an entropy bonus that is annealed; normalised inputs, advantages
and returns; gradient clipping; two hidden layers. Differences in both: the GRU's state is
concatenated with the observation instead of being added to other vectors; the observation is all of
`rpp_env.observation`, where the paper's is one 64-wide sum; actors start nearly uniform.

``released=True`` is the learner as its code was released, in our correct environment. These of its
errors are reproduced:

- the critics' loss is (gamma * V(s) - V(s'))^2: without a reward, with gradients through both
  sides, and with V(s) and V(s') swapped; V = 0 everywhere minimises it (train.py);
- the "TD error" is gamma * V(s) + R - V(s'), so that in the end R alone reinforces all actions;
  there is no baseline, and no episode ends (train.py);
- R is one number for all, the mean over all users of the batch (train.py);
- the GRU is never trained (train.py), and reads rankings that are reshaped instead of transposed:
  pieces of several users' rankings, so that a user's prompt depends on the other users of the batch
  (backbone.py, ``Rank_state``);
- the state is a sum of vectors of different spaces, the user's at first, then sentences + GRU; the
  user is forgotten after the first step, and the critics, which see 0 at the first step, never see
  it (train.py);
- the critics normalise over the batch, at the first step a batch of equal zeros (backbone.py);
- no entropy bonus, normalisation or clipping; the last weights are kept, not the best (train.py).

These errors are not reproduced: prompts with other users' histories, answers scored under another
permutation, one position of the target for all users, the best of 15 steps as the result, test
users among the training ones (trainer_te.py, evaluate.py: errors of environment and evaluation);
principal axes fitted again at every step, and a Chinese encoder of English text (trainer_te.py: the
environment's sentence vectors are fixed); a history that only grows (in ``rules="RPPPaper-v0"``);
two reasoning options without an output (train.py); the end after 15 updates (it gets as many steps
as all others here). And the GRU is saved: with a new random one at every evaluation, as released,
no policy could be saved.

Examples
--------
>>> import rpp_env
>>> from rpp_agents import a2c
>>> env = rpp_env.RPPEnv.make(num_envs=512, ranking="sequence")  # doctest: +SKIP
>>> policy = a2c.train(env, a2c.Config(seed=1), run_dir="runs/a2c-1")  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from rpp_agents.actors import independent, make_actor
from rpp_agents.encoders import ReleasedEncoder, ranking_encoder, released_encoder
from rpp_agents.networks import Critic, FeatureNorm, ValueNorm, central_critic, local_critic
from rpp_agents.observing import ObservationConfig
from rpp_agents.policy import NetworkPolicy
from rpp_agents.rollout import BatchedEnv, Collector, Rollout, env_actions
from rpp_agents.runs import RunConfig
from rpp_agents.trainers.ppo import OnPolicy, gae
from rpp_agents.training import (
    check_numbers,
    kept_tensors,
    restore_tensors,
    trainer,
)
from rpp_env.errors import InvalidOption

__all__ = ["A2C", "Config", "Released", "train"]


@dataclass(frozen=True)
class Config(ObservationConfig):
    """Every number of a run, once."""

    critic: Literal["own", "central"] = "own"
    """Input of the critics: each agent's own observation (own), or the state (central)."""
    gru: int = 32
    """Width of the GRU over the last ranking, if that is shown as a sequence; 0: no GRU."""
    rollout_steps: int = 0
    """Number of steps of every environment between updates; 0: one episode, at most 128."""
    gradient_steps: int = 4
    """Number of parts of a rollout, with one gradient step each. From the second on the policy
    differs from the one that played, without a correction: keep them few."""
    gae_lambda: float = 0.95
    """Lambda of the generalised TD errors: 0 is the paper's, 1 uses the returns alone."""
    learning_rate: float = 3e-3
    """Adam's learning rate at the start, for actors and GRU."""
    critic_learning_rate: float = 3e-3
    """Adam's learning rate at the start, for critics."""
    schedule: Literal["linear", "constant"] = "linear"
    """Whether the learning rates fall linearly to 0 over the run."""
    entropy: float = 0.05
    """Weight of the entropy bonus at the start."""
    entropy_end: float = 0.001
    """Weight of the entropy bonus at the end; it changes linearly."""
    weight_decay: float = 0.0
    """Share by which each weight shrinks at a gradient step, times the learning rate (AdamW)."""
    max_grad_norm: float = 10.0
    """Maximum norm of the actors' gradient and of the critics' gradient; inf: unlimited."""
    value_norm: bool = True
    """Whether to normalise the critics' targets by running statistics of the returns."""
    normalize_inputs: bool = True
    """Whether to normalise the networks' inputs to mean 0 and deviation 1 (running statistics)."""
    normalize_advantages: bool = True
    """Whether to normalise the TD errors of each rollout to mean 0 and deviation 1, for actors."""
    shared: bool = False
    """Whether all agents share a network, with the agent's index as input."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of actors and critics."""
    memory: int = 0
    """Width of the state of a GRU in which each agent, and each critic, remembers the episode; 0:
    no memory. The parts of a rollout are then of whole sequences, each of one environment."""
    layer_norm: bool = True
    """Whether to normalise each vector before the networks' first layers."""
    released: bool = False
    """Whether to use the learner as it was released, with its errors, at `paper`'s numbers; then
    only the options of `RunConfig` have an effect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "gradient_steps")
        check_numbers(
            self, 0, "gru", "rollout_steps", "entropy", "entropy_end", "memory", "weight_decay"
        )
        check_numbers(self, 0, "learning_rate", "critic_learning_rate", "max_grad_norm", above=True)
        check_numbers(self, 0, "gae_lambda", highest=1)
        if self.released and self.observation != "full":
            raise InvalidOption(
                "released=True reads the user's vector, which a compact observation does not hold: "
                'leave out observation="compact"'
            )
        if not self.hidden or min(self.hidden) < 1:
            raise InvalidOption(
                f"hidden must name at least one width of 1 or more, not {self.hidden}"
            )

    @classmethod
    def paper(cls, **changes: Any) -> Config:
        """Return the paper's own numbers; `changes` override fields."""
        numbers: dict[str, Any] = {
            "gamma": 0.95,
            "gru": 64,
            "rollout_steps": 1,
            "gradient_steps": 1,
            "gae_lambda": 0.0,
            "learning_rate": 3e-4,
            "critic_learning_rate": 5e-4,
            "schedule": "constant",
            "entropy": 0.0,
            "entropy_end": 0.0,
            "max_grad_norm": math.inf,
            "value_norm": False,
            "normalize_inputs": False,
            "normalize_advantages": False,
            "hidden": (64,),
            "layer_norm": False,
        }
        return cls(**numbers | changes)

    def in_episode(self, episode: Any) -> Self:
        """See `RunConfig.in_episode`; the discount of the released learner is the paper's."""
        if self.released and self.gamma is None:
            return replace(self, gamma=self.paper().gamma)
        return super().in_episode(episode)


class A2C(OnPolicy):
    """Actors, critics and their optimisers.

    Parameters
    ----------
    env : BatchedEnv
    config : Config
    """

    def __init__(self, env: BatchedEnv, config: Config) -> None:
        self.config = config
        self.central = config.critic == "central"
        self.collector = Collector(
            env,
            "state" if self.central else "observations",
            team_reward=config.team_reward,
            truncation=config.truncation,
        )
        self.rollout_steps = config.rollout_steps or min(int(env.max_cycles), 128)
        self.steps = self.rollout_steps * env.num_envs
        self.device = torch.device(config.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.build(env)
        self.norm = ValueNorm(len(env.agents))
        self.modules: dict[str, nn.Module] = {
            name: module.to(self.device)
            for name, module in {
                "actor": self.actor,
                "critic": self.critic,
                "state_norm": self.state_norm,
                "norm": self.norm,
            }.items()
        }
        self.rates = {"actor": config.learning_rate, "critic": config.critic_learning_rate}
        self.optimizers = {
            name: torch.optim.AdamW(
                self.modules[name].parameters(), lr=rate, weight_decay=config.weight_decay
            )
            for name, rate in self.rates.items()
        }
        self.rng = np.random.default_rng(config.seed)
        self.policy = NetworkPolicy(self.actor, seed=config.seed)

    def build(self, env: BatchedEnv) -> None:
        """Make the networks."""
        config, agents = self.config, len(env.agents)
        shape: dict[str, Any] = {"hidden": config.hidden, "layer_norm": config.layer_norm}
        actions = env_actions(env)
        self.actor = make_actor(
            independent(actions),
            env.observation_width,
            actions,
            shared=config.shared,
            normalize=config.normalize_inputs,
            encoder=ranking_encoder(env, config.gru),
            memory=config.memory,
            **shape,
        )
        shape["memory"] = config.memory
        self.state_norm: nn.Module = nn.Identity()
        if self.central:
            encoder = self.actor.encoder
            taken = env.observation_width - encoder.rest_width if encoder else 0
            plain = env.state_width - taken
            if config.normalize_inputs:
                self.state_norm = FeatureNorm(plain)
            self.critic = central_critic(
                plain + (encoder.hidden if encoder else 0), agents, **shape
            )
        else:
            self.critic = local_critic(
                self.actor.features_width, agents, shared=config.shared, **shape
            )

    # Learning

    def update(self, rollout: Rollout, *, progress: float = 0.0) -> dict[str, float]:
        """Update on one rollout; `progress` (0..1) is the position on the schedules."""
        config = self.config
        left = 1 - progress if config.schedule == "linear" else 1.0
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = left * self.rates[name]
        bonus = config.entropy + progress * (config.entropy_end - config.entropy)

        sequences = {} if self.policy.actor.memory is None else self._sequences(rollout)
        errors, targets = self.td_errors(rollout, sequences)
        advantages = errors
        if config.normalize_advantages:
            advantages = (errors - errors.mean()) / (errors.std(correction=0) + 1e-5)
        if config.value_norm:
            self.norm.update(targets)
            targets = self.norm.normalize(targets)
        data = {
            "observations": self._tensor(rollout.observations),
            "masks": self._tensor(rollout.masks),
            "actions": self._tensor(rollout.actions),
            "advantages": advantages,
            "targets": targets,
        }
        if self.central:
            data["states"] = self._tensor(rollout.inputs)
        if sequences:  # whole ones, with the environments first
            data = {name: tensor.transpose(0, 1) for name, tensor in data.items()}
            data |= sequences | {"begins": sequences["begins"].T}
        else:
            data = {name: tensor.flatten(0, 1) for name, tensor in data.items()}
        order = torch.from_numpy(self.rng.permutation(len(data["actions"]))).to(self.device)
        rows = [
            self._descend({name: tensor[part] for name, tensor in data.items()}, bonus)
            for part in order.chunk(config.gradient_steps)
        ]
        self._observe(data)
        return {
            **{name: float(torch.stack([row[name] for row in rows]).mean()) for name in rows[0]},
            "td_error": float(errors.abs().mean()),
            "learning_rate": left * config.learning_rate,
            "entropy_bonus": bonus,
        }

    @torch.no_grad()
    def td_errors(
        self, rollout: Rollout, sequences: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the TD errors for the actors, and the critics' targets: (T, B, n) each.

        `sequences` are those of the rollout, if there are memories.
        """
        read = self._read(self._tensor(rollout.inputs))
        if sequences:
            read = self.critic.remember(read, sequences["begins"], sequences["critic_start"])
            self._keep(rollout, read, sequences["critic_start"])
        values = self._real(self.critic.net(read))
        ended = self._tensor(rollout.ended)
        # The state after a step is where the next one begins, except at the end of an episode and
        # of the rollout.
        cut = ended.clone()
        cut[-1] = True
        next_values = values.roll(-1, dims=0)
        after = self._read(self._tensor(rollout.next_inputs)[cut])
        if sequences:
            after = self.critic.after(after, read[cut])
        next_values[cut] = self._real(self.critic.net(after))
        errors = gae(
            self._tensor(rollout.rewards),
            values,
            next_values,
            self._tensor(rollout.terminated),
            ended,
            self.config.discount,
            self.config.gae_lambda,
        )
        return errors, errors + values

    def values(self, inputs: Tensor) -> Tensor:
        """Return values (..., n) in units of reward; inputs are (..., n, d) or states (..., s)."""
        return self._real(self.critic(self._read(inputs)))

    def _read(self, inputs: Tensor) -> Tensor:
        """Return the critics' inputs for observations or states."""
        return self._state_features(inputs) if self.central else self.actor.features(inputs)

    def _real(self, values: Tensor) -> Tensor:
        return self.norm.denormalize(values) if self.config.value_norm else values

    def _state_features(self, states: Tensor) -> Tensor:
        """Return the central critic's inputs, as `Actor.features`, for states."""
        encoder = self.actor.encoder
        if encoder is None:
            plain: Tensor = self.state_norm(states)
            return plain
        return torch.cat([self.state_norm(encoder.rest(states)), encoder.ranking(states)], dim=-1)

    def _descend(self, data: dict[str, Tensor], bonus: float) -> dict[str, Tensor]:
        """Take one gradient step for actors, GRU and critics."""
        features = self.actor.features(data["observations"])
        seen = self._state_features(data["states"]) if self.central else features
        if self.actor.memory is not None:
            begins = data["begins"].T
            features = self.actor.memory(features.transpose(0, 1), begins, data["start"])
            seen = self.critic.remember(seen.transpose(0, 1), begins, data["critic_start"])
            features, seen = features.flatten(0, 1), seen.flatten(0, 1)
            data = {
                name: data[name].transpose(0, 1).flatten(0, 1)
                for name in ("masks", "actions", "advantages", "targets")
            }
        chosen, spread = self.actor.evaluate(features, data["masks"], data["actions"])
        policy_loss = -(chosen * data["advantages"]).mean(0).sum()
        value_loss = ((data["targets"] - self.critic.net(seen)) ** 2).mean(0).sum()

        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        # Together, because the GRU learns from both.
        (policy_loss - bonus * spread.mean(0).sum() + value_loss).backward()
        norms = {name: self._take_step(name) for name in self.optimizers}
        return {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": spread.detach().mean(),
            **{f"{name}_gradient": norm for name, norm in norms.items()},
        }

    def _take_step(self, name: str) -> Tensor:
        parameters = self.modules[name].parameters()
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        self.optimizers[name].step()
        return norm.detach()

    def _observe(self, data: dict[str, Tensor]) -> None:
        """Update the statistics that inputs are normalised by."""
        self.actor.observe(data["observations"])
        if isinstance(self.state_norm, FeatureNorm):
            encoder, states = self.actor.encoder, data["states"]
            self.state_norm.update(states if encoder is None else encoder.rest(states))

    # Content of a checkpoint

    def tensors(self) -> dict[str, Tensor]:
        """See `Learner.tensors`."""
        return kept_tensors(self.modules, self.optimizers)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Learner.restore`."""
        restore_tensors(self.modules, self.optimizers, tensors)


class BatchNormCritics(nn.Module):
    """The released critics: one for each agent, ``(B, n, d) -> (B, n)``, normalising over B."""

    def __init__(self, width: int, agents: int, hidden: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, hidden),
                nn.ReLU(),
                nn.BatchNorm1d(hidden),
                nn.Linear(hidden, 1),
            )
            for _ in range(agents)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([net(inputs[:, i]) for i, net in enumerate(self.nets)], dim=1)


class Released(A2C):
    """The learner as it was released; the module's docstring lists its errors.

    Parameters
    ----------
    env : BatchedEnv
        For an RPPEnv the state is the released one; otherwise the observation unchanged.
    config : Config
        Only the fields of `RunConfig` are read.

    Raises
    ------
    InvalidOption
        For a single environment, because normalisation over the batch needs several.
    """

    def __init__(self, env: BatchedEnv, config: Config) -> None:
        if env.num_envs < 2:
            raise InvalidOption(
                "released=True normalises over the batch: num_envs must be 2 or more, not "
                f"{env.num_envs}"
            )
        run = {field.name: getattr(config, field.name) for field in fields(RunConfig)}
        super().__init__(env, Config.paper(released=True, **run))

    def build(self, env: BatchedEnv) -> None:
        """Make the networks."""
        width = self.config.hidden[0]
        actions = env_actions(env)
        self.actor = make_actor(
            independent(actions),
            env.observation_width,
            actions,
            shared=False,
            hidden=(width,),
            layer_norm=False,
            encoder=released_encoder(env),
        )
        self.state_norm = nn.Identity()
        critics = BatchNormCritics(self.actor.features_width, len(env.agents), width)
        self.critic = Critic(nn.Identity(), critics)

    def update(self, rollout: Rollout, *, progress: float = 0.0) -> dict[str, float]:  # noqa: ARG002
        """Update on one step, as released; without schedules."""
        gamma = self.config.discount
        before, after = (
            self._tensor(seen[0]) for seen in (rollout.observations, rollout.next_inputs)
        )
        reward = self._tensor(rollout.rewards[0]).mean(0)
        value, next_value = self._value(before), self._value(after)
        value_loss = ((gamma * value - next_value) ** 2).mean(0).sum()
        errors = (gamma * value + reward - next_value).detach()

        chosen, spread = self.actor.evaluate(
            self.actor.features(before),
            self._tensor(rollout.masks[0]),
            self._tensor(rollout.actions[0]),
        )
        policy_loss = -(chosen * errors).mean(0).sum()
        for name, loss in (("critic", value_loss), ("actor", policy_loss)):
            self.optimizers[name].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._take_step(name)
        return {
            "policy_loss": float(policy_loss.detach()),
            "value_loss": float(value_loss.detach()),
            "entropy": float(spread.detach().mean()),
            "td_error": float(errors.abs().mean()),
        }

    def _value(self, observations: Tensor) -> Tensor:
        seen, encoder = self.actor.features(observations), self.actor.encoder
        if isinstance(encoder, ReleasedEncoder):
            seen = seen.masked_fill(encoder.begins(observations), 0.0)
        values: Tensor = self.critic(seen)
        return values


def _learner(env: BatchedEnv, config: Config) -> A2C:
    return (Released if config.released else A2C)(env, config)


train = trainer("A2C", _learner, Config())
