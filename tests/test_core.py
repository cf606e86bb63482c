"""RPPEnv: the users played, the results of steps, and refused input."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete

import rpp_env
from rpp_env import (
    RULES,
    BrokenContract,
    Generation,
    InvalidAction,
    InvalidOption,
    InvalidTask,
    LLMRecommender,
    Prompt,
    Ranking,
    ResetNeeded,
    RPPEnv,
    ScriptedModel,
    SentenceCatalog,
    TableMismatch,
    UnknownDataset,
)
from rpp_env.core import COUNTS, IDENTIFIERS, METRICS
from rpp_env.data import UserSplit, training_interactions
from rpp_env.embeddings import fit_embeddings
from rpp_env.episode import Episode
from rpp_env.metrics import ndcg
from rpp_env.models import echo, silent
from rpp_env.sentences import AGENTS
from rpp_env.table import tabulate

SMALL: dict[str, Any] = {"num_users": 60, "num_items": 100}
PLAIN = [0, 2, 0, 0]


def make(num_envs: int = 4, model: Any = None, **options: Any) -> RPPEnv:
    return RPPEnv.make(model=model or echo(), num_envs=num_envs, **{"seed": 0, **SMALL, **options})


def never(_: str) -> str:
    raise AssertionError("the model was asked")


class Stub:
    """A recommender that returns given rankings."""

    def __init__(self, *rankings: Ranking) -> None:
        self.rankings = list(rankings)
        self.prompts: list[Prompt] = []

    def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
        self.prompts = list(prompts)
        return self.rankings or [Ranking(tuple(range(20)), 20) for _ in prompts]


# ---- shapes and rules ----


def test_the_results_of_reset_and_step() -> None:
    env = make(4)
    observations, infos = env.reset(seed=0)
    step = env.step([PLAIN] * 4)
    for seen in (observations, step.observations):
        assert seen.shape == (4, 4, env.observation_width)
        assert seen.dtype == np.float32
        assert np.abs(seen).max() <= 1
    assert env.state().shape == (4, env.state_width)
    assert step.rewards.dtype == np.float64
    assert step.rewards.shape == step.terminated.shape == step.truncated.shape == (4,)
    assert list(infos) == list(step.infos) == [*METRICS, *COUNTS, *IDENTIFIERS]
    for name in infos:
        assert infos[name].shape == step.infos[name].shape == (4,)
        assert infos[name].dtype == step.infos[name].dtype
        assert name in IDENTIFIERS or not infos[name].any()
    assert env.agents == AGENTS
    assert env.nvec.tolist() == [5, 5, 9, 5]


def test_every_array_is_fresh() -> None:
    env = make(4)
    given: list[np.ndarray] = []
    observations, infos = env.reset(seed=0)
    given += [observations, *infos.values(), env.state(), env.action_masks(), env.playing]
    for _ in range(3):
        actions = np.array([PLAIN] * 4)
        step = env.step(actions)
        given += [actions, step.observations, step.rewards, step.terminated, step.truncated]
        given += [*step.infos.values(), step.rows, step.clock, step.actions]
        given += [env.state(), env.action_masks(), env.playing]
    for i, one in enumerate(given):
        assert not any(np.shares_memory(one, other) for other in given[:i])
    before = env.state()
    for array in given:
        array[...] = 0
    assert np.array_equal(env.state(), before)


@pytest.mark.parametrize("kept", [False, True])
def test_lazy_results_are_those_of_their_step(kept: bool) -> None:
    """Steps make their arrays when asked: later steps and resets, and writing, change nothing."""

    def play(env: RPPEnv, late: bool) -> list[bytes]:
        rng = np.random.default_rng(0)
        steps, results = [], []
        env.reset(seed=0)
        for t in range(9):
            actions = rng.integers(0, env.nvec, (6, 4))
            steps.append(step := env.step(actions))
            actions[:] = 0
            if late:
                for array in (step.rows, step.clock, step.actions):
                    array[:] = 0
            else:
                results += arrays(step)
            if t % 3 == 2:
                env.reset(options={"reset_mask": np.arange(6) % 2 == t % 2})
            if step.truncated.any():
                env.reset(options={"reset_mask": step.truncated})
        if late:
            for step in steps:
                results += arrays(step)
        return results

    def arrays(step: rpp_env.Step) -> list[bytes]:
        made = (step.rewards, step.terminated, step.truncated, step.observations)
        return [array.tobytes() for array in (*made, *step.infos.values())]

    env = make(6, "embedded", max_users=8)
    if kept:
        env = replayed(env)
    assert play(env, late=True) == play(env, late=False)


@pytest.mark.parametrize(
    ("rules", "steps", "terminated"),
    [("RPP-v0", 5, False), ("RPPBandit-v0", 1, True), ("RPPPaper-v0", 15, False)],
)
def test_episodes_end_as_the_rules_say(rules: str, steps: int, terminated: bool) -> None:
    env = make(3, rules=rules)
    env.reset(seed=0)
    for number in range(1, steps + 1):
        step = env.step([[0, 0, 0, 0]] * 3)
        assert (step.clock == number).all()
        assert step.terminated.all() == (terminated and number == steps)
        assert step.truncated.all() == (not terminated and number == steps)
    with pytest.raises(ResetNeeded, match=r"3 of 3 users are over"):
        env.step([[0, 0, 0, 0]] * 3)
    env.state()


def test_max_cycles_can_be_set() -> None:
    env = make(1, max_cycles=2)
    env.reset()
    assert not env.step([PLAIN]).truncated.any()
    assert env.step([PLAIN]).truncated.all()
    assert make(1, max_cycles=1).rules.episode.bandit
    with pytest.raises(InvalidOption, match="max_cycles must be 1 or more, not 0"):
        make(1, max_cycles=0)


def test_the_history_agent_moves_along_the_levels() -> None:
    env = make(1)
    env.reset()
    shown = [env.step([[0, a, 0, 0]]).infos["shown"].item() for a in (4, 0, 0, 0, 1)]
    assert shown == [8, 3, 1, 1, 1]
    env.reset()
    long = int(env.tasks.history_lengths[env.playing[0]])
    shown = [env.step([[0, a, 0, 0]]).infos["shown"].item() for a in (3, 4, 4, 2, 1)]
    assert shown == [min(n, long) for n in (5, 13, 20, 20, 13)]


def test_the_bandit_chooses_and_the_paper_only_grows() -> None:
    env = make(1, rules="RPPBandit-v0")
    for action, items in enumerate((1, 3, 5, 10, 20)):
        env.reset()
        assert env.step([[0, action, 0, 0]]).infos["shown"] == items
    env = make(1, rules="RPPPaper-v0")
    env.reset()
    assert [env.step([[0, a, 0, 0]]).infos["shown"].item() for a in (0, 2, 1, 0)] == [1, 3, 4, 4]


def test_the_papers_games_start_on_five_items() -> None:
    dataset = replace(rpp_env.load_dataset("movieworld", num_users=60), domain="games")
    env = RPPEnv.make(dataset, echo(), rules="RPPPaper-v0", num_envs=1)
    env.reset()
    assert env.step([[0, 0, 0, 0]]).infos["shown"] == 5


def test_a_reward_is_the_ndcg_of_the_target_and_the_infos_agree() -> None:
    env = make(20, Stub())
    env.reset(options={"users": range(20)})
    step = env.step([PLAIN] * 20)
    ranks = env.tasks.position[:20] + 1
    assert np.array_equal(step.infos["rank"], ranks)
    assert np.array_equal(step.rewards, ndcg(ranks, 10))
    assert np.array_equal(step.infos["ndcg@10"], step.rewards)
    assert np.array_equal(step.infos["ndcg@5"], ndcg(ranks, 5))
    assert np.array_equal(step.infos["hit@10"], ranks <= 10)
    assert np.array_equal(step.infos["mrr"], 1 / ranks)


def test_unnamed_candidates_earn_nothing() -> None:
    env = make(1, Stub(Ranking(tuple(range(20)), 5)))
    for row in range(20):
        env.reset(options={"users": [row]})
        step = env.step([PLAIN])
        position = env.tasks.position[row]
        assert step.infos["rank"] == (position + 1 if position < 5 else 0)
        assert (step.rewards > 0) == (position < 5)


def test_prompts_hold_the_users_history_and_the_chosen_options() -> None:
    env = make(3, recommender := Stub())
    env.reset(options={"users": [4, 2, 9]})
    step = env.step([[1, 3, 2, 0], [2, 2, 8, 1], [0, 4, 0, 4]])
    assert step.prompts == recommender.prompts
    for prompt, row, actions in zip(step.prompts or [], [4, 2, 9], step.actions, strict=True):
        assert prompt.task is env.tasks.task(row)
        assert prompt.choice == env.book.choose([actions])[0]
    assert [prompt.shown for prompt in recommender.prompts] == [5, 3, 8]


# ---- who plays ----


def test_every_user_plays_once_before_any_plays_twice() -> None:
    env = make(7)
    total = len(env.tasks)
    seen: list[int] = []
    env.reset(seed=0)
    while len(seen) < 3 * total:
        seen += env.playing.tolist()
        env.reset()
    for epoch in range(3):
        assert sorted(seen[epoch * total : (epoch + 1) * total]) == list(range(total))
    assert seen[:total] != seen[total : 2 * total]


def test_by_time_everything_is_fitted_on_the_earliest_users() -> None:
    world = rpp_env.load_dataset("movieworld", **SMALL)
    late = np.random.default_rng(0).permutation(60)
    world = replace(world, last_times=late.astype(float))
    made = {
        split: RPPEnv.make(world, echo(), split, split_by="time", num_envs=2)
        for split in ("train", "validation", "test")
    }
    assert late[made["train"].tasks.users].max() < late[made["validation"].tasks.users].min()
    assert late[made["validation"].tasks.users].max() < late[made["test"].tasks.users].min()
    split = UserSplit(*(env.tasks.users for env in made.values()))
    known = fit_embeddings(world, training_interactions(world, split))
    assert made["test"].embeddings.digest == known.digest
    assert RPPEnv.make(world, echo(), "test", num_envs=2).embeddings.digest != known.digest


def test_the_seed_determines_the_users() -> None:
    first, second = make(7, seed=5), make(7)
    first.reset()
    second.reset(seed=5)
    assert np.array_equal(first.playing, second.playing)
    first.reset()
    second.reset()
    assert np.array_equal(first.playing, second.playing)
    second.reset(seed=6)
    assert not np.array_equal(first.playing, second.playing)


def test_more_places_than_users_are_filled() -> None:
    env = make(100, max_users=3)
    env.reset()
    assert np.bincount(env.playing).tolist() == [34, 33, 33] or len(np.unique(env.playing)) == 3


def test_users_can_be_named_by_row_or_token() -> None:
    env = make(2, draws=3)
    env.reset(options={"users": [5, 1, 1, 0]})
    assert env.playing.tolist() == [5, 1, 1, 0]
    assert env.num_envs == 4
    env.step([PLAIN] * 4)
    tokens = [env.tasks.dataset.user_tokens[env.tasks.users[row]] for row in (3, 6)]
    env.reset(options={"users": tokens})
    assert env.playing.tolist() == [3, 6]
    env.reset()
    assert env.num_envs == 2


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ([], "users must be a sequence"),
        ("u1", "users must be a sequence"),
        (["nobody"], "user 'nobody' has no task here"),
        ([99], r"task rows must lie in 0\.\.39; got 99"),
        ([-1], r"task rows must lie in 0\.\.39"),
        ([0.5], "task rows must be integers"),
    ],
)
def test_users_that_cannot_play_are_refused(users: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        make().reset(options={"users": users})


def test_a_mask_resets_some_and_lets_the_others_go_on() -> None:
    env = make(4)
    env.reset(seed=0)
    env.step(np.array([[1, 4, 2, 3]] * 4))
    before, state, infos = env.playing, env.state(), env.last_step.infos  # type: ignore[union-attr]
    mask = np.array([True, False, True, False])
    observations, begun = env.reset(options={"reset_mask": mask})
    assert np.array_equal(env.playing[~mask], before[~mask])
    assert not (env.playing[mask] == before[mask]).any()
    assert np.array_equal(env.state()[~mask], state[~mask])
    assert np.array_equal(observations[~mask, 0, :135], state[~mask, :135])
    for name in begun:
        assert np.array_equal(begun[name][~mask], infos[name][~mask])
        if name not in IDENTIFIERS:
            assert not begun[name][mask].any()
    step = env.step([PLAIN] * 4)
    assert step.clock.tolist() == [1, 2, 1, 2]
    assert step.infos["shown"].tolist() == [3, 8, 3, 8]
    for _ in range(3):
        step = env.step([PLAIN] * 4)
    assert step.truncated.tolist() == [False, True, False, True]
    with pytest.raises(ResetNeeded, match=r"2 of 4 users are over \(the first is user 1\)"):
        env.step([PLAIN] * 4)
    env.reset(options={"reset_mask": step.truncated, "users": [0, 1]})
    assert env.playing.tolist()[1::2] == [0, 1]


def test_a_masked_reset_clears_counts_and_observations() -> None:
    env = make(2, padded_actions=True)
    env.reset(seed=0)
    env.step([[8, 7, 8, 5]] * 2)
    observations, infos = env.reset(options={"reset_mask": np.array([True, False])})
    assert infos["masked_actions"].tolist() == [0, 3]
    fresh = make(2, padded_actions=True)
    same, _ = fresh.reset(options={"users": env.playing})
    assert observations[0].tobytes() == same[0].tobytes() != observations[1].tobytes()


def test_masks_that_make_no_sense_are_refused() -> None:
    env = make(4)
    with pytest.raises(ResetNeeded, match="before the first reset"):
        env.reset(options={"reset_mask": np.ones(4, bool)})
    env.reset()
    for mask in (np.ones(3, bool), np.ones(4), np.zeros(4, bool)):
        with pytest.raises(InvalidOption, match=r"bool array of shape \(4,\)"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(InvalidOption, match="begins 1 episodes, but 2 users"):
        env.reset(options={"reset_mask": np.array([1, 0, 0, 0], bool), "users": [1, 2]})


@pytest.mark.parametrize("wrong", ["user", "reset_masks", "seed", ""])
def test_unknown_reset_options_are_refused(wrong: str) -> None:
    env = make()
    with pytest.raises(InvalidOption, match=f"{wrong!r} is not known.*users, reset_"):
        env.reset(seed=0, options={wrong: [1]})
    assert env.last_step is None
    # What PettingZoo's conformance suite and Minari give every environment.
    for of_others in ({"options": 1}, {"minari_autoseed": False}):
        env.reset(seed=0, options=of_others)


@pytest.mark.parametrize("users", [3, "u00001", [], None.__class__, np.array(2)])
def test_users_that_are_no_sequence_are_refused(users: Any) -> None:
    with pytest.raises(InvalidOption, match="users must be a sequence"):
        make().reset(options={"users": users})


def test_max_users_are_always_the_same_ones() -> None:
    few, more = (set(make(1, max_users=n, seed=n).tasks.users.tolist()) for n in (5, 9))
    assert len(few) == 5
    assert few < more
    with pytest.raises(InvalidOption, match="max_users must be at least 1"):
        make(1, max_users=0)


def test_another_user_seed_takes_other_users_of_the_split() -> None:
    def rows(count: int | None, user_seed: int) -> set[int]:
        return set(make(1, max_users=count, user_seed=user_seed).tasks.users.tolist())

    whole = rows(None, 0)
    assert rows(9, 0) != rows(9, 1)
    assert rows(5, 1) < rows(9, 1) < whole
    assert rows(9, 0) == set(make(1, max_users=9).tasks.users.tolist())
    assert rows(None, 1) == whole


# ---- actions ----


def test_a_step_needs_a_reset() -> None:
    env = make()
    for call in (lambda: env.step([PLAIN] * 4), env.state):
        with pytest.raises(ResetNeeded, match="before the first reset"):
            call()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([[0, 2, 9, 0]], r"agent 'reasoning_guidance' chose 9 for user 0; its actions are 0\.\.8"),
        ([[-1, 2, 0, 0]], r"agent 'role_playing' chose -1 for user 0; its actions are 0\.\.4"),
        ([[0, 2, 0]], r"shape \(1, 4\).*got int64 of shape \(1, 3\)"),
        ([PLAIN, PLAIN], r"got int64 of shape \(2, 4\)"),
        ([[0.0, 2.0, 0.0, 0.0]], "got float64"),
    ],
)
def test_wrong_actions_are_refused_and_change_nothing(actions: Any, message: str) -> None:
    env = make(1, ScriptedModel(never))
    env.reset(seed=0)
    before = env.state()
    with pytest.raises(InvalidAction, match=message):
        env.step(actions)
    assert np.array_equal(env.state(), before)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_any_integers_are_actions(dtype: type) -> None:
    env = make(1)
    env.reset()
    assert env.step(np.array([[4, 4, 8, 4]], dtype=dtype)).actions.tolist() == [[4, 4, 8, 4]]


def test_padded_actions_are_mapped_and_counted() -> None:
    env, native = make(2, padded_actions=True), make(2)
    assert env.nvec.tolist() == [9, 9, 9, 9]
    assert env.action_spaces == (Discrete(9),) * 4
    assert native.action_spaces == (Discrete(5), Discrete(5), Discrete(9), Discrete(5))
    masks = env.action_masks()
    assert masks.dtype == np.int8
    assert masks.sum(axis=1).tolist() == [5, 5, 9, 5]
    assert masks[0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    env.reset(seed=0)
    native.reset(seed=0)
    step = env.step([[8, 7, 8, 5], [4, 2, 8, 0]])
    assert step.infos["masked_actions"].tolist() == [3, 0]
    assert step.actions.tolist() == [[3, 2, 8, 0], [4, 2, 8, 0]]
    same = native.step(step.actions)
    assert np.array_equal(step.observations, same.observations)
    assert np.array_equal(step.rewards, same.rewards)
    with pytest.raises(InvalidAction, match=r"agent 'output_format' chose 9.*0\.\.8"):
        env.step([[0, 0, 0, 9]] * 2)


def test_agents_can_have_index_names() -> None:
    env = make(1, agent_names="index")
    assert env.agents == ("agent_0", "agent_1", "agent_2", "agent_3")
    env.reset()
    with pytest.raises(InvalidAction, match="agent 'agent_1' chose 5"):
        env.step([[0, 5, 0, 0]])
    with pytest.raises(InvalidOption, match="agent_names is 'numbers'; it may be roles, index"):
        make(1, agent_names="numbers")


# ---- the model ----


def test_making_and_resetting_asks_nothing() -> None:
    env = make(4, ScriptedModel(never))
    env.reset(seed=0)
    env.reset(options={"users": [1]})
    env.state()
    env.action_masks()
    assert env.calls == dict.fromkeys(env.calls, 0)


def test_calls_are_counted() -> None:
    env = make(4)
    env.reset()
    steps = [env.step([PLAIN] * 4) for _ in range(2)]
    assert env.calls == {
        "batches": 2,
        "prompts": 8,
        "prompt_tokens": sum(int(step.infos["prompt_tokens"].sum()) for step in steps),
        "completion_tokens": sum(int(step.infos["completion_tokens"].sum()) for step in steps),
    }
    assert env.calls["prompt_tokens"] > 0


def test_an_error_of_the_model_leaves_the_episode_where_it_was() -> None:
    fail = [True]

    class Failing(ScriptedModel):
        def complete(self, requests: Any) -> Any:
            if fail.pop():
                fail.append(False)
                raise OSError("no connection")
            return super().complete(requests)

    env, calm = make(2, Failing(echo()._answer)), make(2)
    for one in (env, calm):
        one.reset(seed=0)
    with pytest.raises(OSError, match="no connection"):
        env.step([PLAIN] * 2)
    fail.append(False)
    mine, other = env.step([PLAIN] * 2), calm.step([PLAIN] * 2)
    assert np.array_equal(mine.observations, other.observations)
    assert mine.clock.tolist() == [1, 1]


@pytest.mark.parametrize(
    "rankings",
    [
        (Ranking(tuple(range(20)), 20),),
        (Ranking(tuple(range(5)), 5), Ranking(tuple(range(20)), 20)),
    ],
)
def test_a_recommender_that_breaks_its_contract_is_named(rankings: tuple[Ranking, ...]) -> None:
    env = make(2, Stub(*rankings))
    env.reset()
    with pytest.raises(BrokenContract, match=r"Stub\.rank returned \d rankings for 2 prompts"):
        env.step([PLAIN] * 2)


# ---- rewriting ----


def shout(prompts: Sequence[Prompt]) -> list[Prompt]:
    return [
        replace(p, choice=p.choice.rewritten(reasoning=p.choice.reasoning.upper())) for p in prompts
    ]


def test_sentences_can_be_rewritten() -> None:
    seen: list[str] = []
    env = make(2, ScriptedModel(lambda text: seen.append(text) or ""), rewrite=shout)
    env.reset(seed=0)
    step = env.step([[1, 2, 3, 4]] * 2)
    assert step.prompts is not None
    assert all("LIKELIHOOD" in text for text in seen)
    assert all(
        prompt.choice.contract in text for prompt, text in zip(step.prompts, seen, strict=True)
    )
    sentences = env.encoder.encode([prompt.instructions for prompt in step.prompts])
    assert np.array_equal(step.observations[:, 0, env.observer.layout["sentences"]], sentences)


def test_a_rewrite_that_changes_nothing_changes_nothing() -> None:
    env, plain = make(3, rewrite=list), make(3)
    for one in (env, plain):
        one.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        actions = rng.integers(0, env.nvec, (3, 4))
        mine, other = env.step(actions), plain.step(actions)
        assert np.array_equal(mine.observations, other.observations)
        assert np.array_equal(mine.rewards, other.rewards)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda prompts: prompts[1:],
        lambda prompts: prompts[::-1],
        lambda prompts: [replace(prompt, shown=1) for prompt in prompts],
        lambda prompts: [prompt.text for prompt in prompts],
        lambda prompts: [replace(p, choice=replace(p.choice, contract="any")) for p in prompts],
    ],
    ids=["loses one", "turns round", "shows less", "gives texts", "drops the contract line"],
)
def test_a_rewrite_may_change_sentences_only(rewrite: Any) -> None:
    env = make(2, rewrite=rewrite)
    env.reset()
    with pytest.raises(BrokenContract, match="rewrite gave"):
        env.step([PLAIN] * 2)


# ---- the paper's rules ----


def test_the_paper_orders_candidates_anew_at_every_step_and_scores_the_same_order() -> None:
    env = make(5, rules="RPPPaper-v0")
    env.reset(seed=0)
    orders, positions = [], []
    for _ in range(15):
        moves = set()
        step = env.step([[0, 0, 0, 0]] * 5)
        assert step.prompts is not None
        assert step.rankings is not None
        for user, (prompt, row) in enumerate(zip(step.prompts, step.rows, strict=True)):
            task = env.tasks.task(int(row))
            assert sorted(prompt.task.candidates) == sorted(task.candidates)
            assert prompt.task.target == task.target
            moves.add(tuple(map(task.candidates.index, prompt.task.candidates)))
            # The echo names candidates as shown: its rank of the target is the target's place.
            assert step.infos["rank"][user] == prompt.task.position + 1
            orders.append(prompt.task.candidates)
            positions.append(prompt.task.position)
        assert len(moves) == 5  # one shuffle for all users is what the released code did
    assert len(set(orders)) == len(orders)
    assert len(set(positions)) == 10


def test_the_papers_orders_depend_on_seed_user_visit_and_step_only() -> None:
    def shown(env: RPPEnv, user: int) -> list[tuple[str, ...]]:
        seen = []
        for _ in range(2):
            step = env.step([[0, 0, 0, 0]] * env.num_envs)
            assert step.prompts is not None
            seen.append(step.prompts[user].task.candidates)
        return seen

    env = make(5, rules="RPPPaper-v0")
    env.reset(seed=3, options={"users": [8, 9, 7]})
    first = shown(env, 2)
    env.reset(seed=3, options={"users": [7]})
    assert shown(env, 0) == first
    env.reset(options={"users": [7]})
    assert shown(env, 0) != first
    env.reset(seed=4, options={"users": [7]})
    assert shown(env, 0) != first
    env.reset(seed=3, options={"users": [7, 7]})
    step = env.step([[0, 0, 0, 0]] * 2)
    assert step.prompts is not None
    assert step.prompts[0].task.candidates == first[0] != step.prompts[1].task.candidates


# ---- tables ----


def replayed(env: RPPEnv, **options: Any) -> RPPEnv:
    table = tabulate(env)
    return RPPEnv(
        env.tasks,
        book=env.book,
        embeddings=table.embeddings,
        table=table,
        num_envs=env.num_envs,
        **options,
    )


def test_recorded_answers_replay_bit_for_bit() -> None:
    env = make(6, "embedded", max_users=4)
    table = replayed(env)
    rng = np.random.default_rng(0)
    for episode in range(4):
        observations, _ = env.reset(seed=episode)
        again, _ = table.reset(seed=episode)
        assert observations.tobytes() == again.tobytes()
        for _ in range(5):
            actions = rng.integers(0, env.nvec, (6, 4))
            live, dead = env.step(actions), table.step(actions)
            assert live.observations.tobytes() == dead.observations.tobytes()
            assert live.rewards.tobytes() == dead.rewards.tobytes()
            assert env.state().tobytes() == table.state().tobytes()
            for name, values in live.infos.items():
                assert values.dtype == dead.infos[name].dtype
                assert values.tobytes() == dead.infos[name].tobytes()
            assert dead.prompts is None
            assert dead.rankings is None
    assert table.calls["prompts"] == 0


def test_an_environment_is_pickled_in_the_middle_of_an_episode() -> None:
    live = make(1, "embedded", max_users=3)
    for env in (live, make(1, tabulate(live), max_users=3)):
        env.reset(seed=0)
        env.step([[0, 0, 0, 0]])
        again = pickle.loads(pickle.dumps(env))  # noqa: S301 - our own bytes
        assert again.state().tobytes() == env.state().tobytes()
        one, other = env.step([[1, 1, 1, 1]]), again.step([[1, 1, 1, 1]])
        assert one.observations.tobytes() == other.observations.tobytes()
        assert one.rewards.tobytes() == other.rewards.tobytes()


@pytest.mark.parametrize(
    "actions",
    [[0, 0, 9, 0], [-1, 0, 0, 0], [0, 0, 0], [0, 0, 0, 0, 0], [0.5, 0, 0, 0], [0, 5, 0, 0]],
)
def test_a_refused_action_changes_nothing(actions: list[Any]) -> None:
    env = replayed(make(1, max_users=2))
    env.reset(seed=0)
    for _ in range(2):
        before = env.state()
        with pytest.raises(InvalidAction):
            env.step([actions])
        assert np.array_equal(env.state(), before)
        env.step([[0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"order": "step"}, "reorders the candidates"),
        ({"one_task": False}, "asks for another item"),
    ],
)
def test_one_error_explains_what_no_table_can_hold(given: dict[str, Any], reason: str) -> None:
    said = f"^mine-v0 {reason} at every step, which no table can hold: play it live$"
    with pytest.raises(InvalidOption, match=said):
        Episode("mine-v0", 2, **given).check_table("play it live")
    Episode("mine-v0", 2).check_table("play it live")


def test_unsupported_uses_of_a_table_are_refused() -> None:
    env = make(1, max_users=1)
    with pytest.raises(InvalidOption, match="a table cannot be rewritten"):
        replayed(env, rewrite=list)
    paper = replace(RULES["RPP-v0"], order="step")
    with pytest.raises(InvalidOption, match="reordered at every step"):
        replayed(env, rules=paper)
    for parts in ({}, {"recommender": Stub(), "table": tabulate(env)}):
        with pytest.raises(InvalidOption, match="a recommender or a table, and not both"):
            RPPEnv(env.tasks, book=env.book, embeddings=env.embeddings, **parts)  # type: ignore[arg-type]


# ---- making one from names ----


def test_bad_names_are_refused() -> None:
    with pytest.raises(InvalidOption, match="model 'gpt' is not known"):
        make(model="gpt")
    with pytest.raises(InvalidOption, match=r"LanguageModel .* or a Recommender .* not object"):
        make(model=object())
    with pytest.raises(InvalidOption, match="split is 'dev'; it may be train, validation, test"):
        make(split="dev")
    with pytest.raises(InvalidOption, match="rules 'RPP-v9' is not known; did you mean 'RPP-v0'"):
        make(rules="RPP-v9")
    with pytest.raises(UnknownDataset, match="no-such-data"):
        RPPEnv.make("no-such-data", echo())
    with pytest.raises(InvalidOption, match="did you mean 'num_candidates'"):
        make(num_candidate=3)
    with pytest.raises(InvalidOption, match="num_candidates"):
        make(num_candidates=101)
    with pytest.raises(InvalidOption, match=r"one user or more must play.*: num_envs is 0"):
        make(0)


def test_decoding_belongs_to_language_models() -> None:
    with pytest.raises(InvalidOption, match="needs log-probabilities of letters"):
        make(model=echo(), rank_by="logprobs")
    for option in (
        {"rank_by": "logprobs"},
        {"generation": Generation()},
        {"recording": "answers.sqlite"},
    ):
        with pytest.raises(InvalidOption, match="a recommender is given"):
            make(model=Stub(), **option)


def test_the_rules_set_the_generation_options() -> None:
    env = make(rules="RPPPaper-v0")
    assert isinstance(env.recommender, LLMRecommender)
    assert env.recommender.generation == Generation.paper()
    mine = Generation(max_tokens=9)
    env = make(generation=mine)
    assert isinstance(env.recommender, LLMRecommender)
    assert env.recommender.generation == mine


def test_a_dataset_can_be_handed_over_but_not_configured() -> None:
    dataset = rpp_env.load_dataset("movieworld", num_users=60, num_items=100)
    env = RPPEnv.make(dataset, echo(), domain="games")
    assert env.book.domain == env.tasks.dataset.domain == "games"
    with pytest.raises(InvalidOption, match="num_users"):
        RPPEnv.make(dataset, echo(), num_users=7)


def test_a_book_must_fit_the_rules() -> None:
    book = SentenceCatalog.load("movies", history=("one", "two"))
    with pytest.raises(InvalidOption, match="2 history records, but there are 5 history options"):
        make(book=book)


def test_a_custom_book_can_have_other_sizes(tmp_path: Path) -> None:
    source = Path(rpp_env.sentences.__file__).with_name("movies.toml").read_text("utf-8")
    path = tmp_path / "mine.toml"
    head, role, tail = source.partition('role_playing = [\n    "",')
    path.write_text(head + role + '\n    "You are a cook.",' + tail, "utf-8")
    env = make(2, book=str(path))
    assert env.nvec.tolist() == [6, 5, 9, 5]
    env.reset()
    step = env.step([[1, 2, 8, 4]] * 2)
    assert step.prompts is not None
    assert step.prompts[0].text.startswith("You are a cook.")


def test_custom_rules_can_be_passed() -> None:
    rules = replace(RULES["RPP-v0"], id="mine", rungs=(2, 4), start=0, history_options=(-1, 1))
    env = make(1, rules=rules)
    env.reset()
    shown = [env.step([[0, a, 0, 0]]).infos["shown"].item() for a in (1, 1, 0)]
    assert shown == [4, 4, 2]


def test_fitted_parts_are_shared() -> None:
    train, test = make(), make(split="test")
    assert train.embeddings is test.embeddings
    assert train.tasks.dataset is test.tasks.dataset
    assert set(train.tasks.users.tolist()).isdisjoint(test.tasks.users.tolist())
    first, second = make(model="embedded"), make(model="embedded", split="test")
    assert isinstance(first.recommender, LLMRecommender)
    assert isinstance(second.recommender, LLMRecommender)
    assert first.recommender.model is second.recommender.model


def test_tasks_do_not_depend_on_the_environments_seed() -> None:
    assert make(seed=1).tasks.digest == make(seed=2).tasks.digest
    assert make(task_seed=1).tasks.digest != make().tasks.digest


def test_impossible_tasks_are_refused() -> None:
    task = make().tasks.task(0)
    assert replace(task, history=()).history == ()  # legal, though no prompt of sentences is
    with pytest.raises(InvalidTask, match="not among"):
        replace(task, target="elsewhere")


def test_silence_is_no_error() -> None:
    env = make(4, silent())
    env.reset()
    step = env.step([PLAIN] * 4)
    assert not step.rewards.any()
    assert not step.infos["named"].any()


def test_a_table_of_several_answers_is_replayed_in_turn() -> None:
    """A user's answer depends on visits and steps, not on other users of the batch."""
    count = iter(range(1 << 30))

    class Moody:
        def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
            turn = next(count)
            order = tuple(np.roll(range(20), turn).tolist())
            return [Ranking(order, 20) for _ in prompts]

    env = make(1, Moody(), max_users=3)
    table = tabulate(env, samples=3)
    many = RPPEnv(
        env.tasks, book=env.book, embeddings=env.embeddings, table=table, num_envs=3, seed=1
    )

    def ranks(users: list[int], seed: int | None) -> np.ndarray:
        many.reset(seed=seed, options={"users": users})
        return np.array([many.step([PLAIN] * len(users)).infos["rank"] for _ in range(5)])

    together, alone = ranks([0, 1, 2], 1), ranks([1], 1)
    assert np.array_equal(together[:, 1], alone[:, 0])
    assert len(np.unique(alone)) == 3
    assert not np.array_equal(ranks([1], None), alone)


