"""MAPPO: PPO for a team, with one critic that sees the whole state.

=================  ==========================================================================
actors             decentralised; one network each, or with ``shared=True`` one for all, which
                   gets the agent's index as a one-hot
critic             centralised: sees ``env.state()``, one value for each agent
rewards            the team's, or one for each agent
advantages         GAE; a truncated episode is continued by the value of its true last state,
                   a terminated one is not
value loss         Huber, clipped, on returns normalised by running statistics (ValueNorm)
policy loss        clipped ratios, plus an entropy bonus that is annealed
action sizes       any: actions that an agent does not have, or may not take, have probability 0
episodes           any length; with one step, the problem is a contextual bandit and the
                   advantage is reward minus value
=================  ==========================================================================

Steps are collected by `rpp_agents.rollout.Collector`. The update is `PPO.update` in
`rpp_agents.trainers.ppo`. The actors' networks are in `rpp_agents.actors`, the critics' in
`rpp_agents.networks`. (The loop around them, with evaluations and checkpoints, is
`rpp_agents.training.trainer`.)

After Yu et al. 2022, "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games"
(https://arxiv.org/abs/2103.01955), and their code. Differences: feed-forward actors unless
`memory` is set, whose GRU then stands before the other layers; a linear
learning rate schedule; fewer passes in several minibatches, a higher learning rate and a network
for each agent, because the agents here have different tasks, hundreds of users play at once and an
episode has 5 steps.

Examples
--------
>>> import rpp_env
>>> from rpp_agents import mappo
>>> env = rpp_env.RPPEnv.make(split="train", num_envs=512)  # doctest: +SKIP
>>> policy = mappo.train(env, mappo.Config(seed=1), run_dir="runs/mappo-1")  # doctest: +SKIP
"""

from __future__ import annotations

from functools import partial

from rpp_agents.trainers.ppo import PPO, Config
from rpp_agents.training import trainer

__all__ = ["Config", "train"]

train = trainer("MAPPO", partial(PPO, critic_input="state"), Config())
