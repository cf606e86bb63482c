"""Prompts that the title of the next item continues, for ``rank_by="likelihood"``.

Such a prompt contains no candidates. It ends where a title would follow, and each candidate's title
is scored as its continuation. A `Form` defines how the history is written and how the next title is
asked for; `ContinuedPrompt` is a history in a form.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import InvalidOption
from rpp_env.task import RankingTask

__all__ = [
    "CATALOGS",
    "CLOSINGS",
    "FORMS",
    "OPENINGS",
    "Closing",
    "ContinuedPrompt",
    "ContinuedPrompts",
    "Form",
    "Lead",
    "LeadCatalog",
    "LeadChoice",
]

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Lead:
    """A prompt that ends where a title follows, and the text around the title."""

    text: str
    """The text of the prompt: the user's message, or plain text."""
    before: str
    """Text between the prompt and the title: a blank, or nothing."""
    after: str
    """Text that ends the title. It is scored too, so that "Alien" is not the start of "Aliens"."""
    begun: str = ""
    """Text with which the model's answer begins."""
    chat: bool = True
    """Whether the text is a message of the user, or plain text without a chat template."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as messages of an `rpp_env.models.Request`."""
        if not self.chat:
            return ({"role": "text", "content": self.text + self.begun},)
        asked = {"role": "user", "content": self.text}
        begun = {"role": "assistant", "content": self.begun}
        return (asked, begun) if self.begun else (asked,)

    def continuations(self, titles: tuple[str, ...]) -> tuple[str, ...]:
        """Return the text that follows the prompt for each title."""
        return tuple(f"{self.before}{title}{self.after}" for title in titles)


@dataclass(frozen=True, slots=True)
class Closing:
    """Words that lead into the next title, in two wordings."""

    line: str = ""
    """A line with its line break, for lists."""
    phrase: str = ""
    """A phrase with a blank before it, for titles within a sentence."""


@dataclass(frozen=True, slots=True)
class Form:
    """Form of a history, and of the request for the next title.

    ``{i}`` in `item`, `end` and `begun` is the number of an item, from 1, or of the next one;
    ``{title}`` is its title.
    """

    name: str
    item: str
    """Text of one item of the history."""
    start: str = ""
    """Text before the first item."""
    end: str = ""
    """Text after the last item."""
    none: str = ""
    """The whole text if no history is shown."""
    before: str = " "
    after: str = "\n"
    begun: str = ""
    chat: bool = False

    def lead(
        self, titles: tuple[str, ...], opening: str = "", closing: Closing | None = None
    ) -> Lead:
        """Make the prompt that shows these titles, the oldest first.

        Parameters
        ----------
        titles : tuple of str
        opening : str
            Text before everything else.
        closing : Closing, optional
            Words that lead into the next title: in the model's answer, in the sentence, or on a
            line of its own before the last one.
        """
        said = Closing() if closing is None else closing
        following = str(len(titles) + 1)
        items = [
            self.item.replace("{i}", str(i)).replace("{title}", title)
            for i, title in enumerate(titles, 1)
        ]
        start, end = (self.start, self.end) if titles else ("", self.none)
        end = end.replace("{i}", following)
        begun = self.begun.replace("{i}", following)
        if self.chat:
            begun = said.line + begun
        elif "\n" in self.item:
            end = said.line + end
        else:
            end += said.phrase
        return Lead(
            "".join([opening, start, *items, end]), self.before, self.after, begun, self.chat
        )


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("list", "{i}. {title}\n", end="{i}.", none="1."),
        Form("lines", "{title}\n", none="\n", before=""),
        Form("dashes", "- {title}\n", end="-", none="-"),
        Form("like", " {title},", "Movies like", none="Movies like", after=","),
        Form("similar", " {title},", "Movies similar to", none="Movies similar to", after=","),
        Form(
            "liked",
            " {title},",
            "If you liked",
            " you will also like",
            "You will also like",
            after=",",
        ),
        Form(
            "watched",
            " {title},",
            "The last films that I watched were",
            " and after that I watched",
            "The film that I watched was",
            after=".",
        ),
        Form(
            "question",
            "\n{title}",
            "These are the last films that I watched:",
            "\n\nWhich film do you recommend next? Answer with its title alone.",
            "Which film do you recommend? Answer with its title alone.",
            before="",
            chat=True,
        ),
        Form(
            "list in chat",
            "\n{i}. {title}",
            "Continue the list of films that I watched:",
            none="Write a list of films that I watched.",
            begun="{i}.",
            chat=True,
        ),
    )
}
"""Forms for films, by name: plain text in the style of web pages, and two that use the chat
template."""


