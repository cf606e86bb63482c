"""The networks of the trainers: actors for any number of agents, critics, and value normalisation.

Shapes: ``...`` are batch axes, ``n`` agents, ``d`` the observation width, ``A`` the largest number
of actions of any agent.
"""

from __future__ import annotations

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
from rpp_env.errors import InvalidOption

__all__ = [
    "Actor",
    "AgentNet",
    "Critic",
    "FeatureNorm",
    "JointActor",
    "QNetwork",
    "StackedLinear",
    "TeamActor",
    "ValueNorm",
    "central_critic",
    "draw",
    "entropy",
    "legal_actions",
    "local_critic",
    "mlp",
    "orthogonal",
    "sample",
]

MASKED = -1e10
"""Logit of an action that may not be chosen: finite, so that ``p * log p`` is 0 and not NaN."""


NARROW = 16
"""Products of matrices with fewer columns than this take longer than with zeros beside them."""


def mlp(
    inputs: int, hidden: Sequence[int], outputs: int, *, gain: float, layer_norm: bool
) -> nn.Sequential:
    """Linear layers with ReLU between them, orthogonal weights and zero biases.

    Parameters
    ----------
    inputs, hidden, outputs
        Widths.
    gain : float
        Gain of the last layer's weights; hidden layers take ReLU's, the square root of 2.
    layer_norm : bool
        Normalise the input vector first (MAPPO's "feature normalisation").
    """
    # Of a single number nothing would be left.
    layers: list[nn.Module] = [nn.LayerNorm(inputs)] if layer_norm and inputs > 1 else []
    widths = (inputs, *hidden)
    for before, after in pairwise(widths):
        layers += [_linear(before, after, 2.0**0.5), nn.ReLU()]
    return nn.Sequential(*layers, _linear(widths[-1], outputs, gain))


