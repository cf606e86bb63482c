"""Parts from outside, by ``package.module:attribute`` and by entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from rpp_env import RPPEnv, load_dataset
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import check_fields, made, nearest, unknown
from rpp_env.plugins import entry_points, is_code, load_code, resolve
from rpp_env.sentences import SentenceCatalog
from tests.brought import PARTS, declare


@pytest.fixture(autouse=True)
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a user's module."""
    (tmp_path / "elsewhere.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("elsewhere", None)


# ---- names ----


@pytest.mark.parametrize("name", ["a:b", "a.b:c", "a_1.b:c.d", "Ünder.b:c"])
def test_code_is_a_module_and_an_attribute(name: str) -> None:
    assert is_code(name)


@pytest.mark.parametrize(
    "name",
    [
        *"mappo a.b a: :b a:b:c http://h/v1#m https:x vllm:x hf:x table:t recording:r".split(),
        *"checkpoint:c C:\\data /a:b a/b:c 1a:b a:1 -a:b a.:b".split(),
        *("a: b", "", 5, None),
    ],
)
def test_other_names_are_no_code(name: object) -> None:
    assert not is_code(name)


def test_built_in_names_take_precedence(brought: Path) -> None:
    declare(brought, "rpp_env.trainers", mappo="elsewhere:nothing", other="elsewhere:train")
    assert entry_points("trainer")["other"] == "elsewhere:train"
    known = {"mappo": "rpp_agents.trainers.mappo:train", "plain": 5}
    assert resolve("trainer", "mappo", known).__module__.startswith("rpp_agents")
    assert resolve("trainer", "plain", known) == 5
    assert resolve("trainer", "other", known).__name__ == "train"
    assert resolve("trainer", "elsewhere:train", known).__name__ == "train"


def test_two_packages_with_one_name_are_ambiguous(brought: Path) -> None:
    declare(brought, "rpp_env.models", "first", same="elsewhere:model")
    declare(brought, "rpp_env.models", "second", same="elsewhere:Model")
    with pytest.raises(InvalidOption, match="declared by two packages"):
        resolve("model", "same", {})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mapo", "trainer 'mapo' is not known; did you mean 'mappo'"),
        ("nowhere_at_all:train", "cannot import nowhere_at_all"),
        ("elsewhere:trian", "elsewhere has no 'trian'; did you mean 'train'"),
        ("elsewhere.inside:train", "cannot import elsewhere.inside"),
    ],
)
def test_an_unknown_name_is_refused_in_one_sentence(name: str, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        resolve("trainer", name, {"mappo": 1, "qmix": 2})


def test_a_module_may_lie_where_the_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "only_here.py").write_text("value = 7\n")
    (here / "json.py").write_text("raise SystemExit('a library is never taken from there')\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(InvalidOption, match="cannot import not_even_here"):
        load_code("model", "not_even_here:value")
    assert str(here) not in sys.path
    assert load_code("model", "only_here:value") == 7
    assert sys.path[-1] == str(here)
    sys.modules.pop("only_here")


def test_an_error_inside_a_module_is_not_hidden(brought: Path) -> None:
    (brought / "broken_part.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_code("model", "broken_part:x")


# ---- what says so ----


def test_similar_names_are_suggested_and_all_listed() -> None:
    assert nearest("MovieWord", ["movieworld", "ml-1m"]) == "movieworld"
    assert unknown("model", "gpt", []) == "model 'gpt' is not known; there are none"
    assert unknown("x", 5, ["a", "b"]) == "x 5 is not known; there are a, b"
    many = unknown("x", "n07", [f"n{i:02}" for i in range(90)])
    assert "the nearest of 90 are" in many.replace("The", "the")
    assert len(many) < 300


# ---- each kind ----


def test_a_model_and_a_recommender_are_brought(brought: Path) -> None:
    declare(brought, "rpp_env.models", third="elsewhere:Model")
    for name in ("elsewhere:Model", "elsewhere:model", "elsewhere:recommender", "third"):
        env = RPPEnv.make(model=name, split="test", max_users=4, num_envs=4)
        env.reset(seed=0)
        step = env.step(np.zeros((4, 4), np.int64))
        assert step.rewards.shape == (4,)
        assert [step.rankings[i].order[0] for i in range(4)] == [0] * 4
    with pytest.raises(InvalidOption, match="must be a name, a LanguageModel"):
        RPPEnv.make(model="elsewhere:NUMBER")


def test_a_dataset_is_brought(brought: Path) -> None:
    declare(brought, "rpp_env.datasets", tiny="elsewhere:tiny_world")
    assert load_dataset("tiny", num_users=40).num_users == 40
    with pytest.raises(InvalidOption, match="did you mean 'num_users'"):
        load_dataset("elsewhere:tiny_world", num_user=40)
    with pytest.raises(InvalidData, match="returned a int, not a Dataset"):
        load_dataset("elsewhere:NUMBER")
    env = RPPEnv.make("elsewhere:tiny_world", split="test", data_seed=3, num_users=60)
    assert env.tasks.dataset.digest == load_dataset("movieworld", num_users=60, seed=3).digest


def test_a_book_is_brought(brought: Path) -> None:
    declare(brought, "rpp_env.books", mine="elsewhere:a_book")
    package = Path(load_dataset.__code__.co_filename).parents[1]
    (brought / "mine.toml").write_text((package / "sentences" / "music.toml").read_text())
    for name in ("elsewhere:a_book", "mine", "elsewhere:BOOK_FILE", str(brought / "mine.toml")):
        env = RPPEnv.make(book=name, rules="RPPBandit-v0", split="test")
        assert env.book.domain == "music"
        assert env.book.history_records == ("1 item", "3 items", "5 items", "10 items", "20 items")
    with pytest.raises(InvalidOption, match="must be a SentenceCatalog or the path"):
        SentenceCatalog.load("elsewhere:NUMBER")


# ---- tables of files, and configs ----


def test_types_of_fields_are_checked(brought: Path) -> None:
    (brought / "fields_of.py").write_text(
        dedent(
            """\
            from collections.abc import Mapping, Sequence
            from dataclasses import dataclass, field
            from typing import Any, Literal

            @dataclass(frozen=True)
            class Config:
                whole: int = 1
                number: float = 0.5
                yes: bool = True
                text: str = ""
                perhaps: int | None = None
                one: Literal["shared", "private"] = "shared"
                many: tuple[int, ...] = (1,)
                two: tuple[float, str] = (1.0, "")
                names: Sequence[str] = ()
                table: Mapping[str, Any] = field(default_factory=dict)
            """
        )
    )
    kind = load_code("model", "fields_of:Config")
    good = {"whole": np.int64(3), "number": 2, "perhaps": 4, "many": [], "two": [1, "x"]}
    check_fields(made(kind, good, "here"))
    for table, said in (
        ({"whole": "3"}, "whole must be a whole number, not '3'"),
        ({"whole": 3.0}, "whole must be a whole number, not 3.0"),
        ({"whole": True}, "whole must be a whole number, not True"),
        ({"whole": None}, "whole must be a whole number, not None"),
        ({"number": "1e-3"}, "number must be a number, not '1e-3'"),
        ({"number": float("nan")}, "number must be a number, not nan"),
        ({"whole": float("inf")}, "whole must be a whole number, not inf"),
        ({"yes": 1}, "yes must be true or false, not 1"),
        ({"text": 1}, "text must be a text, not 1"),
        ({"perhaps": "2"}, "perhaps must be a whole number, not '2'"),
        ({"one": "privat"}, "one is 'privat'; did you mean 'private'"),
        ({"one": 3}, "one must be one of shared, private, not 3"),
        ({"many": 64}, "many must be a list of whole numbers, not 64"),
        ({"many": [64, "64"]}, "many must be a list of whole numbers"),
        ({"two": [1]}, "two must be a list of 2: a number, a text"),
        ({"names": "ab"}, "names must be a list of texts, not 'ab'"),
        ({"table": [1]}, "table must be a table"),
        ({"whol": 1}, "key 'whol' is not known; did you mean 'whole'"),
    ):
        with pytest.raises(InvalidOption, match=f"here: {said}"):
            made(kind, table, "here")
    sys.modules.pop("fields_of")
