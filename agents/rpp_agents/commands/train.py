"""``rpp-env train``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import say, show
from rpp_agents.commands.cost import say_cost
from rpp_agents.commands.evaluate import calls_of_scoring, check_scoring, check_search, scored
from rpp_agents.commands.options import details, read, wrapped
from rpp_agents.plots import learning_curve
from rpp_agents.runs import PROGRESS
from rpp_agents.trainers import find_trainer, trainer_names
from rpp_agents.training import RunConfig
from rpp_agents.world import World
from rpp_env import Report, RPPEnv
from rpp_env.data.folders import check_folder, write_text
from rpp_env.errors import InvalidOption

__all__ = ["baseline_scores", "parse", "run"]

FEWER = " (fewer with --evaluations 0, --eval-users and --budget)"
"""Options that save calls."""


def parse(prog: str, words: Sequence[str]) -> Callable[[], None]:
    """Parse the options; the first word is the algorithm, which has its own options."""
    if not words or words[0].startswith("-"):
        if set(words) & {"-h", "--help"}:
            say(_overview())
            raise SystemExit(0)
        raise InvalidOption(
            f"name an algorithm first ({', '.join(trainer_names())}, or "
            "package.module:train), as in `rpp-env train mappo --seed 1`"
        )
    algorithm, *others = words
    config = find_trainer(algorithm).config()
    return read(
        functools.partial(run, algorithm), f"{prog} {algorithm}", others, config=(algorithm, config)
    )


def _overview() -> str:
    """Return the help of the verb itself, with the list of algorithms."""
    lines = [f"  {name:<16}{_summary(name)}" for name in trainer_names()]
    summary, more = details(run)
    return (
        f"usage: rpp-env train ALGORITHM [options]\n\n{wrapped(summary)}\n\nalgorithms:\n"
        + "\n".join(lines)
        + f"\n\n{wrapped(more)}\n\nEach algorithm has its own options: rpp-env train mappo --help\n"
        + "Name your own by package.module:train (docs/plugins.md)."
    )


def _summary(name: str) -> str:
    """Return the first line of a trainer's module, without its name."""
    line = (sys.modules[find_trainer(name).module].__doc__ or "").partition("\n")[0]
    return line.partition(": ")[2] or line


