"""Tensors in a file with a digest: safetensors with a JSON header.

The digest detects damage, not forgery, as in `rpp_env.data.arrays`. Nothing is ever unpickled, and
a file's description is compared with its tensors before memory is allocated.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from rpp_env.data.arrays import DIGITS, file_digest
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData, RPPWarning

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["build", "compare", "read_tensors", "write_tensors"]

_DIGEST = b'"sha256":"'
"""Bytes before the digest in a file's header."""
_LARGEST_HEADER = 100_000_000  # of the format itself


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write tensors with a JSON header to one safetensors file, atomically.

    The header also holds a SHA-256 of the file, which `read_tensors` compares.

    Raises
    ------
    WriteFailed
        If the file cannot be written; an older one is unchanged.
    """
    from safetensors.torch import save

    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"rpp_agents": json.dumps(about), "sha256": "0" * DIGITS},
    )
    at = content.index(_DIGEST) + len(_DIGEST)
    digest = hashlib.sha256(content).hexdigest()  # as in `file_digest`, of zeros at its place
    with whole_file(Path(path)) as file:
        for part in (memoryview(content)[:at], digest.encode(), memoryview(content)[at + DIGITS :]):
            file.write(part)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that `write_tensors` wrote.

    Files of versions before digests are read as well, with an `RPPWarning`.

    Raises
    ------
    InvalidData
        If the file is missing, is damaged, or is not one of ours.
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
    except (
        SafetensorError,
        KeyError,
        ValueError,
        RecursionError,
        OSError,
        MemoryError,  # for a sparse file larger than the memory
    ) as error:
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
            f"{path} has no digest, because an earlier version wrote it, so damage goes unnoticed",
            RPPWarning,
            stacklevel=2,
        )
    return tensors, about


def _digest_at(file: BinaryIO) -> int | None:
    """Return the offset of the digest in an open safetensors file; None if there is none."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length) if length <= _LARGEST_HEADER else b""
    at = header.find(_DIGEST)
    return None if at < 0 else 8 + at + len(_DIGEST)


Network = TypeVar("Network", bound="nn.Module")


def build(make: Callable[[], Network], tensors: Mapping[str, Tensor]) -> Network:
    """Make a network with the tensors of an untrusted file.

    Before memory is allocated, the shapes of the network are compared with those of the tensors.

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
    import torch

    with torch.device("meta"):
        plan = make()
    compare(plan.state_dict(), tensors)
    beside = sum(buffer.numel() for buffer in plan.buffers())
    if beside > _MOST_BESIDE + 4 * sum(tensor.numel() for tensor in tensors.values()):
        raise ValueError(f"its description asks for {beside:,} numbers besides its tensors")
    network = make()
    network.load_state_dict(dict(tensors))
    return network


_MOST_BESIDE = 10_000_000
"""Maximum numbers that a network may hold besides its weights."""


def compare(plan: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors have the names, shapes and types of a plan, and are finite.

    Raises
    ------
    ValueError
    """
    shapes, found = (
        {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in those.items()}
        for those in (plan, tensors)
    )
    if shapes != found:
        differ = sorted(n for n in {*shapes, *found} if shapes.get(n) != found.get(n))
        raise ValueError(f"its description and its tensors differ in {', '.join(differ[:3])}")
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{wrong[0]} is not finite")
