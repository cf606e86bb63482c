"""Options of the environment: each is checked, with a one-sentence error."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_env import RULES, InvalidOption, RPPEnv
from rpp_env.errors import RPPError
from rpp_env.factory import Options
from rpp_env.models import Generation, echo

SMALL: dict[str, Any] = {"num_users": 30, "num_items": 100, "num_envs": 2}
ODD: list[Any] = [
    *(0, -1, 1.5, "3", "", True, None, [], {}, (1, 2), b"x", object(), 10**30, lambda: 0),
    *(float("nan"), float("inf"), np.int64(3), np.float64(2), np.bool_(True)),
]
ARGUMENTS = [
    name
    for function in (RPPEnv.make, RPPEnv.__init__)
    for name in inspect.signature(function).parameters
    if name not in ("self", "options", "tasks", "table", "recommender")
]
FIELDS = [field.name for field in dataclasses.fields(Options)]


@pytest.mark.parametrize("name", sorted({*ARGUMENTS, *FIELDS}))
def test_any_arguments_give_an_environment_or_one_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a text is a file's name for some
    made = 0
    for value in ODD:
        options = {"model": echo(), **SMALL, name: value}
        try:
            env = RPPEnv.make(**options)
        except RPPError as error:
            assert len(str(error)) < 700  # noqa: PT017
        else:
            env.close()
            made += 1
    assert made <= 5


NUMBERS = "num_users num_items data_seed num_candidates draws task_seed user_seed dim".split()
ENV_NUMBERS = ["num_envs", "max_users", "max_cycles", "seed"]


@pytest.mark.parametrize("name", [*NUMBERS, *ENV_NUMBERS])
@pytest.mark.parametrize("value", ["3", 2.0, True, -1, float("nan"), [3], np.float64(3)])
def test_a_whole_number_is_a_whole_number(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=f"{name}|a seed"):
        RPPEnv.make(model=echo(), **{**SMALL, name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 0}, r"num_candidates must lie in 2\.\.10000, not 0"),
        ({"num_candidates": 1}, r"num_candidates must lie in 2\.\.10000, not 1"),
        ({"book": ""}, "book"),
        ({"draws": 0}, r"draws must lie in 1\.\.10000, not 0"),
        ({"task_seed": -1}, "task_seed must be 0 or more, not -1"),
        ({"seed": True}, "a seed is an integer of 0 or more, or None; got True"),
        ({"num_candidate": 10}, "did you mean 'num_candidates'"),
        ({"negatives": "uniformly"}, "did you mean 'uniform'"),
        ({"split_by": "users"}, "did you mean 'user'"),
        ({"embeddings": "lightgnc"}, "did you mean 'lightgcn'"),
        ({"split": "trian"}, "did you mean 'train'"),
        ({"rules": "RPP-v1"}, "did you mean 'RPP-v0'"),
        ({"observe": "share"}, "did you mean 'shared'"),
        ({"agent_names": "role"}, "did you mean 'roles'"),
        ({"fractions": (0.5, "0.3", 0.2)}, "fractions must be a list of 3"),
        ({"fractions": (0.5, 0.5)}, "fractions must be a list of 3"),
        ({"generation": {"temperature": 0}}, "generation must be"),
        ({"padded_actions": 1}, "padded_actions must be true or false, not 1"),
        ({"unfiltered": "no"}, "unfiltered must be true or false, not 'no'"),
        ({"encoder": "words"}, "encoder 'words' is not known; there are hashed, minilm"),
        ({"num_envs": 10**9}, "10,000,000 at most: num_envs is 1000000000"),
        ({"recording": 3}, "recording must be a text or of type Path"),
    ],
)
def test_the_error_states_what_came_and_what_is_allowed(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        RPPEnv.make(**{"model": echo(), **SMALL, **options})


def test_options_overruled_by_a_table_or_embeddings_are_refused() -> None:
    from rpp_env.table import tabulate

    env = RPPEnv.make(model=echo(), max_users=2, rules="RPPBandit-v0", **SMALL)
    table = tabulate(env)
    for ignored in ({"dim": 8}, {"embeddings": "lightgcn"}):
        with pytest.raises(InvalidOption, match="a table has its own embeddings"):
            RPPEnv.make(model=table, rules="RPPBandit-v0", **SMALL, **ignored)
    with pytest.raises(InvalidOption, match="dim=8 is for fitting embeddings"):
        RPPEnv.make(model=echo(), embeddings=env.embeddings, dim=8, **SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_cycles": 0}, "max_cycles must be 1 or more, not 0"),
        ({"max_cycles": "5"}, "max_cycles must be a whole number, not '5'"),
        ({"num_candidates": 1}, "num_candidates must be 2 or more, not 1"),
        ({"history": "rung"}, "did you mean 'rungs'"),
        ({"history_options": ()}, "hold one number or more"),
        (
            {"history_options": [1, 2]},
            r"history_options must be a tuple of whole numbers, not \[1, 2\]",
        ),
        ({"rungs": (0, 1)}, "each number in rungs is 1 or more"),
        ({"start": -1}, "start must be 0 or more, not -1"),
    ],
)
def test_rules_are_checked_as_they_are_given(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        replace(RULES["RPP-v0"], **changes)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": "0"},
        {"max_tokens": True},
        {"max_tokens": 2.5},
        {"stop": "\n"},
        {"seed": "x"},
    ],
)
def test_decoding_is_checked_as_it_is_given(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"{next(iter(options))} must be"):
        Generation(**options)


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"split": "trian"}, "train"),
        ({"embeddings": "lightgnc"}, "lightgcn"),
        ({"rules": "RPPBandt-v0"}, "RPPBandit-v0"),
        ({"negatives": "populariy"}, "popularity"),
        ({"observe": "shred"}, "shared"),
        ({"ranking": "sequencee"}, "sequence"),
        ({"rank_by": "logprob"}, "logprobs"),
        ({"repeats": "dropp"}, "drop"),
        ({"model": "embeded"}, "embedded"),
        ({"dataset": "movieword"}, "movieworld"),
        ({"book": "moviess"}, "movies"),
        ({"rewrite": "embeded"}, "embedded"),
        ({"negative": "uniform"}, "negatives"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(options: dict[str, Any], meant: str) -> None:
    with pytest.raises(RPPError, match=f"did you mean '{meant}'"):
        RPPEnv.make(**{"model": echo(), **SMALL, **options})


def test_names_of_functions_get_suggestions_too() -> None:
    from rpp_env import evaluate
    from rpp_env.data import load_dataset, split_users
    from rpp_env.data.candidates import split_selection
    from rpp_env.data.download import get
    from rpp_env.embeddings import fit_embeddings
    from rpp_env.models.openai import OpenAIModel
    from rpp_env.rendering import check_render_mode
    from rpp_env.sentences.catalog import history_labels

    env = RPPEnv.make(model=echo(), **SMALL)
    data = load_dataset("movieworld", num_users=60, num_items=100)
    split: Any = split_users(data)
    misspelt: dict[str, Callable[[], Any]] = {
        "train": lambda: split.part("tran"),
        "time": lambda: split_users(data, by="tme"),  # type: ignore[arg-type]
        "svd": lambda: fit_embeddings(data, None, method="sdv"),  # type: ignore[arg-type]
        "refuse": lambda: split_selection(data, "a", "b", overlap="refus"),  # type: ignore[arg-type]
        "ml-1m": lambda: get("ml-1"),
        "users": lambda: env.reset(options={"user": [1]}),
        "fixed": lambda: evaluate(None, env, baselines=["fixd"]),  # type: ignore[arg-type]
        "chat": lambda: OpenAIModel("http://localhost:1/v1", "m", api="chatt"),  # type: ignore[arg-type]
        "ansi": lambda: check_render_mode("anssi"),
        "grow": lambda: history_labels("growe", (1, 2)),  # type: ignore[arg-type]
    }
    for meant, call in misspelt.items():
        with pytest.raises(InvalidOption, match=f"did you mean '{meant}'"):
            call()
