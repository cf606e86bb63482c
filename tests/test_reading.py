"""Replies in the forms that language models write, and the share that is parsed exactly."""

# ruff: noqa: RUF001 - replies hold signs of many scripts
from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpp_env import RPPEnv
from rpp_env.data import load_dataset
from rpp_env.errors import InvalidOption, UnknownDataset
from rpp_env.models import Reply, Request
from rpp_env.recommenders.llm import LLMRecommender
from rpp_env.sentences.parsing import parse_order, parse_ranking
from rpp_env.sentences.parsing.forms import FORMS, LABELS, WRAPPINGS, measure_reading, write_form
from rpp_env.table import tabulate

SHOWN = (
    "Copper Rain",
    "Salt Road",
    "Harbor",
    "The Lantern Keeper",
    "Nine Bridges",
    "Owl",
    "Paper Moth III",
    "Quiet Winter",
    "Stone Garden",
    "The Last Ferry",
)
"""Candidates, numbered from 1 as a prompt prints them."""


def named(reply: str, candidates: Sequence[str] = SHOWN) -> list[str]:
    order, count = parse_order(reply, tuple(candidates))
    assert sorted(order) == list(range(len(candidates)))
    return [candidates[i] for i in order[:count]]


H, C, L, W, O = "Harbor", "Copper Rain", "The Lantern Keeper", "Quiet Winter", "Owl"  # noqa: E741

