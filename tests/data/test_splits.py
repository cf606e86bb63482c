"""Users are split, and training data contain no target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rpp_env.data import UserSplit, load_dataset, split_users, training_interactions
from rpp_env.data.atomic import read_interactions
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
    with pytest.raises(InvalidOption, match="split 'dev' is not known"):
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
    for user, last in enumerate(data.indptr[1:] - 1):
        # No other item of the user: an earlier choice of a target is taken out with it.
        items[last] = np.setdiff1d(np.arange(data.num_items), data.sequence(user))[user % 30]
    before = training_interactions(data, split)
    after = training_interactions(replace(data, items=items), split)
    assert np.array_equal(before.items, after.items)
    assert np.array_equal(before.indptr, after.indptr)
    # The test would notice: with the targets left in, the data do differ.
    assert not np.array_equal(data.items, items)


# ---- by time ----


def test_by_time_the_latest_targets_are_tested(making) -> None:
    data = making.of([[0, 1], [1, 2], [2], [2, 0, 1], [1, 0]], 3)
    data = replace(data, last_times=np.array([40.0, 10.0, 5.0, 30.5, 20.0]))
    split = split_users(data, fractions=(0.5, 0.25, 0.25), by="time")
    assert (split.train.tolist(), split.validation.tolist()) == ([1, 4], [3])
    assert split.test.tolist() == [0]


def test_equal_times_part_as_the_seed_has_it(making) -> None:
    times = np.random.default_rng(0).integers(0, 12, 300).astype(float)
    data = replace(making.random(300), last_times=times)
    splits = [split_users(data, by="time", seed=seed) for seed in (0, 0, 1)]
    for split in splits:
        parts = [split.part(part) for part in ("train", "validation", "test")]
        assert [len(part) for part in parts] == [210, 30, 60]
        early, middle, late = (times[part] for part in parts)
        assert early.max() <= middle.min()
        assert middle.max() <= late.min()
    assert np.array_equal(splits[0].train, splits[1].train)
    moved = np.setxor1d(splits[0].train, splits[2].train)
    assert len(moved)  # it was a tie that the border went through
    assert set(times[moved]) == {times[splits[0].train].max()}


def test_no_training_interaction_is_later_than_a_target_of_others(making, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"u{user}\t{item}\t1\t{time}"
        for user in range(60)
        for item, time in zip((1, 2, 3), rng.integers(0, 20, 3) + rng.integers(0, 30), strict=True)
    ]
    folder = making.folder(tmp_path, "\n".join(rng.permutation(rows)) + "\n")
    _never_later(folder, order="time")


@pytest.mark.parametrize("name", ["ml-100k", "ml-latest-small", "ml-1m"])
def test_nor_in_real_datasets(real, name: str) -> None:
    assert real(name).folder is not None
    _never_later(real(name).folder)


def _never_later(folder: Path, **options: str) -> None:
    """Split by time, and look at all times of the file."""
    data = load_dataset(folder, **options)
    read = read_interactions(next(folder.glob("*.inter*")))
    assert read.user_tokens == data.user_tokens
    ordered = read.timestamps[np.lexsort((read.timestamps, read.users))]
    assert data.last_times is not None
    assert np.array_equal(data.last_times, ordered[data.indptr[1:] - 1])
    split = split_users(data, by="time")
    latest = max(ordered[slice(*data.indptr[[u, u + 1]])][:-1].max() for u in split.train)
    for part in (split.validation, split.test):
        assert latest <= data.last_times[part].min()
    # At random it is not so: the test would notice.
    split = split_users(data)
    latest = max(ordered[slice(*data.indptr[[u, u + 1]])][:-1].max() for u in split.train)
    assert latest > data.last_times[split.test].min()


def test_without_times_there_is_no_split_by_time(making, tmp_path: Path) -> None:
    folder = making.folder(tmp_path, "a\t1\t1\t5\na\t2\t1\t6\n")
    for data in (making.random(20), load_dataset("movieworld", num_users=6)):
        with pytest.raises(InvalidOption, match=r"cannot be split by time.*ml-1m, ml-100k and ml-"):
            split_users(data, by="time")
    with pytest.raises(InvalidOption, match="tiny cannot be split by time"):
        split_users(load_dataset(folder, order="position"), by="time")
    with pytest.raises(InvalidOption, match="by 'item' is not known; there are user, time"):
        split_users(making.random(20), by="item")


@pytest.mark.parametrize("name", ["lastfm", "games"])
def test_play_counts_and_positions_are_no_times(real, name: str) -> None:
    with pytest.raises(InvalidOption, match="cannot be split by time"):
        split_users(real(name), by="time")


def test_times_are_one_a_user_and_change_no_digest(making) -> None:
    data = making.random(20)
    timed = replace(data, last_times=np.arange(20.0))
    assert timed.digest == data.digest
    with pytest.raises(ValueError, match="read-only"):
        timed.last_times[0] = 1.0
    for wrong in (np.arange(19.0), np.full(20, np.nan)):
        with pytest.raises(InvalidData, match="last_times must hold one finite time per user"):
            replace(data, last_times=wrong)