def test_a_table_can_be_made_an_environment_by_name(tmp_path: Path) -> None:
    env = make(4, "embedded", max_users=6)
    table = tabulate(env, path := tmp_path / "some.rpptable")
    assert len(make(4, table).tasks) == 6
    same = make(4, f"table:{path}", max_users=6)
    fewer = make(4, f"table:{path}", max_users=2)
    assert (len(same.tasks), len(fewer.tasks)) == (6, 2)
    more = make(4, f"table:{path}")
    assert more.tasks.digest == same.tasks.digest == env.tasks.digest
    for one in (env, same):
        one.reset(seed=0)
        one.step([PLAIN] * 4)
    assert env.last_step is not None
    assert same.last_step is not None
    assert env.last_step.observations.tobytes() == same.last_step.observations.tobytes()
    with pytest.raises(InvalidOption, match="a table is given"):
        make(1, f"table:{path}", rank_by="logprobs")
    with pytest.raises(TableMismatch, match="no table at"):
        make(1, f"table:{tmp_path}/other")


@pytest.mark.parametrize(
    "options", [{"task_seed": 1}, {"split": "test"}, {"num_candidates": 10}, {"data_seed": 1}]
)
def test_a_table_of_other_data_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    tabulate(make(1, max_users=2), path := tmp_path / "some.rpptable")
    with pytest.raises(TableMismatch):
        make(1, f"table:{path}", **options)


