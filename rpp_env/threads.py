"""Numbers that do not depend on how many cores a machine has.

Sums that several threads share are rounded differently from those of one thread, and the last bits
decide what is learned next. What is fitted here is small, too: on a machine that is busy, several
threads mostly wait for each other.
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
    """Use one thread of BLAS and OpenMP inside, also in processes that are started there.

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
    os.environ.update(dict.fromkeys(_NAMES, "1"))  # for libraries that are loaded only inside
    try:
        with threadpool_limits(1):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
