"""What a step looks like to a person: the prompt, the reply, and where the target landed.

Each agent has a colour, in which its choice and its part of the prompt are written. Colours are
plain ANSI codes; with the environment variable ``NO_COLOR`` there are none. Nothing else in a
picture can steer a terminal: ids, titles and replies go through `rpp_env.text.printable`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rpp_env.errors import InvalidOption
from rpp_env.patterns import AGENTS
from rpp_env.prompts import Prompt
from rpp_env.text import printable

if TYPE_CHECKING:
    from rpp_env.core import RPPEnv
    from rpp_env.task import Ranking, RankingTask

__all__ = ["RENDER_MODES", "check_render_mode", "render", "show"]

RENDER_MODES = ["ansi", "human"]
"""``"ansi"`` returns a text, ``"human"`` writes it to the terminal."""

COLOURS = dict(zip(AGENTS, (35, 36, 33, 32), strict=True))  # magenta, cyan, yellow, green
BOLD, FAINT, TARGET = "1", "2", "1;7"
WIDTH = 88


def check_render_mode(mode: str | None, allowed: Sequence[str] = RENDER_MODES) -> str | None:
    """`mode`, or InvalidOption where it is not one of `allowed`."""
    if mode is not None and mode not in allowed:
        raise InvalidOption(
            f"render_mode must be None or one of {', '.join(allowed)}, not {mode!r}"
        )
    return mode


def show(env: RPPEnv, mode: str | None) -> str | None:
    """The last step of the first user: returned (``"ansi"``), written out (``"human"``), or not."""
    if mode is None:
        return None
    picture = render(env)
    if mode == "ansi":
        return picture
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    # A terminal that knows no frames and bars gets their names.
    sys.stdout.write(picture.encode(encoding, "backslashreplace").decode(encoding))
    return None


def render(env: RPPEnv, user: int = 0) -> str:
    """The last step of one user as a text that ends in a line break.

    Parameters
    ----------
    env : RPPEnv
        After a reset. Before the first step the task alone is shown.
    user : int
        Place in the batch.
    """
    paint = _plain if "NO_COLOR" in os.environ else _paint
    step = env.last_step
    if step is None:
        task = env.tasks.task(int(env.playing[user]))
        last = printable(task.history[-1])
        return "\n".join(
            [
                _rule(paint, f"{env.rules.id}  user {printable(task.user)}  nothing asked yet"),
                f"{len(task.history)} items of history, the last one {last!r}",
                f"{len(task.candidates)} candidates",
                "",
            ]
        )
    infos = {name: values[user].item() for name, values in step.infos.items()}
    task = env.tasks.task(int(step.rows[user]))
    (choice,) = env.book.choose(step.actions[user : user + 1])
    prompt = Prompt(task, choice, infos["shown"]) if step.prompts is None else step.prompts[user]
    ranking = None if step.rankings is None else step.rankings[user]
    actions = step.actions[user].tolist()
    label = env.book.history_records[actions[1]]
    shown = f"{label}: {infos['shown']} of {len(task.history)} shown"
    options = (choice.role or "(no role)", shown, choice.reasoning, choice.output)
    sent = (prompt.choice.role, shown, prompt.choice.reasoning, prompt.choice.output)
    K = str(len(task.candidates))
    when = f"step {step.clock[user]} of {env.max_cycles}"
    lines = [_rule(paint, f"{env.rules.id}  user {printable(task.user)}  {when}")]
    for agent, action, said, new in zip(AGENTS, actions, options, sent, strict=True):
        rows = [(f"{agent:<20}{action}  ", said)]
        if new and new != said:  # an empty one is the role that there is not
            rows.append((f"{'rewritten':>20}   ", new))
        lines += [
            paint(left, BOLD) + paint(printable(text.replace("{k}", K)), COLOURS[agent])
            for left, text in rows
        ]
    title = "prompt"
    if env.rewrite is not None:
        title += f"  {infos['rewritten']} rewritten, {infos['rewrite_fallbacks']} rewrites refused"
    lines += [_rule(paint, title), _prompt(paint, prompt)]
    if ranking is None:
        lines.append(_rule(paint, "replayed from a table, which keeps orders and no words"))
    else:
        cost = f"{ranking.prompt_tokens} + {ranking.completion_tokens} tokens"
        lines += [_rule(paint, f"reply  {cost}"), _reply(paint, ranking, prompt.task)]
    lines += [
        _rule(paint, "what it was worth"),
        _verdict(paint, infos, prompt, step.rewards[user]),
        "",
    ]
    return "\n".join(lines)


def _prompt(paint: _Paint, prompt: Prompt) -> str:
    """The text as it was sent, its parts in the colours of their agents, the target marked."""
    choice, K = prompt.choice, str(len(prompt.task.candidates))
    part = {
        printable(sentence.replace("{k}", K)): COLOURS[agent]
        for sentence, agent in (
            (choice.role, "role_playing"),
            (choice.history_lead, "history_records"),
            (choice.reasoning, "reasoning_guidance"),
            (choice.output, "output_format"),
        )
    }
    painted = []
    for paragraph in printable(prompt.text).split("\n\n"):
        lines = paragraph.split("\n")
        colour = part.get(lines[0])
        if colour is None:  # the candidates, which no agent touches
            mark = f". {printable(prompt.task.target)}"
            lines = [paint(line, TARGET) if line.endswith(mark) else line for line in lines]
        else:
            lines = [paint(line, colour) for line in lines]
        painted.append("\n".join(lines))
    return "\n\n".join(painted)


def _reply(paint: _Paint, ranking: Ranking, task: RankingTask) -> str:
    if not ranking.text.strip():
        return paint("(nothing was said)", FAINT)
    # A title that goes on is another one: "The River" is not "The River II".
    title = re.compile(rf"(?<!\w){re.escape(printable(task.target))}(?!\s?\w)")
    number = str(task.position + 1)
    return "\n".join(
        paint(line, TARGET) if title.search(line) or line.strip() == number else line
        for line in printable(ranking.text).rstrip("\n").split("\n")
    )


def _verdict(paint: _Paint, infos: dict[str, float], prompt: Prompt, reward: float) -> str:
    target, K = printable(prompt.task.target), len(prompt.task.candidates)
    place = f"was ranked {infos['rank']} of {K}" if infos["rank"] else "was not named"
    said = "all candidates named" if infos["named"] == K else f"{infos['named']} of {K} named"
    if infos["trimmed"]:
        said += f", {infos['trimmed']} history items left out to fit"
    filled = round(20 * reward)
    bar = paint("█" * filled, COLOURS["output_format"]) + paint("░" * (20 - filled), FAINT)
    return (
        f"{paint(target, TARGET)}, shown as number {prompt.task.position + 1}, {place}; {said}\n"
        f"NDCG@10 {paint(f'{reward:.3f}', BOLD)}  {bar}"
    )


class _Paint:
    """Wraps texts in ANSI codes, or does not."""

    def __init__(self, coloured: bool) -> None:
        self.coloured = coloured

    def __call__(self, text: str, code: int | str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.coloured and text else text


_paint, _plain = _Paint(True), _Paint(False)


def _rule(paint: _Paint, title: str) -> str:
    return paint(f"── {title} {'─' * max(3, WIDTH - len(title) - 4)}", FAINT)
