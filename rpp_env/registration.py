"""Registration of the environment ids, done when the package is imported."""

from __future__ import annotations

import gymnasium
import pettingzoo

from rpp_env.rules import IDS

__all__ = ["register_all"]


def register_all() -> None:
    """Register every id with Gymnasium and, where it has a registry, PettingZoo."""
    for rules in IDS:
        if rules in gymnasium.registry:
            continue
        gymnasium.register(
            rules,
            entry_point="rpp_env.joint:JointEnv",
            vector_entry_point="rpp_env.joint:JointVectorEnv",
            kwargs={"rules": rules},
        )
        if hasattr(pettingzoo, "register"):  # since 1.27
            name, kwargs = f"rpp_env/{rules}", {"rules": rules}
            pettingzoo.register("parallel", name, "rpp_env.parallel:parallel_env", kwargs=kwargs)
            pettingzoo.register("aec", name, "rpp_env.parallel:env", kwargs=kwargs)
