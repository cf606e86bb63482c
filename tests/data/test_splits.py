"""Users are split, and training data holds nobody's target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rpp_env.data import UserSplit, split_users, training_interactions
from rpp_env.errors import InvalidData, InvalidOption


def test_parts_are_disjoint_and_complete(making) -> None:
    data = making.random(300)
    split = split_users(data)
    together = np.concatenate([split.train, split.validation, split.test])
    assert np.array_equal(np.sort(together), np.arange(300))
    assert [len(split.part(p)) for p in ("train", "validation", "test")] == [210, 30, 60]
    assert all((np.diff(split.part(p)) > 0).all() for p in ("train", "validation", "test"))


def test_the_split_follows_its_own_seed_only(making) -> None:
    data = making.random(300)
    np.random.default_rng(5).random()
    assert np.array_equal(split_users(data).train, split_users(data).train)
    assert not np.array_equal(split_users(data).train, split_users(data, seed=1).train)


def test_a_shared_user_is_refused() -> None:
    rows = np.array
    with pytest.raises(InvalidData, match=r"1 users .* user row 2 \(in train and test\)"):
        UserSplit(rows([0, 2]), rows([1]), rows([2, 3]))
    with pytest.raises(InvalidData, match=r"user row 1 \(in validation\)"):
        UserSplit(rows([0]), rows([1, 1]), rows([2]))


def test_users_without_a_history_are_left_out(making) -> None:
    data = making.of([[0], [0, 1], [2, 1, 0], [1]], 3)
    split = split_users(data, fractions=(0.5, 0.0, 0.5))
    assert sorted([*split.train, *split.test]) == [1, 2]


def test_the_dataset_s_own_sizes_are_the_default(making) -> None:
    data = replace(making.random(100), default_split=(10, 20, 30))
    split = split_users(data)
    assert [len(split.train), len(split.validation), len(split.test)] == [10, 20, 30]
    assert len(split_users(data, fractions=(0.5, 0.25, 0.25)).train) == 50
    with pytest.raises(InvalidData, match="only 100 have two"):
        split_users(replace(data, default_split=(90, 10, 1)))


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (0.5, 0.5)])
def test_impossible_fractions_are_refused(making, fractions) -> None:
    with pytest.raises(InvalidOption, match="three shares"):
        split_users(making.random(20), fractions=fractions)


def test_unknown_parts_and_seeds_are_refused(making) -> None:
    split = split_users(making.random(20))
    with pytest.raises(InvalidOption, match="split 'dev' is unknown"):
        split.part("dev")
    with pytest.raises(InvalidOption, match="seed must be at least 0"):
        split_users(making.random(20), seed=-1)


def test_training_interactions_are_histories_of_train_users(making) -> None:
    data = making.of([[0, 1, 2], [2, 1], [1, 0], [3, 0, 1, 2]], 5)
    split = UserSplit(np.array([0, 3]), np.array([1]), np.array([2]))
    known = training_interactions(data, split)
    assert known.indptr.tolist() == [0, 2, 5]
    assert known.items.tolist() == [0, 1, 3, 0, 1]
    assert known.counts.tolist() == [2, 2, 0, 1, 0]


def test_training_interactions_do_not_see_targets(making) -> None:
    data = making.random(100)
    split = split_users(data)
    items = data.items.copy()
    items[data.indptr[1:] - 1] = (items[data.indptr[1:] - 1] + 1) % data.num_items
    before = training_interactions(data, split)
    after = training_interactions(replace(data, items=items), split)
    assert np.array_equal(before.items, after.items)
    assert np.array_equal(before.indptr, after.indptr)
    # The test would notice: with the targets left in, the data do differ.
    assert not np.array_equal(data.items, items)
