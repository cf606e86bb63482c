"""Errors of the released research code, each with a test that fails if it returns.

Prompts with another user's history, rewards under another order, one position of the target for all
users, one reward for all, users in train and test, and a state that lacks what rewards depend on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

import rpp_env
from rpp_env import RULES, JointEnv, RPPEnv, load_dataset
from rpp_env.data import Dataset
from rpp_env.metrics import chance_ndcg
from rpp_env.models import Reply, ScriptedModel, echo, oracle, silent
from rpp_env.sentences import AGENTS

SMALL: dict[str, Any] = {"num_users": 300, "num_items": 120}


class Listening(ScriptedModel):
    """Echoes and keeps the texts that it was asked, in order."""

    def __init__(self) -> None:
        super().__init__(echo()._answer)
        self.texts: list[str] = []

    def complete(self, requests: Any) -> list[Reply]:
        self.texts += [request.messages[-1]["content"] for request in requests]
        return super().complete(requests)


def make(model: Any, num_envs: int = 32, **options: Any) -> RPPEnv:
    return RPPEnv.make(model=model, num_envs=num_envs, **{"seed": 0, **SMALL, **options})


def actions_for(env: RPPEnv, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, env.nvec, (env.num_envs, len(env.nvec)))


@pytest.mark.parametrize("rules", RULES)
def test_every_prompt_holds_its_own_users_history_and_candidates(rules: str) -> None:
    env = make(model := Listening(), rules=rules)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(-(-len(env.tasks) // 32)):
        model.texts.clear()
        step = env.step(actions_for(env, rng))
        dataset = env.tasks.dataset
        for i, row in enumerate(step.rows):
            user = env.tasks.users[row]
            titles = [dataset.titles[item] for item in dataset.sequence(user)]
            history, target = titles[:-1], titles[-1]
            text = model.texts[i]
            lists = [part.split("\n")[1:] for part in text.split("\n\n") if "\n1. " in part]
            shown, candidates = ([line.partition(". ")[2] for line in part] for part in lists)
            assert shown == history[-int(step.infos["shown"][i]) :]
            assert candidates.count(target) == 1
            assert len(set(candidates)) == env.tasks.num_candidates
            assert set(candidates).isdisjoint(set(titles[:-1]))
        env.reset()


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("output", range(5))
def test_an_oracle_earns_exactly_one_through_every_format(rules: str, output: int) -> None:
    env = make(silent(), rules=rules)
    env = make(oracle(env.tasks), num_envs=len(env.tasks), rules=rules)
    rng = np.random.default_rng(output)
    env.reset(seed=0)
    for _ in range(min(3, env.max_cycles)):
        actions = actions_for(env, rng)
        actions[:, 3] = output
        step = env.step(actions)
        assert (step.rewards == 1.0).all()
        assert (step.infos["named"] == env.tasks.num_candidates).all()


@pytest.mark.parametrize(("candidates", "rules"), [(10, "RPPPaper-v0"), (20, "RPP-v0")])
def test_an_echo_earns_chance(candidates: int, rules: str) -> None:
    env = make(echo(), num_envs=200, rules=rules, draws=5, num_candidates=candidates)
    rewards = []
    env.reset(seed=0)
    for _ in range(5):
        rewards.append(env.step(np.zeros((200, 4), int)).rewards)
        env.reset()
    scores = np.concatenate(rewards)
    assert len(np.unique(scores)) == min(candidates, 10) + (candidates > 10)
    error = scores.std() / np.sqrt(len(scores))
    assert abs(scores.mean() - chance_ndcg(candidates)) < 3 * error < 0.05


def test_a_silent_model_earns_nothing() -> None:
    env = make(silent())
    env.reset(seed=0)
    step = env.step(np.zeros((32, 4), int))
    assert (step.rewards == 0.0).all()
    assert not step.infos["named"].any()


@pytest.mark.parametrize("rules", ["RPP-v0", "RPPPaper-v0"])
def test_targets_stand_everywhere_and_not_in_step_with_each_other(rules: str) -> None:
    env = make(Listening(), num_envs=200, rules=rules, draws=10)
    K = env.tasks.num_candidates
    env.reset(seed=0)
    places = []
    for _ in range(5):
        # The echo's rank of the target is its place in the prompt.
        places.append(env.step(np.zeros((200, 4), int)).infos["rank"] - 1)
        env.reset()
    counts = np.bincount(np.concatenate(places), minlength=K)
    expected = counts.sum() / K
    # Chi-square with K - 1 degrees of freedom, at its 0.999 quantile for 9 and 19.
    assert ((counts - expected) ** 2 / expected).sum() < {10: 27.9, 20: 43.8}[K]
    assert all(len(np.unique(place)) == K for place in places)


def test_each_users_reward_comes_from_their_own_ranking() -> None:
    env = make(echo())
    env.reset(seed=0)
    step = env.step(np.zeros((32, 4), int))
    assert step.rankings is not None
    for row, ranking, reward in zip(step.rows, step.rankings, step.rewards, strict=True):
        rank = ranking.order.index(env.tasks.task(int(row)).position) + 1
        assert reward == (1 / np.log2(rank + 1) if rank <= 10 else 0)
    assert len(np.unique(step.rewards)) > 5


def test_users_of_splits_are_disjoint() -> None:
    users = [set(make(echo(), split=name).tasks.users) for name in ("train", "validation", "test")]
    assert all(users)
    assert len(set.union(*users)) == sum(map(len, users))


def test_a_user_does_not_notice_the_others_of_the_batch() -> None:
    rng = np.random.default_rng(0)
    env = make("embedded")
    mine = rng.integers(0, env.nvec, (5, 4))
    seen = []
    for others in ([], [3, 4, 5], list(range(20, 60))):
        who = [*others, 7]
        observations, _ = env.reset(seed=0, options={"users": who})
        parts = [observations[-1].tobytes()]
        for actions in mine:
            given = np.vstack([rng.integers(0, env.nvec, (len(others), 4)), actions])
            step = env.step(given)
            parts += [step.observations[-1].tobytes(), step.rewards[-1].tobytes()]
            parts += [values[-1].tobytes() for values in step.infos.values()]
            parts += [env.state()[-1].tobytes()]
        seen.append(parts)
    assert seen[0] == seen[1] == seen[2]


def other_targets(dataset: Dataset) -> Dataset:
    """The same users with another last item each."""
    items = dataset.items.copy()
    last = dataset.indptr[1:] - 1
    rng = np.random.default_rng(0)
    for user, place in enumerate(last):
        free = np.setdiff1d(np.arange(dataset.num_items), dataset.sequence(user))
        items[place] = rng.choice(free)
    return replace(dataset, items=items)


@pytest.mark.parametrize("split", ["train", "test"])
def test_nothing_is_fitted_on_any_target(split: str) -> None:
    dataset = load_dataset("movieworld", **SMALL)
    changed = other_targets(dataset)
    assert not np.array_equal(dataset.items, changed.items)
    env, other = (
        RPPEnv.make(data, "embedded", split, num_envs=40, seed=1) for data in (dataset, changed)
    )
    assert not np.array_equal(env.tasks.targets, other.tasks.targets)
    assert env.embeddings.digest == other.embeddings.digest
    for one in (env, other):
        one.reset()
    assert np.array_equal(env.playing, other.playing)
    assert env.state().tobytes() == other.state().tobytes()
    # The embedded model's knowledge: the same question gets the same answer.
    prompts = env.step(np.zeros((40, 4), int)).prompts
    assert prompts is not None
    assert env.recommender is not None
    assert other.recommender is not None
    assert env.recommender is not other.recommender
    answers = [[r.text for r in one.recommender.rank(prompts)] for one in (env, other)]  # type: ignore[union-attr]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("rules", ["RPP-v0", "RPPBandit-v0"])
def test_equal_states_and_actions_get_equal_rewards(rules: str) -> None:
    """Over all ways to come to a state: what the rules depend on is in it."""
    env = make("embedded", num_envs=200, rules=rules)
    rng = np.random.default_rng(0)
    paid: dict[tuple[int, bytes, bytes], float] = {}
    met = 0
    few = np.array([[0, 0, 4, 0], [0, 4, 4, 0]])
    for _ in range(4):
        env.reset(seed=0, options={"users": np.tile(np.arange(20), 10)})
        for _ in range(env.max_cycles):
            state = env.state()
            actions = few[rng.integers(0, 2, 200)]
            step = env.step(actions)
            for row, s, a, reward in zip(step.rows, state, actions, step.rewards, strict=True):
                key = (int(row), s.tobytes(), a.tobytes())
                met += key in paid
                assert paid.setdefault(key, float(reward)) == reward
    assert met > 100


def test_the_state_distinguishes_levels_that_show_equal_items() -> None:
    """A short history hides the rung; the next step depends on it all the same."""
    dataset = load_dataset("movieworld", **SMALL)
    short = replace(
        dataset,
        items=np.concatenate([dataset.sequence(u)[-5:] for u in range(dataset.num_users)]),
        indptr=np.arange(0, 5 * dataset.num_users + 1, 5),
    )
    env = RPPEnv.make(short, echo(), num_envs=2)
    env.reset(options={"users": [0, 0]})
    step = env.step([[0, 3, 0, 0], [0, 4, 0, 0]])
    assert step.infos["shown"].tolist() == [4, 4]
    level = env.observer.layout["level"]
    assert env.state()[0, level] != env.state()[1, level]
    after = env.step([[0, 1, 0, 0]] * 2).infos["shown"].tolist()
    assert after == [3, 4]


def test_under_the_papers_rules_equal_states_have_equal_distributions() -> None:
    env = make(echo(), num_envs=400, rules="RPPPaper-v0")
    env.reset(seed=0, options={"users": [3] * 400})
    state = env.state()
    assert (state == state[0]).all()
    rewards = env.step(np.zeros((400, 4), int)).rewards
    assert len(np.unique(rewards)) == 10
    assert abs(rewards.mean() - chance_ndcg(10)) < 3 * rewards.std() / 20


@pytest.mark.parametrize("rules", RULES)
def test_all_interfaces_return_equal_rewards_for_equal_actions(rules: str) -> None:
    options: dict[str, Any] = {**SMALL, "rules": rules}
    users = [4, 11, 2]
    core = RPPEnv.make(num_envs=3, **options)
    vector = gymnasium.make_vec(f"rpp_env:{rules}", num_envs=3, autoreset_mode="Disabled", **SMALL)
    single, parallel = JointEnv(**options), rpp_env.parallel_env(**options)
    observed, _ = core.reset(seed=9, options={"users": users})
    states, _ = vector.reset(seed=9, options={"users": users})
    assert states.tobytes() == core.state().tobytes()
    rng = np.random.default_rng(0)
    plan = rng.integers(0, core.nvec, (core.max_cycles, 3, 4))
    trace = [core.step(actions) for actions in plan]
    for t, actions in enumerate(plan):
        states, rewards, terminated, truncated, infos = vector.step(actions)
        assert rewards.tobytes() == trace[t].rewards.tobytes()
        assert terminated.tobytes() == trace[t].terminated.tobytes()
        assert truncated.tobytes() == trace[t].truncated.tobytes()
        for name, values in trace[t].infos.items():
            assert infos[name].tobytes() == values.tobytes()
    assert states.tobytes() == core.state().tobytes()
    for i, user in enumerate(users):
        single.reset(seed=9, options={"users": [user]})
        seen, _ = parallel.reset(seed=9, options={"users": [user]})
        assert [seen[a].tobytes() for a in AGENTS] == [o.tobytes() for o in observed[i]]
        for t in range(core.max_cycles):
            state, reward, *_, info = single.step(plan[t, i])
            acts = dict(zip(AGENTS, plan[t, i].tolist(), strict=True))
            seen, pay, *_, infos = parallel.step(acts)
            assert reward == pay["role_playing"] == trace[t].rewards[i]
            assert state.tobytes() == parallel.state().tobytes()
            for j, agent in enumerate(AGENTS):
                assert seen[agent].tobytes() == trace[t].observations[i, j].tobytes()
            for name, value in info.items():
                assert value == infos["output_format"][name] == trace[t].infos[name][i]
        assert state.tobytes() == core.state()[i].tobytes()
