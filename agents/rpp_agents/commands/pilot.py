"""``rpp-env pilot``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import progress, say, show
from rpp_agents.commands.cost import say_cost
from rpp_agents.experiments.pilot import (
    ENOUGH,
    FEWEST,
    MERGED,
    PRIMARY,
    Pilot,
    analyse,
    ask,
    choose_cells,
    described,
    without_prompts,
)
from rpp_agents.experiments.problem import Users
from rpp_agents.world import World
from rpp_env import RPPEnv
from rpp_env.data.folders import check_folder, write_text
from rpp_env.errors import InvalidOption
from rpp_env.markdown import code, table
from rpp_env.models.base import is_language_model
from rpp_env.options import check_seed

__all__ = ["run"]

BASELINES = {"pop": "popularity", "sasrec": "SASRec"}


def run(
    world: World = World(),  # noqa: B008 - frozen
    calls: int = 2000,
    prompts: int = 10,
    worth: float = 0.03,
    sasrec: bool = True,
    seed: int = 0,
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/pilot"),
) -> None:
    """Find out with few calls whether personalising the prompt pays.

        rpp-env pilot --dataset MY --model 'http://HOST:8000/v1#NAME' --calls 2000
        rpp-env pilot --dataset MY --model smollm2 --rank-by likelihood --calls 500

    The data and the model are yours. It asks some train users each of a few prompts, chooses on
    half of the users and scores on the other half, and says: personalising pays; does not pay; or
    cannot be told with so few users, and how many it takes. Beside it stand what five fixed prompts
    merged give, SASRec, popularity and chance. Test users are not touched. Answers are kept in
    OUT/answers.sqlite: stopped, the same command continues, and more --calls ask only what is new.
    docs/pilot.md explains the method.

    Parameters
    ----------
    world
        The environment.
    calls
        Most calls of the model; calls / prompts is the number of users.
    prompts
        Number of prompts, drawn so that they cover every agent's options evenly.
    worth
        Smallest gain in NDCG@10 that is worth having: below it, personalising "does not pay".
    sasrec
        Train a SASRec on the histories, to compare with; minutes on large data.
    seed
        Seed of the prompts, the halves and the simulated pilots.
    out
        Folder for pilot.md, pilot.json and the answers.
    """
    check_seed(seed)
    check_folder(out)
    if calls < 1 or prompts < 2 or worth <= 0:
        raise InvalidOption(
            f"calls must be 1 or more, prompts 2 or more and worth above 0; got calls={calls}, "
            f"prompts={prompts}, worth={worth}"
        )
    if calls < FEWEST * prompts:
        raise InvalidOption(
            f"{prompts} prompts for {FEWEST} users or more take {FEWEST * prompts} calls; got "
            f"calls={calls}: give more calls or fewer prompts"
        )
    world.check_tables()
    env = _env(world, calls // prompts, out)
    users = Users(env, env)
    cells = choose_cells(users, prompts, seed)
    say_cost(env, world.model, None, len(users) * len(cells), " for what is not recorded yet")
    try:
        with progress(f"asking about {len(users)} train users", "calls") as update:
            answers = ask(users, cells, update)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command resumes from what is recorded") from None
    others, notes = {}, []
    for name in ("pop", "sasrec") if sasrec else ("pop",):
        if name == "sasrec":
            say("training SASRec on the histories", error=True)
        try:
            others[BASELINES[name]] = without_prompts(name, users, _say_epoch, seed)
        except InvalidOption as error:
            notes.append(f"{BASELINES[name]} is left out: {error}")
    with progress("simulating pilots", "sizes") as update:
        found = analyse(answers, others, worth=worth, seed=seed, watch=update)
    words = described(users, cells.tolist())
    means = answers.rewards.mean(axis=0).tolist()
    text = report(found, world, users, words, means, notes)
    show(text)
    write_text(out / "pilot.md", text)
    numbers = {
        "dataset": env.tasks.dataset.name,
        "model": _model_of(env) or world.model,
        "rules": world.rules,
        "users": len(users),
        "calls": users.ledger.calls,
        "tokens": users.ledger.tokens,
        "seed": seed,
        "verdict": found.verdict,
        "primary": {"contrast": " - ".join(PRIMARY), **asdict(found.contrast)},
        "worth": worth,
        "power": found.power,
        "users_needed": found.needed,
        "chance": found.chance,
        "means": {line: asdict(found.mean(line)) for line in found.scores},
        "minus_best_fixed": {
            line: asdict(found.minus(line, PRIMARY[1]))
            for line in found.scores
            if line != PRIMARY[1]
        },
        "prompts": [
            {"cell": cell, "mean": mean} for cell, mean in zip(cells.tolist(), means, strict=True)
        ],
        "notes": notes,
    }
    write_text(out / "pilot.json", json.dumps(numbers, indent=1) + "\n")
    say(f"report: {out / 'pilot.md'}; numbers: {out / 'pilot.json'}")


def _say_epoch(row: Mapping[str, float]) -> None:
    epoch, score = int(row["epoch"]), row["validation"]
    say(f"epoch {epoch}: NDCG@10 {score:.3f} among 100, {row['seconds']:.0f} s", error=True)


def _model_of(env: RPPEnv) -> str | None:
    return getattr(getattr(env.recommender, "model", None), "id", None)


def _env(world: World, users: int, out: Path) -> RPPEnv:
    """Make the environment; a language model's answers are recorded in the folder."""
    env = world.env("train", max_users=users)
    options = world.options
    asked = is_language_model(getattr(env.recommender, "model", None))
    names = {one.name for one in fields(options)}
    if asked and world.model != "embedded" and "recording" in names and options.recording is None:
        kept = replace(options, recording=out / "answers.sqlite")
        env = replace(world, options=kept).env("train", max_users=users)
    return env


