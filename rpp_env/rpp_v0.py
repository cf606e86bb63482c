"""The environment under a versioned module name, the PettingZoo convention."""

from __future__ import annotations

from rpp_env.parallel import env, parallel_env, raw_env

__all__ = ["env", "parallel_env", "raw_env"]
