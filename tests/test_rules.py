"""Rules: history levels, their lengths, and the fastest way to each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rpp_env import RULES, InvalidOption


@pytest.mark.parametrize("name", RULES)
def test_routes_reach_their_history_length(name: str) -> None:
    rules = RULES[name]
    lowest = rules.start if rules.history == "grow" else 0
    for level in range(lowest, rules.lengths.max_level + 1):
        actions, levels = rules.lengths.route(level)
        at = np.array([rules.start])
        for action, after in zip(actions, levels, strict=True):
            at = rules.lengths.next_level(at, np.array([action]))
            assert at[0] == after
        assert levels[-1] == level
        assert len(actions) == rules.max_cycles


def test_no_route_is_longer_than_it_must_be() -> None:
    rules = RULES["RPP-v0"]
    reached = {rules.start}
    for steps in range(1, rules.max_cycles + 1):
        for level in range(rules.lengths.max_level + 1):
            arrived = int(np.argmax(rules.lengths.route(level)[1] == level)) + 1
            nearest = min(abs(level - at) for at in reached)
            assert (arrived <= steps) or nearest > 2 or level not in reached
        moves = np.arange(len(rules.history_options))
        reached = {
            int(after)
            for at in reached
            for after in rules.lengths.next_level(np.full(5, at), moves)
        }
    assert [int(np.argmax(rules.lengths.route(level)[1] == level)) for level in range(7)] == [
        0, 0, 0, 0, 0, 1, 1,
    ]  # fmt: skip


def test_levels_show_the_items_of_the_design() -> None:
    rules = RULES["RPP-v0"]
    levels = np.arange(7)
    assert rules.lengths.items_shown(levels, np.full(7, 50)).tolist() == [1, 2, 3, 5, 8, 13, 20]
    assert rules.lengths.items_shown(levels, np.full(7, 4)).tolist() == [1, 2, 3, 4, 4, 4, 4]


def test_the_papers_history_only_grows() -> None:
    rules = RULES["RPPPaper-v0"]
    after = rules.lengths.next_level(np.array([1, 1, 1]), np.array([0, 1, 2]))
    assert after.tolist() == [1, 2, 3]
    assert rules.lengths.max_level == 31
    assert replace(rules, start=5).lengths.max_level == 35


@pytest.mark.parametrize("level", [-1, 7])
def test_an_unreachable_level_is_refused(level: int) -> None:
    with pytest.raises(InvalidOption, match=r"levels run from 0 to 6"):
        RULES["RPP-v0"].lengths.route(level)
