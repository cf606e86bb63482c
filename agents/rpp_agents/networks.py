"""Building blocks of the networks: layers, per-agent networks, critics, normalisation.

The networks that choose actions are in `rpp_agents.actors`. Shapes: ``...`` are batch axes, ``n``
agents, ``d`` the observation width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "AgentNet",
    "Critic",
    "FeatureNorm",
    "Memory",
    "StackedLinear",
    "ValueNorm",
    "central_critic",
    "local_critic",
    "mlp",
    "orthogonal",
]

NARROW = 16
"""Number of columns below which a matrix product is faster when padded with zeros."""


def mlp(
    inputs: int, hidden: Sequence[int], outputs: int, *, gain: float, layer_norm: bool
) -> nn.Sequential:
    """Make linear layers with ReLU between them, orthogonal weights and zero biases.

    Parameters
    ----------
    inputs, hidden, outputs
        Widths.
    gain : float
        Gain of the last layer's weights; hidden layers have ReLU's gain, the square root of 2.
    layer_norm : bool
        Normalise the input vector first (MAPPO's "feature normalisation").
    """
    # Normalising a single number would leave nothing of it.
    layers: list[nn.Module] = [nn.LayerNorm(inputs)] if layer_norm and inputs > 1 else []
    widths = (inputs, *hidden)
    for before, after in pairwise(widths):
        layers += [_linear(before, after, 2.0**0.5), nn.ReLU()]
    return nn.Sequential(*layers, _linear(widths[-1], outputs, gain))


def orthogonal(inputs: int, outputs: int, gain: float) -> Tensor:
    """Make weights (inputs, outputs), orthogonal and scaled by `gain`."""
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

    Built like `mlp`. With `shared` all agents use one network, which gets the agent's index as a
    one-hot vector next to the input; otherwise each agent has its own network, and all are computed
    at once. Only the columns `visible` of the input are used; None: all.
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
            # LayerNorm without its own weights: those of the first layer suffice.
            inputs = F.layer_norm(inputs, inputs.shape[-1:])
        agents = 1 if self.shared else lead[-1]
        # Without -1, which is ambiguous for an empty batch.
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


class Memory(nn.Module):
    """A GRU for each agent over the steps of its episode (Cho et al. 2014).

    The result is the input with the GRU's state appended, so that what follows sees both. The state
    before the first step of an episode is 0.

    Parameters
    ----------
    width : int
        Width f of the input.
    hidden : int
        Width h of the state.
    agents : int
        Number of agents k; 1 for what is read by all together.
    shared : bool
        Whether all agents share the weights.
    """

    def __init__(self, width: int, hidden: int, agents: int, *, shared: bool) -> None:
        super().__init__()
        self.agents, self.hidden, self.shared = agents, hidden, shared
        copies = 1 if shared else agents
        self.read = StackedLinear(copies, width, 3 * hidden, gain=1.0)
        self.recur = StackedLinear(copies, hidden, 3 * hidden, gain=1.0)

    def start(self, batch: int) -> Tensor:
        """(B, k, h): the state before the first step."""
        return self.recur.weight.new_zeros(batch, self.agents, self.hidden)

    def forward(self, inputs: Tensor, begins: Tensor, start: Tensor) -> Tensor:
        """Return inputs and states after each step, (T, B, k, f + h).

        Parameters
        ----------
        inputs : (T, B, k, f)
        begins : bool (T, B)
            Where an episode begins with this step.
        start : (B, k, h)
            The state before the first step.
        """
        steps, batch = inputs.shape[:2]
        read = self._stacked(self.read, inputs.flatten(0, 1))
        read = read.reshape(steps, batch, self.agents, read.shape[-1])
        goes_on = (~begins).to(inputs.dtype)[..., None, None]
        states, state = [], start
        for t in range(steps):
            state = state * goes_on[t]
            reset, update, new = read[t].chunk(3, dim=-1)
            past, kept, old = self._stacked(self.recur, state).chunk(3, dim=-1)
            reset, update = torch.sigmoid(reset + past), torch.sigmoid(update + kept)
            state = torch.lerp(torch.tanh(new + reset * old), state, update)
            states.append(state)
        return torch.cat([inputs, torch.stack(states)], dim=-1)

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Return inputs and states, (B, k, f + h), after one step within an episode."""
        begins = torch.zeros(1, len(inputs), dtype=torch.bool, device=inputs.device)
        after: Tensor = self(inputs[None], begins, state)[0]
        return after

    def states(self, remembered: Tensor) -> Tensor:
        """(..., k, h): the states in a result of `forward` or `step`."""
        return remembered[..., -self.hidden :]

    def _stacked(self, layer: StackedLinear, inputs: Tensor) -> Tensor:
        """Apply each agent's layer to its row of ``(N, k, w)``."""
        if self.shared:
            out: Tensor = layer(inputs.reshape(1, -1, inputs.shape[-1]))
            return out.reshape(*inputs.shape[:2], out.shape[-1])
        out = layer(inputs.transpose(0, 1))
        return out.transpose(0, 1)


class FeatureNorm(nn.Module):
    """Normalises every feature to mean 0 and deviation 1, by statistics of all training data.

    Users may differ only slightly in a few of many numbers, which `torch.nn.LayerNorm`, looking at
    one vector at a time, cannot enlarge. Until the first update this is the identity. Results are
    clipped to 5 deviations.

    Parameters
    ----------
    shape : int or ints
        The last axes of the input, each place with its own statistics.
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
        """Update with a batch ``(..., *shape)``; axes with 1 in `shape` are averaged over."""
        batch = seen.reshape(-1, *seen.shape[seen.dim() - self.mean.dim() :])
        mean = batch.mean(0)
        # Centred first, so that single precision suffices for a batch.
        variance = (batch - mean).square_().mean(0).double()
        mean = mean.double()
        self.count.add_(len(batch))
        weight = len(batch) / self.count
        for kept, now in ((self.mean, mean), (self.square, variance + mean**2)):
            kept.lerp_(now if now.shape == kept.shape else now.mean(0, keepdim=True), weight)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.count == 0:
            return inputs
        # Features that hardly vary are not amplified: the deviation is at least 0.01.
        deviation = (self.square - self.mean**2).clamp(min=1e-4).sqrt()
        scale, shift = (1 / deviation).float(), (-self.mean / deviation).float()
        return torch.addcmul(shift, inputs, scale).clamp_(-5, 5)


class Critic(nn.Module):
    """A value network after a normalisation of its inputs, and after a `Memory` if there is one.

    The network of a central critic reads ``(..., s)``, which its memory reads as one agent's.
    """

    def __init__(
        self, norm: nn.Module, net: nn.Module, memory: Memory | None = None, central: bool = False
    ) -> None:
        super().__init__()
        self.norm, self.net, self.memory, self.central = norm, net, memory, central

    def remember(self, inputs: Tensor, begins: Tensor, start: Tensor) -> Tensor:
        """Return the network's inputs for normalised ones (T, B, ...): see `Memory.forward`."""
        assert self.memory is not None
        read = inputs[..., None, :] if self.central else inputs
        remembered: Tensor = self.memory(read, begins, start)
        return remembered[..., 0, :] if self.central else remembered

    def after(self, inputs: Tensor, remembered: Tensor) -> Tensor:
        """Return the network's inputs (N, ...) one step after those `remembered`."""
        assert self.memory is not None
        state = self.memory.states(remembered)
        if self.central:
            return self.memory.step(inputs[:, None], state[:, None])[:, 0]
        return self.memory.step(inputs, state)

    def forward(self, inputs: Tensor) -> Tensor:
        values: Tensor = self.net(self.norm(inputs))
        return values

    def observe(self, inputs: Tensor) -> None:
        """Update the normalisation statistics with inputs."""
        if isinstance(self.norm, FeatureNorm):
            self.norm.update(inputs)


def central_critic(
    width: int,
    outputs: int,
    *,
    hidden: Sequence[int],
    layer_norm: bool,
    normalize: bool = False,
    memory: int = 0,
) -> Critic:
    """Make a critic of the whole team's state, ``(..., s) -> (..., outputs)``: 1, or n values."""
    net = mlp(width + memory, hidden, outputs, gain=1.0, layer_norm=layer_norm)
    norm = FeatureNorm(width) if normalize else nn.Identity()
    return Critic(norm, net, Memory(width, memory, 1, shared=True) if memory else None, True)


def local_critic(
    width: int,
    num_agents: int,
    *,
    hidden: Sequence[int],
    layer_norm: bool,
    shared: bool,
    normalize: bool = False,
    memory: int = 0,
) -> Critic:
    """Make a critic of each agent's own observation, ``(..., n, d) -> (..., n)``."""
    net = AgentNet(
        width + memory, num_agents, 1, hidden=hidden, gain=1.0, layer_norm=layer_norm, shared=shared
    )
    norm = FeatureNorm(1 if shared else num_agents, width) if normalize else nn.Identity()
    kept = Memory(width, memory, num_agents, shared=shared) if memory else None
    return Critic(norm, nn.Sequential(net, nn.Flatten(-2)), kept)


class ValueNorm(nn.Module):
    """Running mean and variance of returns, per critic output, with bias correction.

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
        """Update with a batch of returns ``(..., outputs)``."""
        batch = returns.reshape(-1, returns.shape[-1]).double()
        self.weight.mul_(self.beta).add_(1 - self.beta)
        self.mean_sum.mul_(self.beta).add_(batch.mean(0), alpha=1 - self.beta)
        self.square_sum.mul_(self.beta).add_((batch**2).mean(0), alpha=1 - self.beta)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, float32; 0 and 1 before the first update."""
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
