"""MAPPO beats random prompts on held-out users of movieworld."""

from __future__ import annotations

import pytest
import torch

from rpp_agents import mappo
from rpp_env import RPPEnv, evaluate


@pytest.mark.slow
def test_mappo_beats_random_prompts_on_held_out_users() -> None:
    torch.set_num_threads(1)
    train = RPPEnv.make("movieworld", split="train", num_envs=256)
    policy = mappo.train(train, mappo.Config(seed=0, total_steps=60_000), progress=False)
    held_out = RPPEnv.make("movieworld", split="validation", num_envs=256, max_users=500)
    report = evaluate(policy, held_out, baselines=("random",))
    lead = report.differences["random"]
    assert lead.low > 0.03, report.markdown()
