"""``rpp-env doctor``."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import rpp_env
from rpp_agents.commands.console import columns, say, size
from rpp_agents.commands.data import datasets
from rpp_agents.commands.model import models, tables
from rpp_env.data import cache_dir

__all__ = ["run"]

LIBRARIES = {
    "": ("numpy", "scipy", "gymnasium", "pettingzoo"),
    "agents": (
        "torch",
        "torch_geometric",
        "scikit-learn",
        "matplotlib",
        "tensorboard",
        "safetensors",
        "requests",
        "rich",
        "tyro",
    ),
    "llm": ("httpx", "tenacity"),
    "transformers": ("transformers", "gguf", "accelerate"),
    "vllm": ("vllm",),
}
"""Extras with their libraries, as in pyproject.toml; "" is required by all."""


def run() -> None:
    """Show versions, caches, and the datasets, models and tables found."""
    where = Path(rpp_env.__file__).parent
    say(f"rpp_env {rpp_env.__version__} in {where}")
    say(f"Python {sys.version.split()[0]} on {platform.platform()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    say(f"{cores} cores; {_accelerator()}")

    say("\nlibraries")
    rows = []
    for extra, names in LIBRARIES.items():
        missing = f"missing: pip install 'rpp-env[{extra}]'" if extra else "missing"
        rows += [(name, extra and f"extra {extra}", _version(name) or missing) for name in names]
    say(columns(rows))

    say(f"\ndata (RPP_ENV_DATA is {os.environ.get('RPP_ENV_DATA') or 'not set'})")
    say(columns(datasets()))

    say("\npretrained models (besides servers and the Hugging Face hub)")
    say(columns(models()))

    say("\nreward tables that come with the package")
    say(columns(tables()))

    cache = cache_dir()
    say(f"\ncaches in {cache}")
    if cache.exists() and not cache.is_dir():
        say("  this is a file, and no folder: set RPP_ENV_CACHE to a folder")
        return
    kept = sorted(cache.iterdir()) if cache.is_dir() else []
    held = [(x.name, f"{size(x) / 1e6:,.1f} MB", _count(x)) for x in kept]
    say(columns(held) if held else "  nothing yet; it is safe to delete at any time")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _accelerator() -> str:
    if importlib.util.find_spec("torch") is None:
        return "no torch, so no training"
    import torch

    if torch.cuda.is_available():
        return f"torch sees {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    if torch.backends.mps.is_available():
        return "torch sees Apple's MPS"
    return "torch sees no GPU (none is needed: the networks are small)"


def _count(path: Path) -> str:
    return f"{sum(x.is_file() for x in path.rglob('*'))} files" if path.is_dir() else ""
