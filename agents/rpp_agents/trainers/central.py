"""Central PPO: one agent that sees everything and chooses for all.

A rival of MAPPO that tells whether a problem needs several agents. All agents' choices together are
one action, so for RPP-v0 the network has 5 x 5 x 9 x 5 = 1,125 outputs, and its input is the
observations of all agents side by side. It knows no miscoordination and can mix joint actions as it
likes; the price is that what it learns of one joint action says nothing of another that shares
three of four choices. All else is `mappo`; agents' rewards are averaged, as only all
together choose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rpp_agents.networks import MASKED, AgentNet, JointActor, draw, entropy
from rpp_agents.trainers.ppo import PPO, Config
from rpp_agents.training import trainer
from rpp_env.errors import InvalidOption

__all__ = ["CentralActor", "Config", "train"]

MOST = 100_000
"""Joint actions that a network may have; beyond, its last layer would outgrow everything."""


class CentralActor(JointActor):
    """One distribution over all joint actions.

    A joint action is legal where all its parts are. The greedy one is the most probable of all.

    Parameters
    ----------
    width, nvec, **options
        As `JointActor` takes them.

    Raises
    ------
    InvalidOption
        If there are more than 100,000 joint actions.
    """

    choice: ClassVar[str] = "central"
    parts: Tensor

    def __init__(self, width: int, nvec: Sequence[int], **options: Any) -> None:
        super().__init__(width, nvec, **options)
        self.nvec = [int(size) for size in nvec]
        joint = math.prod(self.nvec)
        if joint > MOST:
            raise InvalidOption(
                f"a central learner has an output for every joint action, here {joint:,} of them; "
                f"at most {MOST:,} are allowed: take rpp_agents.trainers.autoregressive instead"
            )
        parts = np.stack(np.unravel_index(np.arange(joint), self.nvec), axis=1)
        self.register_buffer("parts", torch.from_numpy(parts), persistent=False)
        self.net = AgentNet(
            self.features_width,
            1,  # the team is one agent
            joint,
            hidden=self.description["hidden"],
            gain=0.01,
            layer_norm=False,  # done by then
            shared=False,
        )

    def choose(
        self, features: Tensor, masks: Tensor | None, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        legal = self.joint_legal(masks)
        chosen, log_probs = draw(self.log_probs(features, legal), legal, rng)
        return self.parts[chosen], log_probs[:, None]

    def evaluate(self, features: Tensor, masks: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = self.log_probs(features, self.joint_legal(masks))
        chosen = torch.zeros_like(actions[:, :1])
        for i, size in enumerate(self.nvec):
            chosen = chosen * size + actions[:, i : i + 1]
        return log_probs.gather(-1, chosen), entropy(log_probs)[:, None]

    def log_probs(self, features: Tensor, legal: Tensor) -> Tensor:
        """(B, joint actions)."""
        logits: Tensor = self.net(features[:, None])[:, 0]
        return torch.log_softmax(logits.masked_fill(~legal, MASKED), dim=-1)

    def joint_legal(self, masks: Tensor | None) -> Tensor:
        """Bool (..., joint actions) of masks (..., n, A): where every agent's part is allowed."""
        legal = self.legal if masks is None else self.legal & masks
        joint = legal[..., 0, : self.nvec[0]]
        for i, size in enumerate(self.nvec[1:], start=1):
            joint = (joint[..., :, None] & legal[..., i, None, :size]).flatten(-2)
        return joint


train = trainer("Central PPO", partial(PPO, critic_input="state", actor=CentralActor), Config())
