"""``rpp-env report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import say, show
from rpp_agents.commands.experiments import plan_in
from rpp_env.data.folders import check_folder
from rpp_env.errors import InvalidOption

__all__ = ["run"]


def run(
    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER|scores.npz")],
    /,
    users: bool = True,
    page: bool = True,
    marl_eval: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    iqm: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    grids: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    against: Annotated[str | None, tyro.conf.arg(metavar="LABEL")] = None,
    trust: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = (),
) -> None:
    """Write the tables, plots and HTML page of a study or bench again.

    Reports whatever is finished in the folder:

        rpp-env report runs/study-prompts
        rpp-env report runs/study-prompts --iqm --marl-eval

    Of a file of raw scores alone, as every report writes one, it prints the scores, and the
    differences to one method:

        rpp-env report scores.npz --against 'best fixed, 5 merged'

    A bench's report always holds what `--iqm` and `--marl-eval` add, or `--grids` where it has any.

    Parameters
    ----------
    folder
        Folder that `rpp-env study` or `rpp-env bench` wrote; it holds the plan's TOML file. Or a
        file of raw scores.
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
    against
        Of a file of raw scores: the method that the others are compared with.
    trust
        Servers or code that the file names and that you confirm, word by word.
    """
    from rpp_agents.experiments.report import Options, raw_tables, write_report

    if folder.suffix == ".npz":
        show(raw_tables(folder, against))
        return
    if against is not None:
        raise InvalidOption("--against is for a file of raw scores: name FOLDER/scores.npz")
    check_folder(folder)
    options = Options(page, users, marl_eval, iqm, grids)
    say(f"report: {write_report(plan_in(folder, trust), folder, options)}")
    if page:
        say(f"page: {folder / 'index.html'}")
