"""``rpp-env tabulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import progress, say
from rpp_agents.world import World
from rpp_env.table import tabulate

__all__ = ["run"]


def run(
    out: Annotated[Path, tyro.conf.Positional],
    /,
    world: tyro.conf.OmitArgPrefixes[World] = World(),  # noqa: B008 - frozen
    split: str = "train",
    max_users: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    shown: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (),
    processes: int = 2,
    samples: int = 1,
) -> None:
    """Ask for every answer once, and write the table that replays them.

    Stopped, it goes on where it was when the same command is given again.

    Parameters
    ----------
    out
        The table's file.
    world
        Which problem.
    split
        Whose users: train, validation or test.
    max_users
        Only so many of them; all by default.
    shown
        Numbers of history items to ask for, so that one table serves several rules; the rules' own
        by default. `1 2 3 5 8 10 13 20` serves RPP-v0 and RPPBandit-v0.
    processes
        Processes that compute the answers.
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
