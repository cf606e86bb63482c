"""The embedded model: text in, text out, and the effects of words."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_env import RPPEnv
from rpp_env.data import (
    Dataset,
    Interactions,
    TaskSet,
    load_dataset,
    make_tasks,
    split_users,
    training_interactions,
)
from rpp_env.models import LanguageModel, Reply, Request
from rpp_env.models.base import Generation
from rpp_env.recommenders import LLMRecommender
from rpp_env.sentences import DOMAINS, SentenceCatalog
from rpp_env.sentences.parsing import FORMATS, parse_order, parse_ranking
from rpp_env.sentences.prompt import LETTERS, Prompt, as_messages
from rpp_env.sim import embedded
from rpp_env.sim.embedded import HABITS, EmbeddedModel, sequels
from rpp_env.sim.lexicon import LEXICON, TOPICS, Word, votes_of
from rpp_env.testing import check_model, check_recommender

BOOK = SentenceCatalog.load("movies")

# A catalogue where each habit has another favourite. Content, like-minded people, popularity:
FILMS = {
    "Dusty Trail": ("western", "bikers", 1),
    "Lone Rider": ("western", "bikers", 1),
    "Night Alley": ("noir", "poets", 1),
    "Canyon": ("western", "others", 2),  # more of what was long liked
    "Dark Street": ("noir", "others", 2),  # more of what was liked last
    "Two Wheels": ("comedy", "bikers", 2),  # what people like the viewer chose
    "Free Verse": ("comedy", "poets", 2),  # what people like the viewer of late chose
    "Night Alley II": ("comedy", "others", 2),  # what comes next
    "Blockbuster": ("comedy", "others", 9),  # what everybody watches
}
WATCHED = ("Dusty Trail", "Lone Rider", "Night Alley")
OFFERED = tuple(FILMS)[3:]


def handmade(**changes: Any) -> EmbeddedModel:
    def one_hot(column: int) -> np.ndarray:
        kinds = sorted({film[column] for film in FILMS.values()})
        return np.eye(len(kinds))[[kinds.index(film[column]) for film in FILMS.values()]]

    known = {
        "titles": tuple(FILMS),
        "content": one_hot(0),
        "people": one_hot(1),
        "order": np.zeros((2, len(FILMS), 2)),
        "log_counts": np.log1p([film[2] for film in FILMS.values()]),
        "genres": [[film[0]] for film in FILMS.values()],
    }
    return EmbeddedModel(**(known | changes))


def listed(titles: tuple[str, ...], sign: str = "{}. ") -> str:
    return "\n".join(sign.format(i) + title for i, title in enumerate(titles, 1))


def ask(model: LanguageModel, *messages: str, **generation: Any) -> Reply:
    said = tuple({"role": "user", "content": message} for message in messages)
    (reply,) = model.complete([Request(said, Generation(**generation))])
    return reply


def first_of(model: LanguageModel, *instructions: str) -> str:
    """Who comes first in a prompt that was written by hand."""
    lists = f"I have seen:\n{listed(WATCHED)}\n\nChoose among:\n{listed(OFFERED)}"
    reply = ask(model, "\n\n".join([lists, *instructions]))
    ranking = parse_ranking(reply.text, OFFERED)
    assert ranking.named == len(OFFERED)
    return OFFERED[ranking.order[0]]


@pytest.fixture(scope="module")
def worlds() -> dict[str, tuple[Dataset, Interactions, TaskSet]]:
    made = {}
    for name in ("movieworld", "movieworld-hard"):
        data = load_dataset(name, num_users=1800)
        split = split_users(data)
        tasks = make_tasks(data, split.test[:40])
        made[name] = data, training_interactions(data, split), tasks
    return made


@pytest.fixture(scope="module")
def models(worlds: dict[str, Any]) -> dict[str, EmbeddedModel]:
    return {name: EmbeddedModel.fit(data, known) for name, (data, known, _) in worlds.items()}


@pytest.fixture(scope="module")
def prompts(worlds: dict[str, Any]) -> list[Prompt]:
    """Every sentence at least once, all history lengths, some forty users."""
    tasks = worlds["movieworld"][2]
    made = []
    for i, (role, reasoning, output) in enumerate(product(range(5), range(9), range(5))):
        task = tasks.task(i % len(tasks))
        (choice,) = BOOK.choose([[role, 0, reasoning, output]])
        made.append(Prompt(task, choice, (1, 2, 3, 5, 8, 13, 20)[i % 7]))
    return made


def requests(prompts: list[Prompt]) -> list[Request]:
    return [Request(prompt.messages) for prompt in prompts]


def copied(model: EmbeddedModel) -> EmbeddedModel:
    """As another process gets it."""
    copy = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    assert isinstance(copy, EmbeddedModel)
    return copy


# What the words do ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("favourite", "instructions"),
    [
        ("Blockbuster", ("Put first what is famous and watched by everybody.",)),
        ("Canyon", ("You are a connoisseur of styles.", "Deduce what I always enjoy.")),
        ("Dark Street", ("You are a connoisseur of styles.", "Rank by what I saw just now.")),
        (
            "Two Wheels",
            (
                "You know the tastes of audiences.",
                "Look at the entire list, at what lasts: enduring likes.",
            ),
        ),
        ("Free Verse", ("You know the tastes of audiences.", "Use the newest, lately seen ones.")),
        ("Night Alley II", ("Which one is the probable sequel, so comes next?",)),
        ("Blockbuster", ()),
    ],
)
def test_it_follows_the_words_of_prompts_written_by_hand(
    favourite: str, instructions: tuple[str, ...]
) -> None:
    assert first_of(handmade(), *instructions) == favourite
    # Wherever the instructions stand, and in any order.
    assert first_of(handmade(), *reversed(instructions)) == favourite
    lists = [f"I have seen:\n{listed(WATCHED)}", f"Choose among:\n{listed(OFFERED)}"]
    reply = ask(handmade(), "\n\n".join([*instructions, *lists]))
    assert OFFERED[parse_ranking(reply.text, OFFERED).order[0]] == favourite


def test_words_that_it_does_not_know_change_nothing() -> None:
    model = handmade()
    known = first_of(model, "Which one comes next, probably the sequel?")
    assert first_of(model, "Which one comes next, probably the sequel, dear fellow?") == known
    assert first_of(model, "Kindly do whatever seems right.") == first_of(model)


@pytest.mark.parametrize("entry", LEXICON, ids=lambda entry: entry.spellings.split(",")[0])
def test_every_word_of_the_lexicon_is_heard(entry: Word) -> None:
    others = [word for word in LEXICON if word is not entry]
    own = np.array([entry.votes.get(topic, 0.0) for topic in TOPICS])
    assert own.any()
    assert set(entry.votes) <= set(TOPICS)
    for spelling in entry.spellings.split(", "):
        more = sum(
            np.array([word.votes.get(topic, 0.0) for topic in TOPICS])
            for word in others
            if re.search(word.pattern, spelling)
        )
        for text in (spelling, f"Please, {spelling.upper()}: now!", f"{spelling} {spelling}"):
            assert np.allclose(votes_of(text), own + more), text
        assert not votes_of(f"x{spelling.replace(' ', 'x')}x").any()


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_sentences_of_all_domains_call_the_same_habits(domain: str) -> None:
    book = SentenceCatalog.load(domain)
    for name in ("role_playing", "reasoning_guidance"):
        for mine, films in zip(getattr(book, name), getattr(BOOK, name), strict=True):
            assert np.array_equal(votes_of(mine), votes_of(films)), mine
    for mine, films in zip(book.output_format, BOOK.output_format, strict=True):
        assert np.array_equal(votes_of(mine.text), votes_of(films.text)), mine.text
    assert not votes_of(book.candidates_lead).any()
    said = " ".join([*book.role_playing, *book.reasoning_guidance])
    said += " ".join(output.text for output in book.output_format)
    assert [word for word in LEXICON if not re.search(word.pattern, said.lower())] == []


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_reply_has_the_format_that_the_contract_line_asks_for(domain: str) -> None:
    model, book = handmade(), SentenceCatalog.load(domain)
    for output in book.output_format:
        text = f"Candidates:\n{listed(OFFERED)}\n\nBriefly, few words.\n{output.contract}"
        lines = ask(model, text).text.split("\n")
        assert (
            lines[0]
            == {
                "numbered": "1. Blockbuster",
                "bare": "Blockbuster",
                "numbers": "6",
                "json": "[",
                "template": "1 | Blockbuster",
            }[output.format]
        )
        assert len(lines) == len(OFFERED) + 2 * (output.format == "json")


def test_thoughts_are_written_unless_the_prompt_asks_for_brevity(
    models: dict[str, EmbeddedModel], worlds: dict[str, Any]
) -> None:
    model, tasks = models["movieworld"], worlds["movieworld"][2]
    for output, form in enumerate(FORMATS):
        (choice,) = BOOK.choose([[0, 0, 3, output]])
        text = ask(model, Prompt(tasks.task(0), choice, 20).text).text
        thinks = form in ("numbered", "template")
        assert text.startswith("Let me think") == thinks
        assert text.count("I note") == (20 if thinks else 0)
        assert ("Sure!" in text) == (form == "numbered")


def test_a_method_that_needs_thought_fades_where_there_is_no_room_for_it() -> None:
    asked = "You are a connoisseur of styles.", "Step by step: rank by what I saw just now."
    assert first_of(handmade(), *asked) == "Dark Street"
    assert first_of(handmade(), *asked, "Use few words.") == "Blockbuster"


# Reading ----------------------------------------------------------------------------------------


def test_lists_are_read_however_they_are_written() -> None:
    model = handmade()
    asked = "You are a connoisseur of styles.\nRank by what I saw just now."
    plain = f"I have seen:\n{listed(WATCHED)}\n\nChoose among:\n{listed(OFFERED)}\n\n{asked}"
    expected = ask(model, plain).text
    assert "\n1. Dark Street\n" in expected
    history, candidates = listed(WATCHED, "- "), listed(OFFERED, "* ")
    for text in (
        plain.replace("\n", "\r\n"),
        f"{asked}\n\n{history}\n\n{candidates}".replace("\n", "\r\n"),
        f"Seen:\n{history}\n\nFrom:\n{candidates}\n\n{asked}",
        f"{asked}\n\n{history}\n\n{candidates}",
        f"{asked}\nSeen:\n{history}\nFrom:\n{candidates}",
        f"Candidates:\n{candidates}\n\nSeen:\n{history}\n\n{asked}",
        plain.upper(),
        f"Seen:\n{listed(WATCHED, '{}) ')}\n\nFrom:\n{listed(OFFERED, '  {}: ')}\n\n{asked}",
        plain.replace("1. Canyon", '1. "Canyon"').replace("2. Dark Street", "2. **Dark Street**"),
        f"1. Sit down.\n2. Relax.\n\n{plain}",
    ):
        assert ask(model, text).text == expected, text
    in_parts = ask(model, asked, f"Seen:\n{history}", f"Choose among:\n{candidates}")
    assert in_parts.text == expected
    system = {"role": "system", "content": asked}
    user = {"role": "user", "content": f"{history}\n\n{candidates}"}
    assert model.complete([Request((system, user))])[0].text == expected


def test_the_line_above_the_candidates_may_say_how_to_rank_them() -> None:
    model = handmade()
    seen = f"My recent films:\n{listed(WATCHED)}"
    for lead, favourite in (
        ("Which of these is the probable sequel, so comes next?\nAnswer:", "Night Alley II"),
        ("Rank these by which is probable next:", "Night Alley II"),
        ("Films:", "Blockbuster"),
    ):
        text = ask(model, f"{seen}\n\n{lead}\n{listed(OFFERED)}").text
        assert OFFERED[parse_ranking(text, OFFERED).order[0]] == favourite


def test_titles_that_it_has_never_met_keep_their_places() -> None:
    offered = ("Brand New", "Blockbuster", "Other New", "Canyon")
    reply = ask(handmade(), f"Candidates:\n{listed(offered)}\n\nWhat is popular? Few words.")
    assert reply.text == "1. Blockbuster\n2. Canyon\n3. Brand New\n4. Other New"
    numbers = "Format of each line: <candidate number>"
    reply = ask(handmade(), f"Candidates:\n{listed(offered)}\n\nPopular? Few words.\n{numbers}")
    assert reply.text == "2\n4\n1\n3"
    thoughtful = f"Seen:\n{listed(('Brand New', 'Canyon'))}\n\n{listed(OFFERED)}\n\nThink."
    assert (
        "I note something new to me, and weigh it. I note western"
        in ask(handmade(), thoughtful).text
    )


@pytest.mark.parametrize(
    "text",
    ["", "Hello.", "1. Think.\n2. Rank by popularity.", f"- {FILMS['Canyon'][0]}", "\n\n\n", "1."],
)
def test_a_prompt_without_known_titles_gets_no_ranking(text: str) -> None:
    reply = ask(handmade(), text)
    assert reply.text == "I see no list of candidates to rank."
    assert (reply.prompt_tokens, reply.completion_tokens) == (len(text.split()), 8)
    assert ask(handmade(), text, max_tokens=3) == Reply("I see no", len(text.split()), 3, "length")


def test_there_may_be_one_candidate_or_hundreds(models: dict[str, EmbeddedModel]) -> None:
    assert ask(handmade(), "Candidates:\n1. Canyon\n\nFew words.").text == "1. Canyon"
    model = models["movieworld"]
    titles = model._titles
    reply = ask(model, f"Candidates:\n{listed(titles)}\n\nFew words.", max_tokens=4000)
    assert sorted(parse_order(reply.text, titles)[0]) == list(range(400))
    assert parse_order(reply.text, titles)[1] == 400


def test_sequels_are_recognised_by_their_titles() -> None:
    titles = ("Up", "Up 2", "up iii", "Heat", "Heat: Part II", "Heat IV", "1984", "Up 5")
    assert sequels(titles).tolist() == [1, 2, -1, 4, -1, -1, -1, -1]


def test_letters_are_chosen_as_lists_are_ordered(
    models: dict[str, EmbeddedModel], prompts: list[Prompt]
) -> None:
    model = models["movieworld"]
    meant = [order for order, _ in model._ranked([model._ask(r) for r in requests(prompts)])]
    for whole in (False, True):
        asked = [
            Request(as_messages(prompt.lettered(whole)), choices=tuple(LETTERS[:20]))
            for prompt in prompts
        ]
        for order, reply in zip(meant, model.complete(asked), strict=True):
            assert reply.choice_logprobs is not None
            chances = np.array(reply.choice_logprobs)
            assert np.argsort(-chances, kind="stable").tolist() == order
            assert np.exp(chances).sum() == pytest.approx(1)
            assert reply.text == LETTERS[order[0]]
    # Of those that are left, and of one that stands for nothing.
    (reply,) = model.complete([replace(asked[0], choices=("C", "A", "z"))])
    some = np.array(reply.choice_logprobs)
    (every,) = model.complete(asked[:1])
    assert every.choice_logprobs is not None
    assert some[1] - some[0] == pytest.approx(every.choice_logprobs[0] - every.choice_logprobs[2])
    assert some[2] < some[:2].min() - 20
    assert np.isfinite(some).all()


# Writing ----------------------------------------------------------------------------------------


def test_its_replies_parse_to_the_intended_ranking(
    models: dict[str, EmbeddedModel], prompts: list[Prompt]
) -> None:
    model = models["movieworld"]
    meant = [order for order, _ in model._ranked([model._ask(r) for r in requests(prompts)])]
    replies = model.complete(requests(prompts))
    assert {prompt.choice.format for prompt in prompts} == set(FORMATS)
    for prompt, order, reply in zip(prompts, meant, replies, strict=True):
        assert parse_order(reply.text, prompt.task.candidates) == (tuple(order), 20)
        assert reply.finish_reason == "stop"


@pytest.mark.parametrize("most", [1, 7, 30, 80])
def test_words_are_counted_and_a_reply_is_cut_behind_the_last_one(
    models: dict[str, EmbeddedModel], prompts: list[Prompt], most: int
) -> None:
    model = models["movieworld"]
    for prompt in prompts:
        whole, cut = ask(model, prompt.text), ask(model, prompt.text, max_tokens=most)
        assert whole.prompt_tokens == len(prompt.text.split()) == model.count_tokens(prompt.text)
        assert whole.completion_tokens == len(whole.text.split())
        if whole.completion_tokens <= most:
            assert cut == whole
        else:
            assert (cut.completion_tokens, cut.finish_reason) == (most, "length")
            assert whole.text.startswith(cut.text)
            assert cut.text.split() == whole.text.split()[:most]
            assert cut.text == cut.text.rstrip()


def test_in_the_hard_world_long_histories_and_long_thoughts_cut_the_reply(
    models: dict[str, EmbeddedModel], worlds: dict[str, Any]
) -> None:
    tasks = worlds["movieworld-hard"][2]
    (wordy,) = BOOK.choose([[0, 0, 4, 0]])
    (plain,) = BOOK.choose([[0, 0, 0, 2]])
    for i in range(len(tasks)):
        long = Prompt(tasks.task(i), wordy, 20).text
        reply = ask(models["movieworld-hard"], long)
        assert reply.finish_reason == "length"
        assert reply.prompt_tokens + reply.completion_tokens == 280
        assert parse_order(reply.text, tasks.task(i).candidates)[1] < 20
        assert ask(models["movieworld"], long).finish_reason == "stop"
        short = ask(models["movieworld-hard"], Prompt(tasks.task(i), plain, 3).text)
        assert short.finish_reason == "stop"


@pytest.mark.parametrize("span", [0, 1, 20, 40])
def test_a_prompt_longer_than_the_span_gets_an_empty_reply(span: int) -> None:
    model = handmade(span=span)
    text = f"Seen:\n{listed(WATCHED)}\n\nCandidates:\n{listed(OFFERED)}\n\nRank by popularity."
    length = len(text.split())
    reply = ask(model, text)
    assert reply.finish_reason == "length"
    assert reply.prompt_tokens == length
    if span <= length:
        assert reply == Reply("", length, 0, "length")
        assert parse_ranking(reply.text, OFFERED).named == 0
    else:
        assert reply.completion_tokens == span - length


# What it knows ----------------------------------------------------------------------------------


def test_nothing_is_fitted_on_a_target(worlds: dict[str, Any], prompts: list[Prompt]) -> None:
    data, known, _ = worlds["movieworld"]
    items = data.items.copy()
    last = data.indptr[1:] - 1
    for user, place in enumerate(last):
        # No other item of the user: an earlier choice of a target is taken out with it.
        items[place] = np.setdiff1d(np.arange(data.num_items), data.sequence(user))[user % 300]
    other = replace(data, items=items)
    assert not np.array_equal(other.items, data.items)
    model = EmbeddedModel.fit(data, known)
    changed = EmbeddedModel.fit(other, training_interactions(other, split_users(other)))
    assert changed.id == model.id
    assert changed.complete(requests(prompts)) == model.complete(requests(prompts))
    # The test would notice: histories do matter.
    items[data.indptr[:-1]] = items[last]
    last_seen = training_interactions(replace(data, items=items), split_users(data))
    assert EmbeddedModel.fit(data, last_seen).id != model.id


def test_the_id_names_all_that_answers_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    films = len(FILMS)
    rng = np.random.default_rng(0)
    ids = [
        handmade(**changes).id
        for changes in (
            {},
            {"titles": (*tuple(FILMS)[:-1], "Flop")},
            {"genres": [["western"]] * films},
            {"content": rng.random((films, 3))},
            {"people": rng.random((films, 3))},
            {"order": rng.random((2, films, 2))},
            {"log_counts": rng.random(films)},
            {"span": 100},
        )
    ]
    for name, value in (("LEXICON", LEXICON[1:]), ("_CONSTANTS", (4.0, 5.0))):
        with monkeypatch.context() as patch:
            patch.setattr(embedded, name, value)
            ids.append(handmade().id)
    assert len(set(ids)) == len(ids)
    assert handmade().id == ids[0]
    assert re.fullmatch(r"embedded-v0/[0-9a-f]{16}/4096", ids[0])


def test_each_habit_has_its_own_favourite() -> None:
    titles = list(FILMS)
    rows = np.array([[titles.index(title) for title in OFFERED]])
    history = tuple(titles.index(title) for title in WATCHED)
    votes = handmade().habits([history], rows)
    assert votes.shape == (1, len(OFFERED), len(HABITS))
    assert votes.dtype == np.float32
    assert np.abs(votes).max() <= 1
    favourites = [OFFERED[i] for i in votes[0].argmax(axis=0)]
    assert favourites == [
        "Canyon", "Dark Street", "Two Wheels", "Free Verse", "Night Alley II", "Blockbuster",
    ]  # fmt: skip
    assert np.allclose(votes.sum(axis=1), 0, atol=1e-6)  # ties share
    assert not handmade().habits([()], rows)[..., :5].any()  # who shows nothing asks for nothing


# A model among models -----------------------------------------------------------------------------


def test_it_keeps_the_contracts(models: dict[str, EmbeddedModel], prompts: list[Prompt]) -> None:
    for model in (handmade(), *models.values()):
        check_model(model)
        check_model(model, prompts[::9])
    check_recommender(LLMRecommender(models["movieworld"]), prompts[::9])


def test_replies_are_the_same_in_every_batch_and_order(
    models: dict[str, EmbeddedModel], prompts: list[Prompt]
) -> None:
    asked = requests(prompts)
    for model in models.values():
        together = model.complete(asked)
        fresh = copied(model)
        assert [reply for request in asked for reply in fresh.complete([request])] == together
        fresh = copied(model)
        assert fresh.complete(asked[::-1])[::-1] == together
        fresh = copied(model)
        batches = [fresh.complete(asked[i : i + 7]) for i in range(0, len(asked), 7)]
        assert list(chain.from_iterable(batches)) == together
        assert model.complete(asked) == together


def test_the_cache_of_read_prompts_is_bounded_and_not_pickled(
    prompts: list[Prompt], models: dict[str, EmbeddedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copied(models["movieworld"])
    size = len(pickle.dumps(model))
    replies = model.complete(requests(prompts))
    assert len(pickle.dumps(model)) == size
    for kept in (model._read, model._plan, model._open):
        assert kept.cache_info().maxsize is not None
    monkeypatch.setattr(embedded, "_PAIRS_KEPT", 16)
    monkeypatch.setattr(embedded, "_CANDIDATES", 100)
    monkeypatch.setattr(embedded, "_COMPARISONS", 1000)
    model._forget()
    again = [model.complete(requests(prompts[i : i + 10])) for i in range(0, len(prompts), 10)]
    assert list(chain.from_iterable(again)) == replies
    assert len(model._habits) <= 16
    assert copied(model).complete(requests(prompts)) == replies


def test_it_ranks_far_better_than_chance_and_each_sentence_counts(
    models: dict[str, EmbeddedModel], worlds: dict[str, Any]
) -> None:
    tasks = worlds["movieworld"][2]
    recommender = LLMRecommender(models["movieworld"])
    ranks = {}
    for reasoning in range(9):
        (choice,) = BOOK.choose([[0, 0, reasoning, 0]])
        asked = [Prompt(tasks.task(i), choice, 8) for i in range(len(tasks))]
        orders = [ranking.order for ranking in recommender.rank(asked)]
        places = [order.index(tasks.position[i]) for i, order in enumerate(orders)]
        ranks[reasoning] = float(np.mean(places))
    assert min(ranks.values()) < 6  # by chance 9.5
    assert len(set(ranks.values())) > 5


@pytest.mark.parametrize("name", ["ml-1m", "lastfm", "games"])
def test_it_works_on_real_data(real_data: Path, name: str) -> None:
    env = RPPEnv.make(name, root=str(real_data), split="test", max_users=64, num_envs=64)
    env.reset(seed=0)
    for level in range(2):
        step = env.step(np.tile([2, 4, 1 + level, 0], (64, 1)))
        assert (step.infos["named"] == 20).all()
        assert 0.3 < step.rewards.mean() < 1  # by chance 0.23


# The page ----------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "embedded.md"


def test_the_page_lists_the_lexicon() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    votes = {
        entry.spellings: ", ".join(f"{topic} {vote:+g}" for topic, vote in entry.votes.items())
        for entry in LEXICON
    }
    listed_votes = [row for row in rows if row[0] in votes or re.search(r" [+-]\d", row[1])]
    assert listed_votes == list(votes.items())
    assert [row for row in rows if row[0] in TOPICS] == list(TOPICS.items())


def test_the_page_shows_a_real_prompt_and_its_reply() -> None:
    blocks = re.findall(r"```text\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    data = load_dataset("movieworld")
    split = split_users(data)
    model = EmbeddedModel.fit(data, training_interactions(data, split))
    task = make_tasks(data, split.test[:1], num_candidates=6).task(0)
    prompt = Prompt(task, BOOK.choose([[3, 0, 5, 0]])[0], 3)
    brief = replace(prompt, choice=BOOK.choose([[3, 0, 5, 2]])[0])
    shown = [prompt.text, ask(model, prompt.text).text, ask(model, brief.text).text]
    assert blocks == shown
