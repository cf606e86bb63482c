"""PettingZoo environments: one user, four agents.

=====================  ===========================================================================
import                 ``rpp_env.parallel_env(...)``, ``rpp_env.env(...)``, ``rpp_env.rpp_v0``
agents                 role_playing, history_records, reasoning_guidance, output_format
actions                ``Discrete`` of 5, 5, 9 and 5 (``RPPPaper-v0``: 5, 3, 9 and 5), or 9 for all
observations           ``Box(-1, 1, (152,), float32)``, see `rpp_env.observation`
reward                 NDCG@10 of the user's next item, in [0, 1], the same for all agents
end                    truncated after `max_cycles` steps; terminated where that is 1
state                  ``state()``, ``state_space``: ``Box(-1, 1, (167,), float32)``
infos                  numbers, the same keys at reset and step; ``user`` is the user's row
render modes           ``"ansi"``, ``"human"`` and ``"rgb_array"``
=====================  ===========================================================================

With ``padded_actions=True`` all agents have nine actions; ``infos[agent]["action_mask"]`` (int8, a
new array at every call) marks those that the agent has, and `ActionMaskInObservation` moves the
mask into the observation.

Versions: v0, first release.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
from gymnasium.spaces import Box, Dict, Space
from numpy.typing import NDArray
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec_wrapper
from pettingzoo.utils.wrappers import OrderEnforcingWrapper
from pettingzoo.utils.wrappers.base_parallel import BaseParallelWrapper

from rpp_env.core import RPPEnv, Step, check_one_user
from rpp_env.errors import InvalidAction, InvalidOption
from rpp_env.models.base import LanguageModel
from rpp_env.recommenders.base import Recommender
from rpp_env.rendering import RENDER_MODES, check_render_mode, show
from rpp_env.table import RewardTable

__all__ = ["ActionMaskInObservation", "RPPParallelEnv", "env", "parallel_env", "raw_env"]

Observation = NDArray[np.float32]
Infos = dict[str, dict[str, Any]]


class RPPParallelEnv(ParallelEnv[str, Observation, Any]):
    """PettingZoo `ParallelEnv` of one user of a core; `parallel_env` makes one from names.

    Parameters
    ----------
    core : RPPEnv
        With ``num_envs=1``.
    render_mode : {"ansi", "human", "rgb_array"}, optional
        Return a step as text, write it to the terminal at every step, or return its picture.

    Attributes
    ----------
    observation_spaces, action_spaces : dict of str to Space
        The spaces that `observation_space` and `action_space` return for each agent.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - PettingZoo declares it as an instance's
        "name": "rpp_v0",
        "render_modes": list(RENDER_MODES),
        "render_fps": 1,
        "is_parallelizable": True,
    }

    def __init__(self, core: RPPEnv, render_mode: str | None = None) -> None:
        if core.num_envs != 1:
            raise InvalidOption(
                f"a parallel environment has one user; this core plays {core.num_envs}"
            )
        self.core = core
        self.metadata = copy.deepcopy(self.metadata)  # because wrappers append to its lists
        self.render_mode = check_render_mode(render_mode)
        self.max_cycles = core.max_cycles
        self.possible_agents = list(core.agents)
        self.agents: list[str] = []
        self.state_space = Box(-1.0, 1.0, (core.state_width,), np.float32)
        self.observation_spaces: dict[str, Space[Observation]] = {
            agent: Box(-1.0, 1.0, (core.observation_width,), np.float32)
            for agent in self.possible_agents
        }
        self.action_spaces: dict[str, Space[Any]] = dict(
            zip(self.possible_agents, core.action_spaces, strict=True)
        )

    def observation_space(self, agent: str) -> Space[Observation]:
        """Return an agent's observation space, the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space[Any]:
        """Return an agent's action space, the same object at every call."""
        return self.action_spaces[agent]

    @property
    def np_random_seed(self) -> int:
        """See `RPPEnv.np_random_seed`."""
        return self.core.np_random_seed

    @property
    def last_step(self) -> Step | None:
        """The last step of the core, with its prompt and the reply."""
        return self.core.last_step

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], Infos]:
        """Begin an episode; ``options={"users": [user]}`` names the user (a task row or token)."""
        check_one_user(options, self.core.space.options)
        observations, infos = self.core.reset(seed, options)
        self.agents = self.possible_agents[:]
        return self._split(observations[0]), self._infos({k: v.item() for k, v in infos.items()})

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """Take one action of every agent; `agents` is empty after the last step.

        When `agents` is empty, ``step({})`` returns five empty dictionaries, like PettingZoo's own
        environments.

        Raises
        ------
        InvalidAction
            For actions that are missing, unknown, or of agents that do not exist.
        ResetNeeded
            For actions before the first reset and after the last step.
        """
        if not actions and not self.agents:
            return {}, {}, {}, {}, {}
        if unknown := actions.keys() - self.action_spaces.keys():
            raise InvalidAction(
                f"step() got an action from {min(unknown, key=str)!r}, which is not an agent; "
                f"the agents are {', '.join(self.possible_agents)}"
            )
        step = self.core.step([[self._action(actions, agent) for agent in self.possible_agents]])
        terminated, truncated = step.terminated.item(), step.truncated.item()
        if terminated or truncated:
            self.agents = []
        if self.render_mode == "human":
            self.render()
        return (
            self._split(step.observations[0]),
            dict.fromkeys(self.possible_agents, step.rewards.item()),
            dict.fromkeys(self.possible_agents, terminated),
            dict.fromkeys(self.possible_agents, truncated),
            self._infos({name: values.item() for name, values in step.infos.items()}),
        )

    def state(self) -> Observation:
        """(s,) float32: the state of all agents together; also after the last step."""
        state: Observation = self.core.state()[0]
        return state

    def render(self) -> str | NDArray[np.uint8] | None:
        """Render the last step as text (``"ansi"``: returned, ``"human"``: written) or a picture.

        The picture (``"rgb_array"``) is `rpp_env.rendering.SIZE` pixels, uint8 (H, W, 3).

        Raises
        ------
        ResetNeeded
            Before the first reset.
        """
        return show(self.core, self.render_mode)

    def close(self) -> None:
        """Close the model's files and connections; the next step opens them again."""
        self.core.close()

    def _action(self, actions: dict[str, Any], agent: str) -> Any:
        try:
            return self.core.actions.each(actions[agent])
        except (KeyError, TypeError, ValueError):
            raise InvalidAction(
                f"step() needs {self.core.actions.one} from each of "
                f"{', '.join(self.possible_agents)}; "
                f"{agent!r} gave {actions.get(agent)!r}"
            ) from None

    def _split(self, observations: NDArray[np.float32]) -> dict[str, Observation]:
        return dict(zip(self.possible_agents, observations, strict=True))

    def _infos(self, info: dict[str, Any]) -> Infos:
        split: Infos = {agent: dict(info) for agent in self.possible_agents}
        if self.core.padded_actions:
            for mine, mask in zip(split.values(), self.core.action_masks(), strict=True):
                mine["action_mask"] = mask
        return split


