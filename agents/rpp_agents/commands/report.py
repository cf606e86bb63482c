"""``rpp-env report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import say
from rpp_agents.experiments import Study
from rpp_env.data.folders import check_folder
from rpp_env.errors import InvalidOption

__all__ = ["run"]


def run(
    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER"), tyro.conf.Positional],
    /,
    users: bool = True,
    trust: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = (),
) -> None:
    """Write a study's tables, plots and HTML page again.

    Reports whatever is finished in the folder:

        rpp-env report runs/study-prompts

    Parameters
    ----------
    folder
        Folder that `rpp-env study` wrote; it holds the study's TOML file.
    users
        Show individual users of movieworld on the page; users of real data are never shown.
    trust
        Servers or code that the file names and that you confirm, word by word.
    """
    from rpp_agents.experiments.report import write_report

    check_folder(folder)
    told = sorted(folder.glob("*.toml"))
    if len(told) != 1:
        raise InvalidOption(
            f"{folder} holds {len(told)} TOML files, and a study's folder holds one: give a folder "
            "that `rpp-env study` wrote"
        )
    say(f"report: {write_report(Study.load(told[0], trust), folder, page_users=users)}")
    say(f"page: {folder / 'index.html'}")
