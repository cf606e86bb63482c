"""Compare our MAPPO and QMIX with BenchMARL's: returns on simple_spread, and speed.

    make .venv-peers/.stamp
    .venv-peers/bin/pip install --no-deps mpe2==1.1.1 pygame-ce
    .venv-peers/bin/python benchmarks/beside_benchmarl.py [--parts learning speed]

**learning**: three seeds of each on mpe2's simple_spread_v3, 60,000 frames (ten of BenchMARL's
batches), then the same 300 greedy episodes for all. BenchMARL keeps the defaults of its YAML files
(`benchmarl_config`), ours are those of verification.py. Finished runs are kept and not run again.

**speed**: MAPPO on one reward table, one thread, the same networks, frames, epochs and minibatches
(`SPEED`), measured in turns. Ratios of processor time hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch
    from benchmarl.algorithms import MappoConfig, QmixConfig
    from benchmarl.environments.pettingzoo.common import PettingZooClass
    from benchmarl.experiment import Callback, Experiment, ExperimentConfig
    from benchmarl.models.mlp import MlpConfig
    from mpe2 import simple_spread_v3
    from torchrl.envs.libs.pettingzoo import PettingZooWrapper
except ImportError as error:
    sys.exit(f"{error.name} is not installed; how to install it is said in:\n\n{__doc__}")
from verification import PROBLEMS, SEEDS, markdown, run, spread, team_returns

import rpp_env
from rpp_agents import mappo
from rpp_agents.benchmarl_task import GROUP, GroupPolicy, RPPTask
from rpp_agents.trainers.ppo import PPO
from rpp_env.table import tabulate

ALGORITHMS = {"mappo": MappoConfig, "qmix": QmixConfig}
FRAMES = 60_000


# What they learn


class SpreadTask(PettingZooClass):
    """BenchMARL's own task looks for the environment in PettingZoo, which it has left."""

    def get_env_fun(self, num_envs, continuous_actions, seed, device):  # type: ignore[no-untyped-def]  # noqa: ARG002
        seeds = itertools.count(seed)  # else all copies would play the same episodes
        return lambda: PettingZooWrapper(
            simple_spread_v3.parallel_env(N=3, local_ratio=0.5, max_cycles=25),
            return_state=True,
            seed=next(seeds),
            device=device,
        )

    def supports_continuous_actions(self) -> bool:
        return False

    def has_render(self, env: Any) -> bool:  # noqa: ARG002
        return False


def benchmarl_config(folder: str) -> Any:
    """BenchMARL's defaults, without what only reports."""
    config = ExperimentConfig.get_from_yaml()
    config.max_n_frames = FRAMES
    config.off_policy_memory_size = 2 * FRAMES  # as good as the default of a million
    config.evaluation = config.render = config.create_json = False
    config.loggers, config.save_folder = [], folder
    return config


def benchmarl_run(algorithm: str, seed: int) -> dict[str, Any]:
    """Train BenchMARL's algorithm; the mean team return of the episodes that ours play too."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(
            task=SpreadTask("SIMPLE_SPREAD", {"max_cycles": 25}),
            algorithm_config=ALGORITHMS[algorithm].get_from_yaml(),
            model_config=MlpConfig.get_from_yaml(),
            critic_model_config=MlpConfig.get_from_yaml(),
            seed=seed,
            config=benchmarl_config(folder),
        )
        # In three groups of one there would be nothing to mix.
        assert dict(experiment.group_map) == {"agent": ["agent_0", "agent_1", "agent_2"]}
        experiment.run()
    problem = PROBLEMS["spread"]
    returns = team_returns(GroupPolicy(experiment.policy), spread(problem.copies), problem.episodes)
    return {
        "library": "BenchMARL",
        "algorithm": algorithm,
        "seed": seed,
        "frames": experiment.total_frames,
        "return": round(float(returns.mean()), 4),
        "seconds": round(time.perf_counter() - start, 1),
    }


def our_run(algorithm: str, seed: int) -> dict[str, Any]:
    """Train ours on as many frames; the mean team return of the same episodes."""
    row = run("spread", algorithm, seed, total_steps=FRAMES)
    return {
        "library": "rpp_agents",
        "algorithm": algorithm,
        "seed": seed,
        "frames": FRAMES,
        "return": row["curve"][-1][1],
        "seconds": row["seconds"],
    }


def half_width(scores: list[float]) -> float:
    """Half the 95% interval of the mean over seeds (Student's t)."""
    quantile = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}[len(scores)]
    return quantile * statistics.stdev(scores) / math.sqrt(len(scores))


LIBRARIES = {"rpp_agents": our_run, "BenchMARL": benchmarl_run}


