"""Confirmation of what an untrusted file makes this machine do outside itself.

A run's ``world.json``, a bench and a study are files that people share, and they name servers,
paths and code. A user confirms these by repeating the same words: in the option itself, in
``--trust WORD ...``, or by a yes on the terminal. ``docs/security.md`` lists the guarantees.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rpp_agents.commands.console import say
from rpp_env.errors import InvalidOption

__all__ = ["Unconfirmed", "UnconfirmedTable", "confirm"]


class Unconfirmed(str):
    """A text of a file that names something outside it, not yet confirmed by the user."""

    __slots__ = ()


class UnconfirmedTable(dict[str, Any]):
    """A table of a file, such as options of a model, not yet confirmed by the user."""

    __slots__ = ()


def confirm(source: str, places: Mapping[str, str], trusted: Sequence[str], remedy: str) -> None:
    """Return if the user confirms everything that a file asks for; else raise.

    Parameters
    ----------
    source : str
        The file or folder, as the user named it.
    places : mapping of str to str
        Servers, paths and code in the file, by where it names them.
    trusted : sequence of str
        Words that the user has confirmed on the command line.
    remedy : str
        An alternative, for the error.

    Raises
    ------
    InvalidOption
        For unconfirmed words; the message lists them all, and the option that confirms them.
    """
    left = {where: what for where, what in places.items() if what not in trusted}
    if not left:
        return
    shown = ", ".join(f"{where} {_visible(what)}" for where, what in left.items())
    asks = f"{_visible(source)} asks for what lies outside it: {shown}"
    if sys.stdin.isatty() and sys.stderr.isatty():
        say(f"{asks}.", error=True)
        say("Follow it, because you trust who made it? [y/N] ", end="", error=True, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
        raise InvalidOption(f"{asks}, which was not confirmed: {remedy}")
    words = " ".join(dict.fromkeys(map(_visible, left.values())))
    raise InvalidOption(
        f"{asks}. Servers, paths and code that a file names are not followed by themselves: "
        f"{remedy}, or add --trust {words} if you trust who made it"
    )


def _visible(text: str) -> str:
    """Quote for a shell, on one line, with everything that could control a terminal escaped."""
    if text.isprintable():
        return shlex.quote(text)
    inside = text.encode("unicode_escape").decode().replace("'", "\\'")
    return f"$'{inside}'"
