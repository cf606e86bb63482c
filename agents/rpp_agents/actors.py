"""Actors: the networks that choose, by the kinds of action that they choose among.

Shapes: ``...`` are batch axes, ``n`` agents, ``d`` the observation width, ``A`` the largest number
of actions of any agent.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rpp_agents.encoders import make_encoder
from rpp_agents.networks import AgentNet, FeatureNorm, StackedLinear
from rpp_env.errors import InvalidOption

__all__ = [
    "ACTORS",
    "Actor",
    "AutoregressiveActor",
    "CentralActor",
    "JointActor",
    "QNetwork",
    "TeamActor",
    "draw",
    "entropy",
    "legal_actions",
    "sample",
]

MASKED = -1e10
"""Logit of an action that may not be chosen: finite, so that ``p * log p`` is 0 and not NaN."""


class TeamActor(nn.Module, ABC):
    """Who chooses for all agents: what PPO trains and a `NetworkPolicy` keeps.

    Agents that choose by themselves have a log-probability each (m = n), a joint choice has one for
    all (m = 1). Made from the width of an observation, the agents' numbers of actions, and options
    that `description` holds too.
    """

    choice: ClassVar[str] = "independent"
    """How it is called in a policy's file."""
    description: dict[str, Any]
    legal: Tensor
    """Bool (n, A): the actions that each agent has."""

    @abstractmethod
    def features(self, observations: Tensor) -> Tensor:
        """What the networks see of observations ``(B, n, d)``, one row for each of B."""

    @abstractmethod
    def observe(self, observations: Tensor) -> None:
        """Take observations ``(..., n, d)`` into the statistics that they are normalised by."""

    @abstractmethod
    def choose(
        self, features: Tensor, masks: Tensor | None, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Actions (B, n) and their log-probabilities (B, m).

        Sampled with `rng`, or the most probable ones without. `masks` is bool, (n, A) or (B, n, A).
        """

    @abstractmethod
    def evaluate(self, features: Tensor, masks: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of actions (B, n), and the entropy: both (B, m)."""


class Actor(TeamActor):
    """Decentralised actors: log-probabilities of every agent's actions from its own observation.

    Parameters
    ----------
    width : int
        Width of an observation (padded to the widest).
    nvec : sequence of int
        Number of actions of each agent; actions beyond it have probability 0.
    hidden, layer_norm, shared
        As in `AgentNet`. The last layer starts with gain 0.01: nearly uniform.
    normalize : bool
        Put a `FeatureNorm` before the networks; one for each agent, unless they share a network.
    visible : sequence of int, optional
        Columns of an observation that the agents may see; by default all.
    encoder : mapping, optional
        What reads the observations first, as `rpp_agents.encoders.make_encoder` takes it.
    """

    def __init__(
        self,
        width: int,
        nvec: Sequence[int],
        *,
        hidden: Sequence[int] = (64, 64),
        layer_norm: bool = True,
        shared: bool = True,
        normalize: bool = False,
        visible: Sequence[int] | None = None,
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.description = {
            "width": int(width),
            "nvec": [int(size) for size in nvec],
            "hidden": [int(size) for size in hidden],
            "layer_norm": layer_norm,
            "shared": shared,
            "normalize": normalize,
            "visible": None if visible is None else [int(column) for column in visible],
            "encoder": None if encoder is None else dict(encoder),
        }
        self.encoder = None if encoder is None else make_encoder(encoder)
        plain = width if self.encoder is None else self.encoder.rest_width
        self.features_width = width if self.encoder is None else plain + self.encoder.hidden
        # One network for all agents reads them all in the same units.
        places = 1 if shared else len(nvec)
        self.norm = FeatureNorm(places, plain) if normalize else nn.Identity()
        most = max(nvec)
        self.net = AgentNet(
            self.features_width,
            len(nvec),
            most,
            hidden=hidden,
            gain=0.01,
            layer_norm=layer_norm,
            shared=shared,
            visible=visible,
        )
        self.register_buffer("legal", legal_actions(nvec), persistent=False)

    def forward(self, observations: Tensor, masks: Tensor | None = None) -> Tensor:
        """Log-probabilities ``(..., n, A)`` of observations ``(..., n, d)``.

        `masks` (bool, broadcastable to the result) forbids actions besides those that an agent
        never has. What is forbidden has log-probability of about -1e10.
        """
        return self.log_probs(self.features(observations), masks)

    def features(self, observations: Tensor) -> Tensor:
        """What the networks see of observations: ``(..., n, features_width)``."""
        if self.encoder is None:
            seen: Tensor = self.norm(observations)
            return seen
        # What the encoder learns to say stays in its units, which move as it learns.
        plain, encoded = self.encoder(observations)
        return torch.cat([self.norm(plain), encoded], dim=-1)

    def log_probs(self, features: Tensor, masks: Tensor | None = None) -> Tensor:
        """The second half of `forward`, from what `features` gave."""
        legal = self.legal if masks is None else self.legal & masks
        logits: Tensor = self.net(features)
        return torch.log_softmax(logits.masked_fill(~legal, MASKED), dim=-1)

    def observe(self, observations: Tensor) -> None:
        if isinstance(self.norm, FeatureNorm):
            plain = observations if self.encoder is None else self.encoder.rest(observations)
            self.norm.update(plain)

    def choose(
        self, features: Tensor, masks: Tensor | None, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        legal = self.legal if masks is None else self.legal & masks
        return draw(self.log_probs(features, masks), legal, rng)

    def evaluate(self, features: Tensor, masks: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = self.log_probs(features, masks)
        return log_probs.gather(-1, actions[..., None])[..., 0], entropy(log_probs)


class JointActor(TeamActor):
    """What actors of joint choices have in common: they see all agents' observations side by side.

    Parameters
    ----------
    width, nvec, hidden, layer_norm, normalize, visible
        As `Actor` takes them.
    shared : bool
        Not for these; `InvalidOption`.
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
    ) -> None:
        super().__init__()
        if shared:
            raise InvalidOption(
                "shared=True is for agents that choose by themselves; these choose together"
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
    """What each of an agent's actions is worth, from its own observation; built as an `Actor`."""

    def forward(self, observations: Tensor, masks: Tensor | None = None) -> Tensor:
        """Values ``(..., n, A)`` of observations ``(..., n, d)``; about -1e10 where forbidden."""
        legal = self.legal if masks is None else self.legal & masks
        values: Tensor = self.net(self.norm(observations))
        return values.masked_fill(~legal, MASKED)


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats over the last axis; a forbidden action adds nothing."""
    return -(log_probs.exp() * log_probs).sum(-1)


def draw(
    log_probs: Tensor, legal: Tensor, rng: np.random.Generator | None
) -> tuple[Tensor, Tensor]:
    """Choices along the last axis and their log-probabilities; the best ones without `rng`."""
    if rng is None:
        chosen = log_probs.argmax(-1)
    else:
        drawn = sample(log_probs.cpu().numpy(), legal.cpu().numpy(), rng)
        chosen = torch.from_numpy(drawn).to(log_probs.device)
    return chosen, log_probs.gather(-1, chosen[..., None])[..., 0]


def sample(
    log_probs: NDArray[np.float32], legal: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw from the distributions in the last axis (the exponential race, Gumbel's trick)."""
    race = rng.standard_exponential(log_probs.shape, dtype=np.float32)
    with np.errstate(divide="ignore"):
        scores = log_probs - np.log(race)
    # The race can draw exactly 0: only this line makes it impossible to choose what is forbidden.
    return np.asarray(np.where(legal, scores, -np.inf).argmax(-1))


class CentralActor(JointActor):
    """One distribution over all joint actions.

    A joint action is legal where all its parts are. The greedy one is the most probable of all.

    Parameters
    ----------
    width, nvec, **options
        As `JointActor` takes them.

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
                f"at most {_MOST_JOINT:,} are allowed: take the trainer autoregressive instead"
            )
        parts = np.stack(np.unravel_index(np.arange(joint), self.nvec), axis=1)
        self.register_buffer("parts", torch.from_numpy(parts), persistent=False)
        self.net = AgentNet(
            self.features_width,
            1,  # the team is one agent
            joint,
            hidden=self.description["hidden"],
            gain=0.01,
            layer_norm=False,  # done by then
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
        """Bool (..., joint actions) of masks (..., n, A): where every agent's part is allowed."""
        legal = self.legal if masks is None else self.legal & masks
        joint = legal[..., 0, : self.nvec[0]]
        for i, size in enumerate(self.nvec[1:], start=1):
            joint = (joint[..., :, None] & legal[..., i, None, :size]).flatten(-2)
        return joint


class AutoregressiveActor(JointActor):
    """Agents that choose in order.

    Greedy means that each takes its most probable action after those of the agents before it: not
    always the most probable joint action. The entropy is the sum of the agents' own after what was
    chosen before them: right on average, though how a choice changes the entropy of later ones has
    no gradient.

    Parameters
    ----------
    width, nvec, **options
        As `JointActor` takes them.
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
        """What all agents make of what they see: (1, B, width)."""
        out = features[None]
        for layer in self.common:
            out = F.relu(layer(out))
        return out

    def log_probs(self, read: Tensor, actions: Tensor, legal: Tensor) -> Tensor:
        """(B, n, A): of each agent's actions, after what those before it chose in `actions`."""
        agents, most = self.legal.shape
        chosen = F.one_hot(actions, most).flatten(-2).to(read.dtype) * self.earlier
        seen = torch.cat([read.expand(agents, -1, -1), chosen], dim=-1)
        logits: Tensor = self.out(F.relu(self.hidden(seen))).transpose(0, 1)
        return torch.log_softmax(logits.masked_fill(~legal, MASKED), dim=-1)


_MOST_JOINT = 100_000
"""Joint actions that a network may have; beyond, its last layer would outgrow everything."""

ACTORS: dict[str, type[TeamActor]] = {
    actor.choice: actor for actor in (Actor, AutoregressiveActor, CentralActor)
}
"""The kinds of actor, by the name that a policy's file knows them by."""
