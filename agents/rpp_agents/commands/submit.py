"""``rpp-env submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import find_policy, say
from rpp_agents.leaderboard import Submission, View, calls_of_run, find_task, read_config, tracks
from rpp_agents.world import World, is_run
from rpp_env.data.folders import check_place
from rpp_env.errors import InvalidOption
from rpp_env.options import made
from rpp_env.rules import episode_of

__all__ = ["run"]


def run(
    policy: Annotated[Path, tyro.conf.arg(metavar="RUN_DIR|POLICY")],
    /,
    task: str,
    command: str,
    out: Annotated[Path, tyro.conf.arg(name="json", metavar="FILE")] = Path("submission.json"),
    track: Annotated[str | None, tyro.conf.arg(metavar="TRACK")] = None,
    calls: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    held_back: Annotated[int | None, tyro.conf.arg(name="world", metavar="SEED")] = None,
) -> None:
    """Play a frozen task with a trained policy and write its submission.

    docs/leaderboard.md lists the tasks, the tracks and the rules.

    Parameters
    ----------
    policy
        Run folder or policy file.
    task
        Name of the frozen task.
    command
        The command that trained the policy, for readers; it is never run.
    out
        File for the submission.
    track
        Call budget: 10k, 50k, 200k or 1m; by default the smallest that holds the calls.
    calls
        Answers that the method learned from or was chosen by; by default what the run recorded.
    seed
        Seed of the training; by default the run's.
    name
        Name of the method; by default the run's algorithm.
    held_back
        Play the held-back world of a round, by its published seed.
    """
    check_place(out)
    frozen, file = find_task(task), find_policy(policy)
    view, config = View(), {}
    if is_run(str(policy)):
        # Of a shared folder's world only these are used, and View admits nothing outside.
        world = World.load(policy)
        seen = {one: getattr(world, one) for one in ("observe", "ranking", "encoder")}
        view, config = made(View, seen, str(policy)), read_config(policy)
        cycles = episode_of(frozen.rules).max_cycles
        counted = calls_of_run(policy, cycles)
        calls = counted if calls is None else max(calls, counted or 0)
    if calls is None:
        raise InvalidOption(
            f"{policy} does not record how many answers it was trained on: give --calls"
        )
    seed = config.get("seed", 0) if seed is None else seed
    name = config.get("algorithm", policy.stem) if name is None else name
    about = {"calls": calls, "name": name, "command": command, "seed": seed}
    made_by = Submission.play(
        task, file, view, track=_track(track, calls), world=held_back, **about
    )
    made_by.save(out)
    say(
        f"{name} on {made_by.place}, track {made_by.track}: NDCG@10 {made_by.score:.4f} of "
        f"{len(made_by.scores):,} users, {calls:,} calls. The submission is {out}; check it with\n"
        f"  rpp-env verify {out} --policy {policy}"
    )


def _track(track: str | None, calls: int) -> str:
    """Return the given track, or the smallest that holds the calls."""
    if track is not None:
        return track
    fitting = [one for one, most in tracks().items() if calls <= most]
    if not fitting:
        most = max(tracks().values())
        raise InvalidOption(f"{calls:,} calls are more than the largest track's {most:,}")
    return fitting[0]
