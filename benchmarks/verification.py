"""Run the trainers on published problems, beside the figures of other implementations.

    pip install mpe2==1.1.1 lbforaging==2.0.0
    python benchmarks/verification.py [--problems lbf ...] [--algorithms vdn ...] [--show]

Matrix games (those of uoe-agents/matrix-games), level-based foraging, and simple_spread of the
multi-particle environments; three seeds each. Every finished run is a line of the results file and
is not run again, unless its settings have changed; a run that was stopped begins anew. The tables
of docs/verification.md are printed by this. Exit status 1 if any figure is outside its expected
range.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from rpp_agents.policy import Policy
from rpp_agents.rollout import BatchedEnv, PettingZooBatch, reset_ended
from rpp_env.evaluation.baselines import Random

SEEDS = (0, 1, 2)
EVALUATION_SEED = 90_000

PAYOFFS = {
    "linear": [[1, 4, 2], [0, 3, 1], [2, 5, 3]],
    "nonlinear": [[0, 3, 1], [0, 0, 0], [0, 6, 2]],
    "penalty-0": [[0, 0, 10], [0, 2, 0], [10, 0, 0]],
    "penalty-25": [[-25, 0, 10], [0, 2, 0], [10, 0, -25]],
    "penalty-100": [[-100, 0, 10], [0, 2, 0], [10, 0, -100]],
    "climbing": [[11, -30, 0], [-30, 7, 0], [0, 6, 5]],
}
"""What both agents are paid: rows are the first one's actions, columns the second one's."""


# The problems


@dataclass(frozen=True, eq=False)
class Step:
    observations: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: dict[str, NDArray[Any]] = field(default_factory=dict)


class MatrixGame:
    """A payoff matrix, played 25 times over; nothing is to be seen."""

    agents = ("agent_0", "agent_1")
    action_spaces = (Discrete(3), Discrete(3))
    observation_width = state_width = 1
    max_cycles = 25

    def __init__(self, payoffs: Sequence[Sequence[float]], num_envs: int) -> None:
        self.payoffs = np.array(payoffs, np.float64)
        self.num_envs = num_envs
        self._clock = np.zeros(num_envs, np.int64)
        self._seen = np.ones((num_envs, 2, 1), np.float32)

    def reset(
        self,
        seed: int | None = None,  # noqa: ARG002 (nothing here is drawn)
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        self._clock[(options or {}).get("reset_mask", slice(None))] = 0
        return self._seen, {}

    def step(self, actions: NDArray[np.int64]) -> Step:
        self._clock += 1
        paid = self.payoffs[actions[:, 0], actions[:, 1]]
        over = self._clock == self.max_cycles
        return Step(self._seen, np.stack([paid, paid], axis=1), over, np.zeros_like(over))

    def state(self) -> NDArray[np.float32]:
        return self._seen[:, 0]

    def action_masks(self) -> NDArray[np.int8]:
        return np.ones((self.num_envs, 2, 3), np.int8)


def foraging(num_envs: int) -> PettingZooBatch:
    """Two foragers have to lift one piece of food together; 1 is shared when they do."""
    import gymnasium
    import lbforaging  # noqa: F401 (registers the environments)
    from pettingzoo import ParallelEnv

    class Foraging(ParallelEnv):  # type: ignore[misc]  # no types without PettingZoo
        def __init__(self) -> None:
            self.metadata, self.possible_agents = {"name": "foraging"}, ["agent_0", "agent_1"]
            # Gymnasium's own limit, below the environment's: a time-out is not a success.
            self.env = gymnasium.make(
                "Foraging-5x5-2p-1f-coop-v3", max_episode_steps=25, disable_env_checker=True
            )
            spaces = self.env.observation_space, self.env.action_space
            self.observation_spaces, self.action_spaces = (
                dict(zip(self.possible_agents, space, strict=True)) for space in spaces
            )

        def reset(self, seed=None, options=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
            self.agents = self.possible_agents[:]
            seen, _ = self.env.reset(seed=seed)
            return self._each(seen), {agent: {} for agent in self.agents}

        def step(self, actions):  # type: ignore[no-untyped-def]
            chosen = [actions[agent] for agent in self.possible_agents]
            seen, paid, terminated, truncated, _ = self.env.step(chosen)
            if terminated or truncated:
                self.agents = []
            return (
                self._each(seen),
                self._each(paid),
                self._each([terminated] * 2),
                self._each([truncated] * 2),
                self._each([{}, {}]),
            )

        def observation_space(self, agent):  # type: ignore[no-untyped-def]
            return self.observation_spaces[agent]

        def action_space(self, agent):  # type: ignore[no-untyped-def]
            return self.action_spaces[agent]

        def _each(self, values: Iterable[Any]) -> dict[str, Any]:
            return dict(zip(self.possible_agents, values, strict=True))

    return PettingZooBatch(Foraging, num_envs, max_cycles=25)


def spread(num_envs: int, *, continuous: bool = False) -> PettingZooBatch:
    """Three agents have to cover three landmarks without bumping into each other.

    They push themselves in one of four directions or not at all, or, if `continuous`, with five
    forces of 0 to 1.
    """
    from mpe2 import simple_spread_v3

    make = partial(
        simple_spread_v3.parallel_env,
        N=3,
        local_ratio=0.5,
        max_cycles=25,
        continuous_actions=continuous,
    )
    return PettingZooBatch(make, num_envs, max_cycles=25)


# The runs


@dataclass(frozen=True)
class Problem:
    """Where to play, for how long, and what is to be reached."""

    make: Callable[[int], BatchedEnv]
    steps: Mapping[str, int]
    settings: Mapping[str, Mapping[str, Any]]
    """The fields of each algorithm's Config, and ``num_envs``."""
    band: Mapping[str, tuple[float, float]]
    """Expected range of the mean over seeds: lowest and highest."""
    reference: Mapping[str, str]
    """EPyMARL's score after as many steps, or as many as are stated."""
    random: str
    """Score of random actions."""
    episodes: int
    copies: int
    """Episodes of an evaluation, and how many of them are played side by side."""
    unit: float = 1.0
    """What a team return is divided by."""
    points: int = 3
    """Evaluations, the last one at the end of the run: that one counts."""


