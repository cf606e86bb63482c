"""Shared parts of ``rpp-env bench``, ``study`` and ``report``: running a plan, and its report."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rpp_agents.commands.console import columns, described, say, show, wrap
from rpp_agents.commands.cost import answers_of, is_asked, say_cost
from rpp_agents.experiments.bench import Bench, Training
from rpp_agents.experiments.files import has_table
from rpp_agents.experiments.jobs import Outcome, unfinished
from rpp_agents.experiments.plan import PRESETS, Job, Plan, Redrawn, Run, Study
from rpp_agents.experiments.run import live_of, make_tables, run_all, tables_of
from rpp_agents.ticking import ticking
from rpp_env import RPPEnv
from rpp_env.data.files import find_dataset
from rpp_env.data.folders import check_folder, whole_file
from rpp_env.errors import InvalidOption, UnknownDataset
from rpp_env.plugins import entry_points, is_code
from rpp_env.sentences.space import SentencePrompts
from rpp_env.sim.movieworld import LEVELS
from rpp_env.text import printable

__all__ = ["plan_in", "run_plan"]


def run_plan(
    plan: Plan,
    which: str,
    out: Path | None,
    *,
    processes: int,
    only: Sequence[str],
    dry_run: bool,
    report: bool = False,
) -> None:
    """Run the unfinished runs of a plan, and report the finished ones.

    Parameters
    ----------
    plan : Plan
    which : str
        The plan's file, or the name of a shipped one.
    out : Path, optional
        Folder of all results; by default in ``runs``.
    processes, only, dry_run, report
        Options of the commands.
    """
    folder = out or Path("runs") / f"{plan.FORM}-{plan.name}"
    jobs = plan.jobs(plan.runs(only))
    check_folder(folder)
    left = unfinished(jobs, folder)
    if dry_run:
        _list(jobs, left)
        return
    absent = {} if report else _absent(left)
    jobs, left = ([j for j in many if j.setting.name not in absent] for many in (jobs, left))
    for name, why in absent.items():
        say(f"left out: {name}: {why}", error=True)
    if not jobs:
        raise UnknownDataset("none of these settings' data is here")
    failed: list[str] = []
    if left and not report:
        _say_costs(left, folder)
        try:
            failed = _work_off(left, len(jobs), folder, processes)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; the same command resumes from the finished runs in {folder}"
            ) from None
    _report(plan, which, folder, jobs, forced=report, new=bool(left))
    _end(failed, folder)
    if absent:
        raise SystemExit(1)


def _report(
    plan: Plan, which: str, folder: Path, jobs: Sequence[Job], *, forced: bool, new: bool
) -> None:
    """Write the report of the finished runs, if it is out of date, and print where it is."""
    from rpp_agents.experiments.report import summary, write_report

    if not any((folder / run.file).exists() for run in plan.runs()):
        if forced:
            raise InvalidOption(f"no run of this {plan.FORM} is finished in {folder}: run it first")
        return
    changed = _keep_file(plan, which, folder)
    if changed or forced or new or _is_old(folder / "report.md", jobs, folder):
        write_report(plan, folder)
    if text := summary(plan, folder):
        show(text)
        say()
    say(f"report: {folder / 'report.md'}")
    if (folder / "index.html").is_file():
        say(f"page: {folder / 'index.html'}")


def _work_off(left: Sequence[Job], total: int, folder: Path, processes: int) -> list[str]:
    """Make tables, run what is left of `total` jobs, and return the names of failed ones."""
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
        # The remaining time is estimated from the speed so far: a run takes minutes.
        speed_estimate_period=7 * 86_400,
        disable=not console.is_terminal,
    )

    def above(line: str) -> None:
        text = wrap(printable(line)) if console.is_terminal else printable(line)
        bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    failed = []
    state = "begun"
    with bar, ticking(lambda: state):
        tables: dict[str, Any] = {}

        def tell(name: str, done: int, users: int) -> None:
            nonlocal state
            state = f"table {name}: {done:,} of {users:,} users"
            if name not in tables:
                tables[name] = bar.add_task(described(f"table {name}"), total=users)
            bar.update(tables[name], completed=done)

        began = time.perf_counter()
        if made := make_tables(left, folder, processes=processes, tell=tell):
            above(f"{len(made)} tables made in {time.perf_counter() - began:.0f} s")
        for task in tables.values():
            bar.remove_task(task)
        task = bar.add_task("runs", total=total, completed=total - len(left))
        began, done = time.perf_counter(), total - len(left)
        state = f"{done} of {total} are finished"
        for outcome in run_all(left, folder, processes=processes):
            done += 1
            passed = time.perf_counter() - began
            ahead = passed / (done - total + len(left)) * (total - done)
            if outcome.refusal:
                told = f"refused: {outcome.refusal}"
            elif outcome.found is None:
                failed.append(outcome.job.name)
                told = f"FAILED: {outcome.error.strip().splitlines()[-1]}"
            else:
                told = _said(outcome)
            above(f"[{done}/{total}] {outcome.job.name}: {told}; about {_time(ahead)} left")
            bar.update(task, completed=done)
            state = f"{done} of {total} are finished"
    sys.stderr.flush()
    return failed


def _end(failed: Sequence[str], folder: Path) -> None:
    """Print what failed, and exit with 1 if anything did."""
    if failed:
        say(f"\n{len(failed)} failed; each one's error is in a .failed.txt file in {folder}:")
        say("\n".join(f"  {name}" for name in failed))
        say("The same command runs them again.")
        raise SystemExit(1)


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def plan_in(folder: Path, trust: Sequence[str]) -> Plan:
    """Load the plan from a folder of results.

    Raises
    ------
    InvalidOption
        If there is none, or more than one.
    """
    told = sorted(folder.glob("*.toml"))
    if len(told) != 1:
        raise InvalidOption(
            f"{folder} holds {len(told)} TOML files, but a folder of results has one, next to its "
            "runs: give a folder that `rpp-env study` or `rpp-env bench` wrote. The folder of a "
            "bench that was run before it kept its file is reported by `rpp-env bench NAME|FILE "
            "--out FOLDER --report`"
        )
    form: type[Plan] = Bench if has_table(told[0], "algorithms") else Study
    return form.load(told[0], trust)


def _keep_file(plan: Plan, which: str, folder: Path) -> bool:
    """Save the plan's file with its results, so that `rpp-env report` needs only the folder.

    Returns False if it is there already.
    """
    shipped = PRESETS / plan.FORM / f"{which}.toml"
    told, kept = (Path(which) if which.endswith(".toml") else shipped).read_bytes(), None
    path = folder / f"{plan.name}.toml"
    if path.is_file():
        kept = path.read_bytes()
    if kept == told:
        return False
    with whole_file(path) as file:
        file.write(told)
    return True


def _is_old(report: Path, jobs: Sequence[Job], folder: Path) -> bool:
    """Whether results are newer than the report, for example after a command was killed."""
    if not report.is_file():
        return True
    written = report.stat().st_mtime_ns
    files = [folder / job.file for job in jobs]
    return any(file.is_file() and file.stat().st_mtime_ns > written for file in files)


def _absent(jobs: Sequence[Job]) -> dict[str, str]:
    """Return the settings without data, and how to get it."""
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


def _list(jobs: Sequence[Job], left: Sequence[Job]) -> None:
    missing = {job.file for job in left}
    say(columns([("left" if j.file in missing else "done", j.name) for j in jobs], indent=""))
    say(f"\n{len(jobs) - len(left)} of {len(jobs)} are finished")


def _said(outcome: Outcome) -> str:
    """Summarise a result for the terminal."""
    job, found = outcome.job, outcome.found
    assert found is not None
    if isinstance(job, Redrawn):
        survives, *_ = found["estimates"]["survives minus fixed"]
        return f"{survives:+.3f} of hindsight survives"
    if isinstance(job, Training):
        return f"NDCG@10 {found['score']:.3f}, trained in {found['seconds']:.0f} s"
    if isinstance(job, Run):
        scores, told = found["scores"]["score"], found["training"]
        mean = sum(scores) / len(scores)
        return f"NDCG@10 {mean:.3f}, {told['calls']:,} calls, {told['seconds']:.0f} s"
    return ", ".join(f"{name} {score:.3f}" for name, score in found["scores"].items())


_CALLS = 5
"""Maximum calls per user at a time: merged to one order, if an episode has no more steps."""
_WATCHED = 500
"""Maximum users of each split at a point of a learning curve."""
_BEYOND_TABLES = frozenset(
    "merged_fixed merged_best merged_random grips gepa capo evoprompt opro llmrank".split()
)
"""Methods whose prompts are in no table: other orders, other sentences."""


def _say_costs(jobs: Sequence[Job], out: Path) -> None:
    """Print the maximum number of calls of each model."""
    found: dict[str, list[int]] = {}
    envs: dict[str, RPPEnv] = {}
    for table in tables_of(jobs):
        model = table.setting.model
        if model and is_asked(model):
            env = live_of(table, out)
            if not isinstance(env.space, SentencePrompts):  # what it costs is not known
                continue
            envs[model] = env
            calls = found.setdefault(model, [0, 0])
            if not (out / table.file).exists():
                calls[0] += len(env.tasks) * answers_of(env)
    for job in jobs:
        if job.setting.model in envs:
            found[job.setting.model][1] += _calls_of(job, answers_of(envs[job.setting.model]))
    for model, (tables, methods) in found.items():
        note = f" (tables {tables:,}, methods {methods:,}), less what a recording keeps"
        say_cost(envs[model], model, None, tables + methods, note)


def _calls_of(job: Job, answers: int) -> int:
    """Maximum requests of one job of a study to the model itself."""
    setting = job.setting
    if isinstance(job, Redrawn):
        return job.users * job.DRAWS * answers
    rewritten = job.method.config.get("rewrite") is not None
    if job.method.method == "recommender":
        return 0
    beyond = rewritten or job.method.method in _BEYOND_TABLES or is_code(job.method.method)
    if setting.tables and not beyond:
        return 0
    most = max(_CALLS, setting.steps)
    played = sum(min(_WATCHED, users) for users in (setting.validation_users, setting.test_users))
    played += min(_WATCHED, setting.train_users) * beyond
    on_the_way = job.plan.points * played * most
    spent = job.budget * beyond
    return int(spent + on_the_way + setting.test_users * most)
