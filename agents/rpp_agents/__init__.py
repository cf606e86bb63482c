"""Trainers and baselines for rpp_env, and for any PettingZoo parallel environment.

Each trainer is a module with a `Config` and a ``train(env, config) -> Policy``.
"""

from __future__ import annotations

from rpp_agents import mappo
from rpp_agents.baselines import Fixed, Random, search_fixed
from rpp_agents.plots import learning_curve
from rpp_agents.policy import NetworkPolicy, Policy, load_policy
from rpp_agents.rollout import BatchedEnv, PettingZooBatch, play

__all__ = [
    "BatchedEnv",
    "Fixed",
    "NetworkPolicy",
    "PettingZooBatch",
    "Policy",
    "Random",
    "learning_curve",
    "load_policy",
    "mappo",
    "play",
    "search_fixed",
]
