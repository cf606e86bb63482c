"""Methods of a study with their own prompts: GrIPS' edits, and LLMRank's three."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import cache
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rpp_agents.experiments.methods import method, options
from rpp_agents.experiments.methods.sentences import manual_cell
from rpp_agents.experiments.methods.sentences.grips import (
    Instruction,
    Paraphrases,
    _Draft,
    _Editor,
    grips,
    phrases,
)
from rpp_agents.experiments.methods.sentences.llmrank import PROMPTS, llmrank
from rpp_agents.experiments.players import Asking
from rpp_agents.experiments.problem import Problem, Users
from rpp_env import RPPEnv
from rpp_env.data import Dataset, load_dataset
from rpp_env.errors import BrokenContract, InvalidOption, MissingExtra
from rpp_env.models import Request, ScriptedModel, oracle
from rpp_env.sentences import DOMAINS, SentenceCatalog
from rpp_env.sentences.prompt import Prompt, as_messages

USERS = 25
SPLITS = ("train", "validation", "test")
RUINOUS = "one per line"


class Unseen:
    """Users that must not be accessed."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"looked at {name}")


@cache
def dataset(domain: str = "movies") -> Dataset:
    return replace(load_dataset("movieworld", num_users=250, num_items=150), domain=domain)


def environment(split: str, model: Any = "embedded", domain: str = "movies") -> RPPEnv:
    # What is fitted is kept for the next one over the same dataset.
    return RPPEnv.make(dataset(domain), model, split, max_users=USERS)


@cache
def truth() -> ScriptedModel:
    tasks = [environment(split).tasks for split in SPLITS]
    return oracle(part.task(row) for part in tasks for row in range(len(part)))


def knows(text: str) -> str:
    """The target in the first place."""
    return truth().complete([Request(as_messages(text))])[0].text


def problem_of(answer: Callable[[str], str]) -> SimpleNamespace:
    """A problem with a model that answers so, and the texts that it is asked."""
    asked: list[str] = []

    def heard(text: str) -> str:
        asked.append(text)
        return answer(text)

    model = ScriptedModel(heard)
    users = [Users(env, env) for env in (environment(split, model) for split in SPLITS)]
    return SimpleNamespace(asked=asked, problem=Problem(*users))


def planted() -> SimpleNamespace:
    """A model that says nothing where it reads a certain phrase, else the truth."""
    return problem_of(lambda text: "" if RUINOUS in text else knows(text))


def search(problem: Problem, **config: Any) -> tuple[Asking, list[int]]:
    calls: list[int] = []
    known: dict[str, Any] = {"seed": 0, "budget": 1500, "score_users": 5}
    player = grips(problem, watch=lambda n, player: calls.append(n), **(known | config))
    return player, calls


def instruction(player: Asking) -> Instruction:
    assert isinstance(player.rewrite, Instruction)
    return player.rewrite


# ---------------------------------------------------------------- GrIPS


@pytest.mark.parametrize("edits", [1, 2])
def test_grips_finds_the_phrase_that_ruins_the_answer_and_uses_its_own_words_on_others(
    edits: int,
) -> None:
    made = planted()
    player, calls = search(made.problem, edits=edits, patience=10)
    assert RUINOUS not in instruction(player).output
    played = player.play(made.problem.test, 0)
    assert played.scores["score"].mean() == 1.0
    assert played.cells is None
    assert (played.ranks.shape, player.own_words) == ((USERS, 1), True)
    ledger = made.problem.train.ledger
    assert ledger.calls == ledger.unique == calls[-1] <= 1500  # nothing was paid for twice
    assert calls == sorted(calls)


