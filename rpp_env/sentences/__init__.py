"""The sentences that prompts are made of: one TOML file a domain, and the book that reads it."""

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
