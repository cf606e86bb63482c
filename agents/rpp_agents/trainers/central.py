"""Central PPO: one agent that sees everything and chooses for all.

A rival of MAPPO that tells whether a problem needs several agents. All agents' choices together are
one action, so for RPP-v0 the network has 5 x 5 x 9 x 5 = 1,125 outputs, and its input is the
observations of all agents side by side. It knows no miscoordination and can mix joint actions as it
likes; the price is that what it learns of one joint action says nothing of another that shares
three of four choices. All else is `mappo`; agents' rewards are averaged, as only all
together choose.
"""

from __future__ import annotations

from functools import partial

from rpp_agents.actors import CentralActor
from rpp_agents.trainers.ppo import PPO, Config
from rpp_agents.training import trainer

__all__ = ["CentralActor", "Config", "train"]

train = trainer("Central PPO", partial(PPO, critic_input="state", actor=CentralActor), Config())
