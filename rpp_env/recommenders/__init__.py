"""Recommenders: prompts in, rankings out. The environment's only door to the world."""

from __future__ import annotations

from rpp_env.recommenders.base import Recommender
from rpp_env.recommenders.llm import LLMRecommender

__all__ = ["LLMRecommender", "Recommender"]
