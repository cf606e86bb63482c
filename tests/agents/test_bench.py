"""Benches: parsing their files, running each cell once, scores, and the report."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rpp_agents import mappo
from rpp_agents.cli import main
from rpp_agents.experiments import jobs as many
from rpp_agents.experiments import run as work
from rpp_agents.experiments.bench import Bench, Training
from rpp_agents.experiments.jobs import kept, unfinished
from rpp_agents.experiments.plan import PRESETS, Run
from rpp_agents.experiments.report import marl_eval, write_report
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.run import make_tables, run_all
from rpp_agents.experiments.run_files import write_run
from rpp_agents.experiments.tables import FEWEST_TASKS
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.evaluation.baselines import Fixed, search_fixed
from rpp_env.evaluation.diagnose import fit_reference
from rpp_env.markdown import words

pytestmark = pytest.mark.usefixtures("one_network")

ENVIRONMENT = {"name": "movieworld"}
MAPPO: dict[str, Any] = {"label": "MAPPO", "trainer": "mappo", "config": {"gamma": 0.95}}


def bench(**changes: Any) -> Bench:
    """The smoke bench's movieworld, with changes."""
    content: dict[str, Any] = {
        "total_steps": 640,
        "num_envs": 32,
        "evaluations": 2,
        "train_users": 16,
        "test_users": 12,
        "seeds": [0, 1],
        "worlds": [101, 102],
        "environments": [ENVIRONMENT, {"name": "b", "rules": "RPPBandit-v0"}],
        "algorithms": [MAPPO, {**MAPPO, "label": "discount 0", "config": {"gamma": 0.0}}],
    }
    return Bench.parse(content | changes, "test")


# ---- the file ----


def test_cells_are_seed_major_and_seeds_are_crossed_with_worlds_or_nested_in_them() -> None:
    cells = bench(seeds=[0, 1, 2]).runs()
    assert [(c.seed, c.draw) for c in cells[::4]] == [(0, 101), (1, 102), (2, 101)]
    assert [(c.setting.name, c.method.label) for c in cells[:4]] == [
        ("movieworld", "MAPPO"),
        ("movieworld", "discount 0"),
        ("b", "MAPPO"),
        ("b", "discount 0"),
    ]
    crossed = bench(design="crossed").runs(["movieworld/MAPPO"])
    assert [(c.seed, c.draw) for c in crossed] == [(0, 101), (0, 102), (1, 101), (1, 102)]


def test_only_takes_either_name_and_patterns() -> None:
    def chosen(*only: str) -> set[tuple[str, str]]:
        return {(c.setting.name, c.method.label) for c in bench().runs(only)}

    assert chosen("b") == {("b", "MAPPO"), ("b", "discount 0")}
    assert chosen("mappo") == {("b", "MAPPO"), ("movieworld", "MAPPO")}
    assert chosen("movie*/disc*", "b/MAPPO") == {("movieworld", "discount 0"), ("b", "MAPPO")}
    with pytest.raises(InvalidOption, match=r"'qmix' matches nothing.*MAPPO; discount 0"):
        chosen("qmix")


def test_one_table_serves_all_rules_over_the_same_data() -> None:
    cell = bench().runs()[0]
    table, test = cell.tables
    assert table.shown == (1, 2, 3, 5, 8, 10, 13, 20)
    assert (table.users, test.users) == (16, 12)
    files = {table.file for c in bench().runs() for table in c.tables}
    assert len(files) == 4  # two worlds
    other = bench(environments=[{**ENVIRONMENT, "options": {"negatives": "popularity"}}])
    assert other.runs()[0].tables[0].file != table.file


@pytest.mark.slow
def test_an_environment_may_be_trained_on_all_users(out: Path, trainer: Trainer) -> None:
    other = {"name": "b", "rules": "RPPBandit-v0"}  # in the tables, too
    planned = bench(environments=[{**ENVIRONMENT, "live": True}, other], worlds=[101])
    cell = planned.runs()[0]
    (outcome,) = run_all([cell], out)
    assert outcome.error == ""
    assert outcome.found is not None
    (trained,) = trainer.trained
    table = work._env(cell, "train", out)
    scored = work._env(cell, "test", out)
    assert len(trained) == 8000
    assert users_of(table) < trained
    assert not users_of(scored) & trained
    invented(out, planned, by_label)
    assert "trained on all train users, asking the model" in write_report(planned, out).read_text()
    with pytest.raises(InvalidOption, match="live must be true or false, not 1"):
        bench(environments=[{**ENVIRONMENT, "live": 1}])


