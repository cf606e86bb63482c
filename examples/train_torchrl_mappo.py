"""Train MAPPO made of TorchRL's own parts: its collector, its networks, its loss.

With ``agent_names="index"`` the agents are agent_0 to agent_3, and `PettingZooWrapper`, which
groups agents by their names, makes one group "agent" of them. Actors see their own observations,
the critic sees the state; the masks reach the actors' distribution.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import SerialEnv, check_env_specs
from torchrl.envs.libs.pettingzoo import PettingZooWrapper
from torchrl.modules import MLP, MaskedCategorical, MultiAgentMLP, ProbabilisticActor
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import rpp_env

FAST = "RPP_ENV_FAST" in os.environ
COPIES, STEPS, BATCHES = (4, 10, 2) if FAST else (32, 50, 40)
WORLD: dict[str, Any] = {"num_users": 120, "num_items": 100} if FAST else {}


def make() -> PettingZooWrapper:
    env = rpp_env.parallel_env(split="train", padded_actions=True, agent_names="index", **WORLD)
    return PettingZooWrapper(env, return_state=True)


warnings.filterwarnings("ignore", message="PettingZoo in TorchRL is tested")
torch.manual_seed(0)
check_env_specs(one := make())
assert dict(one.group_map) == {"agent": [f"agent_{i}" for i in range(4)]}
seen, state = (one.observation_spec[key].shape[-1] for key in [("agent", "observation"), "state"])

actor = ProbabilisticActor(
    # A network for each agent: four agents with the same input and one network would act alike.
    TensorDictModule(
        MultiAgentMLP(seen, 9, 4, centralized=False, share_params=False, depth=2, num_cells=64),
        in_keys=[("agent", "observation")],
        out_keys=[("agent", "logits")],
    ),
    in_keys={"logits": ("agent", "logits"), "mask": ("agent", "action_mask")},
    out_keys=[("agent", "action")],
    distribution_class=MaskedCategorical,
    return_log_prob=True,
    log_prob_key=("agent", "log_prob"),
)
critic = TensorDictModule(  # a value for each agent
    nn.Sequential(MLP(state, 4, depth=2, num_cells=64), nn.Unflatten(-1, (4, 1))),
    in_keys=["state"],
    out_keys=[("agent", "value")],
)
keys = {name: ("agent", name) for name in ("reward", "done", "terminated", "value")}
# Bootstraps where the clock cut an episode off (truncated), not where one terminated.
advantage = GAE(gamma=0.95, lmbda=0.95, value_network=critic)
advantage.set_keys(**keys)
loss = ClipPPOLoss(
    actor,
    critic,
    entropy_coeff=0.01,
    normalize_advantage=True,
    normalize_advantage_exclude_dims=(-2,),
)
loss.set_keys(action=("agent", "action"), sample_log_prob=("agent", "log_prob"), **keys)
optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)

env = SerialEnv(COPIES, make)
env.set_seed(0)  # another seed for each copy; without it all of them would play the same users
frames = COPIES * STEPS
collector = Collector(env, actor, frames_per_batch=frames, total_frames=BATCHES * frames)
for i, batch in enumerate(collector):
    reward = batch["next", "agent", "reward"].mean().item()
    if i % 10 == 0 or i == BATCHES - 1:
        print(f"{(i + 1) * frames:7,} user-steps: NDCG@10 {reward:.3f}")
    with torch.no_grad():
        advantage(batch)
    data = batch.reshape(-1)
    for _ in range(4):
        for part in torch.randperm(len(data)).split(max(1, frames // 4)):
            losses = loss(data[part])
            optimizer.zero_grad()
            sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()
collector.shutdown()
