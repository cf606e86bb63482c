"""Pretrained encoders of sentences, for the observations: sentence-transformers' models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import InvalidData, InvalidOption, MissingExtra
from rpp_env.models.checkpoints import without_bars
from rpp_env.sentences.encoders import Floats

__all__ = ["SentenceTransformerEncoder"]

_WAY = "pooling_mode_"
"""Prefix of the fields of a pooling's config that are true or false."""


class SentenceTransformerEncoder:
    """A sentence-transformers model, run by transformers, and a seeded random projection.

    A text's vector is the mean of the last layer's vectors over its tokens, scaled to length 1, as
    the card of all-MiniLM-L6-v2 says (Reimers and Gurevych, EMNLP 2019). Each text is read alone,
    so that its vector does not depend on the others of a call. No code of a model is run.

    Parameters
    ----------
    name : str
        A folder that sentence-transformers wrote, or a model's name on the Hugging Face hub.
    width : int
        Length of the vectors; the projection has orthonormal columns.
    seed : int
        Seed of the projection.

    Raises
    ------
    MissingExtra
        If transformers is not installed.
    InvalidData
        For a folder that lacks ``modules.json`` or ``1_Pooling/config.json``, or whose model does
        more than take the mean, and for weights that cannot be loaded.
    """

    def __init__(
        self, name: str = "sentence-transformers/all-MiniLM-L6-v2", width: int = 32, seed: int = 0
    ) -> None:
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise MissingExtra(f"{error.name}, which reads sentences,", "transformers") from error
        most = _check_modules(name)
        try:
            with without_bars():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
                self._model: Any = AutoModel.from_pretrained(
                    name, dtype=torch.float32, use_safetensors=True
                ).eval()
        except (OSError, ValueError) as error:
            raise InvalidData(
                f"{name} is no encoder that transformers can load: {error}"
            ) from error
        self._most = min(most, self._tokenizer.model_max_length)
        full = len(self._embed("width"))
        if not 1 <= width <= full:
            raise InvalidOption(f"width must lie in 1..{full}, the model's own, not {width}")
        normal = np.random.default_rng(seed).standard_normal((full, width))
        self._projection = np.linalg.qr(normal)[0]

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self._projection.shape[1])

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32, rows at most 1 long."""
        vectors = [self._embed(text) @ self._projection for text in texts]
        return np.array(vectors, np.float32).reshape(len(texts), self.width)

    def _embed(self, text: str) -> NDArray[np.float64]:
        import torch

        tokens = self._tokenizer(text, truncation=True, max_length=self._most, return_tensors="pt")
        with torch.inference_mode():
            mean = self._model(**tokens).last_hidden_state[0].mean(dim=0).double().numpy()
        scaled: NDArray[np.float64] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return scaled


def _check_modules(name: str) -> int:
    """Check that a model is a transformer and the mean over tokens; return its most tokens."""
    from transformers.utils import cached_file

    files = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")
    try:
        modules, pooling, sizes = (
            json.loads(Path(cached_file(name, file)).read_text(encoding="utf-8")) for file in files
        )
        kinds = [module["type"].rpartition(".")[2] for module in modules]
        ways = [way for way, chosen in pooling.items() if way.startswith(_WAY) and chosen is True]
        most = int(sizes["max_seq_length"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidData(
            f"{name} is no encoder as sentence-transformers writes it, with {', '.join(files)}: "
            f"{error}"
        ) from error
    if kinds not in (["Transformer", "Pooling", "Normalize"], ["Transformer", "Pooling"]) or (
        ways != [f"{_WAY}mean_tokens"]
    ):
        raise InvalidData(
            f"{name} has the modules {', '.join(kinds)}, pooled by {', '.join(ways) or 'nothing'}: "
            "only the mean over tokens is read here; wrap another model in a class with width and "
            "encode (rpp_env.observation.Encoder)"
        )
    return most
