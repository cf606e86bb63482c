"""Prompts that ignore the user: random ones, the best one, and several merged.

They choose among the cells of any prompt space that has finitely many prompts.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.players import Asking, Player, Playing, borda_points
from rpp_agents.experiments.problem import Counted, Problem, Users
from rpp_env.evaluation.baselines import Random, fixed_prompts, halving, search_fixed

__all__ = [
    "constant",
    "enumerate",
    "enumerate_all",
    "merged_best",
    "merged_fixed",
    "merged_random",
    "random",
    "search",
]

Ints = NDArray[np.int64]


def constant(cell: int, calls: int = 1, *, merge: bool = False) -> Asking:
    """Ask one prompt for all users; later calls use other orders of the candidates."""
    return Asking(
        lambda users, _: np.full((len(users), calls), cell), reorder=calls > 1, merge=merge
    )


def random(problem: Problem, *, seed: int, budget: int, watch: Watch) -> Player:
    """Ask a random prompt at each of five calls; with infinitely many, or streams, one per step."""
    env = problem.train.env
    if not env.tabulable:
        return Playing(Random(env.action_spaces, seed=seed))
    cells = problem.train.cells
    return Asking(lambda users, rng: rng.integers(cells, size=(len(users), 5)))


def enumerate_all(problem: Problem, *, seed: int, budget: int, watch: Watch) -> Asking:
    """Enumerate every prompt for every train user, ignoring the budget; take the best mean."""
    return constant(best_of_all(problem.train))


def best_of_all(users: Users, rows: Ints | None = None) -> int:
    """Return the prompt with the best mean reward over tasks `rows`, by default all."""
    rows = users.rows if rows is None else rows
    means = np.empty(users.cells)
    for cell in range(users.cells):
        means[cell] = users.ask(rows, np.full(len(rows), cell)).rewards.mean()
    return int(means.argmax())


def enumerate(problem: Problem, *, seed: int, budget: int, watch: Watch) -> Player:  # noqa: A001
    """Enumerate within the budget, by successive halving.

    Where the steps of an episode differ, prompts are tried and played in whole episodes: all of
    them, or a random part if the budget is below four episodes for each.
    """
    users = problem.train
    if not users.env.episode.changes:
        return constant(search(users, np.arange(len(users)), seed, budget, watch))
    env = Counted(users.environment(seed=seed), users)
    prompts, episodes = fixed_prompts(env.space, env.max_cycles), budget // env.max_cycles
    tried = np.random.default_rng(seed).permutation(len(prompts))[: max(1, episodes // 4)]
    found, _ = search_fixed(env, budget=episodes, seed=seed, candidates=[prompts[i] for i in tried])
    return Playing(found)


def search(users: Users, rows: Ints, seed: int, budget: int, watch: Watch | None = None) -> int:
    """Search the best prompt for tasks `rows` by successive halving, in `budget` calls or fewer."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)

    def ask(start: int, stop: int, left: Ints) -> NDArray[np.float64]:
        who = np.repeat(order[start:stop], len(left))
        return users.ask(who, np.tile(left, stop - start)).rewards.reshape(-1, len(left))

    def say(calls: int, cell: int) -> None:
        if watch is not None:
            watch(calls, constant(cell))

    return halving(ask, rng.permutation(users.cells), len(order), budget, say)[0]


def merged_fixed(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    calls: int = 5,
) -> Asking:
    """Ask the best fixed prompt (of all prompts, on all users) five times and merge the answers.

    At temperature 0 the same prompt gives the same answer, so the candidates are shown in another
    order each time, as LLMRank's bootstrapping does. The baseline at equal calls.
    """
    return constant(best_of_all(problem.train), calls, merge=True)


def merged_best(
    problem: Problem, *, seed: int, budget: int, watch: Watch, calls: int = 5
) -> Asking:
    """Find the five fixed prompts whose merged orders are best for the train users.

    Chosen greedily, one after the other, from all answers about them; one that is chosen twice
    counts twice. What five calls buy without knowing anything of the user.
    """
    users = problem.train
    rows, K = np.arange(len(users)), users.env.tasks.num_candidates
    points = np.empty((users.cells, len(rows), K), np.int16)
    for cell in range(users.cells):
        asked = users.ask(rows, np.full(len(rows), cell))
        points[cell] = borda_points(asked.rankings.order, asked.rankings.named.astype(np.int64))
    targets = users.env.tasks.position
    total = np.zeros((len(rows), K), np.int16)
    chosen: list[int] = []
    for _ in range(calls):
        scores = [_merged_score(total + more, targets) for more in points]
        chosen.append(int(np.argmax(scores)))
        total = total + points[chosen[-1]]
    return Asking(lambda users, _: np.tile(chosen, (len(users), 1)), merge=True)


def _merged_score(points: NDArray[np.int16], targets: Ints) -> float:
    """Mean NDCG@10 of orders by points, ties half a place each."""
    mine = points[np.arange(len(points)), targets][:, None]
    rank = 1 + (points > mine).sum(axis=1) + ((points == mine).sum(axis=1) - 1) / 2
    found = np.where((mine[:, 0] > 0) & (rank <= 10), 1 / np.log2(rank + 1), 0.0)
    return float(found.mean())


def merged_random(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    calls: int = 5,
) -> Asking:
    """Ask five random prompts and merge the answers."""
    cells = math.prod(problem.train.finite("merged_random"))
    return Asking(
        lambda users, rng: rng.integers(cells, size=(len(users), calls)),
        reorder=True,
        merge=True,
    )
