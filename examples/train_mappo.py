"""Train MAPPO on movieworld, and compare it with the baselines on held-out users.

Takes about two minutes; the curve, the checkpoint and the policy are in runs/example.
"""

from __future__ import annotations

import os

import rpp_env
from rpp_agents import mappo

FAST = "RPP_ENV_FAST" in os.environ  # for the tests, which only check that it runs

train = rpp_env.RPPEnv.make("movieworld", split="train", num_envs=512, seed=0)
validation = rpp_env.RPPEnv.make(
    "movieworld", split="validation", num_envs=512, max_users=50 if FAST else None
)

policy = mappo.train(
    train,
    mappo.Config(seed=0, total_steps=5_000 if FAST else 500_000, threads=1),
    run_dir="runs/example",
    eval_env=validation,
    resume=True,  # after Ctrl-C, the same script resumes from the last checkpoint
)

# Evaluate on the test users only once, when all choices are made.
report = rpp_env.evaluate(
    policy,
    validation,
    train_env=train,  # chooses the best fixed prompt
    budget=1_600 if FAST else 40_000,
    name="MAPPO",
)
print(report.markdown())
