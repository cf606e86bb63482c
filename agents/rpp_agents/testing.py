"""Check that the command and the experiments play an id: ``check_rules("package.module:NAME")``.

`rpp_env.testing.check_space` checks a prompt space and a recommender in Python; this goes the way
of a user who names them on the command line.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.numpy import load_file

from rpp_agents.cli import main
from rpp_agents.world import World
from rpp_env.errors import BrokenContract

__all__ = ["check_rules"]

_USERS = ["--max-users", "24"]
_TRAIN = "--eval-users 12 --num-envs 24 --total-steps 96 --hidden 8 --evaluations 1".split()


def check_rules(rules: str, *options: str, trainer: str = "mappo", tables: bool = True) -> None:
    """Train, evaluate and play an id by the command; tabulate and diagnose it where it has tables.

    A run is made, made again (it is complete, and nothing is trained), evaluated and played from
    its folder alone. With `tables` a table of each split is made, which replays (if it is of the
    id's own recommender); the run is evaluated against the reference, and `diagnose` reports.

    Parameters
    ----------
    rules : str
        The id, as ``--rules`` takes it.
    *options : str
        Further words of the command line, such as ``"--codebook"``, ``"8"``.
    trainer : str
        Trainer of the run, with the options of `rpp_agents.mappo`.
    tables : bool
        Whether there are tables: not where prompts are infinitely many, or no table can hold them.
        Each of the above is then refused in one line.

    Raises
    ------
    BrokenContract
        Where the command fails, or does not refuse.
    """
    words = ["--rules", rules, *options]
    with TemporaryDirectory() as folder:
        run, kept = str(Path(folder, "run")), str(Path(folder, "tables"))
        train = ["train", trainer, *words, *_USERS, *_TRAIN, "--eval-episodes", "12"]
        _run([*train, "--run-dir", run, "--budget", "100000"])
        if World.load(Path(run), [rules]).rules != rules:
            raise BrokenContract(f"{run}/{World.FILE} must hold {rules}")
        weights = Path(run, "policy.safetensors")
        before = load_file(weights)
        _run([*train, "--run-dir", run, "--budget", "100000"])
        if any(before[name].tobytes() != x.tobytes() for name, x in load_file(weights).items()):
            raise BrokenContract("a run that is complete must not be trained again")
        places = World.load(Path(run), [rules]).places.values()
        trust = ["--trust", *places] if places else []
        _run(["evaluate", run, *_USERS, "--budget", "100000", *trust])
        _run(["play", run, *trust])
        _run(["play", "random", *words])
        if not tables:
            for refused in (
                ["tabulate", kept, *words, *_USERS],
                ["diagnose", *words],
                ["evaluate", run, "--train-users", "20", *trust],
            ):
                _refused(refused)
            return
        splits = ["--split", "train", "test"]
        _run(["tabulate", kept, *words, *_USERS, "--processes", "1", *splits])
        _run(["evaluate", run, *_USERS, "--train-users", "24", "--processes", "1", *trust])
        if "--model" not in options:
            _run(["play", "random", *words, "--model", f"table:{kept}"])
        counts = ["--train-users", "24", "--users", "12", "--processes", "1"]
        _run(["diagnose", *words, *counts])


def _outcome(words: Sequence[str]) -> tuple[int, str]:
    """The exit code of a command, and all that it printed."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few users are no reference that converges
        try:
            code = main(words)
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
    return code, said.getvalue()


def _run(words: Sequence[str]) -> None:
    code, said = _outcome(words)
    if code:
        raise BrokenContract(f"rpp-env {' '.join(words)} ended in {code}: {said[-2000:]}")


def _refused(words: Sequence[str]) -> None:
    code, said = _outcome(words)
    if code != 2 or not said.splitlines()[-1].startswith("rpp-env: "):
        raise BrokenContract(
            f"rpp-env {' '.join(words)} must be refused in one line; it ended in {code}: "
            f"{said[-2000:]}"
        )
