"""Titles are clean, unique and bounded in length."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpp_env.data.titles import MAX_LENGTH, clean_title, unique_titles
from rpp_env.errors import InvalidData


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Bird, The", "The Bird"),
        ("Owl, A", "A Owl"),
        ("Egg, An", "An Egg"),
        ("Nuits, Les", "Les Nuits"),
        ("Ombra, L'", "L'Ombra"),
        ("Bird, The (Uccello, Il)", "The Bird (Il Uccello)"),
        (
            "Nest (a.k.a. Bird's House, The) (Maison, La)",
            "Nest (a.k.a. The Bird's House) (La Maison)",
        ),
        ("Me, Myself and the Bird", "Me, Myself and the Bird"),
        ("Paris, Texas", "Paris, Texas"),
        ("Bird &amp; Egg", "Bird & Egg"),
        ("Bird &amp;amp; Egg", "Bird & Egg"),
        ("Bird&rsquo;s <b>E</b>gg<br/>Two", "Bird\u2019s Egg Two"),
        ("Egg <3 Bird", "Egg <3 Bird"),
        ("<Untitled>", "<Untitled>"),
        ("  Bird \t and\u3000\u00a0Egg\n", "Bird and Egg"),
        ("Cafe\u0301", "Café"),
        ("Bird\ue216\u200b", "Bird"),
        ("Bird\x07Egg", "Bird Egg"),
    ],
)
def test_clean_title(raw: str, clean: str) -> None:
    assert clean_title(raw) == clean


def test_articles_of_products_stay() -> None:
    assert clean_title("Vitamins C, A", articles=False) == "Vitamins C, A"


def test_equal_titles_are_distinguished_by_differing_properties() -> None:
    assert unique_titles(
        ["Owl", "owl", "Nest", "Nest", "Egg", "Egg", "Bird"],
        list("1234567"),
        years=["1990", "1991", "1990", "1990", "1990", "1990", "1990"],
        makers=["", "", "Ann", "Bob", "Ann", "Ann", ""],
    ) == (
        "Owl (1990)",
        "owl (1991)",
        "Nest (Ann)",
        "Nest (Bob)",
        "Egg (id 5)",
        "Egg (id 6)",
        "Bird",
    )


def test_a_mark_that_spells_another_title_is_distinguished() -> None:
    titles = unique_titles(["Owl", "Owl", "Owl (id 1)", "OWL (ID 2)"], ["1", "2", "3", "4"])
    assert len({t.casefold() for t in titles}) == 4


def test_ids_that_differ_in_case_only() -> None:
    titles = unique_titles(["Owl", "Owl"], ["a", "A"])
    assert len({t.casefold() for t in titles}) == 2


def test_nameless_items_are_called_after_their_id() -> None:
    assert unique_titles(["", "nan"], ["7", "8"]) == ("Untitled (7)", "Untitled (8)")


def test_long_titles_end_with_a_word() -> None:
    long = "feather " * 90
    (short,) = unique_titles([long.strip()], ["1"])
    assert len(short) <= MAX_LENGTH
    assert short.endswith("feather…")
    assert len(short) > MAX_LENGTH - 12
    pair = unique_titles([long + "red", long + "blue"], ["1", "2"])
    assert pair[0] != pair[1]
    assert max(map(len, pair)) <= MAX_LENGTH
    (endless,) = unique_titles(["x" * 683], ["1"])
    assert endless == "x" * (MAX_LENGTH - 1) + "…"


def test_equal_ids_are_refused() -> None:
    with pytest.raises(InvalidData, match="same id"):
        unique_titles(["a", "b"], ["1", "1"])


@given(
    st.lists(st.sampled_from(["Owl", "owl", "Owl (id 1)", "Owl (1990)", "", "e" * 130]), max_size=9)
)
def test_always_unique_and_short(titles: list[str]) -> None:
    years = [("1990", "", "1991")[i % 3] for i in range(len(titles))]
    made = unique_titles(titles, [str(i) for i in range(len(titles))], years=years)
    assert len(made) == len(titles)
    assert len({title.casefold() for title in made}) == len(titles)
    assert all(0 < len(title) <= MAX_LENGTH for title in made)


@given(st.text(max_size=60))
def test_clean_titles_are_one_visible_line_in_nfc(raw: str) -> None:
    title = clean_title(raw)
    assert title == " ".join(title.split())
    assert unicodedata.is_normalized("NFC", title)


@pytest.mark.parametrize(
    "name", ["ml-1m", "ml-100k", "ml-latest-small", "lastfm", "games", "beauty", "sports", "toys"]
)
def test_titles_of_real_datasets(real, name: str) -> None:
    titles = real(name).titles
    assert len({title.casefold() for title in titles}) == len(titles)
    assert max(map(len, titles)) <= MAX_LENGTH
    assert not [t for t in titles if t.endswith((", The", ", A", ", An", ", Les", ", La", ", Il"))]
    assert not [t for t in titles if "&amp;" in t or "<br" in t.lower() or t != clean_title(t)]
