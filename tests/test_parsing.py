# ruff: noqa: RUF001 - replies hold curly quotes, so they stand here
from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rpp_env.errors import InvalidOption
from rpp_env.sentences.parsing import FORMATS, lines, lists, parse_ranking, reader, write_ranking
from rpp_env.sentences.parsing.formats import read_nearly_exactly
from rpp_env.sentences.parsing.lists import read_leniently
from rpp_env.sentences.parsing.titles import (
    _keys_of,
    _phrases_of,
    _vague_keys_of,
    key_of,
    places_of,
    titles_of,
)
from rpp_env.task import Ranking

FILMS = (
    "Alien",
    "Alien 3",
    "The Matrix",
    "12 Angry Men",
    "1984",
    "300",
    "2012",
    "3 Ninjas",
    "Amélie",
    "Schindler's List",
    "The Good, the Bad and the Ugly",
    "Star Wars: Episode IV - A New Hope",
    "Rocky III",
    "Up",
    "It",
    "9",
    "[REC]",
    "Rock 'n' Roll High School",
    "Wall-E",
    "Hamlet (1996)",
)


def shuffled(count: int) -> list[int]:
    return [(7 * i + 3) % count for i in range(count)]


def named(reply: str, candidates: tuple[str, ...] = FILMS) -> list[str]:
    ranking = parse_ranking(reply, candidates)
    assert sorted(ranking.order) == list(range(len(candidates)))
    assert ranking.text == ""
    rest = ranking.order[ranking.named :]
    assert list(rest) == sorted(rest)
    return [candidates[i] for i in ranking.order[: ranking.named]]