REPLIES = {
    # chat models
    "a reason behind each title": (
        (
            " Sure, I'd be happy to help! Based on your history, I would rank the films so:\n\n"
            "1. Harbor (1979) - A story of the sea, like Salt Road, Nine Bridges and Owl.\n"
            "2. Copper Rain: fits your taste for Harbor.\n"
            "3. The Lantern Keeper, because you liked Stone Garden, Owl and Harbor.\n\n"
            "Please note that I may be wrong about Owl."
        ),
        [H, C, L],
    ),
    "steps of thought, then a list": (
        (
            "Step 1: I look at your history.\nStep 2: Owl, Harbor and Salt Road fit.\n"
            "Step 3: My final ranking is:\n\n"
            "1. Harbor\n2. Copper Rain\n3. Owl\n4. Salt Road\n5. Quiet Winter"
        ),
        [H, C, O, "Salt Road", W],
    ),
    "sections with remarks": (
        (
            "### Ranking\n\n#### 1. Harbor\n- **Why:** You liked *Owl*.\n- **Mood:** calm\n\n"
            "#### 2. Copper Rain\n- **Why:** Like *Harbor*.\n- **Mood:** dark"
        ),
        [H, C],
    ),
    "tiers with ranks that go on": (
        (
            "**Top tier:**\n\n1.  **Harbor:** A preference.\n"
            "2.  **Copper Rain:** Like Owl.\n\n**Lower tier:**\n\n3.  **Owl:** Short."
        ),
        [H, C, O],
    ),
    "tiers in lines": ("Tier 1: Harbor, Owl\nTier 2: Copper Rain, Quiet Winter", [H, O, C, W]),
    "a table with reasons": (
        (
            "| Rank | Film | Why |\n|:---:|:---|:---|\n"
            "| 1 | Harbor | Like Owl, Salt Road, Stone Garden |\n| 2 | Copper Rain | Dark |"
        ),
        [H, C],
    ),
    "a countdown": ("3. Owl\n2. Copper Rain\n1. Harbor", [H, C, O]),
    "a whole list, then its beginning": (
        "1. Harbor\n2. Copper Rain\n3. Owl\n\nIn short:\n1. Harbor\n2. Copper Rain",
        [H, C, O],
    ),
    "a draft, then another order": (
        "Draft:\n1. Owl\n2. Harbor\n3. Copper Rain\n\nFinal: 1. Harbor\n2. Owl\n3. Copper Rain",
        [H, O, C],
    ),
    "ranks from 0": ("0. Harbor\n1. Copper Rain\n2. Owl", [H, C, O]),
    "parts numbered from 1": (
        "Likely:\n1. Harbor\n2. Copper Rain\n\nUnlikely:\n1. Owl\n2. Quiet Winter",
        [H, C, O, W],
    ),
    "numbered reasons": (
        "1. Harbor\n   1. Same mood\n   2. Well rated\n2. Copper Rain\n   1. Like Owl\n   2. Short",
        [H, C],
    ),
    "titles as remarks": (
        "1. Harbor\n   - Owl\n   - Salt Road\n2. Copper Rain\n   - Owl\n   - Salt Road\n3. Owl",
        [H, C, O],
    ),
    "a remark that begins with a title": (
        "1. Harbor\n   Owl: the same night\n2. Copper Rain\n3. Quiet Winter\n4. Owl",
        [H, C, W, O],
    ),
    "ties": ("1. Harbor / Copper Rain\n2. Owl = Quiet Winter", [H, C, O, W]),
    "order in a sentence": (
        "I would put Harbor first, followed by Copper Rain, then Owl and finally Quiet Winter.",
        [H, C, O, W],
    ),
    "no list": ("Since you liked Salt Road, Owl and Stone Garden, I recommend Harbor.", [H]),
    "a short title": ("I would go with Owl.", [O]),
    # the first item behind a label
    "ranking": ("Ranking: 1. Harbor\n2. Copper Rain\n3. Owl", [H, C, O]),
    "certainly": ("Certainly! Harbor\nCopper Rain\nOwl", [H, C, O]),
    "numbers behind a label": ("The ranking is 3\n1\n6", [H, C, O]),
    "a label in bold": ("**Answer**: 1 | Harbor\n2 | Copper Rain\n3 | Owl", [H, C, O]),
    "other languages": ("Ergebnis: 1) Harbor\n2) Copper Rain\n3) Owl", [H, C, O]),
    "labels before all": ("First: Harbor\nSecond: Copper Rain\nThird: Owl", [H, C, O]),
    "no label of an item": ("Harbor\nSimilar to: Owl\nCopper Rain\nSimilar to: Harbor", [H, C]),
    # candidate numbers
    "two numbers": ("[3] > [1]", [H, C]),
    "rank and number": ("1 -> 3\n2 -> 1\n3 -> 6", [H, C, O]),
    "number and rank": ("3 -> 1\n1 -> 2\n6 -> 3", [H, C, O]),
    "number and score": ("3: 0.95\n1: 0.9\n6: 0.4", [H, C, O]),
    "number and reason": ("3, because it is calm\n1, because it is dark", [H, C]),
    "rank, number and reason": ("1. 3 - it is calm\n2. 1 - it is dark\n3. 6 - short", [H, C, O]),
    "words before": ("Movie 3 > Movie 1 > Movie 6", [H, C, O]),
    "keys": ("Candidate: 3 | Score: 9\nCandidate: 1 | Score: 8", [H, C]),
    "boxed": ("So the answer is $\\boxed{[3, 1, 6]}$.", [H, C, O]),
    "boxed titles": ("$$\n\\boxed{\\text{Harbor, Copper Rain, Owl}}\n$$", [H, C, O]),
    "Arabic digits": ("٣، ١، ٦", [H, C, O]),
    # objects
    "cut off": (
        '[{"rank": 1, "title": "Harbor", "reason": "Like Owl."}, {"rank": 2, "title": "Copper R',
        [H, "Copper Rain"],
    ),
    "reasons first": (
        '{"reasoning": "Owl, Salt Road.", "ranking": ["Harbor", "Copper Rain"]}',
        [H, C],
    ),
    "draft and final": (
        '{"draft": ["Owl", "Harbor", "Copper Rain"], "final": ["Harbor", "Copper Rain", "Owl"]}',
        [H, C, O],
    ),
    "scores by title": ('{"Owl": 0.2, "Harbor": 0.9, "Copper Rain": 0.7}', [H, C, O]),
    "ranks by title": ('{"Owl": 3, "Harbor": 1, "Copper Rain": 2}', [H, C, O]),
    "scores in the prompt's order": (
        json.dumps(
            [{"id": i + 1, "score": s} for i, s in enumerate([5, 1, 9, 2, 3, 8, 4, 6, 0, 7])]
        ),
        [
            H,
            O,
            "The Last Ferry",
            W,
            C,
            "Paper Moth III",
            "Nine Bridges",
            L,
            "Salt Road",
            "Stone Garden",
        ],
    ),
    "comments": ('[\n  "Harbor", // like Owl, and Salt Road\n  "Copper Rain", # dark\n]', [H, C]),
    "keys without quotes": ("{rank: 1, title: 'Harbor'}\n{rank: 2, title: 'Owl'}", [H, O]),
    "a text of lines": ('{"answer": "1. Harbor\\n2. Copper Rain"}', [H, C]),
    # other spellings
    "numerals": ("1. Paper Moth 3\n2. 9 Bridges", ["Paper Moth III", "Nine Bridges"]),
    "emoji": ("🥇 Harbor\n🥈 Copper Rain\n🥉 Owl\n4️⃣ Quiet Winter", [H, C, O, W]),
    "letters": ("a) Owl\nb) Harbor\nc) Copper Rain", [O, H, C]),
    # what is not the answer
    "another exercise": (
        "1. Harbor\n2. Owl\n\nUser: Rank:\n1. Salt Road\nAssistant:\n1. Copper Rain\n2. Salt Road",
        [H, O],
    ),
    "another exercise behind an end of text": (
        "1. Harbor\n2. Owl</s>[INST] Rank. [/INST] 1. Salt Road\n2. Stone Garden",
        [H, O],
    ),
    "the prompt, then the answer": (
        "These are the 10 candidate films:\n"
        + "\n".join(f"{i}. {title}" for i, title in enumerate(SHOWN, 1))
        + "\n\nRanking:\n3\n1\n6\n2\n4\n5\n7\n8\n9\n10",
        [
            H,
            C,
            O,
            "Salt Road",
            L,
            "Nine Bridges",
            "Paper Moth III",
            W,
            "Stone Garden",
            "The Last Ferry",
        ],
    ),
    "a refusal": ("I'm sorry, but I cannot rank Harbor, Owl and Copper Rain.", []),
    "a refusal with a list": ("I am unable to recommend any of these:\n- Harbor\n- Owl", []),
    "no refusal": ("I cannot watch films, but here is my list:\n1. Harbor\n2. Owl", [H, O]),
    "what was liked": ("You enjoyed Harbor, Owl and Salt Road.", []),
}


