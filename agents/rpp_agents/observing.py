"""Compact observations, and dropout of observed numbers in training.

The blocks of an observation that describe the user (`rpp_env.observation.Observer.layout`, up to
the first block of the prompt) do not depend on the agents. ``observation="compact"`` replaces them
by their first `COMPONENTS` whitened principal components, which are also the context of the
experiments' bandits. They are fitted on the first observations of the training users and saved with
the policy, so that it plays any environment of these observations.

``observation_dropout`` hides numbers of the user from the agents during training, each step others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rpp_agents.policy import Policy, load_policy, read_tensors, write_tensors
from rpp_agents.rollout import BatchedEnv, Transition
from rpp_agents.runs import RunConfig
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import check_numbers

__all__ = [
    "COMPONENTS",
    "CompactPolicy",
    "Components",
    "ObservationConfig",
    "Observed",
    "first_observations",
]

COMPONENTS = 8
"""Number of components of a compact observation."""

_BLOCK = 4096
"""Users whose first observations are written at once."""


@dataclass(frozen=True)
class Components:
    """Principal components of observations, whitened: of mean 0 and deviation 1.

    Attributes
    ----------
    mean, scale : (d,) float64 arrays
        Of the columns, which are standardised first.
    axes : (k, d) float array
        The principal axes of the standardised columns, the largest component first.
    offset, deviation : (k,) float arrays
        Of the components.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    axes: NDArray[Any]
    offset: NDArray[Any]
    deviation: NDArray[Any]

    @classmethod
    def fit(cls, observations: NDArray[Any], count: int = COMPONENTS) -> Components:
        """Fit the components of training users' observations (T, d).

        There are fewer than `count` if the observations have fewer columns, or the users are too
        few.

        Raises
        ------
        InvalidOption
            For a single user, and for users who all look the same.
        """
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        if len(observations) < 2:
            raise InvalidOption("components need 2 train users or more, to tell what differs")
        if (observations == observations[0]).all():
            raise InvalidOption(
                "components need train users who differ, and the observations of all are the same: "
                "give more users, or more groups of them"
            )
        # Around their mean, n users have n - 1 dimensions.
        count = min(count, len(observations) - 1, observations.shape[1])
        scaler = StandardScaler().fit(observations)
        found = PCA(count, svd_solver="full").fit(scaler.transform(observations))
        deviation = np.sqrt(found.explained_variance_)
        return cls(
            scaler.mean_,
            scaler.scale_,
            found.components_,
            (found.mean_[None] @ found.components_.T)[0],
            np.maximum(deviation, np.finfo(deviation.dtype).eps),
        )

    def __call__(self, observations: NDArray[Any]) -> NDArray[Any]:
        """(..., k), in the precision of the observations (..., d)."""
        seen = observations - self.mean.astype(observations.dtype)
        seen /= self.scale.astype(observations.dtype)
        return np.asarray((seen @ self.axes.T - self.offset) / self.deviation)


