"""Train MAPPO assembled from TorchRL's collector, networks and loss."""

import os
import warnings

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import SerialEnv
from torchrl.envs.libs.pettingzoo import PettingZooWrapper
from torchrl.modules import MLP, MaskedCategorical, MultiAgentMLP, ProbabilisticActor
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import rpp_env

COPIES, STEPS, BATCHES, USERS = (
    (4, 10, 2, 120) if "RPP_ENV_FAST" in os.environ else (32, 50, 40, 12_000)
)


def make() -> PettingZooWrapper:
    # agent_0 to agent_3: TorchRL groups agents by their names, and these are one group.
    options = {"padded_actions": True, "agent_names": "index", "num_users": USERS}
    return PettingZooWrapper(rpp_env.parallel_env(split="train", **options), return_state=True)


warnings.filterwarnings("ignore", message="PettingZoo in TorchRL is tested")
torch.manual_seed(0)
env = SerialEnv(COPIES, make)
env.set_seed(0)  # another seed for each copy, so that the run can be repeated
assert dict(make().group_map) == {"agent": [f"agent_{i}" for i in range(4)]}
seen, state = (env.observation_spec[key].shape[-1] for key in [("agent", "observation"), "state"])

# A network for each agent: four agents with the same input and one network would act alike.
net = MultiAgentMLP(seen, 9, 4, centralized=False, share_params=False, depth=2, num_cells=64)
actor = ProbabilisticActor(
    TensorDictModule(net, in_keys=[("agent", "observation")], out_keys=[("agent", "logits")]),
    in_keys={"logits": ("agent", "logits"), "mask": ("agent", "action_mask")},
    out_keys=[("agent", "action")],
    distribution_class=MaskedCategorical,
    return_log_prob=True,
    log_prob_key=("agent", "log_prob"),
)
value = nn.Sequential(
    MLP(state, 4, depth=2, num_cells=64), nn.Unflatten(-1, (4, 1))
)  # one for each
critic = TensorDictModule(value, in_keys=["state"], out_keys=[("agent", "value")])
keys = {name: ("agent", name) for name in ("reward", "done", "terminated", "value")}
advantage = GAE(gamma=0.95, lmbda=0.95, value_network=critic)  # bootstraps after a truncation
advantage.set_keys(**keys)
normal = {"normalize_advantage": True, "normalize_advantage_exclude_dims": (-2,)}
loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, **normal)
loss.set_keys(action=("agent", "action"), sample_log_prob=("agent", "log_prob"), **keys)
optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)

frames = COPIES * STEPS
collector = Collector(env, actor, frames_per_batch=frames, total_frames=BATCHES * frames)
for i, batch in enumerate(collector, 1):
    reward = batch["next", "agent", "reward"].mean().item()
    print(f"{i * frames:7,} user-steps: NDCG@10 {reward:.3f}")
    with torch.no_grad():
        advantage(batch)
    data = batch.reshape(-1)
    for part in [p for _ in range(4) for p in torch.randperm(frames).split(frames // 4)]:
        losses = loss(data[part])
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
        nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
        optimizer.step()
collector.shutdown()
