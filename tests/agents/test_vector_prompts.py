"""MAPPO and A2C choose prefixes for a small SASRec: learning, files and runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rpp_agents import Random, a2c, load_policy, mappo, play
from rpp_agents.actors import GaussianActor
from rpp_env import RPPEnv, evaluate
from rpp_env.data import (
    Dataset,
    TaskSet,
    load_dataset,
    make_tasks,
    split_users,
    training_interactions,
)
from rpp_env.data.tensors import read_tensors
from rpp_env.embeddings import Embeddings, fit_embeddings
from rpp_env.episode import Episode
from rpp_env.errors import InvalidOption
from rpp_env.recommenders.sasrec import Config, SASRec, train
from rpp_env.vectors import VectorPrompts

SIZE = Config(dim=32, max_length=30, loss="cross_entropy", rate=3e-3, batch=64, epochs=4)


def prompts(model: SASRec, scale: float = 3.0) -> VectorPrompts:
    """Two vectors along the three directions in which the recommender's items differ most."""
    items = model.embed(torch.arange(model.num_items)).numpy()
    _, sizes, directions = np.linalg.svd(items - items.mean(axis=0), full_matrices=False)
    spread = sizes[:3, None] / np.sqrt(len(items))
    return VectorPrompts(scale * spread * directions[:3], ("first", "second"))


@pytest.fixture(scope="module")
def world() -> Dataset:
    return load_dataset("movieworld", num_users=1200, num_items=120)


@pytest.fixture(scope="module")
def embeddings(world: Dataset) -> Embeddings:
    return fit_embeddings(world, training_interactions(world, split_users(world)))


@pytest.fixture(scope="module")
def model(world: Dataset) -> SASRec:
    histories = training_interactions(world, split_users(world))
    return train(histories, SIZE, catalog=world.catalog_digest)


@pytest.fixture(scope="module")
def tasks(world: Dataset) -> dict[str, TaskSet]:
    """Tasks of which SASRec sees no history: what it ranks by is the prefix."""
    users = split_users(world)
    held_out = np.concatenate([users.validation, users.test])
    made = {}
    for split, chosen in (("train", users.train), ("test", held_out)):
        full = make_tasks(world, chosen, num_candidates=20)
        none = np.zeros_like(full.history_indptr)
        made[split] = replace(full, history_indptr=none, history_items=full.history_items[:0])
    return made


@pytest.fixture
def make(embeddings: Embeddings, model: SASRec, tasks: dict[str, TaskSet]) -> Iterator[Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def made(split: str = "train", num_envs: int = 64, **options: Any) -> RPPEnv:
        return RPPEnv(
            tasks[split],
            rules=Episode("Codes", 1),
            space=prompts(model, **options),
            embeddings=embeddings,
            recommender=model,
            num_envs=num_envs,
        )

    yield made
    torch.set_num_threads(before)


def scores(policy: Any, env: RPPEnv) -> Any:
    """(users,) what each user is paid, greedily."""
    return play(policy, env, episodes=len(env.tasks), seed=1)


@pytest.mark.parametrize("trainer", [mappo, a2c], ids=["mappo", "a2c"])
def test_a_gaussian_actor_learns_a_prefix_of_a_sasrec(make: Any, trainer: Any) -> None:
    """Better than random prefixes for users that it was not trained on, by a paired interval."""
    env = make(num_envs=128)
    policy = trainer.train(env, trainer.Config(total_steps=10_000), progress=False)
    assert isinstance(policy.actor, GaussianActor)
    held_out = make("test", 400)
    random = np.mean(
        [scores(Random(env.action_spaces, seed=seed), held_out) for seed in range(8)], axis=0
    )
    lead = scores(policy, held_out) - random
    assert lead.mean() > 2 * lead.std() / np.sqrt(len(lead)), (lead.mean(), lead.std())


def test_files_and_evaluation_know_policies_of_vectors(make: Any, tmp_path: Any) -> None:
    env, held_out = make(), make("test")

    def trained(folder: str, **options: Any) -> Any:
        config = mappo.Config(
            total_steps=64 * 6, checkpoint_every=2, hidden=(8,), tensorboard=False, threads=1
        )
        return mappo.train(
            env, config, run_dir=tmp_path / folder, eval_env=held_out, progress=False, **options
        )

    def stop(row: Any, policy: Any) -> None:
        if row["iteration"] == 3:
            raise KeyboardInterrupt

    policy = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("parts", callbacks=[stop])
    trained("parts", resume=True)
    whole, parts = (
        read_tensors(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    again = load_policy(tmp_path / "whole" / "policy.safetensors")
    assert scores(again, held_out).tolist() == scores(policy, held_out).tolist()
    report = evaluate(again, held_out, baselines=("random",))
    every = make("test", 400)
    paid = report.scores["policy"].metric("ndcg@10").mean()
    assert paid == pytest.approx(scores(policy, every).mean())


def test_a_run_is_not_resumed_with_other_prompts(make: Any, tmp_path: Any) -> None:
    config = mappo.Config(total_steps=64, hidden=(8,), tensorboard=False)
    mappo.train(make(), config, run_dir=tmp_path, progress=False)
    with pytest.raises(InvalidOption, match="with another environment: plays was 'Codes, "):
        mappo.train(make(scale=2.0), config, run_dir=tmp_path, resume=True, progress=False)


def test_the_released_learner_needs_sentences(make: Any) -> None:
    with pytest.raises(InvalidOption, match=r"\(VectorPrompts\) have no sentences"):
        a2c.train(make(), a2c.Config(total_steps=64, released=True), progress=False)