# Each case: the reply, and the titles that it names in order. Kept by what it is an example of.
CASES = {
    # the five formats, exactly and nearly
    "numbered": ("1. Up\n2. Alien\n3. 1984", ["Up", "Alien", "1984"]),
    "bare": ("Up\nAlien\n1984", ["Up", "Alien", "1984"]),
    "numbers": ("14\n1\n5", ["Up", "Alien", "1984"]),
    "json": ('["Up", "Alien", "1984"]', ["Up", "Alien", "1984"]),
    "template": ("1 | Up\n2 | Alien\n3 | 1984", ["Up", "Alien", "1984"]),
    "windows line ends": ("1. Up\r\n2. Alien\r\n3. 1984", ["Up", "Alien", "1984"]),
    "other rank signs": ("1) Up\n(2) Alien\n#3: It\nRank 4: 300", ["Up", "Alien", "It", "300"]),
    "rank without a sign": ("1 Up\n2 12 Angry Men\n3 It", ["Up", "12 Angry Men", "It"]),
    "always rank 1": ("1. Up\n1. Alien\n1. It", ["Up", "Alien", "It"]),
    "candidate numbers as ranks": ("5. 1984\n3. The Matrix\n1. Alien\n2. Alien 3", None),
    "table": ("| Rank | Title |\n|---|---|\n| 1 | Up |\n| 2 | It |", ["Up", "It"]),
    "placeholders kept": ("<1>. <Up>\n<2>. <It>", ["Up", "It"]),
    "labels": ("1. Title: Up\n2. Title: It", ["Up", "It"]),
    "nothing": ("", []),
    "refusal": ("I am sorry, but I cannot rank these.", []),
    "refusal that begins a title": ("Star", []),
    # one line
    "greater than": ("Up > Alien 3 > Alien > Wall-E", ["Up", "Alien 3", "Alien", "Wall-E"]),
    "commas": (
        "The Good, the Bad and the Ugly, Alien, Up and It",
        ["The Good, the Bad and the Ugly", "Alien", "Up", "It"],
    ),
    "semicolons": ("Up; 300; It", ["Up", "300", "It"]),
    "bars": ("Up | It | Alien", ["Up", "It", "Alien"]),
    "dashes": ("Up - It - Alien", ["Up", "It", "Alien"]),
    "ranks in one line": ("1. Up 2. Alien 3. It", ["Up", "Alien", "It"]),
    "years in a line": ("Up (1984), It (2012), Alien (1979)", ["Up", "It", "Alien"]),
    "brackets": ("[Up, It, Alien]", ["Up", "It", "Alien"]),
    "preamble in the line": ("My ranking: Up > It > Alien.", ["Up", "It", "Alien"]),
    "afterword in the line": ("Up > It > Alien, since you like Up", ["Up", "It", "Alien"]),
    "invented in the line": ("Up > Some Film > It > 300", ["Up", "It", "300"]),
    "over two lines": ("Up > Alien >\nIt > 300", ["Up", "Alien", "It", "300"]),
    # candidate numbers
    "index brackets": ("[3] > [1] > [14]", ["The Matrix", "Alien", "Up"]),
    "index commas": ("3, 1, 2", ["The Matrix", "Alien", "Alien 3"]),
    "index preamble": ("Answer: 3, 1, 2.", ["The Matrix", "Alien", "Alien 3"]),
    "index sentence": ("I rank them 3, 1 and 2", ["The Matrix", "Alien", "Alien 3"]),
    "index words": ("Candidate 3\n**Candidate 1**\n- candidate #2", None),
    "index words, one line": ("Candidate 3 > Candidate 1", ["The Matrix", "Alien"]),
    "index behind ranks": ("1. 3\n2. [1]\n3. Candidate 2", ["The Matrix", "Alien", "Alien 3"]),
    "index and title": ("[3] The Matrix\n[1] Alien", ["The Matrix", "Alien"]),
    "rank, index and title": ("1. [3] The Matrix\n2. [1] Alien", ["The Matrix", "Alien"]),
    "index out of range": ("3\n0\n21\n1\n99999999", ["The Matrix", "Alien"]),
    "index with stops": ("3.\n1.\n2.", ["The Matrix", "Alien", "Alien 3"]),
    # JSON
    "json numbers": ("[3, 1, 2]", ["The Matrix", "Alien", "Alien 3"]),
    "json numbers as texts": ('["3", "1"]', ["The Matrix", "Alien"]),
    "json fenced": ('Sure!\n```json\n[\n  "Up",\n  "It"\n]\n```\nEnjoy!', ["Up", "It"]),
    "json cut off": ('```json\n["Up", "It", "Star Wars: Epis', None),
    "json escapes": (r'["Am\u00e9lie", "Up", "\"It\""]', ["Amélie", "Up", "It"]),
    "json object": ('{"ranking": ["Up", "It"]}', ["Up", "It"]),
    "json ranks as keys": ('{"1": "Up", "2": "It"}', ["Up", "It"]),
    "json list of objects": (
        '[{"rank": 1, "title": "Up"}, {"rank": 2, "title": "It"}]',
        ["Up", "It"],
    ),
    "json repeated": ('["Up", "Up", "It"]', ["Up", "It"]),
    "json too deep": ("[" * 5000 + "]", []),
    "json of other things": ("[[1], {}, null]", []),
    "python list": ("['Up', \"Schindler's List\", 'It']", ["Up", "Schindler's List", "It"]),
    # Markdown and typography
    "bold": ("1. **Up**\n2. **Alien** - fine\n**3.** It", ["Up", "Alien", "It"]),
    "italic and code": ("*Up*\n_Alien_\n`It`", ["Up", "Alien", "It"]),
    "bullets": ("- Up\n* **Alien**: good\n• It", ["Up", "Alien", "It"]),
    "headings": ("## 1. Up\nA kind film.\n## 2. It\nA film.", ["Up", "It"]),
    "quotes": ("\"Up\"\n'Alien'\n“It”\n‘Schindler’s List’", None),
    "html": ("Schindler&#39;s List<br>Up", ["Schindler's List", "Up"]),
    "answer tags": ("<answer>1. Up\n2. It</answer>", ["Up", "It"]),
    "other case": ("ALIEN\nthe matrix\nwall-e", ["Alien", "The Matrix", "Wall-E"]),
    "accents": ("1. Amelie\n2. Álien", ["Amélie", "Alien"]),
    "articles": ("1. Matrix, The\n2. Good, the Bad and the Ugly, The\n3. The Alien", None),
    "years": ("1. Alien (1979)\n2. The Matrix [1999], a classic", ["Alien", "The Matrix"]),
    "own year": ("Hamlet (1996)\nUp", ["Hamlet (1996)", "Up"]),
    "year left out": ("1. Hamlet\n2. Up", ["Hamlet (1996)", "Up"]),
    "other year": ("1. Hamlet (1948)\n2. Up", ["Up"]),
    "year is no title": ("Alien (1984)\nUp (2012)", ["Alien", "Up"]),
    "subtitle left out": ("1. Star Wars\n2. Up", ["Star Wars: Episode IV - A New Hope", "Up"]),
    # titles in titles, titles with digits
    "title in title": ("1. Alien 3\n2. Alien", ["Alien 3", "Alien"]),
    "numeric titles numbered": ("1. 1984\n2. 300\n3. 9\n4. 12 Angry Men\n5. 3 Ninjas", None),
    "numeric titles bare": ("300\n12 Angry Men\n9\n3 Ninjas", None),
    "numeric titles in a line": ("1984, 300, 2012", ["1984", "300", "2012"]),
    "a number among numbers": ("9\n3\n1", ["Amélie", "The Matrix", "Alien"]),
    "a number in quotes": ('"9"\n"3 Ninjas"', ["9", "3 Ninjas"]),
    "a number that only a title can be": ("9\n1984\n300", ["9", "1984", "300"]),
    # repeated, invented, misspelt, cut off
    "repeated": ("1. Up\n2. It\n3. Up\n4. Alien", ["Up", "It", "Alien"]),
    "repeated, bare, behind an invented one": ("Up\nSome Film\nUp\nIt", ["Up", "It"]),
    "invented sequel": ("1. Alien: Covenant\n2. Up\n3. Alien Resurrection\n4. Alien", None),
    "misspelt": ("1. Schindlers Lst\n2. The Matirx\n3. Up", None),
    "other number": ("1. Rocky II\n2. Rocky\n3. Alien 4\n4. Up", ["Up"]),
    "cut off": ("1. Up\n2. It\n3. Star Wars: Epi", None),
    "cut off behind the rank": ("1. Up\n2. It\n3.", ["Up", "It"]),
    # text around
    "preamble and afterword": (
        "Here is my ranking:\n\n1. Up\n2. It\n3. Alien\n\nI put Alien last because it is old.",
        ["Up", "It", "Alien"],
    ),
    "thinking in tags": ("<think>1. It\n2. Up\n3. Alien</think>1. Up\n2. It", ["Up", "It"]),
    "thinking cut off": ("<think>Alien would suit, then Up", []),
    "thinking in prose": (
        "The user liked Alien and Up.\nAlien, Up and It look best.\n\nUp\nIt\nAlien\n300",
        ["Up", "It", "Alien", "300"],
    ),
    "thinking in bullets": ("- Alien: old\n- Up: kind\n\nRanking:\n\nUp\nAlien", ["Up", "Alien"]),
    "thinking in steps": ("1. I look at Alien.\n2. Then Up.\n\nSo:\n1. Up\n2. Alien", None),
    "draft and refined": ("1. Up\n2. It\n3. 300\n\nChecked:\n1. 300\n2. It\n3. Up", None),
    "refined is cut off": ("1. Up\n2. It\n3. 300\n\nChecked:\n1. 300\n2. Up", ["300", "Up"]),
    "draft and refined, bare": ("Up\nIt\n300\n\n**Refined:**\n300\nIt\nUp", ["300", "It", "Up"]),
    "echo, then numbers": ("1. Alien\n2. Alien 3\n3. The Matrix\n\nRanking: 3, 1, 2", None),
    "reasons behind": ("1. Up\n2. It\n3. 300\n4. 9\n\nWhy:\n- It: fun\n- Up: kind", None),
    "a list in an afterword": ("Up\nIt\n300\n\nI took 300, It and Up.", ["Up", "It", "300"]),
    "reasons between": ("1. Up\nA kind film.\n2. It\nDark.\n3. 300\nLoud.", ["Up", "It", "300"]),
    "two parts": ("Best:\n1. Up\n2. It\n\nThe rest:\n3. 300\n4. Up\n5. 9", None),
    "mentions only": ("I would say Alien, if you ask.\nAfter it The Matrix.", None),
    "short words are no mentions": ("It is up to you, I think.", []),
    "emphasised mention": ("I recommend **Up** to you.", ["Up"]),
}
EXPECTED = {
    "candidate numbers as ranks": ["1984", "The Matrix", "Alien", "Alien 3"],
    "index words": ["The Matrix", "Alien", "Alien 3"],
    "json cut off": ["Up", "It", "Star Wars: Episode IV - A New Hope"],
    "quotes": ["Up", "Alien", "It", "Schindler's List"],
    "articles": ["The Matrix", "The Good, the Bad and the Ugly", "Alien"],
    "numeric titles numbered": ["1984", "300", "9", "12 Angry Men", "3 Ninjas"],
    "numeric titles bare": ["300", "12 Angry Men", "9", "3 Ninjas"],
    "invented sequel": ["Up", "Alien"],
    "misspelt": ["Schindler's List", "The Matrix", "Up"],
    "cut off": ["Up", "It", "Star Wars: Episode IV - A New Hope"],
    "thinking in steps": ["Up", "Alien"],
    "draft and refined": ["300", "It", "Up"],
    "echo, then numbers": ["The Matrix", "Alien", "Alien 3"],
    "reasons behind": ["Up", "It", "300", "9"],
    "two parts": ["Up", "It", "300", "9"],
    "mentions only": ["Alien", "The Matrix"],
}