def test_an_algorithm_may_be_run_in_some_environments() -> None:
    cells = bench(algorithms=[MAPPO, {**MAPPO, "label": "x", "environments": ["b"]}]).runs()
    assert [(c.setting.name, c.method.label) for c in cells[:3]] == [
        ("movieworld", "MAPPO"),
        ("b", "MAPPO"),
        ("b", "x"),
    ]
    assert len(cells) == 6
    with pytest.raises(InvalidOption, match="environment 'c' is not known"):
        bench(algorithms=[{**MAPPO, "environments": ["c"]}])
    with pytest.raises(InvalidOption, match="environments must be a list of texts"):
        bench(algorithms=[{**MAPPO, "environments": [1]}])


def test_an_environment_may_override_the_number_of_steps() -> None:
    planned = bench(environments=[ENVIRONMENT, {"name": "long", "total_steps": 1280}])
    assert [c.config.total_steps for c in planned.runs()[::2]] == [640, 1280, 640, 1280]
    assert [c.budget for c in planned.runs()[:4]] == [640, 640, 1280, 1280]


def test_a_grid_becomes_algorithms_with_equal_budgets() -> None:
    grid = [{"learning_rate": 1e-3}, {"learning_rate": 1e-2, "hidden": [8, 8]}]
    tuning = bench(algorithms=[{**MAPPO, "config": {"gamma": 0.5}, "grid": grid}])
    first, second = tuning.methods
    assert (first.label, second.label, second.tunes) == ("MAPPO [1]", "MAPPO [2]", "MAPPO")
    config = tuning.runs()[1].config
    assert (config.gamma, config.learning_rate, config.hidden) == (0.5, 1e-2, (8, 8))
    assert (config.total_steps, config.seed, config.threads) == (640, 0, 1)
    with pytest.raises(InvalidOption, match="same number of grid points"):
        bench(algorithms=[{**MAPPO, "grid": grid}, {**MAPPO, "label": "other"}])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": 3}, "key 'step' is not known; did you mean 'seeds'?|key 'step' is not known"),
        ({"environments": []}, r"at least one \[\[environments\]\]"),
        ({"environments": [{"dataset": "movieworld"}]}, "'name' is missing"),
        ({"environments": [{**ENVIRONMENT, "rule": "x"}]}, "did you mean 'rules'?"),
        ({"environments": [{**ENVIRONMENT, "rules": "RPP-v1"}]}, "did you mean 'RPP-v0'?"),
        ({"environments": [{**ENVIRONMENT, "rules": "RPPPaper-v0"}]}, "no table can hold"),
        ({"environments": [{**ENVIRONMENT, "observe": "all"}]}, "observe is 'all'; it may be"),
        ({"environments": [ENVIRONMENT, {"name": "Movieworld"}]}, "two have the name"),
        ({"algorithms": [{**MAPPO, "trainer": "mapo"}]}, "did you mean 'mappo'?"),
        ({"algorithms": [{**MAPPO, "config": {"gama": 1}}]}, "did you mean 'gamma'?"),
        ({"algorithms": [{**MAPPO, "config": {"gamma": 2}}]}, "'MAPPO': gamma must lie in"),
        ({"algorithms": [{**MAPPO, "config": {"seed": 2}}]}, "seed is the bench's own"),
        ({"algorithms": [{**MAPPO, "tunes": "x"}]}, "'tunes' is not known"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"seeds": "1"}, "seeds must be a list of whole numbers, not '1'"),
        ({"worlds": []}, "worlds must be different numbers"),
        ({"total_steps": 0}, "total_steps must be at least 1"),
        ({"total_steps": 1e6}, "total_steps must be a whole number"),
        ({"environments": [{**ENVIRONMENT, "total_steps": 0}]}, "movieworld's total_steps must be"),
        ({"design": "latin"}, "it may be nested, crossed"),
        ({"against": "QMIX"}, "'QMIX' is not known; there are MAPPO, discount 0"),
        ({"algorithms": [{**MAPPO, "label": "fixed"}]}, "'fixed' is a baseline's name"),
        ({"name": "x"}, "leave out 'name'"),
    ],
)
def test_mistakes_in_a_file_get_a_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        bench(**changes).runs()


def test_files_that_are_none_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidOption, match=r"'nothing' is not known; .*here are movieworld, .*smoke, tuning"
    ):
        Bench.load("nothing")
    (tmp_path / "x.toml").write_text("a = [")
    with pytest.raises(InvalidOption, match="is not TOML"):
        Bench.load(tmp_path / "x.toml")


