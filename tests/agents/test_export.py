"""Episodes as a Minari dataset: played again bit for bit, of generated data alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_agents import mappo
from rpp_agents.cli import main
from rpp_agents.world import World

SMALL = ["--num-users", "60", "--num-items", "100"]


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def exported(*words: str, name: str = "rpp/some-v0") -> Any:
    minari = pytest.importorskip("minari", reason="Minari is not installed")
    assert main(["export", "minari", *words, "--name", name]) == 0
    return minari.load_dataset(name)


def replayed(dataset: Any) -> list[int]:
    """Plays every episode again, and returns its users."""
    env, users = dataset.recover_environment(), []
    about = list(dataset.storage.get_episode_metadata(range(len(dataset))))
    for episode, told in zip(dataset, about, strict=True):
        users.append(int(told["options"]["users"][0]))
        seen, info = env.reset(seed=int(told["seed"]), options={"users": users[-1:]})
        np.testing.assert_array_equal(seen, episode.observations[0])
        for t, action in enumerate(episode.actions):
            assert {key: info[key] for key in episode.infos} == {
                key: values[t] for key, values in episode.infos.items()
            }
            seen, reward, terminated, truncated, info = env.step(action)
            np.testing.assert_array_equal(seen, episode.observations[t + 1])
            assert reward == episode.rewards[t]
            assert (terminated, truncated) == (episode.terminations[t], episode.truncations[t])
        assert truncated or terminated
    return users


@pytest.mark.parametrize(
    "rules",
    ["RPP-v0", "RPPPaper-v0", "RPPFeedback-v0", "RPPSession-v0", "rpp_env.rpp_team:RPP_TEAM"],
)
def test_episodes_are_played_again(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = exported("--rules", rules, *SMALL, "--episodes", "3", "--seed", "7")
    assert replayed(dataset) == [0, 1, 2]
    mean = np.mean([episode.rewards.mean() for episode in dataset])
    assert f"3 episodes, {dataset.total_steps} steps, mean NDCG@10 {mean:.3f}" in (
        capsys.readouterr().out
    )
    about = dataset.storage.metadata
    assert about["algorithm_name"] == "random"
    assert "Seeds of the episodes begin at 7" in about["description"]


def test_vectors_are_exported() -> None:
    dataset = exported("--rules", "PPR-v0", "--shots", "zero", "--episodes", "2")
    assert replayed(dataset) == [0, 1]


def test_a_run_is_exported_in_its_world(tmp_path: Path) -> None:
    world = World.of("RPPFeedback-v0")
    options = replace(world.options, num_users=60, num_items=100, data_seed=5)
    world = replace(world, options=options, observe="private")
    config = mappo.Config(total_steps=200, memory=8, evaluations=0, tensorboard=False)
    mappo.train(world.env("train", num_envs=8), config, run_dir=tmp_path / "run", progress=False)
    world.save(tmp_path / "run")
    greedy = exported(str(tmp_path / "run"), "--split", "validation", "--episodes", "2")
    assert replayed(greedy) == [0, 1]
    about = greedy.storage.metadata
    assert about["algorithm_name"].startswith("run (policy ")
    assert about["algorithm_name"].endswith("), greedy")
    kwargs = json.loads(about["env_spec"])["kwargs"]
    assert {"split": "validation", "data_seed": 5, "observe": "private"}.items() <= kwargs.items()
    # Its memory begins anew with each episode: one is as in an export of it alone.
    alone = exported(str(tmp_path / "run"), "--split", "validation", "--episodes", "1", name="b-v0")
    np.testing.assert_array_equal(alone[0].actions, greedy[0].actions)
    sampled = exported(
        str(tmp_path / "run"), "--split", "validation", "--episodes", "2", "--sampled", name="c-v0"
    )
    assert sampled.storage.metadata["algorithm_name"].endswith("), sampled")
    assert (np.array(sampled[0].actions) != np.array(greedy[0].actions)).any()


def test_users_are_played_one_after_the_other() -> None:
    dataset = exported("--rules", "RPPBandit-v0", *SMALL)
    count = len(dataset)
    more = exported("--rules", "RPPBandit-v0", *SMALL, "--episodes", str(count + 2), name="more-v0")
    assert replayed(more) == [*range(count), 0, 1]


@pytest.mark.parametrize("name", ["ml-1m", "games", "/a/folder", "brought:dataset"])
def test_other_data_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Before it is looked for, and without Minari.
    assert main(["export", "minari", "--name", "rpp/a-v0", "--dataset", name]) == 2
    error = capsys.readouterr().err
    assert f"episodes on {name} cannot be exported" in error
    assert "terms of use" in error
    assert error.count("\n") == 1


def test_errors_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    exported(*SMALL, "--episodes", "1")
    capsys.readouterr()
    for words, said in (
        (["--name", "rpp/some-v0"], "Minari has a dataset rpp/some-v0 here"),
        ([], "is Minari's id of the dataset"),
        (["--name", "some"], "is Minari's id of the dataset"),
        (["--name", "../a b-v0"], "is Minari's id of the dataset"),
        (["nobody", "--name", "rpp/b-v0"], "'nobody' cannot play"),
        (["--name", "rpp/b-v0", "--episodes", "0"], "episodes must be at least 1"),
        (["--name", "rpp/b-v0", "--seed", "-1"], "seed must be"),
    ):
        assert main(["export", "minari", *words, *SMALL]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_without_minari_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['minari'] = None\n"
        "from rpp_agents.cli import main\n"
        "sys.exit(main(['export', 'minari', '--name', 'a-v0']))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert "rpp-env[minari]" in found.stderr
