"""VDN: the team's Q-value is the sum of the agents' Q-values.

All else is `iql`, whose page says what that is. Each agent's network finds out by itself
which share of the team's value is due to what it sees and does. The reward is the team's; where
each agent is paid by itself, their mean. What no sum can express, such as an action that is good
only together with another's, is learnt as the best sum.

After Sunehag et al. 2018, "Value-Decomposition Networks For Cooperative Multi-Agent Learning"
(https://arxiv.org/abs/1706.05296).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from rpp_agents.trainers.value import Config, Mixer, ValueLearner
from rpp_agents.training import trainer

__all__ = ["Config", "Sum", "train"]


class Sum(Mixer):
    """The agents' values, added up."""

    one_value = True

    def forward(self, values: Tensor, *_: Tensor) -> Tensor:
        """(B, 1) of values (B, n)."""
        return values.sum(-1, keepdim=True)


train = trainer("VDN", partial(ValueLearner, mixer=lambda *_: Sum()), Config())
