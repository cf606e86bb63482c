"""Explanations by a template: what they say, what they read, and metrics of texts."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from rpp_env.data import load_dataset
from rpp_env.data.explanations import TEMPLATES, Explainer, surrogate, text_scores
from rpp_env.errors import InvalidOption, MissingExtra

MADE = Explainer(
    titles=("the owl", "a fox of war", "cat", "dog"),
    genres=(("drama", "war"), ("war",), ("comedy",), ()),
)
WANTED = [
    "because you liked the owl which is drama too",
    "it is war and unlike what you chose before",
]
FOUND = ["because you liked a fox which is drama too", "it is war"]


def test_the_latest_item_of_a_shared_genre_explains_a_choice() -> None:
    assert MADE.reference([0, 1, 2], 0) == "because you liked a fox of war which is war too"
    assert MADE.reference([1, 0, 2], 0) == "because you liked the owl which is drama too"
    assert MADE.reference([2], 0) == "it is drama and unlike what you chose before"
    assert MADE.reference([0, 1], 3) == "it is different and unlike what you chose before"
    assert MADE.reference([], 1) == "it is war and unlike what you chose before"
    # The baseline does not look for a shared genre.
    assert MADE.copied([1, 2], 0) == "because you liked cat which is drama too"
    assert MADE.copied([], 2) == "it is comedy and unlike what you chose before"


def test_words_of_titles_and_genres_are_plain_and_no_sequence_is_read() -> None:
    data = load_dataset("movieworld", num_users=30, num_items=100)
    made = Explainer.of(data)
    assert made == Explainer.of(replace(data, items=data.items[::-1].copy()))
    for text in (*made.titles, *(genre for some in made.genres for genre in some)):
        assert text
        assert all(word.isalpha() and word == word.lower() for word in text.split())
    assert {"because", "liked", "different"} <= set(made.words)
    assert not [word for word in made.words if "{" in word]
    assert set(TEMPLATES) == {"shared", "new"}


def overlap(found: str, wanted: str, n: int) -> tuple[int, int, int]:
    """Number of n-grams in common, in the text, and in the reference."""
    grams = [
        Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        for words in (found.split(), wanted.split())
    ]
    return sum((grams[0] & grams[1]).values()), grams[0].total(), grams[1].total()


def test_scores_are_bleu_and_rouge_by_hand() -> None:
    pytest.importorskip("torchmetrics")
    scores = text_scores(FOUND, WANTED)
    counts = {
        n: np.array([overlap(*pair, n) for pair in zip(FOUND, WANTED, strict=True)])
        for n in (1, 2, 3, 4)
    }
    precisions = {n: some[:, 0].sum() / max(some[:, 1].sum(), 1) for n, some in counts.items()}
    lengths = [sum(len(text.split()) for text in texts) for texts in (FOUND, WANTED)]
    brevity = np.exp(1 - lengths[1] / lengths[0])
    assert scores["BLEU-1"] == pytest.approx(100 * brevity * precisions[1], rel=1e-5)
    four = brevity * np.prod(list(precisions.values())) ** 0.25
    assert scores["BLEU-4"] == pytest.approx(100 * four, rel=1e-5)
    for n in (1, 2):
        f1 = (2 * counts[n][:, 0] / (counts[n][:, 1] + counts[n][:, 2])).mean()
        assert scores[f"ROUGE-{n}"] == pytest.approx(100 * f1, rel=1e-5)
    # In common in order: "because you liked ... which is drama too", and "it is war".
    longest = np.mean([2 * 7 / (9 + 9), 2 * 3 / (3 + 9)])
    assert scores["ROUGE-L"] == pytest.approx(100 * longest, rel=1e-5)


def test_the_surrogate_is_bleu_4_and_a_tenth_of_rouge_l_of_each_text() -> None:
    pytest.importorskip("torchmetrics")
    found = surrogate([WANTED[0], *FOUND], [WANTED[0], *WANTED])
    assert found[0] == pytest.approx(110)
    for text, own, value in zip(FOUND, WANTED, found[1:], strict=True):
        alone = text_scores([text], [own])
        assert value == pytest.approx(alone["BLEU-4"] + 0.1 * alone["ROUGE-L"])
    assert found[2] == pytest.approx(5)  # no four words in a row
    assert surrogate([""], WANTED[:1]).tolist() == [0]  # silence earns nothing
    assert text_scores(WANTED, WANTED) == pytest.approx(
        dict.fromkeys(text_scores(FOUND, WANTED), 100)
    )


def test_bad_texts_and_a_missing_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, wanted in ((FOUND, WANTED[:1]), ([], [])):
        with pytest.raises(InvalidOption, match="texts came with"):
            text_scores(found, wanted)
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.text", None)
    with pytest.raises(MissingExtra, match=r"rpp-env\[explanation\]"):
        surrogate(FOUND, WANTED)
