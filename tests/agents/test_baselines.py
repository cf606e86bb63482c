from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from rpp_agents import enumeration
from rpp_agents.baselines import Fixed, Random, fixed_prompts, search_fixed
from rpp_agents.policy import Policy, load_policy
from rpp_agents.rollout import PettingZooBatch, play
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.evaluation import baselines
from rpp_env.evaluation.baselines import load_baseline
from rpp_env.metrics import ndcg
from rpp_env.prompting import Axis
from rpp_env.rules import RULES, Rules

OBSERVATIONS = np.zeros((4, 4, 3), np.float32)


def levels_of(fixed: Fixed, rules: Any) -> list[int]:
    level, levels, memory = np.full(4, rules.start), [], None
    for _ in range(rules.max_cycles):
        actions, memory = fixed.act(OBSERVATIONS, memory=memory)
        level = rules.lengths.next_level(level, actions[:, 1])
        levels.append(int(level[0]))
    return levels


def test_random_is_uniform_over_legal_actions() -> None:
    policy = Random([2, 4], seed=0)
    assert isinstance(policy, Policy)
    observations = np.zeros((20_000, 2, 1), np.float32)
    actions, _ = policy.act(observations)
    np.testing.assert_allclose(np.bincount(actions[:, 0]) / 20_000, [0.5] * 2, atol=0.02)
    np.testing.assert_allclose(np.bincount(actions[:, 1]) / 20_000, [0.25] * 4, atol=0.02)
    masks = np.array([[1, 1, 1, 1], [0, 1, 0, 1]])
    assert set(policy.act(observations, masks)[0][:, 1]) == {1, 3}
    first, second = (Random([2, 4], seed=3).act(observations)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (0, [0, 0, 0, 0, 0]),
        (1, [1, 1, 1, 1, 1]),
        (2, [2, 2, 2, 2, 2]),
        (3, [3, 3, 3, 3, 3]),
        (5, [4, 5, 5, 5, 5]),
        (6, [4, 6, 6, 6, 6]),
    ],
)
def test_a_level_is_reached_as_fast_as_the_rules_allow(target: int, expected: list[int]) -> None:
    rules = RULES["RPP-v0"]
    fixed = Fixed.prompt(rules, level=target, role=4, reasoning=8, output=3)
    assert levels_of(fixed, rules) == expected
    actions, memory = fixed.act(OBSERVATIONS, memory=np.array([0, 1, 9, 0]))
    assert actions[:, [0, 2, 3]].tolist() == [[4, 8, 3]] * 4
    assert memory.tolist() == [1, 2, 10, 1]
    if target == 6:
        # Kept by standing still, not by pushing against the end.
        assert actions[:, 1].tolist() == [4, 4, 2, 4]


def test_other_rules() -> None:
    bandit = RULES["RPPBandit-v0"]
    fixed = Fixed.prompt(bandit, level=3, role=0, reasoning=0, output=0)
    assert fixed.plan.tolist() == [[0, 3, 0, 0]]
    paper = RULES["RPPPaper-v0"]
    fixed = Fixed.prompt(paper, level=6, role=0, reasoning=0, output=0)
    assert levels_of(fixed, paper) == [3, 5] + [6] * 13
    games = replace(paper, start=5)
    with pytest.raises(InvalidOption, match=r"level 4 cannot be reached.*5 to 35"):
        Fixed.prompt(games, level=4, role=0, reasoning=0, output=0)
    with pytest.raises(InvalidOption, match="0 to 6"):
        Fixed.prompt(RULES["RPP-v0"], level=7, role=0, reasoning=0, output=0)


def space(rules: Rules, roles: int, reasonings: int, outputs: int) -> Any:
    """As much of a prompt space as a search needs."""
    free = zip((0, 2, 3), (roles, reasonings, outputs), strict=True)
    axes = (rules.lengths.axis, *(Axis.of(agent, size) for agent, size in free))
    return SimpleNamespace(shape=tuple(map(len, axes)), axes=axes, agents=tuple("abcd"))


def test_every_prompt_is_listed_once() -> None:
    rules = RULES["RPP-v0"]
    prompts = fixed_prompts(space(rules, 5, 9, 5), 5)
    assert len(prompts) == 7 * 5 * 9 * 5
    assert len({(levels_of(f, rules)[-1], *f.plan[-1, [0, 2, 3]]) for f in prompts[::50]}) == 32
    assert len({fixed.plan.tobytes() for fixed in prompts}) == 1575


