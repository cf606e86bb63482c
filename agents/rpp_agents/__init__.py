"""Trainers and baselines for rpp_env, and for other PettingZoo environments.

Each trainer is a module with a `Config` and a ``train(env, config) -> Policy``. Names are loaded
when they are first used, so that commands which train nothing need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rpp_agents.baselines import Fixed, Random, search_fixed
    from rpp_agents.plots import learning_curve
    from rpp_agents.policy import NetworkPolicy, Policy, QPolicy, load_policy
    from rpp_agents.rollout import BatchedEnv, PettingZooBatch, play
    from rpp_agents.trainers import a2c, enumeration, ippo, iql, mappo, qmix, vdn

TRAINERS: dict[str, str] = {
    "mappo": "MAPPO",
    "ippo": "IPPO",
    "a2c": "A2C",
    "iql": "IQL",
    "vdn": "VDN",
    "qmix": "QMIX",
    "central": "Central PPO",
    "autoregressive": "Autoregressive PPO",
}
"""Modules of `rpp_agents.trainers`, and their names in tables and plots."""

SOLVERS: dict[str, str] = {
    "ppr": "PPR's own solver",
    "pap_rec": "PAP-REC's own solver",
    "peapod": "PeaPOD's own solver",
    "reinforce": "REINFORCE",
    "evolution": "Evolution strategy",
    "linucb": "LinUCB",
}
"""Modules of `rpp_agents.solvers`, which are named and run as trainers are."""

__all__ = [
    "SOLVERS",
    "TRAINERS",
    "BatchedEnv",
    "Fixed",
    "NetworkPolicy",
    "PettingZooBatch",
    "Policy",
    "QPolicy",
    "Random",
    "a2c",
    "autoregressive",
    "central",
    "enumeration",
    "ippo",
    "iql",
    "learning_curve",
    "load_policy",
    "mappo",
    "play",
    "qmix",
    "search_fixed",
    "vdn",
]

_WHERE = {
    "BatchedEnv": "rollout",
    "Fixed": "baselines",
    "NetworkPolicy": "policy",
    "PettingZooBatch": "rollout",
    "Policy": "policy",
    "QPolicy": "policy",
    "Random": "baselines",
    "learning_curve": "plots",
    "load_policy": "policy",
    "play": "rollout",
    "search_fixed": "baselines",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"rpp_agents.{_WHERE[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"rpp_agents.trainers.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
