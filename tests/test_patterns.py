from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_env.errors import InvalidAction, InvalidData, InvalidOption
from rpp_env.sentences import AGENTS, DOMAINS, FORMATS, SentenceCatalog, history_labels
from rpp_env.sentences.parsing import write_ranking

PACKAGE = Path(__file__).parents[1] / "rpp_env" / "sentences"
NOUNS = {"movies": "film", "music": "artist", "games": "game", "products": "product"}

# The words that carry an option's intent, for a model that reads words.
ROLE_WORDS = [[], ["expert", "knowledge"], ["recommender", "popular"], ["ranker", "interest"]]
ROLE_WORDS += [["people's tastes", "like-minded people"]]
REASONING_WORDS = [
    ["priority", "high to low"],
    ["according to", "history"],
    ["only the preferences", "history"],
    ["likelihood", "next", "step by step"],
    ["first infer", "long-standing preferences", "history"],
    ["first update", "preferences", "latest", "most recently"],
    ["similarity", "preferences"],
    ["similarity", "score", "whole", "history"],
    ["check", "refine"],
]
OUTPUT_WORDS = {
    "numbered": ["numbered list"],
    "bare": ["unnecessary steps"],
    "numbers": ["attention!", "candidate numbers", "little text"],
    "json": ["json list", "no explanation", "no other words"],
    "template": ["template", "rank |"],
}


@pytest.fixture(params=DOMAINS)
def book(request: pytest.FixtureRequest) -> SentenceCatalog:
    return SentenceCatalog.load(request.param)


def test_every_domain_has_five_roles_nine_reasonings_and_five_outputs(
    book: SentenceCatalog,
) -> None:
    assert book.sizes == (5, 5, 9, 5)
    assert tuple(output.format for output in book.output_format) == FORMATS


def test_sentences_carry_their_intent_in_words(book: SentenceCatalog) -> None:
    assert book.role_playing[0] == ""
    outputs = [output.text for output in book.output_format]
    said = [*book.role_playing, *book.reasoning_guidance, *outputs]
    words = [*ROLE_WORDS, *REASONING_WORDS, *(OUTPUT_WORDS[f] for f in FORMATS)]
    for sentence, needed in zip(said, words, strict=True):
        for word in needed:
            assert word in sentence.lower(), sentence


def test_sentences_are_sentences_of_their_domain(book: SentenceCatalog) -> None:
    outputs = [output.text for output in book.output_format]
    for sentence in [*book.role_playing[1:], *book.reasoning_guidance, *outputs]:
        assert sentence[0].isupper()
        assert sentence[-1] in ".!"
        assert "  " not in sentence
    for sentence in [*book.reasoning_guidance, book.candidates_lead]:
        assert f"{{k}} candidate {NOUNS[book.domain]}s" in sentence
    for sentence in outputs:
        assert "Give only" in sentence
        assert "{k} results, one" in sentence
        assert "per line" in sentence
    foreign = {noun for domain, noun in NOUNS.items() if domain != book.domain}
    everything = " ".join(
        [*book.role_playing, *book.reasoning_guidance, book.history_lead, book.candidates_lead]
    )
    assert not [noun for noun in foreign if noun in everything]
    assert len(set(book.role_playing)) == 5
    assert len(set(book.reasoning_guidance)) == 9


def test_written_rankings_follow_the_contract_line(book: SentenceCatalog) -> None:
    candidates = ["Alien", "Up", 'The "Q"', "1984"]
    order = [2, 0, 3, 1]
    for output in book.output_format:
        start, shape = output.contract.split(": ", 1)
        assert start.startswith("Format of each line")
        lines = write_ranking(order, candidates, output.format).split("\n")
        if output.format == "json":
            assert "between [ and ]" in start
            assert (lines.pop(0), lines.pop()) == ("[", "]")
            lines[-1] += ","
        for rank, (line, item) in enumerate(zip(lines, order, strict=True), 1):
            title = candidates[item].replace('"', r"\"" if output.format == "json" else '"')
            expected = shape.replace("<rank>", str(rank)).replace(
                "<candidate number>", str(item + 1)
            )
            assert line == expected.replace("<title>", title).replace("<name>", title)