@pytest.mark.parametrize("name", sorted(path.stem for path in (PRESETS / "bench").glob("*.toml")))
def test_shipped_benches_can_be_read(name: str) -> None:
    loaded = Bench.load(name)
    assert loaded.against in [method.label for method in loaded.methods]
    assert loaded.tunes == (name == "tuning")


def test_tuning_uses_no_world_that_a_result_uses() -> None:
    tuning = Bench.load("tuning")
    assert tuning.split == "validation"
    for name in ("movieworld", "movieworld-all", "movieworld-private"):
        assert not set(Bench.load(name).worlds) & set(tuning.worlds)


# ---- cells ----


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tables of `bench()`."""
    out = tmp_path_factory.mktemp("bench")
    make_tables(bench().runs(), out)
    return out


@pytest.fixture
def out(tables: Path, tmp_path: Path) -> Path:
    shutil.copytree(tables / "tables", tmp_path / "tables", copy_function=os.link)
    return tmp_path


def users_of(env: Any) -> set[str]:
    return {env.tasks.dataset.user_tokens[row] for row in env.tasks.users}


class Trainer:
    """Stands in for MAPPO: remembers what it was asked, and plays the plans that it is given."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []
        self.trained: list[set[str]] = []
        self.plans: list[list[int]] = [[0, 2, 0, 0]]
        self.error: Callable[[Any], BaseException | None] = lambda config: None

    def __call__(self, env: Any, config: Any, *, callbacks: Any, progress: bool) -> Fixed:
        self.asked.append((config.seed, config.gamma))
        self.trained.append(users_of(env))
        if (error := self.error(config)) is not None:
            raise error
        *before, last = self.plans
        for i, plan in enumerate(before):
            steps = config.total_steps * (i + 1) / len(self.plans)
            for callback in callbacks:
                callback({"steps": steps}, Fixed([plan]))
        return Fixed([last])


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    fake = Trainer()
    monkeypatch.setattr(mappo, "train", fake)
    return fake


def test_a_finished_cell_is_never_run_again(out: Path, trainer: Trainer) -> None:
    cells = bench().runs()
    first = list(run_all(unfinished(cells[:3], out), out))
    assert [outcome.job for outcome in first] == cells[:3]
    assert trainer.asked == [(0, 0.95), (0, 0.0), (0, 0.95)]
    list(run_all(unfinished(cells, out), out))
    assert len(trainer.asked) == 8
    assert unfinished(cells, out) == []
    assert not list(run_all(unfinished(cells, out), out))


def test_an_interruption_keeps_finished_runs(out: Path, trainer: Trainer) -> None:
    cells = bench().runs()
    trainer.error = lambda _: KeyboardInterrupt() if len(trainer.asked) == 3 else None
    with pytest.raises(KeyboardInterrupt):
        list(run_all(cells, out))
    assert len(unfinished(cells, out)) == 6
    trainer.error = lambda _: None
    list(run_all(unfinished(cells, out), out))
    assert len(trainer.asked) == 3 + 6


def test_a_failing_cell_is_recorded_and_the_others_go_on(out: Path, trainer: Trainer) -> None:
    cells = bench().runs(["movieworld"])
    trainer.error = lambda config: FloatingPointError("diverged") if config.gamma == 0 else None
    outcomes = list(run_all(cells, out))
    assert [outcome.found is None for outcome in outcomes] == [False, True, False, True]
    failed = (out / cells[1].file).with_suffix(".failed.txt")
    assert "FloatingPointError: diverged" in failed.read_text()
    assert unfinished(cells, out) == [cells[1], cells[3]]
    write_report(bench(), out)
    assert "discount-0/w101-s0.failed.txt" in (out / "report.md").read_text()
    trainer.error = lambda _: None
    list(run_all(unfinished(cells, out), out))
    assert not failed.exists()
    assert unfinished(cells, out) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"total_steps": 1280}, "total_steps was 640 and is 1280"),
        ({"test_users": 10}, "test_users was 12 and is 10"),
        ({"evaluations": 4}, "evaluations was 2 and is 4"),
        ({"algorithms": [{**MAPPO, "config": {"gamma": 0.5}}]}, "gamma was 0.95 and is 0.5"),
        ({"algorithms": [{**MAPPO, "num_envs": 8}]}, "num_envs was 32 and is 8"),
    ],
)
def test_a_changed_configuration_is_refused(
    out: Path, trainer: Trainer, changes: dict[str, Any], said: str
) -> None:
    list(run_all(bench().runs()[:1], out))
    with pytest.raises(InvalidOption, match=f"{said}.*give another --out"):
        unfinished(bench(**changes).runs(), out)