@pytest.mark.parametrize("budget", [0, 9, 10, 33, 300])
def test_grips_stays_within_its_budget_and_asks_train_users_only(budget: int) -> None:
    made = planted()
    problem = Problem(made.problem.train, Unseen(), Unseen())  # type: ignore[arg-type]
    _, calls = search(problem, budget=budget, edits=2, patience=100)
    asked = problem.train.ledger.calls
    assert asked == len(made.asked) <= budget
    assert calls[-1:] == ([asked] if budget >= 10 else [])
    assert asked == (0 if budget < 10 else budget // 5 * 5)


def test_grips_scores_one_sample_of_users_and_sees_no_others() -> None:
    made = planted()
    search(made.problem, budget=200, patience=100)
    shown = {text.split("candidate films:")[1].split("\n\n")[0] for text in made.asked}
    assert len(shown) == 5
    assert len(made.asked) == 200


def test_grips_follows_from_its_seed() -> None:
    made = [planted() for _ in range(3)]
    found = [
        search(m.problem, seed=seed, budget=300) for m, seed in zip(made, (0, 0, 1), strict=True)
    ]
    assert instruction(found[0][0]) == instruction(found[1][0])
    assert made[0].asked == made[1].asked != made[2].asked


def test_grips_ends_when_its_patience_does() -> None:
    made = problem_of(knows)  # nothing is better than the truth
    player, calls = search(made.problem, patience=3)
    assert calls == [30, 55, 80]
    manual = SentenceCatalog.load("movies")
    assert instruction(player) == Instruction(
        "", manual.reasoning_guidance[3], manual.output_format[0].text
    )


def test_edits_lose_no_phrase_and_restore_deleted_ones() -> None:
    said = ("You rank films, gladly.", "Think step by step! Rank them by taste.", "One per line.")
    same = Paraphrases(ScriptedModel(lambda text: text[text.index("PHRASE:") :]), 0)
    editor = _Editor(np.random.default_rng(0), same)
    start = draft = _Draft(tuple(map(phrases, said)))
    assert start.instruction == Instruction(*said)

    def held(draft: _Draft) -> Counter[str]:
        return Counter([*(words for words, _ in chain(*draft.parts)), *draft.deleted])

    fewest = most = len(held(start))
    for _ in range(500):
        before, draft = draft, editor.edited(draft, 1)
        assert held(draft) == held(start)
        most = max(most, len(draft.deleted))
        fewest = min(fewest, len(draft.deleted))
        for text in astuple(draft.instruction):
            assert text == " ".join(text.split())
            assert text[:1] not in [*".,!"] or not text
            assert not re.search(r"[.,!]{2}| [.,!]", text)
        assert abs(len(before.deleted) - len(draft.deleted)) < 2
    assert (fewest, most) == (0, len(held(start)))  # all of them were away at once, and came back


def reflective(problem: Problem, *, budget: int = 400, seed: int = 0, **config: Any) -> Any:
    """The player that GEPA finds, and the calls at which it showed one."""
    pytest.importorskip("gepa")
    calls: list[int] = []
    config = {"score_users": 10, "minibatch": 4} | config
    player = method("gepa")(
        problem, seed=seed, budget=budget, watch=lambda n, _: calls.append(n), **config
    )
    return player, calls


def test_gepa_finds_words_without_what_ruins_the_answers() -> None:
    made = planted()
    proposer = ScriptedModel(lambda _: "```\nGive the films in the best order.\n```")
    player, calls = reflective(made.problem, proposer=proposer)
    assert RUINOUS not in " ".join(astuple(instruction(player))).lower()
    assert calls == sorted(calls)
    # What it asked is counted, a user who fills a minibatch up twice, and never above the budget.
    assert len(made.asked) <= made.problem.train.ledger.calls <= 400


def test_gepa_shows_its_proposer_scores_and_no_user() -> None:
    made, seen = planted(), list[str]()

    def hear(text: str) -> str:
        seen.append(text)
        return "```\nRank them.\n```"

    reflective(made.problem, budget=60, proposer=ScriptedModel(hear))
    assert seen
    titles = made.problem.train.env.tasks.dataset.titles
    assert all("NDCG@10 of the list" in text for text in seen)
    assert not any(title in text for title in titles for text in seen)


def test_gepa_without_a_model_paraphrases_and_stays_within_its_budget() -> None:
    for budget in (9, 27, 28, 100):
        made = planted()
        player, _ = reflective(made.problem, budget=budget)
        assert made.problem.train.ledger.calls <= budget
        if budget < 10:
            assert not made.asked
            assert instruction(player).reasoning
    made = [planted() for _ in range(2)]
    found = [instruction(reflective(one.problem)[0]) for one in made]
    assert found[0] == found[1]
    assert made[0].asked == made[1].asked


def test_gepa_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    made = planted()
    for key in ("score_users", "minibatch"):
        with pytest.raises(InvalidOption, match="must be at least 1"):
            reflective(made.problem, **{key: 0})
    monkeypatch.setitem(sys.modules, "gepa", None)
    with pytest.raises(MissingExtra, match=r"rpp-env\[optimizers\]"):
        method("gepa")(made.problem, seed=0, budget=9, watch=lambda *_: None)


def test_an_instruction_may_be_emptied() -> None:
    # The fewer words, the better: everything is deleted that can be.
    book = SentenceCatalog.load("movies")
    start = len(f"{book.reasoning_guidance[3]} {book.output_format[0].text}".split())

    def answer(text: str) -> str:
        words = len(text.split("candidate films:")[1].split("\n\n", 1)[-1].split())
        first, *others = knows(text).splitlines()
        place = min(max(words - 5, 0) * 10 // start, 9)
        moved = [*others[:place], first, *others[place:]]
        return "\n".join(f"{i}. {line.partition(' ')[2]}" for i, line in enumerate(moved, 1))

    made = problem_of(answer)
    player, _ = search(made.problem, budget=20_000, patience=60)
    left = instruction(player)
    assert len(f"{left.role} {left.reasoning} {left.output}".split()) <= 3
    empty = replace(player, rewrite=Instruction("", "", ""))
    played = empty.play(made.problem.test, 0)
    assert (played.ranks == 1).all()
    prompts = empty.rewrite(made.problem.train.prompts(np.arange(1), np.array([0])))  # type: ignore[misc]
    assert prompts[0].text.split("\n\n")[-1] == "Format of each line: <rank>. <title>"


def test_other_words_come_from_the_model_that_is_named() -> None:
    questions: list[str] = []

    def answer(text: str) -> str:
        questions.append(text)
        return '**Phrase:** "Kindly oblige."'

    made = problem_of(lambda text: knows(text) if "Kindly oblige" in text else "")
    player, _ = search(made.problem, paraphraser=ScriptedModel(answer), patience=20)
    found = instruction(player)
    assert "Kindly oblige" in f"{found.reasoning} {found.output}"
    assert "oblige.." not in f"{found.reasoning} {found.output}"
    assert "PHRASE: " in questions[0]
    assert "{k}" in "".join(questions)


@pytest.mark.parametrize("reply", ["", "PHRASE:", "PHRASE: . ", "no label"])
def test_replies_of_the_paraphraser_are_never_an_error(reply: str) -> None:
    made = planted()
    player, _ = search(made.problem, paraphraser=ScriptedModel(lambda _: reply), patience=10)
    assert player.play(made.problem.test, 0).scores["score"].mean() == 1.0


def test_the_embedded_paraphraser_finds_other_words() -> None:
    others = re.compile("Rank the|I would like you to rank the")
    made = problem_of(lambda text: knows(text) if others.search(text) else "")
    player, _ = search(made.problem, patience=20)
    assert others.search(" ".join(astuple(instruction(player))))


@pytest.mark.parametrize(
    "config", [{"score_users": 0}, {"candidates": 0}, {"edits": 0}, {"patience": 0}]
)
def test_grips_refuses_numbers_below_one(config: dict[str, int]) -> None:
    problem = Problem(Unseen(), Unseen(), Unseen())  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="at least 1"):
        search(problem, **config)


def test_phrases_are_the_clauses_of_a_text() -> None:
    text = (
        "Please rank the {k} candidate films by the likelihood that I will watch them next. "
        "Think step by step."
    )
    assert phrases(text) == (
        ("Please rank the {k} candidate films", ""),
        ("by the likelihood", ""),
        ("that I will watch them next", "."),
        ("Think step by step", "."),
    )
    assert phrases("") == phrases(" . ") == ()


@pytest.mark.parametrize("domain", DOMAINS)
def test_phrases_lose_nothing(domain: str) -> None:
    book = SentenceCatalog.load(domain)
    outputs = (output.text for output in book.output_format)
    for text in chain(book.role_playing, book.reasoning_guidance, outputs):
        assert " ".join(words + mark for words, mark in phrases(text)) == text


# ---------------------------------------------------------------- CAPO, EvoPrompt, OPRO

EVOLVED: dict[str, dict[str, Any]] = {
    "capo": {"score_users": 20, "population": 4, "block": 10},
    "evoprompt": {"score_users": 10, "population": 4},
    "evoprompt-de": {"score_users": 10, "population": 4, "variant": "de"},
    "opro": {"score_users": 10},
}


def evolved(problem: Problem, name: str, *, budget: int = 400, seed: int = 0, **config: Any) -> Any:
    """The player that a method of promptolution finds, and the calls at which it showed one."""
    pytest.importorskip("promptolution", reason="promptolution is not installed")
    calls: list[int] = []
    player = method(name.removesuffix("-de"))(
        problem,
        seed=seed,
        budget=budget,
        watch=lambda n, _: calls.append(n),
        **EVOLVED[name] | config,
    )
    return player, calls


@pytest.mark.parametrize("name", EVOLVED)
def test_evolution_finds_words_without_what_ruins_the_answers(name: str) -> None:
    made, asked = planted(), list[str]()

    def write(text: str) -> str:
        asked.append(text)
        return f"Yes: <prompt>Give the films in order {len(asked)}.</prompt>"

    problem = Problem(made.problem.train, Unseen(), Unseen())  # type: ignore[arg-type]
    player, calls = evolved(problem, name, proposer=ScriptedModel(write))
    assert re.fullmatch(r"Give the films in order \d+\.", instruction(player).reasoning)
    assert player.play(made.problem.test, 0).scores["score"].mean() == 1.0
    ledger = problem.train.ledger
    assert len(asked) == ledger.proposals > 0
    assert calls == sorted(calls)
    # It shows texts and scores, and no user; what it asks the recommender is counted once.
    titles = problem.train.env.tasks.dataset.titles
    assert not any(title in text for title in titles for text in asked)
    test = len(made.problem.test)
    assert len(made.asked) - test == ledger.calls == ledger.unique <= 400


@pytest.mark.parametrize("name", EVOLVED)
@pytest.mark.parametrize("budget", [9, 100])
def test_evolution_by_rules_stays_within_its_budget_and_follows_from_its_seed(
    name: str, budget: int
) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    made = [planted() for _ in range(3)]
    found = [
        instruction(evolved(one.problem, name, budget=budget, seed=seed)[0])
        for one, seed in zip(made, (0, 0, 1), strict=True)
    ]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert made[0].problem.train.ledger.calls <= budget
    assert found[0] == found[1]
    assert made[0].asked == made[1].asked
    if budget == 9:
        assert not made[0].asked
        assert found[0].output  # the manual prompt
    else:
        assert made[0].asked != made[2].asked


@pytest.mark.parametrize("name", EVOLVED)
def test_evolution_keeps_what_scores_best(name: str) -> None:
    # A text is the better, the earlier it comes in the alphabet.
    def answer(text: str) -> str:
        said = re.findall(r"Rank ([a-z])\.", text)
        lines = knows(text).splitlines()
        place = ord(said[0]) - ord("a") if said else 12
        moved = [*lines[1 : place + 1], lines[0], *lines[place + 1 :]]
        return "\n".join(f"{i}. {line.partition(' ')[2]}" for i, line in enumerate(moved, 1))

    letters = iter("kjbidhcgfeknmlo" * 40)
    made = problem_of(answer)
    writer = ScriptedModel(lambda _: f"<prompt>Rank {next(letters)}.</prompt>")
    player, _ = evolved(made.problem, name, budget=900, proposer=writer)
    assert instruction(player).reasoning == "Rank b."


@pytest.mark.parametrize("name", EVOLVED)
def test_an_error_of_a_proposer_is_none_of_the_search(name: str) -> None:
    class Broken(ScriptedModel):
        def complete(self, requests: Any) -> Any:
            return []

    with pytest.raises(BrokenContract, match="0 replies"):
        evolved(planted().problem, name, proposer=Broken(lambda _: ""))


def test_evolution_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = planted().problem
    for name, key, least in (
        ("capo", "block", 1),
        ("capo", "population", 2),
        ("evoprompt-de", "population", 4),
        ("opro", "proposals", 1),
        ("opro", "score_users", 1),
    ):
        with pytest.raises(InvalidOption, match=f"{key} must be at least {least}"):
            evolved(problem, name, **{key: least - 1})
    with pytest.raises(InvalidOption, match="variant"):
        evolved(problem, "evoprompt", variant="es")
    monkeypatch.setitem(sys.modules, "promptolution", None)
    for name in ("capo", "evoprompt", "opro"):
        with pytest.raises(MissingExtra, match=r"rpp-env\[promptolution\]"):
            method(name)(problem, seed=0, budget=9, watch=lambda *_: None)


# ---------------------------------------------------------------- LLMRank


def guided(users: Users, **config: Any) -> list[Prompt]:
    def unwatched(*_: Any) -> None:
        raise AssertionError("nothing is trained")

    problem = Problem(users, Unseen(), Unseen())  # type: ignore[arg-type]
    player = llmrank(problem, seed=0, budget=0, watch=unwatched, **config)
    assert player.own_words
    cells = player.choose(users, np.random.default_rng(0))
    assert cells.shape == (len(users), 1)
    assert player.rewrite is not None
    return list(player.rewrite(users.prompts(np.arange(len(users)), cells[:, 0])))


def users_in(domain: str) -> Users:
    env = environment("train", domain=domain)
    return Users(env, env)


@pytest.mark.parametrize("domain", DOMAINS)
def test_llmrank_names_the_last_item_shown_and_no_candidate(domain: str) -> None:
    users = users_in(domain)
    book = SentenceCatalog.load(domain)
    for name in PROMPTS:
        for prompt in guided(users, prompt=name):
            said = prompt.choice.reasoning
            paragraphs = prompt.text.split("\n\n")
            assert paragraphs[2] == said  # role is left out
            assert (prompt.task.history[-1] in said) == (name != "sequential")
            plain = said.replace(prompt.task.history[-1], "it")
            assert not any(title in plain for title in prompt.task.candidates)
            assert f"rank the 20 candidate {book.candidates_lead.split()[-1][:-1]} " in said
            assert "{" not in said
            assert prompt.shown == min(20, len(prompt.task.history))
    users.ask(np.arange(5), np.zeros(5, np.int64), rewrite=lambda prompts: prompts)
    assert users.ledger.calls == 5  # what is above was none of it


def test_llmrank_prompts_match_their_description() -> None:
    users = users_in("movies")
    title = users.env.tasks.task(0).history[-1]
    rank = (
        "rank the 20 candidate films by the likelihood that I will watch them next, according to "
        "my viewing history. Think step by step."
    )
    said = {name: guided(users, prompt=name)[0].choice.reasoning for name in PROMPTS}
    assert said == {
        "sequential": f"Please {rank}",
        "recency": f"Please {rank} Note that the film that I watched most recently is {title}.",
        "examples": (
            "Had I asked you for another film before I watched the last one in my viewing history, "
            f"you should have recommended {title}. Now that I have watched {title}, please {rank}"
        ),
    }


def test_llmrank_plays_test_users_and_counts_its_calls() -> None:
    made = problem_of(knows)
    for name in PROMPTS:
        player = llmrank(made.problem, seed=0, budget=0, watch=lambda *_: None, prompt=name)
        played = player.play(made.problem.test, 0)
        assert played.scores["score"].mean() == 1.0
        assert played.cells is None
    assert made.problem.test.ledger.calls == 3 * USERS
    assert made.problem.train.ledger.calls == 0


def test_one_item_is_no_example() -> None:
    users = users_in("movies")
    examples = guided(users, prompt="examples", shown=1)
    recency = guided(users, prompt="recency", shown=1)
    assert [p.text for p in examples] == [p.text for p in recency]


@pytest.mark.parametrize("config", [{"prompt": "bootstrapping"}, {"shown": 50}])
def test_llmrank_refuses_unknown_options(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="llmrank"):
        guided(users_in("movies"), **config)


def test_errors_name_the_options_of_both() -> None:
    assert options("llmrank") == {"prompt": "sequential", "shown": 20}
    assert options("grips")["patience"] == 2


def test_both_show_the_manual_prompt_otherwise() -> None:
    users = users_in("movies")
    manual = users.prompts(np.arange(1), np.array([manual_cell(users)]))[0]
    guided_ = guided(users, shown=5)[0]
    assert replace(guided_, choice=manual.choice) == manual
    assert guided_.choice.output == manual.choice.output
