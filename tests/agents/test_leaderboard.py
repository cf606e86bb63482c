"""Submissions: what is claimed is played again, and a file is never more than texts and numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_agents import load_policy, mappo
from rpp_agents.cli import main
from rpp_agents.leaderboard import (
    Submission,
    View,
    _table,
    calls_of_run,
    check_held_back,
    commitment_of,
    digest_of,
    find_task,
    tracks,
)
from rpp_agents.runs import read_progress
from rpp_agents.world import World
from rpp_env import RPPEnv
from rpp_env.errors import InvalidData, InvalidOption

COMMAND = "rpp-env train mappo --num-users 300"
HELD_BACK = 6031808713819905718
"""Seed of the trial round."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its submission."""
    made = tmp_path_factory.mktemp("leaderboard")
    small = {"num_users": 300, "num_items": 120, "data_seed": 21}
    world = World.of("RPP-v0")
    world = replace(world, options=replace(world.options, **small))
    held_out = world.env("validation", num_envs=20, max_users=20)
    config = mappo.Config(total_steps=600, evaluations=2, eval_episodes=40, tensorboard=False)
    env = world.env("train", num_envs=40)
    mappo.train(env, config, run_dir=made / "run", eval_env=held_out, progress=False)
    world.save(made / "run")
    words = ["submit", str(made / "run"), "--task", "smoke", "--command", COMMAND]
    assert main([*words, "--json", str(made / "a.json")]) == 0
    return made


def changed(folder: Path, **fields: Any) -> Path:
    """The submission with other fields."""
    table = json.loads((folder / "a.json").read_text())
    path = folder / "changed.json"
    path.write_text(json.dumps({**table, **fields}))
    return path


def test_a_submission_is_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder / "a.json"), "--policy", str(folder / "run")]) == 0
    out = capsys.readouterr().out
    assert "the scores of 40 users are the same to the last digit" in out
    made = Submission.load(folder / "a.json")
    assert made.score == pytest.approx(np.mean(made.scores))
    assert len(set(made.users)) == 40
    # 600 steps in whole rollouts of 200, and two evaluations of 40 episodes of 5 steps.
    assert made.calls == 600 + 2 * 40 * 5
    assert (made.track, made.name, made.seed, made.command) == ("10k", "MAPPO", 0, COMMAND)
    task = find_task("smoke")
    env = task.env(View())
    tokens = [env.tasks.dataset.user_tokens[row] for row in env.tasks.users]
    assert not set(tokens) & set((folder / "a.json").read_text().replace('"', " ").split())


def test_scores_are_the_mean_rewards_of_greedy_play(folder: Path) -> None:
    policy = load_policy(folder / "run" / "policy.safetensors")
    env = find_task("smoke").env(View())
    observations, _ = env.reset(seed=5, options={"users": range(40)})
    total = np.zeros(40)
    for _ in range(5):
        actions, _ = policy.act(observations, env.action_masks(), greedy=True)
        step = env.step(actions)
        observations, total = step.observations, total + step.rewards
    assert Submission.load(folder / "a.json").scores == pytest.approx(total / 5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scores": 0}, "the scores of 1 of 40 users are not those that the policy plays"),
        ({"score": 0.987}, "score is 0.987, and the mean"),
        ({"users": 0}, "users are not those of the task"),
        ({"digest": "0" * 64}, "it is of another version"),
        ({"policy": "0" * 64}, "give the file that was submitted"),
    ],
)
def test_changed_submissions_are_not_verified(
    folder: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], said: str
) -> None:
    table = json.loads((folder / "a.json").read_text())
    if "scores" in fields:  # a last digit
        scores = table["scores"]
        scores[7] = float(np.nextafter(scores[7], 0.5))
        fields = {"scores": scores}
    if "users" in fields:
        fields = {"users": table["users"][::-1]}
    path = changed(folder, **fields)
    assert main(["verify", str(path), "--policy", str(folder / "run")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"task": "smoke"}',
        b'{"scores": ' + b"9" * 5000 + b"}",
        b" " * (1 << 21),
    ],
)
def test_a_damaged_file_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], text: bytes
) -> None:
    path = folder / "damaged.json"
    path.write_bytes(text)
    assert main(["verify", str(path), "--policy", str(folder / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rpp-env: ")
    assert "damaged.json" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"task": "../../etc/passwd"},
        {"task": "os:system"},
        {"track": "everything"},
        {"calls": 10_001},
        {"calls": -1},
        {"calls": True},
        {"seed": 10**30},
        {"observe": "os:system"},
        {"encoder": "../encoder"},
        {"model": "http://127.0.0.1:1/v1#m"},
        {"dataset": "os:system"},
        {"format": 2},
        {"world": 21},
        {"world": HELD_BACK + 1},
        {"world": "21"},
        {"task": "movieworld", "world": HELD_BACK},
        {"scores": [0.5]},
        {"scores": [2.0] * 40},
        {"scores": [float("nan")] * 40},
        {"score": float("inf")},
        {"scores": "0.5"},
        {"users": [1] * 40},
        {"name": "x" * 5000},
        {"name": ""},
        {"versions": {"python": {"a": 1}}},
        {"versions": []},
    ],
)
def test_no_key_and_no_value_leads_anywhere(folder: Path, fields: dict[str, Any]) -> None:
    path = changed(folder, **fields)
    with pytest.raises(InvalidData, match="is not a submission"):
        Submission.load(path)


