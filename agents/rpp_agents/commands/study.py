"""``rpp-env study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.experiments import run_plan
from rpp_agents.experiments.plan import Study

__all__ = ["run"]


def run(
    study: Annotated[str, tyro.conf.arg(metavar="NAME|FILE.toml")],
    /,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    processes: int = 2,
    only: tuple[str, ...] = (),
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    trust: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = (),
) -> None:
    """Compare ways of choosing prompts by their model calls; resumable.

    A study is a file that names settings (datasets, recommenders, candidates), methods (by hand,
    search, bandits, trainers, recommenders without prompts) and seeds:

        rpp-env study smoke                      # a tiny one, in a minute or two
        rpp-env study prompts --dry-run          # what the published one runs
        rpp-env study prompts --out runs/study --only 'ml-1m/*'
        rpp-env report runs/study                # tables, plots and the page again

    Each fitted method is saved in a file of its own. Settings whose data is not found are named and
    left out. With `refusals = true` in the file, methods that cannot choose a setting's prompts are
    named in the report and do not fail. When stopped, the same command runs what is missing.
    docs/study-protocol.md explains the file and the report.

    Parameters
    ----------
    study
        Name of a shipped study (feedback, feedback-tuning, feedback-variants-tuning, pap_rec, ppr,
        prompts, session, session-variants, smoke, smollm2, systems, tuning), or the path of a TOML
        file.
    out
        Folder for everything; by default runs/study-NAME.
    processes
        Methods fitted at the same time, with one thread each.
    only
        Runs to make: SETTING/METHOD, or one of the two, with * and ? as wildcards; by default all.
        The report is always about everything that is finished.
    dry_run
        List all runs and whether they are finished, and run nothing.
    trust
        Servers or code that the file names and that you confirm, word by word.
    """
    run_plan(
        Study.load(study, trust),
        study,
        out,
        processes=processes,
        only=only,
        dry_run=dry_run,
    )
