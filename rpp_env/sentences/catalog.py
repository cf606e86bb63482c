"""The catalog of sentences (`SentenceCatalog`): the options of the four agents, from a TOML file.

A file holds whole sentences, so that it can be edited without knowing Python::

    domain = "movies"
    history_lead = "..."                # above the list of the history
    candidates_lead = "..."             # above the list of the candidates
    role_playing = ["", "..."]          # "" is no role
    reasoning_guidance = ["..."]

    [[output_format]]
    text = "..."                        # the agent's sentence, which a rewrite may change
    format = "numbered"                 # one of FORMATS: how the reply is parsed
    contract = "..."                    # the last line of the prompt, which no rewrite changes

``{k}`` in a sentence is replaced by the number of candidates. The number of options is free. The
history agent's options are not sentences but part of the rules, which also name them.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rpp_env.errors import InvalidAction, InvalidData, InvalidOption
from rpp_env.options import check_choice, read_small, unknown
from rpp_env.plugins import make, resolve
from rpp_env.text import unseen

__all__ = ["AGENTS", "DOMAINS", "FORMATS", "Choice", "Output", "SentenceCatalog", "history_labels"]

AGENTS: tuple[str, str, str, str] = (
    "role_playing",
    "history_records",
    "reasoning_guidance",
    "output_format",
)
"""The four agents, in the order of their actions everywhere."""

DOMAINS: tuple[str, ...] = ("movies", "music", "games", "products")
"""Domains whose catalogs come with the package."""

FORMATS: tuple[str, ...] = ("numbered", "bare", "numbers", "json", "template")
"""Output formats; `rpp_env.sentences.parsing` writes and parses each of them."""

_KEYS = {
    "domain",
    "history_lead",
    "candidates_lead",
    "role_playing",
    "reasoning_guidance",
    "output_format",
}
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MOST_CHOICES_KEPT = 1 << 16


def history_labels(history: str, options: Sequence[int]) -> tuple[str, ...]:
    """Name the options of the history agent under some rules.

    Parameters
    ----------
    history : str
        ``Rules.history``: ``"rungs"``, ``"choose"`` or ``"grow"``.
    options : sequence of int
        ``Rules.history_options``: moves, items, or items to add.

    Returns
    -------
    tuple of str
        One label per option, such as ``"two lengths down"``, ``"5 items"`` or ``"one item more"``.

    Raises
    ------
    InvalidOption
        For another kind of history.
    """

    def count(number: int, noun: str) -> str:
        word = _NUMBER_WORDS[number] if number < len(_NUMBER_WORDS) else str(number)
        return f"{word} {noun}" + ("" if number == 1 else "s")

    if history == "choose":
        return tuple(f"{n} item" + ("" if n == 1 else "s") for n in options)
    check_choice("history", history, ("rungs", "choose", "grow"))
    noun, more, fewer = (
        ("length", "up", "down") if history == "rungs" else ("item", "more", "fewer")
    )
    return tuple(
        "as before" if n == 0 else f"{count(abs(n), noun)} {more if n > 0 else fewer}"
        for n in options
    )


@dataclass(frozen=True, slots=True)
class Output:
    """One option of the output agent."""

    text: str
    """The sentence that asks for the output."""
    format: str
    """One of `FORMATS`."""
    contract: str
    """The line that states the format exactly; kept after any rewrite of `text`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The sentences that the four agents chose for one user.

    They still contain ``{k}`` for the number of candidates, which a prompt fills in.
    """

    actions: tuple[int, int, int, int]
    """Indices in the order of `AGENTS`."""
    role: str
    """The role that the model is given; empty for no role."""
    reasoning: str
    """The instruction how to reason."""
    output: str
    """The instruction what to write."""
    contract: str
    """The line that states the output's format exactly."""
    format: str
    """The name of that format, one of `FORMATS`."""
    history_lead: str = "These are the items that I have chosen so far, the most recent last:"
    """The line above the history."""
    candidates_lead: str = "These are the {k} candidates:"
    """The line above the candidates."""

    def rewritten(
        self, role: str | None = None, reasoning: str | None = None, output: str | None = None
    ) -> Choice:
        """Return the same choice with other sentences; None keeps a sentence.

        Line breaks in them become spaces, so that a rewrite cannot add paragraphs or lists to a
        prompt. The contract line, the format and the lines above the lists stay.
        """

        def one_line(given: str | None, present: str) -> str:
            return present if given is None else " ".join(given.split())

        return replace(
            self,
            role=one_line(role, self.role),
            reasoning=one_line(reasoning, self.reasoning),
            output=one_line(output, self.output),
        )