def test_texts_of_a_submission_cannot_control_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(folder, command="\x1b[2Jrm -rf /", name="a\u202eb")
    assert main(["verify", str(path), "--policy", str(folder / "run")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_calls_are_those_that_the_run_records(folder: Path, tmp_path: Path) -> None:
    assert calls_of_run(tmp_path, 5) is None
    run = shutil.copytree(folder / "run", tmp_path / "run")
    assert read_progress(run)["steps"].max() == 600
    assert calls_of_run(run, 5) == 1000
    words = ["submit", str(run), "--task", "smoke", "--command", "x", "--json"]
    out = str(tmp_path / "b.json")
    # Fewer than the run's own cannot be given, more can: those of a search over options.
    assert main([*words, out, "--calls", "7"]) == 0
    assert Submission.load(Path(out)).calls == 1000
    assert main([*words, out, "--calls", "60000"]) == 0
    assert Submission.load(Path(out)).track == "200k"
    assert main([*words, out, "--calls", "60000", "--track", "50k"]) == 2
    assert main([*words, out, "--calls", "2000000"]) == 2
    # An answer that a solver differentiates is a call, too.
    rows = [line.split(",") for line in (run / "progress.csv").read_text().splitlines()]
    more = ["info/gradient_calls", *map(str, range(3000, 2998 + len(rows))), "5000"]
    text = "\n".join(",".join([*row, one]) for row, one in zip(rows, more, strict=False))
    (run / "progress.csv").write_text(text + "\n")
    assert calls_of_run(run, 5) == 5400
    (run / "config.json").write_text("[]")
    assert main([*words, out]) == 2
    alone = str(run / "policy.safetensors")
    assert main(["submit", alone, "--task", "smoke", "--command", "x", "--json", out]) == 2


def test_a_runs_world_is_not_followed(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "run", tmp_path / "run")
    world = json.loads((run / "world.json").read_text())
    words = ["submit", str(run), "--task", "smoke", "--command", "x", "--json"]
    for name, value, code in (
        ("model", "http://127.0.0.1:1/v1#m", 0),
        ("encoder", "../encoder", 2),
    ):
        (run / "world.json").write_text(json.dumps({**world, name: value}))
        assert main([*words, str(tmp_path / "c.json")]) == code


def test_frozen_tasks_are_named_and_tracks_rise() -> None:
    assert list(tracks().values()) == sorted(tracks().values())
    with pytest.raises(InvalidOption, match="did you mean 'movieworld'"):
        find_task("moviewrld")


@pytest.mark.parametrize("name", ["arrivals-stream", "smollm2", "smoke"])  # the others take longer
def test_frozen_tasks_have_not_changed(name: str) -> None:
    task = find_task(name)
    assert len(np.unique(task.env(View()).tasks.users)) == task.users


def test_recorded_answers_belong_to_a_task() -> None:
    env = find_task("smollm2").env(View())
    assert env.table is not None
    orders = env.table.orders.copy()
    orders[0, 0, 0, :2] = orders[0, 0, 0, 1::-1]
    changed = RPPEnv(
        env.tasks,
        rules=env.episode,
        space=env.space,
        embeddings=env.embeddings,
        table=replace(env.table, orders=orders),
    )
    assert digest_of(changed) != digest_of(env)


def test_another_task_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import rpp_agents.leaderboard

    monkeypatch.setattr(rpp_agents.leaderboard, "digest_of", lambda env: "0" * 64)
    with pytest.raises(InvalidData, match="than the frozen one"):
        find_task("smoke").env(View())


def test_a_policy_plays_the_world_that_a_round_held_back(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = folder / "held.json", str(folder / "run")
    words = ["submit", run, "--task", "smoke", "--command", COMMAND, "--json", str(path)]
    assert main([*words, "--world", "22"]) == 2
    assert "no round of the task smoke committed to the world 22" in capsys.readouterr().err
    assert main([*words, "--world", str(HELD_BACK)]) == 0
    before, held = Submission.load(folder / "a.json"), Submission.load(path)
    assert (before.policy, before.task, before.world) == (held.policy, held.task, None)
    assert held.digest != before.digest
    assert not set(held.users) & set(before.users)  # users of another world
    assert main(["verify", str(path), "--policy", run]) == 0
    out = capsys.readouterr().out
    assert f"on smoke, world {HELD_BACK}, track 10k" in out
    assert "the scores of 40 users are the same to the last digit" in out
    # The scores of one world are none of another.
    table = json.loads(path.read_text())
    for fields, said in (
        ({"world": None}, "it is of another version"),
        ({"scores": before.scores}, "are not those that the policy plays"),
        ({"digest": before.digest}, f"world {HELD_BACK} has the digest"),
    ):
        (folder / "other.json").write_text(json.dumps({**table, **fields}))
        assert main(["verify", str(folder / "other.json"), "--policy", run]) == 2
        assert said in capsys.readouterr().err


def test_rounds_commit_to_worlds_of_their_tasks() -> None:
    for about in _table()["rounds"].values():
        assert find_task(about["task"]).world is not None  # tasks that have no seed have no other
        assert len(bytes.fromhex(about["commitment"])) == 32
        assert about.keys() == {"task", "commitment"}
    assert commitment_of(21) == "6f4b6612125fb3a0daecd2799dfd6c9c299424fd920f9b308110a2c1fbd8f443"
    check_held_back("smoke", HELD_BACK)
    page = (Path(__file__).parents[2] / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    assert str(HELD_BACK) in page
