"""Estimate how often a command will call a language model, before it begins."""

from __future__ import annotations

import math

import numpy as np

from rpp_agents.commands.console import say
from rpp_env import RPPEnv
from rpp_env.data.candidates import TaskBatch
from rpp_env.models.base import is_language_model
from rpp_env.recommenders import LikelihoodRecommender

__all__ = ["answers_of", "is_asked", "say_cost", "tokens_of"]

_REPLAYED = ("embedded", "table:", "recording:")
"""Models, or prefixes of their names, that cost nothing."""
_PER_TOKEN = 4
"""Rough number of characters of English per token; other scripts have fewer."""


def is_asked(model: str | None) -> bool:
    """Return whether a model is called over a network or an engine, at a cost of money or time."""
    return model is not None and not model.startswith(_REPLAYED)


def say_cost(env: RPPEnv, model: str, rewrite: str | None, calls: int, note: str = "") -> None:
    """Print the maximum number of calls of the models, if any of them is costly.

    Parameters
    ----------
    env : RPPEnv
        The environment, for the length of its prompts.
    model, rewrite : str
        Options of the command.
    calls : int
        Maximum requests to the ranking model; each is one request to the rewriter, too.
    note : str
        Why there may be fewer.
    """
    asked = [name for name in (model, rewrite) if name is not None and is_asked(name)]
    if not asked or not is_language_model(getattr(env.recommender, "model", None)):
        return
    prompt, reply = tokens_of(env)
    for name in asked:
        times = f"asks {name} up to {calls:,} times{note}"
        if name == model:
            written = f"up to {reply:,} a reply" if reply else "titles included, and none written"
            times += f": some {prompt:,} tokens a prompt, {written} (an estimate)"
        say(times, error=True)


def tokens_of(env: RPPEnv) -> tuple[int, int]:
    """Estimate the tokens of a prompt, from its characters, and the most tokens of a reply.

    A prompt that titles continue is read with all of them.
    """
    rows = np.arange(min(16, len(env.tasks)))
    drawn = env.observer.actions.drawn(np.random.default_rng(0), (len(rows), len(env.agents)))
    state = env.space.apply(env.space.start(rows), drawn)
    prompts = env.space.prompts(state, TaskBatch(env.tasks, rows), rows)
    lengths = [len(prompt.text) for prompt in prompts]
    if isinstance(env.recommender, LikelihoodRecommender):
        titles = [sum(map(len, prompt.task.candidates)) for prompt in prompts]
        lengths = [one + more for one, more in zip(lengths, titles, strict=True)]
    generation = getattr(env.recommender, "generation", None)
    reply = 0 if generation is None else int(generation.max_tokens)
    return math.ceil(float(np.mean(lengths)) / _PER_TOKEN), reply


def answers_of(env: RPPEnv) -> int:
    """Maximum requests per task of a table of `env`: the number of its distinct prompts."""
    cells = np.arange(math.prod(env.space.shape or ()))
    longest = int(env.tasks.history_lengths.argmax())
    return len(np.unique(env.space.alike(cells, np.full(len(cells), longest))))