@pytest.mark.parametrize("name", REPLIES)
def test_replies_as_models_write_them(name: str) -> None:
    reply, expected = REPLIES[name]
    assert named(reply) == expected


EAST = ("千と千尋の神隠し", "エイリアン", "七人の侍", "東京物語", "英雄", "올드보이", "살인의 추억")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("排名如下：1、《英雄》2、《七人の侍》3、《東京物語》", ["英雄", "七人の侍", "東京物語"]),
        ("推荐顺序：英雄、七人の侍、東京物語。", ["英雄", "七人の侍", "東京物語"]),
        ("第１位：「エイリアン」\n第２位：「七人の侍」", ["エイリアン", "七人の侍"]),
        ("①東京物語②エイリアン③英雄", ["東京物語", "エイリアン", "英雄"]),
        ("（1）올드보이\n（2）살인의 추억", ["올드보이", "살인의 추억"]),
        ("저는 올드보이를 추천합니다.", ["올드보이"]),
        ("私のおすすめは千と千尋の神隠しです。", ["千と千尋の神隠し"]),
        ("很抱歉，我无法推荐《英雄》。", []),
        ("1．ｴｲﾘｱﾝ", ["エイリアン"]),
    ],
)
def test_titles_and_punctuation_of_other_scripts(reply: str, expected: list[str]) -> None:
    assert named(reply, EAST) == expected


