"""Servers, paths and code named in others' files are not used without confirmation."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rpp_agents import trust
from rpp_agents.cli import main
from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.files import slug
from rpp_agents.experiments.plan import Study
from rpp_agents.world import World, run_world
from rpp_env import RPPEnv
from rpp_env.errors import InvalidData, InvalidOption, ModelUnavailable
from rpp_env.evaluation.baselines import Random
from rpp_env.plugins import FromFile
from rpp_env.rewriting import open_rewriter

NEVER = "http://127.0.0.1:9/v1#stolen"
"""An address that must not be contacted."""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A run folder of somebody else, with a working policy."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    Random((5, 5, 9, 5), seed=0).save(folder / "policy.safetensors")
    return folder


def says(folder: Path, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / World.FILE).write_text(text)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(*_: Any) -> None:
        raise AssertionError("a server was asked")

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setattr("rpp_env.models.transport.Transport._once", send)
    monkeypatch.setattr("sys.stdin", io.StringIO())


OUTSIDE: dict[str, dict[str, Any]] = {
    "a server": {"model": NEVER},
    "a rewriting server": {"rewrite": NEVER},
    "weights of a hub": {"model": "hf:somebody/something"},
    "an engine": {"model": "vllm:/somewhere"},
    "code": {"model": "os:abort"},
    "code that makes a dataset": {"dataset": "os:abort"},
    "code that rewrites": {"rewrite": "os:abort"},
    "a table": {"model": "table:/etc/passwd"},
    "a recording to read": {"model": "recording:/etc/passwd"},
    "a recording to write": {"recording": "OUTSIDE/made.sqlite"},
    "a data folder": {"root": "OUTSIDE"},
    "a dataset's folder": {"dataset": "OUTSIDE"},
    "a folder above": {"dataset": "../../.."},
    "a selection": {"negatives": "retrieved", "selection": "/etc/passwd"},
    "a book": {"book": "/etc/passwd.toml"},
    "code that makes a book": {"book": "os:abort"},
}


@pytest.mark.parametrize("verb", ["play", "evaluate"])
@pytest.mark.parametrize("asks", OUTSIDE)
def test_a_folder_is_not_followed_outside_itself(
    verb: str, asks: str, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    named = {key: value.replace("OUTSIDE", str(outside)) for key, value in OUTSIDE[asks].items()}
    says(theirs, named)
    assert main([verb, str(theirs)]) == 2
    err = capsys.readouterr().err
    assert "asks for what lies outside it" in err
    key, value = list(named.items())[-1]
    assert f"--{key} " in err
    assert "--trust " in err
    assert value in err
    assert not list(outside.iterdir())


def test_options_given_again_are_followed(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    says(theirs, {"model": NEVER, "dataset": "nowhere-at-all"})
    assert main(["play", str(theirs), "--model", "embedded"]) == 2
    err = capsys.readouterr().err
    assert "--dataset nowhere-at-all" in err
    assert NEVER not in err
    assert main(["play", str(theirs), "--model=embedded", "--dataset", "movieworld"]) == 0
    says(theirs, {"dataset": "nowhere-at-all"})
    for more in (["--dataset", "nowhere-at-all"], ["--trust", "nowhere-at-all"]):
        assert main(["play", str(theirs), *more]) == 2
        assert "dataset 'nowhere-at-all' is not known" in capsys.readouterr().err
    says(theirs, {"dataset": "nowhere-at-all", "model": NEVER})
    assert main(["play", str(theirs), "--trust", "nowhere-at-all"]) == 2
    err = capsys.readouterr().err
    assert f"--model {trust._visible(NEVER)}" in err
    assert "nowhere-at-all" not in err.partition("theirs")[2]


@pytest.mark.parametrize(("answer", "said"), [("y\n", "is not known"), ("\n", "not confirmed")])
def test_a_terminal_is_asked(
    answer: str,
    said: str,
    theirs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    says(theirs, {"dataset": "nowhere-at-all"})
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["play", str(theirs)]) == 2
    err = capsys.readouterr().err
    assert "[y/N]" in err
    assert said in " ".join(err.split())


def sent_keys(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The servers that are opened from now on, and whether each gets a key."""
    opened = []

    class Server:
        id, context_length, capabilities = "server", 4096, frozenset[str]()

        def __init__(self, address: str, served: str, *, send_key: bool = True) -> None:
            opened.append((f"{address}#{served}", send_key))

        def complete(self, requests: Any) -> Any:
            raise ModelUnavailable("not here")

    monkeypatch.setattr("rpp_env.models.openai.OpenAIModel", Server)
    return opened


