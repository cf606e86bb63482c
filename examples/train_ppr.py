"""Prefixes for users who have just arrived: PPR's own solver beside a bandit and its controls.

The solver reads gradients of the frozen SASRec; LinUCB chooses among 64 prefixes and sees what it
is paid. All are judged on cold users that nothing was trained on.
"""

from __future__ import annotations

import os

import rpp_env
from rpp_agents.solvers import linucb, ppr
from rpp_agents.solvers.controls import Shuffled, zero

FAST = "RPP_ENV_FAST" in os.environ  # the tests only see whether it runs


def env(split, **options):
    return rpp_env.RPPEnv.make(
        rules="PPR-v0", split=split, shots="zero", num_envs=64 if FAST else 256, **options
    )


steps = 1_000 if FAST else 40_000
vectors = env("validation")
solver = ppr.train(
    env("train"), ppr.Config(total_steps=steps, loss="cross_entropy", contrastive=0.0)
)
constant = ppr.train(env("train"), ppr.Config(total_steps=steps, constant=True))
bandit = linucb.train(env("train", codebook=64), linucb.Config(total_steps=steps, optimism=10.0))
for name, policy, played in (
    ("PPR's own solver", solver, vectors),
    ("the same, with another user's profile", Shuffled(solver, vectors), vectors),
    ("LinUCB over 64 prefixes", bandit, env("validation", codebook=64)),
    ("one prefix for all, learned", constant, vectors),
    ("a prefix of zeros", zero(vectors), vectors),
):
    report = rpp_env.evaluate(policy, played, baselines=(), name=name)
    print(f"{name}: NDCG@10 {report.lines[name]['ndcg@10']}")
