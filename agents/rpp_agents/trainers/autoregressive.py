"""Autoregressive PPO: the agents choose in turn, each seeing the choices before it.

A baseline for MAPPO that shows whether a task needs agents that act separately. The joint policy is
a product of conditional ones, P(a1) P(a2 | a1) P(a3 | a1, a2) ..., so any distribution over joint
actions can be learned, without an output for each as `central` has. One network encodes all agents'
observations once; each agent's last hidden layer gets this encoding and, one-hot, the choices
before its own. PPO's ratio is that of the joint action. All else is as in
`rpp_agents.trainers.mappo`; agents' rewards are averaged, because they choose together.
"""

from __future__ import annotations

from functools import partial

from rpp_agents.actors import AutoregressiveActor
from rpp_agents.trainers.ppo import PPO, Config
from rpp_agents.training import trainer

__all__ = ["AutoregressiveActor", "Config", "train"]

train = trainer(
    "Autoregressive PPO", partial(PPO, critic_input="state", actor=AutoregressiveActor), Config()
)