@pytest.mark.parametrize("case", CASES)
def test_replies_and_the_rankings_that_they_name(case: str) -> None:
    reply, expected = CASES[case]
    assert named(reply) == (EXPECTED[case] if expected is None else expected)


@pytest.mark.parametrize("form", FORMATS)
def test_a_list_cut_off_anywhere_names_a_prefix(form: str) -> None:
    order = shuffled(len(FILMS))
    reply = write_ranking(order, FILMS, form)
    titles = [FILMS[i] for i in order]
    whole_lines = reply.split("\n")[:12]
    got = named("\n".join(whole_lines))
    assert got == titles[: len(got)]
    assert len(got) >= 11
    for end in range(len(reply)):
        # The line that was cut may name nothing, or, when numbers are cut, another candidate.
        complete = reply[:end].count("\n") - (form == "json")
        if complete > 1:
            assert named(reply[:end])[:complete] == titles[:complete]


@pytest.mark.parametrize("ending", ["", "\n", "\n\nEnjoy!", "\n```"])
@pytest.mark.parametrize("beginning", ["", "\n", "Sure, here it is:\n\n", "```\n"])
@pytest.mark.parametrize("form", FORMATS)
def test_words_around_a_list_change_nothing(form: str, beginning: str, ending: str) -> None:
    titles = tuple(title for title in FILMS if title not in ("9", "It"))
    order = shuffled(len(titles))
    reply = beginning + write_ranking(order, titles, form) + ending
    assert parse_ranking(reply, titles) == Ranking(tuple(order), len(titles))