def run(
    algorithm: str,
    /,
    *,
    world: World = World(),  # noqa: B008 - frozen
    config: RunConfig,
    run_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    seeds: tuple[int, ...] = (),
    num_envs: int = 512,
    max_users: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    eval_users: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    validation_model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None,
    final: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    train_users: int = 0,
    budget: int = 40_000,
    processes: int = 2,
) -> None:
    """Train the agents of an environment and evaluate them; resumable.

    The run folder holds the policy, a checkpoint, progress as CSV and for TensorBoard, the learning
    curve and the report. When stopped, the same command continues from the last checkpoint.

    Parameters
    ----------
    algorithm
        The algorithm.
    world
        The environment.
    config
        Options of the algorithm.
    run_dir
        Folder of the run; by default runs/ALGORITHM-DATASET-SEED.
    seeds
        Train once with each seed, in the subfolders seed-0, seed-1 ... of the run's folder.
    num_envs
        Users played at the same time.
    max_users
        Number of users to train on; by default all.
    eval_users
        Number of users to evaluate on; by default all.
    validation_model
        Model for validation and test users, if --model is a table of training users; by
        default --model. Without a table of these users, the run has no evaluations and no report.
    final
        Evaluate on the test users: once, when all choices are made; by default on the
        validation users.
    train_users
        Number of training users to tabulate (cached), for an exact best fixed prompt, the
        observable reference and the gain. With 0 the prompt is searched for, and there is no gain.
    budget
        Maximum episodes of the search for the best fixed prompt, without a table.
    processes
        Processes that build the table.
    """
    check_scoring(  # checked before training
        world, train_users=train_users, budget=budget, processes=processes, seed=config.seed
    )
    if len(set(seeds)) < len(seeds):
        raise InvalidOption(f"seeds must be different numbers, not {' '.join(map(str, seeds))}")
    for seed in seeds:
        replace(config, seed=seed)  # raises for an invalid seed
    trainer = find_trainer(algorithm)
    name = f"{algorithm}-{Path(world.dataset).name}".replace(":", "-")
    whole = run_dir or Path("runs") / (name if seeds else f"{name}-{config.seed}")
    folders = [whole / f"seed-{seed}" for seed in seeds] or [whole]
    check_folder(whole)
    reports = []
    for seed, folder in zip(seeds or (config.seed,), folders, strict=True):
        before = World.load(folder, [world.rules]) if (folder / World.FILE).is_file() else world
        if before != world:
            raise InvalidOption(
                f"{folder} holds a run in another world ({before}): choose another "
                "--run-dir, or give its options to resume it"
            )
        world.save(folder)
        env = world.env("train", num_envs=num_envs, max_users=max_users, seed=seed)
        check_search(env, train_users, budget)
        held_out = replace(world, model=validation_model or world.model)
        splits = {"evaluations": "validation", "report": "test" if final else "validation"}
        seen = env.embeddings.digest
        held_out_envs = {
            what: held_out.held_out(split, seen, num_envs=512, max_users=eval_users)
            for what, split in splits.items()
        }
        missing = {what: splits[what] for what, held in held_out_envs.items() if held is None}
        if missing:
            _say_what_is_missing(held_out.model, missing)
        calls = _calls_of_training(config, env, held_out_envs["evaluations"])
        if (judged := held_out_envs["report"]) is not None:
            calls += calls_of_scoring(judged, train_users=train_users, budget=budget)
        say_cost(env, world.model, world.rewrite, calls, FEWER)
        try:
            policy = trainer.train(
                env,
                replace(config, seed=seed),
                run_dir=folder,
                eval_env=held_out_envs["evaluations"],
                resume=True,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; the same command resumes from the last checkpoint in {folder}"
            ) from None
        if not trainer.takes("run_dir") and hasattr(policy, "save"):
            policy.save(folder / "policy.safetensors")
        say(f"\nseed {seed}: the policy is {folder / 'policy.safetensors'}")
        if judged is None:
            continue
        report = scored(
            policy,
            world,
            judged,
            name=trainer.label,
            train_users=train_users,
            budget=budget,
            processes=processes,
            seed=seed,
        )
        report.save(folder / "report.json")
        write_text(folder / "report.md", report.markdown())
        _draw([folder], folder / "learning_curve.png", trainer.label, baseline_scores(report))
        say()
        show(report.markdown())
        reports.append(report)
    if seeds:
        lines = baseline_scores(reports[0]) if reports else {}
        _draw(folders, whole / "learning_curve.png", trainer.label, lines)
        for seed, report in zip(seeds, reports, strict=False):
            say(f"seed {seed}: {report.verdict}")
    curve = whole / "learning_curve.png"
    say(f"everything is in {whole}" + (f"; the curve is {curve}" if curve.is_file() else ""))


def _calls_of_training(config: RunConfig, env: RPPEnv, evaluated: RPPEnv | None) -> int:
    """Maximum requests of a run: its steps in whole rollouts, and its evaluations."""
    rollout = getattr(config, "rollout_steps", 0) or min(env.max_cycles, 128)
    calls = config.total_steps + env.num_envs * rollout
    if evaluated is not None:
        batches = -(-getattr(config, "eval_episodes", 0) // evaluated.num_envs)
        episodes = getattr(config, "evaluations", 0) * batches * evaluated.num_envs
        calls += episodes * evaluated.max_cycles
    return calls


def _say_what_is_missing(model: str, splits: Mapping[str, str]) -> None:
    users = " and no ".join(dict.fromkeys(splits.values()))
    say(
        f"{model} holds no {users} users, so this run has no {' and no '.join(splits)}. To have "
        "them, give --validation-model, or tables by split: `rpp-env tabulate FOLDER --split train "
        "validation test`, and then --model table:FOLDER."
    )


def _draw(folders: list[Path], path: Path, label: str, lines: Mapping[str, float]) -> None:
    if all((folder / PROGRESS).is_file() for folder in folders):  # a trainer may write no progress
        learning_curve(folders, path, label=label, lines=lines)


def baseline_scores(report: Report) -> Mapping[str, float]:
    """Return the scores of the baselines for a learning curve."""
    labels = {
        "random": "random prompt",
        "fixed": "best fixed prompt",
        "reference": "observable reference",
    }
    return {
        label: report.lines[line]["ndcg@10"].value
        for line, label in labels.items()
        if line in report.lines
    }
