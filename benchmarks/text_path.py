"""User-steps per second where everything goes through text, and where the time goes.

``python benchmarks/text_path.py [dataset]`` measures, on one core, what a step costs besides a
real language model: prompts are written, the embedded model reads them and answers, the answers
are read.

tabulation
    Batches as a table asks for them: 8 users, all of their history lengths, all 225 combinations
    of sentences. A user's paragraphs recur in hundreds of prompts.
live
    `RPPEnv.step` for 256 users at a time with random actions, every user for the first time; then
    the same users again. Here observations and rewards come on top.

Each number is the median of several batches. Processor time is measured, so that other processes
disturb little.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
from collections.abc import Callable
from itertools import product
from statistics import median
from time import process_time
from typing import Any

import numpy as np

from rpp_env import LLMRecommender, RPPEnv
from rpp_env.models import Request
from rpp_env.sentences.parsing import parse_order
from rpp_env.sentences.prompt import Prompt, as_messages
from rpp_env.task import Ranking

BATCHES = 12
STAGES = ("prompts", "model", "parsing", "rankings")


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = process_time()
    result = work(*arguments)
    return process_time() - start, result


def stages(prompts: list[Prompt], recommender: LLMRecommender) -> tuple[float, ...]:
    """Seconds that a batch takes in each of `STAGES`."""
    ways = recommender.generation
    writing, texts = timed(lambda: [prompt.text for prompt in prompts])
    requests = [Request(as_messages(text), ways) for text in texts]
    answering, replies = timed(recommender.model.complete, requests)
    answered = [(reply.text, p.task.candidates) for reply, p in zip(replies, prompts, strict=True)]
    reading, orders = timed(lambda: [parse_order(text, shown) for text, shown in answered])
    ranking, _ = timed(lambda: [Ranking(order, named) for order, named in orders])
    return writing, answering, reading, ranking


def report(name: str, size: int, seconds: list[float], parts: list[tuple[float, ...]]) -> None:
    whole = median(seconds)
    shares = [median(part) / whole for part in zip(*parts, strict=True)]
    named = [*zip(STAGES, shares, strict=True), ("rest", 1 - sum(shares))]
    where = ", ".join(f"{stage} {share:.0%}" for stage, share in named)
    print(f"{name:<12}{size / whole:>10,.0f} user-steps/s    {where}")


def tabulation(env: RPPEnv, first: int) -> list[Prompt]:
    roles, _, reasonings, outputs = (range(size) for size in env.book.sizes)
    choices = env.book.choose(np.array(list(product(roles, [0], reasonings, outputs))))
    tasks = [env.tasks.task(first + row) for row in range(8)]
    return [
        Prompt(task, choice, shown)
        for task in tasks
        for shown in sorted({min(rung, len(task.history)) for rung in env.rules.rungs})
        for choice in choices
    ]


def main(dataset: str = "movieworld") -> None:
    env = RPPEnv.make(dataset, num_envs=256)
    recommender = env.recommender
    assert isinstance(recommender, LLMRecommender)

    seconds, parts, prompts = [], [], []
    for batch in range(2 * BATCHES):  # one half as a whole, the other by stages: all users are new
        prompts = tabulation(env, 8 * batch)
        if batch % 2:
            parts.append(stages(prompts, recommender))
        else:
            seconds.append(timed(recommender.rank, prompts)[0])
    report("tabulation", len(prompts), seconds, parts)

    for name in ("live, first", "live, again"):
        rng = np.random.default_rng(0)
        seconds, parts = [], []
        for batch in range(2 * BATCHES):
            users = np.arange(256) + 256 * (batch % (len(env.tasks) // 256))
            env.reset(options={"users": users.tolist()})
            actions = rng.integers(0, env.nvec, size=(256, 4))
            if batch % 2:
                shown = np.minimum(3, env.tasks.history_lengths[users])
                made = [
                    Prompt(env.tasks.task(user), choice, count)
                    for user, choice, count in zip(
                        users.tolist(), env.book.choose(actions), shown.tolist(), strict=True
                    )
                ]
                parts.append(stages(made, recommender))
            else:
                seconds.append(timed(env.step, actions)[0])
        report(name, 256, seconds, parts)


if __name__ == "__main__":
    main(*sys.argv[1:])
