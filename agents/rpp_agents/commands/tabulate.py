"""``rpp-env tabulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import progress, say
from rpp_agents.world import World, WorldOptions
from rpp_env.table import tabulate

__all__ = ["run"]


def run(
    out: Annotated[Path, tyro.conf.Positional],
    /,
    world: WorldOptions = World(),  # noqa: B008 - frozen
    split: str = "train",
    max_users: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    shown: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (),
    processes: int = 2,
    samples: int = 1,
) -> None:
    """Ask the model for every answer once and save them in a table.

    When stopped, the same command continues where it was.

    Parameters
    ----------
    out
        File of the table.
    world
        The environment.
    split
        Users to tabulate: train, validation or test.
    max_users
        Number of users; by default all of the split.
    shown
        Lengths of the history to ask for, by default those of the rules;
        `1 2 3 5 8 10 13 20` makes one table for both RPP-v0 and RPPBandit-v0.
    processes
        Processes that ask the model.
    samples
        Answers per prompt, for models that sample.
    """
    env = world.env(split, max_users=max_users)
    try:
        with progress(f"tabulating {split} users of {env.tasks.dataset.name}") as tell:
            table = tabulate(
                env, out, shown=shown or None, samples=samples, processes=processes, progress=tell
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; the same command goes on from what lies in {out}.parts"
        ) from None
    answers = table.named.size
    say(f"{out}: {answers:,} answers of {len(table):,} tasks, {out.stat().st_size / 1e6:,.1f} MB")
    say(f"replay it with --model table:{out}")