def test_the_default_discount_and_its_number_are_the_same_run(out: Path, trainer: Trainer) -> None:
    plain = {"label": "MAPPO", "trainer": "mappo"}
    list(run_all(bench(algorithms=[plain]).runs()[:1], out))
    assert trainer.asked == [(0, 0.0)]
    (cell, *_) = bench(algorithms=[{**plain, "config": {"gamma": 0.0}}]).runs()
    assert kept(cell, out) is not None
    # Files of an earlier version repeat the options that were set.
    found = json.loads((out / cell.file).read_text())
    found["asked"]["overrides"] = {}
    del found["sha256"]
    write_run(out / cell.file, found)
    assert kept(cell, out) is not None
    (cell, *_) = bench(algorithms=[MAPPO]).runs()
    with pytest.raises(InvalidOption, match=r"config\.gamma was 0\.0 and is 0\.95"):
        kept(cell, out)


def test_more_seeds_and_algorithms_change_no_finished_cell(out: Path, trainer: Trainer) -> None:
    list(run_all(bench().runs(), out))
    more = bench(seeds=[0, 1, 2], algorithms=[MAPPO, {**MAPPO, "label": "new"}])
    assert len(unfinished(more.runs(), out)) == 2 * 3 + 2
    # Nor does an option that the trainer learned since then, at its default.
    path = out / more.runs()[0].file
    found = json.loads(path.read_text())
    del found["asked"]["config"]["huber"], found["sha256"]
    write_run(path, found)
    assert kept(more.runs()[0], out) is not None
    # At another value it would be another run.
    other = bench(algorithms=[{**MAPPO, "config": {**MAPPO.get("config", {}), "huber": 3.0}}])
    with pytest.raises(InvalidOption, match=r"config\.huber was None and is 3\.0"):
        kept(other.runs()[0], out)


def test_a_damaged_file_is_named(out: Path) -> None:
    cell = bench().runs()[0]
    (out / cell.file).parent.mkdir(parents=True)
    (out / cell.file).write_text("{")
    with pytest.raises(InvalidData, match=r"w101-s0\.json holds no finished run"):
        unfinished([cell], out)


def test_a_finished_cell_is_not_run_again_by_a_command_that_did_not_know(
    out: Path, trainer: Trainer
) -> None:
    cells = bench().runs()[:2]
    listed = unfinished(cells, out)
    list(run_all(cells[:1], out))  # another command, meanwhile
    outcomes = list(run_all(listed, out))
    assert len(trainer.asked) == 2
    assert outcomes[0].found == kept(cells[0], out)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["test", "validation"])
def test_nothing_is_trained_or_fitted_on_scored_users(
    tmp_path: Path, trainer: Trainer, split: str
) -> None:
    planned = bench(split=split)
    jobs = planned.jobs(planned.runs(["movieworld/MAPPO"])[:1])
    make_tables(jobs, tmp_path)
    levels, cell = run_all(jobs, tmp_path)
    train = work._env(jobs[0], "train", tmp_path)
    scored = work._env(jobs[0], split, tmp_path)
    assert trainer.trained == [users_of(train)]
    assert not users_of(train) & users_of(scored)
    assert (len(train.tasks), len(scored.tasks)) == (16, 12)
    found = levels.found
    assert found is not None
    assert cell.found is not None
    # The best fixed prompt is the train users', and is played by the others.
    fixed, on_train = search_fixed(train)
    assert found["fixed_plan"] == fixed.plan.tolist() != search_fixed(scored)[0].plan.tolist()
    assert found["fixed_on_train"] == pytest.approx(on_train, abs=1e-6)
    rewards = work.play_everyone(fixed, scored)
    assert found["users"]["fixed"]["mean"] == pytest.approx(rewards.mean(axis=1), abs=1e-6)
    # So is the reference.
    rewards = work.play_everyone(fit_reference(train, seed=101), scored)
    assert found["users"]["reference"]["mean"] == pytest.approx(rewards.mean(axis=1), abs=1e-6)
    assert found["tables"].keys() == cell.found["tables"].keys() == {"train", split}


