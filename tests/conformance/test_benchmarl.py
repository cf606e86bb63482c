"""BenchMARL: our tasks in it, and a short run of some of its algorithms on the four agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rpp_env

pytest.importorskip("benchmarl", reason="BenchMARL is not installed")

from benchmarl.algorithms import IppoConfig, MappoConfig, MasacConfig, QmixConfig, VdnConfig
from benchmarl.environments import task_config_registry
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
from torchrl.envs import SerialEnv

from rpp_agents.benchmarl_task import GROUP, GroupPolicy, RPPTask

WORLD = {"num_users": 120, "num_items": 100}


def experiment(
    algorithm: Any, folder: Path, task: RPPTask = RPPTask.RPP_V0, **options: Any
) -> Experiment:
    config = ExperimentConfig.get_from_yaml()
    config.max_n_iters, config.max_n_frames = 2, None
    config.on_policy_collected_frames_per_batch = config.off_policy_collected_frames_per_batch = 20
    config.on_policy_n_envs_per_worker = config.off_policy_n_envs_per_worker = 2
    config.on_policy_minibatch_size = config.off_policy_train_batch_size = 10
    config.on_policy_n_minibatch_iters = config.off_policy_n_optimizer_steps = 1
    config.off_policy_memory_size = 100
    config.evaluation_interval, config.evaluation_episodes = 20, 1
    config.loggers, config.create_json, config.render = [], False, False
    config.save_folder = str(folder)
    return Experiment(
        task=task.get_task(options),
        algorithm_config=algorithm.get_from_yaml(),
        model_config=MlpConfig.get_from_yaml(),
        critic_model_config=MlpConfig.get_from_yaml(),
        seed=0,
        config=config,
    )


@pytest.mark.parametrize("algorithm", [IppoConfig, MappoConfig, QmixConfig, VdnConfig])
def test_an_algorithm_runs(algorithm: Any, world: dict[str, Any], tmp_path: Path) -> None:
    run = experiment(algorithm, tmp_path, **world)
    assert dict(run.group_map) == GROUP == {"agent": [f"agent_{i}" for i in range(4)]}
    run.run()
    assert run.total_frames == 40
    env = rpp_env.RPPEnv.make(num_envs=10, max_users=10, padded_actions=True, **WORLD)
    report = rpp_env.evaluate(GroupPolicy(run.policy), env, baselines=())
    assert report.lines["policy"]["masked"].value == 0
    assert 0 < report.lines["policy"]["ndcg@10"].value < 1


@pytest.mark.parametrize("algorithm", [MappoConfig, MasacConfig])
@pytest.mark.parametrize("task", [RPPTask.PPR_V0, RPPTask.PPRSTREAM_V0])
def test_vectors_are_continuous_actions(algorithm: Any, task: RPPTask, tmp_path: Path) -> None:
    run = experiment(algorithm, tmp_path, task, num_users=600, num_items=200, prefix=2)
    assert dict(run.group_map) == {"agent": ["agent_0", "agent_1"]}
    assert run.continuous_actions
    run.run()
    assert run.total_frames == 40
    assert not task.get_task({"codebook": 3}).supports_continuous_actions()


def test_qmix_mixes_four_agents(tmp_path: Path) -> None:
    """With four groups of one it would have four mixers of one value each, and be IQL."""
    run = experiment(QmixConfig, tmp_path, **WORLD)
    (loss,) = run.losses.values()
    assert loss.mixer_network.module.n_agents == 4


def test_a_task_takes_any_option_of_the_environment(tmp_path: Path) -> None:
    users = rpp_env.RPPEnv.make(max_users=3, max_cycles=2, **WORLD)
    rpp_env.tabulate(users, tmp_path / "t.rpptable")
    task = RPPTask.RPP_V0.get_task(
        {"model": f"table:{tmp_path / 't.rpptable'}", "max_cycles": 2, **WORLD}
    )
    env = task.get_env_fun(1, False, 0, "cpu")()
    assert len(env._env.core.tasks) == 3
    assert task.max_steps(env) == 2
    assert env.rollout(9)["next", "done"].flatten().tolist() == [False, True]


def test_the_tasks_are_the_ids() -> None:
    for key, task in RPPTask.__members__.items():
        assert task_config_registry[f"rpp/{key.lower()}"] is task
    rules = [task.get_task().config["rules"] for task in RPPTask]
    assert rules == [*rpp_env.RULES, "PPR-v0", "PPRStream-v0"]
    assert RPPTask.RPPBANDIT_V0.get_task(WORLD).max_steps(None) == 1
    assert RPPTask.RPPFEEDBACK_V0.get_task(WORLD).max_steps(None) == 15


def test_a_team_that_sees_responses_trains(tmp_path: Path) -> None:
    run = experiment(MappoConfig, tmp_path, RPPTask.RPPFEEDBACK_V0, **WORLD)
    run.run()
    assert run.total_frames == 40


def test_copies_play_different_users() -> None:
    make = RPPTask.RPP_V0.get_task(WORLD).get_env_fun(8, False, 0, "cpu")
    seen = SerialEnv(8, make).reset()["state"].numpy()
    assert len(np.unique(seen, axis=0)) > 4
