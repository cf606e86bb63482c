"""``rpp-env study``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from rpp_agents.commands.console import columns
from rpp_agents.jobs import unfinished
from rpp_agents.study import Cell, Redrawn, Study, jobs_of, make_tables, run_cells

__all__ = ["run"]


def run(
    study: Annotated[str, tyro.conf.arg(metavar="NAME|FILE.toml"), tyro.conf.Positional],
    /,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    processes: int = 2,
    only: tuple[str, ...] = (),
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Compare ways to choose prompts, at equal calls of the model; resumes.

    A study is a file that names settings (datasets, recommenders, candidates), methods (by hand,
    search, bandits, trainers, recommenders without prompts) and seeds:

        rpp-env study smoke                      # a tiny one, in a minute or two
        rpp-env study prompts --dry-run          # what the published one runs
        rpp-env study prompts --out runs/study --only 'ml-1m/*'
        rpp-env report runs/study                # tables, plots and the page again

    Each fitted method is a cell with a file of its own. Stopped at any moment, the same command
    goes on with what is missing, and asks nothing twice. docs/study-protocol.md explains file and
    report.

    Parameters
    ----------
    study
        The name of a shipped study (smoke, prompts, llama), or the path of
        a TOML file.
    out
        Where everything goes; runs/study-NAME by default.
    processes
        Cells that are fitted side by side, each with one thread.
    only
        Run only these cells: SETTING/METHOD, or one of the two; * and ? stand for anything.
        The report is about all that is finished.
    dry_run
        List the cells and which are finished, and run nothing.
    """
    chosen = Study.load(study)
    folder = out or Path("runs") / f"study-{chosen.name}"
    jobs = jobs_of(chosen.cells(only))
    left = unfinished(jobs, folder)
    if dry_run:
        _list(jobs, left)
        return
    failed: list[str] = []
    if left:
        try:
            failed = _work(left, folder, processes, len(jobs))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; the same command goes on from what is finished in {folder}"
            ) from None
    if left or not (folder / "report.md").is_file():
        from rpp_agents.study.report import write_report

        keep_study(study, folder)
        write_report(chosen, folder)
    print(f"report: {folder / 'report.md'}")
    print(f"page: {folder / 'index.html'}")
    if failed:
        print(f"\n{len(failed)} failed; each one's error lies beside its place in {folder}:")
        print("\n".join(f"  {name}" for name in failed))
        print("The same command runs them again.")
        raise SystemExit(1)


def keep_study(which: str, folder: Path) -> None:
    """Keep the study's file with what it found, so that `rpp-env report` needs the folder alone."""
    from rpp_agents.study import PRESETS
    from rpp_env.data.folders import whole_file

    path = Path(which) if which.endswith(".toml") else PRESETS / f"{which}.toml"
    with whole_file(folder / f"{path.stem}.toml") as file:
        file.write(path.read_bytes())


def _list(jobs: Sequence[Cell | Redrawn], left: Sequence[Cell | Redrawn]) -> None:
    missing = {job.file for job in left}
    print(columns([("left" if j.file in missing else "done", j.name) for j in jobs], indent=""))
    print(f"\n{len(jobs) - len(left)} of {len(jobs)} are finished")


def _work(left: Sequence[Cell | Redrawn], folder: Path, processes: int, total: int) -> list[str]:
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
        speed_estimate_period=7 * 86_400,
        disable=not console.is_terminal,
    )

    def say(line: str) -> None:
        bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    failed = []
    with bar:
        tables: dict[str, Any] = {}

        def tell(name: str, done: int, users: int) -> None:
            if name not in tables:
                tables[name] = bar.add_task(f"table {name}", total=users)
            bar.update(tables[name], completed=done)

        began = time.perf_counter()
        cells = [job for job in left if isinstance(job, Cell)]
        made = make_tables(cells, folder, processes=processes, tell=tell)
        if made:
            say(f"{len(made)} tables made in {time.perf_counter() - began:.0f} s")
        for task in tables.values():
            bar.remove_task(task)
        task = bar.add_task("cells", total=total, completed=total - len(left))
        began, done = time.perf_counter(), total - len(left)
        for outcome in run_cells(left, folder, processes=processes):
            done += 1
            passed = time.perf_counter() - began
            ahead = passed / (done - total + len(left)) * (total - done)
            say(f"[{done}/{total}] {outcome.job.name}: {_said(outcome)}; {ahead / 60:.0f} min left")
            if outcome.found is None:
                failed.append(outcome.job.name)
            bar.update(task, completed=done)
    return failed


def _said(outcome: Any) -> str:
    if outcome.found is None:
        return f"FAILED: {outcome.error.strip().splitlines()[-1]}"
    if isinstance(outcome.job, Redrawn):
        survives, *_ = outcome.found["estimates"]["survives minus fixed"]
        return f"{survives:+.3f} of hindsight survives"
    scores = outcome.found["scores"]["score"]
    told = outcome.found["training"]
    return (
        f"NDCG@10 {sum(scores) / len(scores):.3f}, {told['calls']:,} calls, {told['seconds']:.0f} s"
    )
