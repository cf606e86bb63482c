"""RPP as tasks of BenchMARL, without any change to BenchMARL's repository.

::

    from rpp_agents.benchmarl_task import RPPTask

    task = RPPTask.RPP_V0.get_task({"model": "table:users.rpptable"})
    Experiment(task=task, algorithm_config=QmixConfig.get_from_yaml(), ...)

A task's config holds keywords of `rpp_env.parallel_env`. The module also registers the tasks in
BenchMARL's registry, as ``rpp/rpp_v0``, ``rpp/rppbandit_v0``, ``rpp/rpppaper_v0``,
``rpp/rppfeedback_v0``, ``rpp/ppr_v0`` and ``rpp/pprstream_v0``. The last two have continuous
actions, unless a ``codebook`` is given.

Two common mistakes are avoided. The four agents are one group: TorchRL groups by names, so agents
with different names would become four groups of one, each would be trained alone, and QMIX would
silently be IQL. And each copy of the environment has its own seed: BenchMARL gives all of them the
same one, so that all would play the same users. (``parallel_collection``, a process for each copy,
undoes this: leave it off, which is the default.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import rpp_env
from rpp_env.errors import InvalidOption

try:
    from benchmarl.environments import Task, task_config_registry
    from benchmarl.environments.pettingzoo.common import PettingZooClass
    from tensordict import TensorDict
    from torchrl.envs import EnvBase
    from torchrl.envs.libs.pettingzoo import PettingZooWrapper
    from torchrl.envs.utils import ExplorationType, set_exploration_type
except ImportError as error:
    raise ImportError(
        f"{error.name} is not installed: run `pip install benchmarl` in an environment of its own"
    ) from error

__all__ = ["GROUP", "GroupPolicy", "RPPTask", "RPPTaskClass"]

GROUP = {"agent": [f"agent_{i}" for i in range(len(rpp_env.AGENTS))]}
"""The single group, and its agents in the order of `rpp_env.AGENTS`."""

VECTORS = ("PPR-v0", "PPRStream-v0")
"""Ids whose agents choose vectors."""


class RPPTaskClass(PettingZooClass):  # type: ignore[misc]
    """Description of a task for BenchMARL; the specs are derived from the environment.

    Parameters
    ----------
    name : str
        The member of `RPPTask`, for BenchMARL's reports.
    config : dict
        Keywords of `rpp_env.parallel_env`.
    """

    def get_env_fun(
        self,
        num_envs: int,  # noqa: ARG002 - BenchMARL makes this many copies itself
        continuous_actions: bool,  # noqa: ARG002 - a task supports one kind
        seed: int | None,
        device: Any,
    ) -> Callable[[], EnvBase]:
        """Return a function that makes one copy of the environment, with the next seed."""
        seeds = itertools.count(seed or 0)
        options = {**self.config, "agent_names": "index"}
        if self.supports_discrete_actions():
            options["padded_actions"] = True
        return lambda: PettingZooWrapper(
            rpp_env.parallel_env(**options), return_state=True, seed=next(seeds), device=device
        )

    def supports_continuous_actions(self) -> bool:
        return self.config["rules"] in VECTORS and self.config.get("codebook") is None

    def supports_discrete_actions(self) -> bool:
        return not self.supports_continuous_actions()

    def has_state(self) -> bool:
        return True

    def has_render(self, env: EnvBase) -> bool:  # noqa: ARG002 - rendering is not supported
        return False

    def max_steps(self, env: EnvBase) -> int:  # noqa: ARG002 - the same for all copies
        return rpp_env.parallel_env(**self.config).max_cycles

    @staticmethod
    def env_name() -> str:
        return "rpp"


class RPPTask(Task):  # type: ignore[misc]
    """The environment's ids as BenchMARL tasks."""

    RPP_V0 = None
    RPPBANDIT_V0 = None
    RPPPAPER_V0 = None
    RPPFEEDBACK_V0 = None
    PPR_V0 = None
    PPRSTREAM_V0 = None

    @staticmethod
    def associated_class() -> type[RPPTaskClass]:
        return RPPTaskClass

    def get_task(self, config: dict[str, Any] | None = None) -> RPPTaskClass:
        """Return the task with these keywords of `rpp_env.parallel_env`, or with none."""
        ids = (*rpp_env.RULES, *VECTORS)
        rules = {key.upper().replace("-", "_"): key for key in ids}[self.name]
        return RPPTaskClass(self.name, {"rules": rules, **(config or {})})


task_config_registry.update({f"rpp/{k.lower()}": task for k, task in RPPTask.__members__.items()})


class GroupPolicy:
    """Adapter from an experiment's trained policy to the policies of `rpp_env.evaluate`.

    Parameters
    ----------
    policy : tensordict module
        ``Experiment.policy``: reads observations (and masks) of the group, writes its actions.
    """

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,
        memory: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """See `rpp_env.evaluation.baselines.Policy.act`.

        Raises
        ------
        InvalidOption
            Without masks, which the networks need.
        """
        if masks is None:
            raise InvalidOption(
                "this policy needs masks: give act() those of env.action_masks(), with "
                "padded_actions=True"
            )
        users = observations.shape[:2]
        allowed = np.broadcast_to(masks, (*users, masks.shape[-1]))
        group = {
            "observation": torch.as_tensor(observations),
            "action_mask": torch.as_tensor(allowed != 0),
        }
        batch = TensorDict({"agent": TensorDict(group, users)}, users[:1])
        how = ExplorationType.DETERMINISTIC if greedy else ExplorationType.RANDOM
        with torch.no_grad(), set_exploration_type(how):
            actions: NDArray[np.int64] = self.policy(batch)["agent", "action"].numpy()
        return actions, memory
