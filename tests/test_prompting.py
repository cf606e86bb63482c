"""Rankings as arrays, and valid results of a recommender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rpp_env import Prompt, Ranking, Rankings
from rpp_env.errors import BrokenContract
from rpp_env.recommenders.base import by_score, rank_all
from rpp_env.testing import check_recommender, example_prompts

GOOD = [
    Ranking((2, 0, 1), 3, "C A B", prompt_tokens=7, completion_tokens=3),
    Ranking((1, 0, 2), 1, "B", prompt_tokens=8, completion_tokens=1, trimmed=2),
]


class Gives:
    """Ranks by giving back what it was made with."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def rank(self, prompts: Sequence[Prompt]) -> Any:
        return self.given


class Backwards:
    """Ranks every task's candidates from the last one shown to the first."""

    def rank(self, prompts: Sequence[Prompt]) -> Rankings:
        if not prompts:
            return Rankings.of(())
        count = len(prompts[0].task.candidates)
        order = np.tile(np.arange(count)[::-1], (len(prompts), 1))
        return Rankings(order, np.full(len(prompts), count))


def test_arrays_and_single_rankings_say_the_same() -> None:
    rankings = Rankings.of(GOOD)
    assert list(rankings) == GOOD
    assert rankings[1] == GOOD[1]
    assert rankings[-1].trimmed == 2
    assert rankings[:1] == GOOD[:1]
    assert [one.text for one in rankings] == ["C A B", "B"]
    assert rankings.spent("prompt_tokens").tolist() == [7, 8]
    # Without texts and costs there are none, and they count as nothing.
    bare = Rankings(rankings.order, rankings.named)
    assert list(bare) == GOOD  # what was said and paid is not compared
    assert bare[0].text == ""
    assert bare.spent("completion_tokens").tolist() == [0, 0]


def test_the_rank_of_a_candidate_that_is_not_named_is_0() -> None:
    rankings = Rankings.of(GOOD)
    for position in range(3):
        found = rankings.ranks(np.array([position, position]))
        assert found.tolist() == [one.rank(position) for one in GOOD]


def test_an_order_of_shown_candidates_becomes_one_of_the_tasks() -> None:
    shown = np.array([[2, 0, 1], [0, 2, 1]])  # the task's candidate at each place
    moved = Rankings.of(GOOD).reordered(shown)
    assert moved.order.tolist() == [[1, 2, 0], [2, 0, 1]]
    assert moved.named.tolist() == [3, 1]


def test_reset_users_have_no_last_answer() -> None:
    left = Rankings.of(GOOD).without(np.array([True, False]))
    assert left.named.tolist() == [0, 1]
    assert left.spent("prompt_tokens").tolist() == [0, 8]


def test_lists_and_arrays_are_accepted_from_a_recommender() -> None:
    prompts = example_prompts()[:2]
    for given in (GOOD, tuple(GOOD), Rankings.of(GOOD)):
        found = rank_all(Gives(given), prompts, 3)
        assert isinstance(found, Rankings)
        assert list(found) == GOOD
    assert len(rank_all(Gives([]), [], 3)) == 0
    check_recommender(Backwards())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nan", [False, True])
def test_ranking_by_score_is_a_stable_sort(dtype: Any, nan: bool) -> None:
    rng = np.random.default_rng(0)
    special = [0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, *([np.nan, -np.nan] if nan else ())]
    scores = np.where(
        rng.random((60, 30)) < 0.5, rng.choice(special, (60, 30)), rng.normal(size=30)
    )
    scores = scores.astype(dtype)
    before = scores.copy()
    found = by_score(scores)
    assert np.array_equal(found.order, np.argsort(-scores, axis=1, kind="stable"))
    assert (found.named == 30).all()
    assert np.array_equal(scores, before, equal_nan=True)
    assert by_score(scores[:0]).order.shape == (0, 30)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": np.array([[2, 2, 1], [1, 0, 2]])}, "not permutations of 0..2"),
        ({"order": np.array([[3, 0, 1], [1, 0, 2]])}, "not permutations of 0..2"),
        ({"order": np.array([[0, 1], [1, 0]])}, "2 rankings for 2 prompts of 3"),
        ({"order": np.array([[2, 0, 1]])}, "1 rankings for 2 prompts of 3"),
        ({"named": np.array([4, 1])}, "how many of 3 it named"),
        ({"named": np.array([-1, 1])}, "how many of 3 it named"),
        ({"named": np.array([3])}, "how many of 3 it named"),
        ({"cost": {"prompt_tokens": np.array([-1, 0])}}, "prompt_tokens that are not 2 counts"),
        ({"cost": {"trimmed": np.array([1])}}, "trimmed that are not 2 counts"),
        ({"texts": ["one"]}, "1 texts for 2 prompts"),
    ],
)
def test_arrays_that_are_no_rankings_are_refused(change: dict[str, Any], said: str) -> None:
    given = replace(Rankings.of(GOOD), **change)
    with pytest.raises(BrokenContract, match=said):
        rank_all(Gives(given), example_prompts()[:2], 3)
