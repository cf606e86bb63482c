"""``rpp-env tabulate``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rpp_agents.commands.console import progress, say
from rpp_agents.commands.cost import answers_of, say_cost
from rpp_agents.world import World
from rpp_env.table import tabulate

__all__ = ["run"]


Split = Literal["train", "validation", "test"]


def run(
    out: Path,
    /,
    world: World = World(),  # noqa: B008 - frozen
    split: Annotated[tuple[Split, ...], tyro.conf.arg(metavar="SPLIT ...")] = ("train",),
    max_users: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    shown: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (),
    processes: int = 2,
    samples: int = 1,
) -> None:
    """Ask the model for every answer once and save them in a table.

    When stopped, the same command continues where it was. Tables of several splits go into a
    folder: `rpp-env tabulate tables --split train validation test`, then --model table:tables.

    Parameters
    ----------
    out
        File of the table; a folder for the tables of several splits.
    world
        The environment.
    split
        Users to tabulate: train, validation or test, or several of them.
    max_users
        Number of users of each split; by default all.
    shown
        History lengths to ask for, by default those of the rules;
        `1 2 3 5 8 10 13 20` makes one table for both RPP-v0 and RPPBandit-v0.
    processes
        Processes that ask the model.
    samples
        Answers per prompt, for models that sample.
    """
    inside = len(split) > 1 or out.is_dir()
    for part in dict.fromkeys(split):
        path = out / f"{part}.rpptable" if inside else out
        env = world.env(part, max_users=max_users)
        numbers = len(set(shown)) * math.prod((env.space.shape or ())[1:])
        calls = len(env.tasks) * (numbers or answers_of(env)) * samples
        say_cost(env, world.model, world.rewrite, calls, " for what is not there yet")
        try:
            with progress(f"tabulating {part} users of {env.tasks.dataset.name}") as update:
                table = tabulate(
                    env,
                    path,
                    shown=shown or None,
                    samples=samples,
                    processes=processes,
                    progress=update,
                )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; the same command resumes from the parts in {path}.parts"
            ) from None
        size = path.stat().st_size / 1e6
        say(f"{path}: {table.named.size:,} answers of {len(table):,} tasks, {size:,.1f} MB")
    say(f"replay with --model table:{out}")
