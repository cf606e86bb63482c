"""Tasks: uniform positions, valid negatives, and independence of users."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rpp_env.data import (
    MAX_HISTORY,
    Interactions,
    candidates,
    make_tasks,
    read_selection,
    split_selection,
    split_users,
    training_interactions,
)
from rpp_env.errors import InvalidData, InvalidOption


def everything(tasks):
    return [tasks.users, tasks.draw, tasks.candidates, tasks.position, tasks.history_items]


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_a_task_is_the_target_among_items_never_touched(making, negatives) -> None:
    data = making.random(400)
    known = training_interactions(data, split_users(data))
    tasks = make_tasks(data, range(400), negatives=negatives, interactions=known, draws=2)
    assert len(tasks) == 800
    assert tasks.draw.tolist() == [0, 1] * 400
    assert np.array_equal(tasks.targets, data.items[data.indptr[tasks.users + 1] - 1])
    for i, user in enumerate(tasks.users):
        shown, sequence = tasks.candidates[i], data.sequence(user)
        assert len(set(shown.tolist())) == 20
        assert shown[tasks.position[i]] == sequence[-1]
        assert set(shown.tolist()) & set(sequence.tolist()) == {sequence[-1]}
        assert np.array_equal(tasks.history(i), sequence[:-1])


def test_target_positions_are_uniform(making) -> None:
    data = making.random(3000)
    tasks = make_tasks(data, range(3000), draws=4)
    counts = np.bincount(tasks.position, minlength=20)
    assert stats.chisquare(counts).pvalue > 1e-3
    # And for each user's own draws together with its neighbour's: no drift along the rows.
    halves = np.bincount(tasks.position[: len(tasks) // 2], minlength=20)
    assert stats.chisquare(halves).pvalue > 1e-3


def test_uniform_negatives_are_uniform(making) -> None:
    data = making.of([[0, 1]] * 4000, 40)
    drawn = np.bincount(make_tasks(data, range(4000)).candidates.ravel(), minlength=40)
    assert drawn[0] == 0
    assert drawn[1] == 4000
    # 19 of 38 without replacement: the variance is smaller than a multinomial's, never larger.
    assert stats.chisquare(drawn[2:]).pvalue > 1e-3


@pytest.mark.parametrize("num_items", [400, 30])
def test_popularity_negatives_follow_training_counts(making, num_items) -> None:
    data = making.of([[0, 1]] * 6000, num_items)
    counts = np.arange(num_items) % 10
    known = Interactions(
        np.array([0, counts.sum()]), np.repeat(np.arange(num_items), counts), num_items
    )
    tasks = make_tasks(
        data, range(6000), num_candidates=2, negatives="popularity", interactions=known
    )
    drawn = np.bincount(tasks.candidates.ravel(), minlength=num_items)[2:]
    law = (counts + 1.0)[2:]
    assert stats.chisquare(drawn, law / law.sum() * drawn.sum()).pvalue > 1e-3


def test_the_exact_rest_follows_the_same_law(making, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly the whole catalogue asked for: tries run out, the rest is drawn exactly."""
    from rpp_env.data import candidates

    data = making.of([[0, 1]] * 3000, 12)
    counts = np.array([0, 0, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0])
    known = Interactions(np.array([0, 36]), np.repeat(np.arange(12), counts), 12)
    options = {"num_candidates": 6, "negatives": "popularity", "interactions": known}
    tried = make_tasks(data, range(3000), **options).candidates
    # Every try falls on item 0, which everybody has touched.
    real = candidates._uniforms
    monkeypatch.setattr(
        candidates, "_uniforms", lambda k, n: real(k, n) * (0.0 if n == 2 * 5 + 16 else 1.0)
    )
    exact = make_tasks(data, range(3000), **options).candidates
    shares = [np.bincount(c.ravel(), minlength=12)[2:] for c in (tried, exact)]
    assert stats.chi2_contingency(shares).pvalue > 1e-3
    assert make_tasks(data, [0], num_candidates=11).candidates.tolist()[0].count(1) == 1


def test_a_task_does_not_depend_on_other_users(making) -> None:
    data = making.random(100)
    whole = make_tasks(data, range(100), draws=2)
    alone = make_tasks(data, [42], draws=2)
    for ours, theirs in zip(everything(whole.subset([84, 85])), everything(alone), strict=True):
        assert np.array_equal(ours, theirs)
    backwards = make_tasks(data, range(99, -1, -1), draws=2)
    assert backwards.subset([2 * 57, 2 * 57 + 1]).digest == alone.digest
    # Nor on the rows of other users in the data, since tokens and not rows are the seeds.
    two = making.of([data.sequence(42), data.sequence(7)], 60, user_tokens=("u42", "u7"))
    assert np.array_equal(make_tasks(two, [0], draws=2).candidates, alone.candidates)


def test_blocks_do_not_matter(making, monkeypatch: pytest.MonkeyPatch) -> None:
    from rpp_env.data import candidates

    data = making.random(100)
    whole = make_tasks(data, range(100))
    monkeypatch.setattr(candidates, "_CELLS", 1)
    assert make_tasks(data, range(100)).digest == whole.digest


