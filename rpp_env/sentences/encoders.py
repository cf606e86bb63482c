"""Encoders of texts as vectors, for the block of an observation that shows the last prompt."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import BrokenContract, InvalidOption

__all__ = ["Encoder", "HashedNGrams", "encode"]

Floats = NDArray[np.float32]

_WORDS = re.compile(r"[^\W_]+")


@runtime_checkable
class Encoder(Protocol):
    """Maps texts to vectors. A text's vector does not depend on the other texts of the call."""

    @property
    def width(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32, finite, in [-1, 1]."""
        ...


class HashedNGrams:
    """Hashes words and pairs of words to random signs and adds them up; needs no download.

    Every n-gram has a vector of random signs that depends on its letters and the seed (a random
    projection of the bag of n-grams); a text is the sum over its n-grams, scaled to length 1.

    Parameters
    ----------
    width : int
        Length of the vectors, a multiple of 8, from 8 to 512.
    seed : int
        Seed of the signs.
    """

    def __init__(self, width: int = 32, seed: int = 0) -> None:
        if not (8 <= width <= 512 and width % 8 == 0):
            raise InvalidOption(f"width must be a multiple of 8 from 8 to 512, not {width}")
        self._width = width
        self.seed = seed
        self._signs: dict[str, bytes] = {}

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self._width

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32 rows of length 1; an empty text is all zeros."""
        rows = np.zeros((len(texts), self._width), dtype=np.int64)
        for i, text in enumerate(texts):
            words = _WORDS.findall(text.lower())
            grams = (*words, *(f"{a} {b}" for a, b in pairwise(words)))
            signs = b"".join([self._signs.get(gram) or self._hash(gram) for gram in grams])
            table = np.frombuffer(signs, dtype=np.int8).reshape(-1, self._width)
            table.sum(axis=0, dtype=np.int64, out=rows[i])
        # Integers up to here: the sums, and so the vectors, are the same on every machine.
        lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
        scaled: Floats = (rows / np.maximum(lengths, 1)).astype(np.float32)
        return scaled

    def _hash(self, gram: str) -> bytes:
        digest = hashlib.blake2b(f"{self.seed}|{gram}".encode(), digest_size=self._width // 8)
        bits = np.unpackbits(np.frombuffer(digest.digest(), dtype=np.uint8))
        signs = (bits.astype(np.int8) * np.int8(2) - np.int8(1)).tobytes()
        return self._signs.setdefault(gram, signs)


def encode(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """Return `encoder.encode(texts)`; BrokenContract if its shape, dtype or range is wrong."""
    vectors = encoder.encode(texts)
    expected = (len(texts), encoder.width)
    if getattr(vectors, "shape", None) != expected:
        raise BrokenContract(
            f"{type(encoder).__name__}.encode returned {getattr(vectors, 'shape', type(vectors))} "
            f"for {len(texts)} texts; it must return an array of shape {expected}"
        )
    if vectors.dtype != np.float32 or not (np.abs(vectors) <= 1).all():
        raise BrokenContract(
            f"{type(encoder).__name__}.encode must return float32 numbers in [-1, 1]; scale its "
            f"vectors to length 1 (got {vectors.dtype})"
        )
    return vectors
