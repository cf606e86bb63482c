"""Text that enters (`plain`) and text that leaves for a terminal (`printable`)."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpp_env.sentences.parsing import parse_ranking
from rpp_env.text import (
    MAX_RAW,
    broken_up,
    plain,
    printable,
    template_words,
    without_markers,
    without_words,
)

ODD = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),  # DEL and C1, the 8-bit introducers of escape sequences among it
    *"\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d",
    *"\u202e\u2060\u2061\u2066\u2067\u2068\u2069\u3164\ufe00\ufeff\uffa0\ufff9\ue000\ud800\udfff",
    "\U000e0041",
    "\U000e0100",
    "\U000f0000",
]

MARKERS = [
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "<s>",
    "</s>",
    "<bos>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<\uff5cUser\uff5c>",
    "<start_of_turn>",
    "<end_of_turn>",
    "### Instruction:",
    "###Response:",
    "## Input",
    "[SYSTEM_PROMPT]",
    "[TOOL_CALLS]",
    "[inst]",
    "<think>",
    "</think>",
    "<tool_call>",
]


@pytest.mark.parametrize("odd", ODD, ids=lambda c: f"U+{ord(c):04X}")
def test_control_and_invisible_characters_are_removed(odd: str) -> None:
    for text in (f"The{odd}River", f"{odd}The River", f"The River{odd}", odd * 3):
        read = plain(text)
        assert odd not in read or odd == " "
        assert read == " ".join(read.split())
        read.encode()


def test_an_escape_sequence_stays_as_harmless_letters() -> None:
    assert plain("The \x1b[31mRed\x1b[0m River\r\n") == "The [31mRed [0m River"
    assert plain("a\x9b31mb") == "a 31mb"


@pytest.mark.parametrize(
    "text",
    [
        "Léon: The Professional",
        "\u0641\u06cc\u0644\u0645\u200c\u0647\u0627",  # Persian, with a joiner in it
        "क्\u200dष",
        "千と千尋の神隠し",
        "👨\u200d👩\u200d👧 Family",
        "I ❤\ufe0f Huckabees",
        "[REC]",
        "WALL·E",
        "#1 Cheerleader Camp",
        "<3",
        "Men & Women: A <Love> Story",
        "Superchic[k]",
    ],
)
def test_text_in_any_script_is_unchanged(text: str) -> None:
    assert plain(text) == unicodedata.normalize("NFC", text)


def test_joiners_hide_nothing_between_ascii_letters() -> None:
    assert plain("Al\u200di\u200cen\u200d") == "Alien"
    assert plain("\u200dé\u200d") == "é"


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("around", ["{}", "x{} y", "The {} River", "{} {}", "{}{}{}"])
def test_words_of_chat_templates_are_broken_up(marker: str, around: str) -> None:
    text = around.replace("{}", marker)
    read = plain(text)
    assert marker not in read
    assert read.replace(" ", "") == text.replace(" ", ""), "a blank is all that is added"
    assert without_markers(read) == read


def test_a_marker_that_hides_behind_a_zero_width_character_is_seen() -> None:
    assert plain("[IN\u200bST]") == "[ INST]"
    assert plain("<|im_\u2060start|>") == "< |im_start|>"


def test_broken_up() -> None:
    assert broken_up("</s>") == "< /s>"
    assert broken_up("USER:") == "USER :"


# What templates write before, between and after a system's, a user's and an assistant's message.
TEMPLATES = {
    "LLaMA-2": (
        ["<s>[INST] <<SYS>>\n", "\n<</SYS>>\n\n", " [/INST] ", " </s><s>[INST] ", " [/INST]"],
        {"<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"},
    ),
    "ChatML": (
        ["<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n"],
        {"<|im_start|>", "<|im_end|>"},
    ),
    "Alpaca": (
        ["", "\n\n### Instruction:\n", "\n\n### Response:\n"],
        {"### Instruction:", "### Response:"},
    ),
    "Vicuna": (
        ["A chat between a user and an assistant: ", " USER: ", " ASSISTANT: ", "</s>USER: "],
        {"USER:", "ASSISTANT:", "assistant:", "</s>"},
    ),
    "Gemma": (
        ["<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"],
        {"<bos>", "<start_of_turn>", "<end_of_turn>"},
    ),
    "Llama 3": (
        ["<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul\n\n"],
        {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"},
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_words_are_found_in_its_output(name: str) -> None:
    pieces, words = TEMPLATES[name]
    assert template_words(pieces) == words
    for word in words:
        assert word not in without_words(f"The {word} {word}Owl", words)
    kept = "Owl: a user, an assistant [REC] and <3 # 1"
    assert without_words(kept, words) == kept


@pytest.mark.parametrize("word", ["</odd>", "<extra_7>", "[gMASK2]", "<0x0A>", "USER:", "## Odd:"])
@pytest.mark.parametrize("line", ["{n}. {title}", "{title}", "- {title}", "{n}) **{title}**"])
def test_a_title_is_read_as_it_was_sent(word: str, line: str) -> None:
    """What only a model's own words break up is shown to it with a blank, and copied so."""
    titles = [f"{word} Owl", f"The {word}", word, "Nest", "Egg of the bird", "Third film"]
    order = [2, 1, 0, 3, 4, 5]
    sent = [without_words(titles[i], {word}) for i in order]
    assert word not in "".join(sent)
    reply = "\n".join(line.format(n=n, title=title) for n, title in enumerate(sent, 1))
    ranking = parse_ranking(reply, titles)
    assert list(ranking.order) == order
    assert ranking.named == 6


@given(st.lists(st.one_of(st.characters(), st.sampled_from(ODD + MARKERS)), max_size=40))
def test_plain_text_stays_plain(pieces: list[str]) -> None:
    read = plain("".join(pieces))
    assert plain(read) == read
    read.encode()
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp") for c in read)


@given(st.text(alphabet=st.characters(), max_size=40))
def test_a_terminal_gets_nothing_that_steers_it(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert all(c == "\n" or c in "\u200c\u200d" or unicodedata.category(c)[0] != "C" for c in shown)


def test_terminal_control_characters_are_written_out() -> None:
    assert printable("a\x1b[2Jb\x07\x9b\u202e\ud800") == r"a\x1b[2Jb\x07\x9b\u202e\ud800"
    assert printable("one\r\ntwo\nthree") == "one\ntwo\nthree"
    assert printable("sure\rgone") == r"sure\rgone"
    assert printable("Léon\u00a0→ 千と千尋") == "Léon → 千と千尋"
    assert printable(3.5) == "3.5"


@pytest.mark.parametrize("function", [plain, printable])
def test_heaps_of_marks_take_no_time(function: object) -> None:
    assert callable(function)
    began = time.perf_counter()
    read = function("Z" + "\u0301\u0323" * 60_000)
    assert time.perf_counter() - began < 2
    assert len(read) < 12


def test_only_so_much_of_a_field_is_read() -> None:
    assert plain("x" * (MAX_RAW + 10)) == "x" * MAX_RAW


@pytest.mark.parametrize("character", ODD)
def test_a_terminal_is_shown_every_odd_character_by_its_number(character: str) -> None:
    shown = printable(f"a{character}b")
    assert character == "\n" or character not in shown.replace("\t", "") or character == "\t"
    # A sequence that makes a picture or joins letters of a script stays.
    assert printable("1\ufe0f\u20e3 \u2764\ufe0f") == "1\ufe0f\u20e3 \u2764\ufe0f"
