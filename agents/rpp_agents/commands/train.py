"""``rpp-env train``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rpp_agents import ippo, mappo
from rpp_agents.commands.evaluate import scored
from rpp_agents.plots import learning_curve
from rpp_agents.world import World
from rpp_env import Report
from rpp_env.errors import InvalidOption

__all__ = ["level_lines", "run"]

MODULES = {"mappo": mappo, "ippo": ippo}


def run(
    algorithm: Annotated[Literal["mappo", "ippo"], tyro.conf.Positional],
    /,
    world: tyro.conf.OmitArgPrefixes[World] = World(),  # noqa: B008 - frozen
    config: tyro.conf.OmitArgPrefixes[mappo.Config] = mappo.Config(),  # noqa: B008 - frozen
    run_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    seeds: tuple[int, ...] = (),
    num_envs: int = 512,
    max_users: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    eval_users: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    final: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    train_users: int = 0,
    budget: int = 40_000,
    processes: int = 2,
) -> None:
    """Train the four agents, evaluate them, and keep everything in a folder.

    In the folder: policy, checkpoint, progress as CSV and for TensorBoard, learning curve, report.
    A run that was stopped goes on when the same command is given again.

    Parameters
    ----------
    algorithm
        Who learns.
    world
        Which problem.
    config
        Every number of the trainer.
    run_dir
        Where the run is kept; by default runs/ALGORITHM-DATASET-SEED.
    seeds
        Train once with each, in folders seed-0, seed-1 ... of the run's folder.
    num_envs
        Users that are played at once.
    max_users
        Train on so many users only.
    eval_users
        Evaluate on so many users only.
    final
        Evaluate on the test users: once, when everything is decided. Else on validation users.
    train_users
        Tabulate so many training users for an exact best fixed prompt, the observable reference and
        the gain (see `rpp-env evaluate`). 0: the prompt is searched for, and there is no gain.
    budget
        Without a table: episodes to play in search of the best fixed prompt.
    processes
        Processes that tabulate.
    """
    name = f"{algorithm}-{Path(world.dataset).name}"
    whole = run_dir or Path("runs") / (name if seeds else f"{name}-{config.seed}")
    folders = [whole / f"seed-{seed}" for seed in seeds] or [whole]
    reports = []
    for seed, folder in zip(seeds or (config.seed,), folders, strict=True):
        if (folder / World.FILE).is_file() and World.load(folder) != world:
            raise InvalidOption(
                f"{folder} holds a run in another world ({World.load(folder)}): choose another "
                "--run-dir, or give its options to go on with it"
            )
        world.save(folder)
        env = world.env("train", num_envs=num_envs, max_users=max_users, seed=seed)
        validation = world.env("validation", num_envs=512, max_users=eval_users)
        try:
            policy = MODULES[algorithm].train(
                env,
                replace(config, seed=seed),
                run_dir=folder,
                eval_env=validation,
                resume=True,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; the same command goes on from the last checkpoint in {folder}"
            ) from None
        print(f"\nseed {seed}: the policy is {folder / 'policy.safetensors'}; evaluating it")
        report = scored(
            policy,
            world,
            world.env("test" if final else "validation", num_envs=512, max_users=eval_users),
            name=algorithm.upper(),
            train_users=train_users,
            budget=budget,
            processes=processes,
            seed=seed,
        )
        report.save(folder / "report.json")
        (folder / "report.md").write_text(report.markdown(), encoding="utf-8")
        _draw([folder], folder / "learning_curve.png", algorithm, report)
        print("\n" + report.markdown())
        reports.append(report)
    if seeds:
        _draw(folders, whole / "learning_curve.png", algorithm, reports[0])
        for seed, report in zip(seeds, reports, strict=True):
            print(f"seed {seed}: {report.verdict}")
    print(f"everything is in {whole}; the curve is {whole / 'learning_curve.png'}")


def _draw(folders: list[Path], path: Path, algorithm: str, report: Report) -> None:
    learning_curve(folders, path, label=algorithm.upper(), lines=level_lines(report))


def level_lines(report: Report) -> Mapping[str, float]:
    """Heights for the level lines of a learning curve."""
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
