"""Algorithms x seeds x environments: `plan` says which runs, `work` makes them, `report` compares.

The protocol is that of Gorsane et al. 2022, "Towards a Standardised Performance Evaluation Protocol
for Cooperative MARL" (https://arxiv.org/abs/2209.10485): many training seeds, evaluations at fixed
steps, all users at each, aggregates and intervals as `rpp_agents.experiments.statistics` has them.
One thing is stricter: nothing is chosen by the scores. What counts is the policy at the end of
training, not the best one on the way.
"""

from __future__ import annotations

from rpp_agents.experiments.bench.plan import PRESETS, Algorithm, Bench, Cell, Environment, Levels
from rpp_agents.experiments.bench.work import jobs_of, make_tables, run_cells
from rpp_agents.experiments.jobs import Outcome, kept, unfinished

__all__ = [
    "PRESETS",
    "Algorithm",
    "Bench",
    "Cell",
    "Environment",
    "Levels",
    "Outcome",
    "jobs_of",
    "kept",
    "make_tables",
    "run_cells",
    "unfinished",
]
