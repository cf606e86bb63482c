"""``rpp-env bench``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import columns, end, say, show, work_off
from rpp_agents.experiments.bench import (
    Bench,
    Cell,
    Levels,
    jobs_of,
    make_tables,
    run_cells,
    unfinished,
)
from rpp_agents.experiments.jobs import Outcome
from rpp_env.data.folders import check_folder
from rpp_env.errors import InvalidOption

__all__ = ["run"]


def run(
    bench: Annotated[str, tyro.conf.arg(metavar="NAME|FILE.toml"), tyro.conf.Positional],
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
    from rpp_agents.experiments.bench.report import tables, write_report

    chosen = Bench.load(bench, trust)
    folder = out or Path("runs") / f"bench-{chosen.name}"
    cells = chosen.cells(only)
    jobs = jobs_of(cells)
    check_folder(folder)
    left = unfinished(jobs, folder)
    if dry_run:
        _list(cells, left)
        return
    failed: list[str] = []
    if not report and left:
        try:
            failed = work_off(
                left,
                len(jobs),
                make_tables=lambda tell: make_tables(
                    left,
                    folder,
                    processes=processes,
                    tell=lambda table, done, users: tell(table.file, done, users),
                ),
                run=lambda: run_cells(left, folder, processes=processes),
                said=_said,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; the same command goes on from what is finished in {folder}"
            ) from None
    every = chosen.cells()
    if len(unfinished(every, folder)) == len(every):
        if report:
            raise InvalidOption(f"no cell of this bench is finished in {folder}: run it first")
    else:
        report_file = write_report(chosen, folder)
        show(tables(chosen, folder))
        say(f"\nreport: {report_file}")
    end(failed, folder)


def _list(cells: Sequence[Cell], left: Sequence[Cell | Levels]) -> None:
    missing = {job.file for job in left}
    rows = [
        (
            "left" if cell.file in missing else "done",
            cell.environment.name,
            cell.algorithm.label,
            f"world {cell.world}",
            f"seed {cell.seed}",
        )
        for cell in cells
    ]
    say(columns(rows, indent=""))
    done = sum(row[0] == "done" for row in rows)
    steps = sum(cell.total_steps for cell in cells if cell.file in missing)
    say(f"\n{done} of {len(cells)} cells are finished; {steps:,} steps of training are left")


def _said(outcome: Outcome) -> str:
    assert outcome.found is not None
    if "score" in outcome.found:
        took = outcome.found["seconds"]
        return f"NDCG@10 {outcome.found['score']:.3f}, trained in {took:.0f} s"
    return ", ".join(f"{name} {score:.3f}" for name, score in outcome.found["scores"].items())
