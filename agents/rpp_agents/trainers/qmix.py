"""QMIX: the team's Q-value is a monotonic mix of the agents' Q-values.

=================  ==========================================================================
mixer              two layers over the agents' values, ELU between them; their weights and biases
                   come from networks over ``env.state()``. Weights are made positive, biases need
                   not be, so that no agent's value can lower the team's
state              the environment's, or else the concatenated observations
rewards            the team's; if each agent has its own reward, their mean
targets            double Q, as for IQL, through a target of the networks and of the mixer
networks, replay   as for IQL
exploration        as for IQL
=================  ==========================================================================

`iql` describes the shared parts. After Rashid et al. 2018, "QMIX: Monotonic Value Function
Factorisation for Deep Multi-Agent Reinforcement Learning" (https://arxiv.org/abs/1803.11485), with
the hypernetworks of two layers of their later code (PyMARL2, EPyMARL). Differences: those of IQL;
running statistics normalise the state too; and ELU is mixed with a linear function (`Config.slope`;
0 is the original). ELU is convex: the team's best value is overestimated, and if no episode
terminates nothing bounds the error. With plain ELU QMIX first learned on simple_spread and then
diverged (docs/verification.md).

Examples
--------
>>> import rpp_env
>>> from rpp_agents import qmix
>>> env = rpp_env.RPPEnv.make(split="train", num_envs=512)  # doctest: +SKIP
>>> policy = qmix.train(env, qmix.Config(seed=1), run_dir="runs/qmix-1")  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from rpp_agents.networks import mlp
from rpp_agents.rollout import BatchedEnv
from rpp_agents.trainers import value
from rpp_agents.training import check_numbers, trainer

__all__ = ["Config", "Monotonic", "monotonic", "train"]


@dataclass(frozen=True)
class Config(value.Config):
    """Options of QMIX."""

    embed: int = 32
    """Width of the mixer's hidden layer."""
    hyper: int = 64
    """Width of the hidden layers of the networks that compute the mixer's weights."""
    slope: float = 0.3
    """Slope of the mixer's hidden units far below 0, from 0 (ELU's own, flat) to 1 (a sum's)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "embed", "hyper")
        check_numbers(self, 0, "slope", highest=1)


class Monotonic(value.Mixer):
    """A small network over the agents' values with positive weights that depend on the state.

    Parameters
    ----------
    state_width, num_agents, embed, hyper : int
        Widths: of the state, of the values, of the hidden layer, and of the hidden layers of the
        networks that compute its weights.
    slope : float
        Slope of the hidden units far below 0, between ELU's own (0) and a sum's (1).
    """

    one_value = True
    sees_state = True

    def __init__(
        self, state_width: int, num_agents: int, *, embed: int, hyper: int, slope: float = 0.0
    ) -> None:
        super().__init__()
        self.shape = (num_agents, embed)
        # Initially it adds the values up, whatever the state, like VDN: random weights would
        # multiply them by ten or more.
        self.level = embed**-0.5
        self.slope = slope
        self.weight, self.bias, self.last_weight, self.last_bias = (
            mlp(state_width, hidden, outputs, gain=0.01, layer_norm=False)
            for hidden, outputs in (
                ((hyper,), num_agents * embed),
                ((), embed),
                ((hyper,), embed),
                ((embed,), 1),
            )
        )

    def forward(self, values: Tensor, *state: Tensor) -> Tensor:
        """Return (B, 1) for values (B, n) and the state (B, s)."""
        weight = (self.weight(*state) + self.level).abs().unflatten(-1, self.shape)
        mixed = (values[..., None] * weight).sum(-2) + self.bias(*state)
        hidden = (1 - self.slope) * nn.functional.elu(mixed) + self.slope * mixed
        last_weight = (self.last_weight(*state) + self.level).abs()
        return torch.add((hidden * last_weight).sum(-1, keepdim=True), self.last_bias(*state))


def monotonic(env: BatchedEnv, config: Config) -> Monotonic:
    """Make the mixer of this environment."""
    return Monotonic(
        env.state_width,
        len(env.agents),
        embed=config.embed,
        hyper=config.hyper,
        slope=config.slope,
    )


train = trainer("QMIX", partial(value.ValueLearner, mixer=monotonic), Config())