def test_saved_baselines_act_the_same(tmp_path: Any) -> None:
    fixed = Fixed([[1, 2], [3, 4]])
    fixed.save(tmp_path / "f")
    again = load_policy(tmp_path / "f")
    assert isinstance(again, Fixed)
    np.testing.assert_array_equal(again.plan, fixed.plan)
    Random([3, 5]).save(tmp_path / "r")
    loaded = load_policy(tmp_path / "r")
    assert isinstance(loaded, Random)
    actions = loaded.act(np.zeros((500, 2, 1), np.float32))[0]
    assert actions.max(axis=0).tolist() == [2, 4]
    with pytest.raises(ValueError, match="not a 'fixed' one"):
        Fixed.load(tmp_path / "r")
    with pytest.raises(InvalidOption, match="plan"):
        Fixed([])


class Tasks:
    def __init__(self, position: Any) -> None:
        self.position = position

    def __len__(self) -> int:
        return len(self.position)


class Answers:
    """Rules RPP-v0 over invented answers: what is paid depends on user, level and sentences."""

    def __init__(self, users: int = 60, num_envs: int = 16, *, table: bool = False) -> None:
        self.rules = RULES["RPP-v0"]
        self.space = space(self.rules, 3, 2, 2)
        self.agents, self.nvec = tuple("abcd"), np.array([3, 5, 2, 2])
        self.action_spaces = tuple(map(Discrete, self.nvec.tolist()))
        self.max_cycles, self._count = 5, num_envs
        rng = np.random.default_rng(0)
        self.tasks = Tasks(rng.integers(20, size=users))
        quality = rng.random((7, 3, 2, 2))
        self.orders = np.argsort(rng.random((users, 7, 3, 2, 2, 20)), axis=-1)
        # Better cells find the target first more often.
        first = rng.random((users, 7, 3, 2, 2)) < quality
        found = self.tasks.position[np.nonzero(first)[0], None]
        self.orders[first] = (found + np.arange(20)) % 20
        self.named = rng.integers(0, 21, (users, 7, 3, 2, 2))
        self.table = self if table else None
        self.asked = 0
        self.reset()

    @property
    def num_envs(self) -> int:
        return self._batch

    def lookup(self, rows: Any, levels: Any, choices: Any) -> Any:
        where = (rows, levels, choices[:, 0], choices[:, 2], choices[:, 3])
        return self.orders[where], self.named[where], 0, 0, 0

    def rewards(self) -> Any:
        at = (self.orders == self.tasks.position[:, None, None, None, None, None]).argmax(-1)
        return ndcg(np.where(at < self.named, at + 1, 0), 10)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        self._who = np.asarray((options or {}).get("users", np.arange(self._count)))
        self._batch, self._clock = len(self._who), 0
        self._level = np.full(self._batch, self.rules.start)
        return np.zeros((self._batch, 4, 1), np.float32), {}

    def step(self, actions: Any) -> Any:
        self.asked += len(actions)
        self._level = self.rules.lengths.next_level(self._level, actions[:, 1])
        self._clock += 1
        order, named, *_ = self.lookup(self._who, self._level, actions)
        place = (order == self.tasks.position[self._who, None]).argmax(1)
        over = np.full(self._batch, self._clock == 5)
        return SimpleNamespace(
            observations=np.zeros((self._batch, 4, 1), np.float32),
            rewards=ndcg(np.where(place < named, place + 1, 0), 10),
            terminated=np.zeros_like(over),
            truncated=over,
            infos={},
        )

    def action_masks(self) -> Any:
        return (np.arange(5) < self.nvec[:, None]).astype(np.int8)


def test_the_table_gives_the_best_prompt_exactly() -> None:
    env = Answers(table=True)
    best, mean = search_fixed(env)
    assert env.asked == 0
    live = Answers()

    def score(fixed: Fixed) -> float:
        live.reset(options={"users": np.arange(60)})
        memory, total = None, 0.0
        for _ in range(5):
            actions, memory = fixed.act(np.zeros((60, 4, 1), np.float32), memory=memory)
            total += live.step(actions).rewards.mean() / 5
        return total

    scores = [score(fixed) for fixed in fixed_prompts(env.space, 5)]
    assert mean == pytest.approx(max(scores))
    assert score(best) == pytest.approx(max(scores))


