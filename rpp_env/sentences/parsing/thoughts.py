"""Find the reasoning that a model writes before its answer, in the marks of many model families.

Most families put tags around their reasoning, in brackets of one kind or another: ``<think>``,
``[THINK]``, ``◁think▷``, ``<|begin_of_thought|>``, ``<seed:think>``. Such tags are recognised by
the words in them (`THOUGHT_WORDS`), and so are those around an answer (`ANSWER_WORDS`). Other marks
are listed in `THINKING`; the option ``thinking`` of `rpp_env.LLMRecommender` and of the
environments adds more pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from rpp_env.errors import InvalidOption

__all__ = ["ANSWER_WORDS", "THINKING", "THOUGHT_WORDS", "answers", "as_pairs", "holds_marks"]

THOUGHT_WORDS: tuple[str, ...] = (
    "think",
    "thinking",
    "thought",
    "thoughts",
    "thought_process",
    "reason",
    "reasoning",
    "analysis",
    "reflection",
    "scratchpad",
    "monologue",
    "rationale",
    "cot",
    "chain_of_thought",
    "deliberation",
    "brainstorm",
)
"""Words in the tags around reasoning."""

ANSWER_WORDS: tuple[str, ...] = (
    "answer",
    "final",
    "final_answer",
    "final_ranking",
    "final_response",
    "ranking",
    "output",
    "response",
    "result",
    "solution",
    "conclusion",
)
"""Words in the tags around an answer; with such tags, only the text between them is the answer."""

THINKING: tuple[tuple[str, str], ...] = (
    ("analysis<|message|>", "final<|message|>"),  # gpt-oss; all channels but "final" are thoughts
    ("commentary<|message|>", "final<|message|>"),
    ("<|channel>thought", "<channel|>"),  # Gemma
    ("<unused94>thought", "<unused95>"),  # MedGemma
    ("Here is my thought process:", "Here is my response:"),  # Granite
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),  # Apriel
    ("Thinking...\n", "...done thinking."),  # printed by Ollama
)
"""Marks around reasoning that are not tags; compared without case."""

_PAIRED_ONLY = {"thinking...\n": "...done thinking."}
"""Openings that also occur in ordinary text: they count only with a closing mark."""

# gpt-oss, if a server has removed the special tokens: "analysisWe need ...assistantfinal1. ".
_GLUED = re.compile(r"\s*(?:assistant)?(?:analysis|commentary)(?=\w|\n)")

_BRACKETS = "<[◁⟨"
_TAG = re.compile(r"[<\[◁⟨]([^<>\[\]◁▷⟨⟩\n]{1,100})[>\]▷⟩]")


def _tag_pattern(words: Sequence[str]) -> str:
    names = "|".join(sorted(words, key=len, reverse=True))
    # A family may put its own name before the word: <seed:think>, <longcat_think>.
    return rf"(?:[a-z]+[:_])?(?:{names})s?"


_WORDS = {"thought": _tag_pattern(THOUGHT_WORDS), "answer": _tag_pattern(ANSWER_WORDS)}
_BEGIN = r"(?:(?:begin|start)(?:[_ ]of)?[_ ])?"
_ATTRIBUTES = r"(?:\s+[\w-]+\s*=[^/]*)?"
_KINDS = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for name, words in _WORDS.items()
    for kind, pattern in (
        (
            f"end of {name}",
            rf"\|?\s*(?:/\s*{words}|end(?:[_ ]of)?[_ ]{words}|{words}[_:]end)\s*\|?",
        ),
        (name, rf"\|?\s*{_BEGIN}{words}(?:[_:](?:begin|start))?{_ATTRIBUTES}\s*\|?"),
    )
)


def as_pairs(thinking: object) -> tuple[tuple[str, str], ...]:
    """Check the option ``thinking``.

    Raises
    ------
    InvalidOption
        If it is not a sequence of pairs of texts.
    """
    pairs: list[tuple[str, str]] = []
    given = thinking if isinstance(thinking, Sequence) and not isinstance(thinking, str) else [None]
    for pair in given:
        match pair:
            case [str(opening), str(closing)] if opening.strip() and closing.strip():
                pairs.append((opening, closing))
            case _:
                raise InvalidOption(
                    "thinking holds pairs of marks around a model's reasoning, such as "
                    f'[("<plan>", "</plan>")], not {thinking!r}'
                )
    return tuple(pairs)


def holds_marks(reply: str, thinking: tuple[tuple[str, str], ...] = ()) -> bool:
    """Return whether a reply contains marks of reasoning or of an answer."""
    return bool(_marks(reply, thinking))


def answers(reply: str, thinking: tuple[tuple[str, str], ...] = ()) -> list[str]:
    """Return the texts of a reply that may be the answer, the likeliest first.

    Text between tags of an answer comes first, then all text that is not reasoning. Unclosed
    reasoning was cut off, together with the reply. With a closing mark but no opening one, all text
    before it is reasoning (some templates put the opening mark into the prompt), unless nothing
    follows.
    """
    marks = _marks(reply, thinking)
    if not marks:
        return [reply]
    answered: list[str] = []
    plain: list[str] = []
    doubtful: list[str] = []
    inside, start = "", 0
    for begin, end, kind in marks:
        if begin < start:
            continue
        if inside != "thought":
            (answered if inside == "answer" else plain).append(reply[start:begin])
            if kind == "end of thought":
                doubtful += [*answered, *plain]
                answered, plain = [], []
            inside, start = ("" if kind.startswith("end") else kind), end
        elif kind in ("answer", "end of thought"):
            inside, start = ("answer" if kind == "answer" else ""), end
    if inside != "thought":
        (answered if inside == "answer" else plain).append(reply[start:])
    parts = ["\n".join(part) for part in (answered, plain) if _says_something(part)]
    if not parts:
        parts = [text for text in doubtful if _says_something([text])][-1:]
    return parts


def _says_something(texts: list[str]) -> bool:
    return any(character.isalnum() for text in texts for character in text)


@lru_cache(maxsize=2)  # several parts of the parser search the same reply
def _marks(reply: str, thinking: tuple[tuple[str, str], ...]) -> tuple[tuple[int, int, str], ...]:
    """Return begin, end and kind of each mark, in order."""
    found: dict[int, tuple[int, str]] = {}
    if any(bracket in reply for bracket in _BRACKETS):
        for tag in _TAG.finditer(reply):
            if kind := _kind(tag[1]):
                found[tag.start()] = tag.end(), kind
    kinds, pattern = _phrases(thinking)
    lower = reply.lower()
    if _holds_one(lower, kinds):
        for phrase in pattern.finditer(reply):
            mark = phrase[0].lower()
            if mark not in _PAIRED_ONLY or _PAIRED_ONLY[mark] in lower:
                found[phrase.start()] = phrase.end(), kinds[mark]
    if glued := _GLUED.match(reply):
        found[0] = glued.end(), "thought"
    if "assistantfinal" in reply:
        for end in re.finditer("assistantfinal", reply):
            found[end.start()] = end.end(), "end of thought"
    return tuple((begin, *found[begin]) for begin in sorted(found))


def _holds_one(text: str, parts: Iterable[str]) -> bool:
    for part in parts:  # noqa: SIM110 - any() with a generator takes twice as long
        if part in text:
            return True
    return False


@lru_cache(maxsize=1 << 10)
def _kind(inner: str) -> str:
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(inner)), "")


@lru_cache(maxsize=16)
def _phrases(thinking: tuple[tuple[str, str], ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    """Return the kind of each mark that is not a tag, and a pattern that finds them."""
    kinds: dict[str, str] = {}
    for opening, closing in (*THINKING, *thinking):
        kinds |= {closing.lower(): "end of thought", opening.lower(): "thought"}
    longest_first = sorted(kinds, key=len, reverse=True)
    return kinds, re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
