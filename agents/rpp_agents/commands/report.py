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
    page: bool = True,
    marl_eval: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    iqm: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    grids: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    trust: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = (),
) -> None:
    """Write the tables, plots and HTML page of a study or bench again.

    Reports whatever is finished in the folder:

        rpp-env report runs/study-prompts
        rpp-env report runs/study-prompts --iqm --marl-eval

    A bench's report always holds what `--iqm` and `--marl-eval` add, or `--grids` where it has any.

    Parameters
    ----------
    folder
        Folder that `rpp-env study` or `rpp-env bench` wrote; it holds the plan's TOML file.
    users
        Show individual users of movieworld on the page; users of real data are never shown.
    page
        Write the page, index.html.
    marl_eval
        Also write marl_eval.json, the format of id-marl-eval.
    iqm
        Also aggregate over the settings: inter-quartile mean of the gain, optimality gap and
        probability of improvement.
    grids
        Also list the points of each grid (a bench's `grid`, a study's `variants`) and the best.
    trust
        Servers or code that the file names and that you confirm, word by word.
    """
    from rpp_agents.experiments.report import Options, write_report

    check_folder(folder)
    options = Options(page, users, marl_eval, iqm, grids)
    say(f"report: {write_report(plan_in(folder, trust), folder, options)}")
    if (folder / "index.html").is_file():
        say(f"page: {folder / 'index.html'}")
