"""Rendering of a step for people: the prompt, the reply, and where the target was ranked.

Each agent has a colour, used for its choice and its part of the prompt. In text, colours are plain
ANSI codes; with the environment variable ``NO_COLOR`` there are none. Ids, titles and replies go
through `rpp_env.text.printable`, so nothing in them can control a terminal. In a picture, the same
lines are drawn on a page of fixed size, so that wrappers can record videos.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import MissingExtra, ResetNeeded
from rpp_env.options import check_choice
from rpp_env.prompting import Words
from rpp_env.text import printable

if TYPE_CHECKING:
    from rpp_env.core import RPPEnv
    from rpp_env.task import Ranking, RankingTask

__all__ = ["RENDER_MODES", "SIZE", "check_render_mode", "picture", "render", "show"]

RENDER_MODES = ("ansi", "human", "rgb_array")
"""``"ansi"`` returns a text, ``"human"`` writes it to the terminal, ``"rgb_array"`` draws it."""

SIZE = (1280, 960)
"""Width and height of a picture in pixels: even numbers, as video codecs require."""

COLOURS = (35, 36, 33, 32)
"""Colours of the agents, repeated in turn: magenta, cyan, yellow, green."""
BOLD, FAINT, TARGET = "1", "2", "1;7"
_REWARD = 32  # green
WIDTH = 80
TOP = 10
"""Places that a ranking without a reply shows: those that are rewarded."""

Span = tuple[str, int | str | None]
"""A text and the ANSI code of its colour."""
Line = list[Span]


@dataclass(frozen=True)
class Section:
    """A title and the lines below it."""

    title: str
    lines: list[Line]


def check_render_mode(mode: str | None, allowed: Sequence[str] = RENDER_MODES) -> str | None:
    """Return `mode`, or raise InvalidOption if it is not one of `allowed`."""
    if mode is not None:
        check_choice("render_mode", mode, allowed)
    return mode


def show(env: RPPEnv, mode: str | None) -> str | NDArray[np.uint8] | None:
    """Render the last step of the first user: return it (``"ansi"``, ``"rgb_array"``) or write it.

    Raises
    ------
    ResetNeeded
        Before the first reset.
    """
    if mode is None:
        _check_begun(env)
        return None
    if mode == "rgb_array":
        return picture(env)
    text = render(env)
    if mode == "ansi":
        return text
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    # A terminal without box-drawing characters gets their names.
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    return None


def render(env: RPPEnv, user: int = 0, width: int = WIDTH, *, wrap: bool = False) -> str:
    """Return the last step of one user as a text that ends in a line break.

    Parameters
    ----------
    env : RPPEnv
        An environment after a reset. Before the first step only the task is shown.
    user : int
        Index in the batch.
    width : int
        Columns for rules and choices.
    wrap : bool
        Break longer lines of prompt and reply between words too; by default they are shown as they
        were sent.

    Raises
    ------
    ResetNeeded
        Before the first reset.
    """
    paint = _plain if "NO_COLOR" in os.environ else _paint
    lines = []
    for section in _sections(env, user):
        lines.append(_rule(paint, section.title, width))
        rows = (row for line in section.lines for row in _hung(line, width, wrap))
        lines += ["".join(paint(text, code) for text, code in row) for row in rows]
    return "\n".join([*lines, ""])


def _check_begun(env: RPPEnv) -> None:
    if not len(env.playing):
        raise ResetNeeded("render() before the first reset(): call reset() to begin")


def _sections(env: RPPEnv, user: int) -> list[Section]:
    """Return the sections: choices, prompt, reply, reward; before the first step only the task."""
    _check_begun(env)
    step = env.last_step
    if step is None:
        task = env.tasks.task(int(env.playing[user]))
        latest = f", the last one {printable(task.history[-1])!r}" if task.history else ""
        about = (
            f"{len(task.history)} items of history{latest}",
            f"{len(task.candidates)} candidates",
        )
        title = f"{env.episode.id}  user {printable(task.user)}  before the first step"
        return [Section(title, [[(text, None)] for text in about])]
    infos = {name: values[user].item() for name, values in step.infos.items()}
    task = env.tasks.task(int(step.rows[user]))
    shown = step.tasks[user]
    words = env.space.words(step.actions[user], step.prompts, user, shown, infos)
    ranking = None if step.rankings is None else step.rankings[user]
    when = f"step {step.clock[user]} of {env.max_cycles}"
    choices: list[Line] = []
    for agent, action, said, new in words.choices:
        rows = [(f"{env.space.agents[agent]:<20}{action}  ", said)]
        if new is not None:
            rows.append((f"{'rewritten':>20}   ", new))
        choices += [[(left, BOLD), (printable(text), _colour(agent))] for left, text in rows]
    asked = "prompt"
    if env.rewrite is not None:
        asked += f"  {infos['rewritten']} rewritten, {infos['rewrite_fallbacks']} rewrites refused"
    if ranking is None:
        reply = Section("replayed from a table, which keeps orders and no words", [])
    elif _is_text(ranking):
        cost = f"{ranking.prompt_tokens} + {ranking.completion_tokens} tokens"
        reply = Section(f"reply  {cost}", _reply(ranking, shown))
    else:
        reply = Section("ranking  from a recommender without replies", _ranked(ranking, shown))
    return [
        Section(f"{env.episode.id}  user {printable(task.user)}  {when}", choices),
        Section(asked, _prompt(words, shown)),
        reply,
        Section("reward", _verdict(infos, shown, step.rewards[user], ranking)),
    ]


def _colour(agent: int) -> int:
    return COLOURS[agent % len(COLOURS)]


def _prompt(words: Words, task: RankingTask) -> list[Line]:
    """Return the text as it was sent, in the colours of the agents, with the target marked."""
    part = {printable(head): _colour(agent) for head, agent in words.parts.items()}
    painted: list[Line] = []
    for paragraph in printable(words.text).split("\n\n"):
        lines = paragraph.split("\n")
        colour = part.get(lines[0])
        mark = f". {printable(task.target)}"
        for line in lines:
            # No agent controls the candidates.
            target = TARGET if line.endswith(mark) else None
            painted.append([(line, target if colour is None else colour)])
        painted.append([])
    return painted[:-1]


def _is_text(ranking: Ranking) -> bool:
    """Whether it was read from a reply, which may be empty; others have neither text nor tokens."""
    return bool(ranking.text or ranking.prompt_tokens or ranking.completion_tokens)


def _ranked(ranking: Ranking, task: RankingTask) -> list[Line]:
    """Return the first candidates of a ranking without a reply, and the target's place below."""
    target = ranking.rank(task.position)
    first = range(1, min(ranking.named, TOP) + 1)
    rows: list[Line] = []
    for place in [*first, *([target] if target > TOP else [])]:
        title = printable(task.candidates[ranking.order[place - 1]])
        if place > TOP + 1:
            rows.append([("...", FAINT)])
        rows.append([(f"{place}. {title}", TARGET if place == target else None)])
    left = ranking.named - (target if target > TOP else len(first))
    if left:
        rows.append([(f"... {left} more", FAINT)])
    return rows or [[("(no candidate was ranked)", FAINT)]]


