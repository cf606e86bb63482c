"""A training run's folder: progress, checkpoint and policy; and the progress bar.

::

    config.json                the trainer's options, and what is played ("users")
    progress.csv               one row per iteration
    tensorboard/               the same rows for TensorBoard
    checkpoint.safetensors     weights, moments, statistics; counters and random state in the header
    policy.safetensors         the trained policy, at the end
    best.safetensors           the policy of the best evaluation so far, with ``patience``
    learning_curve.png         at the end, drawn by `rpp_agents.training`
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import Tensor

from rpp_agents.policy import Policy, read_tensors, write_tensors
from rpp_agents.rollout import BatchedEnv, Truncation, env_actions
from rpp_agents.ticking import ticking
from rpp_env.data.folders import alone, check_folder, drop_unfinished, write_text, writing
from rpp_env.episode import Episode
from rpp_env.errors import InvalidData, InvalidOption, MissingExtra, WriteFailed
from rpp_env.options import check_fields, check_numbers

__all__ = ["Run", "RunConfig", "read_progress", "read_unit"]

CHECKPOINT, POLICY = "checkpoint.safetensors", "policy.safetensors"
BEST = "best.safetensors"
PROGRESS, CONFIG, CURVE = "progress.csv", "config.json", "learning_curve.png"
FREE_TO_CHANGE = ("threads", "device", "tensorboard")
"""Options that do not change a run's result; a resumed run may change them."""
_ABOUT: dict[str, Any] = {
    "algorithm": str,
    "config": dict,
    "environment": dict,
    "rng": dict,
    "iteration": int,
    "steps": int,
    "seconds": float,
}
"""Fields of a checkpoint's header, with types; numbers are 0 or more."""


