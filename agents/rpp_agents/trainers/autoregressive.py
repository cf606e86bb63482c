"""Autoregressive PPO: the agents choose in turn, each seeing the choices before it.

A rival of MAPPO that tells whether a problem needs agents that act by themselves. The joint policy
is a product of conditional ones, P(a1) P(a2 | a1) P(a3 | a1, a2) ..., so any distribution over
joint actions can be learnt, without an output for each as `central` has. All agents'
observations are read once, by one network; each agent's last hidden layer sees what came of that,
and one-hot the choices before its own. PPO's ratio is that of the joint action. All else is
`rpp_agents.trainers.mappo`; agents' rewards are averaged, as only all together choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpp_agents.networks import MASKED, JointActor, StackedLinear, draw, entropy
from rpp_agents.trainers.ppo import PPO, Config
from rpp_agents.training import trainer

__all__ = ["AutoregressiveActor", "Config", "train"]


class AutoregressiveActor(JointActor):
    """Agents that choose in order.

    Greedy means that each takes its most probable action after those of the agents before it: not
    always the most probable joint action. The entropy is the sum of the agents' own after what was
    chosen before them: right on average, though how a choice changes the entropy of later ones has
    no gradient.

    Parameters
    ----------
    width, nvec, **options
        As `JointActor` takes them.
    """

    choice: ClassVar[str] = "autoregressive"
    earlier: Tensor

    def __init__(self, width: int, nvec: Sequence[int], **options: Any) -> None:
        super().__init__(width, nvec, **options)
        agents, most = self.legal.shape
        *common, last = self.description["hidden"]
        widths = (self.features_width, *common)
        gain = 2.0**0.5
        self.common = nn.ModuleList(StackedLinear(1, *pair, gain=gain) for pair in pairwise(widths))
        self.hidden = StackedLinear(agents, widths[-1] + agents * most, last, gain=gain)
        self.out = StackedLinear(agents, last, most, gain=0.01)
        earlier = torch.ones(agents, agents).tril(-1).repeat_interleave(most, dim=1)
        self.register_buffer("earlier", earlier[:, None], persistent=False)

    def choose(
        self, features: Tensor, masks: Tensor | None, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        legal = self.legal if masks is None else self.legal & masks
        agents = len(self.legal)
        read = self.read(features)
        actions = torch.zeros((len(features), agents), dtype=torch.int64, device=features.device)
        total = torch.zeros((len(features), 1), device=features.device)
        for i in range(agents):
            log_probs = self.log_probs(read, actions, legal)[:, i]
            actions[:, i], chosen = draw(log_probs, legal[..., i, :], rng)
            total += chosen[:, None]
        return actions, total

    def evaluate(self, features: Tensor, masks: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = self.log_probs(self.read(features), actions, self.legal & masks)
        chosen = log_probs.gather(-1, actions[..., None])[..., 0]
        return chosen.sum(-1, keepdim=True), entropy(log_probs).sum(-1, keepdim=True)

    def read(self, features: Tensor) -> Tensor:
        """What all agents make of what they see: (1, B, width)."""
        out = features[None]
        for layer in self.common:
            out = F.relu(layer(out))
        return out

    def log_probs(self, read: Tensor, actions: Tensor, legal: Tensor) -> Tensor:
        """(B, n, A): of each agent's actions, after what those before it chose in `actions`."""
        agents, most = self.legal.shape
        chosen = F.one_hot(actions, most).flatten(-2).to(read.dtype) * self.earlier
        seen = torch.cat([read.expand(agents, -1, -1), chosen], dim=-1)
        logits: Tensor = self.out(F.relu(self.hidden(seen))).transpose(0, 1)
        return torch.log_softmax(logits.masked_fill(~legal, MASKED), dim=-1)


train = trainer(
    "Autoregressive PPO", partial(PPO, critic_input="state", actor=AutoregressiveActor), Config()
)
