"""First lines of docstrings: each stands alone in `help()`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((*(ROOT / "rpp_env").rglob("*.py"), *(ROOT / "agents").rglob("*.py")))
NO_BEGINNING = re.compile(
    r"(what|who|whose|how|where|whether|which|when|why|of|so|and|but|or|as|it|its|they|their|this|"
    r"that|these|those|he|does|is|are|can|has|not)\b",
    re.IGNORECASE,
)
"""Words that begin a relative clause, a fragment or a question."""


SHAPE = re.compile(r"\([^()]*(\([^()]*\)[^()]*)?\)( float32| int64| int32| bool| int8)?[:,]? ")
"""The shape that many properties and functions begin with."""


def fault(line: str) -> str:
    """Return the reason why a first line does not stand alone, or an empty text."""
    line = SHAPE.sub("", line, count=1) if line.startswith("(") else line
    if (begins := NO_BEGINNING.match(line)) is not None:
        return f"begins with {begins[0]!r}: use an imperative or a noun phrase"
    return "" if line.endswith((".", ":")) else "must end with a full stop, in one line"


def public(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names and docstrings of a module and of its public classes, functions and methods."""

    def inside(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, str]]:
        yield prefix, ast.get_docstring(node) or ""
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef) or child.name.startswith("_"):
                continue
            name = f"{prefix}.{child.name}".strip(".")
            if isinstance(child, ast.ClassDef):
                yield from inside(child, name)
            else:
                yield name, ast.get_docstring(child) or ""

    return inside(tree, "")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_lines_stand_alone(path: Path) -> None:
    found = public(ast.parse(path.read_text(encoding="utf-8")))
    lines = [(name or path.stem, text.partition("\n")[0]) for name, text in found if text]
    assert [(name, line, said) for name, line in lines if (said := fault(line))] == []


@pytest.mark.parametrize(
    "line",
    [
        "Who chooses.",
        "What followed a step.",
        "Of the training.",
        "Whether it runs.",
        "(B,): how many there are.",
        "The mean of the",
        "Is it done?",
    ],
)
def test_fragments_are_found(line: str) -> None:
    assert fault(line)
    assert not fault("Return the mean.")
