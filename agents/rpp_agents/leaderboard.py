"""Submissions to the leaderboard: frozen tasks, tracks, and scores that can be played again.

``leaderboard.toml`` names the tasks with their digests, and the tracks. A `Submission` is one JSON
file of texts and numbers. To verify one, its policy plays the task again; nothing that the file
says is followed: the environment is made from this package's own file.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rpp_agents.experiments.run import digests_of_users, versions
from rpp_agents.policy import load_policy
from rpp_agents.runs import CONFIG, PROGRESS, read_progress
from rpp_agents.world import World
from rpp_env import RPPEnv, evaluate
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import check_choice, check_numbers, made, read_small

__all__ = [
    "Submission",
    "Task",
    "View",
    "calls_of_run",
    "check_held_back",
    "commitment_of",
    "digest_of",
    "find_task",
    "read_config",
    "tracks",
]

_FILE = Path(__file__).with_name("leaderboard.toml")
_BATCH = 512
"""Users who play at once. The last bits of a network's numbers may depend on it."""
_FORMAT = 1
_MOST_TEXT = 4000
"""Maximum characters of a text in a submission."""


@dataclass(frozen=True)
class View:
    """Options of observations, which a policy needs as they were when it was trained."""

    observe: Literal["shared", "private"] = "shared"
    ranking: Literal["mean", "sequence"] = "mean"
    encoder: Literal["hashed", "minilm"] = "hashed"


@dataclass(frozen=True)
class Task:
    """A frozen task: users of one generated world, under the rules of an id."""

    rules: str
    dataset: str
    users: int
    """Number of users."""
    digest: str
    """`digest_of` the environment."""
    world: int | None = None
    """Seed of the world; by default the dataset's own."""
    model: str | None = None
    """Model that ranks, such as a table of the package; by default the id's own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the rules that differ from their defaults."""
    split: str = "test"

    def env(self, view: View, num_envs: int = _BATCH, *, held_back: int | None = None) -> RPPEnv:
        """Make the environment; with `held_back`, of the world of this seed.

        Raises
        ------
        InvalidData
            If it is not the frozen one: another version made it, or another kind of processor.
        """
        world = World.of(self.rules)
        seed = self.world if held_back is None else held_back
        options = replace(world.options, data_seed=seed, **self.options)
        model = self.model or world.model
        world = replace(world, dataset=self.dataset, model=model, options=options, **asdict(view))
        env = world.env(self.split, max_users=self.users, num_envs=num_envs)
        if held_back is None and (found := digest_of(env)) != self.digest:
            raise InvalidData(
                f"this version of rpp_env makes another task ({found[:12]}) of {self.rules} on "
                f"{self.dataset} than the frozen one ({self.digest[:12]}): use the version that "
                "its page names"
            )
        return env


def digest_of(env: RPPEnv) -> str:
    """Return the SHA-256 (hex) of rules, all tasks, prompts, and fixed weights or answers."""
    recommender = env.recommender
    parts = [
        env.episode.id,
        env.max_cycles,
        env.episode.every(env.tasks).digest,
        dict(env.space.about),
        getattr(recommender, "digest", None),
    ]
    if env.table is not None:
        parts.append(hashlib.sha256(env.table.orders.tobytes()).hexdigest())
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def find_task(name: str) -> Task:
    """Return a frozen task by its name; `InvalidOption` for an unknown one."""
    tasks = _table()["tasks"]
    check_choice("task", name, tasks)
    return made(Task, tasks[name], f"task {name}")


def commitment_of(world: int) -> str:
    """Return the SHA-256 (hex) of a world's seed, written as a decimal number."""
    return hashlib.sha256(str(world).encode()).hexdigest()