@dataclass(frozen=True)
class RunConfig:
    """Options of a run that do not depend on the algorithm."""

    total_steps: int = 500_000
    """Number of training steps, counted over all environments (a user's step is one)."""
    seed: int = 0
    """Seed of the weights, of all choices of the learner, and of the environment."""
    gamma: float | None = None
    """Discount factor, by default the id's own (0.95 where it has none); with 0 only the next
    reward counts."""
    team_reward: bool = False
    """Whether every agent gets the mean of all agents' rewards."""
    truncation: Truncation = "bootstrap"
    """What follows the last step of a truncated episode: the value of its last observation, whose
    time no step begins at (bootstrap), the value of that observation at the time before (stop, the
    default of value learners), or nothing, as after a termination (terminate)."""
    evaluations: int = 10
    """Number of evaluations on the validation environment, evenly spread, the last at the end."""
    eval_episodes: int = 512
    """Number of episodes of each evaluation, the same ones every time."""
    patience: int = 0
    """Number of evaluations in a row without a better ``eval_reward`` after which training stops;
    the policy is then that of the best evaluation, also where training ran to its end. 0: train to
    the end, and keep the last policy."""
    checkpoint_every: int = 25
    """Number of iterations between checkpoints (and seeded resets of the environment); raised to
    whole episodes if an iteration is shorter than one, because their ends would never be played."""
    threads: int = 1
    """Number of torch's threads; a fixed number gives the same result on any number of cores. 0
    leaves torch's setting."""
    device: str = "cpu"
    """Torch device of the networks; only on the CPU are runs repeated bit for bit."""
    tensorboard: bool = True
    """Whether to write TensorBoard files, if there is a folder for the run."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_numbers(self, 1, "total_steps", "checkpoint_every", "eval_episodes")
        check_numbers(self, 0, "evaluations", "patience", "threads", "seed")
        check_numbers(self, 0, "gamma", highest=1)

    def in_episode(self, episode: Any) -> Self:
        """Return the options with a number as `gamma`, by default the discount of an `Episode`."""
        if self.gamma is not None:
            return self
        known = episode if isinstance(episode, Episode) else Episode
        return dataclasses.replace(self, gamma=known.discount)

    def view(self, env: BatchedEnv) -> tuple[BatchedEnv, Callable[[Policy], Policy]]:
        """Return `env` as its learner observes it, and what makes its policy one of `env`."""
        return env, lambda policy: policy

    @property
    def discount(self) -> float:
        """The discount factor: `gamma`, or 0.95 for a learner that is made without ``train``."""
        return Episode.discount if self.gamma is None else self.gamma


class Run:
    """Writer of a run's files; with ``run_dir=None`` it only shows progress.

    Parameters
    ----------
    run_dir : path or None
    name : str
        Name of the algorithm.
    config : RunConfig
        Saved, and compared on resuming.
    env : BatchedEnv
        Only its sizes are read.
    iterations : int
        Total number of iterations.
    resume : bool
        Resume from the folder's checkpoint, if there is one.
    progress : bool
        Show a progress bar.

    Raises
    ------
    InvalidOption
        If the folder already holds a run and `resume` is False, or if that run differs in
        algorithm, options, or the shape of the environment.
    InvalidData
        If a link in the folder leads outside it; see `check_folder`.
    MissingExtra
        If TensorBoard files are wanted and tensorboard is not installed.
    """

    def __init__(
        self,
        run_dir: str | Path | None,
        name: str,
        config: RunConfig,
        env: BatchedEnv,
        iterations: int,
        *,
        resume: bool,
        progress: bool,
    ) -> None:
        self.folder = None if run_dir is None else Path(run_dir)
        self.name = name
        self.iterations = iterations
        self.iteration = 0
        self.steps = 0
        self.seconds = 0.0
        self.checkpoint: dict[str, Tensor] | None = None
        self.rng: dict[str, Any] = {}
        self.best: tuple[float, int] | None = None
        """The best evaluation's score, and the number of evaluations since; None before the first
        one, and without patience."""
        self._about: dict[str, Any] = {
            "kind": "checkpoint",
            "algorithm": name,
            "config": json.loads(json.dumps(dataclasses.asdict(config))),
            "environment": {
                "agents": list(env.agents),
                "actions": env_actions(env).description,
                "num_envs": env.num_envs,
                "observation_width": env.observation_width,
                "state_width": env.state_width,
                "max_cycles": env.max_cycles,
                "plays": "" if run_dir is None else _problem(env),
            },
        }
        defaults = {
            field.name: field.default
            for field in dataclasses.fields(config)
            if field.default is not dataclasses.MISSING
        }
        self._defaults: dict[str, Any] = json.loads(json.dumps(defaults))
        self._unit = getattr(env, "unit", None)
        self._progress = progress
        self._tensorboard = config.tensorboard
        if self.folder is None:
            if resume:
                raise InvalidOption("resume=True needs the run_dir of the run to resume")
            return
        check_folder(self.folder)
        if (self.folder / PROGRESS).exists() or (self.folder / CHECKPOINT).exists():
            if not resume:
                raise InvalidOption(
                    f"{self.folder} holds a run already: pass resume=True to resume it, or "
                    "another run_dir"
                )
            if (self.folder / CHECKPOINT).exists():
                self._read_checkpoint(self.folder / CHECKPOINT)

    def _read_checkpoint(self, path: Path) -> None:
        tensors, about = read_tensors(path)
        if about.get("kind") != "checkpoint":
            raise InvalidData(f"{path} holds a {about.get('kind')!r}, not a checkpoint")
        if isinstance(sizes := about.get("environment"), dict) and "nvec" in sizes:
            sizes["actions"] = sizes.pop("nvec")  # name in versions before `Box` actions
        for key, kind in _ABOUT.items():
            value = about.get(key)
            number = kind in (int, float)
            if not isinstance(value, kind) or (number and not 0 <= value < math.inf):
                what = "is missing" if key not in about else f"is {value!r}"
                raise InvalidData(f"{path} is not a checkpoint of this version: {key!r} {what}")
        for part in ("algorithm", "config", "environment"):
            before, now = about[part], self._about[part]
            if part == "config":
                # An option that was added since has its default in the run that is resumed.
                before = self._defaults | before
                before = {key: x for key, x in before.items() if key not in FREE_TO_CHANGE}
                now = {key: x for key, x in now.items() if key not in FREE_TO_CHANGE}
            if before != now:
                raise InvalidOption(
                    f"the run in {path.parent} cannot be resumed with another {part}: "
                    f"{_difference(before, now)}"
                )
        if (best := about.get("best")) is not None:
            fits = isinstance(best, list) and [type(x) for x in best] == [float, int]
            if not fits or not math.isfinite(best[0]) or best[1] < 0:
                raise InvalidData(f"{path} is not a checkpoint of this version: 'best' is {best!r}")
            self.best = best[0], best[1]
        self.checkpoint, self.rng = tensors, about["rng"]
        self.iteration, self.steps = about["iteration"], about["steps"]
        self.seconds = about["seconds"]

    # While it runs

    def __enter__(self) -> Self:
        self._rows: io.TextIOWrapper | None = None
        self._writer: Any = None
        self._said = "begun"
        with ExitStack() as opened:
            if self.folder is not None:
                self._open(self.folder, opened)
            self._bar, self._task = _bar(self.name, self.iterations, self.iteration, self._progress)
            if self._progress:  # rich 13 prints an empty line even for a hidden bar
                opened.enter_context(self._bar)
                opened.enter_context(ticking(lambda: f"{self.name}: {self._said}"))
            self._opened = opened.pop_all()
        self._began = time.perf_counter() - self.seconds
        self._last = self.seconds
        return self

    def _open(self, folder: Path, opened: ExitStack) -> None:
        """Prepare the folder, and lock it for this process."""
        if not opened.enter_context(alone(folder / CHECKPOINT, wait=False)):
            raise InvalidOption(
                f"another process is training in {folder}: wait for it, or give another run_dir"
            )
        for name in (CHECKPOINT, POLICY, BEST, PROGRESS, CONFIG, CURVE):
            drop_unfinished(folder / name)
        about = {"algorithm": self.name, **self._about["config"], "unit": self._unit}
        write_text(folder / CONFIG, json.dumps(about, indent=2) + "\n")
        self._forget_later_rows(folder / PROGRESS)
        with writing(folder):
            if self._tensorboard:
                opened.callback(setattr, threading, "excepthook", threading.excepthook)
                threading.excepthook = _without_traceback
                self._writer = _summary_writer(folder / "tensorboard", self.steps)
            self._rows = (folder / PROGRESS).open("a", newline="", encoding="utf-8")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._opened:
            try:
                with writing(self.folder or Path()):
                    for opened in (self._rows, self._writer):
                        if opened is not None:
                            opened.close()
            except WriteFailed:
                if error is None:  # otherwise it is probably the same error: the disk is full
                    raise
        if isinstance(error, KeyboardInterrupt) and self.folder is not None:
            error.add_note(
                f"resume=True with run_dir={str(self.folder)!r} resumes from the last checkpoint"
            )

    def record(self, row: Mapping[str, float]) -> dict[str, float]:
        """Record one iteration's numbers; return the full row, with counter and clock."""
        self.iteration += 1
        self.seconds = time.perf_counter() - self._began
        passed, self._last = self.seconds - self._last, self.seconds
        played, self.steps = int(row["steps"]) - self.steps, int(row["steps"])
        full = {
            "iteration": float(self.iteration),
            "seconds": self.seconds,
            "steps_per_second": played / max(passed, 1e-9),
            **row,
        }
        with writing(self.folder or Path()):
            self._write(full)
        self._said = (
            f"iteration {self.iteration:,} of {self.iterations:,}, "
            f"{full['steps_per_second']:,.0f} steps/s, reward {row['reward']:.3f}"
        )
        self._bar.update(
            self._task,
            advance=1,
            speed=f"{full['steps_per_second']:,.0f} steps/s",
            reward=f"reward {row['reward']:.3f}",
            search=next(
                (f"{key} {row[key]:.2f}" for key in ("entropy", "epsilon") if key in row), ""
            ),
        )
        return full

    def _write(self, row: Mapping[str, float]) -> None:
        if self._rows is not None:
            writer = csv.DictWriter(self._rows, list(row))
            if self._rows.tell() == 0:
                writer.writeheader()
            writer.writerow({key: "" if math.isnan(x) else f"{x:.9g}" for key, x in row.items()})
            self._rows.flush()
        if self._writer is not None:
            for key, value in row.items():
                if not math.isnan(value):
                    self._writer.add_scalar(key, value, self.steps)

    def save(self, tensors: Mapping[str, Tensor], rng: np.random.Generator) -> None:
        """Write the checkpoint atomically, replacing the previous one."""
        if self.folder is not None:
            if self._rows is not None:
                with writing(self.folder / PROGRESS):
                    os.fsync(self._rows.fileno())  # rows are saved before the checkpoint
            about = self._about | {
                "iteration": self.iteration,
                "steps": self.steps,
                "seconds": self.seconds,
                "rng": rng.bit_generator.state,
            }
            if self.best is not None:
                about["best"] = self.best
            write_tensors(self.folder / CHECKPOINT, tensors, about)

    def finish(self, policy: Policy) -> None:
        """Write the policy."""
        if self.folder is not None:
            policy.save(self.folder / POLICY)

    def _forget_later_rows(self, path: Path) -> None:
        """Drop the rows after the checkpoint, whose iterations will be repeated."""
        if path.exists():
            with path.open(encoding="utf-8") as file:
                kept = [line for _, line in zip(range(self.iteration + 1), file, strict=False)]
            write_text(path, "".join(kept) if self.iteration else "")