def report(
    found: Pilot,
    world: World,
    users: Users,
    prompts: list[str],
    means: list[float],
    notes: list[str],
) -> str:
    """Write the report in Markdown."""
    count = len(users)
    asked = {
        "random prompt": "1",
        PRIMARY[1]: "1",
        PRIMARY[0]: "1",
        "five fixed prompts merged": str(MERGED),
        "hindsight": str(len(prompts)),
    }
    rows: list[list[str]] = [["line", "calls a user", "NDCG@10", f"minus {PRIMARY[1]}"]]
    rows.append(["chance", "0", f"{found.chance:.3f}", ""])
    for line in found.scores:
        less = "" if line == PRIMARY[1] else f"{found.minus(line, PRIMARY[1]):+.3f}"
        rows.append([line, asked.get(line, "0"), f"{found.mean(line):.3f}", less])
    listed = [["prompt", "mean NDCG@10"]]
    listed += [[one, f"{mean:.3f}"] for one, mean in zip(prompts, means, strict=True)]
    ledger = users.ledger
    return f"""# Does personalising the prompt pay?

{sentence(found, count, len(prompts))}

{code(world.model)} on {users.env.tasks.dataset.name}, {world.rules}: {count:,} train users, each
asked {len(prompts)} prompts, {ledger.calls:,} answers and {ledger.tokens:,} tokens. NDCG@10 with
95% intervals over users; what is chosen is chosen on one half of the users and scored on the other.
The primary contrast, {PRIMARY[0]} minus {PRIMARY[1]}, was named before the run.

{table(rows)}

Hindsight is each user's best prompt, known only afterwards: mostly luck, and no bound that can be
reached. SASRec and popularity read no prompt.

{table(listed)}
{"".join(f"{chr(10)}{note}{chr(10)}" for note in notes)}"""


def sentence(found: Pilot, users: int, prompts: int) -> str:
    """State the verdict in words, with its power."""
    gain = f"{found.contrast:+.3f} NDCG@10"
    share = f"{found.power:.0%}"
    if found.verdict == "pays":
        return (
            f"**It pays.** For users on whom nothing was chosen, a personal prompt earns {gain} "
            "more than the best fixed prompt."
        )
    if found.ceiling.high < found.worth:
        return (
            f"**It does not pay.** Even each user's best prompt, known only afterwards, earns only "
            f"{found.ceiling:+.3f} NDCG@10 more than the best fixed prompt, less than "
            f"{found.worth:g}."
        )
    if found.verdict == "does not pay":
        return (
            f"**It does not pay.** A personal prompt earns {gain} more than the best fixed prompt, "
            f"which is less than {found.worth:g}; a pilot like this one finds a gain of "
            f"{found.worth:g} in {share} of all cases."
        )
    more = (
        f"About {found.needed:,} users ({found.needed * prompts:,} calls) would find it in "
        f"{ENOUGH:.0%}."
        if found.needed is not None and found.needed > users
        else f"Not even {found.most:,} users would find it in {ENOUGH:.0%}."
        if found.needed is None
        else "The number of users suffices for such a gain; the interval leaves room for one."
    )
    return (
        f"**It cannot be told with {users:,} users.** A personal prompt earns {gain} more than the "
        f"best fixed prompt; a pilot like this one finds a gain of {found.worth:g} in {share} of "
        f"all cases. {more}"
    )
