"""RPP+: another language model rewrites the sentences that the agents chose, for one user.

The agents choose among sentences that are the same for everybody. In an environment made with
``rewrite=``, the chosen role, reasoning and output sentences are rewritten before they are sent to
the recommender; history, candidates and the contract line of the output stay as they are. The paper
only says that this is done inside the loop, so every other choice is ours, and an option of
`LLMRewriter`. ``docs/rewriting.md`` shows the questions and some results.

An unusable rewrite is never an error. A rewrite is used if it passes every check; else the
catalog's sentence is sent, and counted:

- it is one line of at most two sentences and 400 characters, not empty, all of it printable;
- it is not a list, and contains no markup, JSON, chat-template tokens or placeholders;
- its numbers, above all the number of candidates, are those of the original;
- it names no candidate, which would be a hint, and at most one item of the history;
- an output sentence asks for no format that the original does not ask for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from rpp_env.errors import BrokenContract, InvalidOption
from rpp_env.models.asking import Room, ask, release
from rpp_env.models.base import Generation, LanguageModel, Reply, Request
from rpp_env.models.names import open_model
from rpp_env.sentences.prompt import Prompt, as_messages

__all__ = ["INSTRUCTIONS", "LLMRewriter", "Rewrite", "check_rewritten", "open_rewriter"]

Rewrite = Callable[[Sequence[Prompt]], Sequence[Prompt]]
"""Maps prompts to prompts with other role, reasoning and output sentences, in the same order."""

INSTRUCTIONS = (
    "The labelled lines below are instructions from one user to a language model that ranks "
    "candidates for this user. Rewrite each line so that it asks for the same thing, but more "
    "clearly and closer to this user.\n"
    "Answer with the same labels, one line each, and nothing else. Write at most two sentences a "
    "line. Keep all numbers. Do not list titles, and add no format and no other request."
)
"""Default instructions to the rewriting model; the user's latest items and the sentences follow."""

_FIELDS = {"role_playing": "role", "reasoning_guidance": "reasoning", "output_format": "output"}
_HISTORY_LEAD = "What this user chose last, the most recent at the end:"
_MOST_KEPT = 1 << 17

_LINE = re.compile(r"[\W\d_]*(role|reasoning|output)[\s*_\"'`]*(?:[:=]| -+ )(.*)", re.IGNORECASE)
_EDGES = "*_\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}, "
_MARKUP = frozenset("<>{}[]|#`*\\^~")
_LIST = re.compile(r"(?:\d+\s*[.):]|[-•])\s|.*:$")
_SPEAKER = re.compile(r"\b(?:system|assistant|user|human|role|reasoning|output) ?:", re.IGNORECASE)
_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)[.!?…]+[\"')]*(?:\s+|$)|。")
_FORMATS = re.compile(r"\b(?:json|yaml|xml|csv|table|number|markdown)", re.IGNORECASE)
_COUNT = re.compile(r"\d+|[^\W\d_]+")
_WORDS = re.compile(r"\w+")
_ARTICLE = re.compile(r"^ (?:the|an?) (?=\w)", re.IGNORECASE)
_UNITS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_TENS = "thirty forty fifty sixty seventy eighty ninety"
_NUMBERS = {word: n for n, word in enumerate(_UNITS.split(), 2)}
_NUMBERS |= {word: 10 * n for n, word in enumerate(_TENS.split(), 3)}


class _Asked(NamedTuple):
    """The input of a rewrite, used as its cache key."""

    sentences: tuple[str, ...]
    """Sentences with the number of candidates filled in; empty where none is rewritten."""
    candidates: int
    """Number of candidates."""
    titles: tuple[str, ...]
    """The user's latest items that the prompt shows."""


class _Rewritten(NamedTuple):
    field: str
    original: str
    sentence: str | None
    """The rewrite; None where it cannot be used."""