class ActionMaskInObservation(BaseParallelWrapper[str, dict[str, Any], Any]):
    """Moves the mask: observations ``{"observation": vector, "action_mask": int8}``.

    RLlib's action-masking modules and Tianshou read masks from there. Without `padded_actions` the
    masks are all ones.
    """

    def __init__(self, env: ParallelEnv[str, Observation, Any]) -> None:
        super().__init__(cast("Any", env))  # the wrapper changes the type of the observations
        core = cast("Any", env.unwrapped).core
        spaces = core.action_spaces
        self._masks = {
            agent: mask[: getattr(space, "n", 1)]  # vectors have a mask of one 1
            for agent, mask, space in zip(
                env.possible_agents, core.action_masks(), spaces, strict=True
            )
        }
        self.observation_spaces: dict[str, Space[Any]] = {
            agent: Dict(
                {
                    "observation": env.observation_space(agent),
                    "action_mask": Box(0, 1, mask.shape, np.int8),
                }
            )
            for agent, mask in self._masks.items()
        }

    def observation_space(self, agent: str) -> Space[Any]:
        """Return an agent's observation space, the same object at every call."""
        return self.observation_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, dict[str, Any]], Infos]:
        """Begin an episode; see `RPPParallelEnv.reset`."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._moved(observations, infos), infos

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[
        dict[str, dict[str, Any]], dict[str, float], dict[str, bool], dict[str, bool], Infos
    ]:
        """Take a step; see `RPPParallelEnv.step`."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        return self._moved(observations, infos), rewards, terminated, truncated, infos

    def _moved(self, observations: dict[str, Any], infos: Infos) -> dict[str, dict[str, Any]]:
        for info in infos.values():
            info.pop("action_mask", None)
        return {
            agent: {"observation": vector, "action_mask": self._masks[agent].copy()}
            for agent, vector in observations.items()
        }


class RPPAECEnv(parallel_to_aec_wrapper[str, Observation, Any]):
    """PettingZoo `AECEnv` whose agents act in turn; `env` makes one from names."""

    @property
    def np_random_seed(self) -> int:
        """See `RPPEnv.np_random_seed`."""
        return cast("RPPParallelEnv", self.env).np_random_seed

    @property
    def last_step(self) -> Step | None:
        """The last step of the core, with its prompt and the reply."""
        return cast("RPPParallelEnv", self.env).last_step


def parallel_env(
    dataset: str | Any | None = None,
    model: str | LanguageModel | Recommender[Any] | RewardTable | None = None,
    split: str = "train",
    *,
    render_mode: str | None = None,
    **options: Any,
) -> RPPParallelEnv:
    """Make a PettingZoo `ParallelEnv` of one user and four agents.

    Parameters
    ----------
    dataset, model, split, **options
        As `RPPEnv.make` takes them (``rules="RPPBandit-v0"``, ``max_cycles=3``, ...).
    render_mode : {"ansi", "human", "rgb_array"}, optional
        How `render` shows a step.
    """
    return RPPParallelEnv(RPPEnv.make(dataset, model, split, **_one_user(options)), render_mode)


def raw_env(
    dataset: str | Any | None = None,
    model: str | LanguageModel | Recommender[Any] | RewardTable | None = None,
    split: str = "train",
    *,
    render_mode: str | None = None,
    **options: Any,
) -> AECEnv[str, Observation, Any]:
    """Make a PettingZoo `AECEnv`: the agents of `parallel_env` act in turn."""
    made = parallel_env(dataset, model, split, render_mode=render_mode, **options)
    aec: Any = RPPAECEnv(cast("Any", made))
    return cast("AECEnv[str, Observation, Any]", OrderEnforcingWrapper(aec))


env = raw_env
"""Alias of `raw_env`: the order of calls is enforced already, and illegal actions raise."""


def _one_user(options: dict[str, Any]) -> dict[str, Any]:
    if "num_envs" in options:
        raise InvalidOption(
            "num_envs: this environment plays one user at a time; for many at once use RPPEnv.make "
            "or gymnasium.make_vec"
        )
    return {**options, "num_envs": 1}
