"""IQL: independent Q-learning; each agent has its own Q-values.

=================  ==========================================================================
networks           one for each agent, or with ``shared=True`` one for all, which sees the
                   agent's index as a one-hot; fed by the agent's own observation
rewards            the team's, or one for each agent; every agent has its own TD error
targets            double Q: the network chooses among the legal next actions, a slowly updated
                   target network evaluates the choice; a truncated episode is continued by the
                   value of its true last observation, a terminated one is not
learning           Huber loss on transitions drawn uniformly from a replay buffer
exploration        each agent separately takes a random legal action with probability epsilon,
                   which falls linearly over a share of the run; in evaluation it is 0
action sizes       any: actions that an agent does not have, or may not take, are never chosen
=================  ==========================================================================

To each agent the others are part of a changing environment. After Tan 1993, "Multi-Agent
Reinforcement Learning: Independent vs. Cooperative Agents", with the networks of Mnih et al. 2015
(https://doi.org/10.1038/nature14236) and the double Q of van Hasselt et al. 2016
(https://arxiv.org/abs/1509.06461). Differences: feed-forward agents and a replay
of transitions, not of episodes (unless `memory` is set), because an observation contains the last
actions; hundreds of users play at once,
so that gradient steps are few and large, with a higher learning rate that falls to 0.

Examples
--------
>>> import rpp_env
>>> from rpp_agents import iql
>>> env = rpp_env.RPPEnv.make(split="train", num_envs=512)  # doctest: +SKIP
>>> policy = iql.train(env, iql.Config(seed=1), run_dir="runs/iql-1")  # doctest: +SKIP
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from rpp_agents.trainers.value import Config, Mixer, ValueLearner
from rpp_agents.training import trainer

__all__ = ["Config", "Separate", "train"]


class Separate(Mixer):
    """Leaves each agent's value separate."""

    def forward(self, values: Tensor, *_: Tensor) -> Tensor:
        """Return the values (B, n)."""
        return values


train = trainer("IQL", partial(ValueLearner, mixer=lambda *_: Separate()), Config())
