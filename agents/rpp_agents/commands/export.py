"""``rpp-env export``."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import tyro

from rpp_agents.commands.console import find_policy, progress, say
from rpp_agents.commands.cost import say_cost
from rpp_agents.commands.options import read
from rpp_agents.policy import load_policy
from rpp_agents.world import World, run_world
from rpp_env import RPPEnv, Step, __version__
from rpp_env.data import MADE
from rpp_env.errors import InvalidOption, MissingExtra
from rpp_env.evaluation.baselines import Policy, Random
from rpp_env.options import check_seed
from rpp_env.rules import IDS

__all__ = ["parse", "run"]


def parse(prog: str, words: Sequence[str]) -> Callable[[], None]:
    """Parse the options; a run's folder provides the world that it was trained in."""
    return read(run, prog, words, run_world(words[1:]))


def run(
    to: Annotated[Literal["minari"], tyro.conf.arg(metavar="minari")],  # noqa: ARG001 - one so far
    who: Annotated[str, tyro.conf.arg(metavar="[random|RUN_DIR|POLICY]")] = "random",
    /,
    world: World = World(),  # noqa: B008 - frozen
    name: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None,
    split: str = "train",
    episodes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    sampled: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    seed: int = 0,
    author: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
    trust: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = (),
) -> None:
    """Write episodes of the joint environment as a Minari dataset.

    One agent chooses for all, as in gymnasium.make("rpp_env:RPP-v0"). Each episode holds its seed
    and user, so that the environment that Minari recovers plays it again. Only generated datasets
    can be exported (movieworld, movieworld-hard, movieworld-drift, arrivals). Minari writes into
    $MINARI_DATASETS_PATH, or else ~/.minari/datasets.

        rpp-env export minari --name rpp/random-v0
        rpp-env export minari runs/first --name rpp/mappo-v0 --sampled

    Parameters
    ----------
    to
        Format: minari.
    who
        The player.
    world
        The environment.
    name
        Minari's id of the dataset, such as rpp/random-v0; needed.
    split
        Users who are played: train, validation or test.
    episodes
        Number of episodes, of one user after the other; by default one of each.
    sampled
        Sample a policy's actions; by default it takes the most probable ones.
    seed
        Seed of the first episode; each has the next one. Also of random choices.
    author
        Authors that the dataset names.
    trust
        Servers, paths or code that a run folder names and that you confirm, word by word.
    """
    if world.dataset.lower() not in MADE:
        raise InvalidOption(
            f"episodes on {world.dataset} cannot be exported: they are made of its users' clicks, "
            "and its terms of use may not let you pass them on. Export episodes of a generated "
            f"dataset ({', '.join(MADE)}); for data of your own, wrap gymnasium.make in "
            "minari.DataCollector"
        )
    check_seed(seed)
    minari, episode = _minari(name)
    world = world.confirmed(who, trust)
    env = world.env(split, num_envs=1)
    count = len(env.tasks) if episodes is None else episodes
    if count < 1:
        raise InvalidOption(f"episodes must be at least 1, not {episodes}")
    player, described = _player(who, env, seed)
    say_cost(env, world.model, world.rewrite, count * env.max_cycles)
    buffers, total = [], 0.0
    with progress("playing", "episodes") as update:
        for one in _episodes(player, env, count, greedy=not sampled, seed=seed):
            buffers.append(episode(**one))
            total += float(np.mean(one["rewards"]))
            update(len(buffers), count)
    how = "" if who == "random" else ", sampled" if sampled else ", greedy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about what only the author can add
        dataset = minari.create_dataset_from_buffers(
            name,
            buffers,
            env=_joint(world, split),
            algorithm_name=f"{described}{how}",
            author=set(author) or None,
            description=(
                f"{env.episode.id} on {split} users of {world.dataset} by rpp-env {__version__}: "
                f"one agent chooses for {', '.join(env.agents)}. Seeds of the episodes begin at "
                f"{seed}; mean NDCG@10 {total / count:.4f}."
            ),
            requirements=[f"rpp-env=={__version__}"],
        )
    say(
        f"{name}: {dataset.total_episodes:,} episodes, {dataset.total_steps:,} steps, mean NDCG@10 "
        f"{total / count:.3f}; minari.load_dataset({name!r})"
    )


def _minari(name: str | None) -> tuple[Any, Any]:
    """Return the library and its form of an episode, after checking the dataset's id with it."""
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_dataset import parse_dataset_id
    except ImportError as error:
        raise MissingExtra("minari", "minari") from error
    try:
        parse_dataset_id(name or "")
    except (TypeError, ValueError) as error:  # the former without a version
        raise InvalidOption(
            f"--name is Minari's id of the dataset, such as rpp/random-v0, not {name!r}"
        ) from error
    if name in minari.list_local_datasets():
        raise InvalidOption(f"Minari has a dataset {name} here: take another name or version")
    return minari, EpisodeBuffer


def _player(who: str, env: RPPEnv, seed: int) -> tuple[Policy, str]:
    """Return the player, and what the dataset calls it."""
    if who == "random":
        return Random(env.action_spaces, seed=seed), "random"
    path = Path(who)
    if not path.exists():
        raise InvalidOption(
            f"{who!r} cannot play: give random, the folder of a run or a policy's file"
        )
    file = find_policy(path)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return load_policy(file), f"{path.resolve().name} (policy {digest[:16]})"


def _episodes(
    policy: Policy, env: RPPEnv, count: int, *, greedy: bool, seed: int
) -> Iterator[dict[str, Any]]:
    """Play one user after the other, and yield the fields of Minari's `EpisodeBuffer`."""
    for i in range(count):
        options = {"users": [i % len(env.tasks)]}
        observations, infos = env.reset(seed + i, options)
        seen, told = [env.state()[0]], [infos]
        actions: list[Any] = []
        steps: list[Step] = []
        memory = None
        while not steps or not (steps[-1].terminated[0] or steps[-1].truncated[0]):
            chosen, memory = policy.act(
                observations, env.action_masks(), greedy=greedy, memory=memory
            )
            step = env.step(chosen)
            observations = step.observations
            space = env.actions.joint
            actions.append(np.asarray(chosen[0], space.dtype).reshape(space.shape))
            seen.append(env.state()[0])
            told.append(step.infos)
            steps.append(step)
        yield {
            "id": i,
            "seed": seed + i,
            "options": options,
            "observations": seen,
            "actions": actions,
            "rewards": [step.rewards.item() for step in steps],
            "terminations": [step.terminated.item() for step in steps],
            "truncations": [step.truncated.item() for step in steps],
            "infos": {key: [one[key].item() for one in told] for key in infos},
        }


def _joint(world: World, split: str) -> gymnasium.Env[Any, Any]:
    """Make the joint environment, whose spec holds what differs from the defaults of its rules."""
    plain = World.of(world.rules)
    parts = [(world, plain), (world.options, plain.options)]
    given = {
        one.name: value
        for here, there in parts
        for one in fields(here)
        if one.name != "options" and (value := getattr(here, one.name)) != getattr(there, one.name)
    }
    if world.rules in IDS:
        return gymnasium.make(f"rpp_env:{world.rules}", split=split, **given)
    return gymnasium.make("rpp_env:RPP-v0", split=split, rules=world.rules, **given)
