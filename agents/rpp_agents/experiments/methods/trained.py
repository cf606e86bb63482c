"""Trained agents as methods: RPP, RPP+, and other systems in which agents choose prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.methods.sentences import space_of
from rpp_agents.experiments.methods.sentences.alone import OnlyAgent, check_alone
from rpp_agents.experiments.players import Playing
from rpp_agents.experiments.problem import Counted, Problem, Users
from rpp_agents.policy import Policy
from rpp_agents.trainers import find_trainer, trainer_config
from rpp_env.rewriting import open_rewriter

__all__ = ["SET_BY_THE_STUDY", "rpp"]

SET_BY_THE_STUDY: dict[str, Any] = {"evaluations": 0, "threads": 1, "tensorboard": False}
"""Fields of a trainer's Config that are the same for all runs, besides budget and seed."""


def rpp(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    trainer: str = "mappo",
    options: Mapping[str, Any] | None = None,
    num_envs: int = 256,
    ranking: Literal["mean", "sequence"] = "mean",
    observe: Literal["shared", "private"] = "shared",
    rewrite: str | None = None,
    only: str | None = None,
) -> Playing:
    """Train the agents; a call of the model is a step, or an answer that a solver differentiated.

    Parameters
    ----------
    trainer : str
        As `rpp_agents.trainers.find_trainer` takes it.
    options : mapping, optional
        Fields of its Config.
    num_envs : int
        Users who play at once.
    ranking : {"mean", "sequence"}
        How the last ranking is observed; A2C's recurrent network reads a sequence.
    observe : {"shared", "private"}
        Whether each agent observes everything, or only what its own choice needs.
    rewrite : str, optional
        RPP+: who rewrites the chosen sentences, in training and afterwards.
    only : str, optional
        Of prompts of sentences: the one agent that chooses; the others stay on the
        manual prompt (RPP-Ro, -Hi, -Re, -Ou; Mao et al. 2025, Figure 3).

    Raises
    ------
    InvalidOption
        For an unknown trainer or agent; for `only` and `rewrite` where prompts are no sentences.
    """
    answers = problem.train.env.episode.answers
    steps = max(1, budget // answers)
    config = trainer_config(
        trainer, options or {}, "rpp", total_steps=steps, seed=seed, **SET_BY_THE_STUDY
    )
    if only is not None:
        check_alone(problem.train, only)
    if rewrite is not None:
        space_of(problem.train.env, f"rewrite={rewrite!r}")
    rewriter = open_rewriter(rewrite)

    def environment(users: Users, **more: Any) -> Any:
        env = users.environment(
            rewrite=rewriter, ranking=ranking, observe=observe, num_envs=num_envs, **more
        )
        counted = Counted(env, users)
        return counted if only is None else OnlyAgent(counted, only)

    ledger = problem.train.ledger

    def after_iteration(row: Mapping[str, float], policy: Policy) -> None:
        # A solver that reads gradients asks the recommender itself, and takes no steps.
        asked = int(row.get("info/gradient_calls", 0))
        ledger.calls, ledger.unique = max(ledger.calls, asked), max(ledger.unique, asked)
        watch(int(row["steps"]) * answers, Playing(policy, environment))

    policy = find_trainer(trainer).train(
        environment(problem.train, seed=seed), config, callbacks=[after_iteration], progress=False
    )
    return Playing(policy, environment)