def test_exact_titles_come_before_folded_ones() -> None:
    candidates = ("alien", "Alien!", "Alien", "Álien")
    assert named("1. Álien\n2. Alien\n3. Alien!\n4. alien", candidates) == [
        "Álien",
        "Alien",
        "Alien!",
        "alien",
    ]
    assert named("1. Matrix, The\n2. **Matrix**", ("Matrix", "The Matrix")) == [
        "The Matrix",
        "Matrix",
    ]
    assert named("*The Matrix*\n*Matrix*", ("Matrix", "Matrix, The")) == ["Matrix, The", "Matrix"]
    # What fits several equally well names none of them.
    assert named("**ALIEN**", candidates) == []


def test_a_title_that_looks_like_a_line_of_a_list() -> None:
    candidates = ("1. A", "A", "1 | A", "- A")
    assert named("1. A", candidates) == ["1. A"]
    assert named("1. A\n2. 1. A\n3. - A\n4. 1 | A", candidates) == ["A", "1. A", "- A", "1 | A"]


def test_titles_that_look_like_numbers_and_ranks() -> None:
    candidates = ("301, 302", "54", "1994!", "Rank 1", "1 Giant Leap", "Ninjas", "3 Ninjas")
    assert named("1. **301, 302**\n2. **1994!**\n3. **Rank 1**\n4. Up", candidates) == [
        "301, 302",
        "1994!",
        "Rank 1",
    ]
    assert named("- 54: a night club\n- 1 Giant Leap: a band", candidates) == ["54", "1 Giant Leap"]
    assert named("1. 54\n2. 3 Ninjas\n3. Ninjas", candidates) == ["54", "3 Ninjas", "Ninjas"]
    assert named("3. *Ninjas*\n4. *3 Ninjas*", candidates) == ["Ninjas", "3 Ninjas"]


