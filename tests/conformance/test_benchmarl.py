"""BenchMARL: a task around the padded form, and a short run of some of its algorithms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rpp_env

pytest.importorskip("benchmarl", reason="BenchMARL is not installed")

from benchmarl.algorithms import IppoConfig, MappoConfig, QmixConfig, VdnConfig
from benchmarl.environments.pettingzoo.common import PettingZooClass
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
from torchrl.envs import EnvBase
from torchrl.envs.libs.pettingzoo import PettingZooWrapper


class RPPTask(PettingZooClass):
    """All that BenchMARL has to be told; the specs are read off the environment."""

    def get_env_fun(
        self, num_envs: int, continuous_actions: bool, seed: int | None, device: Any
    ) -> Callable[[], EnvBase]:
        return lambda: PettingZooWrapper(
            rpp_env.parallel_env(**self.config, padded_actions=True, agent_names="index"),
            return_state=True,
            use_mask=True,
            seed=seed,
            device=device,
        )

    def supports_continuous_actions(self) -> bool:
        return False

    def supports_discrete_actions(self) -> bool:
        return True

    def has_state(self) -> bool:
        return True

    def has_render(self, env: EnvBase) -> bool:
        return False

    def max_steps(self, env: EnvBase) -> int:
        return 5


@pytest.mark.parametrize("algorithm", [IppoConfig, MappoConfig, QmixConfig, VdnConfig])
def test_an_algorithm_runs(algorithm: Any, world: dict[str, Any], tmp_path: Path) -> None:
    config = ExperimentConfig.get_from_yaml()
    config.max_n_iters, config.max_n_frames = 2, None
    config.on_policy_collected_frames_per_batch = config.off_policy_collected_frames_per_batch = 20
    config.on_policy_n_envs_per_worker = config.off_policy_n_envs_per_worker = 2
    config.on_policy_minibatch_size = config.off_policy_train_batch_size = 10
    config.on_policy_n_minibatch_iters = config.off_policy_n_optimizer_steps = 1
    config.off_policy_memory_size = 100
    config.evaluation_interval, config.evaluation_episodes = 20, 1
    config.loggers, config.create_json, config.render = [], False, False
    config.save_folder = str(tmp_path)
    experiment = Experiment(
        task=RPPTask("RPP", world),
        algorithm_config=algorithm.get_from_yaml(),
        model_config=MlpConfig.get_from_yaml(),
        critic_model_config=MlpConfig.get_from_yaml(),
        seed=0,
        config=config,
    )
    assert dict(experiment.group_map) == {"agent": [f"agent_{i}" for i in range(4)]}
    experiment.run()
    assert experiment.total_frames == 40
