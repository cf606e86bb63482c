"""Proximal policy optimisation for several agents: what MAPPO and IPPO have in common.

The two differ in one argument, `critic_input`: a critic that sees the team's state (``"state"``,
MAPPO) or one that sees each agent's own observation (``"observations"``, IPPO). Everything else is
written once, here, after Yu et al. 2022 ("The Surprising Effectiveness of PPO in Cooperative
Multi-Agent Games") and their code: decentralised actors, generalised advantage estimation, value
normalisation, a clipped Huber loss for the values, advantages normalised over the batch.

A run is cut into segments of `Config.checkpoint_every` iterations, each begun by a reset of the
environment whose seed follows from the run's seed and the iteration. So a checkpoint needs nothing
of the environment's inside, and a run that was stopped goes on bit for bit as if it never had been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rpp_agents.networks import (
    Actor,
    FeatureNorm,
    ValueNorm,
    central_critic,
    entropy,
    local_critic,
)
from rpp_agents.policy import NetworkPolicy, sample
from rpp_agents.rollout import BatchedEnv, Collector, CriticInput, Rollout, play
from rpp_agents.runs import Run
from rpp_env.errors import InvalidOption

__all__ = ["PPO", "Callback", "Config", "gae", "train_ppo"]

Callback = Callable[[Mapping[str, float], NetworkPolicy], None]
"""Called after every iteration with its row of numbers and the policy as it is now."""


@dataclass(frozen=True)
class Config:
    """Every number of a run, once."""

    total_steps: int = 500_000
    """Steps to train for, counted over all environments (a user's step is one)."""
    rollout_steps: int = 0
    """Steps that every environment plays between two updates; 0: one episode, at most 128."""
    seed: int = 0
    """Seed of the weights, the sampling, the minibatches and the environment."""
    gamma: float = 0.95
    """Discount."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation: 0 trusts the critic, 1 the returns."""
    learning_rate: float = 3e-3
    """Adam's learning rate at the start, for actors and critic."""
    schedule: Literal["linear", "constant"] = "linear"
    """Whether the learning rate falls linearly to 0 over the run."""
    epochs: int = 3
    """Passes over each rollout."""
    minibatches: int = 4
    """Parts that each pass is split into."""
    clip: float = 0.2
    """How far the probability ratio, and the normalised value, may move before it is clipped."""
    entropy: float = 0.05
    """Weight of the entropy bonus at the start."""
    entropy_end: float = 0.001
    """Weight of the entropy bonus at the end; it moves there linearly."""
    huber: float = 10.0
    """Where the value loss turns from square to linear, in normalised units."""
    max_grad_norm: float = 10.0
    """Largest norm of the actors' and of the critic's gradient, each."""
    value_norm: bool = True
    """Normalise the critic's targets by running statistics of the returns."""
    normalize_inputs: bool = True
    """Give every number that a network sees mean 0 and deviation 1, by running statistics."""
    normalize_advantages: bool = True
    """Give the advantages of each rollout mean 0 and deviation 1."""
    team_reward: bool = False
    """Pay every agent the mean of all agents' rewards."""
    shared: bool = False
    """One network for all agents, told which agent it is; otherwise one network each."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of actors and critic."""
    layer_norm: bool = True
    """Normalise each vector before the networks' first layers."""
    evaluations: int = 10
    """Evaluations on the validation environment, evenly spread, the last at the end."""
    eval_episodes: int = 512
    """Episodes of each evaluation, the same ones every time."""
    checkpoint_every: int = 25
    """Iterations from one checkpoint (and seeded reset of the environment) to the next."""
    threads: int = 0
    """Threads that torch uses; 0 leaves it as it is."""
    device: str = "cpu"
    """Where the networks are, as torch names it; only on the CPU are runs repeated bit for bit."""
    tensorboard: bool = True
    """Write TensorBoard files too, where there is a folder for the run."""

    def __post_init__(self) -> None:
        at_least_one = ("total_steps", "epochs", "minibatches", "checkpoint_every", "eval_episodes")
        positive = ("learning_rate", "clip", "huber", "max_grad_norm")
        not_negative = ("rollout_steps", "evaluations", "threads", "entropy", "entropy_end", "seed")
        for names, lowest, words in (
            (at_least_one, 1, "at least 1"),
            (not_negative, 0, "0 or more"),
        ):
            for name in names:
                if getattr(self, name) < lowest:
                    raise InvalidOption(f"{name} must be {words}, not {getattr(self, name)}")
        for name in positive:
            if not getattr(self, name) > 0:
                raise InvalidOption(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidOption(f"{name} must lie in 0..1, not {getattr(self, name)}")
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
    """Generalised advantage estimates (Schulman et al. 2016).

    Parameters
    ----------
    rewards, values, next_values : (T, B, n)
        `next_values` are of what followed the step in the same episode: of the true final state
        where the step was an episode's last.
    terminated, ended : bool (T, B)
        Where nothing follows, so that the next value counts as 0; and where the episode stopped for
        any reason, so that later advantages belong to another episode.
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


class PPO:
    """Actors, critic and their optimisers.

    Parameters
    ----------
    env : BatchedEnv
        Only its sizes are read.
    config : Config
    critic_input : "state" or "observations"
        What the critic sees. Either way it has one value for each agent.
    """

    def __init__(self, env: BatchedEnv, config: Config, critic_input: CriticInput) -> None:
        agents, self.config = len(env.agents), config
        nvec = [int(size) for size in env.nvec]
        shape: dict[str, Any] = {
            "hidden": config.hidden,
            "layer_norm": config.layer_norm,
            "normalize": config.normalize_inputs,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            actor = Actor(env.observation_width, nvec, shared=config.shared, **shape)
            critic = (
                central_critic(env.state_width, agents, **shape)
                if critic_input == "state"
                else local_critic(env.observation_width, agents, shared=config.shared, **shape)
            )
        self.device = torch.device(config.device)
        self.actor, self.critic = actor.to(self.device), critic.to(self.device)
        self.norm = ValueNorm(agents).to(self.device)
        rate = config.learning_rate
        self.optimizers = {
            "actor": torch.optim.Adam(self.actor.parameters(), lr=rate, eps=1e-5),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=rate, eps=1e-5),
        }
        self.rng = np.random.default_rng(config.seed)
        self.policy = NetworkPolicy(self.actor, seed=config.seed)

    def choose(
        self, observations: NDArray[np.float32], masks: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Sampled actions (B, n) and their log-probabilities."""
        log_probs, legal = self.policy.log_probs(observations, masks)
        actions = sample(log_probs, legal, self.rng)
        return actions, np.take_along_axis(log_probs, actions[..., None], -1)[..., 0]

    def update(self, rollout: Rollout, *, progress: float = 0.0) -> dict[str, float]:
        """Learn from one rollout; `progress` (0..1) places it on the schedules."""
        config = self.config
        rate = config.learning_rate * (1 - progress if config.schedule == "linear" else 1.0)
        bonus = config.entropy + progress * (config.entropy_end - config.entropy)
        for optimizer in self.optimizers.values():
            optimizer.param_groups[0]["lr"] = rate

        inputs, rewards = self._tensor(rollout.inputs), self._tensor(rollout.rewards)
        with torch.no_grad():
            old_values = self.critic(inputs)
            values = self._real(old_values)
            next_values = self._real(self.critic(self._tensor(rollout.next_inputs)))
            advantages = gae(
                rewards,
                values,
                next_values,
                self._tensor(rollout.terminated),
                self._tensor(rollout.ended),
                config.gamma,
                config.gae_lambda,
            )
            returns = advantages + values
            if config.value_norm:
                self.norm.update(returns)
                targets = self.norm.normalize(returns)
            else:
                targets = returns
            explained = 1 - (returns - values).var() / returns.var().clamp(min=1e-8)
            if config.normalize_advantages:
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-5)

        data = {
            "observations": self._tensor(rollout.observations),
            "masks": self._tensor(rollout.masks),
            "actions": self._tensor(rollout.actions),
            "old_log_probs": self._tensor(rollout.log_probs),
            "advantages": advantages,
            "inputs": inputs,
            "old_values": old_values,
            "targets": targets,
        }
        data = {name: tensor.flatten(0, 1) for name, tensor in data.items()}
        size = len(data["actions"])
        rows: list[dict[str, Tensor]] = []
        for _ in range(config.epochs):
            if config.minibatches == 1:
                parts = [data]
            else:
                order = torch.from_numpy(self.rng.permutation(size)).to(self.device)
                parts = [
                    {name: tensor[part] for name, tensor in data.items()}
                    for part in order.tensor_split(config.minibatches)
                ]
            rows += [self._descend(part, bonus) for part in parts]
        # Afterwards: the probabilities above are compared with those of the rollout.
        for module, seen in ((self.actor, data["observations"]), (self.critic, data["inputs"])):
            for part in module.modules():
                if isinstance(part, FeatureNorm):
                    part.update(seen)
        metrics = {name: torch.stack([row[name] for row in rows]).mean(0) for name in rows[0]}
        numbers = {name: float(value) for name, value in metrics.items()}
        if not all(map(math.isfinite, numbers.values())):
            raise FloatingPointError(f"training diverged: {numbers}; try a lower learning_rate")
        return numbers | {
            "explained_variance": float(explained),
            "learning_rate": rate,
            "entropy_bonus": bonus,
        }

    def _descend(self, data: dict[str, Tensor], bonus: float) -> dict[str, Tensor]:
        """One gradient step for the actors and one for the critic."""
        clip, delta = self.config.clip, self.config.huber
        log_probs = self.actor(data["observations"], data["masks"])
        chosen = log_probs.gather(-1, data["actions"][..., None])[..., 0]
        change = chosen - data["old_log_probs"]
        ratio = change.exp()
        gains = torch.minimum(
            ratio * data["advantages"], ratio.clamp(1 - clip, 1 + clip) * data["advantages"]
        )
        spread = entropy(log_probs).mean()
        policy_loss = -gains.mean()
        actor_norm = self._take_step("actor", self.actor, policy_loss - bonus * spread)

        values, old = self.critic(data["inputs"]), data["old_values"]
        clipped = old + (values - old).clamp(-clip, clip)
        losses = [
            torch.nn.functional.huber_loss(x, data["targets"], delta=delta, reduction="none")
            for x in (values, clipped)
        ]
        value_loss = torch.maximum(*losses).mean()
        critic_norm = self._take_step("critic", self.critic, value_loss)
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

    def _take_step(self, name: str, module: torch.nn.Module, loss: Tensor) -> Tensor:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), self.config.max_grad_norm)
        optimizer.step()
        return norm.detach()

    def _real(self, values: Tensor) -> Tensor:
        """The critic's outputs in units of reward."""
        return self.norm.denormalize(values) if self.config.value_norm else values

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    # What a checkpoint holds

    def tensors(self) -> dict[str, Tensor]:
        """Weights, statistics and the optimisers' moments, by name."""
        modules = {"actor": self.actor, "critic": self.critic, "norm": self.norm}
        tensors = {
            f"{part}.{name}": tensor
            for part, module in modules.items()
            for name, tensor in module.state_dict().items()
        }
        for part, optimizer in self.optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                for name, tensor in moments.items():
                    tensors[f"adam.{part}.{index}.{name}"] = tensor
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], rng: dict[str, Any]) -> None:
        """Take back what `tensors` gave, and the state of the random numbers."""
        modules = {"actor": self.actor, "critic": self.critic, "norm": self.norm}
        for part, module in modules.items():
            module.load_state_dict(
                {name: tensors[f"{part}.{name}"] for name in module.state_dict()}
            )
        for part, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"adam.{part}."):
                    index, moment = name.split(".")[2:]
                    state.setdefault(int(index), {})[moment] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.rng.bit_generator.state = rng