def _reply(ranking: Ranking, task: RankingTask) -> list[Line]:
    if not ranking.text.strip():
        return [[("(the reply is empty)", FAINT)]]
    # A title that continues is another one: "The River" is not "The River II".
    title = re.compile(rf"(?<!\w){re.escape(printable(task.target))}(?!\s?\w)")
    number = str(task.position + 1)
    return [
        [(line, TARGET if title.search(line) or line.strip() == number else None)]
        for line in printable(ranking.text).rstrip("\n").split("\n")
    ]


def _verdict(
    infos: dict[str, float], task: RankingTask, reward: float, ranking: Ranking | None
) -> list[Line]:
    target, K = printable(task.target), len(task.candidates)
    place = f"was ranked {infos['rank']} of {K}" if infos["rank"] else "was not named"
    said = "all candidates named" if infos["named"] == K else f"{infos['named']} of {K} named"
    if infos["trimmed"]:
        said += f", {infos['trimmed']} history items left out to fit"
    filled = round(20 * reward)
    where = f", shown as number {task.position + 1}, {place}; {said}"
    if ranking is not None and not _is_text(ranking):
        where = f" {place}"  # no prompt showed the candidates
    return [
        [(target, TARGET), (where, None)],
        [
            ("NDCG@10 ", None),
            (f"{reward:.3f}", BOLD),
            ("  ", None),
            ("█" * filled, _REWARD),
            ("░" * (20 - filled), FAINT),
        ],
    ]


class _Paint:
    """Wraps texts in ANSI codes, or leaves them plain."""

    def __init__(self, coloured: bool) -> None:
        self.coloured = coloured

    def __call__(self, text: str, code: int | str | None) -> str:
        if code is None or not self.coloured or not text:
            return text
        return f"\x1b[{code}m{text}\x1b[0m"


_paint, _plain = _Paint(True), _Paint(False)


def _rule(paint: _Paint, title: str, width: int) -> str:
    return paint(f"── {title} {'─' * max(3, width - len(title) - 4)}", FAINT)


def _hung(line: Line, width: int, wrap: bool) -> list[Line]:
    """Break a line between words so that it fits; a choice continues where its text began."""
    if len(line) == 2 and line[0][1] == BOLD:
        (left, _), (text, code) = line
        if not text:
            return [[(left.rstrip(), BOLD)]]
        parts = textwrap.wrap(text, max(width - len(left), 20), break_on_hyphens=False)
        return [
            [(left if i == 0 else " " * len(left), BOLD), (part, code)]
            for i, part in enumerate(parts)
        ]
    if not wrap or sum(_columns(text) for text, _ in line) <= width:
        return [line]
    return [
        [("".join(word for word, _ in words), code) for code, words in groupby(row, itemgetter(1))]
        for row in _wrapped([line], width)
    ]


# The picture

