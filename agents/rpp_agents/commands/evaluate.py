"""``rpp-env evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import find_policy, progress, say, show
from rpp_agents.commands.cost import answers_of, say_cost
from rpp_agents.commands.options import read_player
from rpp_agents.policy import load_policy
from rpp_agents.world import World
from rpp_env import Report, RPPEnv, evaluate
from rpp_env.data.folders import check_place
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.baselines import Policy, check_budget
from rpp_env.evaluation.diagnose import check_reference_users, fit_reference
from rpp_env.options import check_seed

__all__ = ["calls_of_scoring", "check_scoring", "check_search", "parse", "run", "scored"]


def parse(prog: str, words: Sequence[str]) -> Callable[[], None]:
    """Parse the options; a run's folder provides the world that it was trained in."""
    return read_player(run, prog, words)


def run(
    policy: Annotated[Path, tyro.conf.arg(metavar="RUN_DIR|POLICY")],
    /,
    world: World = World(),  # noqa: B008 - frozen
    split: str = "test",
    max_users: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    train_users: int = 0,
    budget: int = 40_000,
    processes: int = 2,
    seed: int = 0,
    out: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
    trust: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = (),
) -> None:
    """Compare a trained policy with the baselines on held-out users.

    Given a run folder, the policy is evaluated in the environment that it was trained in.

    Parameters
    ----------
    policy
        Run folder or policy file.
    world
        The environment.
    split
        Users to evaluate on: test or validation.
    max_users
        Number of users; by default all of the split.
    train_users
        Number of training users to tabulate (cached), for an exact best fixed prompt, the
        observable reference and the gain. With 0 the prompt is searched for, and there is no gain.
    budget
        Maximum episodes of the search for the best fixed prompt, without a table.
    processes
        Processes that build the table.
    seed
        Seed of the random baseline, of the search and of the bootstrap.
    out
        File for all numbers.
    trust
        Servers, paths or code that a run folder names and that you confirm, word by word.
    """
    world = world.confirmed(str(policy), trust)
    if out is not None:
        check_place(out)
    check_scoring(world, train_users=train_users, budget=budget, processes=processes, seed=seed)
    player = load_policy(find_policy(policy))
    env = world.env(split, max_users=max_users, num_envs=512)
    check_search(env, train_users, budget)
    calls = calls_of_scoring(env, train_users=train_users, budget=budget)
    say_cost(env, world.model, world.rewrite, calls)
    report = scored(
        player,
        world,
        env,
        name=policy.name if policy.is_dir() else policy.stem,
        train_users=train_users,
        budget=budget,
        processes=processes,
        seed=seed,
    )
    show(report.markdown())
    if out is not None:
        report.save(out)


def check_scoring(
    world: World, *, train_users: int, budget: int, processes: int, seed: int
) -> None:
    """Check the options of `scored`, before time is spent on other work."""
    if train_users:
        world.check_tables()
        check_reference_users(train_users)
    for name, number in (("budget", budget), ("processes", processes)):
        if number < 1:
            raise InvalidOption(f"{name} must be at least 1, not {number}")
    check_seed(seed)


def check_search(env: RPPEnv, train_users: int, budget: int) -> None:
    """Check that a table is finite, and that the budget allows one try of each prompt."""
    if env.space.shape is not None:
        if not train_users:
            check_budget(env, budget)
    elif train_users:
        raise InvalidOption(
            f"--train-users {train_users} tabulates every prompt, and there are infinitely many "
            f"here, as the agents of {env.episode.id} choose vectors: leave it out, or give them "
            "options to choose among (under PPR-v0, --codebook 16)"
        )


def calls_of_scoring(env: RPPEnv, *, train_users: int, budget: int) -> int:
    """Maximum requests of `scored` to the model."""
    lines = 4 if train_users else 3  # the policy and the baselines, each for every user
    search = train_users * answers_of(env) if train_users else budget * env.max_cycles
    if env.space.shape is None:
        search = 0
    return lines * len(env.tasks) * env.max_cycles + search


def scored(
    policy: Policy,
    world: World,
    env: RPPEnv,
    *,
    name: str,
    train_users: int,
    budget: int,
    processes: int,
    seed: int,
) -> Report:
    """Call `rpp_env.evaluate` on `env`, with the training users of `world` for the baselines.

    Without training users (a table of others), or with infinitely many prompts, there is no best
    fixed prompt; a message states this.
    """
    train: RPPEnv | None
    if env.space.shape is None:
        train, reference = None, None
        say(
            f"the agents of {env.episode.id} choose vectors here, of which there are infinitely "
            "many: there is no best fixed prompt to compare with"
        )
    elif train_users:
        with progress("tabulating train users") as update:
            train = world.tabulated("train", train_users, processes=processes, progress=update)
        with progress("fitting the reference", "networks") as update:
            reference = fit_reference(train, seed=seed, progress=update)
    else:
        train, reference = world.held_out("train", env.embeddings.digest, num_envs=512), None
        if train is None:
            say(
                f"{world.model} holds no training users: the best fixed prompt, which is chosen on "
                "them, is left out. A folder of tables by split has both."
            )
    actor = getattr(policy, "actor", getattr(policy, "network", None))
    seen = getattr(actor, "description", {}).get("width", env.observation_width)
    if seen != env.observation_width:
        raise InvalidOption(
            f"the policy was trained on observations of {seen} numbers, but this world has "
            f"{env.observation_width}: give the options of the world that it was trained in"
        )
    with progress("playing") as update:
        lines: list[str] = []

        def update_line(line: str, done: int, total: int) -> None:
            if line not in lines:
                lines.append(line)
            update((len(lines) - 1) * total + done, (4 if reference else 3) * total)

        return evaluate(
            policy,
            env,
            baselines=("random", "fixed") if train else ("random",),
            train_env=train,
            reference=reference,
            name=name,
            seed=seed,
            budget=budget,
            progress=update_line,
        )