def learning(path: Path, seeds: list[int]) -> bool:
    """Print the table; whether ours are not below by more than both intervals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(row["library"], row["algorithm"], row["seed"]): row for row in map(json.loads, lines)}
    for seed, algorithm, library in itertools.product(seeds, ALGORITHMS, LIBRARIES):
        key = library, algorithm, seed
        if key not in done:
            done[key] = LIBRARIES[library](algorithm, seed)
            with path.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")

    rows, well = [], True
    for algorithm in ALGORITHMS:
        reached, seconds = (
            {name: [done[name, algorithm, seed][what] for seed in seeds] for name in LIBRARIES}
            for what in ("return", "seconds")
        )
        mean = {name: statistics.fmean(scores) for name, scores in reached.items()}
        half = {name: half_width(scores) for name, scores in reached.items()}
        well &= mean["rpp_agents"] >= mean["BenchMARL"] - sum(half.values())
        rows += [
            [
                algorithm,
                name,
                ", ".join(f"{score:.1f}" for score in scores),
                f"{mean[name]:.1f} ± {half[name]:.1f}",
                f"{statistics.fmean(seconds[name]):.0f}",
            ]
            for name, scores in reached.items()
        ]
    print(markdown(["algorithm", "library", "each seed", "mean, 95% interval", "seconds"], rows))
    print(f"\nOurs {'are not' if well else 'ARE'} below by more than both intervals.\n")
    return well


# How fast they are

SPEED: dict[str, Any] = {"hidden": (64, 64), "epochs": 3, "minibatches": 4}
USERS = 512
STEPS = 5
COPIES = 32
"""BenchMARL's environments are Python objects; with 512 of them it is slower."""

Times = dict[str, NDArray[np.float64]]
"""Seconds of the parts of an iteration, by each of `CLOCKS`."""
CLOCKS = ("processor", "wall")


def clock() -> NDArray[np.float64]:
    return np.array([time.process_time(), time.perf_counter()])


def our_times(env: rpp_env.RPPEnv, iterations: int) -> list[Times]:
    config = mappo.Config(rollout_steps=STEPS, gamma=0.95, threads=1, **SPEED)
    learner = PPO(env, config, critic_input="state")
    learner.reset(0)
    times = []
    for _ in range(iterations):
        start = clock()
        rollout = learner.collector.collect(learner.choose, learner.rollout_steps)
        played = clock()
        learner.update(rollout)
        times.append({"environment": played - start, "update": clock() - played})
    return times[1:]  # the first one warms up


class Stopwatch(Callback):  # type: ignore[misc]  # BenchMARL has no types
    """Takes the times of an experiment of one group, at the same places as its own timers."""

    def __init__(self) -> None:
        super().__init__()
        self.mark = clock()
        self.times: list[Times] = []

    def on_batch_collected(self, batch: Any) -> None:  # noqa: ARG002
        now = clock()
        self.times.append({"environment": now - self.mark})
        self.mark = now

    def on_train_end(self, training_td: Any, group: str) -> None:  # noqa: ARG002
        now = clock()
        self.times[-1]["update"] = now - self.mark
        self.mark = now


def benchmarl_times(table: Path, iterations: int) -> list[Times]:
    frames = USERS * STEPS
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        config = benchmarl_config(folder)
        config.max_n_frames, config.max_n_iters = None, iterations
        config.share_policy_params = False  # as ours: a network for each agent
        config.on_policy_collected_frames_per_batch = frames
        config.on_policy_n_envs_per_worker = COPIES
        config.on_policy_minibatch_size = frames // SPEED["minibatches"]
        config.on_policy_n_minibatch_iters = SPEED["epochs"]
        model = MlpConfig.get_from_yaml()
        model.num_cells, model.activation_class = list(SPEED["hidden"]), torch.nn.ReLU
        experiment = Experiment(
            task=RPPTask.RPP_V0.get_task({"model": f"table:{table}"}),
            algorithm_config=MappoConfig.get_from_yaml(),
            model_config=model,
            seed=0,
            config=config,
            callbacks=[watch],
        )
        assert dict(experiment.group_map) == GROUP
        experiment.run()
    return watch.times[1:]


def speed(table: Path, repeats: int) -> bool:
    """Print the table; whether ours is at least three times as fast."""
    torch.set_num_threads(1)
    env = rpp_env.RPPEnv.make(model=f"table:{table}", num_envs=USERS)
    measured: dict[str, list[Times]] = {"rpp_agents": [], "BenchMARL": []}
    for _ in range(repeats):
        measured["rpp_agents"] += our_times(env, 20)
        measured["BenchMARL"] += benchmarl_times(table, 4)
    slowest = math.inf
    for i, name in enumerate(CLOCKS):
        rows, rates = [], []
        for library, times in measured.items():
            parts = {part: statistics.median(t[part][i] for t in times) for part in times[0]}
            whole = sum(parts.values())
            rates.append(USERS * STEPS / whole)
            shares = [f"{1000 * x:.0f} ms ({x / whole:.0%})" for x in parts.values()]
            rows.append([library, f"{rates[-1]:,.0f}", *shares, f"{rates[0] / rates[-1]:.1f}"])
        slowest = min(slowest, rates[0] / rates[1])
        header = ["MAPPO", "frames/s", "environment", "update", "ours is faster by"]
        print(f"By {name} time, {USERS * STEPS} frames:\n\n{markdown(header, rows)}\n")
    return slowest >= 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("learning", "speed")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--results", type=Path, default=Path("runs/benchmarl.jsonl"))
    parser.add_argument("--table", type=Path, help="of movieworld's train users; else a small one")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    well = True
    if "learning" in options.parts:
        well &= learning(options.results, options.seeds)
    if "speed" in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            path = options.table
            if path is None:
                path = Path(folder) / "users.rpptable"
                tabulate(rpp_env.RPPEnv.make(max_users=64, num_envs=8), path)
            well &= speed(path, options.repeats)
    sys.exit(not well)


if __name__ == "__main__":
    main()
