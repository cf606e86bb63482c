"""evaluate: known scores, the same tasks for every policy, and no gain without a gap."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_env import InvalidOption, Prompt, Ranking, RPPEnv
from rpp_env.data import candidates, load_dataset
from rpp_env.evaluation.baselines import Fixed, Random
from rpp_env.evaluation.evaluate import Report, evaluate
from rpp_env.metrics import chance_ndcg, ndcg
from rpp_env.models import echo, oracle, silent
from rpp_env.table import tabulate

SMALL: dict[str, Any] = {"num_users": 120, "num_items": 100, "num_envs": 16}
SECOND = float(ndcg(2))


def make(model: Any = None, split: str = "test", **options: Any) -> RPPEnv:
    return RPPEnv.make(model=model or echo(), split=split, **{**SMALL, **options})


def even(token: str) -> bool:
    return int(token.strip("u")) % 2 == 0


class Tastes:
    """Even users want role 1 and odd ones role 2; role 3 puts every target second."""

    def __init__(self) -> None:
        self.asked = 0

    def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
        self.asked += len(prompts)
        rankings = []
        for prompt in prompts:
            role, task = prompt.choice.actions[0], prompt.task
            order = list(range(len(task.candidates)))
            order.remove(task.position)
            order.insert(1 if role == 3 else 0, task.position)
            wanted = role in (3, 1 if even(task.user) else 2)
            named = len(order) if wanted else 0
            rankings.append(Ranking(tuple(order), named, "", 7, 3, 0))
        return rankings


class Roles:
    """Plays roles that depend on who is played, which a policy of the tests may know."""

    def __init__(self, env: RPPEnv, role: Callable[[str], int]) -> None:
        self.env, self.role = env, role

    def act(
        self, observations: Any, masks: Any = None, greedy: bool = False, memory: Any = None
    ) -> Any:
        tokens = self.env.tasks.dataset.user_tokens
        users = [tokens[self.env.tasks.users[row]] for row in self.env.playing]
        return np.array([[self.role(user), 2, 0, 0] for user in users]), None


def always(role: int) -> Fixed:
    return Fixed([[role, 2, 0, 0]])


# ---- known answers ----


def test_an_oracle_gets_everything_and_a_silent_model_nothing() -> None:
    env = make()
    for model, expected in ((oracle(env.tasks), 1.0), (silent(), 0.0)):
        report = evaluate(always(0), make(model), baselines=("random",))
        for line in ("policy", "random"):
            for metric in ("ndcg@1", "ndcg@5", "ndcg@10", "hit@10", "mrr", "first", "last"):
                found = report.lines[line][metric]
                assert (found.value, found.low, found.high) == (expected,) * 3
            assert report.lines[line]["named"].value == expected
        assert report.lines["chance"]["ndcg@10"].value == chance_ndcg(20)


@pytest.mark.parametrize("tabulated", [True, False])
def test_the_gain_equals_a_hand_computed_one(tabulated: bool) -> None:
    env, train = make(Tastes()), make(Tastes(), split="train")
    if tabulated:
        # Fewer cells than a whole table: levels and the other sentences change nothing here.
        env, train = replayed(env), replayed(train)
    report = evaluate(
        Roles(env, lambda user: 1 if even(user) else 3),
        env,
        train_env=train,
        reference=Roles(env, lambda user: 1 if even(user) else 2),
        budget=12 * 1575,
    )
    share = np.mean([even(user) for user in report.users])
    assert report.lines["fixed"]["ndcg@10"].value == pytest.approx(SECOND)
    assert report.about["fixed_plan"][-1][0] == 3
    assert report.lines["policy"]["ndcg@10"].value == pytest.approx(share + (1 - share) * SECOND)
    assert report.lines["reference"]["ndcg@10"].value == 1.0
    assert report.differences["fixed"].value == pytest.approx(share * (1 - SECOND))
    assert report.gap is not None
    assert report.gap.value == pytest.approx(1 - SECOND)
    assert report.gain is not None
    # The gain is the share of even users: its interval is a proportion's.
    half = 1.96 * np.sqrt(share * (1 - share) / len(report.users))
    assert report.gain.value == pytest.approx(share)
    assert (report.gain.low, report.gain.high) == pytest.approx(
        (share - half, share + half), abs=0.05
    )
    assert f"gain {report.gain}" in report.verdict
    if tabulated:
        assert report.lines["hindsight"]["ndcg@10"].value == 1.0
        assert list(report.lines) == "chance random fixed policy reference hindsight".split()


def replayed(env: RPPEnv) -> RPPEnv:
    return RPPEnv(
        env.tasks, book=env.book, embeddings=env.embeddings, table=tabulate(env), num_envs=16
    )


def test_no_gain_where_the_reference_does_not_beat_the_fixed_prompt() -> None:
    env, train = make(Tastes()), make(Tastes(), split="train")
    tokens = env.tasks.dataset.user_tokens
    odd = [tokens[user] for user in env.tasks.users if not even(tokens[user])]
    lost = odd[: len(odd) // 2 - 1]

    def lucky(user: str) -> int:
        """Right for half of the users and of no use to some: better by a little, not surely."""
        return 1 if even(user) else 0 if user in lost else 3

    for reference in (always(3), always(1), Roles(env, lucky)):
        report = evaluate(
            Roles(env, lambda user: 1 if even(user) else 2),
            env,
            baselines={"fixed": always(3)},
            train_env=train,
            reference=reference,
        )
        assert report.gap is not None
        assert report.gap.value > 0.005 or not isinstance(reference, Roles)
        assert report.gap.low <= 0
        assert report.gain is None
        assert report.to_json()["gain"] is None
        assert "no gain is reported" in report.verdict
        assert "policy: NDCG@10 1.000" in report.markdown()


def test_costs_are_counted_per_user() -> None:
    env = make(Tastes())
    report = evaluate(Fixed([[3, 3, 0, 0], [3, 2, 0, 0], [3, 1, 0, 0]]), env, baselines=())
    line = report.lines["policy"]
    assert line["calls"].value == 5
    assert line["tokens"].value == 5 * 10
    # 5, 5, 3, 2 and 1 items: one prompt comes twice.
    assert env.tasks.history_lengths.min() >= 5
    assert report.scores["policy"].different.tolist() == [4] * len(env.tasks)
    assert report.scores["policy"].ranks.shape == (len(env.tasks), 5)


def test_policies_get_the_environments_observations() -> None:
    env = make(num_envs=1000)
    expected, _ = env.reset(0, {"users": np.arange(len(env.tasks))})
    seen: list[Any] = []

    class Spy:
        def act(self, observations: Any, masks: Any, greedy: bool, memory: Any) -> Any:
            seen.append((observations, masks, greedy, memory))
            return np.zeros((len(observations), 4), int), len(seen)

    evaluate(Spy(), env, baselines=(), greedy=False)  # type: ignore[arg-type]
    np.testing.assert_array_equal(seen[0][0], expected)
    step = make(num_envs=1000)
    step.reset(0, {"users": np.arange(len(env.tasks))})
    after = step.step(np.zeros((len(env.tasks), 4), int)).observations
    np.testing.assert_array_equal(seen[1][0], after)
    np.testing.assert_array_equal(seen[0][1], env.action_masks())
    assert [memory for *_, memory in seen] == [None, 1, 2, 3, 4]
    assert not any(greedy for _, _, greedy, _ in seen)


def test_actions_that_had_to_be_mapped_are_counted() -> None:
    env = make(padded_actions=True)
    report = evaluate(Fixed([[8, 8, 8, 8]]), env, baselines=("random",))
    assert report.lines["policy"]["masked"].value == 0.75
    assert report.lines["random"]["masked"].value == 0
    assert "masked" in report.markdown()


# ---- fairness ----


def test_the_size_of_the_batches_changes_nothing() -> None:
    reports = []
    for size in (5, 7, 1000):
        env, train = make(Tastes(), num_envs=size), make(Tastes(), split="train", num_envs=size)
        report = evaluate(always(1), env, train_env=train, budget=2000, reference=always(3))
        assert env.num_envs == size  # as it was before
        reports.append(json.dumps(report.to_json()))
    assert reports[0] == reports[1] == reports[2]


def test_equal_policies_differ_by_nothing_at_all() -> None:
    """Under the paper's rules too, where every step has an order of its own."""
    for rules in ("RPP-v0", "RPPPaper-v0", "RPPBandit-v0"):
        env = make(rules=rules)
        report = evaluate(
            Random(env.nvec, seed=1), env, baselines={"same": Random(env.nvec, seed=1)}
        )
        np.testing.assert_array_equal(report.scores["policy"].ranks, report.scores["same"].ranks)
        same = report.differences["same"]
        assert (same.value, same.low, same.high) == (0, 0, 0)
        line = report.lines["policy"]["ndcg@10"]
        assert line.low < line.value < line.high


