"""Combine the parsed lines of a reply into lists, and the chosen list into an order."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from rpp_env.sentences.parsing.lines import Entry, ends_sentence, read_line
from rpp_env.sentences.parsing.objects import Line
from rpp_env.sentences.parsing.text import answer_lines, turns
from rpp_env.sentences.parsing.titles import Titles, compact, fold, key_of
from rpp_env.sentences.parsing.words import affirmed, announces, chooses, compares, refuses

__all__ = ["find_lists", "guess", "read_leniently"]

_COMPARISONS = 1000
"""Maximum pairs of a line and a title that are compared by spelling."""
_CLOSE = 0.85
"""Lowest similarity (`difflib`) at which a misspelt title is recognised."""

_CHAIN_SIGN = re.compile(r"\W*(?:[,;>→≻=&]|[-=]+>)\W*|\W*and\W*| ")
_SAYS_SOMETHING = re.compile(r"[^\W_]")
_NUMERIC = re.compile(r"\d+|[ivx]+")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")  # noqa: RUF001 - Chinese and Japanese ends
_OPENERS = frozenset(
    "i a an it up if he she they you we one two now then so yes no well her him his them "
    "us me my in on off out go do did this that what who why how when with for from here "
    "not all as at be but by can get has had let most next once only or some than to too "
    "was very best both each ever just last like look more much must over said same see "
    "such sure take thank time".split()
)
"""Short words that often begin a sentence: at its start they are not titles."""


@dataclass(slots=True)
class _List:
    """Consecutive entries."""

    entries: list[Entry] = field(default_factory=list)
    in_sentence: bool = False
    refused: bool = False
    items: set[int] = field(default_factory=set)
    numbers: set[int] = field(default_factory=set)
    labelled: bool = True
    """Whether all its items were behind a label."""
    last_named: int = 0
    """Number of items of its last part, if it was joined from several."""

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        if entry.item is not None:
            self.items.add(entry.item)
        if entry.number is not None:
            self.numbers.add(entry.number)
        elif entry.item is None:
            return
        if not entry.label:
            self.labelled = False

    @property
    def named(self) -> set[int]:
        """The items, or the candidate numbers if no items are named."""
        return self.items or self.numbers

    @property
    def only_numbers(self) -> bool:
        return bool(self.numbers) and not self.items

    def restarts(self, entry: Entry) -> bool:
        """Whether `entry`, of rank 0 or 1, begins another list rather than continuing this one."""
        if not self.entries or (self.entries[0].rank or 0) > 1:
            return False
        last = self.entries[-1].rank
        return last is None or last > (entry.rank or 0)

    def goes_on_with(self, other: _List) -> bool:
        """Whether `other`, which comes after some other text, continues this list."""
        first = other.entries[0]
        if first.rank is not None and first.rank > 1 and first.rank - 1 == self.entries[-1].rank:
            return True
        if self.only_numbers != other.only_numbers and self.named and other.named:
            return False
        if not self.named or not other.named:
            return not (first.rank in (0, 1) and self.restarts(first))
        common = len(self.named & other.named)
        fewer = min(len(self.named), len(other.named))
        # One more item, named already, in a list with text between its items.
        return 2 * common < fewer or (len(other.named) == 1 == self.last_named)


def read_leniently(
    reply: str, titles: Titles, thinking: tuple[tuple[str, str], ...] = ()
) -> list[int]:
    """Return the items that a reply names, best first."""
    for alternatives in turns(reply, thinking):
        read = [_read(text, titles) for text in alternatives]
        longest = max(map(len, read))
        if longest:
            return next(order for order in read if 2 * len(order) >= longest)
    return []


def _read(text: str, titles: Titles) -> list[int]:
    lines = answer_lines(text, titles)
    parts = list(find_lists(lines, titles))
    lists = _join(parts)
    if not lists and any(part.refused and not part.in_sentence for part in parts):
        return []  # "I cannot recommend any of these:"
    resolved = [_resolve(found, titles) for found in lists]
    sizes = [
        len(places) / 2 if found.in_sentence else len(places)
        for found, places in zip(lists, resolved, strict=True)
    ]
    longest = max(sizes, default=0)
    for last in reversed(range(len(lists))):
        if sizes[last] * 2 > longest:
            chosen = _whole(resolved, last)
            return guess(lists[chosen].entries, titles, resolved[chosen])
    unread = _List([entry for found in lists for entry in found.entries])
    guessed = guess(unread.entries, titles, _resolve(unread, titles))
    return guessed or _mentions(lines, titles)


def _whole(resolved: list[dict[int, float]], last: int) -> int:
    """Return the list whose beginning the last one only repeats, else the last one."""
    order = _sorted(resolved[last])
    for earlier in reversed(range(last)):
        longer = _sorted(resolved[earlier])
        if len(longer) > len(order) and longer[: len(order)] == order:
            return earlier
    return last


def _sorted(places: dict[int, float]) -> list[int]:
    return sorted(places, key=places.__getitem__)


# From lines to lists ---------------------------------------------------------------------------


def find_lists(lines: Iterable[Line], titles: Titles) -> Iterator[_List]:
    """Yield lists of entries, cut where other text is between them or the ranks restart."""
    current = _List()
    after_blank = refused = False
    for line in lines:
        text = line.text
        if not text or text.startswith("```"):
            after_blank = True
            continue
        if (
            not text[0].isalnum()
            and not _SAYS_SOMETHING.search(text)
            and not any(sign in text for sign in titles.signs)
        ):
            continue
        reading = read_line(text, titles)
        entries: Sequence[Entry] = reading.entries
        if not entries:
            continue
        first = entries[0]
        if (
            len(entries) == 1
            and first.read
            and not (first.label or line.indent or reading.in_sentence)
            and first.rank not in (0, 1)
            and line.rank is None
        ):  # true for most lines of a list: nothing can end it here
            after_blank = False
            current.add(first)
            continue
        if line.indent or line.rank is not None:
            entries = _placed(entries, line)
        first = entries[0]
        prose = reading.in_sentence or (not first.read and (after_blank or ends_sentence(text)))
        after_blank = False
        opens = first.rank in (0, 1) and current.restarts(first)
        if first.label and current.named:
            if announces(first.label):
                opens = True
            elif not first.mark and not current.labelled:
                continue  # "Similar to: Up"
        if (
            prose
            or opens
            or (len(entries) > 1 and current.items and all(e.item is None for e in entries))
        ) and current.entries:
            yield current
            current = _List(refused=refused)
        if reading.in_sentence:
            yield _List(
                list(entries),
                True,
                reading.refused,
                {e.item for e in entries if e.item is not None},
                {e.number for e in entries if e.number is not None},
            )
        elif not prose:
            for entry in entries:
                current.add(entry)
        if prose:
            refused = reading.refused and text.endswith(":")
            current.refused = refused
    if current.entries:
        yield current


def _placed(entries: Sequence[Entry], line: Line) -> Sequence[Entry]:
    """Add the line's context to its entries."""
    if line.rank is not None:
        entries = [entry._replace(rank=line.rank, mark="rank", read=True) for entry in entries]
    return [e._replace(indent=line.indent) for e in entries] if line.indent else entries


