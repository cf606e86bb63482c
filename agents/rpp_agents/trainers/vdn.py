"""VDN: the team's Q-value is the sum of the agents' Q-values.

All else is as in `iql`, described there. Each agent's network learns which share of the team's
value depends on its own observation and action. The reward is the team's; if each agent has its own
reward, their mean. Interactions that no sum can express, such as an action that is good only
together with another agent's, are approximated by the best sum.

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
    """Adds up the agents' values."""

    one_value = True

    def forward(self, values: Tensor, *_: Tensor) -> Tensor:
        """Return (B, 1) for values (B, n)."""
        return values.sum(-1, keepdim=True)


train = trainer("VDN", partial(ValueLearner, mixer=lambda *_: Sum()), Config())
