"""``rpp-env report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import say
from rpp_agents.commands.experiments import plan_in
from rpp_env.data.folders import check_folder

__all__ = ["run"]


def run(
    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER"), tyro.conf.Positional],
    /,
    users: bool = True,
    trust: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = (),
) -> None:
    """Write the tables, plots and HTML page of a study or bench again.

    Reports whatever is finished in the folder:

        rpp-env report runs/study-prompts

    Parameters
    ----------
    folder
        Folder that `rpp-env study` or `rpp-env bench` wrote; it holds the plan's TOML file.
    users
        Show individual users of movieworld on the page; users of real data are never shown.
    trust
        Servers or code that the file names and that you confirm, word by word.
    """
    from rpp_agents.experiments.report import write_report

    check_folder(folder)
    say(f"report: {write_report(plan_in(folder, trust), folder, page_users=users)}")
    if (folder / "index.html").is_file():
        say(f"page: {folder / 'index.html'}")
