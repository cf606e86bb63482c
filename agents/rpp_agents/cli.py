"""The ``rpp-env`` command: finds the verb, parses its options, and prints errors in one line.

Each verb is a module of `rpp_agents.commands` with a function `run`; its parameters are the
options. A module may also have a function `parse` that reads them itself. Only the module of the
given verb is imported.
"""

from __future__ import annotations

import errno
import functools
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

from rpp_agents.commands.console import say
from rpp_env import __version__
from rpp_env.errors import InvalidOption, MissingExtra, RPPError
from rpp_env.interrupts import heed_interrupts
from rpp_env.options import unknown

__all__ = ["COMMANDS", "main", "parse"]

COMMANDS = {
    "demo": "Train MAPPO on movieworld and compare it with the baselines.",
    "play": "Play one user's episode: by hand, at random, or by a saved policy.",
    "train": "Train the agents of an environment and evaluate them; resumable.",
    "evaluate": "Compare a trained policy with the baselines on held-out users.",
    "diagnose": "Measure what personal prompts can gain and how the agents interact.",
    "pilot": "Find out with few calls whether personalising the prompt pays.",
    "tabulate": "Ask the model for every answer once and save them in a table.",
    "export": "Write episodes of the joint environment as a Minari dataset.",
    "serve": "Print or run the vLLM command for a model; check a server.",
    "recording": "Check, copy, export or import a model's recorded answers.",
    "data": "List the datasets found here, or download one.",
    "model": "List pretrained models, fetch one, or train a recommender.",
    "bench": "Compare algorithms over seeds, worlds and tasks; resumable.",
    "study": "Compare ways of choosing prompts by their model calls; resumable.",
    "report": "Write the tables, plots and HTML page of a study or bench again.",
    "submit": "Play a frozen task with a trained policy and write its submission.",
    "verify": "Play a submission again from its policy and compare every score.",
    "doctor": "Show versions, caches, and the datasets, models and tables found.",
}
"""Verbs with their descriptions."""

EXAMPLES = """\
examples:
  rpp-env demo
  rpp-env play --user u00047
  rpp-env train mappo --run-dir runs/first --seed 1
  rpp-env evaluate runs/first
  rpp-env diagnose --dataset movieworld-hard --users 500 --train-users 500

Every verb has its own help: rpp-env train --help
"""


PLACES = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
"""Errors of the file system caused by a path of the user's, not by our code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code: 0, 2 for user errors, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr, sys.stdin):
        if isinstance(stream, io.TextIOWrapper):
            # An encoding error of the terminal must not end a command.
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    if not sys.stdout.isatty():
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # so that a log can be followed
        os.environ.setdefault("NO_COLOR", "1")
    try:
        with heed_interrupts(), warnings.catch_warnings():
            warnings.showwarning = _warn
            parse(given)()
        sys.stdout.flush()
    except RPPError as error:
        say("rpp-env:", _one_line(str(error)), error=True)
        return 2
    except KeyboardInterrupt as interrupt:
        say("\nrpp-env:", str(interrupt) or "stopped", error=True)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in PLACES:
            raise
        about = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        reason = _one_line(f"{about}{error.strerror or error}")
        say(f"rpp-env: {reason}; give a file or folder that can be used", error=True)
        return 2
    return 0


def _one_line(text: str) -> str:
    """Put a message on one line; an overlong path is cut in its middle."""
    return re.sub(
        r"\S{300,}", lambda path: f"{path[0][:100]}...{path[0][-50:]}", " ".join(text.split())
    )


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - the signature of warnings.showwarning
    line: str | None = None,
) -> None:
    """Print a warning in one line; one of a library with its place in the code."""
    if issubclass(category, UserWarning):
        say("rpp-env: warning:", " ".join(str(message).split()), error=True)
    else:
        say(warnings.formatwarning(message, category, filename, lineno, line), end="", error=True)


def parse(given: Sequence[str]) -> Callable[[], None]:
    """Parse a command line into a callable that runs the verb with its options.

    Raises
    ------
    InvalidOption
        For an unknown verb.
    SystemExit
        For ``--help``, after printing it, and for unknown options.
    """
    if not given or given[0] in ("-h", "--help"):
        return _print_help
    verb, *options = given
    if verb == "--version":
        return functools.partial(say, f"rpp-env {__version__}")
    if verb not in COMMANDS:
        raise InvalidOption(unknown("verb", verb, COMMANDS))
    try:
        import rich  # noqa: F401 - checked here, once for all verbs
        import tyro  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"{error.name}, which the command needs,", "agents") from error
    from rpp_agents.commands.options import read

    module = importlib.import_module(f"rpp_agents.commands.{verb}")
    prog = f"rpp-env {verb}"
    if hasattr(module, "parse"):  # for verbs whose first word decides which options there are
        run: Callable[[], None] = module.parse(prog, options)
        return run
    return read(module.run, prog, options)


def _print_help() -> None:
    verbs = "\n".join(f"  {verb:<10}{said}" for verb, said in COMMANDS.items())
    say(f"usage: rpp-env VERB [options]\n\nverbs:\n{verbs}\n\n{EXAMPLES}", end="")
