"""The policy protocol, the policies that trainers return, and their files.

A policy file is one safetensors file with its JSON description in the header, so that the two
cannot disagree; nothing is ever unpickled.
"""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rpp_agents.actors import ACTORS, Actor, QNetwork, TeamActor
from rpp_env.data.tensors import build, read_tensors, write_tensors
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.evaluation import baselines
from rpp_env.evaluation.baselines import load_baseline

__all__ = [
    "NetworkPolicy",
    "Policy",
    "QPolicy",
    "build",
    "load_policy",
    "read_tensors",
    "write_tensors",
]


@runtime_checkable
class Policy(baselines.Policy, Protocol):
    """A policy that chooses actions for a batch of users, and can be saved to a file."""

    def save(self, path: str | Path) -> None:
        """Write the policy to one file; `load_policy` reads it."""
        ...


class NetworkPolicy:
    """A trained actor.

    Parameters
    ----------
    actor : TeamActor
        The network; it is shared, not copied.
    seed : int
        Seed of the sampling that ``greedy=False`` does.
    """

    def __init__(self, actor: TeamActor, *, seed: int = 0) -> None:
        self.actor = actor
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Restart the sampling of ``greedy=False`` with a seed."""
        self._rng = np.random.default_rng(seed)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,
        memory: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """See `Policy.act`; `memory` is that of `recall`, and unchanged for actors without one."""
        rng = None if greedy else self._rng
        actions, _, memory = self._choose(observations, masks, rng, memory)
        return self.actor.playable(actions).cpu().numpy(), memory

    def recall(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None,
        rng: np.random.Generator | None,
        memory: NDArray[np.float32] | None,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Return actions and log-probabilities as `choose`, and the memory, (B, n, h) float32.

        `memory` is that of the step before; None, or rows of zeros, where episodes begin.
        """
        actions, log_probs, memory = self._choose(observations, masks, rng, memory)
        assert memory is not None
        return actions.cpu().numpy(), log_probs.cpu().numpy(), memory

    def choose(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None,
        rng: np.random.Generator | None,
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return actions and log-probabilities, (B, n) or (B, 1), from `TeamActor.choose`.

        Vectors are returned as sampled, to match the log-probabilities; they may exceed the bounds
        of their space. `act` clips them.
        """
        actions, log_probs, _ = self._choose(observations, masks, rng, None)
        return actions.cpu().numpy(), log_probs.cpu().numpy()

    @torch.inference_mode()
    def _choose(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None,
        rng: np.random.Generator | None,
        memory: Any,
    ) -> tuple[Tensor, Tensor, Any]:
        seen, allowed = _inputs(self.actor, observations, masks)
        features, memory = _remembered(self.actor, self.actor.features(seen), memory)
        return *self.actor.choose(features, allowed, rng), memory

    def log_probs(
        self, observations: NDArray[np.float32], masks: NDArray[Any] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return log-probabilities (B, n, A) and legal actions, (n, A) or (B, n, A).

        Only for agents that choose separately among a number of actions: `InvalidOption` for a
        joint choice and for vectors.
        """
        if not isinstance(self.actor, Actor):
            raise InvalidOption(
                f"this policy's choice is {self.actor.choice}, without a probability for each "
                "action of each agent; choose() gives the log-probabilities of the actions that "
                "it takes"
            )
        return _outputs(self.actor, observations, masks)

    def save(self, path: str | Path) -> None:
        """Write the actor to one safetensors file, atomically."""
        about = {
            "kind": "network",
            "choice": self.actor.choice,
            "actor": self.actor.description,
        }
        write_tensors(path, self.actor.state_dict(), about)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", seed: int = 0) -> NetworkPolicy:
        """Read a file that `save` wrote; `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        if about.get("kind") != "network":
            raise InvalidData(f"{path} holds a {about.get('kind')!r}, not a network policy")
        try:
            actor = build(lambda: ACTORS[about["choice"]](**about["actor"]), tensors)
        except (LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidData(f"{path} is of another version of rpp_agents: {error}") from error
        return cls(actor.to(device), seed=seed)


class QPolicy:
    """Policy of action-value networks: it takes the actions with the highest values.

    Parameters
    ----------
    network : QNetwork
        The networks; shared, not copied.
    epsilon : float
        Probability with which ``greedy=False`` takes a random action, for each agent separately.
    seed : int
        Seed of these random actions.
    """

    def __init__(self, network: QNetwork, *, epsilon: float = 0.0, seed: int = 0) -> None:
        self.network = network
        self.epsilon = epsilon
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Restart the random choices of ``greedy=False`` with a seed."""
        self._rng = np.random.default_rng(seed)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,
        memory: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """See `Policy.act`; `memory` is (B, n, h), and unchanged for networks without one."""
        values, legal, memory = self.recall(observations, masks, memory)
        epsilon = 0.0 if greedy else self.epsilon
        return epsilon_greedy(values, legal, epsilon, self._rng), memory

    def values(
        self, observations: NDArray[np.float32], masks: NDArray[Any] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return values (B, n, A) and legal actions, (n, A) or (B, n, A)."""
        return self.recall(observations, masks, None)[:2]

    @torch.inference_mode()
    def recall(
        self, observations: NDArray[np.float32], masks: NDArray[Any] | None, memory: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], Any]:
        """Return `values`, and the memory after this step; None where episodes begin."""
        network = self.network
        seen, allowed = _inputs(network, observations, masks)
        legal = network.legal if allowed is None else network.legal & allowed
        features, memory = _remembered(network, network.features(seen), memory)
        values = network.of(features, allowed)
        return values.cpu().numpy(), legal.cpu().numpy(), memory

    def save(self, path: str | Path) -> None:
        """Write the networks to one safetensors file, atomically."""
        about = {"kind": "values", "network": self.network.description, "epsilon": self.epsilon}
        write_tensors(path, self.network.state_dict(), about)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", seed: int = 0) -> QPolicy:
        """Read a file that `save` wrote; `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        if about.get("kind") != "values":
            raise InvalidData(f"{path} holds a {about.get('kind')!r}, not a policy of values")
        try:
            network = build(lambda: QNetwork(**about["network"]), tensors)
            epsilon = float(about["epsilon"])
        except (LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidData(f"{path} is of another version of rpp_agents: {error}") from error
        return cls(network.to(device), epsilon=epsilon, seed=seed)


def epsilon_greedy(
    values: NDArray[np.float32],
    legal: NDArray[np.bool_],
    epsilon: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Choose the best legal actions, or with probability `epsilon` each a random legal one."""
    best = np.where(legal, values, -np.inf).argmax(-1)
    if epsilon == 0:
        return np.asarray(best)
    race = np.where(legal, rng.random(values.shape, dtype=np.float32), -1.0)
    return np.asarray(np.where(rng.random(best.shape) < epsilon, race.argmax(-1), best))


def _inputs(
    network: TeamActor, observations: NDArray[np.float32], masks: NDArray[Any] | None
) -> tuple[Tensor, Tensor | None]:
    """Convert observations and masks to tensors on the network's device."""
    shape = len(network.legal), network.description["width"]
    if np.shape(observations)[-2:] != shape:
        raise InvalidOption(
            f"this policy reads observations of {shape[0]} agents with {shape[1]} numbers each, "
            f"and got an array of shape {np.shape(observations)}: it was trained in an environment "
            "of another shape"
        )
    device = network.legal.device
    seen = torch.from_numpy(np.ascontiguousarray(observations, np.float32)).to(device)
    return seen, None if masks is None else torch.from_numpy(np.asarray(masks) != 0).to(device)


def _remembered(
    network: TeamActor, features: Tensor, memory: Any
) -> tuple[Tensor, NDArray[np.float32] | Any]:
    """Return the features with the network's memory, and its state, (B, n, h)."""
    kept = network.memory
    if kept is None:
        return features, memory
    shape = (len(features), kept.agents, kept.hidden)
    if memory is not None and np.shape(memory) != shape:
        raise InvalidOption(
            f"this policy's memory of {shape[0]} users has shape {shape}, not {np.shape(memory)}: "
            "pass on what its last call returned, or None where episodes begin"
        )
    start = kept.start(len(features)) if memory is None else torch.from_numpy(memory)
    features = kept.step(features, start.to(features.device))
    return features, kept.states(features).cpu().numpy().copy()


def _outputs(
    network: Actor, observations: NDArray[np.float32], masks: NDArray[Any] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a network's output for every action, (B, n, A), and the legal ones."""
    with torch.inference_mode():
        seen, allowed = _inputs(network, observations, masks)
        legal = network.legal if allowed is None else network.legal & allowed
        return network(seen, allowed).cpu().numpy(), legal.cpu().numpy()


def load_policy(path: str | Path) -> Policy:
    """Load any policy of this package: a trained network, `Random` or `Fixed`."""
    if not Path(path).is_file():
        raise InvalidData(f"there is no file {path}")
    with Path(path).open("rb") as file:
        # A safetensors file begins with the length of its header, never 8 bytes of JSON.
        plain = file.read(8) == b'{"kind":'
    if plain:
        return load_baseline(path)
    kind = read_tensors(path)[1].get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InvalidData(f"{path} holds a {kind!r}, not a policy")
    policy: Policy = resolve_name(_KINDS[kind]).load(path)
    return policy


_KINDS = {
    "network": "rpp_agents.policy:NetworkPolicy",
    "values": "rpp_agents.policy:QPolicy",
    "compact": "rpp_agents.observing:CompactPolicy",
    "linear": "rpp_agents.solvers.linear:LinearPolicy",
    "ppr": "rpp_agents.solvers.ppr:PromptPolicy",
    "pap_rec": "rpp_agents.solvers.pap_rec:UserPolicy",
    "peapod": "rpp_agents.solvers.peapod:AttentionPolicy",
}
"""Readers of policy files by kind; solvers register theirs here, to avoid an import cycle."""
