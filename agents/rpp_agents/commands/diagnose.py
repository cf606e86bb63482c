"""``rpp-env diagnose``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import progress, say
from rpp_agents.world import World
from rpp_env.diagnose import diagnose

__all__ = ["run"]


def run(
    world: tyro.conf.OmitArgPrefixes[World] = World(),  # noqa: B008 - frozen
    split: str = "test",
    train_users: int = 2000,
    users: int = 2000,
    processes: int = 2,
    seed: int = 0,
    out: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Say how much a task has to gain, and how much the agents need each other.

    Every answer is asked for once; the tables stay in the cache folder.

    Parameters
    ----------
    world
        Which problem.
    split
        Whose users are scored: test or validation.
    train_users
        Training users to tabulate: what is chosen is chosen for them.
    users
        Users to score.
    processes
        Processes that compute the answers.
    seed
        Of the bootstrap and of the reference's networks.
    out
        Write all numbers here, too.
    """
    envs = []
    for part, count in (("train", train_users), (split, users)):
        with progress(f"tabulating {part} users") as tell:
            envs.append(world.tabulated(part, count, processes=processes, progress=tell))
    found = diagnose(*envs, seed=seed, split=split, negatives=world.negatives)
    say(found.markdown(), end="")
    if out is not None:
        found.save(out)
