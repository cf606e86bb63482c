"""Draw one step of RPP-v0: the prompt's parts in colour, the reply, and where the target landed.

    python docs/step_picture.py

writes docs/images/step-light.svg and step-dark.svg, the pictures of README and the site's first
page, from a real step of movieworld with the embedded model. A test compares them with the program.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

import rpp_env

IMAGES = Path(__file__).parent / "images"
ACTIONS = (1, 4, 4, 0)  # role, history, reasoning, output
WIDTH, MARGIN, LINE, SIZE = 960, 20, 20, 14
LEFT, RIGHT = 560, 320  # of the two columns
LETTER = 7.4  # pixels of a letter, generously: fonts differ

FONT = "-apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
THEMES = {
    "light": {
        "paper": "#ffffff",
        "card": "#f6f7f9",
        "edge": "#d0d7de",
        "ink": "#1f2430",
        "grey": "#57606a",
        "target": "#fff3bf",
        "agents": ("#a21caf", "#0e7490", "#8a5300", "#15803d"),
    },
    "dark": {
        "paper": "#0d1117",
        "card": "#161b22",
        "edge": "#3d444d",
        "ink": "#e6edf3",
        "grey": "#9da7b1",
        "target": "#4b3f00",
        "agents": ("#f0abfc", "#67e8f9", "#fcd34d", "#86efac"),
    },
}


@dataclass(frozen=True)
class Step:
    """What the picture shows of a step."""

    parts: tuple[tuple[str, int | None, list[str]], ...]
    """Of the prompt, in order: a label, the agent, the lines."""
    reply: list[str]
    target: str
    verdict: str
    reward: float


def taken() -> Step:
    """The step that is drawn."""
    env = rpp_env.RPPEnv.make("movieworld", split="test", num_envs=1, seed=0)
    env.reset(seed=0)
    step = env.step([list(ACTIONS)])
    prompt, ranking, task = step.prompts[0], step.rankings[0], step.tasks[0]
    role, history, candidates, reasoning, output = prompt.text.split("\n\n")
    names = [f"{name}: option {action}" for name, action in zip(env.agents, ACTIONS, strict=True)]
    target = f"{task.position + 1}. {task.target}"
    said = [line for line in ranking.text.splitlines() if line[:1].isdigit()]
    rank = int(step.infos["rank"][0])
    return Step(
        parts=(
            (names[0], 0, [role]),
            (names[1], 1, shortened(history.splitlines(), 2)),
            ("the user's candidates", None, shortened(candidates.splitlines(), 2, target)),
            (names[2], 2, [reasoning]),
            (names[3], 3, output.splitlines()),
        ),
        reply=shortened(said, 5),
        target=task.target,
        verdict=f"was ranked {rank} of {len(task.candidates)}",
        reward=float(step.rewards[0]),
    )


def shortened(lines: list[str], kept: int, target: str | None = None) -> list[str]:
    """The first lines, the target's, and how many are left out."""
    shown = lines[: kept + 1] if target is not None or len(lines) > kept + 3 else lines
    left = len(lines) - len(shown)
    if target is None:
        return shown + ([f"... {left} more"] if left else [])
    if target in shown:
        return [*shown, f"... {left} more"]
    at = lines.index(target)
    before, after = at - len(shown), len(lines) - at - 1
    marks = [f"... {before} more"] if before else []
    return [*shown, *marks, target, *([f"... {after} more"] if after else [])]


class Drawing:
    """Collects the elements of a picture."""

    def __init__(self, colours: dict[str, object]) -> None:
        self.colours, self.elements = colours, list[str]()

    def text(self, x: float, y: float, text: str, colour: str, *, bold: bool = False) -> None:
        weight = ' font-weight="600"' if bold else ""
        self.elements.append(f'<text x="{x}" y="{y}" fill="{colour}"{weight}>{escape(text)}</text>')

    def box(self, x: float, y: float, w: float, h: float, fill: str, edge: str = "none") -> None:
        self.elements.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{fill}" stroke="{edge}"/>'
        )


