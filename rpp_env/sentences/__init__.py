"""Sentences of prompts: a TOML catalog per domain, prompt spaces over it, encoders and parsing."""

from __future__ import annotations

import warnings
from typing import Any

from rpp_env.sentences.catalog import (
    AGENTS,
    DOMAINS,
    FORMATS,
    Choice,
    Output,
    SentenceCatalog,
    history_labels,
)

__all__ = ["AGENTS", "DOMAINS", "FORMATS", "Choice", "Output", "SentenceCatalog", "history_labels"]


def __getattr__(name: str) -> Any:
    if name == "PatternBook":  # for one version
        text = "rpp_env.sentences.PatternBook is now rpp_env.sentences.SentenceCatalog"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return SentenceCatalog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
