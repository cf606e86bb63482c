"""The metrics agree with scikit-learn and with their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpp_env.metrics import chance_ndcg, hit, mrr, ndcg


@given(
    st.integers(2, 40).flatmap(
        lambda n: st.tuples(st.permutations(range(n)), st.integers(0, n - 1), st.integers(1, 45))
    )
)
def test_ndcg_is_scikit_learn_s(case: tuple[list[int], int, int]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    order, position, k = case
    relevance = np.zeros(len(order))
    relevance[position] = 1.0
    scores = np.zeros(len(order))
    scores[order] = np.arange(len(order), 0, -1)
    rank = order.index(position) + 1
    expected = metrics.ndcg_score([relevance], [scores], k=k)
    assert float(ndcg(rank, k)) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.integers(0, 60), max_size=30), st.integers(1, 60))
def test_arrays_and_numbers_agree(ranks: list[int], k: int) -> None:
    array = np.array(ranks, dtype=np.int64)
    for metric in (lambda r: ndcg(r, k), lambda r: hit(r, k), mrr):
        values = metric(array)
        assert values.dtype == np.float64
        assert values.shape == array.shape
        assert values.tolist() == [float(metric(r)) for r in ranks]
        assert ((values >= 0) & (values <= 1)).all()


def test_values_by_hand() -> None:
    ranks = [0, 1, 2, 3, 10, 11]
    assert ndcg(ranks).tolist() == [0, 1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0]
    assert ndcg(ranks, 1).tolist() == [0, 1, 0, 0, 0, 0]
    assert hit(ranks, 3).tolist() == [0, 1, 1, 1, 0, 0]
    assert mrr(ranks).tolist() == [0, 1, 1 / 2, 1 / 3, 1 / 10, 1 / 11]
    assert ndcg(np.array([[1, 2], [0, 11]])).shape == (2, 2)


@pytest.mark.parametrize("metric", [ndcg, hit, mrr])
def test_invalid_ranks_are_refused(metric) -> None:
    with pytest.raises(ValueError, match=r"ranks are integers .* not float64"):
        metric([1.0])
    with pytest.raises(ValueError, match=r"ranks are integers .* not bool"):
        metric([True])
    with pytest.raises(ValueError, match="got -1"):
        metric([1, -1])


def test_chance_is_the_mean_of_random_rankings() -> None:
    rng = np.random.default_rng(0)
    assert chance_ndcg(20) == pytest.approx(ndcg(rng.integers(1, 21, 200_000)).mean(), abs=0.002)
    assert chance_ndcg(10, k=1) == pytest.approx(0.1)
    assert chance_ndcg(1) == 1.0
