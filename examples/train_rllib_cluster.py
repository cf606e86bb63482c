"""Train RLlib's PPO with users that are played on other machines, from a recorded table.

By default it starts two Ray nodes on this machine. If the environment variable RAY_ADDRESS names a
cluster, the same script uses that one: see docs/libraries.md. Its argument is the table's path,
which every node must be able to read; the table is made if it does not exist.
"""

import atexit
import os
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
USERS, COPIES, BATCH, ROUNDS = (8, 4, 80, 2) if FAST else (64, 32, 1_600, 30)
TABLE = Path(sys.argv[1] if len(sys.argv) > 1 else "users.rpptable").resolve()


def make(options: dict[str, Any]) -> ParallelPettingZooEnv:
    env = rpp_env.parallel_env(split="train", model=f"table:{TABLE}")
    return ParallelPettingZooEnv(env)


def note_node(*, metrics_logger: Any, **_: Any) -> None:  # runs where an episode was played
    node = ray.get_runtime_context().get_node_id()
    metrics_logger.log_value(("episodes_on", node), 1, reduce="lifetime_sum")


if not TABLE.exists():  # ask the model once for every answer; no node needs it afterwards
    rpp_env.tabulate(rpp_env.RPPEnv.make(split="train", max_users=USERS), TABLE)

if "RAY_ADDRESS" not in os.environ:
    # The head learns. A node with the resource "player" plays: one runner for each unit of it.
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    atexit.register(cluster.shutdown)  # otherwise Ray's next script looks for this cluster
    cluster.add_node(num_cpus=1, resources={"player": 1})
    os.environ["RAY_ADDRESS"] = cluster.address
ray.init(log_to_driver=False, logging_level="error")
atexit.register(ray.shutdown)  # before the cluster's
runners = int(ray.cluster_resources().get("player", 0))
assert runners, "no node has the resource: ray start --address=... --resources='{\"player\": 4}'"

register_env("RPP-v0", make)
config = (
    PPOConfig()
    # Its environment check would reset every copy with the same seed.
    .environment("RPP-v0", disable_env_checking=True)
    .env_runners(
        num_env_runners=runners,
        num_envs_per_env_runner=COPIES,
        custom_resources_per_env_runner={"player": 1},
    )
    .callbacks(on_episode_end=note_node)
    .multi_agent(policies=rpp_env.AGENTS, policy_mapping_fn=lambda agent, *_, **__: agent)
    .training(gamma=0.95, lr=1e-3, entropy_coeff=0.01, num_epochs=4, minibatch_size=BATCH // 4)
    .training(train_batch_size_per_learner=BATCH)
)
algorithm = config.build_algo()
for _ in range(ROUNDS):
    found = algorithm.train()["env_runners"]
    steps, reward = found["num_env_steps_sampled_lifetime"], found["episode_return_mean"] / 20
    print(f"{steps:7,.0f} user-steps: NDCG@10 {reward:.3f}")

here = ray.get_runtime_context().get_node_id()
print("episodes by node:", found["episodes_on"], "learned on:", here)
assert found["episodes_on"]
assert here not in found["episodes_on"]
algorithm.stop()
