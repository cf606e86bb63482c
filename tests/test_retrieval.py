"""Candidates retrieved by a frozen SASRec: its highest ranked items, without targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from small_sasrec import small_world, trained

from rpp_env import Dataset, RPPEnv
from rpp_env.data import make_tasks, read_selection, split_users, training_interactions
from rpp_env.errors import InvalidOption
from rpp_env.models.scripted import echo
from rpp_env.recommenders.retrieval import retrieve, write_selection


@pytest.fixture(scope="module")
def data() -> Dataset:
    return small_world()


@pytest.fixture(scope="module")
def model(data: Dataset) -> Any:
    return trained(data)


def with_other_targets(data: Dataset) -> Dataset:
    """The same histories; each user's last item is another one, which is new to the user."""
    items = data.items.copy()
    for user, last in enumerate((data.indptr[1:] - 1).tolist()):
        new = np.setdiff1d(np.arange(data.num_items), data.sequence(user))
        items[last] = new[user % len(new)]
    return replace(data, items=items)


def test_lists_hold_what_the_model_ranks_highest(data: Dataset, model: Any) -> None:
    users = split_users(data).test[:20]
    lists = retrieve(model, data, users, count=30)
    tasks = make_tasks(data, users)
    state = model.read(tasks)
    scores = state @ model.weights["items.weight"].detach().numpy().T
    for row, user in enumerate(users.tolist()):
        history = data.sequence(user)[:-1]
        assert not np.isin(lists[user], history).any()
        others = np.setdiff1d(np.arange(data.num_items), [*lists[user], *history])
        assert scores[row, lists[user]].min() >= scores[row, others].max() - 1e-5
        assert (np.diff(scores[row, lists[user]]) <= 1e-5).all()


def test_targets_change_no_list(data: Dataset, model: Any) -> None:
    """Neither those of the users who are ranked for, nor, by way of the weights, any other."""
    other = with_other_targets(data)
    users = np.arange(data.num_users)
    split = split_users(data)
    np.testing.assert_array_equal(
        training_interactions(data, split).items, training_interactions(other, split).items
    )
    before, after = (retrieve(model, world, users, count=25) for world in (data, other))
    hit = 0
    for user in users.tolist():
        np.testing.assert_array_equal(before[user], after[user])
        hit += data.sequence(user)[-1] in before[user]
    assert 0.25 < hit / len(users) < 1  # the target is in or out, better than by chance


def test_environments_play_a_file_of_lists(data: Dataset, model: Any, tmp_path: Path) -> None:
    users = split_users(data).test
    lists = retrieve(model, data, users, count=25)
    path = tmp_path / "lists.tsv"
    write_selection(path, lists, data)
    again = read_selection(path, data)
    assert list(again) == list(lists)
    assert all((again[user] == lists[user]).all() for user in lists)
    env = RPPEnv.make(data, echo(), "test", negatives="retrieved", selection=path, num_envs=4)
    for row, user in enumerate(np.asarray(env.tasks.users).tolist()):
        others = set(env.tasks.candidates[row].tolist()) - {int(data.sequence(user)[-1])}
        assert others <= set(lists[user].tolist())
    with pytest.raises(InvalidOption, match="count must be 1 to"):
        retrieve(model, data, users, count=100)
