"""Language models: texts in, texts out."""

from __future__ import annotations

from rpp_env.models.base import Generation, LanguageModel, Reply, Request
from rpp_env.models.recording import RecordingModel
from rpp_env.models.scripted import ScriptedModel, echo, oracle, silent

__all__ = [
    "Generation",
    "LanguageModel",
    "RecordingModel",
    "Reply",
    "Request",
    "ScriptedModel",
    "echo",
    "oracle",
    "silent",
]
