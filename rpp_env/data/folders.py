"""Where files are kept, and how they are written: whole or not at all."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["cache_dir", "whole_file"]


def cache_dir() -> Path:
    """The package's cache folder: ``$RPP_ENV_CACHE``, else the platform's place for caches.

    It may not exist yet. Everything in it can be made again, so it is safe to delete.
    """
    chosen = os.environ.get("RPP_ENV_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rpp_env"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` for writing; it takes `path`'s place only if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkstemp: others could not read the file then, whatever the umask says.
    beside = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            yield file
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