def test_marks_of_kana_are_no_accents() -> None:
    assert named("パリ\nバリ", ("バリ", "パリ", "ハリ")) == ["パリ", "バリ"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Brass Door", ["Brass Door: A Tale (1999)"]),
        ("1. Brass Door: A Tale", ["Brass Door: A Tale (1999)"]),
        ("1. Brass Door (1999)", ["Brass Door: A Tale (1999)"]),
        ("1. A Tale of Salt", []),
        ("1. Amber (1950)\n2. Brass Door: A Tale (1999)", ["Brass Door: A Tale (1999)"]),
        ("Amber > Brass Door: A Tale", ["Amber (1948)", "Brass Door: A Tale (1999)"]),
        ("1. La Mer\n2. The Cold Wind", ["The Sea (La Mer)", "Storm: The Cold Wind"]),
        ("1. Comet Part 2\n2. Comet III", ["Comet: Part II", "Comet 3"]),
    ],
)
def test_other_names_of_a_title(reply: str, expected: list[str]) -> None:
    titles = (
        "Amber (1948)",
        "Brass Door: A Tale (1999)",
        "The Sea (La Mer)",
        "Storm: The Cold Wind",
    )
    assert named(reply, (*titles, "Comet: Part II", "Comet 3")) == expected


def test_short_titles_in_a_sentence_are_written_as_titles() -> None:
    titles = ("It", "Up", "Zed", "NOPE")
    assert named("I recommend Zed.", titles) == ["Zed"]
    assert named("Zed would suit you.", titles) == ["Zed"]
    assert named("My choice is Up, of course.", titles) == ["Up"]
    assert named("For you, NOPE!", titles) == ["NOPE"]
    assert named("It is up to you, nope.", titles) == []


REFUSED = {
    "numbers in words": "three, one, six",
    "Roman candidate numbers": "III > I > VI",
    "letters of candidates": "C, A, F",
    "numbers with reasons that only count": "1 - calm\n2 - dark\n3 - short",
    "a single number with a reason": "3 - because it is calm",
    "attributes of a tag": '<movie id="3"/>\n<movie id="1"/>',
    "translated titles": "El puerto\nLluvia de cobre",
}


@pytest.mark.parametrize("form", REFUSED)
def test_forms_refused_on_purpose_name_nothing(form: str) -> None:
    assert named(REFUSED[form]) == []


# Thoughts --------------------------------------------------------------------------------------

DRAFT, ANSWER = "1. Owl\n2. Harbor\n3. Copper Rain", "1. Harbor\n2. Copper Rain\n3. Owl"
PAIRS = [
    ("<think>", "</think>"),
    ("<THINKING>\n", "\n</THINKING>\n"),
    ('<thought signature="x">', "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<chain_of_thought>", "</chain_of_thought>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisI compare. ", "assistantfinal"),
    ("<unused94>thought\n", "<unused95>"),
    ("Here is my thought process:\n", "\nHere is my response:\n"),
]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_thoughts_are_not_the_answer_in_any_marks(opening: str, closing: str) -> None:
    expected = [H, C, O]
    assert named(opening + DRAFT + closing + ANSWER) == expected
    assert named(opening + DRAFT) == [], "thoughts that were cut off"
    assert named(f"{opening}{DRAFT}{closing}{ANSWER}{closing}") == expected, "closed twice"
    assert named(f"{opening}{closing}{ANSWER}") == expected, "empty thoughts"
    if "thought process" not in opening and not opening.startswith("analysis"):
        assert named(ANSWER + opening + DRAFT) == expected, "thoughts behind the answer, cut off"
    assert named(DRAFT + closing + ANSWER) == expected, "the opening mark was in the prompt"
    assert named(ANSWER + closing) == expected, "a closing mark, and nothing behind it"


def test_an_answer_in_tags_takes_precedence() -> None:
    assert named(f"{DRAFT}\n<answer>{ANSWER}</answer>\nOwl, Harbor and Copper Rain, I mean.") == [
        H,
        C,
        O,
    ]
    assert named(f"<think>{DRAFT}<answer>{ANSWER}</answer>") == [H, C, O]
    assert named(f"[REASONING]{DRAFT}[/REASONING][ANSWER]{ANSWER}") == [H, C, O]
    assert named(f"{ANSWER}<answer></answer>") == [H, C, O]


