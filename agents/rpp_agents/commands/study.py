"""``rpp-env study``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from rpp_agents.commands.console import columns, end, say, work_off
from rpp_agents.commands.cost import answers_of, is_asked, say_cost
from rpp_agents.experiments import Cell, Redrawn, Study, jobs_of, make_tables, run_cells
from rpp_agents.experiments.jobs import Outcome, unfinished
from rpp_agents.experiments.run import live_of, tables_of
from rpp_env import RPPEnv
from rpp_env.data.files import find_dataset
from rpp_env.data.folders import check_folder
from rpp_env.errors import UnknownDataset
from rpp_env.plugins import entry_points, is_code
from rpp_env.sim.movieworld import LEVELS

__all__ = ["run"]


def run(
    study: Annotated[str, tyro.conf.arg(metavar="NAME|FILE.toml"), tyro.conf.Positional],
    /,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    processes: int = 2,
    only: tuple[str, ...] = (),
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    trust: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = (),
) -> None:
    """Compare ways of choosing prompts by their model calls; resumable.

    A study is a file that names settings (datasets, recommenders, candidates), methods (by hand,
    search, bandits, trainers, recommenders without prompts) and seeds:

        rpp-env study smoke                      # a tiny one, in a minute or two
        rpp-env study prompts --dry-run          # what the published one runs
        rpp-env study prompts --out runs/study --only 'ml-1m/*'
        rpp-env report runs/study                # tables, plots and the page again

    Each fitted method is saved in a file of its own. Settings whose data is not found are named and
    left out. When stopped, the same command runs what is missing. docs/study-protocol.md explains
    the file and the report.

    Parameters
    ----------
    study
        Name of a shipped study (llama, prompts, smoke, tuning), or the path of a TOML file.
    out
        Folder for everything; by default runs/study-NAME.
    processes
        Methods fitted at the same time, with one thread each.
    only
        Runs to make: SETTING/METHOD, or one of the two, with * and ? as wildcards; by default all.
        The report is always about everything that is finished.
    dry_run
        List all runs and whether they are finished, and run nothing.
    trust
        Servers or code that the file names and that you confirm, word by word.
    """
    chosen = Study.load(study, trust)
    folder = out or Path("runs") / f"study-{chosen.name}"
    jobs = jobs_of(chosen.cells(only))
    check_folder(folder)
    left = unfinished(jobs, folder)
    if dry_run:
        _list(jobs, left)
        return
    absent = _absent(left)
    jobs, left = ([j for j in many if j.setting.name not in absent] for many in (jobs, left))
    for name, why in absent.items():
        say(f"left out: {name}: {why}", error=True)
    if not jobs:
        raise UnknownDataset("none of these settings' data is here")
    failed: list[str] = []
    if left:
        _say_costs(left, folder)
        try:
            failed = work_off(
                left,
                len(jobs),
                make_tables=lambda tell: make_tables(
                    [job for job in left if isinstance(job, Cell)],
                    folder,
                    processes=processes,
                    tell=tell,
                ),
                run=lambda: run_cells(left, folder, processes=processes),
                said=_said,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; the same command goes on from what is finished in {folder}"
            ) from None
    if keep_study(study, folder) or left or _is_old(folder / "report.md", jobs, folder):
        from rpp_agents.experiments.report import write_report

        write_report(chosen, folder)
    say(f"report: {folder / 'report.md'}")
    say(f"page: {folder / 'index.html'}")
    end(failed, folder)
    if absent:
        raise SystemExit(1)


def keep_study(which: str, folder: Path) -> bool:
    """Keep the study's file with what it found, so that `rpp-env report` needs the folder alone.

    False where it is there already.
    """
    from rpp_agents.experiments import PRESETS
    from rpp_env.data.folders import whole_file

    path = Path(which) if which.endswith(".toml") else PRESETS / f"{which}.toml"
    told, kept = path.read_bytes(), folder / f"{path.stem}.toml"
    if kept.is_file() and kept.read_bytes() == told:
        return False
    with whole_file(kept) as file:
        file.write(told)
    return True


def _is_old(report: Path, jobs: Sequence[Cell | Redrawn], folder: Path) -> bool:
    """Whether something was found after the report was written, as by a command that was killed."""
    if not report.is_file():
        return True
    written = report.stat().st_mtime_ns
    files = [folder / job.file for job in jobs]
    return any(file.is_file() and file.stat().st_mtime_ns > written for file in files)


def _absent(jobs: Sequence[Cell | Redrawn]) -> dict[str, str]:
    """Settings whose data is not here, and what to do about it."""
    why: dict[tuple[str, Any], str] = {}
    found: dict[str, str] = {}
    for setting in {job.setting.name: job.setting for job in jobs}.values():
        place = setting.dataset, setting.options.get("root")
        made = setting.dataset.lower() in LEVELS or is_code(setting.dataset)
        if place not in why and not made and setting.dataset not in entry_points("dataset"):
            try:
                find_dataset(*place)
                why[place] = ""
            except UnknownDataset as error:
                why[place] = str(error)
        if why.get(place):
            found[setting.name] = why[place]
    return found


def _list(jobs: Sequence[Cell | Redrawn], left: Sequence[Cell | Redrawn]) -> None:
    missing = {job.file for job in left}
    say(columns([("left" if j.file in missing else "done", j.name) for j in jobs], indent=""))
    say(f"\n{len(jobs) - len(left)} of {len(jobs)} are finished")


def _said(outcome: Outcome) -> str:
    assert outcome.found is not None
    if isinstance(outcome.job, Redrawn):
        survives, *_ = outcome.found["estimates"]["survives minus fixed"]
        return f"{survives:+.3f} of hindsight survives"
    scores = outcome.found["scores"]["score"]
    told = outcome.found["training"]
    return (
        f"NDCG@10 {sum(scores) / len(scores):.3f}, {told['calls']:,} calls, {told['seconds']:.0f} s"
    )


_CALLS = 5
"""Most calls about one user at a time: of an episode, or merged to one order."""
_WATCHED = 500
"""Users of each split that a point of a learning curve plays, at most."""
_BEYOND_TABLES = frozenset({"merged_fixed", "merged_best", "merged_random", "grips", "llmrank"})
"""Methods that ask what no table holds: other orders, other sentences."""


def _say_costs(jobs: Sequence[Cell | Redrawn], out: Path) -> None:
    """Print how often each model that is asked is asked, at most."""
    cells = [job for job in jobs if isinstance(job, Cell)]
    found: dict[str, list[int]] = {}
    envs: dict[str, RPPEnv] = {}
    for setting, draw, split, users in tables_of(cells):
        if is_asked(setting.model):
            env = live_of(setting, draw, split, users, out)
            envs[setting.model] = env
            calls = found.setdefault(setting.model, [0, 0])
            if not (out / setting.table(draw, split, users)).exists():
                calls[0] += len(env.tasks) * answers_of(env)
    for job in jobs:
        if job.setting.model in envs:
            calls = found[job.setting.model]
            calls[1] += _calls_of(job, answers_of(envs[job.setting.model]))
    for model, (tables, methods) in found.items():
        note = f" (tables {tables:,}, methods {methods:,}), less what a recording keeps"
        say_cost(envs[model], model, None, tables + methods, note)


def _calls_of(job: Cell | Redrawn, answers: int) -> int:
    """Most questions of one job to the model itself."""
    setting = job.setting
    if isinstance(job, Redrawn):
        return min(job.MOST, setting.test_users) * job.DRAWS * answers
    rewritten = job.method.config.get("rewrite") is not None
    if job.method.method == "recommender":
        return 0
    beyond = rewritten or job.method.method in _BEYOND_TABLES or is_code(job.method.method)
    if setting.tables and not beyond:
        return 0
    played = sum(min(_WATCHED, users) for users in (setting.validation_users, setting.test_users))
    played += min(_WATCHED, setting.train_users) * beyond
    on_the_way = job.study.points * played * _CALLS
    return job.budget * beyond + on_the_way + setting.test_users * _CALLS
