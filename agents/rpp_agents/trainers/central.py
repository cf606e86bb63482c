"""Central PPO: one agent that observes everything and chooses for all.

A baseline for MAPPO that shows whether a task needs several agents. All agents' choices together
are one action, so for RPP-v0 the network has 5 x 5 x 9 x 5 = 1,125 outputs, and its input is the
concatenation of all agents' observations. It cannot miscoordinate and can mix joint actions freely;
the price is that it does not generalise from one joint action to another that shares three of four
choices. All else is as in `mappo`; agents' rewards are averaged, because they choose together.
"""

from __future__ import annotations

from functools import partial

from rpp_agents.actors import CentralActor
from rpp_agents.trainers.ppo import PPO, Config
from rpp_agents.training import trainer

__all__ = ["CentralActor", "Config", "train"]

train = trainer("Central PPO", partial(PPO, critic_input="state", actor=CentralActor), Config())