_FONT_SIZE, _LINE, _MARGIN = 13, 17, 20
_PAPER, _INK, _GREY, _RULE = "#ffffff", "#1f2430", "#6b7280", "#cbd5e1"
_ON_PAPER: dict[int | str | None, str] = {
    None: _INK,
    BOLD: _INK,
    FAINT: _GREY,
    TARGET: _PAPER,
    **dict(zip(COLOURS, ("#a21caf", "#0e7490", "#a16207", "#15803d"), strict=True)),
}


def picture(env: RPPEnv, user: int = 0) -> NDArray[np.uint8]:
    """Draw the last step of one user: the prompt on the left, the rest on the right.

    Long lines are wrapped; a section with more lines than fit states how many are left out. Scripts
    that DejaVu Sans Mono lacks, such as Chinese, appear as boxes.

    Parameters
    ----------
    env, user
        See `render`.

    Returns
    -------
    uint8 (H, W, 3)
        RGB, of the size `SIZE`.

    Raises
    ------
    ResetNeeded
        Before the first reset.
    MissingExtra
        Without matplotlib, for its font, and Pillow, which comes with it.
    """
    head, *rest = _sections(env, user)
    fonts = _fonts()
    from PIL import Image, ImageDraw

    width, height = SIZE
    column = (width - 3 * _MARGIN) // 2
    sheet = Image.new("RGB", SIZE, _PAPER)
    page = _Page(ImageDraw.Draw(sheet), fonts, column)
    left, right = _MARGIN, 2 * _MARGIN + column
    top, bottom = _MARGIN, height - _MARGIN
    if not rest:
        page.write(head, left, top, bottom)
    else:
        prompt, reply, worth = rest
        page.write(prompt, left, top, bottom)
        foot = bottom - page.height(worth)
        below = page.write(head, right, top, foot)
        page.write(reply, right, below + _LINE, foot - _LINE)
        page.write(worth, right, foot, bottom)
    return np.array(sheet)


@lru_cache
def _fonts() -> tuple[Any, Any]:
    """Return the plain and the bold monospaced font."""
    try:
        import matplotlib as mpl
        from PIL import ImageFont
    except ImportError as error:
        raise MissingExtra("matplotlib", "agents") from error
    folder = Path(mpl.get_data_path(), "fonts", "ttf")
    plain, bold = (
        ImageFont.truetype(folder / name, _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
        for name in ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf")
    )
    return plain, bold


class _Page:
    """Draws sections onto a picture, in columns of monospaced letters."""

    def __init__(self, draw: Any, fonts: tuple[Any, Any], width: int) -> None:
        self.draw, self.width = draw, width
        self.plain, self.bold = fonts
        self.advance: float = self.plain.getlength("m")
        self.columns = int(width // self.advance)

    def height(self, section: Section) -> int:
        """Height in pixels of a section with all its lines."""
        return _LINE * (1 + sum(1 for _ in _wrapped(section.lines, self.columns)))

    def write(self, section: Section, x: int, y: int, bottom: int) -> int:
        """Draw a section from `y` down to `bottom` at most; return where it ends."""
        self.draw.text((x, y), section.title, font=self.bold, fill=_GREY)
        after = x + self.advance * (len(section.title) + 1)
        middle = y + _LINE // 2
        if after < x + self.width:
            self.draw.line((after, middle, x + self.width, middle), fill=_RULE)
        y += _LINE
        lines, room = list(_wrapped(section.lines, self.columns)), (bottom - y) // _LINE
        if len(lines) > room:
            kept = max(0, room - 1)
            lines = [*lines[:kept], [(f"... {len(lines) - kept} more lines", FAINT)]]
        for line in lines:
            at: float = x
            for text, code in line:
                font = self.bold if code in (BOLD, TARGET) else self.plain
                if code == TARGET:
                    box = (at, y, at + self.advance * _columns(text), y + _LINE - 1)
                    self.draw.rectangle(box, fill=_INK)
                self.draw.text((at, y), text, font=font, fill=_ON_PAPER[code])
                at += self.advance * _columns(text)
            y += _LINE
        return y


def _wrapped(lines: Sequence[Line], columns: int) -> Iterator[Line]:
    """Break lines between words, so that none is wider than `columns`."""
    for line in lines:
        row: Line = []
        used = 0
        for text, code in line:
            for word in _words(text, columns):
                if used + _columns(word) > columns:
                    if row and row[-1][0].isspace():
                        row.pop()
                    yield row
                    row, used = [], 0
                    if word.isspace():
                        continue
                row.append((word, code))
                used += _columns(word)
        yield row


def _words(text: str, columns: int) -> Iterator[str]:
    """Words and the spaces between them, none wider than `columns`."""
    # Line breaks inside a text, and letters that cannot be drawn, become spaces.
    drawn = "".join(letter if letter.isprintable() else " " for letter in text)
    for word in re.findall(r"\s+|\S+", drawn):
        if _columns(word) <= columns:
            yield word
        else:
            size = columns // 2  # in letters of two places
            yield from (word[i : i + size] for i in range(0, len(word), size))


def _columns(text: str) -> int:
    """Width of a text in letters; East Asian ones are two wide."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
