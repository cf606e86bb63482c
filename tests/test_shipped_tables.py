"""Reward tables of the package: names, digests, and what their files hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import rpp_env
from rpp_env import RPPEnv, TableMismatch, tables
from rpp_env.errors import InvalidData, InvalidOption, NotTabulated
from rpp_env.table import RewardTable, tabulate
from rpp_env.tables import FOLDER, find, names, shipped

OPTIONS = {"num_users": 60, "num_items": 100}
INDEX = """
[tiny]
about = "the stand-in"
dataset = "movieworld"
rules = "RPPBandit-v0"
options = {{ num_users = 60, num_items = 100 }}
terms = "none"
users = {{ train = 6, test = 4 }}
sha256 = {{ train = "{train}", test = "{test}" }}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the package's, with one table of the embedded model."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "tiny").mkdir()
    digests = {}
    for split, users in (("train", 6), ("test", 4)):
        path = folder / "tiny" / f"{split}.rpptable"
        env = RPPEnv.make(split=split, rules="RPPBandit-v0", max_users=users, **OPTIONS)
        tabulate(env).portable(env.tasks.dataset).save(path)
        digests[split] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "index.toml").write_text(INDEX.format(**digests), encoding="utf-8")
    return folder


@pytest.fixture
def tiny(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tables, "FOLDER", made)
    for cached in (shipped, names):
        cached.cache_clear()
    yield made
    for cached in (shipped, names):
        cached.cache_clear()


NEEDS: dict[str, Any] = {"rules": "RPPBandit-v0", **OPTIONS}


@pytest.mark.parametrize("name", ["table:tiny", "table:tiny-train"])
def test_a_name_plays_through_every_api(name: str, tiny: Path) -> None:
    live = RPPEnv.make(max_users=6, num_envs=6, **NEEDS)
    replay = RPPEnv.make(model=name, num_envs=6, **NEEDS)
    assert len(replay.tasks) == 6
    actions = np.random.default_rng(0).integers(0, live.nvec, (6, 4))
    for env in (live, replay):
        env.reset(seed=0)
    first, second = live.step(actions), replay.step(actions)
    assert (first.rewards == second.rewards).all()
    assert first.observations.tobytes() == second.observations.tobytes()
    one = rpp_env.parallel_env(model=name, **NEEDS)
    one.reset(seed=0)
    rewards = one.step(dict.fromkeys(one.agents, 0))[1]
    rpp_env.env(model=name, **NEEDS).reset(seed=0)
    options = {"model": name, **OPTIONS}
    joint = gymnasium.make("rpp_env:RPPBandit-v0", disable_env_checker=True, **options)
    joint.reset(seed=0)
    assert joint.step([0, 0, 0, 0])[1] == rewards["role_playing"]
    many = gymnasium.make_vec("rpp_env:RPPBandit-v0", num_envs=2, **options)
    many.reset(seed=0)


def test_a_folders_name_stands_for_the_split_that_is_played(tiny: Path) -> None:
    assert len(RPPEnv.make(model="table:tiny", split="test", **NEEDS).tasks) == 4
    with pytest.raises(NotTabulated, match="table:tiny holds no validation users"):
        RPPEnv.make(model="table:tiny", split="validation", **NEEDS)
    with pytest.raises(NotTabulated, match=r"none of the .* is played with dataset='movieworld'"):
        RPPEnv.make(model="table:tiny-test", **NEEDS)


def test_a_name_is_the_packages_table_whatever_lies_in_the_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    Path("tiny-train").write_bytes(b"no table")
    assert find("tiny", "train") == find("tiny-train", "test") == tiny / "tiny/train.rpptable"
    RPPEnv.make(model="table:tiny", **NEEDS)
    RPPEnv.make(model="table:tiny-train", **NEEDS)
    with pytest.raises(NotTabulated, match=r"tiny holds no train\.rpptable"):
        RPPEnv.make(model="table:./tiny", **NEEDS)
    with pytest.raises(TableMismatch, match="is not a reward table"):
        RPPEnv.make(model="table:./tiny-train", **NEEDS)


@pytest.mark.parametrize("name", ["tiny-tset", "Tiny-Test", "runs/tiny-test"])
def test_an_unknown_name_gets_the_nearest_and_all(name: str, tiny: Path) -> None:
    said = "did you mean 'tiny-test'\\? There are tiny, tiny-train, tiny-test"
    with pytest.raises(TableMismatch, match=f"no table at {name}: .*{said}"):
        RPPEnv.make(model=f"table:{name}", split="test", **NEEDS)