def test_the_last_policy_counts_and_not_the_best(out: Path, trainer: Trainer) -> None:
    cell = bench(evaluations=4).runs()[0]
    env = work._env(cell, "test", out, observe="shared")
    plans = [[role, 2, reasoning, 0] for role in range(5) for reasoning in range(9)]
    scores = {tuple(p): float(work.play_everyone(Fixed([p]), env).mean()) for p in plans}
    order = sorted(scores, key=lambda plan: scores[plan])
    worst, middle, best = order[0], order[len(order) // 2], order[-1]
    assert scores[best] > scores[middle] > scores[worst]
    trainer.plans = [list(plan) for plan in (middle, best, middle, worst)]
    (outcome,) = run_all([cell], out)
    found = outcome.found
    assert found is not None
    assert found["points"] == found["played"] == [160, 320, 480, 640]
    expected = [scores[plan] for plan in (middle, best, middle, worst)]
    assert found["scores"] == pytest.approx(expected, abs=1e-6)
    assert found["score"] == found["scores"][-1] == pytest.approx(scores[worst], abs=1e-6)
    rewards = work.play_everyone(Fixed([worst]), env)
    assert rewards.shape == (12, 5)
    assert found["users"]["mean"] == pytest.approx(rewards.mean(axis=1), abs=1e-6)
    assert found["users"]["last"] == pytest.approx(rewards[:, -1], abs=1e-6)
    assert found["greedy"] is True
    assert {len(digest) for digest in found["tables"].values()} == {64}


def test_evaluations_are_at_the_same_steps_for_all(out: Path, trainer: Trainer) -> None:
    # Three iterations of 213 steps pass the points 160, 320 and 480 of 640 as they can.
    cell = bench(evaluations=4).runs()[0]
    trainer.plans = [[0, 2, 0, 0], [1, 2, 0, 0], [2, 2, 0, 0]]
    (outcome,) = run_all([cell], out)
    assert outcome.found is not None
    assert outcome.found["points"] == [160, 320, 480, 640]
    assert outcome.found["played"] == [213, 426, 640, 640]
    assert outcome.found["scores"][2] == outcome.found["scores"][3]


def test_every_user_is_played_once_and_draws_are_averaged() -> None:
    class Env:
        """Three tasks of two users; pays a task its number, and 10 more at the second step."""

        num_envs, max_cycles = 1, 2
        tasks: Any = None

        def reset(self, seed: Any, options: Any) -> Any:
            self.rows, self.step_ = options["users"], 0
            return np.zeros((len(self.rows), 1, 1), np.float32), {}

        def action_masks(self) -> Any:
            return np.ones((1, 1))

        def step(self, actions: Any) -> Any:
            paid = self.rows + 10.0 * self.step_
            self.step_ += 1
            return SimpleNamespace(observations=None, rewards=paid)

    class Tasks:
        users = np.array([4, 9, 4])

        def __len__(self) -> int:
            return 3

    env = Env()
    env.tasks = Tasks()
    policy: Any = SimpleNamespace(act=lambda *_, **__: (None, None))
    found = work.play_everyone(policy, env)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, [[1, 11], [1, 11]])


def test_a_process_that_is_killed_costs_no_result(out: Path) -> None:
    cells = bench().runs(["movieworld/MAPPO"])
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for child in active_children():
                if child.pid is not None:
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
                    break
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    outcomes = list(run_all(cells, out, processes=2))
    killer.join()
    assert killed
    assert [outcome.error for outcome in outcomes] == ["", ""]
    assert unfinished(cells, out) == []


@pytest.mark.timeout(30)
def test_a_process_that_started_while_another_was_killed_is_ended() -> None:
    """CPython's pool ends the processes that it knows, and then waits for those added meanwhile."""
    with many._pool(1) as pool:
        pool.submit(os.getpid).result()
        late = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        late.start()
        assert late.pid is not None
        pool._processes[late.pid] = late
    late.join()
    assert late.exitcode == -signal.SIGTERM


