"""Data: atomic files or a seed -> `Dataset` -> users split -> ranking tasks."""

from __future__ import annotations
