"""``rpp-env demo``: train and evaluate on the generated world, in a few minutes on a laptop."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from rpp_agents.commands.console import progress, say, show
from rpp_agents.commands.train import baseline_scores
from rpp_agents.plots import learning_curve
from rpp_agents.trainers import mappo
from rpp_agents.world import World
from rpp_env import evaluate
from rpp_env.data.folders import check_folder, check_place, write_text
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.diagnose import check_reference_users, fit_reference
from rpp_env.options import check_seed

__all__ = ["run"]

STEPS = 800_000


def run(
    dataset: str = "movieworld",
    seed: int = 0,
    out: Path = Path("runs/demo"),
    train_users: int = 1500,
    processes: int = 2,
    total_steps: int = STEPS,
) -> None:
    """Train MAPPO on movieworld and compare it with the baselines.

    Takes a few minutes on a laptop and needs no GPU, no API key and no download. The last line of
    the output is the gain: 0 is the best single prompt for everybody, and 1 is what a supervised
    reference makes of the same observations.

    Parameters
    ----------
    dataset
        Dataset: movieworld, movieworld-hard, movieworld-drift, or a real one found here.
    seed
        Training seed.
    out
        Folder for the curve, the report and the policy; replaces an earlier demo's files there.
    train_users
        Training users whose answers are tabulated, for the best fixed prompt and the observable
        reference; the table is cached.
    processes
        Processes that build the table.
    total_steps
        Training steps; one step is one user's prompt.
    """
    check_folder(out)
    check_place(out / "report.json")
    check_seed(seed)
    check_reference_users(train_users)
    began = time.perf_counter()
    # The networks are small: several threads would only wait for each other on a busy machine.
    torch.set_num_threads(1)
    world = World(dataset)
    train = world.env("train", num_envs=512, seed=seed)
    validation, test = world.env("validation", num_envs=512), world.env("test", num_envs=512)
    counts = [f"{len(env.tasks):,}" for env in (train, validation, test)]
    say(
        f"{dataset}: {counts[0]} training, {counts[1]} validation and {counts[2]} test users.\n"
        "Four agents choose one sentence each for every user. A frozen model reads the\n"
        f"prompt and ranks {test.tasks.num_candidates} candidates. The reward is the rank of the "
        "item that the user\nreally chose (NDCG@10).\n"
    )

    say(f"1. Every answer for {train_users:,} training users: the best prompt for everybody,")
    say("   and a supervised reference, which shows what the observations allow.")
    with progress("   tabulating", "users") as update:
        table = world.tabulated("train", train_users, processes=processes, progress=update)
    if table.table is None:
        raise InvalidOption(f"{dataset} has no table")
    with progress("   fitting the reference", "networks") as update:
        reference = fit_reference(table, seed=seed, progress=update)

    say(f"\n2. MAPPO trains on the {len(train.tasks):,} training users for {total_steps:,} steps.")
    folder = out / f"seed-{seed}"
    _forget(folder)
    world.save(folder)
    start = time.perf_counter()
    policy = mappo.train(
        train,
        mappo.Config(seed=seed, total_steps=total_steps, gamma=0.95, threads=1),
        run_dir=folder,
        eval_env=validation,
    )
    seconds = time.perf_counter() - start
    asked = train.calls["prompts"] + validation.calls["prompts"]
    say(f"   {asked:,} prompts answered in {seconds:.0f} s ({asked / seconds:,.0f} a second)")

    say(f"\n3. The policy on the {len(test.tasks):,} held-out test users.\n")
    report = evaluate(
        policy,
        test,
        train_env=table,
        reference=reference,
        name="MAPPO",
        seed=seed,
    )
    show(report.markdown())
    learning_curve(
        [folder],
        out / "curve.png",
        label="MAPPO",
        lines=baseline_scores(report),
        ylabel="NDCG@10, mean over the steps",
    )
    policy.save(out / "policy.safetensors")
    report.save(out / "report.json")
    write_text(out / "report.md", report.markdown())
    say(f"{out} holds curve.png, report.md, report.json, policy.safetensors and the run.")
    say(f"Next: rpp-env play {folder}")
    say(f"Time: {time.perf_counter() - began:.0f} s")
    say(f"gain={report.gain}" if report.gain is not None else report.verdict)


def _forget(folder: Path) -> None:
    """Remove an earlier demo's run, and only files that this command wrote."""
    for name in ("checkpoint.safetensors", "progress.csv", "config.json", "policy.safetensors"):
        (folder / name).unlink(missing_ok=True)
    for events in (folder / "tensorboard").glob("events.out.tfevents.*"):
        events.unlink()
