"""``rpp-env diagnose``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import progress, show
from rpp_agents.commands.cost import answers_of, say_cost
from rpp_agents.world import World
from rpp_env.data.folders import check_place
from rpp_env.evaluation.diagnose import check_reference_users, diagnose, fit_reference
from rpp_env.factory import as_rules, given_dataset
from rpp_env.markdown import code
from rpp_env.options import check_seed
from rpp_env.sentences.parsing.forms import measure_reading

__all__ = ["run"]


def run(
    world: World = World(),  # noqa: B008 - frozen
    split: str = "test",
    train_users: int = 2000,
    users: int = 2000,
    processes: int = 2,
    seed: int = 0,
    reading: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    replies: int = 100,
    out: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Measure what personal prompts can gain and how the agents interact.

    Asks the model for every answer once; the tables are cached. With --reading it measures the
    parser instead, and asks no model.

    Parameters
    ----------
    world
        The environment.
    split
        Users to score: test or validation.
    train_users
        Number of training users, on which prompts are chosen and the reference is fitted.
    users
        Number of users to score.
    processes
        Processes that build the tables.
    seed
        Seed of the bootstrap and of the reference's networks; with --reading, of its replies.
    reading
        Measure how many replies are read exactly, by surface form, over the dataset's titles.
    replies
        With --reading: number of replies in each form.
    out
        File for all numbers.
    """
    if out is not None:
        check_place(out)
    check_seed(seed)
    if reading:
        _measure_reading(world, replies, seed, out)
        return
    check_reference_users(train_users)
    parts = (("train", train_users), (split, users))
    asking = [world.env(part, max_users=count) for part, count in parts]
    calls = sum(len(env.tasks) for env in asking) * answers_of(asking[0])
    say_cost(asking[0], world.model, world.rewrite, calls, " for what no table of the cache holds")
    envs = []
    for part, count in parts:
        with progress(f"tabulating {part} users") as update:
            envs.append(world.tabulated(part, count, processes=processes, progress=update))
    with progress("fitting the reference", "networks") as update:
        reference = fit_reference(envs[0], seed=seed, progress=update)
    drawn = getattr(world.options, "negatives", "uniform")
    found = diagnose(*envs, reference=reference, seed=seed, split=split, negatives=drawn)
    show(found.markdown())
    if out is not None:
        found.save(out)


def _measure_reading(world: World, replies: int, seed: int, out: Path | None) -> None:
    dataset = given_dataset(world.dataset, world.options)
    shares = measure_reading(
        dataset.titles,
        candidates=world.options.num_candidates or as_rules(world.rules).num_candidates,
        replies=replies,
        seed=seed,
    )
    show(f"Titles of {code(dataset.name)}.\n\n{shares.markdown()}")
    if out is not None:
        shares.save(out)
