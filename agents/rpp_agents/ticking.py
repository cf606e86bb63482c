"""Periodic lines of progress where there is no terminal for a progress bar."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rpp_env.text import printable

__all__ = ["EVERY", "ticking"]

EVERY = 30.0
"""Seconds between two lines."""


@contextmanager
def ticking(line: Callable[[], str]) -> Iterator[None]:
    """Print `line()` and the elapsed seconds every half minute, unless to a terminal.

    It runs independently of the code inside, so that silent libraries show progress too.
    """
    if sys.stderr.isatty():
        yield
        return
    over, began = threading.Event(), time.perf_counter()

    def tick() -> None:
        while not over.wait(EVERY):
            seconds = time.perf_counter() - began
            print(printable(f"{line().strip()}, {seconds:.0f} s"), file=sys.stderr, flush=True)  # noqa: T201

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
