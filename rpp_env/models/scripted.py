"""Models that answer by a rule, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from rpp_env.data.candidates import TaskSet
from rpp_env.errors import InvalidOption
from rpp_env.models.base import Reply, Request
from rpp_env.sentences import DOMAINS, SentenceCatalog
from rpp_env.sentences.parsing import write_ranking
from rpp_env.task import RankingTask

__all__ = ["ScriptedModel", "echo", "oracle", "silent"]


class ScriptedModel:
    """A language model defined by a function from the prompt's text to the reply's.

    Parameters
    ----------
    answer : callable
        Function from text to text; the same reply for the same text.
    id : str
        Name of the model.
    context_length : int
        Maximum tokens of prompt and reply together. A token is a word here.
    """

    capabilities: frozenset[str] = frozenset({"deterministic"})

    def __init__(
        self,
        answer: Callable[[str], str],
        id: str = "scripted",  # noqa: A002 - the protocol's word
        context_length: int = 1_000_000,
    ) -> None:
        self.id = id
        self.context_length = context_length
        self._answer = answer

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request."""
        replies = []
        for request in requests:
            text = "\n\n".join(message["content"] for message in request.messages)
            said = self._answer(text)
            replies.append(Reply(said, self.count_tokens(text), self.count_tokens(said)))
        return replies

    def count_tokens(self, text: str) -> int:
        """Return the number of words."""
        return len(text.split())


def oracle(tasks: TaskSet | Iterable[RankingTask]) -> ScriptedModel:
    """Make a model that names the target first, in the requested one of the five formats.

    Parameters
    ----------
    tasks : TaskSet or iterable of RankingTask
        The answer key. A prompt is recognised by its candidates and its most recent history item.

    Raises
    ------
    InvalidOption
        If two tasks look the same and have different targets.
    """
    if isinstance(tasks, TaskSet):
        tasks = map(tasks.task, range(len(tasks)))
    key: dict[tuple[str, frozenset[str]], str] = {}
    for task in tasks:
        look = (task.history[-1], frozenset(task.candidates))
        if key.setdefault(look, task.target) != task.target:
            raise InvalidOption(
                f"an oracle cannot tell user {task.user!r} from another one with the same "
                "candidates and the same last item but another target"
            )

    def answer(text: str) -> str:
        history, candidates = _lists(text)
        target = candidates.index(key[history[-1], frozenset(candidates)])
        others = [i for i in range(len(candidates)) if i != target]
        return write_ranking([target, *others], candidates, _format(text))

    return ScriptedModel(answer, "oracle")


def echo() -> ScriptedModel:
    """Make a model that returns the candidates as they were shown, in the requested format."""

    def answer(text: str) -> str:
        _, candidates = _lists(text)
        return write_ranking(range(len(candidates)), candidates, _format(text))

    return ScriptedModel(answer, "echo")


def silent() -> ScriptedModel:
    """Make a model whose replies are empty."""
    return ScriptedModel(lambda _: "", "silent")


def _lists(text: str) -> tuple[list[str], list[str]]:
    """Return the titles of the history and of the candidates in a prompt's text."""
    found = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")[1:]
        if lines and all(line.startswith(f"{i}. ") for i, line in enumerate(lines, 1)):
            found.append([line.partition(". ")[2] for line in lines])
    if len(found) != 2:
        raise ValueError(
            f"expected a history and candidates in the prompt, found {len(found)} lists"
        )
    return found[0], found[1]


def _format(text: str) -> str:
    return _formats()[text.rsplit("\n", 1)[-1]]


@lru_cache(maxsize=1)
def _formats() -> dict[str, str]:
    """Map contract lines to formats, for all catalogs that come with the package."""
    books = map(SentenceCatalog.load, DOMAINS)
    return {output.contract: output.format for book in books for output in book.output_format}
