"""benchmarks/ranked.py and the two programs that use it: ranks in three lists, small runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from rpp_env.data import load_dataset
from rpp_env.data.clicks import click_tasks, task_users, training_clicks
from rpp_env.recommenders import t5
from rpp_env.recommenders.t5 import max_plus_one

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = {"num_users": 120, "num_items": 150}


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path / "cache"))
    yield
    for name in ("ranked", "peapod", "pap_rec"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    data = load_dataset("movieworld", **SIZE)
    config = t5.Config(dim=16, layers=1, heads=2, feed_forward=32, tasks=("sequential",), epochs=1)
    path = tmp_path_factory.mktemp("t5") / "t5.safetensors"
    t5.train(data, training_clicks(data), config).save(path)
    return f"checkpoint:{path}"


def test_ranks_are_those_of_the_scores_in_each_list() -> None:
    import ranked

    data = load_dataset("movieworld", **SIZE)
    tasks = click_tasks(data, task_users(data)[:30], "test", num_candidates=20)
    value = np.random.default_rng(0).integers(40, size=(len(tasks), data.num_items))

    def scores(some: Any, rows: np.ndarray) -> Any:
        assert np.array_equal(some.users, tasks.users[rows])
        return value[rows[:, None], some.candidates]

    ranked._USERS = 8  # several parts
    found = ranked.Clicks(tasks).ranks(scores)
    for i in range(len(tasks)):
        target, seen = tasks.targets[i], data.sequence(tasks.users[i])[: tasks.draw[i]]
        lists = {
            "sampled": tasks.candidates[i],
            "all": np.arange(data.num_items),
            "new": np.setdiff1d(np.arange(data.num_items), np.setdiff1d(seen, target)),
        }
        for name, items in lists.items():
            order = items[np.argsort(-value[i, items], kind="stable")]
            assert found[name][i] == 1 + order.tolist().index(target)


def test_the_rule_of_ids_is_ranked_among_the_same_items(monkeypatch: pytest.MonkeyPatch) -> None:
    import ranked

    monkeypatch.setattr(ranked, "SASREC", replace(ranked.SASREC, epochs=1))
    data = load_dataset("movieworld", **SIZE)
    tasks = click_tasks(data, task_users(data), "test", num_candidates=20)
    rows = ranked.Clicks(tasks).baselines(np.arange(data.num_items))
    every = click_tasks(data, task_users(data), "test", num_candidates=None)
    assert np.array_equal(
        rows["largest id + 1"][0]["all"], max_plus_one(np.arange(data.num_items), every)
    )
    chance = ranked.METRICS["HR@10"](np.arange(1, 21)).mean()
    for name in ("SASRec", "popularity"):
        assert ranked.METRICS["HR@10"](rows[name][0]["sampled"]).mean() > chance


def test_a_report_pairs_users_and_corrects_for_their_number() -> None:
    import ranked

    first = np.tile([1, 2, 30], 40)
    runs = {
        "one": [dict.fromkeys(ranked.LISTS, first)],
        "same": [dict.fromkeys(ranked.LISTS, first)] * 2,
        "worse": [dict.fromkeys(ranked.LISTS, first + 1)],
        "rule": [{"sampled": first, "all": first}],
    }
    minus = [("same", "one"), ("worse", "one"), ("rule", "one"), ("absent", "one")]
    text, written = ranked.report(runs, minus)
    assert written["scores"]["all"]["one"]["HR@5"] == pytest.approx(2 / 3)
    gaps = written["differences"]["new"]
    assert list(gaps) == ["same minus one", "worse minus one"]
    assert (gaps["same minus one"]["value"], gaps["same minus one"]["significant"]) == (0, False)
    lost = (1 - 1 / np.log2(3) + 1 / np.log2(3) - 0.5) / 3
    assert gaps["worse minus one"]["value"] == pytest.approx(-lost)
    assert gaps["worse minus one"]["significant"]
    assert "Holm" in text


def run(
    name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, out: Path
) -> dict[str, Any]:
    import importlib

    import ranked

    monkeypatch.setattr(ranked, "SASREC", replace(ranked.SASREC, epochs=1))
    program: Any = importlib.import_module(name)
    if name == "peapod":
        few = {key: program.ABLATIONS[key] for key in (program.TAUGHT, "with task prompts (3)")}
        monkeypatch.setattr(program, "ABLATIONS", few)
    size = json.dumps(SIZE if name == "ranked" else SIZE | {"num_candidates": 20})
    shared = ["--options", size, "--seeds", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [name, *shared, *arguments])
    program.main()
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def test_peapod_in_small(checkpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keep, out = tmp_path / "kept", tmp_path / "found.json"
    groups = ["prompts", "ablations", "joint", "rules"]
    arguments = ["--model", checkpoint, "--keep", str(keep), "--groups", *groups]
    found = run("peapod", arguments, monkeypatch, out)
    rows = found["scores"]["sampled"]
    # 7 prompts and controls, 2 composers, 2 trainings of the T5, 3 rules.
    assert len(rows) == 14
    assert found["about"]["users"] == SIZE["num_users"]
    assert "SASRec minus no prompt" in found["differences"]["new"]
    # What is kept is not computed again.
    monkeypatch.setattr(sys.modules["peapod"].Bench, "ranks", None)
    assert run("peapod", arguments, monkeypatch, out) == found


def test_pap_rec_in_small(checkpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ["--model", checkpoint, "--users", "60", "--rounds", "2", "--rules"]
    arguments += ["--criteria", "surrogate", "--first", "random"]
    found = run("pap_rec", arguments, monkeypatch, tmp_path / "found.json")["surrogate"]
    lists = found["lists"]["scores"]
    assert len(lists["new"]) == 7 + 2
    assert len(lists["all"]) == 7 + 3
    for name, row in found["scores"].items():
        assert lists["sampled"][name]["NDCG@10"] == pytest.approx(row["test"])
    assert found["about"]["first"] == "random"


def test_a_t5_beside_the_rules_in_small(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = run("ranked", ["--model", checkpoint, "--users", "50"], monkeypatch, tmp_path / "found")
    assert found["about"]["users"] == 50
    assert len(found["scores"]["all"]) == 4
    assert "the T5, without a prompt minus popularity" in found["differences"]["sampled"]
