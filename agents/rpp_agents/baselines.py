"""Policies that ignore the user: those of `rpp_env.evaluation.baselines`."""

from __future__ import annotations

from rpp_env.evaluation.baselines import Fixed, Random, fixed_prompts, search_fixed

__all__ = ["Fixed", "Random", "fixed_prompts", "search_fixed"]