def test_a_job_that_kills_its_process_fails_alone(
    out: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pool of two, its neighbour dies with it, and must not be blamed for that."""
    cells = bench().runs(["movieworld/MAPPO"])
    killer, innocent = cells
    pools: list[int] = []

    class Pool:
        def __init__(self, processes: int) -> None:
            self.broken = False
            pools.append(processes)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, do: Any, job: Any, folder: Path, find: Any) -> Future[Any]:
            future: Future[Any] = Future()
            self.broken |= job is killer
            if self.broken:
                future.set_exception(BrokenProcessPool())
            else:
                future.set_result(do(job, folder, find))
            return future

    monkeypatch.setattr(many, "_pool", Pool)
    outcomes = {outcome.job.file: outcome for outcome in run_all(cells, out, processes=2)}
    assert outcomes[innocent.file].found is not None
    assert "died twice" in outcomes[killer.file].error
    assert pools[0] == 2
    assert set(pools[1:]) == {1}
    assert unfinished(cells, out) == [killer]


# ---- the whole ----


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The smoke bench: killed when it had finished one cell, then run to its end."""
    out = tmp_path_factory.mktemp("smoke") / "out"
    command = ["bench", "smoke", "--out", str(out)]
    code = f"from rpp_agents.cli import main; main({command!r})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as running:
        while running.poll() is None and not list(out.glob("cells/**/*.json")):
            time.sleep(0.05)
        assert running.poll() is None
        running.kill()
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/**/*.json")}
    assert 1 <= len(before) < 8
    assert main([*command, "--processes", "1"]) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    yield out
    shutil.rmtree(out)


@pytest.mark.slow
def test_smoke_leaves_every_file(smoke: Path) -> None:
    assert len(list(smoke.glob("cells/*/*/*.json"))) == 8
    assert len(list(smoke.glob("levels/*/*.json"))) == 4
    rows = [json.loads(line) for line in (smoke / "results.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["levels"] * 4 + ["run"] * 8
    run = rows[-1]
    assert run["asked"]["config"]["total_steps"] == 640
    assert "users" not in run
    assert run["scores"][-1] == run["score"]
    pictures = {path.name for path in (smoke / "plots").glob("*.png")}
    assert pictures == {
        "curves-movieworld.png",
        "curves-movieworld-bandit.png",
        "final.png",
        "improvement.png",
    }
    report = (smoke / "report.md").read_text()
    assert "Not complete" not in report
    assert "too few tasks" in report
    shown = re.findall(r"^!\[(.*)\]\((.*)\)$", report, re.MULTILINE)
    assert {Path(path).name for _, path in shown} == pictures
    assert all(len(alt.split()) > 8 for alt, _ in shown)  # what there is to see


def test_a_bandits_future_does_not_count(smoke: Path) -> None:
    # One step: discount 0 is MAPPO, run by run.
    folder = smoke / "cells" / "movieworld-bandit"
    for name in ("w101-s0.json", "w102-s1.json"):
        one, two = (
            json.loads((folder / label / name).read_text())["scores"]
            for label in ("mappo", "discount-0")
        )
        assert one == two


def test_the_command_lists_reports_and_refuses(
    smoke: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "smoke", "--out", str(smoke)]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.count("done  ") == 12
    assert "12 of 12 are finished" in out
    assert main([*command, "--report", "--only", "movieworld/MAPPO"]) == 0
    assert "report.md" in capsys.readouterr().out
    assert main(["bench", "smoke", "--out", str(smoke / "none"), "--report"]) == 2
    assert "no run of this bench is finished" in capsys.readouterr().err
    assert main([*command, "--only", "nothing"]) == 2


def test_the_command_lists_failed_runs(
    out: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trainer.error = lambda config: ValueError("no luck") if config.seed else None
    command = [
        "bench",
        "smoke",
        "--out",
        str(out),
        "--processes",
        "1",
        "--only",
        "movieworld/MAPPO",
    ]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert "movieworld/MAPPO world 102 seed 1: FAILED: ValueError: no luck" in shown.err
    assert "1 failed" in shown.out
    # The report is about the whole bench, whatever was chosen to be run.
    assert "Not complete: 1 of 8 runs" in (out / "report.md").read_text()


# ---- the report ----


def invented(
    out: Path, planned: Bench, score: Callable[[Run], float], *, users: int = 50
) -> list[Run]:
    """Files as a bench leaves them: users of a world differ by up to 0.08, all lines alike."""
    cells = planned.runs()
    heights = {"random": 0.1, "fixed": 0.2, "reference": 0.4}
    for job in planned.jobs(cells):
        base = np.random.default_rng(job.draw).random(users) / 12
        base -= base.mean()

        def line(height: float, base: Any = base) -> dict[str, list[float]]:
            mean = (base + height).tolist()
            return {"mean": mean, "first": (base + height - 0.05).tolist(), "last": mean}

        found: dict[str, Any] = {"asked": job.asked, "whose": str(job.draw), "versions": {}}
        found["tables"] = {"train": "a", "test": "b"}
        if isinstance(job, Training):
            height = score(job)
            found |= {
                "points": [320, 640],
                "scores": [0.15, height],
                "score": height,
                "seconds": 3600.0,
                "steps_per_second": 1234.0,
                "users": line(height),
            }
        else:
            found |= {
                "steps": 5,
                "scores": {"chance": 0.05, **heights},
                "users": {name: line(height) for name, height in heights.items()},
            }
        write_run(out / job.file, found)
    return cells


def by_label(cell: Run) -> float:
    return {"MAPPO": 0.35, "discount 0": 0.25}.get(cell.method.label, 0.3)


def rows_of(report: str, first: str) -> list[list[str]]:
    lines = [line for line in report.splitlines() if line.startswith(f"| {first} ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_an_environment(tmp_path: Path) -> None:
    planned = bench(seeds=[0, 1, 2, 3], environments=[ENVIRONMENT])
    invented(tmp_path, planned, by_label)
    report = write_report(planned, tmp_path).read_text()
    (row,) = rows_of(report, "discount 0")[:1]
    assert row[1].startswith("0.250 [0.2")
    assert row[2:4] == ["0.200", "0.250"]
    # What is the same for every user of a world cancels: nothing is left to be unsure of.
    assert row[4] == "0.250 [0.250, 0.250]"
    assert row[5:] == [
        "+0.150 [+0.150, +0.150]",
        "+0.050 [+0.050, +0.050]",
        "-0.100 [-0.100, -0.100]",
        "1,234",
        "4",
    ]
    assert rows_of(report, "*best fixed prompt*")[0][4] == "0.000"
    assert rows_of(report, "*chance*")[0][1] == "0.050"
    assert (
        "without 0 for 1 of 1 pairs of algorithms; 1 are significant (Holm, over all pairs)"
        in report
    )
    assert "- MAPPO is above discount 0" in report
    assert rows_of(report, "discount 0")[1] == ["discount 0", "0.00 [0.00, 0.00]"]
    widths = {line.count("|") for line in report.splitlines() if line.startswith("| MAPPO")}
    assert widths == {11, 7}


@pytest.mark.slow
def test_names_are_shown_unchanged(tmp_path: Path) -> None:
    names = [
        "a | b",
        "<script>alert(1)</script>",
        "$y^{",
        "![x](http://127.0.0.1:9/y)",
        "`",
        "..",
        "_x",
    ]
    planned = bench(
        environments=[{"name": name} for name in names],
        algorithms=[{"label": f"{name} *", "trainer": "mappo"} for name in names],
    )
    invented(tmp_path, planned, lambda cell: 0.3)
    report = write_report(planned, tmp_path).read_text()
    assert "<script" not in report
    assert "![x](" not in report
    for environment in names[:2]:
        lines = report.partition(f"## {words(environment)}")[2].partition("\n## ")[0].splitlines()
        rows = [line.replace("\\|", "") for line in lines if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1
    assert (tmp_path / "plots" / "final.png").stat().st_size > 1000


@pytest.mark.slow
def test_aggregates_need_six_tasks(tmp_path: Path) -> None:
    for count in (FEWEST_TASKS - 1, FEWEST_TASKS):
        planned = bench(environments=[{"name": f"task {i}"} for i in range(count)])
        invented(tmp_path / str(count), planned, by_label)
        report = write_report(planned, tmp_path / str(count)).read_text()
        overall = tmp_path / str(count) / "plots" / "overall.png"
        assert overall.is_file() == (count == FEWEST_TASKS)
        assert ("too few tasks" in report) == (count < FEWEST_TASKS)
    (row,) = [row for row in rows_of(report, "MAPPO") if len(row) == 6 and "0.750" in row[1]]
    assert row[1:] == [
        "0.750 [0.750, 0.750]",
        "[0.750, 0.750]",
        "0.250 [0.250, 0.250]",
        "0.750 [0.750, 0.750]",
        "12",
    ]


@pytest.mark.slow
def test_differing_steps_are_reported(tmp_path: Path) -> None:
    longer = [{"name": f"task {i}", "total_steps": 640 * (1 + i // 4)} for i in range(FEWEST_TASKS)]
    planned = bench(environments=longer)
    invented(tmp_path, planned, by_label)
    said = "640 steps of task 0, task 1, task 2, task 3; 1,280 steps of task 4, task 5."
    assert said in write_report(planned, tmp_path).read_text()
    assert (tmp_path / "plots" / "overall.png").is_file()


def test_no_gain_without_a_gap(tmp_path: Path) -> None:
    planned = bench(environments=[ENVIRONMENT])
    cells = invented(tmp_path, planned, by_label)
    path = tmp_path / cells[0].levels.file
    levels = json.loads(path.read_text())
    levels["users"]["reference"] = levels["users"]["fixed"]  # in one of the two worlds
    del levels["sha256"]
    write_run(path, levels)
    report = write_report(planned, tmp_path).read_text()
    assert "No gain is given" in report
    assert " gain |" not in report


def test_runs_of_different_tables_are_not_compared(tmp_path: Path) -> None:
    planned = bench()
    cells = invented(tmp_path, planned, by_label)
    path = tmp_path / cells[0].file
    found = json.loads(path.read_text())
    del found["sha256"]
    write_run(path, {**found, "tables": {"train": "a", "test": "other"}})
    with pytest.raises(InvalidData, match="replayed different tables"):
        write_report(planned, tmp_path)


def test_tasks_share_their_worlds(tmp_path: Path) -> None:
    """Six tasks in two worlds, where all runs of a world are as good: two facts, and not twelve."""
    planned = bench(environments=[{"name": f"task {i}"} for i in range(FEWEST_TASKS)])
    invented(tmp_path, planned, lambda cell: 0.2 if cell.draw == 101 else 0.4)
    report = write_report(planned, tmp_path).read_text()
    (row,) = [row for row in rows_of(report, "MAPPO") if len(row) == 6 and row[-1] == "12"]
    assert row[1] == "0.500 [-5.853, 6.853]"  # t with one degree of freedom: 12.7 times 0.5


def test_a_few_seeds_are_a_sketch(tmp_path: Path) -> None:
    invented(tmp_path / "few", bench(), by_label)
    assert "Fewer than 10 seeds" in write_report(bench(), tmp_path / "few").read_text()
    many = bench(seeds=list(range(10)), environments=[ENVIRONMENT])
    invented(tmp_path / "many", many, by_label)
    assert "Fewer than" not in write_report(many, tmp_path / "many").read_text()


def test_an_unfinished_bench_is_reported_as_such(tmp_path: Path) -> None:
    planned = bench()
    cells = invented(tmp_path, planned, by_label)
    for cell in cells[3:]:
        (tmp_path / cell.file).unlink()
    report = write_report(planned, tmp_path).read_text()
    assert "**Not complete: 3 of 8 runs.**" in report


def test_tuning_marks_the_best_point_once_all_are_there(tmp_path: Path) -> None:
    grid = [{"learning_rate": 1e-3}, {"learning_rate": 1e-2}]
    other = {"label": "other", "trainer": "mappo", "grid": grid}
    planned = bench(algorithms=[{**MAPPO, "grid": grid}, other], split="validation")
    scores = {"MAPPO [1]": 0.3, "MAPPO [2]": 0.35, "other [1]": 0.32, "other [2]": 0.31}
    cells = invented(tmp_path, planned, lambda cell: scores[cell.method.label])
    report = write_report(planned, tmp_path).read_text()
    marked = [row for row in rows_of(report, "MAPPO") + rows_of(report, "other") if row[-1]]
    assert [row[:3] for row in marked if row[-1] == "**best**"] == [
        ["MAPPO", "2", "gamma 0.95, learning_rate 0.01"],
        ["other", "1", "learning_rate 0.001"],
    ]
    assert "Probability" not in report
    for cell in cells:
        if cell.method.label == "MAPPO [2]":
            (tmp_path / cell.file).unlink()
    report = write_report(planned, tmp_path).read_text()
    assert not any(row[-1] == "**best**" for row in rows_of(report, "MAPPO"))


def test_marl_evals_format(tmp_path: Path) -> None:
    algorithms = [MAPPO, {**MAPPO, "label": "MAPPO, blind"}]
    for design in ("nested", "crossed"):
        planned = bench(design=design, algorithms=algorithms)
        invented(tmp_path / design, planned, by_label)
        write_report(planned, tmp_path / design)
        data = json.loads((tmp_path / design / "marl_eval.json").read_text())
        assert data == marl_eval(Results.read(planned, tmp_path / design))
        ((_, tasks),) = data.items()
        assert set(tasks) == {"movieworld", "b"}
        for task in tasks.values():
            # What `DiagnoseData` of id-marl-eval 0.0.4 checks: no commas, equal runs and steps.
            lines = {"random prompt", "best fixed prompt", "observable reference"}
            assert set(task) == {"MAPPO", "MAPPO; blind"} | lines
            assert {len(runs) for runs in task.values()} == {2 if design == "nested" else 4}
            for run in (run for runs in task.values() for run in runs.values()):
                assert list(run) == ["step_0", "step_1", "absolute_metrics"]
                assert [run[f"step_{i}"]["step_count"] for i in (0, 1)] == [320, 640]
                assert run["step_1"]["ndcg_10"] == run["absolute_metrics"]["ndcg_10"]
                assert all(math.isfinite(x) for x in run["step_0"]["ndcg_10"])


def test_marl_eval_reads_it_where_it_is_installed(tmp_path: Path) -> None:
    checks = pytest.importorskip("marl_eval.utils.diagnose_data_errors")
    invented(tmp_path, bench(), by_label)
    write_report(bench(), tmp_path)
    found = checks.DiagnoseData(
        raw_data=json.loads((tmp_path / "marl_eval.json").read_text())
    ).check_data()
    assert all(all(valid.values()) for valid in found.values())
