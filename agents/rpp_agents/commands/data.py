"""``rpp-env data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from rpp_agents.commands.console import asking, columns, say, size
from rpp_env.data import KNOWN, MADE
from rpp_env.data.download import SOURCES, get
from rpp_env.data.files import find_dataset
from rpp_env.errors import InvalidOption, UnknownDataset

__all__ = ["datasets", "run"]


def run(
    action: Literal["list", "get"],
    name: Annotated[str | None, tyro.conf.arg(metavar="[NAME]")] = None,
    /,
    root: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    yes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """List the datasets found here, or download one.

    Parameters
    ----------
    action
        list, or get to download a dataset.
    name
        Dataset to download: ml-1m or ml-latest-small.
    root
        Folder that holds the datasets; by default $RPP_ENV_DATA, or else the cache.
    yes
        Accept the terms of use without a question.
    """
    if action == "list":
        if name is not None:
            raise InvalidOption(f"list takes no name: rpp-env data get {name}")
        say(columns(datasets(root), indent=""))
        return
    if name is None:
        raise InvalidOption(f"which one? rpp-env data get {' | '.join(SOURCES)}")

    folder = get(name, root, accept=asking(yes))
    say(f"{name} is in {folder}")


def datasets(root: Path | None = None) -> list[tuple[str, str, str]]:
    """List every known dataset: its name, its domain, and where it is or how to get it."""
    rows = [(name, "movies", "made by a seed") for name in MADE]
    for name, facts in KNOWN.items():
        try:
            folder = find_dataset(name, root)
            place = f"{folder} ({size(folder) / 1e6:,.1f} MB)"
        except UnknownDataset:
            place = f"not here: rpp-env data get {name}" if name in SOURCES else "not here"
        rows.append((name, facts.domain, place))
    return rows
