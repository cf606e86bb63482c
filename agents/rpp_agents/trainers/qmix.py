"""QMIX: the team's Q-value is a monotonic mix of the agents' Q-values.

=================  ==========================================================================
mixer              two layers over the agents' values, ELU between them; their weights and biases
                   come from networks that see ``env.state()``. Weights are made positive, biases
                   need not be, so that no agent's value can lower the team's
state              the environment's, or where it has none the observations side by side
rewards            the team's; where each agent is paid by itself, their mean
targets            double Q, as for IQL, through a target of the networks and of the mixer
networks, replay   as for IQL
exploration        as for IQL
=================  ==========================================================================

What holds for IQL is said in `iql`. After Rashid et al. 2018, "QMIX: Monotonic Value
Function Factorisation for Deep Multi-Agent Reinforcement Learning"
(https://arxiv.org/abs/1803.11485), with the hypernetworks of two layers of their later code
(PyMARL2, EPyMARL). Departures: those of IQL; running statistics normalise the state too; and ELU is
mixed with a line (`Config.slope`; 0 is the original). ELU is convex: the team's best value is
overestimated, and where no episode terminates nothing holds the error back. With it alone QMIX
first learnt on simple_spread and then fell apart (docs/verification.md).

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
    """Every number of a run, once."""

    embed: int = 32
    """Width of the mixer's hidden layer."""
    hyper: int = 64
    """Width of the hidden layers of the networks that make the mixer's weights."""
    slope: float = 0.3
    """Of the mixer's hidden units far below 0, between ELU's own (0: flat) and a sum's (1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "embed", "hyper")
        check_numbers(self, 0, "slope", highest=1)


class Monotonic(value.Mixer):
    """A small network over the agents' values whose weights depend on the state and are positive.

    Parameters
    ----------
    state_width, num_agents, embed, hyper : int
        Widths: of the state, of the values, of the hidden layer, and of the hidden layers of the
        networks that make its weights.
    slope : float
        Of the hidden units far below 0, between ELU's own (0) and a sum's (1).
    """

    one_value = True
    sees_state = True

    def __init__(
        self, state_width: int, num_agents: int, *, embed: int, hyper: int, slope: float = 0.0
    ) -> None:
        super().__init__()
        self.shape = (num_agents, embed)
        # In the beginning it adds the values up, whatever the state, as VDN does: weights drawn at
        # random would multiply them by ten or more.
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
        """(B, 1) of values (B, n) and the state (B, s)."""
        weight = (self.weight(*state) + self.level).abs().unflatten(-1, self.shape)
        mixed = (values[..., None] * weight).sum(-2) + self.bias(*state)
        hidden = (1 - self.slope) * nn.functional.elu(mixed) + self.slope * mixed
        last_weight = (self.last_weight(*state) + self.level).abs()
        return torch.add((hidden * last_weight).sum(-1, keepdim=True), self.last_bias(*state))


def monotonic(env: BatchedEnv, config: Config) -> Monotonic:
    """The mixer of this environment."""
    return Monotonic(
        env.state_width,
        len(env.agents),
        embed=config.embed,
        hyper=config.hyper,
        slope=config.slope,
    )


train = trainer("QMIX", partial(value.ValueLearner, mixer=monotonic), Config())
