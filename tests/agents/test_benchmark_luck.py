"""benchmarks/luck.py: targets among fewer candidates, and what of hindsight survives others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from letters import Letters

import rpp_env
from rpp_env.data.candidates import TaskBatch
from rpp_env.metrics import ndcg
from rpp_env.recommenders import LikelihoodRecommender

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import luck

    return luck


def test_leaving_candidates_out_is_having_drawn_fewer(benchmark: Any) -> None:
    env = rpp_env.RPPEnv.make(
        "movieworld",
        Letters(),
        "test",
        rules="RPPLikelihood-v0",
        catalog="films-forms",
        num_candidates=3,
        max_users=4,
    )
    found = benchmark.halves(env, 2)
    cells = range(found.shape[3])
    for row in range(4):
        task = env.tasks.task(row)
        others = [title for title in task.candidates if title != task.target]
        paid = []
        for other in others:  # of two negatives each is a half
            fewer = replace(task, candidates=(task.target, other))
            rows = np.full(len(cells), row)
            state = env.space.at(np.array(cells), rows)
            batch = TaskBatch(env.tasks, rows)
            asked = [replace(one, task=fewer) for one in env.space.prompts(state, batch, rows)]
            ranks = LikelihoodRecommender(Letters()).rank(asked).ranks(np.zeros(len(cells), int))
            paid.append(ndcg(ranks))
        for split in found:
            assert any(
                (split[0, row] == paid[i]).all() and (split[1, row] == paid[1 - i]).all()
                for i in (0, 1)
            )


def test_what_survives_is_what_both_halves_agree_about(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    noise = rng.random((4, 2, 300, 20))
    found = benchmark.luck(noise, noise)
    assert abs(found["survives"].value - found["random"].value) < 0.02
    assert found["hindsight"].value > 0.9
    same = np.broadcast_to(rng.random((1, 1, 300, 20)), noise.shape)
    found = benchmark.luck(same, same)
    assert found["survives"].value == pytest.approx(found["hindsight"].value)
