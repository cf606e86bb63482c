"""Enumerate: the single prompt that is best for everybody, found on training users.

=================  ==========================================================================
candidates         every fixed prompt that the rules can reach (1,575 under RPP-v0), or every
                   joint action in an environment without prompts
with a table       exact: every prompt for every user, without a call of the model
without            successive halving: all candidates play the same few users, the better
                   quarter plays more of them, and so on, within `Config.budget` episodes
=================  ==========================================================================

The paper's Enum (Mao et al. 2025, Figure 3). It ignores the users: a trainer's advantage over it is
the value of personalising the prompt.
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
    """Options of the search."""

    budget: int = 40_000
    """Maximum number of episodes; a table needs none."""
    seed: int = 0
    """Seed of the order of the users."""

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
    """Search for the best fixed prompt; saved as ``run_dir/policy.json`` if a folder is given.

    Raises
    ------
    InvalidOption
        For a budget that is too small to try every candidate once.
    """
    policy, _ = search_fixed(env, budget=config.budget, seed=config.seed)
    if run_dir is not None:
        policy.save(Path(run_dir) / "policy.json")
    return policy