def test_several_draws_are_one_user() -> None:
    env = make(Tastes(), draws=3)
    report = evaluate(always(1), env, baselines=())
    once = evaluate(always(1), make(Tastes()), baselines=())
    assert report.about["users"] * 3 == report.about["tasks"] == len(report.users)
    assert report.lines["policy"]["ndcg@10"] == once.lines["policy"]["ndcg@10"]


def test_users_are_apart_and_questions_the_same() -> None:
    env = make()
    whole = make(split="train", fractions=None)
    everyone = RPPEnv(
        whole.tasks.subset(range(3)), book=env.book, embeddings=env.embeddings, recommender=Tastes()
    )
    for train, problem in (
        (env, r"20 users are in train_env and in env \(such as 'u"),
        (make(split="train", rules="RPPBandit-v0"), "RPPBandit-v0"),
    ):
        with pytest.raises(InvalidOption, match=problem):
            evaluate(always(0), env, train_env=train)
    evaluate(always(0), env, train_env=everyone, baselines=("random",))
    # The same tokens in another world are other people.
    evaluate(always(0), env, train_env=make(data_seed=5), baselines=("random",))


def test_options_that_make_no_sense_are_refused() -> None:
    env = make()
    for options, problem in (
        ({}, "give train_env="),
        ({"baselines": ("best",)}, "'best' is not known"),
        ({"baselines": {"best": None}}, "'best' is not known"),
        ({"baselines": {"chance": always(0)}}, "called 'chance'"),
        ({"baselines": {"mine": always(0)}, "name": "mine"}, "called 'mine'"),
    ):
        with pytest.raises(InvalidOption, match=problem):
            evaluate(always(0), env, **options)  # type: ignore[arg-type]