def _join(parts: Iterable[_List]) -> list[_List]:
    lists: list[_List] = []
    main: _List | None = None
    for part in parts:
        if part.refused and (part.in_sentence or main is None):
            continue
        if part.in_sentence or main is None or not main.goes_on_with(part):
            lists.append(part)
            if not part.in_sentence:
                main = part
                main.last_named = len(main.named)
            continue
        for entry in part.entries:
            main.add(entry)
        main.last_named = len(part.named)
    return lists


# From a list to an order -----------------------------------------------------------------------


_Reading = tuple[float, int, Entry]
"""A place in the list, the item that is named there, and the entry that names it."""


def _resolve(found: _List, titles: Titles) -> dict[int, float]:
    """Return the items of a list, each with the place of its best reading."""
    count = len(titles.exact)
    entries = found.entries
    words = any(e.item is not None and e.number is None for e in entries)
    titles_first = words or any(
        e.item is not None and e.number is not None and not 1 <= e.number <= count for e in entries
    )
    placed: Iterable[tuple[float, Entry]] = enumerate(entries)
    if not words:
        placed = _in_pairs(entries, titles) if found.numbers else _with_reasons(entries, count)
    read: list[_Reading] = []
    for place, entry in placed:
        item, number = entry.item, entry.number
        if number is not None and not (titles_first and item is not None):
            item = number - 1 if 1 <= number <= count and not words else None
        if item is not None:
            read.append((place, item, entry))
    notes = _notes(read)
    places: dict[int, float] = {}
    ranks: dict[int, int | None] = {}
    # Certain readings come before loose ones; of equal ones the first.
    for loose in (0, 1):
        for place, item, entry in read:
            if entry.loose == loose and item not in places and place not in notes:
                places[item], ranks[item] = place, entry.rank
    return _by_rank(places, ranks)


