"""Policies that know nothing of the user, from `rpp_env.baselines`, beside the trained ones."""

from __future__ import annotations

from rpp_env.baselines import Fixed, Random, fixed_prompts, search_fixed

__all__ = ["Fixed", "Random", "fixed_prompts", "search_fixed"]
