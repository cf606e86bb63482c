"""Sentences of prompts: a TOML catalog per domain, prompt spaces over it, encoders and parsing."""

from __future__ import annotations

from rpp_env.sentences.catalog import (
    AGENTS,
    DOMAINS,
    FORMATS,
    Choice,
    Output,
    PatternBook,
    history_labels,
)

__all__ = ["AGENTS", "DOMAINS", "FORMATS", "Choice", "Output", "PatternBook", "history_labels"]
