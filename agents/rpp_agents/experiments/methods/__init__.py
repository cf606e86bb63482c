"""Methods that a study compares: functions that are fitted on a problem's train users.

::

    def method(problem, *, seed, budget, watch, **config) -> Player

It may ask ``problem.train.ask`` (or play it) `budget` times, and says now and then how far it is:
``watch(calls, player)``. It never sees a reward of a validation or test user. ``config`` is what
the study's file gives.

The modules are imported when they are first asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rpp_agents.experiments.players import Player
from rpp_env.plugins import resolve

__all__ = ["METHODS", "VERSIONS", "Fit", "Watch", "method", "options"]

Watch = Callable[[int, Player], None]
"""Called with the number of training calls so far, and the current player."""
Fit = Callable[..., Player]

METHODS: dict[str, str] = {
    "manual": "sentences",
    "random": "fixed",
    "enumerate_all": "fixed",
    "enumerate": "fixed",
    "merged_fixed": "fixed",
    "merged_best": "fixed",
    "merged_random": "fixed",
    "groups": "groups",
    "supervised": "groups",
    "linucb": "bandits",
    "neural_bandit": "bandits",
    "grips": "sentences.grips",
    "gepa": "sentences.gepa",
    "capo": "sentences.promptolution",
    "evoprompt": "sentences.promptolution",
    "opro": "sentences.promptolution",
    "llmrank": "sentences.llmrank",
    "posterior": "responses",
    "keep_best": "responses",
    "explore_commit": "responses",
    "step_posterior": "responses",
    "rpp": "trained",
}
"""Methods with their modules."""

VERSIONS = {"enumerate": 2, "groups": 2, "linucb": 2, "neural_bandit": 2}
"""Versions of methods that changed after their runs had been saved; 1 for all others."""


def method(name: str) -> Fit:
    """Look up a method's function: one of `METHODS`, ``package.module:function``, or entry point.

    Raises
    ------
    InvalidOption
        Where there is none.
    """
    known = {own: f"{__name__}.{module}:{own}" for own, module in METHODS.items()}
    found: Fit = resolve("method", name, known)
    return found


def options(name: str) -> dict[str, Any]:
    """Return the options of a method's ``config``, with their defaults."""
    parameters = inspect.signature(method(name)).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in ("seed", "budget", "watch")
    }
