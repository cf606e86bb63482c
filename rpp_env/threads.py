"""Results that do not depend on the machine's number of cores.

A sum split over several threads is rounded differently from a sum in one thread, and the last bits
influence what is learned next. The models fitted here are small, so one thread costs little: on a
busy machine several threads mostly wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rpp_env.errors import MissingExtra

__all__ = ["one_thread"]

_NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def one_thread() -> Iterator[None]:
    """Restrict BLAS and OpenMP to one thread in this block and in processes started from it.

    Raises
    ------
    MissingExtra
        Without threadpoolctl, which scikit-learn needs: ``pip install 'rpp-env[agents]'``.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtra("threadpoolctl, which comes with scikit-learn,", "agents") from error
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(dict.fromkeys(_NAMES, "1"))  # for libraries loaded inside the block
    try:
        with threadpool_limits(1):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