def read_progress(run_dir: str | Path) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Read the columns of a run's ``progress.csv``; empty fields are NaN."""
    path = Path(run_dir) / PROGRESS
    if not path.is_file():
        raise InvalidData(f"{run_dir} holds no {PROGRESS}: it is not the folder of a run")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = rows[0] if rows else {}
        return {key: np.array([float(row[key] or "nan") for row in rows]) for key in columns}
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InvalidData(f"{path} is damaged: {error}") from error


def read_unit(run_dir: str | Path) -> str | None:
    """Return what was played in a run, in the plural, such as "users"; None if unnamed."""
    try:
        unit = json.loads((Path(run_dir) / CONFIG).read_bytes())["unit"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a folder of an earlier version
    return unit if isinstance(unit, str) else None


def _problem(env: BatchedEnv) -> str:
    """Summarise the environment of a run; empty for other environments than RPPEnv."""
    tasks, space, episode = (getattr(env, name, None) for name in ("tasks", "space", "episode"))
    if tasks is None or space is None or episode is None:
        return ""
    book = env.book  # type: ignore[attr-defined]
    prompts = json.dumps(dict(space.about), sort_keys=True) if book is None else book.digest
    seen = env.observer.readers("user")  # type: ignore[attr-defined]
    shown = () if episode.feedback == "none" else (episode.feedback,)
    parts = repr((tasks.digest, prompts, episode.id, seen, *shown)).encode()
    return f"{episode.id}, {len(tasks)} tasks, {hashlib.sha256(parts).hexdigest()[:12]}"


def _difference(before: Any, now: Any) -> str:
    if not isinstance(before, dict):
        return f"{before!r} then, {now!r} now"
    keys = sorted({*before, *now})
    return "; ".join(
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in keys
        if before.get(key) != now.get(key)
    )


def _summary_writer(folder: Path, steps: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("tensorboard (or pass tensorboard=False)", "agents") from error
    # Events that a killed run wrote after its checkpoint are purged: they will be repeated.
    return SummaryWriter(str(folder), purge_step=steps + 1)


def _without_traceback(arguments: threading.ExceptHookArgs) -> None:
    """Hide tracebacks of TensorBoard's writer thread, which raises the error of a full disk."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)


def _bar(name: str, total: int, done: int, shown: bool) -> tuple[Any, Any]:
    try:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError as error:
        raise MissingExtra("rich", "agents") from error
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        *(TextColumn(f"{{task.fields[{field}]}}") for field in ("speed", "reward", "search")),
        TextColumn("left"),
        TimeRemainingColumn(),
        disable=not shown,
    )
    task = bar.add_task(name, total=total, completed=done, speed="", reward="", search="")
    return bar, task
