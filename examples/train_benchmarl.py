"""Train BenchMARL's MAPPO and QMIX, and evaluate both on held-out users.

`rpp_agents.benchmarl_task` makes the environment a task of BenchMARL's.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from benchmarl.algorithms import MappoConfig, QmixConfig
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig

import rpp_env
from rpp_agents.benchmarl_task import GROUP, GroupPolicy, RPPTask

FAST = "RPP_ENV_FAST" in os.environ
WORLD: dict[str, Any] = {"num_users": 120, "num_items": 100} if FAST else {}

warnings.filterwarnings("ignore", message="PettingZoo in TorchRL is tested")
config = ExperimentConfig.get_from_yaml()
config.gamma, config.lr = 0.95, 5e-4
config.share_policy_params = False  # the four agents have different tasks
config.max_n_frames = 80 if FAST else 40_000  # a frame is a user's step
config.on_policy_collected_frames_per_batch = 40 if FAST else 1_600
config.on_policy_n_envs_per_worker = config.off_policy_n_envs_per_worker = 4 if FAST else 32
config.on_policy_minibatch_size = config.off_policy_train_batch_size = 20 if FAST else 400
config.on_policy_n_minibatch_iters = 1 if FAST else 10
config.off_policy_collected_frames_per_batch = 40 if FAST else 320
config.off_policy_n_optimizer_steps = 1 if FAST else 20
config.off_policy_memory_size = 100 if FAST else 20_000
config.evaluation = False  # done below, on other users
config.loggers, config.create_json, config.render = [], False, False
config.save_folder = "runs"
Path(config.save_folder).mkdir(exist_ok=True)

validation = rpp_env.RPPEnv.make(split="validation", num_envs=500, padded_actions=True, **WORLD)
for algorithm in (MappoConfig, QmixConfig):
    experiment = Experiment(
        task=RPPTask.RPP_V0.get_task({"split": "train", **WORLD}),
        algorithm_config=algorithm.get_from_yaml(),
        model_config=MlpConfig.get_from_yaml(),
        critic_model_config=MlpConfig.get_from_yaml(),
        seed=0,
        config=config,
    )
    # Four groups of one would be trained separately: QMIX would have nothing to mix and be IQL.
    assert dict(experiment.group_map) == GROUP
    experiment.run()
    name = algorithm.__name__.removesuffix("Config").upper()
    report = rpp_env.evaluate(
        GroupPolicy(experiment.policy), validation, baselines=("random",), name=name
    )
    print(report.verdict, f"Random prompts: {report.lines['random']['ndcg@10']}.")
