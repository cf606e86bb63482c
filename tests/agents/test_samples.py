"""Samples in the docs work: TOML is accepted, and Python runs."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import rpp_env
from rpp_agents.cli import main
from rpp_agents.experiments import bench as bench_plan
from rpp_agents.experiments import plan as study_plan
from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.plan import Study
from rpp_agents.recommenders import fit
from rpp_env.models import echo
from rpp_env.sentences import SentenceCatalog
from rpp_env.testing import check_space

pytestmark = pytest.mark.usefixtures("one_network")

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/tutorials/*.md"), *ROOT.glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page, but for those that are marked as not run."""
    flags = re.MULTILINE | re.DOTALL
    text = re.sub(
        r"^<!-- not run: [^\n]+ -->\n```.*?^```", "", page.read_text("utf-8"), flags=flags
    )
    found = re.findall(rf"^```{language}\n(.*?)^```", text, flags)
    assert all(isinstance(block, str) for block in found)
    return list(found)


def samples(language: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{page.name}-{i}")
        for page in PAGES
        for i, block in enumerate(blocks(page, language))
    ]


# ---- TOML ----

REST: dict[str, Any] = {
    "total_steps": 1,
    "seeds": [0],
    "worlds": [1],
    "environments": [{"name": "x"}],
}
"""Keys that a sample with "as above" leaves out."""


def accept(text: str, tmp_path: Path) -> None:
    table = tomllib.loads(text)
    if "algorithms" in table:
        rest = REST if "as above" in text else {}
        Bench.parse(rest | table, "sample").runs()
    elif "settings" in table:
        Study.parse(table, "sample").runs()
    elif "output_format" in table:
        (tmp_path / "my.toml").write_text(text)
        SentenceCatalog.load(tmp_path / "my.toml")
    else:
        (group,) = table["project"]["entry-points"]
        assert group.startswith("rpp_env.")


@pytest.mark.parametrize(
    "text",
    [s for s in samples("toml") if "mine:train" not in s.values[0] or "project" in s.values[0]],
)
def test_toml_is_accepted_as_printed(text: str, tmp_path: Path) -> None:
    accept(text, tmp_path)


@pytest.mark.parametrize("module", [bench_plan, study_plan], ids=["bench", "study"])
def test_the_sample_of_a_docstring_is_accepted(module: Any, tmp_path: Path) -> None:
    text = (module.__doc__ or "").partition("::\n")[2]
    lines = [line.removeprefix("    ") for line in text.splitlines() if line[:1] in ("", " ")]
    accept("\n".join(lines), tmp_path)


def test_there_are_samples_of_each_kind() -> None:
    every = "".join(param.values[0] for param in samples("toml"))
    for key in ("[[algorithms]]", "[[settings]]", "[[output_format]]", "entry-points"):
        assert key in every


# ---- the tutorial about one's own trainer ----


@pytest.mark.slow
def test_the_tutorials_trainer_gets_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "tutorials" / "your-trainer.md"
    (code,), (plan,) = blocks(page, "python"), blocks(page, "toml")
    small = {"20_000": "640", "300": "16", "200": "12", "[0, 1, 2, 3]": "[0, 1]", "= 5": "= 2"}
    for large, little in small.items():
        assert large in plan
        plan = plan.replace(large, little)
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "my.toml").write_text(plan)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    words = "bench my.toml --out runs/mine --trust mine:train"
    assert words in page.read_text(encoding="utf-8")
    try:
        assert main([*words.split(), "--processes", "1"]) == 0, capsys.readouterr().err
    finally:
        sys.modules.pop("mine", None)
    assert "| mine " in (tmp_path / "runs/mine/report.md").read_text()


# ---- Python ----


@pytest.mark.parametrize("code", samples("python"))
def test_python_compiles(code: str) -> None:
    compile(code.replace("\n...  ", "\npass  "), "sample", "exec")


@pytest.mark.parametrize("page", ["data.md", "prompts.md"])
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in blocks(ROOT / "docs" / page, "toml"):
        Path("my.toml").write_text(text)
    for code in blocks(ROOT / "docs" / page, "python"):
        names: dict[str, Any] = {}
        exec(code, names)  # noqa: S102 - our own page
        if page == "prompts.md":
            assert names["env"].book.sizes == (2, 5, 2, 2)


def test_a_trainer_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / "docs" / "trainers.md", "python")[0]
    code = code.replace("seed=1", "seed=1, total_steps=256, evaluations=1, hidden=(8,)")
    exec(code.replace("search_fixed(env)", "search_fixed(env, budget=1600)"), {})  # noqa: S102
    assert Path("qmix.safetensors").is_file()


# ---- a page whose code is one module ----


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "mine.py").write_text("\n\n".join(blocks(ROOT / "docs" / "plugins.md", "python")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield tmp_path
    sys.modules.pop("mine", None)


def test_the_parts_of_the_page_work_together(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--dataset mine:dataset --model mine:model --book mine:book --rules RPPBandit-v0 "
    train = f"train mine:train {words} --total-steps 64 --num-envs 32 --option 2 --run-dir run "
    assert main([*train.split(), "--budget", "1200"]) == 0, capsys.readouterr().err
    report = json.loads((mine / "run" / "report.json").read_text())
    assert report["name"] == "mine"
    assert report["about"]["dataset"] == "movieworld"
    assert main(f"play random {words} --steps 1".split()) == 0
    assert "artist" in capsys.readouterr().out  # of the book of music


@pytest.mark.usefixtures("mine")
def test_the_prompt_space_of_the_page_is_one() -> None:
    page = importlib.import_module("mine")
    check_space(page.WindowPrompts(), page.SharedWords(), "movieworld", num_users=200)


@pytest.mark.usefixtures("mine")
def test_the_id_of_the_page_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    train = "train mine:train --rules mine:WINDOWS --total-steps 64 --num-envs 32 --length 2 "
    assert main([*train.split(), "--run-dir", "run"]) == 0, capsys.readouterr().err
    assert "window-v0" in capsys.readouterr().out
    assert main("play random --rules mine:WINDOWS --steps 1".split()) == 0


@pytest.mark.slow
def test_a_study_of_the_page_s_parts_runs(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "my.toml").write_text(
        """
        budget = 100
        points = 2
        [[settings]]
        name = "tiny"
        dataset = "mine:dataset"
        train_users = 12
        validation_users = 4
        test_users = 6
        [[methods]]
        label = "mine"
        method = "mine:method"
        [[methods]]
        label = "popular"
        method = "recommender"
        config = { name = "mine:fit", config = { power = 2.0 } }
        """
    )
    words = "study my.toml --out out --processes 1 --trust mine:dataset mine:method mine:fit"
    assert main(words.split()) == 0, capsys.readouterr().err
    assert len(list(mine.glob("out/cells/**/s0.json"))) == 2


def test_the_recommender_of_the_page_leaves_targets_out(mine: Path) -> None:
    dataset = rpp_env.load_dataset("movieworld", num_users=60)
    scorer = fit("mine:fit", dataset)
    tasks = rpp_env.RPPEnv.make(dataset, model=echo(), split="test").tasks
    before = scorer.scores(tasks)
    assert before.shape == tasks.candidates.shape
    last = dataset.indptr[1:] - 1
    assert before.max() < len(dataset.items)
    total = float(scorer.score([0], [list(range(dataset.num_items))]).sum())
    assert total == len(dataset.items) - len(last)