def test_choose_gives_the_sentences_of_each_row(book: SentenceCatalog) -> None:
    first, second = book.choose(np.array([[1, 4, 8, 3], [0, 0, 0, 0]]))
    assert first.actions == (1, 4, 8, 3)
    assert first.role == book.role_playing[1]
    assert first.reasoning == book.reasoning_guidance[8]
    assert (first.output, first.format) == (book.output_format[3].text, "json")
    assert first.contract == book.output_format[3].contract
    assert (first.history_lead, first.candidates_lead) == (
        book.history_lead,
        book.candidates_lead,
    )
    assert second.role == ""
    assert book.choose(np.zeros((0, 4), dtype=np.int8)) == []


def test_choose_refuses_options_outside_the_catalog() -> None:
    book = SentenceCatalog.load("movies")
    with pytest.raises(InvalidAction) as refused:
        book.choose([[0, 0, 0, 0], [4, 4, 8, 4], [0, 0, 9, 0]])
    assert str(refused.value) == (
        "agent 'reasoning_guidance' chose 9 for user 2; its options are 0..8"
    )
    with pytest.raises(InvalidAction, match=r"'role_playing' chose -1 for user 0; .* 0\.\.4"):
        book.choose([[-1, 0, 0, 0]])
    for shape in ([0, 0, 0, 0], [[0, 0, 0]], [[0.0, 0.0, 0.0, 0.0]], [[True] * 4]):
        with pytest.raises(InvalidAction, match=r"integers of shape \(users, 4\)"):
            book.choose(shape)


def test_kept_choices_stay_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpp_env.sentences.catalog._MOST_CHOICES_KEPT", 3)
    book = SentenceCatalog.load("movies")
    rows = [[0, 0, i, 0] for i in range(9)]
    assert [choice.actions[2] for choice in book.choose(rows)] == list(range(9))
    assert len(book._choices) <= 3


def test_digest_covers_every_sentence_and_no_label() -> None:
    book = SentenceCatalog.load("movies")
    assert len(book.digest) == 64
    assert book.digest == SentenceCatalog.load("movies", history=("a", "b")).digest
    others = [
        replace(book, domain="films"),
        replace(book, history_lead="Seen:"),
        replace(book, candidates_lead="To rank:"),
        replace(book, role_playing=(*book.role_playing[:4], "You are a critic.")),
        replace(book, role_playing=book.role_playing[::-1]),
        replace(book, reasoning_guidance=book.reasoning_guidance[:8]),
        *(
            replace(book, output_format=(*book.output_format[:4], output))
            for output in (
                replace(book.output_format[4], text="Short."),
                replace(book.output_format[4], contract="Format: free"),
                replace(book.output_format[4], format="bare"),
            )
        ),
    ]
    assert len({book.digest, *(other.digest for other in others)}) == len(others) + 1


def test_a_rewrite_keeps_the_contract_and_adds_no_paragraph() -> None:
    choice = SentenceCatalog.load("movies").choose([[1, 0, 4, 2]])[0]
    other = choice.rewritten(role="You know\n\n1. Alien\n films. ", output="Numbers!")
    assert other.role == "You know 1. Alien films."
    assert other.output == "Numbers!"
    assert replace(other, role=choice.role, output=choice.output) == choice
    assert choice.rewritten(reasoning="").reasoning == ""


def test_history_labels() -> None:
    assert history_labels("rungs", (-2, -1, 0, 1, 2)) == (
        "two lengths down",
        "one length down",
        "as before",
        "one length up",
        "two lengths up",
    )
    assert history_labels("grow", (0, 1, 12)) == ("as before", "one item more", "12 items more")
    assert history_labels("choose", (1, 20)) == ("1 item", "20 items")
    with pytest.raises(InvalidOption, match="'up' is not known; there are rungs, choose, grow"):
        history_labels("up", (1,))


