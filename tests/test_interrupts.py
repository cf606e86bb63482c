"""Ctrl-C: a real SIGINT stops the work, and interrupted work gives no result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rpp_env.interrupts import heed_interrupts, held_interrupts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

SWALLOWS = """
import os, signal, sys, time
from rpp_env.interrupts import heed_interrupts

def fit():
    try:
        print("ready", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        {then}
    return 0.463

{call}
print("a number:", found, flush=True)
"""


def interrupted(code: str, cwd: Path, after: float = 0.0) -> tuple[int, str, str]:
    """Exit code, output and error output of a program, sent SIGINT once it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        assert "ready" in running.stdout.readline()
        time.sleep(after)
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=60)
    return running.returncode, out, err


@pytest.mark.parametrize("then", ["pass", "raise RuntimeError('another error')", "raise"])
@pytest.mark.parametrize(
    "call",
    [
        "with heed_interrupts():\n    found = fit()",
        "found = heed_interrupts()(fit)()",
        "with heed_interrupts(), heed_interrupts():\n    found = fit()",
    ],
)
def test_a_caught_interrupt_is_raised_again(then: str, call: str, tmp_path: Path) -> None:
    code, out, err = interrupted(SWALLOWS.format(then=then, call=call), tmp_path)
    assert "a number" not in out
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert code in (-signal.SIGINT, 130)


def test_without_an_interrupt_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGINT)
    with heed_interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError), heed_interrupts():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_and_ignored_signals_are_left_alone() -> None:
    found = []

    def inside() -> None:
        with heed_interrupts():
            found.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [before]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heed_interrupts():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_held_interrupts_come_afterwards() -> None:
    reached = []

    def work() -> None:
        with held_interrupts():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached


REFERENCE = """
import sys
from rpp_env import RPPEnv, tabulate
from rpp_env.evaluation.diagnose import fit_reference
options = dict(num_users=600, num_items=100, data_seed=5, rules="RPPBandit-v0", max_users=80)
env = RPPEnv.make(model=tabulate(RPPEnv.make(**options)), **options)

def tell(done, total):
    if done == 0:
        print("ready", flush=True)

{call}
print("a number:", found, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", ["found = fit_reference(env, progress=tell, members=200)"], ids=["fit_reference"]
)
def test_the_reference_is_not_fitted_in_part(call: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    code, out, err = interrupted(REFERENCE.format(call=call), tmp_path, after=1.0)
    assert "a number" not in out
    assert "KeyboardInterrupt" in err
    assert code in (-signal.SIGINT, 130)
