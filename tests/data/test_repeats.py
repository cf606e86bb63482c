"""Targets that are in their user's own history are left out, kept or refused."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpp_env import Ranking, RPPEnv, tabulate
from rpp_env.data import (
    Dataset,
    UserSplit,
    load_dataset,
    make_tasks,
    read_selection,
    split_users,
    training_interactions,
)
from rpp_env.data.splits import histories
from rpp_env.embeddings import fit_embeddings
from rpp_env.errors import InvalidData, InvalidOption, TableMismatch

pytestmark = pytest.mark.filterwarnings("ignore:made|mine:UserWarning")


def shows_its_target(tasks: Any) -> int:
    """Tasks whose prompt shows the target, or its title under another id, in the history."""
    return sum(
        tasks.dataset.kinds[target] in tasks.dataset.kinds[tasks.history(i)]
        for i, target in enumerate(tasks.targets)
    )


def folder_of(
    root: Path,
    sequences: Sequence[Sequence[Any]],
    titles: dict[str, str] | None = None,
    *,
    times: int = 1,
) -> Path:
    """Atomic files of these sequences, each row `times` times."""
    folder = root / "mine"
    folder.mkdir()
    rows = [
        f"u{user}\t{item}\t{1000 + place}\n" * times
        for user, sequence in enumerate(sequences)
        for place, item in enumerate(sequence)
    ]
    (folder / "mine.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows), encoding="utf-8"
    )
    named = titles or {}
    items = sorted(
        {str(item) for sequence in sequences for item in sequence} | set(map(str, named))
    )
    (folder / "mine.item").write_text(
        "item_id:token\ttitle:token_seq\n"
        + "".join(f"{item}\t{named.get(item, f'Film {item}')}\n" for item in items),
        encoding="utf-8",
    )
    return folder


def some_sequences(users: int = 40, items: int = 60, length: int = 8) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.permutation(items)[:length].tolist() for _ in range(users)]


# ---- what is left out ----


def test_doubled_rows_show_no_target(tmp_path: Path) -> None:
    data = load_dataset(folder_of(tmp_path, some_sequences(), times=2), domain="movies")
    with pytest.warns(UserWarning, match="40 of 40 users .* 40 items were left out"):
        tasks = make_tasks(data, range(40))
    assert len(tasks) == 40
    assert shows_its_target(tasks) == 0
    assert tasks.dropped.tolist() == [1] * 40
    for i, user in enumerate(tasks.users):
        assert tasks.history(i).tolist() == data.sequence(user)[:-2].tolist()


def test_a_repeated_target_is_dropped_and_the_rest_kept(making) -> None:
    data = making.of([[1, 5, 2, 5, 3, 3, 5], [1, 2, 3]], 30)
    with pytest.warns(UserWarning, match="1 of 2 users .* 2 items"):
        tasks = make_tasks(data, [0, 1])
    assert tasks.history(0).tolist() == [1, 2, 3, 3]  # repeats of other items are what happened
    assert tasks.history(1).tolist() == [1, 2]
    assert tasks.targets.tolist() == [5, 3]
    assert tasks.dropped.tolist() == [2, 0]
    assert tasks.subset([1]).dropped.tolist() == [0]


def test_a_user_who_only_chose_the_target_has_no_task(making) -> None:
    data = making.of([[7, 7, 7], [1, 2, 3]], 30)
    with pytest.warns(UserWarning, match="1 users are left out"):
        tasks = make_tasks(data, [0, 1], draws=2)
    assert tasks.users.tolist() == [1, 1]
    with pytest.warns(UserWarning, match="1 of 1 users"):
        assert len(make_tasks(data, [0])) == 0


def test_a_repeat_far_back_makes_room_for_older_items(making) -> None:
    sequence = [*range(60), 3, *range(60, 105), 3]
    data = making.of([sequence], 130)
    with pytest.warns(UserWarning, match="2 items"):
        tasks = make_tasks(data, [0])
    assert tasks.history(0).tolist() == [*range(55, 60), *range(60, 105)]
    # Outside the last 50 items, nothing that is shown changes, but it is taken out all the same.
    data = making.of([[3, *range(4, 104), 3]], 130)
    with pytest.warns(UserWarning, match="1 items"):
        assert make_tasks(data, [0]).history(0).tolist() == [*range(54, 104)]


@pytest.mark.parametrize(
    "titles",
    [
        {"a": "Owl", "b": "Owl"},
        {"a": "Owl", "b": "OWL "},
        {"a": "Owl", "b": "O\u200bwl"},
        {"a": "Owl &amp; Son", "b": "Owl & Son"},
        {
            "a": "Owl " + "and his very long title " * 8,
            "b": "Owl " + "and his very long title " * 8,
        },
        {"a": "Owl", "A": "Owl"},
        {"a": "Owl", "b": "Owl", "a2": "Owl (id b)"},
    ],
    ids=["same", "case", "invisible", "entity", "long", "ids by case", "id in a title"],
)
def test_one_title_under_two_ids_is_one_item(tmp_path: Path, titles: dict[str, str]) -> None:
    first, second = list(titles)[:2]
    sequences = [["x", first, "y", second], ["x", "y", "z", first], ["y", "x", "z"]]
    folder = folder_of(tmp_path, sequences, {f"n{i}": f"Film {i}" for i in range(30)} | titles)
    data = load_dataset(folder)
    with pytest.warns(UserWarning, match="1 of 3 users"):
        tasks = make_tasks(data, range(3))
    assert tasks.dropped.tolist() == [1, 0, 0]
    assert [data.item_tokens[i] for i in tasks.history(0)] == ["x", "y"]


def test_titles_that_differ_in_more_than_an_id_are_two_items(tmp_path: Path) -> None:
    data = load_dataset(
        folder_of(tmp_path, [["a", "b", "c"]], {"a": "Owl", "b": "Owl II", "c": "Owls"})
    )
    assert len(set(data.kinds.tolist())) == 3
    folder = tmp_path / "years"
    folder.mkdir()
    (folder / "years.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\nu\tb\t2\n"
    )
    (folder / "years.item").write_text(
        "item_id:token\ttitle:token_seq\tyear:token\na\tOwl\t1990\nb\tOwl\t2020\n"
    )
    assert len(set(load_dataset(folder).kinds.tolist())) == 2


@pytest.mark.parametrize("blank", [" ", "\u00a0", "\u3000", "\r"])
def test_blanks_around_an_id_are_no_part_of_it(tmp_path: Path, blank: str) -> None:
    folder = folder_of(tmp_path, some_sequences(4))
    file = folder / "mine.inter"
    rows = file.read_text(encoding="utf-8").splitlines()
    again = [row.replace("\t", f"{blank}\t") for row in rows[1:]]
    file.write_text("\n".join([rows[0], *rows[1:], *again]) + "\n", encoding="utf-8", newline="\n")
    data = load_dataset(folder)
    assert data.num_users == 4
    assert data.lengths.tolist() == [16] * 4
    with pytest.warns(UserWarning, match="4 of 4 users"):
        assert shows_its_target(make_tasks(data, range(4))) == 0


def test_ids_that_only_look_the_same_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, some_sequences(4))
    file = folder / "mine.inter"
    with file.open("a", encoding="utf-8") as more:
        more.write("u\u200b0\t1\t5\n")
    with pytest.raises(InvalidData, match=r"line 34, column user_id: .* two of them are 'u0'"):
        load_dataset(folder)


# ---- the other ways ----


def test_repeats_can_be_kept_and_refused(making) -> None:
    data = making.of([[1, 5, 5], [1, 2, 3]], 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = make_tasks(data, [0, 1], repeats="keep")
        refused = make_tasks(data, [1], repeats="refuse")
    assert kept.history(0).tolist() == [1, 5]
    assert kept.dropped.tolist() == [0, 0]
    assert refused.digest == make_tasks(data, [1]).digest
    with pytest.raises(InvalidData, match=r"1 of 2 users .* user 'u0': 'Film 5'.* repeats='drop'"):
        make_tasks(data, [0, 1], repeats="refuse")
    with pytest.raises(InvalidOption, match="'forget' is not known; there are drop, keep, refuse"):
        make_tasks(data, [0], repeats="forget")


@pytest.mark.parametrize("options", [{}, {"draws": 3}, {"negatives": "popularity"}])
def test_without_repeats_all_three_are_the_same(making, options: dict[str, Any]) -> None:
    data = making.random(100)
    split = split_users(data)
    made = []
    for repeats in ("drop", "keep", "refuse"):
        known = training_interactions(data, split, repeats=repeats)
        tasks = make_tasks(data, split.test, interactions=known, repeats=repeats, **options)
        made.append((tasks.digest, known.items.tolist(), known.indptr.tolist()))
        assert not tasks.dropped.any()
    assert made[0] == made[1] == made[2]


# ---- every loader ----


def test_every_draw_and_retrieved_candidates(tmp_path: Path) -> None:
    sequences = [[*s, s[-1]] for s in some_sequences(10)]
    folder = folder_of(tmp_path, sequences, {str(i): f"Film {i}" for i in range(60)})
    data = load_dataset(folder)
    (folder / "selected").mkdir()
    lines = [f"u{u}\t{' '.join(map(str, range(60)))}\n" for u in range(10)]
    (folder / "selected" / "mine.all").write_text("".join(lines))
    chosen = read_selection("all", data)
    for options in (
        {"draws": 3},
        {"negatives": "retrieved", "selection": chosen},
        {"negatives": "retrieved", "selection": chosen, "unfiltered": True, "draws": 2},
    ):
        with pytest.warns(UserWarning, match="10 of 10 users"):
            tasks = make_tasks(data, range(10), **options)
        assert len(tasks) == 10 * options.get("draws", 1)
        assert shows_its_target(tasks) == 0
        assert (tasks.dropped == 1).all()
        assert [data.item_tokens[t] for t in tasks.targets[:: options.get("draws", 1)]] == [
            str(s[-1]) for s in sequences
        ]


@pytest.mark.parametrize("level", ["movieworld", "movieworld-hard", "movieworld-drift"])
def test_movieworld_has_no_repeats(level: str) -> None:
    data = load_dataset(level, num_users=600)
    assert len(set(data.kinds.tolist())) == data.num_items
    make_tasks(data, range(600), repeats="refuse")


@pytest.mark.parametrize("name", ["ml-1m", "ml-latest-small"])
def test_the_files_that_results_are_published_for_have_none(real, name: str) -> None:
    data = real(name)
    make_tasks(data, range(data.num_users), repeats="refuse")


@pytest.mark.parametrize(
    ("name", "users"),
    [("ml-100k", 7), ("lastfm", 2), ("games", 243), ("beauty", 6), ("sports", 1), ("toys", 5)],
)
def test_real_files_list_some_targets_under_two_ids(real, name: str, users: int) -> None:
    data = real(name)
    _, _, dropped = histories(data, np.arange(data.num_users))
    assert (dropped > 0).sum() == dropped.sum() == users
    sequences = [data.sequence(user)[:-1].tolist() for user in range(data.num_users)]
    targets = data.items[data.indptr[1:] - 1].tolist()
    assert not any(t in s for t, s in zip(targets, sequences, strict=True)), "no id is there twice"


# ---- nothing that is fitted or folded in sees it either ----


@given(st.lists(st.lists(st.integers(0, 11), min_size=2, max_size=9), min_size=3, max_size=12))
def test_repeats_leave_no_trace(sequences: list[list[int]]) -> None:
    """Remove all earlier choices of targets."""
    given_data = dataset(sequences)
    once = dataset([[i for i in s[:-1] if i != s[-1]] + s[-1:] for s in sequences])
    nobody = np.zeros(0, dtype=np.int64)
    split = UserSplit(np.arange(len(sequences)), nobody, nobody)
    known, clean = (training_interactions(data, split) for data in (given_data, once))
    assert known.items.tolist() == clean.items.tolist()
    assert known.indptr.tolist() == clean.indptr.tolist()
    ours, theirs = (
        make_tasks(data, split.train, num_candidates=4, negatives="popularity", interactions=known)
        for data in (given_data, once)
    )
    for name in ("users", "history_indptr", "history_items", "candidates", "position"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert shows_its_target(ours) == 0


def dataset(sequences: list[list[int]], items: int = 30) -> Dataset:
    return Dataset(
        name="made",
        domain="movies",
        titles=tuple(f"Film {i}" for i in range(items)),
        item_tokens=tuple(f"i{i}" for i in range(items)),
        genres=((),) * items,
        user_tokens=tuple(f"u{u}" for u in range(len(sequences))),
        indptr=np.concatenate([[0], np.cumsum([len(s) for s in sequences])]),
        items=np.concatenate([np.asarray(s, dtype=np.int32) for s in sequences]),
    )


class Echo:
    """Ranks what the prompt has shown last first: paid wherever the history holds the target."""

    def rank(self, prompts: Sequence[Any]) -> list[Ranking]:
        rankings = []
        for prompt in prompts:
            shown = prompt.task.history[len(prompt.task.history) - prompt.shown :]
            last = {title: place for place, title in enumerate(shown)}
            order = sorted(
                range(len(prompt.task.candidates)),
                key=lambda i, t=prompt.task, last=last: -last.get(t.candidates[i], -1),
            )
            rankings.append(Ranking(tuple(order), len(order)))
        return rankings


def test_an_environment_shows_and_observes_no_repeat() -> None:
    rng = np.random.default_rng(1)
    sequences = []
    for _ in range(120):
        own = rng.permutation(30)[:9].tolist()
        sequences.append([own[-1], *own[:4], own[-1], *own[4:8], own[-1], own[-1]])
    once = [[i for i in s[:-1] if i != s[-1]] + s[-1:] for s in sequences]
    options: dict[str, Any] = {"model": Echo(), "num_envs": 40, "seed": 0, "dim": 8}
    with pytest.warns(UserWarning, match="users chose their target before"):
        env = RPPEnv.make(dataset(sequences), **options)
    clean = RPPEnv.make(dataset(once), **options)
    kept = RPPEnv.make(dataset(sequences), repeats="keep", **options)
    seen = [e.reset(seed=0)[0] for e in (env, clean, kept)]
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
    for _ in range(5):
        actions = np.tile([0, 2, 0, 0], (40, 1))
        steps = [e.step(actions) for e in (env, clean, kept)]
        assert np.array_equal(steps[0].observations, steps[1].observations)
        assert steps[0].rewards.tolist() == steps[1].rewards.tolist()
        assert steps[0].rewards.mean() < 0.5
        assert steps[2].rewards.mean() == 1.0, "an echo of what was shown"


def test_embeddings_do_not_see_repeats() -> None:
    sequences = [[u % 7, (u + 1) % 7, 8 + u % 5, u % 7] for u in range(40)]
    once = [s[1:] for s in sequences]
    fitted = []
    for made in (sequences, once):
        data = dataset(made)
        known = training_interactions(data, split_users(data))
        fitted.append(fit_embeddings(data, known, dim=4, cache=False).digest)
    assert fitted[0] == fitted[1]


def test_by_time_repeats_are_left_out_too(tmp_path: Path) -> None:
    data = load_dataset(folder_of(tmp_path, some_sequences(), times=2))
    split = split_users(data, by="time")
    known = training_interactions(data, split)
    with pytest.warns(UserWarning, match="8 of 8"):
        tasks = make_tasks(data, split.test, negatives="popularity", interactions=known)
    assert shows_its_target(tasks) == 0
    for row, user in enumerate(split.train):
        assert data.sequence(user)[-1] not in known.items[known.indptr[row] : known.indptr[row + 1]]


def test_tables_are_made_and_played_without_repeats(tmp_path: Path) -> None:
    data = dataset([[*s, s[-1]] for s in some_sequences(20, 30)])
    options: dict[str, Any] = {"split": "train", "num_envs": 8, "rules": "RPPBandit-v0"}
    with pytest.warns(UserWarning, match="14 of 14"):
        env = RPPEnv.make(data, Echo(), dim=4, **options)
    table = tabulate(env, tmp_path / "t.rpptable", processes=1)
    played = RPPEnv.make(data, table, **options)
    played.reset(seed=0)
    live = RPPEnv.make(data, Echo(), dim=4, **options)
    live.reset(seed=0)
    actions = np.tile([0, 2, 0, 0], (8, 1))
    assert played.step(actions).rewards.tolist() == live.step(actions).rewards.tolist()
    assert played.tasks.dropped.tolist() == [1] * 14
    with pytest.raises(TableMismatch):
        RPPEnv.make(data, table, repeats="keep", **options)
