"""Reward tables of the package, by their names in the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpp_agents.cli import main
from rpp_agents.commands.model import tables
from rpp_env.tables import PREFIX, shipped


def test_the_lists_show_what_each_is_played_with(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (["model", "list"], ["doctor"]):
        assert main(verb) == 0
        lines = capsys.readouterr().out.splitlines()
        for name, table in shipped().items():
            (line,) = [line for line in lines if f"{PREFIX}{name} " in line]
            assert table.about in line
            assert table.holds in line
            assert f"--dataset {table.dataset} --rules {table.rules}" in line
            for key, value in table.options.items():
                assert f"--{key.replace('_', '-')} {value}" in line
    assert len(tables()) == len(shipped())


@pytest.mark.filterwarnings("ignore:.*is another copy here")  # GroupLens' archive, say
@pytest.mark.parametrize("name", shipped())
def test_a_run_on_one_needs_no_model_again(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package's own names are trusted in a run's folder, unlike paths."""
    table = shipped()[name]
    words = ["--model", f"{PREFIX}{name}", "--dataset", table.dataset, "--rules", table.rules]
    for key, value in table.options.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    run = tmp_path / "run"
    code = main(["train", "mappo", *words, "--run-dir", str(run), "--total-steps", "600"])
    said = capsys.readouterr()
    if code == 2 and f"data get {table.dataset}" in said.err:
        pytest.skip(f"{table.dataset} is not here: rpp-env data get {table.dataset}")
    assert code == 0, said.err
    assert main(["play", str(run), "--split", "train"]) == 0
    if "test" in table.users:
        capsys.readouterr()
        assert main(["evaluate", str(run), "--max-users", "30", "--train-users", "20"]) == 0
        assert "tasks of 20 candidates" in capsys.readouterr().out
