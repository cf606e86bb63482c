"""Minari: episodes of the joint environment as a dataset, and the environment made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import rpp_env  # noqa: F401 - registers the ids
from rpp_env.models import echo

minari = pytest.importorskip("minari", reason="Minari is not installed")
pytest.importorskip("jax", reason="Minari records with jax: minari[create]")

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL: dict[str, Any] = {"num_users": 60, "num_items": 100}


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def record(name: str, **options: Any) -> Any:
    env = minari.DataCollector(
        gymnasium.make("rpp_env:RPP-v0", **SMALL, **options), record_infos=True
    )
    for _ in range(3):
        env.reset()
        for _ in range(5):
            env.step(env.action_space.sample())
    dataset = env.create_dataset(name)
    env.close()
    return dataset


def test_episodes_can_be_played_again() -> None:
    dataset = record("rpp/random-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 15)
    env = dataset.recover_environment()
    for episode, seed in zip(dataset, [e["seed"] for e in _about(dataset)], strict=True):
        seen, info = env.reset(seed=int(seed))
        np.testing.assert_array_equal(seen, episode.observations[0])
        for t, action in enumerate(episode.actions):
            assert info["user"] == episode.infos["user"][t]
            seen, reward, _, truncated, info = env.step(action)
            np.testing.assert_array_equal(seen, episode.observations[t + 1])
            assert (reward, truncated) == (episode.rewards[t], episode.truncations[t])


def _about(dataset: Any) -> Any:
    return list(dataset.storage.get_episode_metadata(range(len(dataset))))


def test_an_environment_is_made_again_only_from_names() -> None:
    dataset = record("rpp/echo-v0", model=echo())
    with pytest.raises(ValueError, match="env_spec is None"):
        dataset.recover_environment()


def test_its_option_of_reset_is_let_through() -> None:
    env = minari.DataCollector(gymnasium.make("rpp_env:RPP-v0", **SMALL))
    _, info = env.reset(options={"minari_autoseed": False, "users": [3]})
    assert env.unwrapped.core.playing.tolist() == [3]
    assert info["user"] == env.unwrapped.core.tasks.users[3]