def test_a_server_that_a_folder_names_gets_no_key(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = sent_keys(monkeypatch)
    says(theirs, {"model": NEVER, "rewrite": NEVER + "r"})
    main(["play", str(theirs), "--trust", NEVER, NEVER + "r"])
    assert set(opened) == {(NEVER, False), (NEVER + "r", False)}
    opened.clear()
    main(["play", str(theirs), "--model", NEVER, "--rewrite", NEVER + "r"])
    assert set(opened) == {(NEVER, True), (NEVER + "r", True)}


def test_a_server_that_a_study_names_gets_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = sent_keys(monkeypatch)
    setting = {"name": "s", "model": NEVER, "train_users": 2, "options": {"num_users": 60}}
    rpp = {"label": "r", "method": "rpp", "config": {"rewrite": NEVER + "r"}}
    file = written(tmp_path / "theirs.toml", STUDY | {"settings": [setting], "methods": [rpp]})
    words = ["study", str(file), "--out", str(tmp_path / "out"), "--processes", "1"]
    assert main([*words, "--trust", NEVER, NEVER + "r"]) == 2
    assert opened
    study = Study.load(file, [NEVER, NEVER + "r"])
    assert isinstance(study.settings[0].model, FromFile)
    open_rewriter(study.methods[0].config["rewrite"])
    assert {key for _, key in opened} == {False}


def test_terminal_control_characters_are_escaped() -> None:
    with pytest.raises(InvalidOption) as error:
        trust.confirm("x\x1b[2J", {"--model": "a\x1b]0;b\x07\u202e'c"}, (), "no")
    assert str(error.value).isprintable()
    assert r"$'a\x1b]0;b\x07\u202e\'c'" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        '"movieworld"',
        "[" * 100_000,
        '{"dataset": ' + "[" * 100_000,
        '{"data_seed": ' + "9" * 5_000 + "}",
        " " * (1 << 21),
        "\x00",
        '{"dataset": 5}',
        '{"dataset": null}',
        '{"dataset": ["movieworld"]}',
        '{"observe": "all"}',
        '{"rules": "RPP-v9"}',
        '{"candidates": "20"}',
        '{"candidates": 1e3}',
        '{"data_seed": true}',
        '{"model": {"url": "x"}}',
        '{"places": {}}',
        '{"__class__": "x"}',
        '{"FILE": "/etc/passwd"}',
        '{"datset": "movieworld"}',
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_damaged_world_is_one_line(
    content: str, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says(theirs, content)
    for verb in ("play", "evaluate"):
        assert main([verb, str(theirs)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("rpp-env: ")
        assert err.count("\n") == 1
        assert len(err) < 2_000
    with pytest.raises((InvalidData, InvalidOption)):
        World.load(theirs)


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "nothing", "folder"])
def test_a_world_that_is_no_file_is_not_left_out(
    kind: str, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else another world would be played than the folder's, without a word."""
    place = theirs / World.FILE
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to({"device": "/dev/zero", "loop": place.name}.get(kind, "nothing"))
    for verb in ("play", "evaluate"):
        assert main([verb, str(theirs)]) == 2
        assert World.FILE in capsys.readouterr().err


@pytest.mark.parametrize("sizes", [(2, 3), (7,), (5, 5, 9, 5, 2), (5, 5, 5, 5)])
def test_a_random_policy_of_another_shape_is_a_sentence(
    sizes: tuple[int, ...], theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says(theirs, {})
    Random(sizes, seed=0).save(theirs / "policy.safetensors")
    assert main(["play", str(theirs)]) == 2
    assert f"draws for {len(sizes)} agents" in capsys.readouterr().err


def test_only_words_that_name_a_run_are_read_as_one(theirs: Path) -> None:
    says(theirs, {"rules": "RPPBandit-v0"})
    found = run_world(["--user", "u1", str(theirs)])
    assert found is None or found.rules == "RPPBandit-v0"
    assert run_world([str(theirs)]) == World(rules="RPPBandit-v0")
    assert run_world(["--root", str(theirs)]) is None
    assert run_world(["random"]) is None


def test_a_folder_that_names_nothing_outside_is_played(theirs: Path) -> None:
    says(theirs, {"dataset": "Movieworld", "rules": "RPPBandit-v0", "rewrite": "embedded"})
    assert main(["play", str(theirs)]) == 0


# ---- benches and studies ----

ROW = {"label": "x", "method": "manual"}
STUDY: dict[str, Any] = {"settings": [{"name": "tiny"}], "methods": [ROW]}
BENCH: dict[str, Any] = {
    "total_steps": 1,
    "seeds": [0],
    "worlds": [1],
    "environments": [{"name": "e"}],
    "algorithms": [{"label": "a", "trainer": "mappo"}],
}


def written(path: Path, table: dict[str, Any]) -> Path:
    """A TOML file; JSON's lists and texts are TOML's too."""

    def toml(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(toml, value)) + "]"
        return json.dumps(value)

    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in table.items()))
    return path


ASKING: dict[str, tuple[str, dict[str, Any], str]] = {
    "a server": ("study", {"settings": [{"name": "s", "model": NEVER}]}, NEVER),
    "a second server": (
        "study",
        {"settings": [{"name": "s"}, {"name": "t", "model": NEVER}]},
        NEVER,
    ),
    "a rewriting server": (
        "study",
        {"methods": [{"label": "x", "method": "rpp", "config": {"rewrite": NEVER}}]},
        NEVER,
    ),
    "a server in a variant": (
        "study",
        {"methods": [{"label": "{}", "method": "rpp", "variants": {"v": {"rewrite": NEVER}}}]},
        NEVER,
    ),
    "code as method": ("study", {"methods": [{"label": "x", "method": "os:abort"}]}, "os:abort"),
    "code as trainer": (
        "study",
        {"methods": [{"label": "x", "method": "rpp", "config": {"trainer": "os:abort"}}]},
        "os:abort",
    ),
    "code as recommender": (
        "study",
        {"methods": [{"label": "x", "method": "recommender", "config": {"name": "os:abort"}}]},
        "os:abort",
    ),
    "code as model": ("study", {"settings": [{"name": "s", "model": "os:abort"}]}, "os:abort"),
    "code as dataset": ("study", {"settings": [{"name": "s", "dataset": "os:abort"}]}, "os:abort"),
    "code as book": (
        "study",
        {"settings": [{"name": "s", "options": {"book": "os:abort"}}]},
        "os:abort",
    ),
    "code as domain": (
        "study",
        {"settings": [{"name": "s", "options": {"domain": "os:abort"}}]},
        "os:abort",
    ),
    "code in a bench": (
        "bench",
        {"algorithms": [{"label": "a", "trainer": "os:abort"}]},
        "os:abort",
    ),
    "code in a grid": (
        "bench",
        {"algorithms": [{"label": "a", "trainer": "mappo", "grid": [{"device": "os:abort"}]}]},
        "os:abort",
    ),
    "a bench's dataset": ("bench", {"environments": [{"name": "e", "dataset": "os:abort"}]}, "os:"),
    "a bench's recording": (
        "bench",
        {"environments": [{"name": "e", "options": {"recording": "/made.sqlite"}}]},
        "/made.sqlite",
    ),
    "options of a model": (
        "bench",
        {"environments": [{"name": "e", "options": {"model_options": {"proxy": "x"}}}]},
        "proxy",
    ),
}


@pytest.mark.parametrize("asks", ASKING)
def test_a_foreign_file_runs_no_code_and_contacts_no_server(
    asks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, changes, word = ASKING[asks]
    table = (STUDY if verb == "study" else BENCH) | changes
    file = written(tmp_path / "theirs.toml", table)
    for more in ([], ["--dry-run"]):
        assert main([verb, str(file), "--out", str(tmp_path / "out"), *more]) == 2
        err = " ".join(capsys.readouterr().err.split())
        assert "asks for what lies outside it" in err
        assert word in err.partition("--trust")[2]
    assert not (tmp_path / "out").exists()
    if verb == "study":
        (tmp_path / "folder").mkdir()
        written(tmp_path / "folder" / "theirs.toml", table)
        assert main(["report", str(tmp_path / "folder")]) == 2
        assert "asks for what lies outside it" in " ".join(capsys.readouterr().err.split())


def test_each_of_several_places_is_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"name": "a", "model": NEVER}, {"name": "b", "model": NEVER + "2"}]
    file = written(tmp_path / "theirs.toml", STUDY | {"settings": rows})
    assert main(["study", str(file), "--dry-run", "--trust", NEVER]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"settings[1].model {trust._visible(NEVER + '2')}" in err
    assert "settings[0]" not in err
    assert main(["study", str(file), "--dry-run", "--trust", NEVER, NEVER + "2"]) == 0


WRITING = {
    "bench": ("bench", "smoke", "--out", "OUT"),
    "a bench's report": ("bench", "smoke", "--report", "--out", "OUT"),
    "study": ("study", "smoke", "--out", "OUT"),
    "a study's report": ("report", "OUT"),
    "demo": ("demo", "--out", "OUT"),
    "train": ("train", "mappo", "--run-dir", "OUT"),
    "train, several": ("train", "mappo", "--seeds", "0", "1", "--run-dir", "OUT"),
}


@pytest.mark.parametrize("link", ["cells", "tensorboard", "progress.csv", "seed-0", "report.md"])
@pytest.mark.parametrize("command", WRITING)
def test_nothing_is_written_through_a_link_of_a_folder(
    command: str, link: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (outside / "mine").write_text("mine")
    file = link in ("progress.csv", "report.md")
    (out / link).symlink_to(outside / "mine" if file else outside)
    assert main([word.replace("OUT", str(out)) for word in WRITING[command]]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"{link} is a link to" in err
    assert [file.read_text() for file in outside.iterdir()] == ["mine"]
    assert [file.name for file in out.iterdir()] == [link]


def test_a_run_is_not_written_through_a_link(tmp_path: Path) -> None:
    from rpp_agents.trainers import mappo

    env = RPPEnv.make(num_users=60, num_items=100, num_envs=2)
    run, mine = tmp_path / "run", tmp_path / "mine"
    run.mkdir()
    (run / "progress.csv").symlink_to(mine)
    with pytest.raises(InvalidData, match="is a link to"):
        mappo.train(env, mappo.Config(total_steps=4), run_dir=run, progress=False)
    assert not mine.exists()


@pytest.mark.parametrize("place", ["/abs/x.sqlite", "../x.sqlite", "a/../../x.sqlite"])
def test_a_study_records_in_its_folder(place: str, tmp_path: Path) -> None:
    rows = [{"name": "a", "recording": place}]
    with pytest.raises(InvalidOption, match="recording is a file in the study's folder"):
        Study.parse(STUDY | {"settings": rows}, "x")


HOSTILE_NAMES = [
    *("..", ".", "...", "../../x", "a/../../b", "~/x", "/etc/x", "C:\\x", "%2e%2e", "con", "-"),
    *("!!!", "方法", "emoji 🙂", "$x", "$\\frac{", "a|b", "<script>alert(1)</script>", "`x`"),
    *("![a](http://127.0.0.1:9/x)", "a&amp;b", "a{}b", "%s %(x)s {0}", "x" * 100, "*", "?"),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    made = slug(name)
    assert made.strip(".")
    assert "/" not in made
    assert "\\" not in made
    study = Study.parse(
        STUDY | {"settings": [{"name": name}], "methods": [ROW | {"label": name}]}, "x"
    )
    for cell in study.runs():
        inside = (tmp_path / cell.file).resolve()
        assert inside.is_relative_to(tmp_path.resolve() / "cells")
        assert len(inside.relative_to(tmp_path.resolve()).parts) == 4


def test_names_of_before_are_the_same_files() -> None:
    assert slug("RPP+ (MAPPO)") == "rpp-plus-mappo"


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\nb", "a\x1b[2Jb", "a\u202eb", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match="is one line of 1 to 100 characters"):
        Study.parse(STUDY | {"methods": [ROW | {"label": name}]}, "x")
    with pytest.raises(InvalidOption, match="is one line of 1 to 100 characters"):
        Bench.parse(BENCH | {"algorithms": [{"label": name, "trainer": "mappo"}]}, "x")
