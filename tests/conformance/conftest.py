"""The worlds and forms that every conformance suite is run on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import rpp_env

WORLDS: dict[str, dict[str, Any]] = {
    "movieworld": {"num_users": 120, "num_items": 100},
    "lastfm": {"max_users": 50},
    "ml-latest-small": {"max_users": 50},
}
FORMS: dict[str, dict[str, Any]] = {
    "native": {},
    "padded": {"padded_actions": True, "agent_names": "index"},
}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of a world that is made by a seed, and of two real ones where they lie here."""
    name: str = request.param
    root = os.environ.get("RPP_ENV_DATA")
    if name != "movieworld" and not (root and (Path(root) / name).is_dir()):
        pytest.skip(f"RPP_ENV_DATA names no folder with {name}")
    return {"dataset": name, **WORLDS[name]}


@pytest.fixture(params=FORMS)
def options(request: pytest.FixtureRequest, world: dict[str, Any]) -> dict[str, Any]:
    """Options of an environment with the embedded model, native or padded."""
    return {**world, **FORMS[request.param]}


@pytest.fixture
def par_env(options: dict[str, Any]) -> Any:
    """A PettingZoo environment with these options."""
    return rpp_env.parallel_env(**options)
