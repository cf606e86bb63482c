"""The ``rpp-env`` command: finds the verb, reads its options, and says errors in one line.

Each verb is a module of `rpp_agents.commands` with a function `run`; its parameters are the
options. Only the module that is asked for is imported.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rpp_agents.commands.console import say
from rpp_env import __version__
from rpp_env.errors import InvalidOption, MissingExtra, RPPError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "demo": "Train on the embedded world and show what was learned, in a few minutes.",
    "play": "Play one user's episode: by hand, at random, or by a saved policy.",
    "train": "Train the four agents, evaluate them, and keep everything in a folder.",
    "evaluate": "Compare a trained policy with the baselines, on users that it has not seen.",
    "diagnose": "Say how much a task has to gain, and how much the agents need each other.",
    "tabulate": "Ask for every answer once, and write the table that replays them.",
    "serve": "Print or run vLLM's command for a model, and check the server that it starts.",
    "data": "List the datasets that are here, or download one.",
    "bench": "Compare algorithms over seeds and tasks, with intervals; resumes.",
    "study": "Compare ways to choose prompts, by the calls of the model that they take; resumes.",
    "report": "Write a study's tables, plots and page again.",
    "doctor": "Say what is installed, which data are found, and what the caches hold.",
}
"""Verbs, and what each does."""

EXAMPLES = """\
examples:
  rpp-env demo
  rpp-env play --user u00047
  rpp-env train mappo --run-dir runs/first --seed 1
  rpp-env evaluate runs/first
  rpp-env diagnose --dataset movieworld-hard --users 500 --train-users 500

Every verb has its own help: rpp-env train --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr, sys.stdin):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a letter, or bytes that are none, end no command.
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    if not sys.stdout.isatty():
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # so that a log can be followed
        os.environ.setdefault("NO_COLOR", "1")
    try:
        _run(given)
        sys.stdout.flush()
    except RPPError as error:
        say("rpp-env:", " ".join(str(error).split()), error=True)
        return 2
    except KeyboardInterrupt as interrupt:
        say("\nrpp-env:", str(interrupt) or "stopped", error=True)
        return 130
    except BrokenPipeError:  # `rpp-env ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(given: list[str]) -> None:
    if not given or given[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {verb:<10}{said}" for verb, said in COMMANDS.items())
        say(f"usage: rpp-env VERB [options]\n\nverbs:\n{verbs}\n\n{EXAMPLES}", end="")
        return
    verb, *options = given
    if verb == "--version":
        say(f"rpp-env {__version__}")
        return
    if verb not in COMMANDS:
        close = difflib.get_close_matches(verb, COMMANDS, 1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise InvalidOption(f"there is no verb {verb!r}: {meant}verbs are {', '.join(COMMANDS)}")
    try:
        import rich  # noqa: F401 - asked for here, once for all verbs
        import tyro
    except ImportError as error:
        raise MissingExtra(f"{error.name}, which the command needs,", "agents") from error
    module = importlib.import_module(f"rpp_agents.commands.{verb}")
    run = module.run
    if verb == "train":
        run, options = module.chosen(options)
    if verb in ("evaluate", "play"):
        from rpp_agents.world import World

        # A run knows in which world it was trained.
        worlds = [World.load(Path(word)) for word in options if (Path(word) / World.FILE).is_file()]
        run = functools.partial(run, world=worlds[0]) if worlds else run
    tyro.cli(run, prog=f"rpp-env {verb}", args=options)
