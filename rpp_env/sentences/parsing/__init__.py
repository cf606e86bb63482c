"""Parse a reply as an order of candidates (`parse_ranking`), and write an order (`write_ranking`).

The writer and the parser of each output format live in the same package. A reply is never an error:
what cannot be read is not named. ``docs/prompts.md`` describes the rules in full, with what is
refused on purpose; `rpp_env.sentences.parsing.forms` measures how much is read.

How a reply is read
-------------------
1. A reply in which every line keeps exactly to one of `FORMATS` is read at once (`formats`).
2. Otherwise the answer is extracted: reasoning (`thoughts`), other turns of a dialogue and markup
   (`text`) are dropped; lists and objects become lines (`objects`).
3. Every line is read separately (`lines`): a rank, a bullet, a label, emphasis and quotes are
   removed. Exact titles are tried before folded ones (case, accents, punctuation, place of the
   article, numerals, year), and these before a title at the head of a line with a description
   behind it (`titles`). Titles or numbers in one line between list signs are a list too.
4. Consecutive lines are a list (`lists`). Parts with different items form one list; a part that
   repeats named items begins another. Of several lists, the last one that names more than half as
   many items as the longest is taken, so that drafts, reasoning and afterwords are not; a list
   inside a sentence counts half.
5. Unread entries of that list are compared with the titles that are left: first a title that was
   cut off, then the closest spelling (`difflib`), never across different numbers ("Rocky II").
6. Without any list, the first title that each line mentions is taken, unless the line refuses it.

A line, or an entry of a one-line list, is one item; an item named twice keeps its best reading, and
of equal readings the first.

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
