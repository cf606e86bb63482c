"""RPPLikelihood-v0 with a small scripted model: id, interfaces, and no leaks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from letters import Letters

import rpp_env
from rpp_env import RPPEnv
from rpp_env.data.candidates import TaskBatch, TaskSet
from rpp_env.errors import BrokenContract, InvalidAction, InvalidOption, TableMismatch
from rpp_env.metrics import chance_ndcg
from rpp_env.models import Reply, Request, echo
from rpp_env.recommenders import LikelihoodRecommender, LLMRecommender
from rpp_env.sentences import AGENTS
from rpp_env.sentences.history import HistoryLengths
from rpp_env.sentences.lead_space import LeadPrompts
from rpp_env.sentences.leads import CLOSINGS, FORMS, OPENINGS, LeadCatalog
from rpp_env.testing import check_recommender, check_space

RULES = "RPPLikelihood-v0"
SMALL: dict[str, Any] = {"num_users": 300, "num_items": 120}


def make(model: Any = None, **options: Any) -> RPPEnv:
    given = {"num_envs": 16, "seed": 0, **SMALL} | options
    return RPPEnv.make(model=Letters() if model is None else model, rules=RULES, **given)


def random_steps(env: RPPEnv, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """Rewards of an episode of random actions, for all tasks in their order."""
    env.reset(options={"users": np.arange(len(env.tasks))})
    rng = np.random.default_rng(seed)
    shape = (env.max_cycles, len(env.tasks), len(env.nvec))
    return [env.step(actions).rewards for actions in rng.integers(0, env.nvec, shape)]


# --------------------------------------------------------------------------------- what is made


def test_the_wrapper_is_made_by_its_id() -> None:
    env = make()
    assert env.episode.id == RULES
    assert env.max_cycles == 5
    assert env.agents == AGENTS
    assert env.nvec.tolist() == [5, 5, 9, 5]
    assert env.space.shape == (7, 5, 9, 5)
    assert env.tasks.num_candidates == 20
    assert env.tasks.dataset.name == "movieworld"
    assert sum(not opening for opening in OPENINGS) == 1
    assert sum(form.chat for form in FORMS.values()) == 2
    assert env.recommender.rank_by == "likelihood (sum)"


def test_how_the_score_is_read_is_an_option_of_the_environment() -> None:
    for score, alpha in (("sum", None), ("mean", None), ("pmi", None), ("pmi-alpha", 0.4)):
        env = make(score=score, alpha=alpha)
        assert env.recommender.score == score
        assert env.nvec.tolist() == [5, 5, 9, 5]
    rewards = {score: np.stack(random_steps(make(score=score))) for score in ("sum", "pmi")}
    assert (rewards["sum"] != rewards["pmi"]).any()


def test_without_the_default_model_the_error_states_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path))
    for make_one in (
        lambda: RPPEnv.make(rules=RULES, **SMALL),
        lambda: rpp_env.parallel_env(rules=RULES, **SMALL),
        lambda: rpp_env.env(rules=RULES, **SMALL),
        lambda: gymnasium.make(f"rpp_env:{RULES}", **SMALL),
    ):
        with pytest.raises(InvalidOption, match="not here yet: run `rpp-env model get smollm2`"):
            make_one()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scores": "sum"}, "option 'scores' is not known; did you mean 'score'"),
        ({"score": "sums"}, "did you mean 'sum'"),
        ({"score": "pmi-alpha"}, "needs alpha"),
        ({"score": "sum", "alpha": 0.5}, "needs alpha"),
        ({"rank_by": "generate"}, "rank_by is 'generate'; it may be likelihood"),
        ({"calibrate": "prior"}, "calibrate is for models that write an answer"),
        ({"thinking": (("<a>", "</a>"),)}, "thinking is for models that write an answer"),
        ({"book": "movies"}, "book is for models that write an answer"),
        ({"rewrite": "embedded"}, "rewrite and encoder are for a catalog of sentences"),
        ({"model": "embedded"}, "needs the log-probabilities of given texts"),
        ({"model": echo()}, "needs the log-probabilities of given texts"),
        (
            {"model": LLMRecommender(echo(), "generate")},
            "LLMRecommender reads Prompts, but the prompts here are ContinuedPrompts",
        ),
        ({"model": LikelihoodRecommender(Letters()), "score": "pmi"}, "a recommender is given"),
        ({"model": "smolm2"}, "did you mean 'smollm2'"),
        ({"catalog": "film"}, "did you mean 'films'"),
        ({"max_cycles": 0}, "max_cycles must be 1 or more"),
        ({"split": "tests"}, "did you mean 'test'"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, dict) else None,
)
def test_impossible_options_are_refused(options: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said.replace("(", r"\(")):
        make(**options)


def test_other_domains_bring_a_catalog() -> None:
    music = rpp_env.load_dataset("movieworld", **SMALL)
    given: dict[str, Any] = {"dataset": replace(music, domain="music")}
    given |= dict.fromkeys(SMALL)
    with pytest.raises(InvalidOption, match="the forms that come with the package are for films"):
        make(**given)
    catalog = LeadCatalog(
        ("-2", "-1", "0", "+1", "+2"), ("", "My records\n\n"), (FORMS["list"],), CLOSINGS[:2]
    )
    env = make(catalog=catalog, **given)
    assert env.space.shape == (7, 2, 1, 2)
    with pytest.raises(InvalidOption, match="5 history options"):
        make(catalog=replace(catalog, history_records=("1", "2")), **given)


def test_of_a_smaller_catalog_only_forms_and_lengths_are_chosen() -> None:
    env = make(catalog="films-forms")
    assert env.nvec.tolist() == [1, 5, 9, 1]
    assert env.space.shape == (7, 1, 9, 1)
    env.reset(seed=0)
    whole = make()
    whole.reset(seed=0)
    for form in range(9):
        action = [[0, 3, form, 0]] * 16
        one, other = env.step(action), whole.step(action)
        assert [p.lead() for p in one.prompts] == [p.lead() for p in other.prompts]
        assert (one.rewards == other.rewards).all()
        if form == 4:  # the end of an episode
            env.reset(seed=1)
            whole.reset(seed=1)
    table = rpp_env.tabulate(make(catalog="films-forms", max_users=2))
    with pytest.raises(TableMismatch):
        make(table)


def test_actions_that_an_agent_does_not_have_are_refused() -> None:
    env = make()
    env.reset()
    wrong = np.zeros((16, 4), np.int64)
    wrong[3, 2] = 9
    with pytest.raises(InvalidAction, match="'reasoning_guidance' chose 9 for user 3"):
        env.step(wrong)


def test_steps_move_the_history_agent_along_the_lengths() -> None:
    env = make(max_users=4, num_envs=4)
    env.reset()
    shown = [env.step([[0, 4, 0, 0]] * 4).prompts[0].shown for _ in range(3)]
    length = len(env.tasks.task(int(env.playing[0])).history)
    assert shown == [min(n, length) for n in (8, 20, 20)]


# ------------------------------------------------------------------------------ every interface


@pytest.mark.filterwarnings("ignore:Agents have different action space sizes")
@pytest.mark.filterwarnings("ignore:We recommend agents to be named in the format")
def test_pettingzoo() -> None:
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

    options = {"rules": RULES, "model": Letters(), "max_users": 12, **SMALL}
    for more in ({}, {"padded_actions": True, "agent_names": "index"}):
        parallel_api_test(rpp_env.parallel_env(**options, **more), num_cycles=20)
        api_test(rpp_env.env(**options, **more), num_cycles=20)
    parallel_seed_test(lambda: rpp_env.parallel_env(**options), num_cycles=10)
    seed_test(lambda: rpp_env.env(**options), num_cycles=10)


@pytest.mark.filterwarnings("ignore:.*render:UserWarning")
def test_gymnasium_and_stable_baselines3() -> None:
    from gymnasium.utils.env_checker import check_env

    options = {"model": Letters(), "max_users": 12, **SMALL}
    env = gymnasium.make(f"rpp_env:{RULES}", **options)
    check_env(env.unwrapped, skip_render_check=True)
    many = gymnasium.make_vec(f"rpp_env:{RULES}", num_envs=8, **options)
    many.reset(seed=0)
    assert many.step(many.action_space.sample())[1].shape == (8,)
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(env.unwrapped, warn=False)


def test_interfaces_return_equal_rewards() -> None:
    options: dict[str, Any] = {"model": Letters(), "max_users": 12, **SMALL}
    core = RPPEnv.make(rules=RULES, num_envs=1, **options)
    joint = gymnasium.make(f"rpp_env:{RULES}", **options)
    parallel = rpp_env.parallel_env(rules=RULES, **options)
    aec = rpp_env.env(rules=RULES, **options)
    rng = np.random.default_rng(3)
    for seed in range(4):
        for one in (core, joint, parallel, aec):
            one.reset(seed=seed)
        for _ in range(3):
            action = rng.integers(0, core.nvec)
            for choice in action:
                aec.step(int(choice))
            rewards = (
                float(core.step(action[None]).rewards[0]),
                joint.step(action)[1],
                parallel.step(dict(zip(AGENTS, action.tolist(), strict=True)))[1][AGENTS[2]],
                aec.rewards[AGENTS[2]],
            )
            assert len(set(rewards)) == 1


def test_a_step_can_be_looked_at() -> None:
    env = gymnasium.make(f"rpp_env:{RULES}", render_mode="ansi", model=Letters(), **SMALL)
    env.reset(seed=0)
    env.step(np.array([3, 2, 3, 1]))
    said = env.render()
    for part in ("form like", "Movies like", "From a forum on films", "next"):
        assert part in said


def test_its_space_and_its_recommender_keep_the_contracts() -> None:
    env = make(max_users=12, num_envs=12)
    rng = np.random.default_rng(0)
    rows, actions = np.arange(12), rng.integers(0, env.nvec, (12, 4))

    def ask(numbers: np.ndarray[Any, Any]) -> Any:
        state = env.space.apply(env.space.start(rows[numbers]), actions[numbers])
        return env.space.prompts(state, TaskBatch(env.tasks, rows[numbers]), rows[numbers])

    check_recommender(env.recommender, ask, len(rows))
    small = LeadCatalog(("1", "3"), OPENINGS[:2], tuple(FORMS.values())[2:4], CLOSINGS[:2])
    space = partial(
        LeadPrompts, catalog=small, history=HistoryLengths("choose", (1, 3), (1,), 0, 2)
    )
    check_space(space, LikelihoodRecommender(Letters(), "mean"), "movieworld")


def test_tables_replay_it_and_belong_to_it(tmp_path: Path) -> None:
    path = tmp_path / "train.rpptable"
    few = {"max_users": 2, "num_envs": 2, "score": "pmi"}
    env = make(**few)
    table = rpp_env.tabulate(env, path)
    assert table.provenance["rank_by"] == "likelihood (pmi)"
    played = make(f"table:{path}", max_users=2, num_envs=2)
    for seed in range(3):
        assert np.array_equal(random_steps(env, seed), random_steps(played, seed))
    with pytest.raises(TableMismatch):
        RPPEnv.make("movieworld", f"table:{path}", max_users=2, **SMALL)
    with pytest.raises(InvalidOption, match="are for language models; a table is given"):
        make(f"table:{path}", **few)


# --------------------------------------------------------------------------------- is it honest?


class Knowing(Letters):
    """Finds one title of each task most probable: the target, or what `place` says."""

    def __init__(self, tasks: TaskSet, place: str) -> None:
        super().__init__()
        self.place = place
        self.targets = {}
        for i in range(len(tasks)):
            task = tasks.task(i)
            self.targets[task.candidates] = task.target

    def _reply(self, request: Request) -> Reply:
        given = super()._reply(request)
        titles = tuple(said.strip(" \n,.") for said in request.continuations or ())
        best = {"first": 0.0, "last": -9.0, "as shown": -1.0}[self.place]
        target = self.targets[titles]
        sums = tuple(best if title == target else -1.0 for title in titles)
        return Reply(
            given.text, given.prompt_tokens, 1, choice_logprobs=sums, choice_tokens=(1,) * len(sums)
        )


@pytest.mark.parametrize(
    ("place", "reward"), [("first", 1.0), ("last", 0.0), ("as shown", chance_ndcg(20))]
)
def test_an_oracle_its_opposite_and_an_echo(place: str, reward: float) -> None:
    """Equally probable titles stay in their order, which holds the target at random."""
    env = make(draws=3)
    env = make(Knowing(env.tasks, place), draws=3)
    for rewards in random_steps(env):
        if place == "as shown":
            assert abs(rewards.mean() - reward) < 4 * rewards.std() / len(rewards) ** 0.5
        else:
            assert (rewards == reward).all()


def test_a_silent_model_breaks_the_contract() -> None:
    class Silent(Letters):
        def _reply(self, request: Request) -> Reply:
            return Reply("", 1, 0)

    env = make(Silent())
    env.reset()
    with pytest.raises(BrokenContract):
        env.step(np.zeros((16, 4), np.int64))


def test_every_prompt_holds_its_own_users_history_and_no_candidate() -> None:
    env = make(model := Letters())
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        model.asked.clear()
        step = env.step(rng.integers(0, env.nvec, (16, 4)))
        asked = {request.continuations: request for request in model.asked}
        for row, prompt in zip(step.rows.tolist(), step.prompts, strict=True):
            task = env.tasks.task(row)
            request = asked[prompt.lead().continuations(task.candidates)]
            said = "\n".join(message["content"] for message in request.messages)
            shown = task.history[-prompt.shown :]
            assert all(title in said for title in shown)
            assert not set(task.candidates) & set(shown)
            lines = {line.split(". ")[-1].strip("- ,") for line in said.split("\n")}
            assert not lines & set(task.candidates)


def test_making_resetting_and_looking_asks_nothing() -> None:
    env = make(model := Letters())
    env.reset(seed=0)
    assert not model.asked
    assert env.calls["prompts"] == 0


def test_observations_know_no_target() -> None:
    """The same trajectory, whatever the answers are paid."""
    env = make(max_users=40, num_envs=40)
    seen = {}
    for place in ("first", "as shown"):
        one = make(Knowing(env.tasks, place), max_users=40, num_envs=40)
        seen[place] = one.reset(seed=0)[0]
    assert np.array_equal(seen["first"], seen["as shown"])


def test_the_same_seed_plays_the_same_to_the_bit() -> None:
    kept = []
    for _ in range(2):
        env = make()
        parts = [env.reset(seed=5)[0].tobytes()]
        rng = np.random.default_rng(0)
        for _ in range(12):
            if env.last_step is not None and env.last_step.truncated.all():
                parts.append(env.reset()[0].tobytes())
            step = env.step(rng.integers(0, env.nvec, (16, 4)))
            parts += [step.observations.tobytes(), step.rewards.tobytes()]
        kept.append(parts)
    assert kept[0] == kept[1]