def test_seed_and_draw_change_negatives_and_order(making) -> None:
    data = making.random(50)
    first, second = make_tasks(data, range(50)), make_tasks(data, range(50), seed=1)
    assert not np.array_equal(first.position, second.position)
    assert not np.array_equal(np.sort(first.candidates), np.sort(second.candidates))
    draws = make_tasks(data, range(50), draws=2)
    assert np.array_equal(draws.candidates[::2], first.candidates)
    assert not np.array_equal(np.sort(draws.candidates[1::2]), np.sort(first.candidates))


def test_tasks_of_one_seed_are_pinned(making) -> None:
    """Published numbers rest on these draws: a change bumps the environments' ids."""
    tasks = make_tasks(making.of([[0, 1, 2], [3, 4]], 9), [0, 1], num_candidates=4)
    assert tasks.candidates.tolist() == [[8, 2, 7, 6], [6, 1, 4, 5]]


def test_long_histories_keep_the_last_items(making) -> None:
    data = making.of([np.arange(80), [0, 1]], 120)
    tasks = make_tasks(data, [0, 1])
    assert np.array_equal(tasks.history(0), np.arange(79)[-MAX_HISTORY:])
    assert tasks.history_lengths.tolist() == [50, 1]
    padded = tasks.padded_history(20)
    assert padded.dtype == np.int32
    assert padded[0].tolist() == list(range(59, 79))
    assert padded[1].tolist() == [-1] * 19 + [0]
    assert tasks.padded_history(60)[0].tolist() == [-1] * 10 + list(range(29, 79))


def test_users_without_a_history_get_no_task(making) -> None:
    data = making.of([[0], [0, 1]], 30)
    assert make_tasks(data, [0, 1]).users.tolist() == [1]
    assert len(make_tasks(data, [0])) == 0
    assert make_tasks(data, [0]).padded_history().shape == (0, 20)


def test_readable_tasks_are_made_once(making) -> None:
    data = making.random(20)
    tasks = make_tasks(data, range(20), draws=2)
    task = tasks.task(7)
    assert task is tasks.task(7)
    assert task.user == "u3"
    assert task.candidates == tuple(data.titles[i] for i in tasks.candidates[7])
    assert task.position == tasks.position[7]
    assert task.target == data.titles[data.sequence(3)[-1]]
    assert tasks.task(-1) is tasks.task(39)
    with pytest.raises(IndexError):
        tasks.task(40)


