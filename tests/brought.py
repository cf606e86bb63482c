"""A user's module as text, which tests write into a folder, and its entry points."""

from __future__ import annotations

from pathlib import Path

PARTS = '''\
"""Learns nothing at all."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rpp_env.sim.movieworld import movieworld
from rpp_env.models.base import Reply
from rpp_env.sentences import SentenceCatalog
from rpp_env.task import Ranking

NUMBER = 5
BOOK_FILE = str(Path(__file__).with_name("mine.toml"))


@dataclass(frozen=True)
class Config:
    total_steps: int = 640
    seed: int = 0
    always: int = 0


class Always:
    """The same option for all."""

    def __init__(self, option):
        self.option = option

    def act(self, observations, masks=None, greedy=False, memory=None):
        return np.full(observations.shape[:2], self.option), memory


def train(env, config=Config(), *, callbacks=()):
    policy, steps = Always(config.always), 0
    env.reset(seed=config.seed)
    while steps < config.total_steps:
        rewards = []
        for _ in range(env.max_cycles):
            observations, _ = env.reset(options={"reset_mask": np.ones(env.num_envs, bool)})
            actions, _ = policy.act(observations)
            rewards.append(float(env.step(actions).rewards.mean()))
            steps += env.num_envs
        for callback in callbacks:
            callback({"steps": steps, "reward": np.mean(rewards)}, policy)
    return policy


class Model:
    """Repeats the candidates as they are, and counts how often it is asked."""

    asked = 0

    id = "repeats"
    context_length = 100_000
    capabilities = frozenset({"deterministic"})

    def complete(self, requests):
        from rpp_env.models import echo

        Model.asked += len(requests)
        return echo().complete(requests)


def model(dataset, interactions):
    assert dataset.num_items
    assert interactions.counts.sum() > 0
    return Model()


class Recommender:
    def rank(self, prompts):
        sizes = [len(prompt.task.candidates) for prompt in prompts]
        return [Ranking(tuple(range(size)), size) for size in sizes]


recommender = Recommender()


@dataclass(frozen=True)
class Newest:
    last: int = 1


def fit_newest(dataset, config=Newest(), *, seed=0):
    from rpp_agents.recommenders import Scorer

    class Scores(Scorer):
        def score(self, users, items):
            return np.asarray(items, np.float32) * config.last

    return Scores(dataset)


def tiny_world(num_users=100, seed=0):
    return movieworld(num_users=num_users, seed=seed)


def a_book(history):
    return SentenceCatalog.load("music", history)


def method(problem, *, seed, budget, watch, option=0):
    from rpp_agents.experiments.players import Playing

    return Playing(Always(option))
'''


def declare(folder: Path, group: str, package: str = "elsewhere", **points: str) -> None:
    """Entry points, as an installed package declares them."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    with (info / "entry_points.txt").open("a") as file:
        file.write(f"[{group}]\n" + "".join(f"{key} = {x}\n" for key, x in points.items()))
