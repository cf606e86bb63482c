"""The same users, disjoint later clicks: tasks, training data, and no leak between the parts."""

from __future__ import annotations

import numpy as np
import pytest

from rpp_env.data import load_dataset, make_tasks
from rpp_env.data.clicks import PARTS, click_tasks, task_users, training_clicks
from rpp_env.errors import InvalidData, InvalidOption


def test_each_part_asks_for_a_later_click_of_the_same_users() -> None:
    data = load_dataset("movieworld", num_users=60, num_items=120)
    users = task_users(data)
    for place, part in enumerate(PARTS):
        tasks = click_tasks(data, users, part, num_candidates=10, repeats="keep")
        assert np.array_equal(tasks.users, users)
        for i, user in enumerate(users):
            clicks = data.sequence(user)
            assert tasks.targets[i] == clicks[place - 3]
            assert np.array_equal(tasks.history(i), clicks[: place - 3][-50:])
            assert not np.isin(np.delete(tasks.candidates[i], tasks.position[i]), clicks).any()


def test_training_stops_before_every_target() -> None:
    data = load_dataset("movieworld", num_users=60, num_items=120)
    taught = training_clicks(data, repeats="keep")
    for i, user in enumerate(task_users(data)):
        own = taught.items[taught.indptr[i] : taught.indptr[i + 1]]
        assert np.array_equal(own, data.sequence(user)[:-3])


def test_a_target_that_was_clicked_before_is_left_out(making) -> None:
    data = making.of([[0, 1, 2, 3, 1, 5]], 9)
    with pytest.warns(UserWarning, match="chose their target before"):
        tasks = click_tasks(data, [0], "validation", num_candidates=3)
    assert tasks.history(0).tolist() == [0, 2, 3]
    with pytest.raises(InvalidData, match="chose their target before"):
        click_tasks(data, [0], "validation", num_candidates=3, repeats="refuse")


def test_users_with_too_few_clicks_and_unknown_parts_are_refused(making) -> None:
    few = making.of([[0, 1, 2, 3]], 9)
    with pytest.raises(InvalidData, match="no user has 5 items"):
        training_clicks(few)
    data = making.of([[0, 1, 2, 3], [0, 1, 2, 3, 4]], 9)
    assert task_users(data).tolist() == [1]
    assert click_tasks(data, [0, 1], "test", num_candidates=4).users.tolist() == [1]
    with pytest.raises(InvalidOption, match="split"):
        click_tasks(data, [1], "warm")


def test_tasks_in_common_are_those_of_one_user_and_draw() -> None:
    data = load_dataset("movieworld", num_users=60, num_items=100)
    users = np.arange(0, 40, 2)
    three = make_tasks(data, users, num_candidates=5, draws=3)
    some = make_tasks(data, users[5:], num_candidates=5)
    assert np.array_equal(three.in_common(some), users[5:])
    assert np.array_equal(some.in_common(three), users[5:])
    assert not len(three.in_common(make_tasks(data, users + 1, num_candidates=5)))
    other = load_dataset("movieworld", num_users=60, num_items=100, seed=5)
    assert not len(three.in_common(make_tasks(other, users, num_candidates=5)))
    # The same users on later clicks have no task twice.
    train, test = (click_tasks(data, users, part, num_candidates=5) for part in ("train", "test"))
    assert np.array_equal(train.users, test.users)
    assert not len(train.in_common(test))
    assert np.array_equal(train.in_common(train), train.users)
