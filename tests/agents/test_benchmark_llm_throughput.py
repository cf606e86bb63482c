"""benchmarks/llm_throughput.py: what it counts without an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> object:
    pytest.importorskip("psutil")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import llm_throughput

    return llm_throughput


def test_whole_blocks_are_shared_and_the_last_token_is_read(benchmark: object) -> None:
    shared = benchmark.shared  # type: ignore[attr-defined]
    assert shared([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 3, 9, 9]], 2) == 6 / 15
    assert shared([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 3, 9, 9]], 4) == 4 / 15
    assert shared([[1, 2], [1, 2]], 2) == 0  # its logits are needed
    assert shared([[9, 1, 2], [1, 2, 3]], 1) == 0  # the beginning, not any place