def test_titles_in_brackets_are_no_marks() -> None:
    titles = ("[Think]", "Final <3", "[Reason]")
    assert named("[Reason]\n[Think]\nFinal <3", titles) == ["[Reason]", "[Think]", "Final <3"]


NEVER = """I do not watch films such as Titanic.
I don't watch movies like Titanic.
I have no opinion about Titanic.
I am not familiar with Titanic.
I never recommend movies such as Titanic.
Titanic is not something I can rank.
Sorry, I lack the ability to judge films such as Titanic.
Without more information about the user, ranking Titanic is impossible.
You should not watch Titanic.
I'm unfamiliar with films such as Titanic
No, not Titanic.
Titanic isn't for this user.
Nobody should watch Titanic.
Avoid Titanic.
I know nothing about Titanic.
The user would hate Titanic."""
ANYWAY = """I would recommend Titanic.
You can't go wrong with Titanic.
Do not miss Titanic.
If you do not mind long films, watch Titanic.
I do not hesitate: Titanic.
No doubt, Titanic.
Why not Titanic?
Not only Titanic is great.
Nothing beats Titanic.
Titanic is not to be missed.
I think Titanic is best, not Alien.
They have not seen Titanic yet, so it is my first choice.
Next, the user will watch Titanic, although he does not like romance."""


@pytest.mark.parametrize("said", NEVER.split("\n"))
def test_a_title_that_is_only_refused_is_not_named(said: str) -> None:
    assert named(said, ["Alien (1979)", "Titanic", "No Country for Old Men"]) == []


@pytest.mark.parametrize("said", ANYWAY.split("\n"))
def test_a_title_beside_a_refusal_is_named(said: str) -> None:
    assert named(said, ["Alien", "Titanic", "No Country for Old Men"]) == ["Titanic"]


@pytest.mark.parametrize("title", ["No Country for Old Men", "Never Say Never Again"])
def test_the_words_of_a_title_refuse_nothing(title: str) -> None:
    assert named(f"I would watch {title}.", ["Alien", title]) == [title]
    lead = "You can't go wrong with these:\n1. Alien\n2. "
    assert named(lead + title, [title, "Alien"]) == ["Alien", title]


class Planner:
    """A model that puts its thoughts into marks of its own."""

    id = "planner"
    context_length = 100_000
    capabilities: frozenset[str] = frozenset()

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        text = "§plan 1\n2\n3 plan§ 3\n2\n1"
        return [Reply(text, prompt_tokens=1, completion_tokens=1) for _ in requests]


def test_custom_marks_of_thoughts_are_an_option() -> None:
    marks = [("§plan", "plan§")]
    assert parse_ranking("§plan 1\n2 plan§ 2\n1", SHOWN, thinking=marks).order[:2] == (1, 0)
    assert parse_ranking("§PLAN 1\n2", SHOWN, thinking=marks).named == 0
    env = RPPEnv.make("movieworld", Planner(), max_users=2, num_users=300, thinking=marks)
    assert isinstance(env.recommender, LLMRecommender)
    env.reset(seed=0)
    step = env.step([[0, 0, 0, 0]] * env.num_envs)
    assert [ranking.order[:3] for ranking in step.rankings] == [(2, 1, 0)] * env.num_envs
    table = tabulate(env)
    assert table.provenance["thinking"] == [["§plan", "plan§"]]
    plain = RPPEnv.make("movieworld", Planner(), max_users=2, num_users=300)
    assert "thinking" not in tabulate(plain).provenance
    for wrong in ("§plan", [("§plan",)], [("", "plan§")], [3]):
        with pytest.raises(InvalidOption, match="thinking"):
            LLMRecommender(Planner(), thinking=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=r"thinking.* are for language models; a recommender"):
        RPPEnv.make("movieworld", env.recommender, num_users=300, thinking=marks)