def test_a_table_that_does_not_fit_its_tasks_is_refused() -> None:
    env = make(1, max_users=2)
    with pytest.raises(TableMismatch, match="tasks are not the environment's"):
        RPPEnv(
            env.tasks.subset([1, 0]),
            book=env.book,
            embeddings=env.embeddings,
            table=tabulate(env),
        )


def test_selection_files_are_read_as_the_rules_say(real_data: Path) -> None:
    """The published lists, whole under the paper's rules; else without the user's own items."""
    options: dict[str, Any] = {"negatives": "retrieved", "selection": "test", "num_envs": 8}
    paper = RPPEnv.make("lastfm", echo(), rules="RPPPaper-v0", **options)
    listed = set(rpp_env.data.read_selection("test", paper.tasks.dataset))
    assert 0 < len(paper.tasks) < len(listed)
    assert set(paper.tasks.users.tolist()) < listed
    own = [
        np.isin(paper.tasks.candidates[i], paper.tasks.history(i)).any()
        for i in range(len(paper.tasks))
    ]
    assert any(own)
    clean = RPPEnv.make("lastfm", echo(), num_candidates=10, **options)
    for i in range(len(clean.tasks)):
        assert not np.isin(clean.tasks.candidates[i], clean.tasks.history(i)).any()
    with pytest.raises(InvalidOption, match="belong together"):
        RPPEnv.make("lastfm", echo(), negatives="retrieved")
