"""What evaluation asks of a policy, and the one that trainers return.

A policy file is one safetensors file; the JSON that describes it stands in its header, so the two
cannot get out of step, and nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rpp_agents.actors import ACTORS, Actor, QNetwork, TeamActor
from rpp_env.data.arrays import DIGITS, file_digest
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData, InvalidOption, RPPWarning
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
    """Anything that chooses actions for a batch of users, and can be kept in a file."""

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
        """Begin the sampling of ``greedy=False`` anew."""
        self._rng = np.random.default_rng(seed)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,
        memory: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """See `Policy.act`; this policy has no memory and hands back what it was given."""
        return self.choose(observations, masks, None if greedy else self._rng)[0], memory

    def choose(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None,
        rng: np.random.Generator | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Actions (B, n) and log-probabilities, (B, n) or (B, 1), as `TeamActor.choose`."""
        with torch.inference_mode():
            seen, allowed = _inputs(self.actor, observations, masks)
            chosen = self.actor.choose(self.actor.features(seen), allowed, rng)
        actions, log_probs = (tensor.cpu().numpy() for tensor in chosen)
        return actions, log_probs

    def log_probs(
        self, observations: NDArray[np.float32], masks: NDArray[Any] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Log-probabilities (B, n, A) and which actions are legal, (n, A) or (B, n, A).

        Only of agents that choose by themselves: `InvalidOption` for a joint choice.
        """
        if not isinstance(self.actor, Actor):
            raise InvalidOption(
                "agents that choose together have no probabilities of their own; choose() gives "
                "those of the joint actions that it takes"
            )
        return _outputs(self.actor, observations, masks)

    def save(self, path: str | Path) -> None:
        """Write the actor to one safetensors file, whole or not at all."""
        about = {
            "kind": "network",
            "choice": self.actor.choice,
            "actor": self.actor.description,
        }
        write_tensors(path, self.actor.state_dict(), about)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", seed: int = 0) -> NetworkPolicy:
        """Read what `save` wrote. Raises `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        if about.get("kind") != "network":
            raise InvalidData(f"{path} holds a {about.get('kind')!r}, not a network policy")
        try:
            actor = build(lambda: ACTORS[about["choice"]](**about["actor"]), tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InvalidData(f"{path} is of another version of rpp_agents: {error}") from error
        return cls(actor.to(device), seed=seed)


class QPolicy:
    """Networks that say what actions are worth; it takes the best ones.

    Parameters
    ----------
    network : QNetwork
        It is shared, not copied.
    epsilon : float
        Probability with which ``greedy=False`` takes a random action, for each agent by itself.
    seed : int
        Seed of that.
    """

    def __init__(self, network: QNetwork, *, epsilon: float = 0.0, seed: int = 0) -> None:
        self.network = network
        self.epsilon = epsilon
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin the random choices of ``greedy=False`` anew."""
        self._rng = np.random.default_rng(seed)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,
        memory: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """See `Policy.act`; this policy has no memory and hands back what it was given."""
        values, legal = self.values(observations, masks)
        epsilon = 0.0 if greedy else self.epsilon
        return epsilon_greedy(values, legal, epsilon, self._rng), memory

    def values(
        self, observations: NDArray[np.float32], masks: NDArray[Any] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values (B, n, A) and which actions are legal, (n, A) or (B, n, A)."""
        return _outputs(self.network, observations, masks)

    def save(self, path: str | Path) -> None:
        """Write the networks to one safetensors file, whole or not at all."""
        about = {"kind": "values", "network": self.network.description, "epsilon": self.epsilon}
        write_tensors(path, self.network.state_dict(), about)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", seed: int = 0) -> QPolicy:
        """Read what `save` wrote. Raises `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        if about.get("kind") != "values":
            raise InvalidData(f"{path} holds a {about.get('kind')!r}, not a policy of values")
        try:
            network = build(lambda: QNetwork(**about["network"]), tensors)
            epsilon = float(about["epsilon"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InvalidData(f"{path} is of another version of rpp_agents: {error}") from error
        return cls(network.to(device), epsilon=epsilon, seed=seed)


def epsilon_greedy(
    values: NDArray[np.float32],
    legal: NDArray[np.bool_],
    epsilon: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The best legal actions, or with probability `epsilon` each a random legal one."""
    best = np.where(legal, values, -np.inf).argmax(-1)
    if epsilon == 0:
        return np.asarray(best)
    race = np.where(legal, rng.random(values.shape, dtype=np.float32), -1.0)
    return np.asarray(np.where(rng.random(best.shape) < epsilon, race.argmax(-1), best))


def _inputs(
    network: TeamActor, observations: NDArray[np.float32], masks: NDArray[Any] | None
) -> tuple[Tensor, Tensor | None]:
    """Observations and masks as tensors, where the network is."""
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


def _outputs(
    network: Actor, observations: NDArray[np.float32], masks: NDArray[Any] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What a network says of every action, (B, n, A), and which are legal."""
    with torch.inference_mode():
        seen, allowed = _inputs(network, observations, masks)
        legal = network.legal if allowed is None else network.legal & allowed
        return network(seen, allowed).cpu().numpy(), legal.cpu().numpy()


def load_policy(path: str | Path) -> Policy:
    """Read any policy of this package: a trained network, `Random` or `Fixed`."""
    if not Path(path).is_file():
        raise InvalidData(f"there is no file {path}")
    with Path(path).open("rb") as file:
        # A safetensors file begins with the length of its header, never 8 bytes of JSON.
        plain = file.read(8) == b'{"kind":'
    if plain:
        return load_baseline(path)
    kinds: dict[Any, type[NetworkPolicy | QPolicy]] = {"network": NetworkPolicy, "values": QPolicy}
    kind = read_tensors(path)[1].get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise InvalidData(f"{path} holds a {kind!r}, not a policy")
    return kinds[kind].load(path)


_DIGEST = b'"sha256":"'
"""What stands before the digest in a file's header."""
_LARGEST_HEADER = 100_000_000  # of the format itself


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write tensors with a JSON header to one safetensors file, whole or not at all.

    The header also holds a SHA-256 of the file, which `read_tensors` compares.

    Raises
    ------
    WriteFailed
        If the file cannot be written; an older one stays as it was.
    """
    from safetensors.torch import save

    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"rpp_agents": json.dumps(about), "sha256": "0" * DIGITS},
    )
    at = content.index(_DIGEST) + len(_DIGEST)
    digest = hashlib.sha256(content).hexdigest()  # as `file_digest`: zeros stand there
    with whole_file(Path(path)) as file:
        for part in (memoryview(content)[:at], digest.encode(), memoryview(content)[at + DIGITS :]):
            file.write(part)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Files of versions before digests are read as well, with an `RPPWarning`.

    Raises
    ------
    InvalidData
        If the file is not there, is damaged, or is not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InvalidData(f"there is no file {path}")
    try:
        with path.open("rb") as opened:
            at = _digest_at(opened)
            digest = None if at is None else file_digest(opened, at)
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if digest is not None and metadata.get("sha256") != digest:
                raise InvalidData(f"{path} is damaged: its content is not what its digest says")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            about = json.loads(metadata.pop("rpp_agents"))
    except (SafetensorError, KeyError, ValueError, RecursionError, OSError) as error:
        if isinstance(error, InvalidData):
            raise
        raise InvalidData(
            f"{path} is damaged or was not written by rpp_agents: {error!r}"
        ) from error
    if not isinstance(about, dict):
        raise InvalidData(f"{path} was not written by rpp_agents: its header is {about!r}")
    if digest is None:
        if metadata:
            raise InvalidData(f"{path} is damaged: its header holds {', '.join(metadata)}")
        warnings.warn(
            f"{path} carries no digest, as files of earlier versions, so damage cannot be noticed",
            RPPWarning,
            stacklevel=2,
        )
    return tensors, about


def _digest_at(file: BinaryIO) -> int | None:
    """Where the digest of an open safetensors file stands; None where there is none."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length) if length <= _LARGEST_HEADER else b""
    at = header.find(_DIGEST)
    return None if at < 0 else 8 + at + len(_DIGEST)


Network = TypeVar("Network", bound=nn.Module)


def build(make: Callable[[], Network], tensors: Mapping[str, Tensor]) -> Network:
    """A network with the tensors of a file, which may come from somebody else.

    Before any memory is taken, the shapes of the network are compared with those of the tensors.

    Parameters
    ----------
    make : callable
        Makes the network from its description.
    tensors : mapping of str to Tensor

    Raises
    ------
    KeyError, RuntimeError, TypeError, ValueError
        If the description is not valid, or the tensors are of another network or not finite.
    """
    with torch.device("meta"):
        plan = make()
    shapes = {name: tuple(tensor.shape) for name, tensor in plan.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != found:
        differ = sorted(n for n in {*shapes, *found} if shapes.get(n) != found.get(n))
        raise ValueError(f"its description and its tensors differ in {', '.join(differ[:3])}")
    beside = sum(buffer.numel() for buffer in plan.buffers())
    if beside > _MOST_BESIDE + 4 * sum(tensor.numel() for tensor in tensors.values()):
        raise ValueError(f"its description asks for {beside:,} numbers besides its tensors")
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{wrong[0]} is not finite")
    network = make()
    network.load_state_dict(dict(tensors))
    return network


_MOST_BESIDE = 10_000_000
"""Numbers that a network may hold besides its weights, whatever its size."""
