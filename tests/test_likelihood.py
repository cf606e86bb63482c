"""Ranking by likelihood with a small scripted model: requests, scores, trimming, recordings."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from letters import Letters

import rpp_env
from rpp_env.errors import BrokenContract, InvalidOption, MissingRecording, TableMismatch
from rpp_env.metrics import ndcg
from rpp_env.models import Generation, RecordingModel, Reply, Request
from rpp_env.models.answers import request_text
from rpp_env.recommenders import LikelihoodRecommender, LLMRecommender, choose_alpha
from rpp_env.sentences.history import HistoryLengths
from rpp_env.sentences.lead_space import LeadPrompts
from rpp_env.sentences.leads import CLOSINGS, FORMS, OPENINGS, ContinuedPrompt, LeadCatalog
from rpp_env.task import RankingTask
from rpp_env.testing import check_model, check_recommender, check_space, example_prompts

TASK = RankingTask("u", ("Heat", "Alien", "Jaws"), ("Aliens", "Up", "Alien 3"), "Up")


def prompt(shown: int = 3, form: str = "list", task: RankingTask = TASK) -> ContinuedPrompt:
    return ContinuedPrompt(task, FORMS[form], shown)


# ---- what is asked ----


@pytest.mark.parametrize(
    ("form", "shown", "text", "following"),
    [
        ("list", 2, "1. Alien\n2. Jaws\n3.", " Up\n"),
        ("list", 0, "1.", " Up\n"),
        ("lines", 2, "Alien\nJaws\n", "Up\n"),
        ("dashes", 1, "- Jaws\n-", " Up\n"),
        ("like", 2, "Movies like Alien, Jaws,", " Up,"),
        ("like", 0, "Movies like", " Up,"),
        ("liked", 1, "If you liked Jaws, you will also like", " Up,"),
        ("list in chat", 1, "Continue the list of films that I watched:\n1. Jaws", " Up\n"),
    ],
)
def test_forms(form: str, shown: int, text: str, following: str) -> None:
    lead = prompt(shown, form).lead()
    assert lead.text == text
    assert lead.continuations(("Up",)) == (following,)
    assert lead.messages[0]["role"] == ("user" if form.endswith("chat") else "text")


def test_a_title_is_data_in_every_form() -> None:
    task = replace(TASK, history=("{i} {title}", "{title}"))
    for form in FORMS.values():
        assert "{i} {title}" in form.lead(task.history).text


@pytest.mark.parametrize("form", FORMS)
def test_no_form_shows_the_candidates_or_more_history_than_it_says(form: str) -> None:
    assert len(FORMS) == 9
    for shown, closing in itertools.product(range(4), CLOSINGS):
        lead = replace(prompt(shown, form), closing=closing).lead()
        said = lead.text + lead.begun
        assert closing.line in said or closing.phrase in said
        assert not any(
            title in said.replace("Alien", "") for title in ("Aliens", "Up\n", "Alien 3")
        )
        assert [title in said for title in TASK.history] == [i >= 3 - shown for i in range(3)]
        assert said == said.rstrip(" ")


def test_rpps_sentences_have_no_candidates_and_begin_the_answer() -> None:
    begun = {}
    for one in example_prompts():
        lead = one.lead()
        titles = set(one.task.candidates) - set(one.task.history)
        assert not any(f". {title}\n" in f"{lead.text}\n" for title in titles)
        for sentence in (one.choice.role, one.choice.reasoning, one.choice.output):
            assert sentence.replace("{k}", str(len(one.task.candidates))) in lead.text
        assert one.choice.contract not in lead.text
        assert lead.text == lead.text.strip("\n")
        begun[one.choice.format] = lead.begun, lead.continuations(("Up",))
    assert begun["numbered"] == ("1.", (" Up\n",))
    assert begun["json"] == ("[", (' "Up",',))
    assert len(begun) == 5
    bare = replace(example_prompts()[0], shown=0).lead()
    assert "I have" not in bare.text


# ---- scores ----


def test_four_scores_are_of_the_same_numbers() -> None:
    model = Letters()
    found = LikelihoodRecommender(model).likelihoods([prompt()])
    assert found.sums.shape == found.tokens.shape == (1, 3)
    assert (found.tokens == [[len(f" {title}\n") for title in TASK.candidates]]).all()
    np.testing.assert_allclose(found.scores("mean"), found.sums / found.tokens)
    np.testing.assert_allclose(found.scores("pmi"), found.sums - found.stubs)
    np.testing.assert_allclose(found.scores("pmi-alpha", 0.5), found.sums - 0.5 * found.stubs)
    stub = model.asked[-1]
    assert stub.messages == prompt(0).lead().messages
    for score, alpha in (("sum", None), ("mean", None), ("pmi", None), ("pmi-alpha", 0.5)):
        ranking = LikelihoodRecommender(Letters(), score, alpha).rank([prompt()])[0]
        order = np.argsort(-found.scores(score, alpha or 0)[0], kind="stable")
        assert ranking.order == tuple(order)
        assert ranking.named == 3
        assert ranking.text == TASK.candidates[order[0]]
        assert ranking.completion_tokens == found.tokens.sum()


def test_scores_without_history_are_computed_only_once(tmp_path: Path) -> None:
    model = Letters()
    recommender = LikelihoodRecommender(model, "pmi")
    other = replace(TASK, user="v", candidates=("Up", "Jaws", "Alien 3"))
    recommender.rank([prompt()])
    recommender.rank([prompt(task=other), prompt(2)])
    stubs = [r.continuations for r in model.asked if r.messages == prompt(0).lead().messages]
    assert sorted(stubs) == [(" Alien 3\n",), (" Aliens\n",), (" Jaws\n",), (" Up\n",)]
    # And by a recording, in another process as well.
    path = tmp_path / "answers.sqlite"
    LikelihoodRecommender(RecordingModel(path, Letters()), "pmi").rank([prompt()])
    again = Letters()
    LikelihoodRecommender(RecordingModel(path, again), "pmi").rank([prompt(task=other)])
    assert [r.continuations for r in again.asked][1:] == [(" Jaws\n",)]


def test_alpha_is_chosen_on_the_prompts_that_are_given() -> None:
    tasks = [replace(TASK, user=str(i), target=TASK.candidates[i % 3]) for i in range(6)]
    prompts = [prompt(1 + i % 3, task=task) for i, task in enumerate(tasks)]
    recommender = LikelihoodRecommender(Letters())
    alpha = choose_alpha(recommender, prompts)

    def mean(alpha: float) -> float:
        rankings = LikelihoodRecommender(Letters(), "pmi-alpha", alpha).rank(prompts)
        ranks = [r.rank(p.task.position) for r, p in zip(rankings, prompts, strict=True)]
        return float(ndcg(np.array(ranks)).mean())

    assert mean(alpha) == max(mean(0.1 * i) for i in range(16))
    assert choose_alpha(recommender, prompts, [0.7]) == 0.7


# ---- recommender ----


def test_it_keeps_the_contract_of_recommenders_and_models() -> None:
    check_recommender(LikelihoodRecommender(Letters(), "pmi"))
    check_model(Letters())
    assert len(LikelihoodRecommender(Letters()).rank([])) == 0


def test_the_order_of_the_candidates_is_not_read() -> None:
    assert LikelihoodRecommender.reads_order is False
    for score, alpha in (("sum", None), ("mean", None), ("pmi", None), ("pmi-alpha", 0.5)):
        recommender = LikelihoodRecommender(Letters(), score, alpha)
        best = {
            tuple(titles[i] for i in recommender.rank([prompt(task=task)])[0].order)
            for titles in itertools.permutations(TASK.candidates)
            for task in [replace(TASK, candidates=titles)]
        }
        assert len(best) == 1


def test_the_oldest_history_is_trimmed_first_and_counted() -> None:
    whole = len(prompt().lead().text)
    for length, shown in ((4000, 3), (whole + 47, 3), (whole + 46, 2), (10 + 47, 1)):
        model = Letters(length)
        recommender = LikelihoodRecommender(model, "pmi")
        (ranking,) = recommender.rank([prompt()])
        assert model.asked[0].messages == prompt(shown).lead().messages
        assert ranking.trimmed == recommender.trimmed == 3 - shown
    with pytest.raises(InvalidOption, match=r"user 'u'.*even with one history item"):
        LikelihoodRecommender(Letters(50)).rank([prompt()])


def test_a_prompt_that_the_model_itself_refuses_is_shortened() -> None:
    class Shorter(Letters):
        """Counts less than there is."""

        def count_tokens(self, text: str) -> int:
            return 1

    model = Shorter(60)
    model.context_length = 60
    task = replace(TASK, history=tuple(f"Film {i}" for i in range(9)))
    (ranking,) = LikelihoodRecommender(model).rank([prompt(9, task=task)])
    assert [len(r.messages[0]["content"].splitlines()) for r in model.asked] == [10, 7, 5]
    assert ranking.trimmed == 5
    with pytest.raises(InvalidOption, match="even with one history item"):
        LikelihoodRecommender(Shorter(12)).rank([prompt()])


def test_a_title_without_a_token_is_named() -> None:
    class Deaf(Letters):
        def count_tokens(self, text: str) -> int:
            return 0 if text == "Up" else len(text)

    with pytest.raises(InvalidOption, match="the title 'Up' has no token of 'letters'"):
        LikelihoodRecommender(Deaf()).rank([prompt()])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"score": "max"}, "there are sum, mean, pmi, pmi-alpha"),
        ({"score": "pmi-alpha"}, "needs alpha"),
        ({"score": "pmi", "alpha": 0.5}, "no other score does"),
        ({"score": "pmi-alpha", "alpha": -1.0}, "at least 0"),
        ({"score": "pmi-alpha", "alpha": math.nan}, "finite"),
    ],
)
def test_options_are_checked(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        LikelihoodRecommender(Letters(), **given)


def test_models_without_likelihoods_are_refused() -> None:
    model = rpp_env.models.scripted.echo()
    with pytest.raises(InvalidOption, match=r"needs the log-probabilities of given texts.*'echo'"):
        LikelihoodRecommender(model)
    with pytest.raises(InvalidOption, match="use LikelihoodRecommender"):
        LLMRecommender(Letters(), "likelihood")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"choice_logprobs": None}, "log-probabilities of 3 continuations"),
        ({"choice_logprobs": (-1.0, -2.0)}, "log-probabilities of 3 continuations"),
        ({"choice_logprobs": (-1.0, math.nan, -2.0)}, "finite"),
        ({"choice_logprobs": (-1.0, -math.inf, -2.0)}, "finite"),
        ({"choice_logprobs": (-1.0, 1.0, -2.0)}, "not above 0"),
        ({"choice_tokens": None}, "numbers of tokens of 3 continuations"),
        ({"choice_tokens": (1, 0, 1)}, "above 0"),
        ({"choice_tokens": (1, True, 1)}, "integer above 0"),
        ({"choice_tokens": (1, 2)}, "numbers of tokens of 3"),
    ],
)
def test_replies_are_checked(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    class Wrong(Letters):
        def _reply(self, request: Request) -> Reply:
            return replace(super()._reply(request), **change)

    for model in (Wrong(), RecordingModel(tmp_path / "answers.sqlite", Wrong())):
        with pytest.raises(BrokenContract, match=words):
            LikelihoodRecommender(model).rank([prompt()])
    assert len(RecordingModel(tmp_path / "answers.sqlite", Wrong())) == 0


# ---- recordings and tables ----


def test_recordings_replay_byte_for_byte(tmp_path: Path) -> None:
    path, lines = tmp_path / "answers.sqlite", tmp_path / "answers.jsonl"
    prompts = [prompt(shown) for shown in (1, 2, 3)]
    asked = LikelihoodRecommender(RecordingModel(path, Letters()), "pmi")
    first = asked.rank(prompts)
    replayed = RecordingModel(path)
    assert "likelihood" in replayed.capabilities
    again = LikelihoodRecommender(replayed, "pmi").rank(prompts)
    assert list(first) == list(again)
    assert first.texts == again.texts
    for name in first.cost:
        assert (first.cost[name] == again.cost[name]).all()
    count = replayed.export(lines)
    copy = RecordingModel(tmp_path / "copy.sqlite", Letters())
    assert copy.import_lines(lines) == count > 3
    copy.export(tmp_path / "copy.jsonl")
    assert (tmp_path / "copy.jsonl").read_bytes() == lines.read_bytes()
    with pytest.raises(MissingRecording):
        LikelihoodRecommender(replayed).rank([prompt(task=replace(TASK, history=("Up",)), shown=1)])


def test_older_keys_are_unchanged_and_continuations_have_new_ones() -> None:
    messages = ({"role": "user", "content": "x"},)
    plain = request_text(Request(messages, Generation(max_tokens=1)))
    assert "continuations" not in plain
    texts = {
        request_text(Request(messages, Generation(max_tokens=1), continuations=given))
        for given in (None, (), ("a",), ("a", "b"), ("b", "a"))
    }
    assert len(texts) == 5


def test_tables_say_how_the_score_is_read(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_users": 2, "rules": "RPPBandit-v0"}
    env = rpp_env.RPPEnv.make(
        "movieworld", Letters(), "train", rank_by="likelihood", score="mean", **options
    )
    path = tmp_path / "likelihood.rpptable"
    table = rpp_env.tabulate(env, path, processes=1)
    assert table.provenance["rank_by"] == "likelihood (mean)"
    played = rpp_env.RPPEnv.make("movieworld", f"table:{path}", "train", **options)
    rewards = []
    for one in (env, played):
        one.reset(seed=0)
        rewards.append(one.step([[1, 2, 3, 4]] * one.num_envs).rewards)
    assert (rewards[0] == rewards[1]).all()


# ---- the environment ----


def test_the_environment_takes_the_options() -> None:
    options: dict[str, Any] = {"max_users": 2, "rank_by": "likelihood"}
    env = rpp_env.RPPEnv.make(
        "movieworld", Letters(), "train", score="pmi-alpha", alpha=0.3, **options
    )
    assert env.recommender.rank_by == "likelihood (pmi-alpha 0.3)"
    for wrong, words in (
        ({"calibrate": "prior"}, "for other values of rank_by"),
        ({"generation": Generation()}, "for other values of rank_by"),
        ({"rank_by": "generate", "score": "pmi"}, "score and alpha are for"),
        ({"model": "embedded"}, "needs the log-probabilities of given texts"),
    ):
        with pytest.raises(InvalidOption, match=words):
            rpp_env.RPPEnv.make(
                **{
                    "dataset": "movieworld",
                    "model": Letters(),
                    "split": "train",
                    **options,
                    **wrong,
                }
            )
    with pytest.raises(InvalidOption, match="are for language models; a recommender is given"):
        rpp_env.RPPEnv.make("movieworld", LikelihoodRecommender(Letters()), score="pmi")


# ---- a prompt space of its own ----


def leads(model: Any, **options: Any) -> rpp_env.RPPEnv:
    return rpp_env.RPPEnv.make(
        "movieworld",
        model,
        "train",
        **(
            {"rank_by": "likelihood", "space": LeadPrompts, "max_users": 4, "num_envs": 4} | options
        ),
    )


def test_agents_choose_opening_length_form_and_closing() -> None:
    env = leads(Letters(), seed=0)
    assert env.space.shape == (7, 5, 9, 5)
    assert [space.n for space in env.action_spaces] == [5, 5, 9, 5]
    observations, _ = env.reset(seed=0)
    step = env.step([[2, 4, 3, 1]] * 4)
    assert step.observations.shape == observations.shape
    for given, row in zip(step.prompts, range(4), strict=True):
        assert given.shown == min(8, len(env.tasks.task(row).history)) or given.shown == 8
        assert given.text.startswith(f"{OPENINGS[2]}Movies like ")
        assert given.text.endswith(", next")
    twin = leads(Letters(), seed=0)
    twin.reset(seed=0)
    assert (twin.step([[2, 4, 3, 1]] * 4).rewards == step.rewards).all()
    assert (step.observations != twin.step([[2, 4, 4, 1]] * 4).observations).any()


def test_all_prompts_of_the_space_differ_but_for_short_histories() -> None:
    env = leads(Letters(), max_users=1, num_envs=1)
    cells = np.arange(7 * 5 * 9 * 5)
    rows = np.zeros(len(cells), np.int64)
    space = env.space
    state = space.at(cells, rows)
    assert (space.cell(state) == cells).all()
    alike = space.alike(cells, rows)
    task = env.tasks.task(0)
    said = [given.lead() for given in space.prompts(state, [task] * len(cells), rows)]
    for cell, lead in enumerate(said):
        assert (lead == said[alike[cell]]) is True
    assert len(set(said)) == len(set(alike.tolist()))
    features = space.features(state)
    assert np.abs(features).max() <= 1


def test_its_tables_replay_and_know_their_space(tmp_path: Path) -> None:
    path = tmp_path / "leads.rpptable"
    small: dict[str, Any] = {"max_users": 2, "num_envs": 2, "rules": "RPPBandit-v0"}
    env = leads(Letters(), score="pmi", **small)
    rpp_env.tabulate(env, path, processes=1)
    played = rpp_env.RPPEnv.make("movieworld", f"table:{path}", "train", space=LeadPrompts, **small)
    for one in (env, played):
        one.reset(seed=0)
    for actions in ([0, 0, 0, 0], [1, 3, 8, 4], [4, 4, 7, 2]):
        rewards = [one.step([actions] * 2).rewards for one in (env, played)]
        assert (rewards[0] == rewards[1]).all()
        for one in (env, played):
            one.reset()
    with pytest.raises(TableMismatch):
        rpp_env.RPPEnv.make("movieworld", f"table:{path}", "train", **small)


def test_other_domains_need_their_own_catalog() -> None:
    music = replace(rpp_env.load_dataset("movieworld"), domain="music")
    with pytest.raises(InvalidOption, match="are for films"):
        rpp_env.RPPEnv.make(
            music, Letters(), "train", max_users=2, rank_by="likelihood", space=LeadPrompts
        )


def test_the_space_works_with_everything_that_uses_one() -> None:
    def few(tasks: Any) -> LeadPrompts:
        catalog = LeadCatalog(("1", "3"), OPENINGS[:2], tuple(FORMS.values())[2:5], CLOSINGS[:2])
        return LeadPrompts(tasks, catalog, HistoryLengths("choose", (1, 3), (1,), 0, 2))

    check_space(few, LikelihoodRecommender(Letters(), "pmi"), "movieworld")
