"""Users who have just arrived: the split, the tasks, the generated world, and no leak."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rpp_env import RPPEnv, SentenceCatalog
from rpp_env.data import (
    Dataset,
    UserSplit,
    arrival_tasks,
    load_dataset,
    make_tasks,
    split_arrivals,
)
from rpp_env.data.arrivals import ColdSplit
from rpp_env.embeddings import fit_embeddings
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.metrics import ndcg
from rpp_env.observation import history_context
from rpp_env.sim.movieworld import FIELDS, LEVELS, first_choice

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def world() -> Dataset:
    return load_dataset("arrivals", num_users=6000)


# ------------------------------------------------------------------------------------ the split


def test_warm_and_cold_users_are_disjoint_and_all_there(making) -> None:
    data = making.random(1000)
    split = split_arrivals(data, cold=0.3, seed=2)
    parts = [split.warm, *(split.cold.part(name) for name in PARTS)]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    assert [len(part) for part in parts] == [700, 210, 30, 60]
    same = split_arrivals(data, cold=0.3, seed=2)
    assert np.array_equal(same.cold.test, split.cold.test)
    other = split_arrivals(data, cold=0.3, seed=3)
    assert not np.array_equal(other.cold.test, split.cold.test)


def test_by_clicks_users_with_fewer_than_ten_are_cold(making) -> None:
    data = making.random(500)
    split = split_arrivals(data, by="clicks")
    assert (data.lengths[split.warm] >= 10).all()
    for name in PARTS:
        assert (data.lengths[split.cold.part(name)] < 10).all()
        assert len(split.cold.part(name))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"by": "click"}, "clicks"),
        ({"cold": 0.0}, "share of the users"),
        ({"cold": 1.0}, "share of the users"),
        ({"fractions": (0.5, 0.6, -0.1)}, "add up to 1"),
        ({"fractions": (0.5, 0.5)}, "add up to 1"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_splits_are_refused(making, options: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        split_arrivals(making.random(50), **options)


def test_a_dataset_without_warm_or_cold_users_is_refused(making) -> None:
    with pytest.raises(InvalidData, match="0 users are warm and 9 cold by clicks"):
        split_arrivals(making.of([[0, 1]] * 9, 20), by="clicks")
    with pytest.raises(InvalidData, match="9 users are warm and 0 cold"):
        split_arrivals(making.of([list(range(12))] * 9, 20), by="clicks")
    with pytest.raises(InvalidData, match="user row 2 is warm, and cold in test"):
        ColdSplit(np.array([1, 2]), UserSplit(np.array([3]), np.array([4]), np.array([2])))


# ------------------------------------------------------------------------------------ the tasks


def test_tasks_are_the_first_clicks_after_those_before_them(making) -> None:
    data = making.random(80, items=90)
    zero, few, joint = (
        arrival_tasks(data, range(80), shots, num_candidates=20)
        for shots in ("zero", "few", "joint")
    )
    assert len(zero) == 80
    assert len(few) == (np.minimum(data.lengths, 10) - 1).sum()
    assert len(joint) == len(zero) + len(few)
    for tasks in (zero, few, joint):
        for i, (user, click) in enumerate(zip(tasks.users, tasks.draw, strict=True)):
            sequence = data.sequence(user)
            assert tasks.targets[i] == sequence[click]
            assert tasks.history(i).tolist() == sequence[:click].tolist()
            own = set(tasks.candidates[i].tolist()) & set(sequence.tolist())
            assert own == {sequence[click]}
    assert set(zero.draw) == {0}
    assert set(few.draw) == set(range(1, 10))
    # The same task, whichever other users and clicks are requested.
    rows = np.flatnonzero(joint.draw > 0)
    assert joint.subset(rows).digest == few.digest
    assert arrival_tasks(data, range(80), 4, num_candidates=20).digest == (
        few.subset(few.draw == 4).digest
    )


@pytest.mark.parametrize("crop", [0, 1, 3, 5, 9])
def test_histories_are_cropped_and_targets_stay(making, crop: int) -> None:
    data = making.random(60, items=90)
    whole = arrival_tasks(data, range(60), 9, num_candidates=20)
    less = arrival_tasks(data, range(60), 9, crop=crop, num_candidates=20)
    assert np.array_equal(less.candidates, whole.candidates)
    assert np.array_equal(less.position, whole.position)
    assert (less.history_lengths == crop).all()
    for i in range(len(less)):
        assert less.history(i).tolist() == whole.history(i)[9 - crop :].tolist()
    padded = less.padded_history(12)
    assert (padded[:, : 12 - crop] == -1).all()
    assert (padded[:, 12 - crop :] >= 0).all()


def test_all_items_are_candidates_without_memory_for_them(making) -> None:
    data = making.random(100, items=70)
    for tasks in (
        arrival_tasks(data, range(100), num_candidates=None),
        make_tasks(data, range(100), num_candidates=None),
    ):
        assert tasks.num_candidates == 70
        assert tasks.candidates.strides[0] == 0
        assert not tasks.candidates.flags.writeable
        assert np.array_equal(tasks.targets, tasks.position)
        some = tasks.subset([3, 1])
        assert np.array_equal(some.candidates, np.tile(np.arange(70), (2, 1)))
        # A digest of the same numbers in memory of their own.
        assert replace(tasks, candidates=np.array(tasks.candidates)).digest == tasks.digest
    last = make_tasks(data, range(100), num_candidates=None)
    assert np.array_equal(last.targets, data.items[data.indptr[1:] - 1])
    for wrong in ({"draws": 2}, {"negatives": "popularity"}):
        with pytest.raises(InvalidOption, match="takes all items"):
            make_tasks(data, range(100), num_candidates=None, **wrong)


def test_a_target_is_not_shown_in_its_own_history(making) -> None:
    data = making.of([[3, 4, 3, 5], [6, 6, 7], [1, 2]], 30)
    with pytest.warns(UserWarning, match="2 of 9 tasks: the user chose their target before"):
        tasks = arrival_tasks(data, range(3), num_candidates=5)
    shown = {
        (int(u), int(c)): tasks.history(i).tolist()
        for i, (u, c) in enumerate(zip(tasks.users, tasks.draw, strict=True))
    }
    assert shown[0, 2] == [4]
    assert shown[0, 3] == [3, 4, 3]
    assert (1, 1) not in shown  # nothing else stood in it
    assert shown[1, 2] == [6, 6]
    assert len(shown) == 8
    with pytest.raises(InvalidData, match="chose their target before"):
        arrival_tasks(data, range(3), num_candidates=5, repeats="refuse")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(arrival_tasks(data, range(3), num_candidates=5, repeats="keep")) == 9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shots": "some"}, "zero, few"),
        ({"shots": 10}, r"0\.\.9"),
        ({"shots": -1}, r"0\.\.9"),
        ({"crop": 10}, r"0\.\.9"),
        ({"crop": -1}, r"0\.\.9"),
        ({"num_candidates": 1}, r"2\.\.60"),
        ({"negatives": "popular"}, "popularity"),
        ({"negatives": "popularity"}, "belong together"),
        ({"users": [999]}, "user rows"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_impossible_tasks_are_refused(making, options: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        arrival_tasks(making.random(50), **{"users": range(50), "num_candidates": 20} | options)


# ------------------------------------------------------------------------------------- no leak


def changed(data: Dataset, users: np.ndarray[Any, Any], places: slice) -> Dataset:
    """The same dataset, in which these users clicked other items there."""
    items = data.items.copy()
    for user in users:
        row = items[data.indptr[user] : data.indptr[user + 1]]
        fresh = np.setdiff1d(np.arange(data.num_items), row)
        row[places] = fresh[user % 5 : user % 5 + len(row[places])]
    return replace(data, items=items)


def test_clicks_of_cold_test_users_change_no_statistic(world: Dataset) -> None:
    split = split_arrivals(world)
    other = changed(world, split.cold.test, slice(None))
    assert (other.items != world.items).sum() > 1000
    again = split_arrivals(other)
    assert np.array_equal(again.warm, split.warm)
    for name in PARTS:
        assert np.array_equal(again.cold.part(name), split.cold.part(name))
    one, two = split.interactions(world), again.interactions(other)
    assert one.items.tobytes() == two.items.tobytes()
    assert one.indptr.tobytes() == two.indptr.tobytes()
    assert one.counts.tobytes() == two.counts.tobytes()
    fitted = [fit_embeddings(data, known) for data, known in ((world, one), (other, two))]
    assert fitted[0].items.tobytes() == fitted[1].items.tobytes()
    assert fitted[0].popularity.tobytes() == fitted[1].popularity.tobytes()
    assert world.profiles is not None
    assert other.profiles is not None
    assert world.profiles.digest == other.profiles.digest
    for name in ("train", "validation"):
        tasks = [
            arrival_tasks(data, split.cold.part(name), negatives="popularity", interactions=known)
            for data, known in ((world, one), (other, two))
        ]
        assert tasks[0].candidates.tobytes() == tasks[1].candidates.tobytes()
        assert tasks[0].history_items.tobytes() == tasks[1].history_items.tobytes()
    # And the comparison can fail: it sees a warm user's click.
    touched = changed(world, split.warm[:1], slice(0, 1))
    assert split.interactions(touched).items.tobytes() != one.items.tobytes()


def test_weights_of_the_recommender_see_warm_users_alone(world: Dataset) -> None:
    pytest.importorskip("torch")
    from rpp_env.recommenders.sasrec import Config, train

    split = split_arrivals(world, cold=0.7)
    config = Config(dim=16, blocks=1, max_length=20, epochs=1, batch=128)
    cold = np.concatenate([split.cold.part(name) for name in PARTS])
    worlds = (
        world,
        changed(world, cold, slice(None)),
        changed(world, np.arange(world.num_users), slice(-1, None)),  # all users' targets
        changed(world, split.warm[:1], slice(0, 1)),
    )
    digests = [train(split.interactions(data), config).digest for data in worlds]
    assert digests[0] == digests[1] == digests[2] != digests[3]


# --------------------------------------------------------------------------- the generated world


def test_a_viewer_does_not_depend_on_how_many_there_are(world: Dataset) -> None:
    fewer = load_dataset("arrivals", num_users=500)
    assert fewer.profiles is not None
    assert world.profiles is not None
    assert np.array_equal(fewer.profiles.codes, world.profiles.codes[:500])
    assert np.array_equal(fewer.items, world.items[: len(fewer.items)])
    assert load_dataset("movieworld", num_users=60).profiles is None


def test_profiles_hold_the_intended_information(world: Dataset) -> None:
    profiles, level = world.profiles, LEVELS["arrivals"]
    assert profiles is not None
    assert world.habits is not None
    assert dict(zip(profiles.fields, profiles.values, strict=True)) == FIELDS
    assert abs((profiles.codes == 0).mean() - level.missing) < 0.01
    age, known = profiles.codes[:, 1], profiles.codes[:, 1] > 0
    # An age is the habit's with chance 0.7, or drawn among six.
    assert level.telling is not None
    expected = level.telling + (1 - level.telling) / 6
    assert abs((age == world.habits + 1)[known].mean() - expected) < 0.02
    gender = profiles.codes[:, 0]
    for habit in np.unique(world.habits):
        assert abs((gender[world.habits == habit] == 1).mean() - 0.45) < 0.05


def test_first_films_occur_with_their_stated_probabilities(world: Dataset) -> None:
    assert world.profiles is not None
    chances = first_choice(world.profiles)
    assert np.allclose(chances.sum(axis=1), 1)
    first = world.items[world.indptr[:-1]]
    # Calibrated: films that were given a chance p were chosen in a share p of the cases.
    bins = np.digitize(chances, np.quantile(chances, [0.5, 0.9, 0.99, 0.999]))
    chosen = np.zeros(chances.shape, dtype=bool)
    chosen[np.arange(len(first)), first] = True
    for i in range(5):
        here = bins == i
        expected, seen = chances[here].sum(), chosen[here].sum()
        assert abs(seen - expected) < 4 * expected**0.5 + 3, i


def test_profiles_are_worth_a_known_amount(world: Dataset) -> None:
    """Own profiles rank the first film better than none, others' profiles worse than none."""
    assert world.profiles is not None
    split = split_arrivals(world)
    users = split.cold.train
    tasks = arrival_tasks(world, users, "zero")
    nothing = replace(world.profiles, codes=np.zeros_like(world.profiles.codes))

    def score(profiles: Any) -> np.ndarray[Any, Any]:
        chances = first_choice(profiles)[tasks.users[:, None], tasks.candidates]
        order = np.argsort(-chances, axis=1, kind="stable")
        return ndcg((order == tasks.position[:, None]).argmax(axis=1) + 1, 10)

    own, none, others = (
        score(one) for one in (world.profiles, nothing, world.profiles.shuffled(users))
    )
    error = (own - none).std() / len(users) ** 0.5
    assert (own - none).mean() > 5 * error
    assert others.mean() < none.mean()
    with pytest.raises(InvalidOption, match="gender, age, occupation, region"):
        first_choice(world.profiles.select(["age"]))


# ------------------------------------------------------------------------- what else meets them


class Nobody:
    def rank(self, prompts: Any) -> Any:
        raise AssertionError("nothing may be asked")


def test_users_without_history_are_seen_and_get_no_sentences(world: Dataset) -> None:
    split = split_arrivals(world)
    embeddings = fit_embeddings(world, split.interactions(world))
    tasks = arrival_tasks(world, split.cold.test[:40])
    seen = history_context(tasks, embeddings).values
    assert np.isfinite(seen).all()
    assert (seen[tasks.draw == 0] == 0).all()
    assert (seen[tasks.draw > 0] != 0).any(axis=1).all()
    assert tasks.task(0).history == ()
    with pytest.raises(InvalidOption, match="empty history: prompts of sentences need one item"):
        RPPEnv(
            tasks,
            book=SentenceCatalog.load("movies"),
            embeddings=embeddings,
            recommender=Nobody(),
        )
