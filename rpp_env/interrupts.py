"""Ctrl-C ends what it interrupts, also where a library would catch it and go on.

scikit-learn's networks, for one, take an interrupt for the end of training and give back what they
have: a number that is wrong, and looks like any other. Everything that computes for long therefore
runs inside `heed_interrupts`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["heed_interrupts", "held_interrupts"]


@contextmanager
def heed_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of a block in which one was raised and caught.

    Also where the block turned it into another error. It may be nested, and decorate a function. In
    other threads than the main one, and where somebody else ignores the signal, it does nothing:
    there no interrupt is raised in the first place.
    """
    before = _handler()
    if before is None:
        yield
        return
    seen = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen = True
        before(number, frame)

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    except Exception as error:
        if seen:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if seen:
        raise KeyboardInterrupt


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Deliver an interrupt after the block; processes that it starts are never interrupted.

    Ctrl-C reaches all processes of a terminal. Workers leave it to their parent, which ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _handler() -> Any:
    """What is called on an interrupt; None where nobody is, or where it cannot be changed."""
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(signal.SIGINT)
    return handler if callable(handler) else None