POLICY_GRADIENT = ("ippo", "mappo", "a2c")
VALUES = ("iql", "vdn", "qmix")
LEARNERS = (*POLICY_GRADIENT, *VALUES)
BASELINES = ("central", "autoregressive")
"""Learners that are no team of many: one policy over all joint actions."""


def for_each(names: Iterable[str], value: Any) -> dict[str, Any]:
    return dict.fromkeys(names, value)


COMMON = {"gamma": 0.99, "team_reward": True, "threads": 1, "evaluations": 0}

ALIKE = COMMON | {"num_envs": 10, "shared": True}
"""Where all agents have the same to do, one network serves them."""

_MATRIX_PG = COMMON | {"num_envs": 10}
_MATRIX_Q = COMMON | {
    "num_envs": 10,
    "batch": 64,
    "capacity": 5_000,
    "learning_rate": 3e-3,
    "target_update": 0.02,
    "normalize_inputs": False,  # of a constant 0 would be left
    "normalize_rewards": True,
}
_MATRIX_SETTINGS = (
    for_each(("a2c", *BASELINES), _MATRIX_PG)
    # With the default's large steps 2 of 13 seeds drifted into penalty-25's 10 by chance.
    | for_each(("ippo", "mappo"), _MATRIX_PG | {"learning_rate": 1e-3})
    | for_each(VALUES, _MATRIX_Q)
)


def matrix_problem(name: str, top: float, reached: float) -> Problem:
    solved = name in {"linear", "nonlinear", "penalty-0"}
    band = (top, top) if solved else ((5.0, 7.0) if name == "climbing" else (reached, reached))
    return Problem(
        make=partial(MatrixGame, PAYOFFS[name]),
        steps=for_each((*POLICY_GRADIENT, *BASELINES), 20_000) | for_each(VALUES, 10_000),
        settings=_MATRIX_SETTINGS,
        band=for_each(LEARNERS, band),
        reference=for_each(LEARNERS, f"{reached:g}"),
        random=f"{np.mean(PAYOFFS[name]):.2f}",
        episodes=1,
        copies=1,
        unit=2 * MatrixGame.max_cycles,
    )