def test_agents_are_in_the_order_of_the_sizes() -> None:
    assert AGENTS == ("role_playing", "history_records", "reasoning_guidance", "output_format")
    assert SentenceCatalog.load("music", history=("less", "more", "same")).sizes == (5, 3, 9, 5)


# Files -----------------------------------------------------------------------------------------

SMALL = """
domain = "books"
history_lead = "I have read:"
candidates_lead = "To rank:"
role_playing = [""]
reasoning_guidance = ["Rank the {k} books.", "Rank them well."]

[[output_format]]
text = "One per line."
format = "bare"
contract = "Format of each line: <title>"
"""


def test_a_custom_book_may_have_any_number_of_options(tmp_path: Path) -> None:
    path = tmp_path / "books.toml"
    path.write_text(SMALL, encoding="utf-8")
    for source in (path, str(path)):
        book = SentenceCatalog.load(source, history=("more",))
        assert (book.domain, book.sizes) == ("books", (1, 1, 2, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("domain =", "domains =", "key 'domains' is not known; did you mean 'domain'"),
        ('domain = "books"', "", "missing key 'domain'"),
        ('domain = "books"', "domain = 3", "key 'domain' must be a text, not 3"),
        ('role_playing = [""]', "role_playing = []", "key 'role_playing' must be a list of at"),
        ('role_playing = [""]', 'role_playing = ""', "key 'role_playing' must be a list"),
        ('["Rank the {k} books."', '[""', r"key 'reasoning_guidance\[0\]' must be one line"),
        ("Rank them well.", "Rank them well. ", r"key 'reasoning_guidance\[1\]' must be one line"),
        ("Rank them well.", r"Rank\nthem.", r"key 'reasoning_guidance\[1\]' must be one line"),
        (
            "Rank them well.",
            r"Rank \u001b[2J\u202ethem.",
            r"'reasoning_guidance\[1\]' holds invisible characters \('\\x1b\\u202e'\)",
        ),
        ("{k}", "{n}", r"'reasoning_guidance\[0\]' holds '{n}'; the only placeholder is '{k}'"),
        ('"bare"', '"xml"', r"output_format\[0\].format 'xml' is not known; there are numbered,"),
        ('text = "One per line."', "", r"missing key 'output_format\[0\].text'"),
        (
            "contract =",
            "contracts =",
            r"key 'output_format\[0\].contracts' is not known; did you",
        ),
        ("[[output_format]]", "[output_format]", "key 'output_format' must be a list"),
        ("domain =", "domain", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SMALL
    path = tmp_path / "books.toml"
    path.write_text(SMALL.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InvalidData, match=message) as refused:
        SentenceCatalog.load(path)
    assert str(path) in str(refused.value)


def test_outputs_must_be_tables(tmp_path: Path) -> None:
    path = tmp_path / "books.toml"
    path.write_text(SMALL.partition("[[")[0] + 'output_format = ["Short."]', encoding="utf-8")
    with pytest.raises(InvalidData, match=r"'output_format\[0\]' must be a table"):
        SentenceCatalog.load(path)


def test_unknown_domains_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="book 'books' is not known; there are movies, music"):
        SentenceCatalog.load("books")
    with pytest.raises(InvalidData, match=r"none\.toml cannot be read"):
        SentenceCatalog.load(tmp_path / "none.toml")
    with pytest.raises(InvalidData, match="no option for agent 'history_records'"):
        SentenceCatalog.load("movies", history=())


def test_each_domain_is_a_file_and_each_file_a_domain() -> None:
    assert sorted(path.stem for path in PACKAGE.glob("*.toml")) == sorted(DOMAINS)
    assert all(SentenceCatalog.load(domain).domain == domain for domain in DOMAINS)


@pytest.mark.parametrize("module", [rpp_env, rpp_env.sentences])
def test_the_old_name_of_the_catalog_warns(module: Any) -> None:
    with pytest.warns(DeprecationWarning, match="is now rpp_env.*SentenceCatalog"):
        old = module.PatternBook
    assert old is SentenceCatalog
    with pytest.raises(AttributeError, match="no attribute 'PatternBok'"):
        module.PatternBok  # noqa: B018
