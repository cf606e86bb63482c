"""Gymnasium environments: a single agent that chooses for all agents.

The observation is the environment's state (the shared part and all last actions). The action is a
``MultiDiscrete([5, 5, 9, 5])`` under RPP's rules; where agents choose vectors, it is one ``Box`` of
their concatenated vectors. `JointEnv` plays one user, `JointVectorEnv` a batch of users with one
call of the model per step.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiDiscrete, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rpp_env.core import RPPEnv, Step, check_one_user, known_options, named_users
from rpp_env.errors import InvalidOption
from rpp_env.models.base import LanguageModel
from rpp_env.options import unknown
from rpp_env.recommenders.base import Recommender
from rpp_env.rendering import RENDER_MODES, check_render_mode, picture, render, show
from rpp_env.table import RewardTable

__all__ = ["JointEnv", "JointVectorEnv"]

Floats = NDArray[np.float32]


def _spaces(core: RPPEnv) -> tuple[Space[Floats], Space[Any]]:
    return Box(-1.0, 1.0, (core.state_width,), np.float32), core.actions.joint


def _flat_masks(core: RPPEnv) -> NDArray[np.bool_]:
    masks = core.action_masks()
    if not isinstance(core.actions.joint, MultiDiscrete):
        return np.ones(0, bool)  # vectors cannot be masked
    return np.concatenate([mask[:n] for mask, n in zip(masks, core.nvec, strict=True)]).astype(bool)


class JointEnv(gymnasium.Env[Floats, NDArray[Any]]):
    """Gymnasium environment of one user; made by ``gymnasium.make("rpp_env:RPP-v0", ...)``.

    Parameters
    ----------
    dataset, model, split, **options
        As `RPPEnv.make` takes them.
    render_mode : {"ansi", "human", "rgb_array"}, optional
        Return a step as text, write it to the terminal at every step, or return its picture.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as gymnasium has it
        "render_modes": list(RENDER_MODES),
        "render_fps": 1,
    }

    def __init__(
        self,
        dataset: str | Any | None = None,
        model: str | LanguageModel | Recommender[Any] | RewardTable | None = None,
        split: str = "train",
        *,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        if "num_envs" in options:
            raise InvalidOption("num_envs: gymnasium.make plays one user, gymnasium.make_vec many")
        self.metadata = copy.deepcopy(self.metadata)  # wrappers append to its lists
        self.render_mode = check_render_mode(render_mode)
        self.core = RPPEnv.make(dataset, model, split, num_envs=1, **options)
        self.observation_space, self.action_space = _spaces(self.core)

    @property
    def np_random_seed(self) -> int:
        """See `RPPEnv.np_random_seed`."""
        return self.core.np_random_seed

    @property
    def last_step(self) -> Step | None:
        """The last step of the core, with its prompt and the reply."""
        return self.core.last_step

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin an episode; ``options={"users": [user]}`` names the user (a task row or token)."""
        check_one_user(options, self.core.space.options)
        # Also seed Gymnasium's own generator, which is not used here.
        unseeded = seed is None and self._np_random is None
        super().reset(seed=self.np_random_seed if unseeded else seed)
        _, infos = self.core.reset(seed, options)
        return self.core.state()[0], {name: values.item() for name, values in infos.items()}

    def step(self, action: NDArray[Any]) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take one action of every agent, in the order of `RPPEnv.agents`."""
        step = self.core.step(self.core.actions.split(np.asarray(action)[None]))
        if self.render_mode == "human":
            self.render()
        return (
            self.core.state()[0],
            step.rewards.item(),
            step.terminated.item(),
            step.truncated.item(),
            {name: values.item() for name, values in step.infos.items()},
        )

    def action_masks(self) -> NDArray[np.bool_]:
        """(sum of actions,) bool: the agents' masks concatenated, the form of MaskablePPO.

        Empty where agents choose vectors.
        """
        return _flat_masks(self.core)

    def close(self) -> None:
        """Close the model's files and connections; the next step opens them again."""
        self.core.close()

    def render(self) -> str | NDArray[np.uint8] | None:
        """Render the last step as text (``"ansi"``: returned, ``"human"``: written) or a picture.

        The picture (``"rgb_array"``) is `rpp_env.rendering.SIZE` pixels, uint8 (H, W, 3).

        Raises
        ------
        ResetNeeded
            Before the first reset.
        """
        return show(self.core, self.render_mode)


class JointVectorEnv(VectorEnv[Floats, NDArray[Any], NDArray[Any]]):
    """Gymnasium environment of many users; ``gymnasium.make_vec("rpp_env:RPP-v0", num_envs=256)``.

    Parameters
    ----------
    num_envs : int
        Users played at once.
    dataset, model, split, **options
        As `RPPEnv.make` takes them.
    autoreset_mode : AutoresetMode or str
        When the next episode begins. ``SAME_STEP`` (default): in the same step; the last
        observation and info are ``infos["final_obs"]`` and ``infos["final_info"]``. ``NEXT_STEP``:
        in the next step, which ignores the actions (so half of the steps under `RPPBandit-v0` play
        nothing). ``DISABLED``: at `reset` with ``options={"reset_mask": mask}``.
    render_mode : {"ansi", "rgb_array"}, optional
        `render` returns one text, or one picture, for each user.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as gymnasium has it
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 1,
    }

    def __init__(
        self,
        num_envs: int = 1,
        dataset: str | Any | None = None,
        model: str | LanguageModel | Recommender[Any] | RewardTable | None = None,
        split: str = "train",
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            modes = [mode.value for mode in AutoresetMode]
            raise InvalidOption(unknown("autoreset_mode", autoreset_mode, modes)) from None
        self.render_mode = check_render_mode(render_mode, self.metadata["render_modes"])
        self.core = RPPEnv.make(dataset, model, split, num_envs=num_envs, **options)
        self.metadata = copy.deepcopy(self.metadata) | {"autoreset_mode": self.autoreset_mode}
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = _spaces(self.core)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._over = False

    @property
    def np_random_seed(self) -> int:
        """See `RPPEnv.np_random_seed`."""
        return self.core.np_random_seed

    @property
    def last_step(self) -> Step | None:
        """The last step of the core, with its prompts and the replies."""
        return self.core.last_step

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin episodes; `options` are those of `RPPEnv.reset`.

        Raises
        ------
        InvalidOption
            If ``"users"`` names another number than `num_envs`, and for ``"reset_mask"`` under
            NEXT_STEP, where all users begin together.
        """
        options = dict(known_options(options, self.core.space.options))
        # Also seed Gymnasium's own generator, which is not used here.
        unseeded = seed is None and self._np_random is None
        super().reset(seed=self.np_random_seed if unseeded else seed)
        users, mask = options.get("users"), options.get("reset_mask")
        if mask is None and (count := named_users(users)) not in (0, self.num_envs):
            raise InvalidOption(f"{count} users are named for num_envs={self.num_envs}")
        if mask is not None and self.autoreset_mode is AutoresetMode.NEXT_STEP:
            raise InvalidOption("reset_mask needs autoreset_mode DISABLED or SAME_STEP")
        _, infos = self.core.reset(seed, options)
        self._over = False
        return self.core.state(), _marked(infos, np.ones(self.num_envs, bool))

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Floats, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Take (num_envs, ...) actions of the joint space, with one call of the recommender."""
        everyone = np.ones(self.num_envs, bool)
        if self._over and self.autoreset_mode is AutoresetMode.NEXT_STEP:
            observations, infos = self.reset()
            return observations, np.zeros(self.num_envs), ~everyone, ~everyone, infos
        step = self.core.step(self.core.actions.split(np.asarray(actions)))
        over = step.terminated | step.truncated
        observations, infos = self.core.state(), _marked(step.infos, everyone)
        # Without reset_mask (refused under NEXT_STEP) all episodes end together.
        self._over = bool(over.all())
        if self.autoreset_mode is AutoresetMode.SAME_STEP and over.any():
            final = np.full(self.num_envs, None, dtype=object)
            for user in np.flatnonzero(over):
                final[user] = observations[user]
            _, begun = self.core.reset(options={"reset_mask": over})
            observations, final_infos = self.core.state(), _marked(step.infos, over)
            infos = {
                **_marked(begun, everyone),
                "final_obs": final,
                "_final_obs": over,
                "final_info": final_infos,
                "_final_info": over.copy(),
            }
        return observations, step.rewards, step.terminated, step.truncated, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """(num_envs, sum of actions) bool, the form of MaskablePPO."""
        return np.tile(_flat_masks(self.core), (self.num_envs, 1))

    def close_extras(self, **_: Any) -> None:
        """Close the model's files and connections; `close` calls it."""
        if hasattr(self, "core"):  # Gymnasium also closes an environment whose constructor failed
            self.core.close()

    def render(self) -> tuple[str, ...] | tuple[NDArray[np.uint8], ...] | None:
        """Render the last step of every user, as texts or as pictures.

        Raises
        ------
        ResetNeeded
            Before the first reset.
        """
        if self.render_mode is None:
            show(self.core, None)
            return None
        if self.render_mode == "rgb_array":
            return tuple(picture(self.core, user) for user in range(self.num_envs))
        return tuple(render(self.core, user) for user in range(self.num_envs))


def _marked(infos: dict[str, NDArray[Any]], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Add Gymnasium's ``_k`` to every key ``k``: a mask of the users that its values belong to."""
    marked: dict[str, Any] = {}
    for name, values in infos.items():
        marked[name] = values
        marked[f"_{name}"] = mask.copy()
    return marked
