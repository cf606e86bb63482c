"""Try hostile inputs of all kinds, and count the outcomes.

    python benchmarks/attack.py                      # every part: the table of docs/security.md
    python benchmarks/attack.py forks kills          # some of them

Each part tries hostile inputs, in separate processes where needed, with limits on memory and time,
and counts each as *held* (refused with a message, or accepted and harmless), *lost* (a traceback, a
hang, memory beyond the limit, something leaked or deleted) or *wrong in silence* (accepted with a
wrong result, without a message). The exit code is 1 if anything was lost or wrong.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attack_data
import attack_folders
import attack_recordings
import attack_servers
import attack_tables
from attack_count import Count

PARTS: dict[str, Callable[[Path], Count]] = {
    "forks": attack_recordings.forks,
    "kills": attack_recordings.kills,
    "opens": attack_recordings.opens,
    "recording-flips": attack_recordings.flips,
    "recording-truncations": attack_recordings.truncations,
    "tables": attack_tables.tables,
    "parts": attack_tables.parts,
    "tabulation-kills": attack_tables.tabulation_kills,
    "checkpoints": attack_tables.checkpoints,
    "policies": attack_tables.policies,
    "titles": attack_data.titles,
    "data-folders": attack_data.data_folders,
    "archives": attack_data.archives,
    "terminal": attack_data.terminal,
    "run-folders": attack_folders.run_folders,
    "reports": attack_folders.reports,
    "servers": attack_servers.servers,
}
"""A part tries its inputs in its own folder, and returns the outcomes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    chosen = parser.parse_args().parts or list(PARTS)
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    print("| part | tried | held | lost | wrong in silence | seconds |\n|---|---|---|---|---|---|")
    failed: list[str] = []
    for name in chosen:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix=f"attack-{name}-") as folder:
            found = PARTS[name](Path(folder))
        seconds = time.perf_counter() - began
        print(
            f"| {name} | {found.tried} | {found.held} | {found.lost} | {found.wrong} "
            f"| {seconds:.0f} |",
            flush=True,
        )
        failed += [f"{name}: {note}" for note in found.notes]
    # What failed may hold anything: escapes, and 120,000 combining marks.
    print("".join(f"\n{ascii(note)[1:400]}" for note in failed))
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
