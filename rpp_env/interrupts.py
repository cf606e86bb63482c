"""Make Ctrl-C end a computation even where a library catches the interrupt and goes on.

scikit-learn's networks, for example, treat an interrupt as the end of training and return the
weights reached so far: a wrong result that looks like a valid one. Long computations therefore run
inside `heed_interrupts`.
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

    The interrupt is raised even if the block turned it into another error. Blocks may be nested,
    and the function can be used as a decorator. It does nothing outside the main thread, or where
    the signal is ignored: there no interrupt is raised in the first place.
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
    """Delay an interrupt until the end of the block; processes started in it ignore interrupts.

    Ctrl-C reaches all processes of a terminal. Workers ignore it; their parent ends them.
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
    """Return the current interrupt handler; None where there is none or it cannot be changed."""
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(signal.SIGINT)
    return handler if callable(handler) else None