def test_titles_that_could_all_be_candidate_numbers() -> None:
    candidates = ("2", "1", "3")
    assert parse_ranking("3\n1\n2", candidates).order == (2, 0, 1)
    assert write_ranking([2, 0, 1], candidates, "bare") == '"3"\n"2"\n"1"'
    assert write_ranking([2, 0], ("2", "1", "4"), "bare") == "4\n2"


def test_no_candidates_and_no_reply() -> None:
    assert parse_ranking("1. Up", ()) == Ranking((), 0)
    assert parse_ranking("", ["A", "B"]) == Ranking((0, 1), 0)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidOption, match="numbered, bare, numbers, json, template, not 'xml'"):
        write_ranking([0], ["A"], "xml")


def test_the_fast_way_and_the_slow_way_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    order = shuffled(len(FILMS))
    replies = [write_ranking(order, FILMS, form) for form in FORMATS]
    fast = [parse_ranking(reply, FILMS) for reply in replies]
    monkeypatch.setattr(reader, "read_exactly", lambda *_: None)
    monkeypatch.setattr(reader, "read_nearly_exactly", lambda *_: None)
    assert [parse_ranking(reply, FILMS) for reply in replies] == fast


@pytest.mark.parametrize("form", FORMATS)
def test_a_preamble_or_a_cut_is_read_as_it_would_be_line_by_line(form: str) -> None:
    titles = titles_of(FILMS)
    whole = write_ranking(shuffled(len(FILMS)), FILMS, form)
    heads = ("", "Sure!\n\n", "I liked Alien, Up and It.\nHere you are:\n", "It.\n", "3, 1, 2.\n")
    replies = [head + whole[:cut] for head in heads for cut in range(1, len(whole) + 1)]
    quick = 0
    for reply in map(str.strip, replies):
        order = read_nearly_exactly(reply, FILMS)
        if order is not None:
            quick += 1
            assert order == read_leniently(reply, titles), reply
    if form in ("numbered", "template"):
        assert quick > len(replies) / 3
    assert named(f"Sure:\n{whole}") == [FILMS[i] for i in shuffled(len(FILMS))]


# Properties ------------------------------------------------------------------------------------

_PIECES = ["A", "B", "1. A", "1 | A", '"A",', "[", "]", '["A"]', "A, B", "A > B", "1", "2", "3"]
_PIECES += ["10", "[1]", "1984", "<think>", "</think>", "```", "Candidate 2", "The A", "A, The"]
_PIECES += ["1.", "- A", "* A", "12 Angry Men", "\ufeff", "\ud800", "é", "e\u0301", "\\", "&amp;"]
titles = (
    st.one_of(
        st.text(min_size=1, max_size=20),
        st.text(
            st.sampled_from(" \"'.,|[]{}()0123456789abAB>-*#`\\:;_/“”’&<>\u2028\x85the"),
            max_size=12,
        ),
        st.lists(st.sampled_from(_PIECES), min_size=1, max_size=3).map(" ".join),
    )
    .map(str.strip)
    .filter(lambda title: len(title.splitlines()) == 1)
)
title_lists = st.lists(titles, min_size=1, max_size=8, unique_by=str.casefold)
rankings = title_lists.flatmap(
    lambda candidates: st.tuples(st.just(candidates), st.permutations(range(len(candidates))))
)
replies = st.one_of(
    st.text(),
    st.lists(
        st.one_of(
            titles, st.sampled_from(["\n", "\n\n", " > ", ", ", "1. ", "2. ", "[", '"', "3"])
        ),
        max_size=30,
    ).map("".join),
)