class LLMRewriter:
    """A `Rewrite` that has a language model rewrite the sentences of prompts.

    One request per prompt covers all its sentences, and the requests of a batch are one call of the
    model. Equal requests are sent once while their replies are cached: the last 131,072, in memory.
    A `RecordingModel` as `model` keeps them on disk. An empty sentence stays empty.

    The model sees the sentences and the user's latest items, no more of them than the prompt shows:
    how much of the history the recommender sees stays the history agent's choice. It sees no
    candidates, targets, rankings or rewards.

    Parameters
    ----------
    model : LanguageModel
        The rewriting model. It need not be the one that ranks.
    scope : sequence of str
        The agents whose sentences are rewritten; some of ``"role_playing"``,
        ``"reasoning_guidance"`` and ``"output_format"``.
    history : int
        Most items of the history that the model sees; 0 for none.
    instructions : str
        The model's instructions.
    max_characters : int
        Longest rewrite that is used.
    generation : Generation, optional
        How rewrites are sampled; by default with temperature 0.7, seed 0 (repeatable where a server
        supports seeds) and at most 384 tokens.

    Attributes
    ----------
    faults : Counter
        Why rewrites could not be used, with counts.
    calls : Counter
        ``batches``, ``prompts``, ``prompt_tokens`` and ``completion_tokens`` sent so far.

    Raises
    ------
    InvalidOption
        For another scope or numbers out of range.
    BrokenContract
        If the model returns another number of replies than requests.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        scope: Sequence[str] = tuple(_FIELDS),
        history: int = 10,
        instructions: str = INSTRUCTIONS,
        max_characters: int = 400,
        generation: Generation | None = None,
    ) -> None:
        if isinstance(scope, str) or not scope or not set(scope) <= set(_FIELDS):
            raise InvalidOption(
                f"scope must hold some of {', '.join(_FIELDS)}, whose sentences can be rewritten; "
                f"got {scope!r}"
            )
        if history < 0 or max_characters < 1:
            raise InvalidOption(
                f"history must be 0 or more and max_characters 1 or more; got {history} and "
                f"{max_characters}"
            )
        self.model = model
        self.scope = tuple(scope)
        self.history = history
        self.instructions = instructions
        self.max_characters = max_characters
        self.generation = generation or Generation(temperature=0.7, max_tokens=384, seed=0)
        self.faults: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._kept: dict[_Asked, tuple[_Rewritten, ...]] = {}

    @property
    def id(self) -> str:
        """Name of the model, for reports."""
        return self.model.id

    def release(self) -> None:
        """Close the model's files and connections; the next call opens them again."""
        release(self.model)

    def __call__(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Return the prompts with rewritten sentences."""
        asked = [self._asked(prompt) for prompt in prompts]
        new = [one for one in dict.fromkeys(asked) if any(one.sentences) and one not in self._kept]
        if new:
            requests = [Request(as_messages(self._text(one)), self.generation) for one in new]
            replies = ask(self.model, requests)
            self._kept.update(
                (one, self._read(one, reply)) for one, reply in zip(new, replies, strict=True)
            )
            self.calls["batches"] += 1
            self.calls["prompts"] += len(requests)
            self.calls["prompt_tokens"] += sum(reply.prompt_tokens for reply in replies)
            self.calls["completion_tokens"] += sum(reply.completion_tokens for reply in replies)
        made = [
            self._changed(prompt, self._kept.get(one, ()))
            for prompt, one in zip(prompts, asked, strict=True)
        ]
        while len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return made

    def question(self, prompt: Prompt) -> str:
        """Return the request to the model about this prompt."""
        return self._text(self._asked(prompt))

    def _asked(self, prompt: Prompt) -> _Asked:
        count = len(prompt.task.candidates)
        choice, latest = prompt.choice, min(self.history, prompt.shown)
        sentences = (
            getattr(choice, field).replace("{k}", str(count)) if agent in self.scope else ""
            for agent, field in _FIELDS.items()
        )
        titles = prompt.task.history[-latest:] if latest else ()
        return _Asked(tuple(sentences), count, titles)

    def _text(self, one: _Asked) -> str:
        room = Room(self.model, self.generation)
        labelled = "\n".join(
            f"{field.upper()}: {sentence}"
            for field, sentence in zip(_FIELDS.values(), one.sentences, strict=True)
            if sentence
        )
        for first in range(len(one.titles) + 1):
            # One line each: a title must not pass for an instruction.
            titles = [" ".join(title.split()) for title in one.titles[first:]]
            shown = "\n".join([_HISTORY_LEAD, *(f"{i}. {t}" for i, t in enumerate(titles, 1))])
            text = "\n\n".join([self.instructions, *([shown] if titles else []), labelled])
            if room.holds(text):
                return text
        raise InvalidOption(
            f"the sentences for {self.model.id!r} do not fit into the {room.tokens} tokens that "
            f"it has besides {self.generation.max_tokens} for the reply: take a model with a "
            "longer context, or a smaller max_tokens"
        )

    def _read(self, one: _Asked, reply: Reply) -> tuple[_Rewritten, ...]:
        found: dict[str, str] = {}
        label = ""
        for line in reply.text.rpartition("</think>")[2].splitlines():
            match = _LINE.match(line)
            label = match[1].lower() if match else label
            if match or not found.get(label, "any"):  # a label may be on a line of its own
                said = match[2] if match else line
                found[label] = " ".join(said.replace("**", "").split()).strip(_EDGES)
        if reply.finish_reason == "length":
            found.pop(label, None)  # cut off
        read = []
        for field, original in zip(_FIELDS.values(), one.sentences, strict=True):
            if original:
                sentence = found.get(field, "").replace("{k}", str(one.candidates))
                fault = _fault(sentence, original, one.titles, field, self.max_characters)
                self.faults.update([fault] if fault else [])
                read.append(_Rewritten(field, original, None if fault else sentence))
        return tuple(read)

    def _changed(self, prompt: Prompt, rewritten: Sequence[_Rewritten]) -> Prompt:
        changed: dict[str, str] = {}
        fallbacks = 0
        for field, original, sentence in rewritten:
            if sentence is None:
                fallbacks += 1
            elif _hints(sentence, original, prompt.task.candidates):
                self.faults["names a candidate"] += 1
                fallbacks += 1
            elif sentence != original:
                changed[field] = sentence
        choice = prompt.choice.rewritten(**changed) if changed else prompt.choice
        return replace(prompt, choice=choice, fallbacks=fallbacks)


def open_rewriter(rewrite: str | Rewrite | None) -> Rewrite | None:
    """Return the rewriter of that name, or the given one.

    Parameters
    ----------
    rewrite : str, callable or None
        ``"embedded"`` (rules, no server); the name of a language model as `RPPEnv.make` takes it
        (``"http://host:8000/v1#name"``, ``"vllm:..."``, ``"hf:..."``, ``"recording:..."``), for an
        `LLMRewriter`; a `Rewrite`; or None.

    Raises
    ------
    InvalidOption
        For anything else.
    """
    if rewrite is None or callable(rewrite):
        return rewrite
    name: object = rewrite
    if not isinstance(name, str) or name.startswith("table:"):
        raise InvalidOption(
            f"rewrite={rewrite!r}: give None, 'embedded', the name of a language model, or a "
            "callable from prompts to prompts, such as LLMRewriter(model)"
        )
    if name == "embedded":
        from rpp_env.sim.paraphraser import Paraphraser

        return LLMRewriter(Paraphraser())
    return LLMRewriter(open_model(name))


def check_rewritten(rewritten: Sequence[Prompt], prompts: Sequence[Prompt]) -> None:
    """Check that a rewrite changed the sentences of the prompts and nothing else.

    Raises
    ------
    BrokenContract
        If a prompt is lost, or anything but the role, reasoning and output sentences has changed.
    """
    if len(rewritten) != len(prompts) or not all(map(_only_sentences, rewritten, prompts)):
        raise BrokenContract(
            f"rewrite gave {len(rewritten)} prompts for {len(prompts)}; it must return each prompt "
            "in its place, with other sentences only (Choice.rewritten): the same task, the same "
            "number of history items, the same contract line, and no line breaks"
        )


def _only_sentences(new: object, old: Prompt) -> bool:
    if not isinstance(new, Prompt) or new.task is not old.task or new.shown != old.shown:
        return False
    choice, sentences = new.choice, (new.choice.role, new.choice.reasoning, new.choice.output)
    role, reasoning, output = sentences
    return choice is old.choice or (
        choice == replace(old.choice, role=role, reasoning=reasoning, output=output)
        and all(len(sentence.splitlines()) < 2 for sentence in sentences)
    )


def _fault(
    sentence: str, original: str, titles: Sequence[str], field: str, most: int
) -> str | None:
    """Return why a rewrite cannot be used; None if it can."""
    if not sentence:
        return "says nothing"
    if len(sentence) > most:
        return "too long"
    if not sentence.isprintable() or (_MARKUP & set(sentence)) - set(original):
        return "markup"
    if _LIST.match(sentence) or _SPEAKER.search(sentence):
        return "a list or a speaker's label"
    mentions = 0
    found = [title for title in titles if title in sentence and title not in original]
    for title in sorted(found, key=len, reverse=True):  # a title may contain full stops and numbers
        sentence, times = re.subn(rf"(?<!\w){re.escape(title)}(?!\w)", "it", sentence)
        mentions += times
    if mentions > 1:
        return "several titles"
    if sum(bool(part.strip()) for part in _END.split(sentence)) > 2:
        return "more than two sentences"
    if _numbers(sentence) != _numbers(original):
        return "other numbers"
    if field == "output" and _formats(sentence) - _formats(original):
        return "another format"
    return None


def _formats(sentence: str) -> set[str]:
    return {name.lower() for name in _FORMATS.findall(sentence)}


@lru_cache(maxsize=1 << 12)
def _numbers(sentence: str) -> frozenset[int]:
    """Return all numbers but "one", in figures and in words."""
    found = (
        int(word) if word.isdecimal() else _NUMBERS.get(word)
        for word in _COUNT.findall(sentence.casefold())
    )
    return frozenset(number for number in found if number is not None)


def _hints(sentence: str, original: str, candidates: Sequence[str]) -> bool:
    """Whether a rewrite names a candidate that the original does not."""
    said, before = _plain(sentence), _plain(original)
    return any(
        name in said[cased] and name not in before[cased]
        for title in candidates
        for cased, name in _names(title)
    )


@lru_cache(maxsize=1 << 12)
def _plain(text: str) -> tuple[str, str]:
    """Return the words of a text between blanks: in lower case, and unchanged."""
    words = f" {' '.join(_WORDS.findall(text))} "
    return words.casefold(), words


@lru_cache(maxsize=1 << 14)
def _names(title: str) -> tuple[tuple[bool, str], ...]:
    """Return the spellings of a title, and whether its case counts, as in "It"."""
    lower, words = _plain(title)
    if not words.strip():
        return ((True, title),)
    bare = _ARTICLE.sub(" ", words)
    if bare.count(" ") > 2:
        return ((False, bare.casefold()),)
    return ((True, bare),) if bare == words else ((True, bare), (False, lower))
