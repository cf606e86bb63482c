"""``rpp-env verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rpp_agents.commands.console import find_policy, say
from rpp_agents.leaderboard import Submission

__all__ = ["run"]


def run(
    submission: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    /,
    policy: Annotated[Path, tyro.conf.arg(metavar="RUN_DIR|POLICY")],
) -> None:
    """Play a submission again from its policy and compare every score.

    The file is read as texts and numbers. Nothing in it is run or followed: the task is this
    package's own, and the command in it is only shown.

    Parameters
    ----------
    submission
        File that `rpp-env submit` wrote.
    policy
        Run folder or policy file that was submitted.
    """
    claimed = Submission.load(submission)
    claimed.verify(find_policy(policy))
    say(
        f"verified: {claimed.name} on {claimed.place}, track {claimed.track}: NDCG@10 "
        f"{claimed.score:.4f}; the scores of {len(claimed.scores):,} users are the same to the "
        f"last digit. Not verified, because no file can show it: {claimed.calls:,} calls in "
        f"training, with seed {claimed.seed}, by\n  {claimed.command}"
    )
