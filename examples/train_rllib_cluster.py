"""Train RLlib's PPO with users that are played on other machines, from a recorded table.

As it stands it starts two Ray nodes on this machine. Where the environment variable RAY_ADDRESS
names a cluster, the same script uses that one: docs/libraries.md says how. Its argument is the
table's path, which every node must be able to read; the table is made where there is none.
"""

from __future__ import annotations

import atexit
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune import register_env

import rpp_env

FAST = "RPP_ENV_FAST" in os.environ
WORLD: dict[str, Any] = {"num_users": 120, "num_items": 100} if FAST else {}
TABLE = Path(sys.argv[1] if len(sys.argv) > 1 else "users.rpptable").resolve()


def make(options: dict[str, Any]) -> ParallelPettingZooEnv:
    env = rpp_env.parallel_env(split="train", **options, seed=secrets.randbits(31))
    return ParallelPettingZooEnv(env)


def note_node(*, metrics_logger: Any, **_: Any) -> None:
    """Runs where an episode was played."""
    node = ray.get_runtime_context().get_node_id()
    metrics_logger.log_value(("episodes_on", node), 1, reduce="lifetime_sum")


if not TABLE.exists():  # every answer asked once; from here on no node needs the model
    users = rpp_env.RPPEnv.make(split="train", max_users=8 if FAST else 64, **WORLD)
    rpp_env.tabulate(users, TABLE)

quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
if "RAY_ADDRESS" in os.environ:
    ray.init(**quiet)
else:
    # The head learns. A node with the resource "player" plays: one runner for each unit of it.
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    atexit.register(cluster.shutdown)  # else Ray's next script looks for this cluster
    cluster.add_node(num_cpus=1, resources={"player": 1})
    ray.init(cluster.address, **quiet)
    atexit.register(ray.shutdown)
runners = int(ray.cluster_resources().get("player", 0))
assert runners, "no node has the resource: ray start --address=... --resources='{\"player\": 4}'"

register_env("RPP-v0", make)
config = (
    PPOConfig()
    .environment(
        "RPP-v0",
        env_config={"model": f"table:{TABLE}", **WORLD},
        disable_env_checking=True,  # the check would reset every copy with the same seed
    )
    .env_runners(
        num_env_runners=runners,
        num_envs_per_env_runner=4 if FAST else 32,
        custom_resources_per_env_runner={"player": 1},
    )
    .callbacks(on_episode_end=note_node)
    .multi_agent(policies=rpp_env.AGENTS, policy_mapping_fn=lambda agent, *_, **__: agent)
    .training(
        gamma=0.95,
        lr=1e-3,
        entropy_coeff=0.01,
        num_epochs=4,
        train_batch_size_per_learner=80 if FAST else 1_600,
        minibatch_size=40 if FAST else 400,
    )
)
algorithm = config.build_algo()
for _ in range(2 if FAST else 30):
    found = algorithm.train()["env_runners"]
    print(
        f"{found['num_env_steps_sampled_lifetime']:7,.0f} user-steps: "
        f"NDCG@10 {found['episode_return_mean'] / 20:.3f}"
    )

here = ray.get_runtime_context().get_node_id()
print("episodes by node:", found["episodes_on"], "learned on:", here)
assert found["episodes_on"]
assert here not in found["episodes_on"]
algorithm.stop()