PROBLEMS: dict[str, Problem] = {
    "linear": matrix_problem("linear", 5, 5),
    "nonlinear": matrix_problem("nonlinear", 6, 6),
    "penalty-0": matrix_problem("penalty-0", 10, 10),
    "penalty-25": matrix_problem("penalty-25", 10, 2),
    "penalty-100": matrix_problem("penalty-100", 10, 2),
    "climbing": matrix_problem("climbing", 11, 5),
    "lbf": Problem(
        make=foraging,
        steps=for_each(("a2c", "ippo", "mappo", "vdn", "qmix"), 150_000),
        settings={
            "ippo": ALIKE | {"rollout_steps": 50},
            "mappo": ALIKE | {"rollout_steps": 50},
            "a2c": ALIKE | {"rollout_steps": 20},
            "vdn": ALIKE | {"batch": 128, "gamma": 0.9},
            "qmix": ALIKE | {"batch": 128, "gamma": 0.9},
        },
        band=for_each(("a2c", "ippo", "mappo", "vdn"), (0.85, 1.0)) | {"qmix": (0.32, 1.0)},
        reference={
            "a2c": "0.99",
            "ippo": "0.99",
            "mappo": "0.98 (100k), 0.99 (250k)",
            "vdn": "0.98 (125k)",
            "qmix": "0.32 (125k)",
        },
        random="0.014 (without our wrapper)",
        episodes=300,
        copies=300,
    ),
    "spread": Problem(
        make=spread,
        steps=for_each(("ippo", "mappo", "vdn", "qmix"), 200_000),
        settings={
            "ippo": ALIKE | {"rollout_steps": 100},
            "mappo": ALIKE | {"rollout_steps": 100, "epochs": 5},
            "vdn": ALIKE,
            "qmix": ALIKE | {"batch": 128, "learning_rate": 5e-4, "slope": 0.5},
        },
        band=for_each(("ippo", "mappo", "vdn", "qmix"), (-62.0, 0.0)),
        reference={"ippo": "-57", "mappo": "-55", "vdn": "-57", "qmix": "-57"},
        random="-82.1 (EPyMARL)",
        episodes=300,
        copies=50,
        points=4,
    ),
}