def _in_pairs(entries: list[Entry], titles: Titles) -> Iterator[tuple[float, Entry]]:
    """Decide which of two numbers in a line is the candidate's: in "1 -> 3" the second."""
    pairs = [entry for entry in entries if entry.sign]
    firsts = [entry.rank or 0 for entry in pairs]
    first = second = True
    if _counts_up(firsts) or (len(pairs) > 1 and len(set(firsts)) == 1):
        first = False
    elif _counts_up([entry.number or 0 for entry in pairs]):
        second = False
    elif not all(_CHAIN_SIGN.fullmatch(entry.sign) for entry in pairs):
        # In several lines, "3 - 9" is a candidate and its score.
        first, second = (False, True) if len(pairs) == 1 else (True, False)
    for place, entry in enumerate(entries):
        if not entry.sign:
            yield place, entry
            continue
        if first and entry.rank is not None:
            item = titles.exact.get(str(entry.rank))
            yield place, entry._replace(item=item, number=entry.rank, rank=None)
        if second:
            yield place + 0.5, entry._replace(rank=None) if first else entry


def _with_reasons(entries: list[Entry], count: int) -> list[tuple[float, Entry]]:
    """Read candidate numbers with a reason behind them: "3 - because it is loud".

    Numbers that only count up are ranks, of titles that are not known.
    """
    ranks = [entry.rank for entry in entries if entry.rank is not None]
    fit = all(1 <= rank <= count for rank in ranks) and len(set(ranks)) == len(ranks) > 1
    if not fit or all(b - a == 1 for a, b in pairwise(ranks)):
        return list(enumerate(entries))
    return [
        (place, entry if entry.rank is None else entry._replace(number=entry.rank, rank=None))
        for place, entry in enumerate(entries)
    ]


def _counts_up(numbers: list[int]) -> bool:
    return (
        len(numbers) > 1
        and (numbers[0] in (0, 1) or len(numbers) > 2)
        and all(b - a == 1 for a, b in pairwise(numbers))
    )


