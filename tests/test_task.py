"""Tasks and rankings refuse invalid input."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpp_env.errors import InvalidTask, RPPError
from rpp_env.task import Ranking, RankingTask

TASK = RankingTask("u1", ("Owl",), ("Bird", "Egg", "Nest"), "Egg")


def test_a_task_gives_its_targets_position() -> None:
    assert TASK.position == 1
    assert TASK.domain == "movies"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": ("Bird", "Egg", "Bird")}, "'Bird' appears twice"),
        ({"target": "Owl"}, "target 'Owl' is not among the 3 candidates"),
        ({"candidates": ()}, "is not among the 0 candidates"),
    ],
)
def test_impossible_tasks_are_refused(change, message: str) -> None:
    with pytest.raises(InvalidTask, match=message) as caught:
        replace(TASK, **change)
    assert isinstance(caught.value, (ValueError, RPPError))


def test_history_may_hold_the_target_and_repeats() -> None:
    assert replace(TASK, history=("Egg", "Egg")).history == ("Egg", "Egg")


def test_tasks_and_rankings_cannot_change() -> None:
    with pytest.raises(FrozenInstanceError):
        TASK.target = "Bird"
    with pytest.raises(FrozenInstanceError):
        Ranking((0, 1), 1).named = 2


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(st.permutations(range(n)), st.integers(0, n), st.integers(0, n - 1))
    )
)
def test_ranks_start_at_one_and_cover_named_candidates_only(
    case: tuple[list[int], int, int],
) -> None:
    order, named, position = case
    rank = Ranking(tuple(order), named).rank(position)
    assert rank == (order.index(position) + 1 if position in order[:named] else 0)


@pytest.mark.parametrize("order", [(0, 0), (1, 2), (0, 2), (-1, 0)])
def test_orders_that_are_not_permutations_are_refused(order: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"permutation of 0\.\.1"):
        Ranking(order, 0)


@pytest.mark.parametrize("named", [-1, 3])
def test_named_stays_within_the_candidates(named: int) -> None:
    with pytest.raises(ValueError, match=r"named must lie in 0\.\.2"):
        Ranking((0, 1), named)


def test_costs_are_not_compared() -> None:
    assert Ranking((0, 1), 1, "text", 5, 6, 7) == Ranking((0, 1), 1)
    assert Ranking((0, 1), 1) != Ranking((0, 1), 2)
