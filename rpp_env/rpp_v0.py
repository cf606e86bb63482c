"""The environment under its versioned name, as PettingZoo's modules have it."""

from __future__ import annotations

from rpp_env.parallel import env, parallel_env, raw_env

__all__ = ["env", "parallel_env", "raw_env"]