OPENINGS = (
    "",
    "Film reviews and recommendations\n\n",
    "My film diary\n\n",
    "From a forum on films: what did you watch, and what comes next?\n\n",
    "Films that go well together\n\n",
)
"""Openings in the style of web pages; the first one is empty."""
CLOSINGS = (
    Closing(),
    Closing("Next:\n", " next"),
    Closing("For example:\n", " for example"),
    Closing("Most of all:\n", " most of all"),
    Closing("Less well known:\n", " perhaps"),
)
"""Words that lead into the next title; the first one is empty."""


@dataclass(frozen=True, slots=True)
class LeadChoice:
    """The agents' choices for one user, except the history's length."""

    opening: str
    form: Form
    closing: Closing


@dataclass(frozen=True)
class LeadCatalog:
    """The options of the four agents: openings, history lengths, forms and closings."""

    history_records: tuple[str, ...]
    """One label per option of the history agent."""
    openings: tuple[str, ...] = OPENINGS
    forms: tuple[Form, ...] = tuple(FORMS.values())
    closings: tuple[Closing, ...] = CLOSINGS

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Number of options of each agent, in the order of `rpp_env.sentences.AGENTS`."""
        counted = (self.openings, self.history_records, self.forms, self.closings)
        opening, history, form, closing = map(len, counted)
        return opening, history, form, closing

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all texts: 64 hexadecimal digits."""
        said = [self.openings, list(map(asdict, self.forms)), list(map(asdict, self.closings))]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def choose(self, actions: NDArray[np.int64]) -> list[LeadChoice]:
        """Look up the choices for (B, 4) actions."""
        return [
            LeadChoice(self.openings[opening], self.forms[form], self.closings[closing])
            for opening, _, form, closing in actions.tolist()
        ]


CATALOGS: dict[str, tuple[tuple[str, ...], tuple[Closing, ...]]] = {
    "films": (OPENINGS, CLOSINGS),
    "films-forms": (OPENINGS[:1], CLOSINGS[:1]),
}
"""Openings and closings of catalogs for films that have names; all of them have the nine forms.

Of ``films-forms`` only the history's length and the form can be chosen: 63 prompts a user, where
``films`` has 1,575.
"""


@dataclass(frozen=True, slots=True)
class ContinuedPrompt:
    """One user's history in a form.

    Raises
    ------
    InvalidOption
        If `shown` is not between 0 and the length of the history.
    """

    task: RankingTask
    form: Form
    shown: int
    """Number of most recent history items that are shown."""
    opening: str = ""
    closing: Closing = Closing()

    def __post_init__(self) -> None:
        if not 0 <= self.shown <= len(self.task.history):
            raise InvalidOption(
                f"shown must lie in 0..{len(self.task.history)}, the length of the history of "
                f"user {self.task.user!r}; got {self.shown}"
            )

    def lead(self) -> Lead:
        """The prompt that the model continues."""
        titles = self.task.history[-self.shown :] if self.shown else ()
        return self.form.lead(titles, self.opening, self.closing)

    @property
    def text(self) -> str:
        """The prompt's text without a chat template."""
        lead = self.lead()
        return f"{lead.text}\n\n{lead.begun}".rstrip("\n") if lead.chat else lead.text

    @property
    def instructions(self) -> str:
        """All text but the history: encoded for the observation."""
        form, closing = self.form, self.closing
        own = " ".join(filter(None, (form.name, form.start, form.end)))
        return " ".join(filter(None, (self.opening, own, closing.line, closing.phrase)))


class ContinuedPrompts(list[ContinuedPrompt]):
    """The prompts of a batch of users, each up to where a title follows."""
