"""Bandits, group prompts and the supervised policy, where the best prompt of a user is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rpp_agents.experiments.methods import method
from rpp_agents.experiments.methods.bandits import Context, Crossed, LinearPosterior
from rpp_agents.experiments.players import Asking
from rpp_agents.experiments.problem import Problem, Users
from rpp_env import InvalidOption, Prompt, Ranking, RPPEnv
from rpp_env.sentences import SentenceCatalog
from rpp_env.table import tabulate

BUDGET = 3000
FITTED = ("linucb", "neural_bandit", "groups")
OPTIONS: dict[str, dict[str, Any]] = {
    "linucb": {},
    "neural_bandit": {"members": 2, "hidden": 32, "minibatch": 128, "learning_rate": 3e-3},
    "groups": {"groups": 2},
    "supervised": {"members": 1},
}


class Listing:
    """Ranks the candidates as they come."""

    def rank(self, prompts: list[Prompt]) -> list[Ranking]:
        order = tuple(range(20))
        return [Ranking(order, 20, "", 7, 3, 0) for _ in prompts]


def sides(users: Users) -> Callable[[Users], np.ndarray[Any, Any]]:
    """How far from the middle between two groups of first observations: linear, and signed."""
    groups = make_pipeline(StandardScaler(), KMeans(2, n_init=10, random_state=0))
    groups.fit(users.observations)
    return lambda them: (groups.transform(them.observations) ** 2 @ [1, -1]).astype(float)


def planted(users: Users, kinds: np.ndarray[Any, Any], rng: np.random.Generator) -> Users:
    """The same users, and how far down their targets come under each cell.

    A kind likes its own role, reasoning 1, and an output that depends on the role;
    few items are best.
    """
    table = users.env.table
    assert table is not None
    level, role, reasoning, output = np.unravel_index(np.arange(users.cells), users.shape)
    rank = 3 * (role != kinds[:, None]) + 2 * (reasoning == 0) + (output == role) + (level > 3)
    rank = rank + rng.integers(3, size=(len(users), 1))  # some are harder, whatever is asked
    orders = np.tile(np.arange(20, dtype=np.uint8), (len(users), users.cells, 1, 1))
    row, cell = np.indices(rank.shape)
    target = table.positions[:, None].astype(np.int64)
    orders[row, cell, 0, target], orders[row, cell, 0, rank] = rank, target
    env = users.env
    made = RPPEnv(
        env.tasks, book=env.book, embeddings=env.embeddings, table=replace(table, orders=orders)
    )
    return Users(made, users.live)


@pytest.fixture(scope="module")
def world() -> tuple[Problem, dict[str, np.ndarray[Any, Any]]]:
    book = SentenceCatalog.load("movies")
    two = {name: getattr(book, name)[:2] for name in ("role_playing", "reasoning_guidance")}
    book = replace(book, **two, output_format=book.output_format[:2])
    parts = {}
    for split in ("train", "validation", "test"):
        live = RPPEnv.make(model=Listing(), split=split, num_users=480, num_items=100, book=book)
        env = RPPEnv(live.tasks, book=book, embeddings=live.embeddings, table=tabulate(live))
        parts[split] = Users(env, live)
    side = sides(parts["train"])
    found = {split: side(users) for split, users in parts.items()}
    rng = np.random.default_rng(0)
    made = {
        split: planted(users, (found[split] > 0).astype(int), rng) for split, users in parts.items()
    }
    return Problem(**made), found


def counted(problem: Problem) -> Problem:
    """The same problem with new ledgers."""
    return Problem(*(getattr(problem, s).uncounted() for s in ("train", "validation", "test")))


def fitted(name: str, problem: Problem, *, seed: int = 0) -> tuple[Asking, list[int]]:
    looks: list[int] = []
    player = method(name)(
        problem,
        seed=seed,
        budget=BUDGET,
        watch=lambda calls, _: looks.append(calls),
        **OPTIONS[name],
    )
    assert isinstance(player, Asking)
    return player, looks


def cells_of(player: Asking, users: Users) -> np.ndarray[Any, Any]:
    return player.choose(users, np.random.default_rng(0))


@pytest.mark.parametrize("name", FITTED)
def test_a_method_beats_the_best_fixed_cell_within_its_budget(name: str, world: Any) -> None:
    problem = counted(world[0])
    player, looks = fitted(name, problem)
    assert 0.9 * BUDGET < problem.train.ledger.calls <= BUDGET
    assert problem.train.ledger.unique == problem.train.ledger.calls  # nothing is asked twice
    assert problem.validation.ledger.calls == problem.test.ledger.calls == 0
    assert looks == sorted(set(looks))
    assert looks[-1] <= BUDGET
    assert len(looks) == 2 if name == "groups" else 15 <= len(looks) <= 20

    rewards = problem.test.rewards
    fixed, best = rewards.mean(axis=0).max(), rewards.max(axis=1).mean()
    score = player.play(problem.test, 0).scores["score"].mean()
    assert score > fixed + 0.5 * (best - fixed)
    assert problem.test.ledger.calls == len(problem.test)  # one call for each user

    again, _ = fitted(name, counted(problem))
    assert (cells_of(again, problem.test) == cells_of(player, problem.test)).all()


@pytest.mark.parametrize("name", ["linucb", "neural_bandit"])
def test_watched_policies_do_not_change_afterwards(name: str, world: Any) -> None:
    problem = counted(world[0])
    seen: list[tuple[Asking, Any]] = []

    def watch(calls: int, player: Any) -> None:
        seen.append((player, cells_of(player, problem.test)))

    method(name)(problem, seed=0, budget=600, watch=watch, **OPTIONS[name])
    for player, cells in seen:
        assert (cells_of(player, problem.test) == cells).all()


@pytest.mark.parametrize("name", ["linucb", "neural_bandit", "supervised"])
def test_several_calls_begin_with_the_one(name: str, world: Any) -> None:
    problem = counted(world[0])
    one, five = (
        method(name)(
            counted(world[0]), seed=0, budget=600, watch=lambda *_: None, calls=n, **OPTIONS[name]
        )
        for n in (1, 5)
    )
    cells = cells_of(five, problem.test)
    assert cells.shape == (len(problem.test), 5)
    assert (cells[:, :1] == cells_of(one, problem.test)).all()
    assert all(len(set(row)) == 5 for row in cells.tolist())
    assert five.merge
    assert not one.merge


def test_groups_are_the_planted_kinds(world: Any) -> None:
    problem = counted(world[0])
    kinds = {split: (side > 0).astype(int) for split, side in world[1].items()}
    player, looks = fitted("groups", problem)
    assert looks[-1] == problem.train.ledger.calls
    cells = cells_of(player, problem.test)[:, 0]
    found = {kind: set(cells[kinds["test"] == kind].tolist()) for kind in (0, 1)}
    assert len(found[0]) == len(found[1]) == 1
    for kind, cell in found.items():
        # The levels that show few items are worth the same.
        means = problem.train.rewards[kinds["train"] == kind].mean(axis=0)
        assert means[cell.pop()] == pytest.approx(means.max())


def test_groups_refuse_impossible_options(world: Any) -> None:
    problem = counted(world[0])
    for options in ({"budget": BUDGET, "groups": 0}, {"budget": 3, "groups": 8}):
        with pytest.raises(InvalidOption, match="groups"):
            method("groups")(problem, seed=0, watch=lambda *_: None, **options)


def test_the_supervised_policy_is_the_best_of_each_kind(world: Any) -> None:
    problem, side = counted(world[0]), world[1]["test"]
    player, _ = fitted("supervised", problem)
    assert problem.train.ledger.calls == len(problem.train) * problem.train.cells
    assert problem.validation.ledger.calls == problem.test.ledger.calls == 0
    users = problem.test
    level, role, reasoning, output = np.unravel_index(cells_of(player, users)[:, 0], users.shape)
    right = (role == (side > 0)) & (reasoning == 1) & (output != role) & (level <= 3)
    clear = np.abs(side) > np.median(np.abs(side))  # some stand on the border
    assert right[clear].all()


def test_the_supervised_policy_needs_a_table(world: Any) -> None:
    problem = world[0]
    live = Users(problem.train.live, problem.train.live)
    with pytest.raises(InvalidOption, match="complete table"):
        fitted("supervised", Problem(live, live, live))
    assert live.ledger.calls == 0


# ---------------------------------------------------------------- the linear model

SHAPE = (3, 2, 4, 2)


def written_out(context: np.ndarray[Any, Any], cell: int, paired: int) -> np.ndarray[Any, Any]:
    """The features of one user and cell, as `Crossed` says it."""
    options = np.unravel_index(cell, SHAPE)
    single = [np.kron(np.eye(n)[o], context) for n, o in zip(SHAPE, options, strict=True)]
    double = [
        np.kron(
            np.kron(np.eye(SHAPE[a])[options[a]], np.eye(SHAPE[b])[options[b]]), context[:paired]
        )
        for a, b in combinations(range(4), 2)
    ]
    return np.concatenate([*single, *double])


@pytest.mark.parametrize("paired", [1, 3])
def test_the_posterior_is_ridge_regression(paired: int) -> None:
    rng = np.random.default_rng(0)
    users, count, ridge, user_ridge = 7, 48, 0.7, 0.4
    z = np.hstack([np.ones((users, 1)), rng.standard_normal((users, 3))])
    crossed = Crossed(SHAPE, 4, paired)
    posterior = LinearPosterior(crossed.size, users, ridge, user_ridge)
    rows, cells, rewards = [], [], []
    for _ in range(12):
        who, what = rng.permutation(users)[:5], rng.integers(count, size=5)
        paid = rng.random(5)
        made = crossed.rows(z[who], what)
        wanted = [written_out(z[u], c, paired) for u, c in zip(who, what, strict=True)]
        assert made == pytest.approx(np.array(wanted))
        posterior.update(who, made, paid)
        rows += [np.eye(users)[u] for u in who]
        cells += wanted
        rewards += paid.tolist()
    X = np.hstack([cells, rows])
    A = X.T @ X + np.diag([ridge] * crossed.size + [user_ridge] * users)
    weights = np.linalg.solve(A, X.T @ rewards)[: crossed.size]
    inverse = np.linalg.inv(A)[: crossed.size, : crossed.size]
    assert posterior.mean == pytest.approx(weights, abs=1e-9)
    assert posterior.covariance == pytest.approx(inverse, abs=1e-9)

    every = np.array([[written_out(c, cell, paired) for cell in range(count)] for c in z])
    assert crossed.means(weights, z) == pytest.approx(every @ weights)
    widths = np.einsum("uci,ij,ucj->uc", every, inverse, every)
    assert crossed.squares(posterior.covariance, z) == pytest.approx(widths)


def test_a_context_of_few_users_stays_small() -> None:
    seen = np.random.default_rng(0).normal(size=(5, 30))
    context = Context(seen, 8)
    assert context(seen).shape == (5, 5)  # four components and the constant
    assert np.abs(context(np.random.default_rng(1).normal(size=(50, 30)))).max() < 10
    with pytest.raises(InvalidOption, match="2 train users or more"):
        Context(seen[:1], 8)


def test_a_context_has_a_constant_and_components_of_deviation_one() -> None:
    seen = np.random.default_rng(0).standard_normal((40, 6)) * np.arange(6)  # one says nothing
    context = Context(seen, 3)(seen)
    assert (context[:, 0] == 1).all()
    assert context[:, 1:].std(axis=0, ddof=1) == pytest.approx(1.0)
    assert Context(seen[:4], 8)(seen).shape == (40, 4)  # around their mean, 4 users have 3
