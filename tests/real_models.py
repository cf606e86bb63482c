"""Real models for tests: those that `rpp-env model get` has put into the user's cache.

Tests have a cache of their own, so the folder is found before they begin. Where a model is not
here, a test is skipped by name; with ``RPP_ENV_NEEDS_MODELS=1``, which `make test-llm` sets, it
fails instead.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from rpp_env.data.folders import cache_dir

KEPT = Path(os.environ.get("RPP_ENV_MODELS") or cache_dir() / "models")


def real_model(name: str) -> Path:
    """The folder of a model; the test is skipped where it is not here."""
    folder = KEPT / name
    missing = None if (folder / "source.json").is_file() else f"rpp-env model get {name}"
    if importlib.util.find_spec("transformers") is None:
        missing = "pip install 'rpp-env[transformers]'"
    if missing is not None:
        said = f"{name} is not here: {missing}"
        if os.environ.get("RPP_ENV_NEEDS_MODELS"):
            pytest.fail(said)
        pytest.skip(said)
    return folder
