"""Datasets: refused input, sequences from files, and lookup of names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rpp_env.data import load_dataset
from rpp_env.errors import InvalidData, InvalidOption, UnknownDataset


def test_equal_times_keep_the_order_of_the_file(making, tmp_path: Path) -> None:
    rows = "a\t3\t1\t5\nb\t1\t1\t0\na\t1\t1\t5\na\t2\t1\t4\nb\t2\t1\t0\nb\t3\t1\t-1\n"
    data = load_dataset(making.folder(tmp_path, rows))
    assert data.user_tokens == ("a", "b")
    assert data.sequence(0).tolist() == [1, 2, 0]
    assert data.sequence(1).tolist() == [2, 0, 1]
    assert (data.order, data.domain) == ("time", "products")


def test_titles_years_and_genres_come_along(making, tmp_path: Path) -> None:
    item = "5\tOwl, The\t1990\tDrama War\n7\tThe Owl\t1991\t\n9\tNest\t1990\tWar\n"
    folder = making.folder(tmp_path, "a\t9\t1\t1\na\t5\t1\t2\n", item)
    data = load_dataset(folder, domain="movies")
    assert data.titles == ("The Owl (1990)", "The Owl (1991)", "Nest")
    assert data.genres == (("Drama", "War"), (), ("War",))
    assert data.title_index["Nest"] == 2
    assert data.sequence(0).tolist() == [2, 0]


def test_arrays_are_read_only(making) -> None:
    data = making.of([[0, 1], [2, 1, 0]], 3)
    with pytest.raises(ValueError, match="read-only"):
        data.items[0] = 2
    with pytest.raises(ValueError, match="read-only"):
        data.sequence(1)[0] = 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"titles": ("a", "A", "c")}, "title 'a' appears twice"),
        ({"item_tokens": ("1", "1", "2")}, "item token '1' appears twice"),
        ({"user_tokens": ("u", "u")}, "user token 'u' appears twice"),
        ({"item_tokens": ("1", "2")}, "3 titles, 2 item tokens and 3 genre lists"),
        ({"indptr": np.array([0, 3, 2])}, "indptr must rise from 0 to 5 in 3 entries"),
        ({"indptr": np.array([0, 5])}, "indptr must rise from 0 to 5 in 3 entries"),
        ({"items": np.array([0, 1, 2, 3, 0])}, r"item rows must lie in 0\.\.2; got 0\.\.3"),
        ({"habits": np.zeros(3, int)}, "habits must hold one number per user"),
        ({"user_tokens": ()}, "at least one item and one user"),
    ],
)
def test_contradictions_are_refused(making, fields, message: str) -> None:
    data = making.of([[0, 1], [2, 1, 0]], 3)
    with pytest.raises(InvalidData, match=message):
        replace(data, **fields)


def test_the_digest_depends_on_relevant_content_only(making) -> None:
    data = making.of([[0, 1], [2, 1, 0]], 3)
    assert replace(data, name="other", notes="n", habits=np.zeros(2, int)).digest == data.digest
    changed = {
        "domain": "music",
        "titles": ("x", "y", "z"),
        "genres": ((), (), ()),
        "item_tokens": ("x", "y", "z"),
        "user_tokens": ("x", "y"),
        "items": np.array([1, 0, 2, 1, 0]),
        "indptr": np.array([0, 3, 5]),
        "order": "position",
        "default_split": (1, 0, 1),
    }
    digests = {replace(data, **{name: value}).digest for name, value in changed.items()}
    assert len(digests | {data.digest}) == len(changed) + 1


def test_digest_is_pinned(making) -> None:
    """Tables and caches on disk are found by it: a change of it orphans them all."""
    digest = making.of([[0, 1], [2, 1, 0]], 3).digest
    assert digest == "98f31b5e3893ead68b47f220ca54070940e5e3b9479126acaf77d4a4d6d227d9"


def test_known_names_are_looked_up_in_any_case(
    making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "a\t1\t1\t1\na\t2\t1\t2\n"
    making.folder(tmp_path / "shared", rows, name="Games")
    making.folder(tmp_path / "cache" / "data", rows, name="lastfm")
    monkeypatch.setenv("RPP_ENV_DATA", str(tmp_path / "shared"))
    monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path / "cache"))
    games, music = load_dataset("games"), load_dataset("LastFM")
    assert (games.domain, games.order, games.folder) == (
        "games",
        "position",
        tmp_path / "shared" / "Games",
    )
    assert (music.domain, music.order) == ("music", "play count")
    assert "play counts" in music.notes
    assert load_dataset("games", tmp_path / "shared").digest == games.digest
    by_path = load_dataset(tmp_path / "shared" / "Games", domain="products", order="time")
    assert (by_path.domain, by_path.order) == ("products", "time")
    with pytest.raises(
        UnknownDataset, match=r"'ml-1m' was not found; .*shared.*rpp-env data get ml-1m"
    ):
        load_dataset("ml-1m")
    with pytest.raises(UnknownDataset, match="'games' was not found"):
        load_dataset("games", tmp_path)
    monkeypatch.delenv("RPP_ENV_DATA")
    with pytest.raises(UnknownDataset, match="'games' was not found"):
        load_dataset("games")


def test_unknown_names_and_options_are_refused(making, tmp_path: Path) -> None:
    with pytest.raises(UnknownDataset, match=r"'nowhere' is not known; .*movieworld, .*ml-1m"):
        load_dataset("nowhere")
    folder = making.folder(tmp_path, "a\t1\t1\t1\n")
    with pytest.raises(
        InvalidOption, match="option 'num_users' is not known; there are domain, order"
    ):
        load_dataset(folder, num_users=3)
    with pytest.raises(InvalidOption, match="option 'domain' is not known; there are num_users"):
        load_dataset("movieworld", domain="music")
    with pytest.raises(InvalidOption, match="leave out root"):
        load_dataset("movieworld", tmp_path)


def test_movieworld_is_made_by_a_seed() -> None:
    small = {"num_users": 120, "num_items": 100}
    first, again = load_dataset("movieworld", **small), load_dataset("MovieWorld", **small)
    assert first.digest == again.digest
    assert first.digest != load_dataset("movieworld", seed=1, **small).digest
    assert first.num_users == 120


@pytest.mark.parametrize(
    ("name", "users", "items", "rows", "order"),
    [
        ("ml-1m", 6040, 3883, 1_000_209, "time"),
        ("ml-100k", 943, 1682, 100_000, "time"),
        ("ml-latest-small", 610, 9742, 100_836, "time"),
        ("lastfm", 1892, 17632, 92_834, "play count"),
        ("games", 50546, 16859, 440_264, "position"),
        ("beauty", 22363, 12101, 198_502, "position"),
        ("sports", 35598, 18357, 296_337, "position"),
        ("toys", 19412, 11924, 167_597, "position"),
    ],
)
def test_published_counts(real, name: str, users: int, items: int, rows: int, order: str) -> None:
    data = real(name)
    assert (data.num_users, data.num_items, len(data.items), data.order) == (
        users,
        items,
        rows,
        order,
    )


def test_ml_1m_sequences_agree_with_a_slow_reading(real) -> None:
    import csv
    import gzip

    data = real("ml-1m")
    rows: dict[str, list[tuple[float, int, str]]] = {"1": [], "3000": [], "6040": []}
    with gzip.open(data.folder / "ml-1m.inter.gz", "rt", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t")):
            if row["user_id:token"] in rows:
                time = float(row["timestamp:float"])
                rows[row["user_id:token"]].append((time, number, row["item_id:token"]))
    for user, seen in rows.items():
        found = data.sequence(data.user_tokens.index(user))
        assert [data.item_tokens[item] for item in found] == [item for _, _, item in sorted(seen)]
