"""Reports show others' text unchanged."""

from __future__ import annotations

import pytest

from rpp_env.markdown import code, table, unescaped, words

HOSTILE = [
    "a | b",
    "<script>alert(1)</script>",
    "&lt;b&gt;",
    "![x](http://127.0.0.1:9/pixel.png)",
    "[x]: http://127.0.0.1:9",
    "`code` and \\| both",
    "two\nlines\r\nthree",
    "\x1b[2Jgone\u202e",
    "QMIX [1]",
    "plain",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_words_become_no_markup(text: str) -> None:
    written = words(text)
    assert "\n" not in written
    assert "<" not in written
    assert "](" not in written.replace("\\]", "")
    assert written.replace("\\\\", "").replace("\\|", "").count("|") == 0
    rows = table([["name", "x"], [text, 1]]).split("\n")
    assert len(rows) == 3
    assert len({row.replace("\\\\", "").replace("\\|", "").count("|") for row in rows}) == 1
    if text.isprintable():
        assert unescaped(written) == text
    assert code(text).count("`") == 2


def test_plain_text_is_not_escaped() -> None:
    for text in ("QMIX [1]", "0.123 [-0.1, +0.2]", "best fixed, 5 merged", "A* (50%) $5 {}"):
        assert words(text) == text


def test_a_table_is_padded_or_not() -> None:
    rows = [["a", "NDCG@10"], ["longer", 0.5]]
    assert table(rows) == "| a      | NDCG@10 |\n|--------|--------:|\n| longer |     0.5 |"
    assert table(rows, padded=False) == "| a | NDCG@10 |\n|---|---:|\n| longer | 0.5 |"