def orthogonal(inputs: int, outputs: int, gain: float) -> Tensor:
    """Weights (inputs, outputs), orthogonal and scaled by `gain`."""
    weight = torch.empty(outputs, inputs)
    if inputs:
        nn.init.orthogonal_(weight, gain)
    return weight.T


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class AgentNet(nn.Module):
    """One output per agent, from that agent's input alone: ``(..., n, d) -> (..., n, outputs)``.

    Built as `mlp`. With `shared` all agents use one network, which sees the agent's number as a
    one-hot beside the input; otherwise each agent has a network of its own, and all are computed at
    once. Of the input only the columns `visible` are looked at; None: all.
    """

    identity: Tensor
    visible: Tensor | None

    def __init__(
        self,
        width: int,
        num_agents: int,
        outputs: int,
        *,
        hidden: Sequence[int],
        gain: float,
        layer_norm: bool,
        shared: bool,
        visible: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        columns = None if visible is None else torch.tensor(visible, dtype=torch.int64)
        self.register_buffer("visible", columns, persistent=False)
        self.register_buffer("identity", torch.eye(num_agents), persistent=False)
        self.shared = shared
        inputs = width if visible is None else len(visible)
        inputs, copies = (inputs + num_agents, 1) if shared else (inputs, num_agents)
        self.layer_norm = layer_norm and inputs > 1
        widths = (inputs, *hidden)
        self.layers = nn.ModuleList(
            StackedLinear(copies, *pair, gain=2.0**0.5) for pair in pairwise(widths)
        )
        self.layers.append(StackedLinear(copies, widths[-1], outputs, gain=gain))

    def forward(self, inputs: Tensor) -> Tensor:
        lead = inputs.shape[:-1]
        if self.visible is not None:
            inputs = inputs[..., self.visible]
        if self.shared:
            inputs = torch.cat([inputs, self.identity.expand(*lead, -1)], dim=-1)
        if self.layer_norm:
            # Without weights of its own: those of the first layer do as well.
            inputs = F.layer_norm(inputs, inputs.shape[-1:])
        agents = 1 if self.shared else lead[-1]
        # Without -1, which says nothing of an empty batch.
        out: Tensor
        out = inputs.reshape(lead.numel() // agents, agents, inputs.shape[-1]).transpose(0, 1)
        for layer in self.layers[:-1]:
            out = F.relu(layer(out))
        out = self.layers[-1](out)
        return out.transpose(0, 1).reshape(*lead, out.shape[-1])


class StackedLinear(nn.Module):
    """A linear layer for each of k inputs: ``(k, N, inputs) -> (k, N, outputs)``."""

    def __init__(self, copies: int, inputs: int, outputs: int, *, gain: float) -> None:
        super().__init__()
        weights = [orthogonal(inputs, outputs, gain) for _ in range(copies)]
        self.weight = nn.Parameter(torch.stack(weights))
        self.bias = nn.Parameter(torch.zeros(copies, 1, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.weight.shape[-1]
        if outputs >= NARROW:
            return torch.baddbmm(self.bias, inputs, self.weight)
        wide = F.pad(self.weight, (0, NARROW - outputs))
        return torch.bmm(inputs, wide)[..., :outputs] + self.bias


class FeatureNorm(nn.Module):
    """Gives every feature mean 0 and deviation 1, by statistics of all that was seen in training.

    What tells users apart may be a small difference in a few of many numbers, which
    `torch.nn.LayerNorm`, looking at one vector at a time, cannot enlarge. Until the first update
    this is the identity. Results are clipped to 5 deviations.

    Parameters
    ----------
    shape : int or ints
        The last axes of what is normalised, each place with statistics of its own.
    """

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def update(self, seen: Tensor) -> None:
        """Take in a batch ``(..., *shape)``; axes that `shape` has as 1 are averaged over."""
        batch = seen.reshape(-1, *seen.shape[seen.dim() - self.mean.dim() :])
        mean = batch.mean(0)
        # Around the mean, and single precision is enough for a batch.
        variance = (batch - mean).square_().mean(0).double()
        mean = mean.double()
        self.count.add_(len(batch))
        weight = len(batch) / self.count
        for kept, now in ((self.mean, mean), (self.square, variance + mean**2)):
            kept.lerp_(now if now.shape == kept.shape else now.mean(0, keepdim=True), weight)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.count == 0:
            return inputs
        # Features that hardly vary, or not at all, are not blown up: the deviation is 0.01 or more.
        deviation = (self.square - self.mean**2).clamp(min=1e-4).sqrt()
        scale, shift = (1 / deviation).float(), (-self.mean / deviation).float()
        return torch.addcmul(shift, inputs, scale).clamp_(-5, 5)


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


class Critic(nn.Module):
    """A network of values behind what normalises its inputs."""

    def __init__(self, norm: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.norm, self.net = norm, net

    def forward(self, inputs: Tensor) -> Tensor:
        values: Tensor = self.net(self.norm(inputs))
        return values

    def observe(self, inputs: Tensor) -> None:
        """Take inputs into the statistics that they are normalised by."""
        if isinstance(self.norm, FeatureNorm):
            self.norm.update(inputs)


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


def central_critic(
    width: int, outputs: int, *, hidden: Sequence[int], layer_norm: bool, normalize: bool = False
) -> Critic:
    """Values of the whole team's state, ``(..., s) -> (..., outputs)``: 1, or one per agent."""
    net = mlp(width, hidden, outputs, gain=1.0, layer_norm=layer_norm)
    return Critic(FeatureNorm(width) if normalize else nn.Identity(), net)


def local_critic(
    width: int,
    num_agents: int,
    *,
    hidden: Sequence[int],
    layer_norm: bool,
    shared: bool,
    normalize: bool = False,
) -> Critic:
    """One value per agent from its own observation, ``(..., n, d) -> (..., n)``."""
    net = AgentNet(
        width, num_agents, 1, hidden=hidden, gain=1.0, layer_norm=layer_norm, shared=shared
    )
    norm = FeatureNorm(1 if shared else num_agents, width) if normalize else nn.Identity()
    return Critic(norm, nn.Sequential(net, nn.Flatten(-2)))


class ValueNorm(nn.Module):
    """Running mean and variance of returns, per critic output, without the bias of starting at 0.

    As in MAPPO (Yu et al. 2022): exponential averages of the mean and of the mean square, divided
    by the weight collected so far; the variance is never taken below 0.01.
    """

    weight: Tensor
    mean_sum: Tensor
    square_sum: Tensor

    def __init__(self, outputs: int, beta: float = 0.99999) -> None:
        super().__init__()
        self.beta = beta
        # 1 - beta is 1e-5: single precision would lose the statistics' last digits.
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean_sum", torch.zeros(outputs, dtype=torch.float64))
        self.register_buffer("square_sum", torch.zeros(outputs, dtype=torch.float64))

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Take in a batch of returns ``(..., outputs)``."""
        batch = returns.reshape(-1, returns.shape[-1]).double()
        self.weight.mul_(self.beta).add_(1 - self.beta)
        self.mean_sum.mul_(self.beta).add_(batch.mean(0), alpha=1 - self.beta)
        self.square_sum.mul_(self.beta).add_((batch**2).mean(0), alpha=1 - self.beta)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, float32; 0 and 1 before the first update."""
        if self.weight == 0:
            return torch.zeros_like(self.mean_sum).float(), torch.ones_like(self.mean_sum).float()
        mean = self.mean_sum / self.weight
        variance = (self.square_sum / self.weight - mean**2).clamp(min=1e-2)
        return mean.float(), variance.sqrt().float()

    def normalize(self, returns: Tensor) -> Tensor:
        mean, deviation = self.statistics()
        return (returns - mean) / deviation

    def denormalize(self, values: Tensor) -> Tensor:
        mean, deviation = self.statistics()
        return values * deviation + mean
