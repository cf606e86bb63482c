"""Read what a recommender said as an order (`parse_ranking`), and write an order (`write_ranking`).

The writer and the parser of each output format live in the same package. What a model says is
never an error: what cannot be read is not named. ``docs/prompts.md`` describes the rules in full,
with what is refused on purpose; `rpp_env.sentences.parsing.forms` measures how much is read.

How a reply is read
-------------------
1. A reply that keeps to one of `FORMATS`, every line exactly, is read at once (`formats`).
2. Otherwise the answer is found in it: thoughts are dropped (`thoughts`), and so are other turns of
   a dialogue and markup (`text`); lists and objects become lines (`objects`).
3. Every line is read for itself (`lines`): a rank, a bullet, a label, emphasis and quotes are taken
   off. Exact titles come before folded ones (case, accents, punctuation, place of the article,
   numerals, year), these before a title at the head of a line with a description behind it
   (`titles`). Titles or numbers in one line between list signs are a list too.
4. Lines that follow each other are a list (`lists`). Parts with other items are one list, a part
   that repeats what was named is another. Of several, the last one that names more than half as
   many items as the longest counts, so that drafts, thinking and afterwords do not; a list inside
   a sentence counts half.
5. In that list what is still open is compared with the titles that are left: a title that was cut
   off, then the closest spelling (`difflib`), never across different numbers ("Rocky II").
6. Without any list, the first title that each line mentions counts, unless it is refused.

A line, or an entry of a one-line list, is one item; an item that is named again keeps its best
reading, and of equal readings the first.

Numbers are candidate numbers, as the prompt prints them from 1, where everything in the list is a
number and none outside of 1..K is a title; otherwise a number that is a title is that title. So
"1984" is the film, "9" is the film in a list of titles and candidate 9 in a list of numbers, and a
number in quotes is a title first.
"""

from __future__ import annotations

from rpp_env.sentences import FORMATS
from rpp_env.sentences.parsing.formats import write_ranking
from rpp_env.sentences.parsing.reader import parse_order, parse_ranking
from rpp_env.sentences.parsing.thoughts import THINKING, as_pairs

__all__ = ["FORMATS", "THINKING", "as_pairs", "parse_order", "parse_ranking", "write_ranking"]
