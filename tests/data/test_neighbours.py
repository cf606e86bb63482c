"""User vectors without held-out clicks, new users, and neighbours in bounded memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rpp_env.data import load_dataset
from rpp_env.data import neighbours as module
from rpp_env.data.clicks import click_tasks, task_users, training_clicks
from rpp_env.data.neighbours import fit_factors, nearest
from rpp_env.errors import InvalidOption

WORLD: dict[str, Any] = {"num_users": 300, "num_items": 100}


def test_vectors_know_no_held_out_click() -> None:
    """Other held-out items change nothing, bit for bit; other training items do."""
    data = load_dataset("movieworld", **WORLD)
    last = np.concatenate([data.indptr[1:] - back for back in (1, 2, 3)])
    first = np.setdiff1d(np.arange(len(data.items)), last)
    found = []
    for places in ([], last, first):
        items = data.items.copy()
        items[places] = np.random.default_rng(1).permutation(items[places])
        taught = training_clicks(replace(data, items=items), repeats="keep")
        factors = fit_factors(taught, 8, rounds=3)
        users = factors.fold_in(taught.indptr, taught.items)
        found.append((factors.digest, users.tobytes(), nearest(users, users, 5)[0].tobytes()))
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))


def test_a_round_minimises_the_weighted_squares() -> None:
    """The gradient of the stated loss is 0 in each user's vector, repeated clicks counting once."""
    data = load_dataset("movieworld", **WORLD)
    taught = training_clicks(data)
    factors = fit_factors(taught, 6, decay=2.0, weight=5.0, rounds=2)
    assert not np.array_equal(factors.items, fit_factors(taught, 6, rounds=2).items)
    indptr, items = taught.indptr[:4], np.concatenate([taught.items[: taught.indptr[3]]])
    users = factors.fold_in(indptr, items)
    v = factors.items.astype(np.float64)
    for i, user in enumerate(users.astype(np.float64)):
        x = np.zeros(len(v))
        x[items[indptr[i] : indptr[i + 1]]] = 1
        slope = v.T @ ((1 + 5 * x) * (v @ user - x)) + 2 * user
        assert np.abs(slope).max() < 1e-4
    twice = factors.fold_in(indptr[:2] * 2, np.repeat(items, 2))
    assert twice[0].tobytes() == users[0].tobytes()


def test_vectors_fit_what_users_click() -> None:
    data = load_dataset("movieworld", num_users=600, num_items=100)
    taught = training_clicks(data)
    factors = fit_factors(taught, 8)
    tasks = click_tasks(data, task_users(data), "test", num_candidates=20)
    users = factors.fold_in(tasks.history_indptr, tasks.history_items)
    scores = np.einsum("bd,bkd->bk", users, factors.items[tasks.candidates])
    own = scores[np.arange(len(tasks)), tasks.position]
    better = (scores > own[:, None]).sum(axis=1) / 19
    assert better.mean() < 0.5 - 3 * better.std() / len(better) ** 0.5


def test_a_new_user_is_folded_in_as_if_fitted() -> None:
    data = load_dataset("movieworld", **WORLD)
    taught = training_clicks(data)
    factors = fit_factors(taught, 8, rounds=3)
    pool = factors.fold_in(taught.indptr, taught.items)
    # Each user alone, and an unknown one without a click.
    for i in (0, 7):
        own = taught.items[taught.indptr[i] : taught.indptr[i + 1]]
        alone = factors.fold_in(np.array([0, len(own), len(own)]), own)
        assert alone[0].tobytes() == pool[i].tobytes()
        assert not alone[1].any()
        rows, alike = nearest(alone, pool, 3)
        assert rows[0, 0] == i  # a stranger with this history is next to its twin
        assert alike[0, 0] == pytest.approx(1)
        assert not alike[1].any()


def test_neighbours_are_the_most_similar_others() -> None:
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(700, 5)).astype(np.float32)
    own = np.arange(700)
    rows, alike = nearest(pool, pool, 9, own)
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    assert np.array_equal(rows, np.argsort(-cosine, axis=1)[:, :9])
    assert np.allclose(alike, -np.sort(-cosine, axis=1)[:, :9], atol=1e-6)
    assert not (rows == own[:, None]).any()
    assert (nearest(pool, pool, 1)[0][:, 0] == own).all()  # they are their own nearest otherwise
    # Users do not depend on each other.
    for some in (np.array([3]), np.arange(300, 690), rng.permutation(700)):
        again = nearest(pool[some], pool, 9, own[some])
        assert np.array_equal(again[0], rows[some])
        assert again[1].tobytes() == alike[some].tobytes()


def test_memory_is_bounded_for_a_hundred_thousand_users() -> None:
    """All similarities of these rows would take 240 MB (and 40 GB those of all users)."""
    for size in (1, 1000, 100_000, 10_000_000):
        held = module._chunk(size) * size
        assert held <= max(module._CELLS, size)
    pool = np.random.default_rng(0).normal(size=(100_000, 4)).astype(np.float32)
    tracemalloc.start()
    try:
        nearest(pool[:600], pool, 10, np.arange(600))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 84e6  # similarities, a copy, and 8-byte positions


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"rounds": 0}, {"decay": 0.0}, {"weight": -1.0}])
def test_options_out_of_range_are_refused(wrong: Any) -> None:
    taught = training_clicks(load_dataset("movieworld", **WORLD))
    with pytest.raises(InvalidOption, match="must be at least 1"):
        fit_factors(taught, **wrong)


def test_more_neighbours_than_users_are_refused() -> None:
    pool = np.eye(4, dtype=np.float32)
    assert nearest(pool, pool, 4)[0].shape == (4, 4)
    for count, own in ((0, None), (5, None), (4, np.arange(4))):
        with pytest.raises(InvalidOption, match="the number of other users; got"):
            nearest(pool, pool, count, own)