# The run


def train_ppo(
    env: BatchedEnv,
    config: Config,
    *,
    name: str,
    critic_input: CriticInput,
    run_dir: str | Path | None = None,
    eval_env: BatchedEnv | None = None,
    resume: bool = False,
    lines: Mapping[str, float] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> NetworkPolicy:
    """Train; see `rpp_agents.mappo.train`, which documents the arguments.

    Parameters
    ----------
    name : str
        The algorithm's name, for the progress bar and the run's files.
    critic_input : "state" or "observations"
        What the critic sees: the only difference between MAPPO and IPPO.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    collector = Collector(env, critic_input, team_reward=config.team_reward)
    learner = PPO(env, config, critic_input)
    steps = config.rollout_steps or min(int(env.max_cycles), 128)
    iterations = math.ceil(config.total_steps / (steps * env.num_envs))
    eval_at = {
        math.ceil(iterations * i / config.evaluations) for i in range(1, config.evaluations + 1)
    }
    with Run(run_dir, name, config, env, iterations, resume=resume, progress=progress) as run:
        if run.checkpoint is not None:
            learner.restore(run.checkpoint, run.rng)
        for iteration in range(run.iteration, iterations):
            if iteration % config.checkpoint_every == 0:
                collector.reset(_segment_seed(config.seed, iteration))
            rollout = collector.collect(learner.choose, steps)
            row = {
                "steps": float((iteration + 1) * steps * env.num_envs),
                "reward": float(rollout.rewards.mean()),
                "eval_reward": math.nan,
                **learner.update(rollout, progress=iteration / iterations),
                **{f"info/{key}": value for key, value in rollout.infos.items()},
            }
            if eval_env is not None and iteration + 1 in eval_at:
                scores = play(
                    learner.policy, eval_env, episodes=config.eval_episodes, seed=config.seed
                )
                row["eval_reward"] = float(scores.mean())
            row = run.record(row)
            if (iteration + 1) % config.checkpoint_every == 0 or iteration + 1 == iterations:
                run.save(learner.tensors(), learner.rng)
            for callback in callbacks:
                callback(row, learner.policy)
        run.finish(learner.policy, lines)
    return learner.policy


def _segment_seed(seed: int, iteration: int) -> int:
    return int(np.random.SeedSequence([seed, iteration]).generate_state(1)[0])