# The measure -----------------------------------------------------------------------------------

WORLD = load_dataset("movieworld").titles


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(list(FORMS)),
    st.sampled_from(list(LABELS)),
    st.sampled_from(list(WRAPPINGS)),
    st.lists(st.sampled_from(WORLD), min_size=3, max_size=20, unique=True),
    st.randoms(use_true_random=False),
)
def test_rankings_in_any_form_are_read_back(
    form: str, label: str, wrapping: str, shown: list[str], random: object
) -> None:
    order = list(range(len(shown)))
    random.shuffle(order)  # type: ignore[attr-defined]
    if form in ("3 - why", "3: why") and any(b - a == 1 for a, b in pairwise(order)):
        order.sort(key=lambda place: (place % 2, -place))  # numbers that count up are ranks
    reply = write_form(order, shown, form, label=label, wrapping=wrapping)
    assert parse_order(reply, tuple(shown)) == (tuple(order), len(shown)), reply


def test_every_form_is_read_over_the_titles_of_movieworld() -> None:
    shares = measure_reading(WORLD, replies=20)
    low = {key: shares.missed[key] for key in shares.replies if shares.share(*key) < 0.99}
    assert low == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ml-1m", "lastfm"])
def test_every_form_is_read_over_real_titles(name: str) -> None:
    try:
        titles = load_dataset(name).titles
    except UnknownDataset:
        pytest.skip(f"{name} is not there")
    shares = measure_reading(titles, replies=40)
    assert shares.total > 0.995
    low = {key: shares.missed[key] for key in shares.replies if shares.share(*key) < 0.95}
    assert low == {}


def test_the_measure_shows_a_first_choice_that_is_lost() -> None:
    def loses_labels(reply: str, candidates: tuple[str, ...]) -> tuple[tuple[int, ...], int]:
        order, count = parse_order(reply, candidates)
        lost = reply.startswith("Ranking: ")
        return (*order[1:], order[0])[: len(order)] if lost else order, count - lost

    shares = measure_reading(WORLD, replies=10, parse=loses_labels)
    assert shares.share("label", "Ranking:") < 0.5 < shares.share("label", "none")
    assert shares.missed["label", "Ranking:"][1] == "Ranking:"
    assert 0.5 < shares.total < 1


def test_the_measure_is_reported_and_saved(tmp_path: Path) -> None:
    shares = measure_reading(WORLD, replies=1, candidates=5)
    text = shares.markdown()
    assert text.count("| replies") == 3
    assert "\n| 1. title " in text
    assert text.endswith(f"Share of all forms: {shares.total:.4f}.\n")
    shares.save(tmp_path / "shares.json")
    saved = json.loads((tmp_path / "shares.json").read_text())
    assert set(saved) == {"form", "label", "wrapping"}
    assert set(saved["form"]) == set(FORMS)
    assert saved["form"]["1. title"] == {"replies": 1, "exact": 1}


def test_the_same_seed_draws_the_same_replies() -> None:
    def keep(into: list[str]) -> list[str]:
        def parse(reply: str, candidates: tuple[str, ...]) -> tuple[tuple[int, ...], int]:
            into.append(reply)
            return parse_order(reply, candidates)

        measure_reading(WORLD, replies=1, seed=3, parse=parse)
        return into

    assert keep([]) == keep([])


def test_unmeasurable_cases_are_reported() -> None:
    with pytest.raises(InvalidOption, match="at most the 4 titles, not 20"):
        measure_reading(["a", "b", "c", "d"])
    with pytest.raises(InvalidOption, match="replies must be at least 1, not 0"):
        measure_reading(WORLD, replies=0)
    with pytest.raises(
        InvalidOption, match="form '1, titel' is not known; did you mean '1, title'"
    ):
        write_form([0], ["a"], "1, titel")
    with pytest.raises(InvalidOption, match="label"):
        write_form([0], ["a"], "title", label="no")
    with pytest.raises(InvalidOption, match="wrapping"):
        write_form([0], ["a"], "title", wrapping="no")
