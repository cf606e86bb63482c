"""Recommenders: rank the candidates of prompts; an environment's only access to a model."""

from __future__ import annotations

from rpp_env.recommenders.base import Recommender
from rpp_env.recommenders.likelihood import LikelihoodRecommender, Likelihoods, choose_alpha
from rpp_env.recommenders.llm import LLMRecommender

__all__ = [
    "LLMRecommender",
    "LikelihoodRecommender",
    "Likelihoods",
    "Recommender",
    "choose_alpha",
]
