"""parse_ranking: what a recommender said, read as an order; write_ranking: the other way round.

Whoever tells the model how to write reads it back, so both sides stand here. What a model says is
never an error: what cannot be read is not named.

How a reply is read
-------------------
1. A reply that keeps to one of `FORMATS`, every line exactly, is read at once.
2. Otherwise thinking between ``<think>`` tags is dropped, JSON lists are unfolded, and every line
   is read for itself: a rank or a bullet is taken off, then emphasis, quotes and a year. Exact
   titles come before folded ones (case, accents, punctuation, place of the article), these before a
   title at the head of a line with a description behind it. Titles in one line between commas,
   semicolons, bars or '>' are a list too.
3. Lines that follow each other are a list. A list that starts again at 1, or repeats what the last
   one named, is another list. Of several, the last one that names more than half as many items as
   the longest counts, so that drafts, thinking and afterwords do not; a list inside a sentence
   counts half.
4. In that list what is still open is compared with the titles that are left: a title that was cut
   off, then the closest spelling (`difflib`), never across different numbers ("Rocky II").
5. Without any list, the first title that each line mentions counts.

A line, or an entry of a one-line list, is one item; an item that is named again keeps its best
reading, and of equal readings the first.

Numbers are candidate numbers, as the prompt prints them from 1, where everything in the list is a
number and none outside of 1..K is a title; otherwise a number that is a title is that title. So
"1984" is the film, "9" is the film in a list of titles and candidate 9 in a list of numbers, and a
number in quotes is a title first.
"""

from __future__ import annotations

from rpp_env.parsing.formats import write_ranking
from rpp_env.parsing.reader import parse_order, parse_ranking
from rpp_env.parsing.thoughts import THINKING
from rpp_env.patterns import FORMATS

__all__ = ["FORMATS", "THINKING", "parse_order", "parse_ranking", "write_ranking"]
