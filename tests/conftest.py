"""Isolate the tests from the user's caches, screen and random state."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before numpy and torch are loaded: their sums then do not depend on how many threads a machine
# has, and test processes side by side do not fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell that starts a test run in the background has it ignore Ctrl-C, and so would every command
# that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every run, however busy the machine is.
settings.register_profile("rpp_env", derandomize=True, deadline=None, database=None)
settings.load_profile("rpp_env")


@pytest.fixture(scope="session", autouse=True)
def isolated_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache folder, shared by the tests of one process, and no windows from matplotlib."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RPP_ENV_CACHE", str(cache))
        patch.setenv("MPLBACKEND", "Agg")
        yield cache


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets; a test that asks for it is skipped where there is none."""
    root = os.environ.get("RPP_ENV_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("RPP_ENV_DATA names no folder of datasets")
    return Path(root)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a network, on an empty profile."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no browser: install Debian's chromium, or name one in $CHROMIUM")
    driver = pytest.importorskip("playwright.sync_api", reason="the browser's driver: playwright")
    words = (
        "--no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    )
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=words.split())
        yield browser
        browser.close()