def _notes(read: list[_Reading]) -> set[float]:
    """Return the places of titles that are in remarks below the items.

    Most items of a list have marks of one kind and the same indentation. An entry between two of
    them that differs is a remark if it was read loosely, if the ranks around it continue, or if it
    is indented further.
    """
    if len({(entry.mark, entry.indent // 2) for _, _, entry in read}) < 2:  # see `_style`
        return set()
    items: dict[tuple[str, int], set[int]] = {}
    for _, item, entry in read:
        if not entry.loose:
            items.setdefault(_style(entry), set()).add(item)
    usual = max(items, key=lambda style: len(items[style]), default=None)
    if usual is None or len(items[usual]) < 2:
        return set()
    notes: set[float] = set()
    before: Entry | None = None
    waiting: list[tuple[float, Entry]] = []
    for place, _, entry in read:
        if _style(entry) == usual:
            if before is not None:
                a, b = before.rank, entry.rank
                goes_on = a is not None and b is not None and b - a in (0, 1)
                notes.update(
                    at for at, other in waiting if goes_on or other.indent > before.indent + 1
                )
            waiting = []
            before = entry
        elif before is not None:
            if entry.loose:
                notes.add(place)
            else:
                waiting.append((place, entry))
    if before is not None:
        notes.update(at for at, other in waiting if other.indent > before.indent + 1)
    return notes


def _style(entry: Entry) -> tuple[str, int]:
    return entry.mark, entry.indent // 2  # ranks of one digit may be indented by one more


def _by_rank(places: dict[int, float], ranks: dict[int, int | None]) -> dict[int, float]:
    """Sort places by rank if the ranks are complete, out of order, and not candidate numbers."""
    if None in ranks.values() or len(places) < 3:
        return places
    known = {item: rank for item in _sorted(places) if (rank := ranks[item]) is not None}
    in_order = list(known.values())
    if sorted(in_order) != list(range(1, len(known) + 1)):
        return places
    if in_order == sorted(in_order) or all(rank == item + 1 for item, rank in known.items()):
        return places
    return dict(known)


def guess(entries: list[Entry], titles: Titles, places: Mapping[int, float]) -> list[int]:
    """Order the items at `places`; unread entries get the titles left, if unambiguous."""
    placed = dict(places)
    left = {i: compact(key) for i, key in enumerate(titles.item_keys) if key and i not in placed}
    budget = _COMPARISONS
    for place, entry in enumerate(entries):
        if entry.item is not None or entry.number is not None or not 0 < len(entry.text) <= 200:
            continue
        budget -= len(left)
        if budget < 0 or not left:
            break
        head = re.split(r"\s[-–—]\s|[:(|]", entry.text, maxsplit=1)[0]  # noqa: RUF001
        keys = {compact(key_of(entry.text)): None, compact(key_of(head)): None}
        for key in keys:
            item = _closest(key, left, cut_off=bool(placed) and place == len(entries) - 1)
            if item is not None:
                placed[item] = place
                del left[item]
                break
    return _sorted(placed)


def _closest(key: str, left: dict[int, str], cut_off: bool) -> int | None:
    numbers = _numeric_words(key)
    same = {item: title for item, title in left.items() if _numeric_words(title) == numbers}
    # The last line of a reply may be cut off anywhere; others have at least half of the title.
    longer = left if cut_off and not numbers else same
    cut = [
        item
        for item, title in longer.items()
        if title.startswith(key) and (cut_off or 2 * len(key) >= len(title))
    ]
    if len(key) >= 4 and len(cut) == 1:
        return cut[0]
    similar = {
        item: title
        for item, title in same.items()
        if 2 * min(len(key), len(title)) >= _CLOSE * (len(key) + len(title))
    }
    if not similar:
        return None
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(key)
    best, closest = _CLOSE, None
    for item, title in similar.items():
        matcher.set_seq1(title)
        if matcher.quick_ratio() >= best:
            ratio = matcher.ratio()
            if ratio > best:
                best, closest = ratio, item
            elif ratio == best:
                closest = None  # equally close to two titles: ambiguous
    return closest


@lru_cache(maxsize=4096)
def _numeric_words(key: str) -> tuple[str, ...]:
    return tuple(word for word in key.split() if _NUMERIC.fullmatch(word))


# Without any list -------------------------------------------------------------------------------


def _mentions(lines: Iterable[Line], titles: Titles) -> list[int]:
    """Return the first title that each line mentions, unless the line refuses it."""
    named: dict[int, None] = {}
    for line in lines:
        for sentence in _SENTENCES.split(line.text):
            item = None if refuses(sentence) else _mention(sentence, titles)
            if item is not None:
                named.setdefault(item)
                break
    return list(named)


def _mention(sentence: str, titles: Titles) -> int | None:
    folded = fold(sentence)
    found = titles.scan(folded)
    stand = affirmed(folded, [(start, end) for start, end, _ in found])
    scanned = [each for each, stands in zip(found, stand, strict=True) if stands]
    chosen = chooses(folded)
    if chosen is not None:
        # "Since you liked Up, I recommend Alien."
        scanned = [each for each in scanned if each[0] >= chosen] + scanned
    elif scanned and compares(folded[: scanned[0][0]]):
        return None
    for start, end, item in scanned:
        title = folded[start:end]
        emphasised = start > 0 and folded[start - 1] in '*"“«《「『【'
        several = title.count(" ") + (not title.isascii() and len(title) > 2)
        if emphasised or several or (len(title) > 4 and not title.isdigit()):
            return item
        if _stands_out(titles.candidates[item], sentence):
            return item
    return None


def _stands_out(title: str, sentence: str) -> bool:
    """Whether a short title is written as a title: "Up" in a sentence, not at its start."""
    if title.isdigit() or title == title.lower() or len(title) < 2:
        return False
    found = re.search(rf"(?<!\w){re.escape(title)}(?!\w)", sentence)
    if found is None:
        return False
    opens = not re.search(r"[\w,;]\W{0,2}$", sentence[: found.start()])
    return not (opens and title.casefold() in _OPENERS)