def check_held_back(task: str, world: int) -> None:
    """Check that a round of the task committed to the seed of a world, before it was known.

    Raises
    ------
    InvalidOption
        If none did.
    """
    rounds = [one for one in _table()["rounds"].values() if one["task"] == task]
    if (commitment := commitment_of(world)) not in {one["commitment"] for one in rounds}:
        raise InvalidOption(
            f"no round of the task {task} committed to the world {world}: the SHA-256 of this "
            f"number is {commitment}, and the rounds are in leaderboard.toml"
        )


def tracks() -> dict[str, int]:
    """Return the tracks: the most answers that a method may learn from, by name, rising."""
    return dict(_table()["tracks"])


@dataclass(frozen=True)
class Submission:
    """A policy's scores on a frozen task, and what is needed to play them again."""

    task: str
    """Name of the task."""
    digest: str
    """Digest of the task."""
    track: str
    """Name of the track."""
    calls: int
    """Answers of the recommender that the method learned from or was chosen by."""
    name: str
    """Name of the method."""
    command: str
    """The command that trained the policy, for readers; it is never run."""
    seed: int
    """Seed of the training."""
    policy: str
    """SHA-256 (hex) of the policy's file."""
    versions: Mapping[str, Any]
    """Versions of Python and of libraries."""
    score: float
    """NDCG@10, the mean over steps and users."""
    users: tuple[str, ...]
    """Digest of the user of each score."""
    scores: tuple[float, ...]
    """NDCG@10 of each user's episode, the mean over its steps."""
    observe: Literal["shared", "private"] = "shared"
    ranking: Literal["mean", "sequence"] = "mean"
    encoder: Literal["hashed", "minilm"] = "hashed"
    world: int | None = None
    """Seed of the held-back world that was played instead of the task's own."""
    format: int = _FORMAT

    def __post_init__(self) -> None:
        if self.format != _FORMAT:
            raise InvalidOption(f"format is {self.format}, and this version reads {_FORMAT}")
        check_choice("task", self.task, _table()["tasks"])
        check_choice("track", self.track, tracks())
        if not 0 <= self.calls <= tracks()[self.track]:
            raise InvalidOption(
                f"calls must lie in 0..{tracks()[self.track]} on the track {self.track}, not "
                f"{self.calls}"
            )
        check_numbers(self, 0, "seed", "world", highest=2**63)
        if self.world is not None:
            check_held_back(self.task, self.world)
        texts = (self.task, self.name, self.command, *self.versions, *self.versions.values())
        if not all(isinstance(x, str) and 0 < len(x) <= _MOST_TEXT for x in texts):
            raise InvalidOption(f"texts must have 1 to {_MOST_TEXT} characters")
        if not self.scores or len(self.users) != len(self.scores):
            raise InvalidOption(f"{len(self.users)} users have {len(self.scores)} scores")
        if not all(math.isfinite(x) and 0 <= x <= 1 for x in (self.score, *self.scores)):
            raise InvalidOption("scores must lie in 0..1")

    @classmethod
    def play(
        cls,
        task: str,
        policy: Path,
        view: View = View(),
        *,
        world: int | None = None,
        **about: Any,
    ) -> Submission:
        """Play a task with the policy of a file, and make its submission.

        Parameters
        ----------
        task : str
            Name of the task.
        policy : Path
            The policy's file.
        view : View
        world : int, optional
            Seed of a held-back world.
        **about
            `track`, `calls`, `name`, `command` and `seed`.

        Raises
        ------
        InvalidData
            For a file that holds no policy, and if the task is not the frozen one here.
        InvalidOption
            For an unknown task, a policy of other observations, and invalid values.
        """
        frozen, player = find_task(task), load_policy(policy)
        if world is not None:
            check_held_back(task, world)
        env = frozen.env(view, held_back=world)
        report = evaluate(player, env, baselines=())
        scores = report.scores["policy"].metric("ndcg@10").mean(axis=1)
        return cls(
            task=task,
            digest=digest_of(env),
            world=world,
            policy=_file_digest(policy),
            versions=versions(),
            score=float(scores.mean()),
            users=tuple(digests_of_users(env.tasks.dataset, report.users)),
            scores=tuple(scores.tolist()),
            **asdict(view),
            **about,
        )

    def verify(self, policy: Path) -> None:
        """Play the task again with the policy of a file, and compare everything.

        Raises
        ------
        InvalidData
            If the task, the policy or a score is another one, with the first difference.
        """
        frozen = find_task(self.task)
        if self.world is None and self.digest != frozen.digest:
            raise InvalidData(
                f"the submission's task {self.task!r} has the digest {self.digest[:12]!r}, and the "
                f"frozen one {frozen.digest[:12]}: it is of another version"
            )
        if (found := _file_digest(policy)) != self.policy:
            raise InvalidData(
                f"{policy} has the digest {found[:12]}, and the submission's policy "
                f"{self.policy[:12]!r}: give the file that was submitted"
            )
        names = ("track", "calls", "name", "command", "seed", "world")
        view = View(self.observe, self.ranking, self.encoder)
        again = self.play(self.task, policy, view, **{one: getattr(self, one) for one in names})
        if again.digest != self.digest:
            raise InvalidData(
                f"the submission's world {self.world} has the digest {self.digest[:12]!r}, and "
                f"here it is {again.digest[:12]}: it is of another version"
            )
        if again.users != self.users:
            raise InvalidData("the submission's users are not those of the task, in its order")
        claimed, played = np.array(self.scores), np.array(again.scores)
        if (differ := np.flatnonzero(claimed != played)).size:
            first = differ[0]
            raise InvalidData(
                f"the scores of {len(differ)} of {len(played)} users are not those that the policy "
                f"plays: user {first} has {claimed[first]!r} in the file and {played[first]!r} "
                f"here. Bits may differ on another kind of processor or with other libraries: the "
                f"file names {_named(self.versions)}, and here are {_named(again.versions)}"
            )
        if self.score != again.score:
            raise InvalidData(
                f"the submission's score is {self.score!r}, and the mean of its users' scores is "
                f"{again.score!r}"
            )

    @property
    def place(self) -> str:
        """The task, and the world where it is a held-back one."""
        return self.task if self.world is None else f"{self.task}, world {self.world}"

    def save(self, path: Path) -> None:
        """Write the JSON atomically, a line for each key."""
        rows = (f"{json.dumps(key)}: {json.dumps(x)}" for key, x in asdict(self).items())
        with whole_file(path) as file:
            file.write(("{\n" + ",\n".join(rows) + "\n}\n").encode())

    @classmethod
    def load(cls, path: Path) -> Submission:
        """Read a file that `save` wrote, which may come from an untrusted source.

        Raises
        ------
        InvalidData
            For a file that is none, is too large, or has a key or a value that is not allowed.
        """
        try:
            return made(cls, json.loads(read_small(path)), str(path))
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidData(f"{path} is not a submission: {error}") from error


def calls_of_run(folder: Path, max_cycles: int) -> int | None:
    """Count the answers that a run's folder records; None if it records none.

    They are the training steps (or the answers that a solver differentiated, if those are more),
    and the steps of the evaluations on validation users.

    Raises
    ------
    InvalidData
        For damaged files.
    """
    if not (folder / PROGRESS).is_file():
        return None
    columns, config = read_progress(folder), read_config(folder)
    none = np.zeros(1)
    looks = np.isfinite(columns.get("eval_reward", none[:0])).sum()
    differentiated = columns.get("info/gradient_calls", none)
    try:
        learned = max(int(columns["steps"].max()), int(differentiated.max()))
        return learned + int(looks) * int(config.get("eval_episodes", 0)) * max_cycles
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidData(f"{folder} records no steps: {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """Read the trainer's options in a run's folder; empty if there are none.

    Raises
    ------
    InvalidData
        For a damaged file.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        config = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidData(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise InvalidData(f"{path} is damaged: it holds {type(config).__name__}")
    return config


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _named(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
