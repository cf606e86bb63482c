"""``rpp-env bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.experiments import run_plan
from rpp_agents.experiments.bench import Bench

__all__ = ["run"]


def run(
    bench: Annotated[str, tyro.conf.arg(metavar="NAME|FILE.toml")],
    /,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    processes: int = 2,
    only: tuple[str, ...] = (),
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    report: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    trust: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = (),
) -> None:
    """Compare algorithms over seeds, worlds and tasks; resumable.

    A bench is a file that names environments, algorithms, training seeds and worlds:

        rpp-env bench smoke                    # a tiny one, in under a minute
        rpp-env bench movieworld --dry-run     # what the published one runs
        rpp-env bench movieworld --only movieworld/MAPPO 'hard*/*'
        rpp-env bench my.toml --report         # tables and plots of what there is

    Each training run is saved in a file of its own. When stopped, the same command runs what is
    missing and nothing twice. docs/benchmark.md explains the file and the report.

    Parameters
    ----------
    bench
        Name of a shipped bench (movieworld, movieworld-all, movieworld-private, smoke, tuning), or
        the path of a TOML file.
    out
        Folder for everything; by default runs/bench-NAME.
    processes
        Training runs at the same time, with one thread each.
    only
        Runs to make: ENVIRONMENT/ALGORITHM, or one of the two, with * and ? as wildcards; by
        default all. The report is always about everything that is finished.
    dry_run
        List all runs and whether they are finished, and run nothing.
    report
        Write the report of what is finished, and run nothing.
    trust
        Servers or code that the file names and that you confirm, word by word.
    """
    run_plan(
        Bench.load(bench, trust),
        bench,
        out,
        processes=processes,
        only=only,
        dry_run=dry_run,
        report=report,
    )