def test_the_search_reports_its_calls() -> None:
    recommender = Tastes()
    train = make(recommender, split="train")
    report = evaluate(always(1), make(Tastes()), train_env=train, budget=3000)
    assert 1575 * 5 <= recommender.asked <= 3000 * 5
    assert f"with {recommender.asked:,} calls of the model" in report.about["fixed_chosen"]
    assert "by successive halving for 80 training tasks" in report.about["fixed_chosen"]
    assert f"{report.about['fixed_prompt']}; chosen by successive" in report.markdown()


# ---- what is kept ----


def test_the_file_holds_every_user(tmp_path: Path) -> None:
    report: Report = evaluate(always(1), make(Tastes()), baselines=("random",), name="mine")
    report.save(tmp_path / "report.json")
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept == json.loads(json.dumps(report.to_json()))
    for line in ("mine", "random"):
        ranks = np.array(kept["ranks"][line])
        assert ranks.shape == (len(kept["users"]), 5)
        by_step = ndcg(ranks).mean(axis=0)
        assert kept["per_step"][line]["ndcg@10"] == pytest.approx(by_step.tolist())
        assert kept["lines"][line]["ndcg@10"]["value"] == pytest.approx(by_step.mean())
        assert kept["lines"][line]["last"]["value"] == pytest.approx(by_step[-1])
    text = report.markdown()
    assert "| mine " in text
    assert "step 5" in text


def test_one_step_is_the_first_and_the_last() -> None:
    text = evaluate(always(1), make(rules="RPPBandit-v0"), baselines=("random",)).markdown()
    assert "step 1" not in text
    assert "1 steps" not in text


@pytest.mark.parametrize("users", [60, 240])
def test_many_users_keep_no_more_tasks_than_few(
    users: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def played() -> tuple[RPPEnv, Report]:
        world = load_dataset("movieworld", num_users=users, num_items=100)
        env = RPPEnv.make(world, echo(), fractions=(1.0, 0.0, 0.0), num_envs=16)
        return env, evaluate(always(1), env, baselines=("random",))

    env, free = played()
    assert len(env.tasks._made) == users
    monkeypatch.setattr(candidates, "_KEPT", 32)
    env, bounded = played()
    assert 0 < len(env.tasks._made) <= 32
    assert bounded.lines == free.lines
