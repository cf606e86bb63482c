"""Enumerate: the single prompt that is best for everybody, found on training users.

=================  ==========================================================================
candidates         every fixed prompt that the rules can reach (1,575 under RPP-v0), or every
                   joint action where an environment knows no prompts
with a table       exact: every prompt for every user, without a call of the model
without            successive halving: all candidates play the same few users, the better
                   quarter plays more of them, and so on, within `Config.budget` episodes
=================  ==========================================================================

What the paper calls Enum (Mao et al. 2025, Figure 3). It learns nothing about users: what a trainer
has over it is what personalising the prompt is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rpp_agents.rollout import BatchedEnv
from rpp_agents.training import check_numbers
from rpp_env.evaluation.baselines import Fixed, search_fixed
from rpp_env.options import check_fields

__all__ = ["Config", "train"]


@dataclass(frozen=True)
class Config:
    """What the search may spend."""

    budget: int = 40_000
    """Episodes to play at most; a table answers without any."""
    seed: int = 0
    """Which users are asked first."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_numbers(self, 1, "budget")
        check_numbers(self, 0, "seed")


def train(
    env: BatchedEnv,
    config: Config = Config(),
    *,
    run_dir: str | Path | None = None,
) -> Fixed:
    """Search; the policy is kept in ``run_dir/policy.json`` where a folder is given.

    Raises
    ------
    InvalidOption
        For a budget that does not suffice to try every candidate once.
    """
    policy, _ = search_fixed(env, budget=config.budget, seed=config.seed)
    if run_dir is not None:
        policy.save(Path(run_dir) / "policy.json")
    return policy
