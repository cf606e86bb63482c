"""Personalised prompting of a frozen recommender, as a multi-agent environment."""

from __future__ import annotations

import warnings
from typing import Any as _Any

from rpp_env.core import RPPEnv, Step
from rpp_env.data import Dataset, TaskSet, load_dataset, make_tasks
from rpp_env.episode import Episode
from rpp_env.errors import (
    BrokenContract,
    InvalidAction,
    InvalidData,
    InvalidOption,
    InvalidTask,
    MissingExtra,
    ResetNeeded,
    RPPError,
    TableMismatch,
    UnknownDataset,
)
from rpp_env.evaluation.evaluate import Report, evaluate
from rpp_env.joint import JointEnv, JointVectorEnv
from rpp_env.models import Generation, LanguageModel, Reply, Request, ScriptedModel
from rpp_env.observation import Context, Encoder, HashedNGrams, SentenceTransformerEncoder
from rpp_env.parallel import ActionMaskInObservation, env, parallel_env, raw_env
from rpp_env.prompting import PromptSpace, Rankings
from rpp_env.recommenders import LLMRecommender, Recommender
from rpp_env.registration import register_all
from rpp_env.rewriting import LLMRewriter, Rewrite
from rpp_env.rules import RULES, Rules
from rpp_env.sentences import AGENTS, Choice, SentenceCatalog
from rpp_env.sentences.prompt import Prompt
from rpp_env.table import RewardTable, tabulate
from rpp_env.task import Ranking, RankingTask

__all__ = [
    "AGENTS",
    "RULES",
    "ActionMaskInObservation",
    "BrokenContract",
    "Choice",
    "Context",
    "Dataset",
    "Encoder",
    "Episode",
    "Generation",
    "HashedNGrams",
    "InvalidAction",
    "InvalidData",
    "InvalidOption",
    "InvalidTask",
    "JointEnv",
    "JointVectorEnv",
    "LLMRecommender",
    "LLMRewriter",
    "LanguageModel",
    "MissingExtra",
    "Prompt",
    "PromptSpace",
    "RPPEnv",
    "RPPError",
    "Ranking",
    "RankingTask",
    "Rankings",
    "Recommender",
    "Reply",
    "Report",
    "Request",
    "ResetNeeded",
    "RewardTable",
    "Rewrite",
    "Rules",
    "ScriptedModel",
    "SentenceCatalog",
    "SentenceTransformerEncoder",
    "Step",
    "TableMismatch",
    "TaskSet",
    "UnknownDataset",
    "__version__",
    "env",
    "evaluate",
    "load_dataset",
    "make_tasks",
    "parallel_env",
    "raw_env",
    "register_all",
    "tabulate",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> _Any:
    if name == "PatternBook":  # for one version
        text = "rpp_env.PatternBook is now rpp_env.SentenceCatalog"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return SentenceCatalog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_all()