def team_returns(
    policy: Policy, env: BatchedEnv, episodes: int, *, greedy: bool = True
) -> NDArray[np.float64]:
    """Sums of all agents' rewards over the same `episodes` episodes, whoever plays.

    `episodes` is a multiple of ``env.num_envs``.
    """
    returns: list[NDArray[np.float64]] = []
    for batch in range(episodes // env.num_envs):
        observations, _ = env.reset(seed=EVALUATION_SEED + batch)
        total, running, memory = np.zeros(env.num_envs), np.ones(env.num_envs, np.bool_), None
        while running.any():
            actions, memory = policy.act(
                observations, env.action_masks(), greedy=greedy, memory=memory
            )
            step = env.step(actions)
            total += running * np.asarray(step.rewards).reshape(env.num_envs, -1).sum(axis=1)
            ended = step.terminated | step.truncated
            running &= ~ended
            observations = step.observations
            if running.any():  # those that are through play on uncounted
                observations = reset_ended(env, observations, ended)
                if isinstance(memory, np.ndarray):
                    memory[ended] = 0
        returns.append(total)
    return np.concatenate(returns)


Run = dict[str, Any]


def config_of(name: str, algorithm: str, **changes: Any) -> Any:
    """The algorithm's Config for this problem."""
    problem = PROBLEMS[name]
    options = {k: x for k, x in problem.settings[algorithm].items() if k != "num_envs"}
    options["total_steps"] = problem.steps[algorithm]
    return importlib.import_module(f"rpp_agents.trainers.{algorithm}").Config(**options | changes)


def settings_of(name: str, algorithm: str) -> dict[str, Any]:
    """All that a run depends on but its seed, as it stands in a results file."""
    settings = asdict(config_of(name, algorithm))
    del settings["seed"]
    settings["num_envs"] = PROBLEMS[name].settings[algorithm]["num_envs"]
    return dict(json.loads(json.dumps(settings)))


def run(name: str, algorithm: str, seed: int, **changes: Any) -> Run:
    """Train once; the mean return at every evaluation, and how long it took."""
    problem = PROBLEMS[name]
    config = config_of(name, algorithm, seed=seed, **changes)
    steps, num_envs = config.total_steps, problem.settings[algorithm]["num_envs"]
    trainer = importlib.import_module(f"rpp_agents.trainers.{algorithm}")
    judge = problem.make(problem.copies)
    curve: list[list[float]] = []

    def evaluate(row: Mapping[str, float], policy: Policy) -> None:
        if row["steps"] >= steps * (len(curve) + 1) / problem.points:
            returns = team_returns(policy, judge, problem.episodes) / problem.unit
            curve.append([int(row["steps"]), round(float(returns.mean()), 4)])

    start = time.perf_counter()
    trainer.train(problem.make(num_envs), config, callbacks=[evaluate], progress=False)
    return {
        "problem": name,
        "algorithm": algorithm,
        "seed": seed,
        "settings": settings_of(name, algorithm),
        "curve": curve,
        "seconds": round(time.perf_counter() - start, 1),
    }


# The tables


Key = tuple[str, str, int]
"""Problem, algorithm, seed."""


def run_all(keys: Iterable[Key], path: Path) -> dict[Key, Run]:
    """Run what the results file does not hold; all that is finished."""
    runs = finished(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for key in keys:
        if key[1] in PROBLEMS[key[0]].settings and key not in runs:
            row = runs[key] = run(*key)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(*key, row["curve"], f"{row['seconds']} s", file=sys.stderr)
    return runs


def finished(path: Path) -> dict[Key, Run]:
    """The runs in the results file whose settings are those of today."""
    runs = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        key = row["problem"], row["algorithm"], row["seed"]
        known = key[1] in PROBLEMS[key[0]].settings
        if known and row["settings"] == settings_of(*key[:2]):
            runs[key] = row
    return runs


@dataclass(frozen=True)
class Row:
    """What an algorithm reached at the end of its runs."""

    problem: str
    algorithm: str
    runs: list[Run]

    @property
    def scores(self) -> list[float]:
        return [run["curve"][-1][1] for run in self.runs]

    @property
    def verdict(self) -> str:
        """Whether it is in the expected range: in every seed of a matrix game, else in the mean."""
        problem = PROBLEMS[self.problem]
        if self.algorithm not in problem.band:
            return "joint baseline"
        low, high = problem.band[self.algorithm]
        judged = self.scores if self.problem in PAYOFFS else [statistics.fmean(self.scores)]
        return "yes" if all(low <= score <= high for score in judged) else "NO"

    def cells(self) -> list[str]:
        problem = PROBLEMS[self.problem]
        low, high = problem.band.get(self.algorithm, (math.nan, math.nan))
        places = 3 if self.problem == "lbf" else 2
        return [
            self.problem,
            self.algorithm,
            f"{self.runs[0]['settings']['total_steps'] // 1000}k",
            ", ".join(f"{score:.{places}f}" for score in self.scores),
            f"{statistics.fmean(self.scores):.{places}f}",
            problem.reference.get(self.algorithm, ""),
            "" if math.isnan(low) else (f"{low:g}" if low == high else f"{low:g} to {high:g}"),
            self.verdict,
            f"{statistics.fmean(run['seconds'] for run in self.runs):.0f}",
        ]


def rows_of(name: str, runs: Mapping[Key, Run], seeds: Sequence[int]) -> list[Row]:
    """One row for each algorithm that has runs."""
    rows = []
    for algorithm in PROBLEMS[name].settings:
        done = [runs[name, algorithm, seed] for seed in seeds if (name, algorithm, seed) in runs]
        if done:
            rows.append(Row(name, algorithm, done))
    return rows


HEADER = [
    "problem",
    "algorithm",
    "steps",
    "each seed",
    "mean",
    "EPyMARL",
    "expected",
    "as expected",
    "seconds",
]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def random_row(name: str) -> list[str]:
    """What choosing at random brings: whether our scale is the reference's."""
    problem = PROBLEMS[name]
    env = problem.make(problem.copies)
    episodes = max(1000, problem.episodes) // problem.copies * problem.copies
    returns = team_returns(Random(env.action_spaces), env, episodes, greedy=False) / problem.unit
    places = 3 if name == "lbf" else 2
    return [name, f"{returns.mean():.{places}f}", problem.random]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument(
        "--algorithms", nargs="+", choices=(*LEARNERS, *BASELINES), default=[*LEARNERS, *BASELINES]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--results", type=Path, default=Path("runs/verification.jsonl"))
    parser.add_argument("--show", action="store_true", help="print the tables, train nothing")
    options = parser.parse_args()

    for package in ("mpe2", "lbforaging"):
        if importlib.util.find_spec(package) is None:
            sys.exit(f"{package} is not installed: pip install mpe2==1.1.1 lbforaging==2.0.0")
    cells = itertools.product(options.problems, options.algorithms, options.seeds)
    runs = finished(options.results) if options.show else run_all(cells, options.results)
    rows = [row for name in options.problems for row in rows_of(name, runs, options.seeds)]
    print(markdown(HEADER, (row.cells() for row in rows)))
    print()
    print(markdown(["problem", "random actions", "known"], map(random_row, options.problems)))
    sys.exit(any(row.verdict == "NO" for row in rows))


if __name__ == "__main__":
    main()