def test_few_readable_tasks_are_kept(making, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = make_tasks(making.random(50), range(50))
    free = [tasks.task(i) for i in range(50)]
    monkeypatch.setattr(candidates, "_KEPT", 8)
    tasks = tasks.subset(range(50))
    for i in (*range(50), *range(50)):
        assert tasks.task(i) == free[i]
        assert len(tasks._made) <= 8
    assert tasks.task(49) is tasks.task(49)


def test_subset_takes_rows_and_masks(making) -> None:
    tasks = make_tasks(making.random(20), range(20))
    mask = np.zeros(20, dtype=bool)
    mask[[3, 11]] = True
    chosen = tasks.subset(mask)
    assert chosen.digest == tasks.subset([3, 11]).digest
    assert chosen.task(1) == tasks.task(11)
    assert tasks.subset([11, 3]).digest != chosen.digest


def test_digest_follows_every_array(making) -> None:
    tasks = make_tasks(making.random(20), range(20))
    flipped = tasks.candidates[:, ::-1]
    others = [
        replace(tasks, candidates=flipped, position=19 - tasks.position),
        replace(tasks, draw=tasks.draw + 1),
        replace(tasks, history_items=tasks.history_items[::-1]),
        make_tasks(making.random(20, seed=1), range(20)),
    ]
    assert len({t.digest for t in [tasks, *others]}) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 1}, r"num_candidates must lie in 2\.\.60.* got 1"),
        ({"num_candidates": 61}, r"num_candidates must lie in 2\.\.60.* got 61"),
        ({"num_candidates": 59}, "num_candidates is 59, but user 'u.*' has touched all but"),
        ({"negatives": "hard"}, "negatives 'hard' is not known; there are uniform, popularity, "),
        ({"negatives": "popularity"}, "needs interactions=training_interactions"),
        ({"negatives": "retrieved"}, "belong together"),
        ({"selection": "train"}, "belong together"),
        ({"unfiltered": True}, "needs negatives='retrieved'"),
        ({"draws": 0}, "draws must be at least 1"),
    ],
)
def test_impossible_options_are_refused(making, options, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        make_tasks(making.random(30), range(30), **options)


def test_unknown_users_are_refused(making) -> None:
    with pytest.raises(InvalidOption, match=r"user rows must lie in 0\.\.29; got 0\.\.30"):
        make_tasks(making.random(30), range(31))


def selection_of(folder: Path, text: str) -> Path:
    path = folder / "made.train"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def test_selection_rules(making, tmp_path: Path) -> None:
    """Drop the target (and repeats), take the first K - 1, put the target in."""
    data = making.of([[0, 1, 2], [5, 6]], 12)
    path = selection_of(tmp_path, "u0\ti2 i7 i0 i8 i7 i9 i10 i11\nu1\ti3 i4 i6 i5 i7 i8\n")
    lists = read_selection(path, data)
    assert {user: items.tolist() for user, items in lists.items()} == {
        0: [2, 7, 0, 8, 7, 9, 10, 11],
        1: [3, 4, 6, 5, 7, 8],
    }
    chosen = {"num_candidates": 4, "negatives": "retrieved", "selection": path}
    filtered = make_tasks(data, [0, 1], **chosen)
    assert [sorted(row) for row in filtered.candidates.tolist()] == [[2, 7, 8, 9], [3, 4, 6, 7]]
    paper = make_tasks(data, [0, 1], unfiltered=True, **chosen)
    assert [sorted(row) for row in paper.candidates.tolist()] == [[0, 2, 7, 8], [3, 4, 5, 6]]
    assert paper.targets.tolist() == [2, 6]
    assert (
        make_tasks(data, [1], **(chosen | {"selection": lists})).digest
        == filtered.subset([1]).digest
    )
    with pytest.raises(
        InvalidOption, match=r"is 7, but of the 8 items .* 'u0' only 5 .* at most 6"
    ):
        make_tasks(data, [0], **(chosen | {"num_candidates": 7}))
    del lists[1]
    with pytest.raises(InvalidOption, match="user 'u1' has no line in the selection"):
        make_tasks(data, [0, 1], **(chosen | {"selection": lists}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: expected one line per user"),
        ("u0\ti1\nu1 i2\n", "line 2: expected `user <TAB> item item"),
        ("u0\t\n", "line 1: expected `user <TAB> item item"),
        ("u9\ti1\n", "line 1, column 1: no user 'u9'"),
        ("u0\ti1 i99\n", "line 1, column 2: no item 'i99'"),
        ("u0\ti1\nu0\ti2\n", "line 2, column 1: user 'u0' has a line already"),
    ],
)
def test_broken_selections_name_the_line(making, tmp_path: Path, text: str, message: str) -> None:
    data = making.of([[0, 1, 2], [5, 6]], 12)
    with pytest.raises(InvalidData, match=message):
        read_selection(selection_of(tmp_path, text), data)


def test_selections_are_found_by_their_ending(making, tmp_path: Path) -> None:
    data = making.of([[0, 1, 2], [5, 6]], 12, folder=tmp_path / "made")
    (tmp_path / "made" / "selected").mkdir(parents=True)
    selection_of(tmp_path / "made" / "selected", "u0\ti4\n")
    assert list(read_selection("train", data)) == [0]
    with pytest.raises(InvalidData, match=r"no selection file 'test'; looked at .*made.test"):
        read_selection("test", data)


def test_shared_users_of_two_selections_are_refused_or_parted(making, tmp_path: Path) -> None:
    data = making.of([[0, 1], [1, 2], [2, 3]], 12)
    train, test = tmp_path / "x.train", tmp_path / "x.test"
    train.write_text("u0\ti5\nu1\ti5\n")
    test.write_text("u1\ti6\nu2\ti6\n")
    with pytest.raises(InvalidData, match=r"1 of the 2 test users .* \(the first is 'u1'\)"):
        split_selection(data, train, test)
    kept = split_selection(data, train, test, overlap="train")
    assert (kept.train.tolist(), kept.test.tolist()) == ([0, 1], [2])
    kept = split_selection(data, train, test, overlap="test")
    assert (kept.train.tolist(), kept.test.tolist()) == ([0], [1, 2])
    with pytest.raises(InvalidOption, match="overlap '"):
        split_selection(data, train, test, overlap="both")


def test_published_lastfm_selections_share_users(real) -> None:
    data = real("lastfm")
    with pytest.raises(InvalidData, match="91 of the 200 test users"):
        split_selection(data, "train", "test")
    parted = split_selection(data, "train", "test", overlap="train")
    assert (len(parted.train), len(parted.test)) == (200, 109)


@pytest.mark.filterwarnings("ignore:Games. 2 of 200 users chose their target before:UserWarning")
@pytest.mark.parametrize("name", ["ml-1m", "games"])
def test_published_selections_become_tasks(real, name: str) -> None:
    data = real(name)
    split = split_selection(data, "train", "test")
    assert (len(split.train), len(split.test)) == (200, 200)
    for unfiltered in (False, True):
        tasks = make_tasks(
            data,
            split.train,
            num_candidates=10,
            negatives="retrieved",
            selection="train",
            unfiltered=unfiltered,
        )
        own = sum(
            len(np.intersect1d(tasks.candidates[i], data.sequence(user)))
            for i, user in enumerate(tasks.users)
        )
        # 200 targets; of 200 Games lists only ten hold something that was played before.
        assert own == 200 if not unfiltered else own >= 200
        assert not (unfiltered and name == "ml-1m") or own > 250
    assert len(read_selection("train.sasrec", data)) == 200
    retrieved = make_tasks(data, split.train, negatives="retrieved", selection="train.sasrec")
    assert len(retrieved) == 200
