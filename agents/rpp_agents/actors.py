"""Actors: the networks that choose actions, for each kind of action space.

Shapes: ``...`` are batch axes, ``n`` agents, ``d`` the observation width, ``A`` the largest number
of actions of any agent, ``k`` the longest action where actions are vectors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rpp_agents.encoders import make_encoder
from rpp_agents.networks import AgentNet, FeatureNorm, Memory, StackedLinear
from rpp_env.errors import InvalidOption
from rpp_env.spaces import ActionSpaces, BoxSpaces, DiscreteSpaces, bounds_of

__all__ = [
    "ACTORS",
    "Actor",
    "AutoregressiveActor",
    "CentralActor",
    "GaussianActor",
    "IndependentActor",
    "JointActor",
    "QNetwork",
    "TeamActor",
    "draw",
    "entropy",
    "independent",
    "legal_actions",
    "make_actor",
    "sample",
]

MASKED = -1e10
"""Logit of a forbidden action: finite, so that ``p * log p`` is 0 and not NaN."""


class TeamActor(nn.Module, ABC):
    """Network that chooses for all agents; trained by PPO and saved by `NetworkPolicy`.

    Agents that choose separately have a log-probability each (m = n), a joint choice has one for
    all (m = 1). An actor is made from the width of an observation, the description of the agents'
    actions (see `rpp_env.spaces`), and options that are part of its `description`.
    """

    choice: ClassVar[str]
    """Name of the class in a policy's file."""
    plays: ClassVar[type[DiscreteSpaces | BoxSpaces]] = DiscreteSpaces
    """Kind of actions that it chooses."""
    description: dict[str, Any]
    legal: Tensor
    """Bool (n, A): the actions that each agent has; for vectors (n, 1), all true."""

    @property
    def memory(self) -> Memory | None:
        """Memory of the episode, whose result (`Memory.forward`) takes the features' place."""
        found = self._modules.get("gru")
        return found if isinstance(found, Memory) else None

    @abstractmethod
    def features(self, observations: Tensor) -> Tensor:
        """Return the networks' inputs for observations ``(B, n, d)``, one row for each of B."""

    @abstractmethod
    def observe(self, observations: Tensor) -> None:
        """Update the normalisation statistics with observations ``(..., n, d)``."""

    @abstractmethod
    def choose(
        self, features: Tensor, masks: Tensor | None, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Choose actions, (B, n) or (B, n, k), and return their log-probabilities (B, m) too.

        Sampled with `rng`, or the most probable ones without it. `masks` is bool, (n, A) or
        (B, n, A).
        """

    @abstractmethod
    def evaluate(self, features: Tensor, masks: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of actions, and the entropy: both (B, m)."""

    def playable(self, actions: Tensor) -> Tensor:
        """Convert chosen actions to those that the environment takes."""
        return actions


class IndependentActor(TeamActor):
    """Agents that choose separately, each by a network over its own observation.

    Parameters
    ----------
    width : int
        Width of an observation (padded to the widest).
    actions : mapping
        Action spaces, from the description.
    agents, outputs : int
        Number of agents, and of outputs of the network of each.
    hidden, layer_norm, shared
        See `AgentNet`. The last layer starts with gain 0.01, so that all choices are nearly equal.
    normalize : bool
        Put a `FeatureNorm` before the networks; one per agent, unless they share a network.
    visible : sequence of int, optional
        Columns of an observation that the agents may use; by default all.
    encoder : mapping, optional
        Description of the encoder of the observations; see `rpp_agents.encoders.make_encoder`.
    memory : int
        Width of the state of a `Memory` of each agent; 0: no memory.
    """

    def __init__(
        self,
        width: int,
        actions: Mapping[str, Any],
        agents: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (64, 64),
        layer_norm: bool = True,
        shared: bool = True,
        normalize: bool = False,
        visible: Sequence[int] | None = None,
        encoder: Mapping[str, Any] | None = None,
        memory: int = 0,
    ) -> None:
        super().__init__()
        self.description = {
            "width": int(width),
            **actions,
            "hidden": [int(size) for size in hidden],
            "layer_norm": layer_norm,
            "shared": shared,
            "normalize": normalize,
            "visible": None if visible is None else [int(column) for column in visible],
            "encoder": None if encoder is None else dict(encoder),
        }
        if memory:
            self.description["memory"] = int(memory)
            if visible is not None:
                raise InvalidOption("blind agents see only the time, of which there is no memory")
        self.encoder = None if encoder is None else make_encoder(encoder)
        plain = width if self.encoder is None else self.encoder.rest_width
        self.features_width = width if self.encoder is None else plain + self.encoder.hidden
        # A shared network needs inputs in the same units for all agents.
        places = 1 if shared else agents
        self.norm = FeatureNorm(places, plain) if normalize else nn.Identity()
        self.net = AgentNet(
            self.features_width + memory,
            agents,
            outputs,
            hidden=hidden,
            gain=0.01,
            layer_norm=layer_norm,
            shared=shared,
            visible=visible,
        )
        if memory:
            self.gru = Memory(self.features_width, memory, agents, shared=shared)

    def features(self, observations: Tensor) -> Tensor:
        """Return the networks' inputs for observations: ``(..., n, features_width)``."""
        if self.encoder is None:
            seen: Tensor = self.norm(observations)
            return seen
        # The encoder's output is not normalised: its statistics change as it learns.
        plain, encoded = self.encoder(observations)
        return torch.cat([self.norm(plain), encoded], dim=-1)

    def observe(self, observations: Tensor) -> None:
        if isinstance(self.norm, FeatureNorm):
            plain = observations if self.encoder is None else self.encoder.rest(observations)
            self.norm.update(plain)


class Actor(IndependentActor):
    """Agents that choose one of a number of actions, with a log-probability for each.

    Parameters
    ----------
    width : int
        Width of an observation (padded to the widest).
    nvec : sequence of int
        Number of actions of each agent; actions beyond it have probability 0.
    **options
        Options of `IndependentActor`.
    """

    choice: ClassVar[str] = "independent"

    def __init__(self, width: int, nvec: Sequence[int], **options: Any) -> None:
        sizes = [int(size) for size in nvec]
        super().__init__(width, {"nvec": sizes}, len(sizes), max(sizes), **options)
        self.register_buffer("legal", legal_actions(sizes), persistent=False)

    def forward(self, observations: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return log-probabilities ``(..., n, A)`` for observations ``(..., n, d)``.

        `masks` (bool, broadcastable to the result) forbids further actions besides those that an
        agent does not have. Forbidden actions have log-probabilities of about -1e10.
        """
        return self.log_probs(self.features(observations), masks)

    def log_probs(self, features: Tensor, masks: Tensor | None = None) -> Tensor:
        """Compute the second half of `forward`, from the result of `features`."""
        legal = self.legal if masks is None else self.legal & masks
        logits: Tensor = self.net(features)
        return torch.log_softmax(logits.masked_fill(~legal, MASKED), dim=-1)

    def choose(
        self, features: Tensor, masks: Tensor | None, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        legal = self.legal if masks is None else self.legal & masks
        return draw(self.log_probs(features, masks), legal, rng)

    def evaluate(self, features: Tensor, masks: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = self.log_probs(features, masks)
        return log_probs.gather(-1, actions[..., None])[..., 0], entropy(log_probs)


class GaussianActor(IndependentActor):
    """Agents whose actions are vectors, with a normal distribution for each number.

    The network returns the means. Standard deviations do not depend on the observation: they have
    one parameter, the logarithm, for each number of each agent (or of all agents together, if they
    share a network). Numbers with two bounds are measured from the middle between them, in units of
    half their distance; a standard deviation begins as 1 of these units. As in CleanRL and
    Stable-Baselines3 the distribution ignores the bounds: log-probabilities are the sample's,
    and the environment gets the clipped action (`playable`).

    The greedy action is the mean. An agent whose mask is False has left: its action is 0.

    Parameters
    ----------
    width : int
        Width of an observation (padded to the widest).
    boxes : sequence of mappings
        For each agent, ``low`` and ``high``: the bounds of its numbers, None if unbounded.
    **options
        Options of `IndependentActor`.
    """

    choice: ClassVar[str] = "gaussian"
    plays: ClassVar[type[DiscreteSpaces | BoxSpaces]] = BoxSpaces
    low: Tensor
    high: Tensor
    middle: Tensor
    unit: Tensor
    has: Tensor
    """Bool (n, k): the numbers that each agent has."""

    def __init__(self, width: int, boxes: Sequence[Mapping[str, Any]], **options: Any) -> None:
        bounds = [bounds_of(box) for box in boxes]
        agents, most = len(bounds), max(len(low) for low, _ in bounds)
        about = [{"low": list(box["low"]), "high": list(box["high"])} for box in boxes]
        super().__init__(width, {"boxes": about}, agents, most, **options)
        copies = 1 if self.description["shared"] else agents
        self.log_std = nn.Parameter(torch.zeros(copies, most))
        none = torch.zeros(agents, most)
        low, high, has = none.clone(), none.clone(), none.bool()
        for row, (below, above) in enumerate(bounds):
            low[row, : len(below)] = torch.tensor(below)
            high[row, : len(above)] = torch.tensor(above)
            has[row, : len(below)] = True
        # Old environments use the largest float for an unbounded number.
        half = (high / 2 - low / 2).nan_to_num(posinf=0)
        bounded = (half > 0) & (half < _NO_BOUND)
        buffers = {
            "legal": torch.ones(agents, 1, dtype=torch.bool),
            "has": has,
            "low": low,
            "high": high,
            "unit": torch.where(bounded, half, 1.0),
            "middle": torch.where(bounded, low / 2 + high / 2, 0.0),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return means ``(..., n, k)`` and logarithms of the standard deviations ``(n, k)``."""
        means: Tensor = self.middle + self.unit * self.net(features)
        return means, self.unit.log() + self.log_std

    def choose(
        self, features: Tensor, masks: Tensor | None, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        acts = self.legal if masks is None else self.legal & masks
        means, log_std = self.distribution(features)
        chosen = means
        if rng is not None:
            noise = rng.standard_normal(tuple(means.shape), np.float32)
            chosen = means + log_std.exp() * torch.from_numpy(noise).to(means.device)
        chosen = chosen.masked_fill(~(acts & self.has), 0.0)
        return chosen, self._log_probs(means, log_std, acts, chosen)

    def evaluate(self, features: Tensor, masks: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        acts = self.legal & masks
        means, log_std = self.distribution(features)
        spread = (log_std + 0.5 * math.log(2 * math.pi * math.e)).expand_as(means)
        log_probs = self._log_probs(means, log_std, acts, actions)
        return log_probs, spread.masked_fill(~(acts & self.has), 0.0).sum(-1)

    def playable(self, actions: Tensor) -> Tensor:
        return actions.clamp(self.low, self.high)

    def _log_probs(self, means: Tensor, log_std: Tensor, acts: Tensor, actions: Tensor) -> Tensor:
        """(..., n): the sum over all numbers of an agent."""
        errors = (actions - means) * (-log_std).exp()
        each = -0.5 * errors**2 - log_std - 0.5 * math.log(2 * math.pi)
        return each.masked_fill(~(acts & self.has), 0.0).sum(-1)


class JointActor(TeamActor):
    """Base of actors with a joint choice: they read all agents' observations, concatenated.

    Parameters
    ----------
    width, nvec, hidden, layer_norm, normalize, visible
        Options of `Actor`.
    shared : bool
        Not supported; `InvalidOption`.
    """

    columns: Tensor

    def __init__(
        self,
        width: int,
        nvec: Sequence[int],
        *,
        hidden: Sequence[int] = (64, 64),
        layer_norm: bool = True,
        shared: bool = False,
        normalize: bool = False,
        visible: Sequence[int] | None = None,
        memory: int = 0,
    ) -> None:
        super().__init__()
        if memory:
            raise InvalidOption(
                "memory is for agents that choose separately; these choose together: use memory=0, "
                "or mappo, ippo or a2c"
            )
        if shared:
            raise InvalidOption(
                "shared=True is for agents that choose separately; these choose together"
            )
        self.description = {
            "width": int(width),
            "nvec": [int(size) for size in nvec],
            "hidden": [int(size) for size in hidden],
            "layer_norm": layer_norm,
            "normalize": normalize,
            "visible": None if visible is None else [int(column) for column in visible],
        }
        seen = torch.arange(width) if visible is None else torch.tensor(visible, dtype=torch.int64)
        self.register_buffer("columns", seen, persistent=False)
        self.norm = FeatureNorm(len(nvec), width) if normalize else nn.Identity()
        self.features_width = len(seen) * len(nvec)
        self.layer_norm = layer_norm and self.features_width > 1
        self.register_buffer("legal", legal_actions(nvec), persistent=False)

    def features(self, observations: Tensor) -> Tensor:
        """(B, features_width)."""
        seen = self.norm(observations)[..., self.columns].flatten(-2)
        return F.layer_norm(seen, seen.shape[-1:]) if self.layer_norm else seen

    def observe(self, observations: Tensor) -> None:
        if isinstance(self.norm, FeatureNorm):
            self.norm.update(observations)


def legal_actions(nvec: Sequence[int]) -> Tensor:
    """Bool (n, A): the actions that each agent has."""
    sizes = [int(size) for size in nvec]
    return torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]


class QNetwork(Actor):
    """Action values of each agent, from its own observation; built as an `Actor`."""

    def forward(self, observations: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return values ``(..., n, A)`` of observations ``(..., n, d)``; -1e10 if forbidden."""
        return self.of(self.features(observations), masks)

    def of(self, features: Tensor, masks: Tensor | None = None) -> Tensor:
        """Compute the second half of `forward`, from the result of `features`, or of the memory."""
        legal = self.legal if masks is None else self.legal & masks
        values: Tensor = self.net(features)
        return values.masked_fill(~legal, MASKED)


def entropy(log_probs: Tensor) -> Tensor:
    """Compute the entropy in nats over the last axis; forbidden actions add nothing."""
    return -(log_probs.exp() * log_probs).sum(-1)


def draw(
    log_probs: Tensor, legal: Tensor, rng: np.random.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw choices along the last axis, with log-probabilities; the best ones without `rng`."""
    if rng is None:
        chosen = log_probs.argmax(-1)
    else:
        drawn = sample(log_probs.cpu().numpy(), legal.cpu().numpy(), rng)
        chosen = torch.from_numpy(drawn).to(log_probs.device)
    return chosen, log_probs.gather(-1, chosen[..., None])[..., 0]


def sample(
    log_probs: NDArray[np.float32], legal: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Sample from the distributions in the last axis (exponential race, the Gumbel trick)."""
    race = rng.standard_exponential(log_probs.shape, dtype=np.float32)
    with np.errstate(divide="ignore"):
        scores = log_probs - np.log(race)
    # The race can draw exactly 0: this line ensures that no forbidden action is chosen.
    return np.asarray(np.where(legal, scores, -np.inf).argmax(-1))


class CentralActor(JointActor):
    """A single distribution over all joint actions.

    A joint action is legal if all its parts are. The greedy one is the most probable of all.

    Parameters
    ----------
    width, nvec, **options
        Options of `JointActor`.

    Raises
    ------
    InvalidOption
        If there are more than 100,000 joint actions.
    """

    choice: ClassVar[str] = "central"
    parts: Tensor

    def __init__(self, width: int, nvec: Sequence[int], **options: Any) -> None:
        super().__init__(width, nvec, **options)
        self.nvec = [int(size) for size in nvec]
        joint = math.prod(self.nvec)
        if joint > _MOST_JOINT:
            raise InvalidOption(
                f"a central learner has an output for every joint action, here {joint:,} of them; "
                f"at most {_MOST_JOINT:,} are allowed: use the trainer autoregressive instead"
            )
        parts = np.stack(np.unravel_index(np.arange(joint), self.nvec), axis=1)
        self.register_buffer("parts", torch.from_numpy(parts), persistent=False)
        self.net = AgentNet(
            self.features_width,
            1,  # the team is one agent
            joint,
            hidden=self.description["hidden"],
            gain=0.01,
            layer_norm=False,  # applied before
            shared=False,
        )

    def choose(
        self, features: Tensor, masks: Tensor | None, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        legal = self.joint_legal(masks)
        chosen, log_probs = draw(self.log_probs(features, legal), legal, rng)
        return self.parts[chosen], log_probs[:, None]

    def evaluate(self, features: Tensor, masks: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = self.log_probs(features, self.joint_legal(masks))
        chosen = torch.zeros_like(actions[:, :1])
        for i, size in enumerate(self.nvec):
            chosen = chosen * size + actions[:, i : i + 1]
        return log_probs.gather(-1, chosen), entropy(log_probs)[:, None]

    def log_probs(self, features: Tensor, legal: Tensor) -> Tensor:
        """(B, joint actions)."""
        logits: Tensor = self.net(features[:, None])[:, 0]
        return torch.log_softmax(logits.masked_fill(~legal, MASKED), dim=-1)

    def joint_legal(self, masks: Tensor | None) -> Tensor:
        """Bool (..., joint actions) of masks (..., n, A): where all agents' parts are allowed."""
        legal = self.legal if masks is None else self.legal & masks
        joint = legal[..., 0, : self.nvec[0]]
        for i, size in enumerate(self.nvec[1:], start=1):
            joint = (joint[..., :, None] & legal[..., i, None, :size]).flatten(-2)
        return joint


class AutoregressiveActor(JointActor):
    """Agents that choose in order, each depending on the choices before it.

    In the greedy choice each agent takes its most probable action, given those of the agents before
    it: not always the most probable joint action. The entropy is the sum of the agents' conditional
    entropies at the sampled choices: an unbiased estimate, but without the gradient through a
    choice's effect on the entropy of later ones.

    Parameters
    ----------
    width, nvec, **options
        Options of `JointActor`.
    """

    choice: ClassVar[str] = "autoregressive"
    earlier: Tensor

    def __init__(self, width: int, nvec: Sequence[int], **options: Any) -> None:
        super().__init__(width, nvec, **options)
        agents, most = self.legal.shape
        *common, last = self.description["hidden"]
        widths = (self.features_width, *common)
        gain = 2.0**0.5
        self.common = nn.ModuleList(StackedLinear(1, *pair, gain=gain) for pair in pairwise(widths))
        self.hidden = StackedLinear(agents, widths[-1] + agents * most, last, gain=gain)
        self.out = StackedLinear(agents, last, most, gain=0.01)
        earlier = torch.ones(agents, agents).tril(-1).repeat_interleave(most, dim=1)
        self.register_buffer("earlier", earlier[:, None], persistent=False)

    def choose(
        self, features: Tensor, masks: Tensor | None, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        legal = self.legal if masks is None else self.legal & masks
        agents = len(self.legal)
        read = self.read(features)
        actions = torch.zeros((len(features), agents), dtype=torch.int64, device=features.device)
        total = torch.zeros((len(features), 1), device=features.device)
        for i in range(agents):
            log_probs = self.log_probs(read, actions, legal)[:, i]
            actions[:, i], chosen = draw(log_probs, legal[..., i, :], rng)
            total += chosen[:, None]
        return actions, total

    def evaluate(self, features: Tensor, masks: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = self.log_probs(self.read(features), actions, self.legal & masks)
        chosen = log_probs.gather(-1, actions[..., None])[..., 0]
        return chosen.sum(-1, keepdim=True), entropy(log_probs).sum(-1, keepdim=True)

    def read(self, features: Tensor) -> Tensor:
        """Compute all agents' shared representation of the observations: (1, B, width)."""
        out = features[None]
        for layer in self.common:
            out = F.relu(layer(out))
        return out

    def log_probs(self, read: Tensor, actions: Tensor, legal: Tensor) -> Tensor:
        """(B, n, A): log-probabilities of each agent's actions, given those before it."""
        agents, most = self.legal.shape
        chosen = F.one_hot(actions, most).flatten(-2).to(read.dtype) * self.earlier
        seen = torch.cat([read.expand(agents, -1, -1), chosen], dim=-1)
        logits: Tensor = self.out(F.relu(self.hidden(seen))).transpose(0, 1)
        return torch.log_softmax(logits.masked_fill(~legal, MASKED), dim=-1)


_MOST_JOINT = 100_000
"""Maximum joint actions of a network; beyond it, the last layer would be too large."""
_NO_BOUND = 1e6
"""Half distance of two bounds from which they count as infinite when numbers are scaled."""

A = TypeVar("A", bound=TeamActor)

ACTORS: dict[str, type[TeamActor]] = {
    actor.choice: actor for actor in (Actor, GaussianActor, AutoregressiveActor, CentralActor)
}
"""Kinds of actors by their names in a policy's file; add new kinds here."""


def independent(actions: ActionSpaces) -> type[IndependentActor]:
    """Return the kind in `ACTORS` whose agents choose such actions separately."""
    return next(
        actor
        for actor in ACTORS.values()
        if issubclass(actor, IndependentActor) and actor.plays is type(actions)
    )


def make_actor(kind: type[A], width: int, actions: ActionSpaces, **options: Any) -> A:
    """Make an actor for the agents' action spaces.

    Parameters
    ----------
    kind : type of TeamActor
    width : int
        Width of an observation.
    actions : ActionSpaces
        The agents' action spaces, from `rpp_env.spaces.spaces_of`.
    **options
        Options of the actor, such as `hidden`.

    Raises
    ------
    InvalidOption
        If this kind of actor does not support such actions.
    """
    if not isinstance(actions, kind.plays):
        raise InvalidOption(
            f"agent {actions.agents[0]!r} acts in {actions.spaces[0]}, and this trainer only plays "
            f"{kind.plays.space.__name__} actions: use mappo, ippo or a2c, which play both kinds"
        )
    return kind(width, actions.description, **options)