@pytest.mark.parametrize("damage", ["flip", "swap", "gone"])
def test_a_damaged_file_is_refused(damage: str, tiny: Path) -> None:
    path = tiny / "tiny" / "test.rpptable"
    whole = path.read_bytes()
    try:
        if damage == "gone":
            path.unlink()
        elif damage == "swap":  # a table with a digest of its own, and not the one of the index
            path.write_bytes((tiny / "tiny" / "train.rpptable").read_bytes())
        else:
            path.write_bytes(whole[:900] + bytes([whole[900] ^ 1]) + whole[901:])
        said = "cannot be read" if damage == "gone" else "is not the file that came with"
        with pytest.raises(InvalidData, match=rf"test\.rpptable {said}.*install rpp-env again$"):
            RPPEnv.make(model="table:tiny", split="test", **NEEDS)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("other", "came"),
    [
        ({"rules": "RPP-v0"}, "8 history items|history items can be shown here"),
        ({"num_candidates": 10}, "num_candidates=20, and the environment has 10"),
        ({"dataset": "movieworld-hard"}, "dataset='movieworld', and the environment has"),
        ({"task_seed": 1}, "none of the .* tasks is in the table"),
        ({"book": "games"}, "book_digest"),
    ],
)
def test_other_options_are_answered_with_those_that_it_needs(
    other: dict[str, Any], came: str, tiny: Path
) -> None:
    needs = (
        r"\. table:tiny holds 6 train, 4 test users of movieworld, and is played with "
        "dataset='movieworld', rules='RPPBandit-v0', num_users=60, num_items=100; "
        "table:tiny-SPLIT is the file of one split$"
    )
    with pytest.raises(TableMismatch, match=f"(?s)({came}).*{needs}"):
        RPPEnv.make(**{"model": "table:tiny", **NEEDS, **other})


def test_a_missing_dataset_is_answered_with_how_to_get_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPP_ENV_DATA", str(tmp_path))
    monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path))
    with pytest.raises(rpp_env.UnknownDataset, match="run `rpp-env data get ml-1m`"):
        RPPEnv.make("ml-1m", "table:tiny", rules="RPPBandit-v0")


def test_other_tables_are_not_explained(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "t.rpptable").write_bytes((tiny / "tiny/train.rpptable").read_bytes())
    with pytest.raises(TableMismatch) as raised:
        RPPEnv.make(model=f"table:{tmp_path / 't.rpptable'}", **NEEDS | {"task_seed": 1})
    assert "is played with" not in str(raised.value)


def test_an_index_with_an_unknown_key_is_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    index = INDEX.format(train="", test="").replace("terms", "licence")
    (tmp_path / "index.toml").write_text(index, encoding="utf-8")
    with pytest.raises(InvalidOption, match="'licence' is not known"):
        names()


# ---- the files of the package ----

FILES = [(name, split) for name, table in shipped().items() for split in table.users]
MEMBERS = {"orders", "named", "completion", "prompt", "trimmed", "positions", "keys"}
MEMBERS |= {"sizes", "provenance"}
WORDS = {"dataset", "rules", "model", "rank_by"}
"""Words in a table's provenance; all else there are numbers and digests."""


def test_every_file_is_in_the_index_and_there_are_few_megabytes() -> None:
    there = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.rpptable")}
    assert there == {f"{name}/{split}.rpptable" for name, split in FILES}
    assert all(table.users.keys() == table.sha256.keys() for table in shipped().values())
    assert sum((FOLDER / path).stat().st_size for path in there) < 3_000_000


@pytest.mark.parametrize(("name", "split"), FILES)
def test_a_file_holds_digests_positions_and_counts(name: str, split: str) -> None:
    path = find(name, split)
    assert path is not None
    table, entry = RewardTable.load(path), shipped()[name]
    with np.load(path) as kept:
        assert set(kept.files) == MEMBERS
        assert {kept[key].dtype.kind for key in kept.files} <= {"u", "i"}
    assert len(table) == entry.users[split]
    assert table.provenance["dataset"] == entry.dataset
    assert table.provenance["rules"] == entry.rules
    assert table.provenance["rank_by"] == "likelihood (sum)"
    assert not table.reads_order  # though the file was made before this was noted
    said = json.loads(json.dumps(table.provenance))
    for key, value in said.items():
        if isinstance(value, str) and key not in WORDS:
            assert key.endswith("_digest"), key
            assert len(value) == 64, key
    assert not {"/", "\\"} & set(said["model"])  # no path of the machine that made it


@pytest.mark.parametrize(("name", "split"), FILES)
def test_a_file_plays_and_holds_no_title_and_no_user(name: str, split: str) -> None:
    entry = shipped()[name]
    try:
        data = rpp_env.load_dataset(entry.dataset)
    except rpp_env.UnknownDataset:
        pytest.skip(f"{entry.dataset} is not here: rpp-env data get {entry.dataset}")
    path = find(name, split)
    assert path is not None
    content, table = path.read_bytes(), RewardTable.load(path)
    if data.digest != table.provenance["dataset_digest"]:
        pytest.skip(f"{entry.dataset} is another copy here")
    env = RPPEnv.make(model=f"table:{name}", split=split, num_envs=8, **entry.needs)
    assert len(env.tasks) == entry.users[split]
    env.reset(seed=0)
    step = env.step(np.zeros((8, 4), dtype=int))
    assert np.isfinite(step.rewards).all()
    assert not [title for title in data.titles if len(title) > 5 and title.encode() in content]
    assert table.provenance["titles_digest"] == data.titles_digest
    # A key is a digest of a user with history and candidates: no user id leads to it.
    assert not set(table.keys.tolist()) & {_digest(user) for user in data.user_tokens}


def _digest(token: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{token}\x1f0\x1f".encode(), digest_size=8).digest(), "little"
    )