def wrapped(line: str, width: float) -> list[str]:
    return textwrap.wrap(line, int(width / LETTER), break_on_hyphens=False) or [""]


def draw(step: Step, theme: str) -> str:
    """The picture as SVG."""
    of = THEMES[theme]
    page = Drawing(of)
    card, edge, ink, grey = (str(of[name]) for name in ("card", "edge", "ink", "grey"))
    agents = [str(colour) for colour in of["agents"]]  # type: ignore[union-attr]
    y = MARGIN + LINE
    page.text(MARGIN, y - 4, "Four agents choose the prompt", ink, bold=True)
    top = y + 8
    y = top + 10
    body: list[tuple[float, float, int | None]] = []
    inner = LEFT - 44
    for label, agent, lines in step.parts:
        colour = grey if agent is None else agents[agent]
        start = y
        y += LINE
        page.text(MARGIN + 24, y - 4, label, colour, bold=True)
        for line in lines:
            for row in wrapped(line, inner):
                y += LINE
                if row.endswith(f". {step.target}"):
                    page.elements.append(mark(MARGIN + 20, y - 16, inner, str(of["target"])))
                page.text(MARGIN + 24, y - 2, row, grey if row.startswith("... ") else ink)
        body.append((start + 4, y - start, agent))
        y += 12
    bottom = y
    front = Drawing(of)
    front.box(MARGIN, top, LEFT, bottom - top, card, edge)
    for start, height, agent in body:
        front.elements.append(
            f'<rect x="{MARGIN + 10}" y="{start}" width="4" height="{height}" rx="2" '
            f'fill="{edge if agent is None else agents[agent]}"/>'
        )
    x = WIDTH - MARGIN - RIGHT
    page.text(x, MARGIN + LINE - 4, "A frozen recommender replies", ink, bold=True)
    rows = [row for line in step.reply for row in wrapped(line, RIGHT - 28)]
    front.box(x, top, RIGHT, LINE * len(rows) + 22, card, edge)
    y = top + 8
    for row in rows:
        y += LINE
        if row.endswith(f". {step.target}"):
            page.elements.append(mark(x + 10, y - 16, RIGHT - 20, str(of["target"])))
        page.text(x + 14, y - 2, row, grey if row.startswith("... ") else ink)
    y = top + LINE * len(rows) + 22 + 2 * LINE
    page.text(x, y, "All agents get this reward", ink, bold=True)
    y += 14
    said = [
        *wrapped(step.target, RIGHT - 28),
        *wrapped(f"{step.verdict}; the user chose it next", RIGHT - 28),
    ]
    front.box(x, y, RIGHT, LINE * len(said) + 76, card, edge)
    for i, row in enumerate(said):
        y += LINE
        page.text(x + 14, y + 4, row, ink, bold=i == 0)
    y += 34
    page.text(x + 14, y, f"NDCG@10 {step.reward:.3f}", agents[3], bold=True)
    width = RIGHT - 28
    front.box(x + 14, y + 12, width, 12, edge)
    front.box(x + 14, y + 12, round(width * step.reward, 1), 12, agents[3])
    height = bottom + MARGIN
    about = (
        "Four agents each choose an option of one part of the prompt. "
        f"The recommender's reply: {step.target} {step.verdict}. NDCG@10 {step.reward:.3f}."
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="{FONT}" font-size="{SIZE}" role="img">'
    )
    return "\n".join(
        [
            head,
            f"<title>One step of RPP-v0</title>\n<desc>{escape(about)}</desc>",
            f'<rect width="{WIDTH}" height="{height}" fill="{of["paper"]}"/>',
            *front.elements,
            *page.elements,
            "</svg>\n",
        ]
    )


def mark(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{LINE}" rx="4" fill="{colour}"/>'


def main() -> None:
    step = taken()
    for theme in THEMES:
        (IMAGES / f"step-{theme}.svg").write_text(draw(step, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
