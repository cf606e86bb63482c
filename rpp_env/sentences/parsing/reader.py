"""The parser's entry points: `parse_ranking` and `parse_order`."""

from __future__ import annotations

from collections.abc import Sequence

from rpp_env.sentences.parsing.formats import read_exactly, read_nearly_exactly
from rpp_env.sentences.parsing.lists import read_leniently
from rpp_env.sentences.parsing.thoughts import as_pairs
from rpp_env.sentences.parsing.titles import titles_of
from rpp_env.task import Ranking

__all__ = ["parse_order", "parse_ranking"]


def parse_ranking(
    reply: str, candidates: Sequence[str], *, thinking: Sequence[tuple[str, str]] = ()
) -> Ranking:
    """Parse a ranking from a reply.

    Parameters
    ----------
    reply : str
        Any text.
    candidates : sequence of str
        Titles in the order in which the prompt shows them; no title twice.
    thinking : sequence of pairs of str
        Marks that open and close a model's reasoning, besides those in `THINKING` and tags such as
        ``<think>``.

    Returns
    -------
    Ranking
        The named candidates first, then the rest as shown; `text` stays empty.

    Raises
    ------
    InvalidOption
        If `thinking` does not hold pairs of marks.
    """
    return Ranking(*parse_order(reply, candidates, as_pairs(thinking)))


def parse_order(
    reply: str, candidates: Sequence[str], thinking: tuple[tuple[str, str], ...] = ()
) -> tuple[tuple[int, ...], int]:
    """Return `Ranking.order` and `Ranking.named` of `parse_ranking`, without making a Ranking."""
    candidates = tuple(candidates)
    count = len(candidates)
    stripped = reply.strip()
    named = read_exactly(stripped, candidates)
    if named is None:
        named = read_nearly_exactly(stripped, candidates, thinking)
    if named is None:
        named = read_leniently(reply, titles_of(candidates), thinking)
    if len(named) == count:
        return tuple(named), count
    placed = set(named)
    return (*named, *(i for i in range(count) if i not in placed)), len(named)
