"""IPPO: MAPPO with a critic per agent, on that agent's observation.

All else is as in `mappo`, described there. If every agent observes the whole state, as in RPP-v0
with ``observe="shared"``, the two differ little: IPPO's critics also see the agent's own last
action, MAPPO's sees those of all.

After de Witt et al. 2020, "Is Independent Learning All You Need in the StarCraft Multi-Agent
Challenge?" (https://arxiv.org/abs/2011.09533).
"""

from __future__ import annotations

from functools import partial

from rpp_agents.trainers.ppo import PPO, Config
from rpp_agents.training import trainer

__all__ = ["Config", "train"]

train = trainer("IPPO", partial(PPO, critic_input="observations"), Config())