@settings(deadline=None, max_examples=300)
@given(rankings)
@example((["2", "1"], [0, 1]))
@example((["1. A", "A"], [1, 0]))
@example((["[", "]", '"'], [2, 0, 1]))
def test_written_rankings_are_read_back(ranking: tuple[list[str], list[int]]) -> None:
    candidates, order = ranking
    for form in FORMATS:
        reply = write_ranking(order, candidates, form)
        assert parse_ranking(reply, candidates) == Ranking(tuple(order), len(order)), form


@settings(deadline=None, max_examples=300)
@given(replies, title_lists)
def test_any_text_at_all_gives_a_ranking(reply: str, candidates: list[str]) -> None:
    ranking = parse_ranking(reply, candidates)
    assert sorted(ranking.order) == list(range(len(candidates)))
    assert parse_ranking(reply, candidates) == ranking


# Hostile replies -------------------------------------------------------------------------------

HOSTILE = {
    "letters": "x",
    "words": "a ",
    "short lines": "a\n",
    "empty lines": "\n",
    "article": "the ",
    "opening brackets": "[",
    "opening lists": '["',
    "opening numbers": "[1,",
    "open quotes": "['a' ",
    "backslashes": "\\",
    "one-line list": "Alien > It > 300, ",
    "ranks": "1. 2. ",
    "numbers": "1, ",
    "colons": ":1",
    "misspelt lines": "The Matirx Reloded 3\n",
    "long misspelt lines": "Schindlers Lsit of the Rock and Roll High Scholl and so on\n",
    "entities": "&lt;",
    "thoughts": "<think>",
    "years": "(1999",
    "one character that folds into many": "ﷺ",
    "gaps": "Alien , . ",
    "bullets between sentences": "- a\nb.\n",
    "titles between sentences": "Up\nb.\n",
    "numbers between sentences": "3\nb.\n",
    "letters as ranks": "a) ",
    "labels": "Ranking: ",
    "numbered labels": "Answer: 1. ",
    "opening objects": '{"a": ',
    "open braces": "{rank: 1, ",
    "boxes": "\\boxed{",
    "comments": "[ # ",
    "users": "User:\n",
    "closing thoughts": "</think>",
    "thoughts of others": "[THINK]◁think▷",
    "tables": "|---|\n",
    "fields": "Rank: 1, Title: a, ",
    "circled digits": "①",
    "keycaps": "1️⃣",
    "signs of other scripts": "第1位：《",
    "fractions": "1/2 ",
    "digits": "1",
    "verbs": "Alien is ",
    "refusals": "cannot ",
    "links": "[a](http://x) ",
    "elements": "<a></a>",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_megabyte_of_anything_is_read_in_time(kind: str) -> None:
    piece = HOSTILE[kind]
    reply = piece * (1_000_000 // len(piece))
    candidates = (
        *FILMS,
        "a " * 58 + "b",
        "a " * 29 + "c",
        *(f"the the the {i}" for i in range(60)),
    )
    start = time.process_time()
    named(reply, candidates)
    # Under a second on a machine of its own. Anything quadratic would take minutes.
    assert time.process_time() - start < 20


def test_spelling_is_compared_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    closest = lists._closest

    def counted(key: str, left: dict[int, str], cut_off: bool) -> int | None:
        compared.append(len(left))
        return closest(key, left, cut_off)

    monkeypatch.setattr(lists, "_closest", counted)
    named("\n".join(f"{i}. Some misspelt tilte {i}" for i in range(1, 500)))
    # Each line is compared as a whole and without what may be a description.
    assert 0 < sum(compared) <= 2 * lists._COMPARISONS


def test_a_list_at_either_end_of_an_endless_reply_is_found() -> None:
    noise = "so it goes on and on, and nothing follows from it.\n" * 20_000
    ranking = "1. 300\n2. Alien 3\n3. Wall-E\n"
    assert named(ranking + noise) == ["300", "Alien 3", "Wall-E"]
    assert named(noise + ranking) == ["300", "Alien 3", "Wall-E"]


def test_caches_are_bounded() -> None:
    kept = (places_of, titles_of, key_of, _keys_of, _vague_keys_of, _phrases_of)
    for cache in (*kept, lists._numeric_words, lines._read_again):
        assert cache.cache_info().maxsize is not None