def test_halving_is_near_the_optimum_within_its_budget() -> None:
    _, exact = search_fixed(Answers(table=True))
    env = Answers()
    best, mean = search_fixed(env, budget=1500, seed=1)
    assert 0.95 * 1500 * 5 <= env.asked <= 1500 * 5
    scores = {f.plan.tobytes(): f for f in fixed_prompts(env.space, 5)}
    assert best.plan.tobytes() in scores
    assert mean > exact - 0.08
    # With budget for everything, everyone is asked once about the last ones left, and no more.
    env = Answers()
    _, mean = search_fixed(env, budget=100_000)
    assert mean == pytest.approx(exact)
    assert env.asked == 84 * 60 * 5
    with pytest.raises(InvalidOption, match="84 candidates"):
        search_fixed(env, budget=83)


@pytest.mark.parametrize(
    ("cells", "users", "budget"),
    [
        (1575, 500, 40_000),
        (1575, 100, 40_000),
        (1575, 2000, 40_000),
        (1575, 120, 9_600),
        (84, 9, 84),
    ],
)
def test_halving_spends_its_budget(cells: int, users: int, budget: int) -> None:
    plan = baselines._rounds(cells, users, budget)
    sizes = [cells]
    while len(sizes) < len(plan):
        sizes.append(-(-sizes[-1] // 4))
    spent = sum(size * fresh for size, fresh in zip(sizes, plan, strict=True))
    assert 0.98 * budget <= spent <= budget
    assert plan[0] >= 1
    assert min(plan) >= 0
    assert sum(plan) <= users
    # Where everything can be paid for, everything is asked at once.
    assert baselines._rounds(cells, users, cells * users + 1)[0] == users


def test_without_rules_every_joint_action_is_tried(toys: SimpleNamespace) -> None:
    env = toys.Contextual(32, nvec=(3, 2), common=0.9)
    best, mean = search_fixed(env, budget=2000)
    assert best.plan.tolist() == [[0, 0]]
    assert mean == pytest.approx(play(best, env, episodes=2000).mean(), abs=0.02)


def test_enumerate_is_the_search_with_a_config(toys: SimpleNamespace, tmp_path: Path) -> None:
    env = toys.Contextual(64, nvec=(2, 3), horizon=1)
    policy = enumeration.train(env, enumeration.Config(budget=2000), run_dir=tmp_path)
    np.testing.assert_array_equal(policy.plan, search_fixed(env, budget=2000)[0].plan)
    again = load_policy(tmp_path / "policy.json")
    assert isinstance(again, Fixed)
    np.testing.assert_array_equal(again.plan, policy.plan)
    with pytest.raises(InvalidOption, match="budget must be 1 or more, not 0"):
        enumeration.Config(budget=0)


def test_masked_actions_are_not_tried(toys: SimpleNamespace) -> None:
    env = PettingZooBatch(lambda: toys.Uneven(2), 4)
    fixed, _ = search_fixed(env, budget=200)
    legal = (env.action_masks() != 0).all(axis=0)
    assert all(legal[agent, action] for agent, action in enumerate(fixed.plan[0].tolist()))


@pytest.mark.parametrize(
    "content",
    [
        '{"kind": "random", "nvec": [1000000000]}',
        '{"kind": "random", "nvec": [1e9]}',
        '{"kind": "random", "nvec": [4, -1]}',
        '{"kind": "random", "nvec": []}',
        '{"kind": "random", "nvec": "9"}',
        '{"kind": "random", "nvec": [[1], [2]]}',
        '{"kind": "random", "nvec": [1, [2]]}',
        '{"kind": "random", "nvec": [true, false]}',
        '{"kind": "random", "nvec": [99999999999999999999999]}',
        '{"kind": "random"}',
        '{"kind": "fixed", "plan": [["a"]]}',
        '{"kind": "fixed", "plan": [[0.5]]}',
        '{"kind": "fixed", "plan": [[1, 2], [3]]}',
        '{"kind": "fixed", "plan": [[-1]]}',
        '{"kind": "fixed", "plan": null}',
        '{"kind": ["random"]}',
        '{"kind":' + "[" * 100_000,
        '{"kind": "random", "nvec": [' + "1," * 1_000_000 + "1]}",
    ],
)
def test_a_policys_file_takes_no_memory_and_no_traceback(tmp_path: Path, content: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(content)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidData, match=r"policy\.json"):
            load_baseline(path)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