def first_observations(env: Any, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(T, d): the first agent's observations of tasks `rows` of an RPPEnv, before any prompt."""
    parts = [
        env.reset(seed=0, options={"users": rows[i : i + _BLOCK]})[0][:, 0]
        for i in range(0, len(rows), _BLOCK)
    ]
    return np.concatenate(parts)


@dataclass(frozen=True)
class ObservationConfig(RunConfig):
    """Options of a run whose learner reads observations."""

    observation: Literal["full", "compact"] = "full"
    """What the agents and critics observe of the user: all blocks (full), or their first eight
    whitened principal components, fitted on the training users (compact)."""
    observation_dropout: float = 0.0
    """Share of the numbers about the user that are hidden from the agents in training: set to the
    training users' mean, each step others, the same for all agents of a user."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 0, "observation_dropout", highest=0.99)

    def view(self, env: BatchedEnv) -> tuple[BatchedEnv, Callable[[Policy], Policy]]:
        """See `RunConfig.view`."""
        if self.observation == "full" and not self.observation_dropout:
            return super().view(env)
        seen: Any = Observed(env, self.observation == "compact", self.observation_dropout)
        return seen, seen.policy


class Observed:
    """A training environment as its learner observes it; see `rpp_agents.rollout.BatchedEnv`.

    Everything else is the environment's own.

    Parameters
    ----------
    env : RPPEnv
        Of the training users, on whose first observations everything is fitted.
    compact : bool
        Reduce the user's blocks to their components.
    dropout : float
        Share of the user's numbers that the agents do not see; the others' distances from the
        mean are divided by what remains, as dropout does. A central critic sees all.

    Raises
    ------
    InvalidOption
        For an environment that does not name the blocks of its observations, and for agents that
        see different parts of the user.
    """

    def __init__(self, env: Any, compact: bool, dropout: float) -> None:
        observer, tasks = getattr(env, "observer", None), getattr(env, "tasks", None)
        if observer is None or tasks is None:
            raise InvalidOption(
                f"{type(env).__name__} does not name the blocks of its observations, so it has no "
                'observation="compact" and no observation_dropout: leave them out'
            )
        self._env = env
        layout: dict[str, slice] = observer.layout
        self._cut = layout[next(iter(env.space.blocks))].start
        agents = tuple(range(len(env.agents)))
        hidden = [
            name
            for name, place in layout.items()
            if place.stop <= self._cut and observer.readers(name) != agents
        ]
        if hidden:
            raise InvalidOption(
                f"agents differ in what they see of the block {hidden[0]!r}: "
                'observation="compact" and observation_dropout need observe="shared"'
            )
        first = first_observations(env, np.arange(len(tasks)))[:, : self._cut]
        self.components = Components.fit(first) if compact else None
        """The components of a compact observation; None if all blocks are observed."""
        kept = self._cut if self.components is None else len(self.components.axes)
        self._mean = np.zeros(kept, np.float32) if compact else first.mean(axis=0)
        self._dropout = dropout
        self._rng = np.random.default_rng(0)
        self._moved = self._cut - kept
        self.observation_width = int(env.observation_width) - self._moved
        self.state_width = int(env.state_width) - self._moved
        self.clock, self.state_clock = (
            slice(one.start - self._moved, one.stop - self._moved)
            for one in (env.clock, env.state_clock)
        )
        if compact:
            others = {
                name: slice(place.start - self._moved, place.stop - self._moved)
                for name, place in layout.items()
                if place.start >= self._cut
            }
            layout = {"components": slice(0, kept)} | others
        self.observer = SimpleNamespace(
            layout=layout,
            ranking_shape=observer.ranking_shape,
            readers=lambda name: agents if name == "components" else observer.readers(name),
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def policy(self, policy: Policy) -> Policy:
        """Return a policy of the learner as one that plays the environment itself."""
        if self.components is None:
            return policy
        return CompactPolicy(policy, self.components, int(self._env.observation_width))

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Mapping[str, NDArray[Any]]]:
        """See `RPPEnv.reset`."""
        observations, infos = self._env.reset(seed=seed, options=options)
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        return self.seen(observations), infos

    def step(self, actions: NDArray[Any]) -> Any:
        """See `RPPEnv.step`."""
        return _Step(self, self._env.step(actions))

    def state(self) -> NDArray[np.float32]:
        """See `RPPEnv.state`."""
        return _reduced(self._env.state(), self.components)

    def seen(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, n, w): observations as the learner sees them; a new draw of what is hidden."""
        seen = _reduced(observations, self.components)
        if self._dropout:
            kept = len(self._mean)
            shown = self._rng.random((len(seen), 1, kept), np.float32) >= self._dropout
            seen = seen.copy() if seen is observations else seen
            distance = (seen[..., :kept] - self._mean) / np.float32(1 - self._dropout)
            seen[..., :kept] = self._mean + distance * shown
        return seen


class _Step:
    """A step whose observations are seen by the learner of an `Observed` environment."""

    def __init__(self, env: Observed, step: Transition) -> None:
        self._seen, self._step = env, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    @cached_property
    def observations(self) -> NDArray[np.float32]:
        return self._seen.seen(self._step.observations)


def _reduced(seen: NDArray[np.float32], components: Components | None) -> NDArray[np.float32]:
    """Replace the first columns (..., d) by their components; a new array, or `seen` itself."""
    if components is None:
        return seen
    cut = len(components.mean)
    return np.concatenate(
        [components(seen[..., :cut]).astype(np.float32), seen[..., cut:]], axis=-1
    )


class CompactPolicy:
    """A policy of compact observations, which plays full ones.

    Parameters
    ----------
    policy : Policy
        Plays compact observations; it is shared, not copied.
    components : Components
        Of the first columns of a full observation.
    width : int
        Width of a full observation.
    """

    def __init__(self, policy: Policy, components: Components, width: int) -> None:
        self.policy, self.components, self.width = policy, components, width

    def reseed(self, seed: int) -> None:
        """Restart the sampling of ``greedy=False`` with a seed."""
        if (reseed := getattr(self.policy, "reseed", None)) is not None:
            reseed(seed)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,
        memory: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """See `rpp_agents.policy.Policy.act`."""
        if observations.shape[-1] != self.width:
            raise InvalidOption(
                f"this policy reads observations of {self.width} numbers, and got "
                f"{observations.shape[-1]}: it was trained in an environment of another shape"
            )
        seen = _reduced(np.asarray(observations, np.float32), self.components)
        return self.policy.act(seen, masks, greedy=greedy, memory=memory)

    def save(self, path: str | Path) -> None:
        """Write the policy's own file and the components to one safetensors file, atomically."""
        with TemporaryDirectory() as folder:
            inner = Path(folder) / "policy.safetensors"
            self.policy.save(inner)
            tensors, policy = read_tensors(inner)
        tensors = {f"{_INNER}{name}": tensor for name, tensor in tensors.items()}
        tensors |= {name: torch.from_numpy(x) for name, x in vars(self.components).items()}
        write_tensors(path, tensors, {"kind": "compact", "width": self.width, "policy": policy})

    @classmethod
    def load(cls, path: str | Path) -> CompactPolicy:
        """Read a file that `save` wrote; `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        inner = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_INNER)}
        width, policy = about.get("width"), about.get("policy")
        if (
            about.get("kind") != "compact"
            or not isinstance(width, int)
            or not isinstance(policy, dict)
            or policy.get("kind") == "compact"  # one inside another, without end
            or not _fit(tensors, width)
        ):
            raise InvalidData(f"{path} holds no compact policy of this version of rpp_agents")
        with TemporaryDirectory() as folder:
            place = Path(folder) / Path(path).name
            own = {name.removeprefix(_INNER): tensor for name, tensor in inner.items()}
            write_tensors(place, own, policy)
            loaded = load_policy(place)
        return cls(loaded, Components(**{name: x.numpy() for name, x in tensors.items()}), width)


_INNER = "policy."
"""Prefix of the tensors of the policy inside."""


def _fit(tensors: Mapping[str, Tensor], width: int) -> bool:
    """Return whether tensors of a file are components of the first columns of `width`."""
    if set(tensors) != set(Components.__annotations__) or tensors["axes"].ndim != 2:
        return False
    count, columns = tensors["axes"].shape
    sizes = {"mean": (columns,), "scale": (columns,), "offset": (count,), "deviation": (count,)}
    return (
        0 < columns <= width
        and all(tensors[name].shape == shape for name, shape in sizes.items())
        and all(x.is_floating_point() and bool(x.isfinite().all()) for x in tensors.values())
        and all(bool((tensors[name] > 0).all()) for name in ("scale", "deviation"))
    )
