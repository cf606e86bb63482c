"""README and docs agree with the command: every line, option, name and default that they print.

The tables of options in docs/cli.md are the help of the command. Where they differ,
``RPP_WRITE_DOCS=1 python -m pytest tests/agents/test_docs.py`` writes them anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rpp_agents import SOLVERS, TRAINERS
from rpp_agents.cli import COMMANDS, main, parse
from rpp_agents.commands import serve
from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.plan import Study
from rpp_agents.world import World, option_name
from rpp_env.data import KNOWN
from rpp_env.data.download import SOURCES
from rpp_env.factory import Options
from rpp_env.models.pretrained import PRETRAINED
from rpp_env.rewriting import LLMRewriter
from rpp_env.rules import IDS
from rpp_env.sim.movieworld import LEVELS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        *ROOT.glob("docs/[!_]*.md"),
        *ROOT.glob("docs/environments/*.md"),
        *ROOT.glob("docs/tutorials/*.md"),
        *ROOT.glob("checkpoints/*/*.md"),
    ]
)
CLI = ROOT / "docs" / "cli.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OTHERS = {
    # pip
    "--index-url",
    "--no-deps",
    # ray
    "--address",
    "--generate",
    "--head",
    "--port",
    "--resources",
    # vLLM, beyond what we start it with
    "--block-size",
    "--logprobs-mode",
    "--tensor-parallel-size",
}
"""Options of other programs that the pages name."""


def shell_lines(text: str) -> Iterator[str]:
    for language, block in FENCED.findall(text):
        if language not in ("", "sh", "bash", "shell", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            yield line.strip().removeprefix("$ ")


def commands(text: str) -> Iterator[list[str]]:
    """The words behind ``rpp-env``, in blocks of shell lines and in spans of code."""
    spans = SPAN.findall(FENCED.sub("", text))
    for line in [*shell_lines(text), *(" ".join(span.split()) for span in spans)]:
        if "rpp-env" not in line:
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a sentence with an apostrophe
            continue
        for part in _split(words, ("|", "&&", ";")):
            while part and re.fullmatch(r"[A-Z_]+=.*", part[0]):
                part = part[1:]  # noqa: PLW2901 - what is set for the command alone
            if part and part[0] == "rpp-env":
                yield part[1:]


def _split(words: list[str], marks: tuple[str, ...]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word in marks:
            yield part
            part = []
        else:
            part.append(word)
    yield part


FOUND = [(page, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]


def bound(words: list[str]) -> Mapping[str, Any]:
    """The arguments that a command line gives its verb, without running it."""
    errors, run = io.StringIO(), None
    with (
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        run = parse(words)
    assert not errors.getvalue(), f"rpp-env {shlex.join(words)}\n{errors.getvalue()}"
    return run.keywords if isinstance(run, functools.partial) else {}


# ---- docs to command ----


def test_the_pages_have_commands() -> None:
    assert len(FOUND) > 40
    assert {words[0] for _, words in FOUND if words} >= set(COMMANDS) - {"report"}


@pytest.mark.parametrize(
    ("page", "words"), FOUND, ids=[f"{page.name}: {' '.join(words)}" for page, words in FOUND]
)
def test_a_command_line_is_one(page: Path, words: list[str]) -> None:
    if any(word.startswith("mine:") for word in words):
        pytest.skip("names a file that the page has the reader write; tests/agents/test_samples.py")
    if words[:1] == ["VERB"]:
        words = ["play", *words[1:]]
    if len(words) <= 1:  # a verb by its name
        assert set(words) <= {*COMMANDS, "--help"}
        return
    given = bound(words)
    world = given.get("world")
    if isinstance(world, World) and "/" not in world.dataset:
        assert world.dataset in {*KNOWN, *LEVELS}
        own = world.model in {*PRETRAINED, *(system.model for system in IDS.values())}
        assert own or re.match(
            r"(table|recording|checkpoint|vllm|hf):.|https?://\S+#\S", world.model
        )
    name = words[1]
    if words[0] == "data":
        assert words[1] != "get" or words[2] in SOURCES
    if words[0] in ("bench", "study") and not name.endswith(".toml"):
        plan: Any = (Bench if words[0] == "bench" else Study).load(name)
        assert plan.runs(given.get("only", ()))


def test_every_option_belongs_to_an_id() -> None:
    helps = [(verb,) for verb in COMMANDS] + [("train", name) for name in (*TRAINERS, *SOLVERS)]
    helps += [("play", "--rules", rules) for rules in IDS]
    rows = [row for words in helps for row in options_of(*words)]
    known = {one for option, value, _ in rows for one in OPTION.findall(f"{option} {value}")}
    known |= {"--help", "--version", *OTHERS}
    known |= {word for word in serve.command("m", device="cpu")[0] if word.startswith("--")}
    for script in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*.py")]:
        known |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', script.read_text("utf-8")))
    for page in PAGES:
        named = set(OPTION.findall(page.read_text(encoding="utf-8")))
        assert named <= known, f"{page.name} names {named - known}"


def test_vllms_command_is_the_one_that_we_print() -> None:
    words = serve.command("m", device="gpu")[0]
    ours = dict(itertools.pairwise(words))
    lines = [
        shlex.split(line, comments=True)
        for page in PAGES
        for line in shell_lines(page.read_text(encoding="utf-8"))
        if "vllm serve" in line or "vllm.entrypoints" in line
    ]
    assert len(lines) >= 3
    for words in lines:
        given = dict(itertools.pairwise(words))
        for option in ("--max-logprobs", "--generation-config"):
            assert given.get(option) == ours[option], shlex.join(words)


def test_shipped_files_are_named_in_the_help() -> None:
    for verb in ("bench", "study"):
        (text,) = (said for _, _, said in boxes(verb)["positional arguments"])
        named = text.partition("(")[2].partition(")")[0].split(", ")
        shipped = (ROOT / "agents/rpp_agents/experiments/presets" / verb).glob("*.toml")
        assert named == sorted(path.stem for path in shipped)


def test_pictures_exist_and_have_alternative_texts() -> None:
    count = 0
    for page in PAGES:
        for alt, target in re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text(encoding="utf-8")):
            if target.startswith("https://img.shields.io/") or target.endswith("/badge.svg"):
                continue
            count += 1
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
            assert len(alt.split()) > 8, f"{page.name}: what does {target} show?"
    assert count > 20


# ---- command to docs ----


@functools.cache
def boxes(*words: str) -> dict[str, list[tuple[str, str, str]]]:
    """What the help of a verb prints: in each box (option, value, what it does)."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "2000")  # each option on one line
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*words, "--help"])
    printed.seek(0)
    found: dict[str, list[tuple[str, str, str]]] = {}
    for box in in_one_column(printed.read()).split("╭─ ")[1:]:
        head, *lines = box.splitlines()
        texts = [line.strip("│")[1:] for line in lines if line.startswith("│")]
        if texts[1:] and set(texts[1].strip()) == {"─"}:  # what the box is about
            texts = texts[2:]
        rows = found[head.strip("─╮ ")] = []
        indent = " " * 12  # of what goes on with the line above
        whole: list[str] = []
        for text in texts:
            if text.startswith(indent) and whole:
                gap = " " if "  " in whole[-1] else "  "  # a long option has a line of its own
                whole[-1] += gap + text.strip()
            else:
                whole.append(text.strip())
        for line in whole:
            invocation, _, said = line.partition("  ")
            option, _, value = invocation.partition(" ")
            if option != "-h,":
                rows.append((option.strip(","), value, said.strip()))
    return found