@dataclass(frozen=True)
class SentenceCatalog:
    """The catalog of one domain: the options of the four agents.

    Attributes
    ----------
    domain : str
        For example ``"movies"``.
    role_playing, reasoning_guidance : tuple of str
        Sentences; a role may be empty.
    history_records : tuple of str
        Labels of the history agent's options; never part of a prompt.
    output_format : tuple of Output
        Sentences with the formats that they ask for.
    history_lead, candidates_lead : str
        The lines above the two lists.

    Raises
    ------
    InvalidData
        If an agent has no option.
    """

    domain: str
    role_playing: tuple[str, ...]
    history_records: tuple[str, ...]
    reasoning_guidance: tuple[str, ...]
    output_format: tuple[Output, ...]
    history_lead: str
    candidates_lead: str
    _choices: dict[tuple[int, ...], Choice] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for agent, size in zip(AGENTS, self.sizes, strict=True):
            if size == 0:
                raise InvalidData(
                    f"the {self.domain} catalog has no option for agent {agent!r}: give one or more"
                )

    @classmethod
    def load(
        cls, source: str | Path, history: Sequence[str] = history_labels("rungs", (-2, -1, 0, 1, 2))
    ) -> SentenceCatalog:
        """Read a catalog.

        Parameters
        ----------
        source : str or Path
            One of `DOMAINS`, the path of a TOML file (a string that ends in ``.toml``),
            ``"package.module:attribute"`` or an entry point of ``rpp_env.books``: a path, a
            catalog, or a function that returns one of the two.
        history : sequence of str
            Labels of the history agent's options (`history_labels`); those of RPP-v0 by default.

        Raises
        ------
        InvalidOption
            For an unknown domain.
        InvalidData
            For a file that is missing or invalid; the message names the file and the key.
        """
        if isinstance(source, str) and not source.endswith(".toml"):
            shipped = {name: Path(__file__).with_name(f"{name}.toml") for name in DOMAINS}
            found = make(resolve("book", source, shipped), {"history": tuple(history)})
            if isinstance(found, SentenceCatalog):
                return replace(found, history_records=tuple(history))
            if not isinstance(found, str | Path):
                raise InvalidOption(
                    f"book {source!r} must be a SentenceCatalog or the path of a .toml file, not a "
                    f"{type(found).__name__}"
                )
            path = Path(found)
        else:
            path = Path(source)
        try:
            table = tomllib.loads(read_small(path).decode())
        except OSError as error:
            raise InvalidData(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise InvalidData(f"{path}: cannot be read as TOML: {error}") from error
        _check_keys(path, "", table, _KEYS)
        outputs = []
        for i, entry in enumerate(_entries(path, table, "output_format")):
            key = f"output_format[{i}]"
            if not isinstance(entry, dict):
                raise InvalidData(f"{path}: key {key!r} must be a table, not {entry!r}")
            _check_keys(path, key, entry, {"text", "format", "contract"})
            output = Output(
                **{name: _sentence(path, f"{key}.{name}", value) for name, value in entry.items()}
            )
            if output.format not in FORMATS:
                raise InvalidData(f"{path}: {unknown(f'{key}.format', output.format, FORMATS)}")
            outputs.append(output)
        return cls(
            domain=_sentence(path, "domain", table["domain"]),
            role_playing=_sentences(path, table, "role_playing", empty=True),
            history_records=tuple(history),
            reasoning_guidance=_sentences(path, table, "reasoning_guidance"),
            output_format=tuple(outputs),
            history_lead=_sentence(path, "history_lead", table["history_lead"]),
            candidates_lead=_sentence(path, "candidates_lead", table["candidates_lead"]),
        )

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Number of options of each agent, in the order of `AGENTS`."""
        return (
            len(self.role_playing),
            len(self.history_records),
            len(self.reasoning_guidance),
            len(self.output_format),
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of every sentence that a prompt can hold; history labels are left out."""
        said = (
            self.domain,
            self.history_lead,
            self.candidates_lead,
            self.role_playing,
            self.reasoning_guidance,
            tuple((o.text, o.format, o.contract) for o in self.output_format),
        )
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def choose(self, actions: ArrayLike) -> list[Choice]:
        """Turn indices into sentences.

        Parameters
        ----------
        actions : array_like of int, shape (B, 4)
            One row per user, columns in the order of `AGENTS`.

        Returns
        -------
        list of Choice
            One per row; equal rows may share one object.

        Raises
        ------
        InvalidAction
            For an index out of range, another shape, or anything but integers.
        """
        array = np.asarray(actions)
        if array.ndim != 2 or array.shape[1] != len(AGENTS) or array.dtype.kind not in "iu":
            raise InvalidAction(
                f"actions are integers of shape (users, {len(AGENTS)}), one column for each of "
                f"{', '.join(AGENTS)}; got {array.dtype} of shape {array.shape}"
            )
        wrong = (array < 0) | (array >= np.asarray(self.sizes))
        if wrong.any():
            user, agent = map(int, np.argwhere(wrong)[0])
            raise InvalidAction(
                f"agent {AGENTS[agent]!r} chose {array[user, agent]} for user {user}; "
                f"its options are 0..{self.sizes[agent] - 1}"
            )
        return [self._choices.get(row) or self._choice(row) for row in map(tuple, array.tolist())]

    def _choice(self, actions: tuple[int, int, int, int]) -> Choice:
        role, _, reasoning, output = actions
        chosen = self.output_format[output]
        choice = Choice(
            actions=actions,
            role=self.role_playing[role],
            reasoning=self.reasoning_guidance[reasoning],
            output=chosen.text,
            contract=chosen.contract,
            format=chosen.format,
            history_lead=self.history_lead,
            candidates_lead=self.candidates_lead,
        )
        if len(self._choices) >= _MOST_CHOICES_KEPT:
            self._choices.clear()
        self._choices[actions] = choice
        return choice


def _check_keys(path: Path, key: str, table: dict[str, Any], known: set[str]) -> None:
    prefix = f"{key}." if key else ""
    keys = sorted(prefix + name for name in known)
    if strange := set(table) - known:
        raise InvalidData(f"{path}: {unknown('key', prefix + min(strange), keys)}")
    if missing := known - set(table):
        raise InvalidData(
            f"{path}: missing key {prefix + min(missing)!r}; the keys are {', '.join(keys)}"
        )


def _entries(path: Path, table: dict[str, Any], key: str) -> list[Any]:
    value = table[key]
    if not isinstance(value, list) or not value:
        raise InvalidData(f"{path}: key {key!r} must be a list of at least one option")
    return value


def _sentences(path: Path, table: dict[str, Any], key: str, empty: bool = False) -> tuple[str, ...]:
    entries = _entries(path, table, key)
    return tuple(_sentence(path, f"{key}[{i}]", entry, empty) for i, entry in enumerate(entries))


def _sentence(path: Path, key: str, value: object, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise InvalidData(f"{path}: key {key!r} must be a text, not {value!r}")
    if value != value.strip() or len(value.splitlines()) > 1 or (not value and not empty):
        raise InvalidData(
            f"{path}: key {key!r} must be one line without spaces around it"
            f"{'' if empty else ', and not empty'}; it is {value!r}"
        )
    if hidden := unseen(value):
        raise InvalidData(
            f"{path}: key {key!r} holds invisible characters ({ascii(hidden)[:60]}): a prompt "
            "may hold visible text only"
        )
    for placeholder in _PLACEHOLDER.findall(value):
        if placeholder != "{k}":
            raise InvalidData(
                f"{path}: key {key!r} holds {placeholder!r}; the only placeholder is '{{k}}', the "
                "number of candidates"
            )
    return value
