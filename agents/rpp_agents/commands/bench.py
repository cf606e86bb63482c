"""``rpp-env bench``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.bench import Bench, Cell, Levels, jobs_of, make_tables, run_cells, unfinished
from rpp_agents.bench.plan import Table
from rpp_agents.commands.console import columns
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
) -> None:
    """Compare algorithms over seeds and tasks, with intervals; resumes.

    A bench is a file that names environments, algorithms, training seeds and worlds:

        rpp-env bench smoke                      # a tiny one, in under a minute
        rpp-env bench movieworld --dry-run       # what the published one runs
        rpp-env bench movieworld --out runs/movieworld --only movieworld/MAPPO 'hard*/*'
        rpp-env bench my.toml --report           # tables and plots of what is finished

    Each training run is a cell with a file of its own. Stopped at any moment, the same command goes
    on with what is missing, and runs nothing twice. docs/benchmark.md explains file and report.

    Parameters
    ----------
    bench
        The name of a shipped bench (movieworld, smoke, tuning), or the path of a TOML file.
    out
        Where everything goes; runs/bench-NAME by default.
    processes
        Runs that are trained side by side, each with one thread.
    only
        Run only these cells: ENVIRONMENT/ALGORITHM, or one of the two; * and ? stand for anything.
        The report is about all that is finished.
    dry_run
        List the cells and which are finished, and run nothing.
    report
        Run nothing; write the report of what is finished.
    """
    from rpp_agents.bench.report import write_report

    chosen = Bench.load(bench)
    folder = out or Path("runs") / f"bench-{chosen.name}"
    cells = chosen.cells(only)
    jobs = jobs_of(cells)
    left = unfinished(jobs, folder)
    if dry_run:
        _list(cells, left)
        return
    failed: list[str] = []
    if not report and left:
        try:
            failed = _work(left, folder, processes, len(jobs))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; the same command goes on from what is finished in {folder}"
            ) from None
    every = chosen.cells()
    if len(unfinished(every, folder)) == len(every):
        if report:
            raise InvalidOption(f"no cell of this bench is finished in {folder}: run it first")
    else:
        print(f"report: {write_report(chosen, folder)}")
    if failed:
        print(f"\n{len(failed)} failed; each one's error lies beside its place in {folder}:")
        print("\n".join(f"  {name}" for name in failed))
        print("The same command runs them again.")
        raise SystemExit(1)


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
    print(columns(rows, indent=""))
    done = sum(row[0] == "done" for row in rows)
    steps = sum(cell.total_steps for cell in cells if cell.file in missing)
    print(f"\n{done} of {len(cells)} cells are finished; {steps:,} steps of training are left")


def _work(left: Sequence[Cell | Levels], folder: Path, processes: int, total: int) -> list[str]:
    """Tables, then cells; the names of those that failed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Remaining(),
        console=console,
        # The time left is guessed from the whole bench's speed: a cell takes minutes.
        speed_estimate_period=7 * 86_400,
        disable=not console.is_terminal,
    )

    def say(line: str) -> None:
        bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    failed = []
    with bar:
        tables: dict[str, object] = {}

        def tell(table: Table, done: int, users: int) -> None:
            if table.file not in tables:
                tables[table.file] = bar.add_task(f"table {table.file}", total=users)
            bar.update(tables[table.file], completed=done)  # type: ignore[arg-type]

        began = time.perf_counter()
        made = make_tables(left, folder, processes=processes, tell=tell)
        if made:
            say(f"{len(made)} tables made in {time.perf_counter() - began:.0f} s")
        for task in tables.values():
            bar.remove_task(task)  # type: ignore[arg-type]
        task = bar.add_task("cells", total=total, completed=total - len(left))
        began, done = time.perf_counter(), total - len(left)
        for outcome in run_cells(left, folder, processes=processes):
            done += 1
            passed = time.perf_counter() - began
            ahead = passed / (done - total + len(left)) * (total - done)
            if outcome.found is None:
                failed.append(outcome.job.name)
                said = f"FAILED: {outcome.error.strip().splitlines()[-1]}"
            elif "score" in outcome.found:
                took = outcome.found["seconds"]
                said = f"NDCG@10 {outcome.found['score']:.3f}, trained in {took:.0f} s"
            else:
                scores = outcome.found["scores"].items()
                said = ", ".join(f"{name} {score:.3f}" for name, score in scores)
            say(f"[{done}/{total}] {outcome.job.name}: {said}; about {_time(ahead)} left")
            bar.update(task, completed=done)
    sys.stderr.flush()
    return failed


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