def in_one_column(text: str) -> str:
    """The boxes of a long help, which stand in two columns, below each other."""
    lines = text.splitlines()
    begins = next((line.index("╮╭") + 1 for line in lines if "╮╭" in line), 10_000)
    return "\n".join([*(line[:begins] for line in lines), *(line[begins:] for line in lines)])


def options_of(*words: str) -> list[tuple[str, str, str]]:
    return [row for rows in boxes(*words).values() for row in rows]


def table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| option | what it does |", "|---|---|"]
    for option, value, said in rows:
        name = f"{option} {value}".strip().replace("|", "\\|")
        lines.append(f"| `{name}` | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """The table of each place in docs/cli.md."""
    found = {}
    for verb in COMMANDS:
        inside = boxes(*(["train", "mappo"] if verb == "train" else [verb]))
        own = [row for name in ("positional arguments", "options") for row in inside.get(name, [])]
        if own:
            found[verb] = table(own)
    from rpp_agents.training import RunConfig

    shared = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(RunConfig)}
    train = boxes("train", "mappo")
    found["environment"] = table(train["environment options"])
    found["algorithm"] = table([row for row in train["mappo options"] if row[0] in shared])
    return found


def test_option_tables_equal_the_help_texts() -> None:
    text = CLI.read_text(encoding="utf-8")
    written = text
    for place, rows in tables().items():
        begin = f"<!-- options: {place} -->\n"
        assert begin in text, f"docs/cli.md has no table of the options of {place}"
        before, _, rest = written.partition(begin)
        _, end, after = rest.partition("<!-- end -->")
        written = before + begin + rows + "\n" + end + after
    if os.environ.get("RPP_WRITE_DOCS"):
        CLI.write_text(written, encoding="utf-8")
    assert written == text, "docs/cli.md is not the command's help: see the top of this file"


def test_all_of_the_environments_options_are_in_every_verb_that_plays() -> None:
    names = {field.name for kind in (World, Options) for field in dataclasses.fields(kind)}
    names -= {"options", "generation"}  # a table of the others, and an object of Python
    fields = {option_name(name).replace("num-candidates", "candidates") for name in names}
    for words in (
        ["play"],
        ["train", "qmix"],
        ["evaluate"],
        ["diagnose"],
        ["tabulate"],
        ["export"],
    ):
        assert {row[0] for row in boxes(*words)["environment options"]} == fields


# ---- defaults ----


def test_the_rewriters_defaults_are_those_of_its_page() -> None:
    page = (ROOT / "docs" / "rewriting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE)
    parameters = inspect.signature(LLMRewriter).parameters
    assert {name for name, _ in rows} == set(parameters)
    numbers = [name for name in parameters if isinstance(parameters[name].default, int)]
    assert numbers == ["history", "max_characters"]
    for name in numbers:
        assert dict(rows)[name] == str(parameters[name].default)
    assert re.findall(r"\w+", dict(rows)["scope"]) == list(parameters["scope"].default)
