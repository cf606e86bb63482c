"""Prompts that the title of the next item continues: what ``rank_by="likelihood"`` asks.

No candidates stand in such a prompt. It ends where a title would follow, and each candidate's title
is scored as what follows. A `Form` says how the history is written and how the next title is asked
for; `ContinuedPrompt` is a history in a form.
"""

from __future__ import annotations

from dataclasses import dataclass

from rpp_env.errors import InvalidOption
from rpp_env.task import RankingTask

__all__ = ["FORMS", "ContinuedPrompt", "Form", "Lead"]

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Lead:
    """A prompt up to where a title follows, and what stands around the title."""

    text: str
    """What the model reads: the user's message, or plain text."""
    before: str
    """Between the prompt and the title: a blank, or nothing."""
    after: str
    """What ends the title. It counts, so that "Alien" is no beginning of "Aliens"."""
    begun: str = ""
    """What the model's answer has begun with."""
    chat: bool = True
    """Whether the text is a message of the user, or plain text without a chat template."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """As `rpp_env.models.Request` takes them."""
        if not self.chat:
            return ({"role": "text", "content": self.text + self.begun},)
        asked = {"role": "user", "content": self.text}
        begun = {"role": "assistant", "content": self.begun}
        return (asked, begun) if self.begun else (asked,)

    def continuations(self, titles: tuple[str, ...]) -> tuple[str, ...]:
        """What follows the prompt for each title."""
        return tuple(f"{self.before}{title}{self.after}" for title in titles)


@dataclass(frozen=True, slots=True)
class Form:
    """How a history is written, and how the next title is asked for.

    ``{i}`` in `item`, `end` and `begun` stands for the number of an item, from 1, or of the next
    one; ``{title}`` for its title.
    """

    name: str
    item: str
    """One item of the history."""
    start: str = ""
    """Before the first item."""
    end: str = ""
    """After the last item."""
    none: str = ""
    """All of the text where no history is shown."""
    before: str = " "
    after: str = "\n"
    begun: str = ""
    chat: bool = False

    def lead(self, titles: tuple[str, ...], opening: str = "", closing: str = "") -> Lead:
        """The prompt that shows these titles, the oldest first.

        Parameters
        ----------
        titles : tuple of str
        opening, closing : str
            Text before everything, and after it.
        """
        following = str(len(titles) + 1)
        items = [
            self.item.replace("{i}", str(i)).replace("{title}", title)
            for i, title in enumerate(titles, 1)
        ]
        end = self.end.replace("{i}", following)
        text = "".join([self.start, *items, end]) if titles else self.none
        begun = self.begun.replace("{i}", following)
        return Lead(f"{opening}{text}{closing}", self.before, self.after, begun, self.chat)


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
"""Forms for films, by name: plain text in the manner of web pages, and two through the chat
template."""


@dataclass(frozen=True, slots=True)
class ContinuedPrompt:
    """One user's history in a form.

    Raises
    ------
    InvalidOption
        Where `shown` is no number of history items.
    """

    task: RankingTask
    form: Form
    shown: int
    """How many of the most recent history items are shown."""
    opening: str = ""
    closing: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.shown <= len(self.task.history):
            raise InvalidOption(
                f"shown must lie in 0..{len(self.task.history)}, the length of the history of "
                f"user {self.task.user!r}; got {self.shown}"
            )

    def lead(self) -> Lead:
        """The prompt as the model reads it."""
        titles = self.task.history[-self.shown :] if self.shown else ()
        return self.form.lead(titles, self.opening, self.closing)
