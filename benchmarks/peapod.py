"""What attention to similar users is worth on PeaPOD-v0: its solver, controls, and ablations.

    python benchmarks/peapod.py --out docs/results/peapod.json
    python benchmarks/peapod.py --dataset beauty --model checkpoint:FILE --users 5000 --keep runs/b

=========  ====================================================================================
prompts    no prompt, attention (pre-trained, equal, random, the solver's), and another user's
ablations  composers that are taught anew for each seed: the paper's other forms, task prompts,
           and other numbers of heads, neighbours (n) and vectors (P)
joint      the T5 and the composer trained together, beside the T5 trained alone
rules      SASRec, popularity, and "the largest id of the history + 1"
=========  ====================================================================================

All rank the test clicks of the same users; whatever is tuned is tuned on validation clicks. What is
finished is kept in the folder KEEP, and not computed again. Lists, metrics and intervals are those
of `ranked.py`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ranked
import torch

from rpp_agents import Random
from rpp_agents.solvers import controls, peapod
from rpp_env import RPPEnv
from rpp_env.data.candidates import TaskBatch
from rpp_env.data.clicks import training_clicks
from rpp_env.data.folders import write_text
from rpp_env.data.neighbours import fit_factors
from rpp_env.recommenders import composer
from rpp_env.vectors import PrefixPrompts

BARE, PRETRAINED, SOLVER = "no prompt", "pre-trained attention", "the solver"
OTHERS = {who: f'{PRETRAINED}, whose="{who}"' for who in ("another", "self")}
TAUGHT = "attention"
ABLATIONS: dict[str, dict[str, Any]] = {
    TAUGHT: {},
    'form="mlp"': {"form": "mlp"},
    'form="pool"': {"form": "pool"},
    "with task prompts (3)": {"task": 3},
    "1 head": {"heads": 1},
    "2 heads": {"heads": 2},
    "8 heads": {"heads": 8},
    "n = 5": {"neighbours": 5},
    "n = 20": {"neighbours": 20},
    "P = 1": {"length": 1},
    "P = 6": {"length": 6},
}
"""Composers, as options of `composer.teach` and of its `Config`."""
JOINT, ALONE = "T5 and composer trained together", "T5 trained alone"
MINUS = (
    *((name, BARE) for name in (*OTHERS.values(), "random attention", "equal attention")),
    *((name, BARE) for name in (PRETRAINED, SOLVER)),
    *((PRETRAINED, other) for other in OTHERS.values()),
    (SOLVER, PRETRAINED),
    *((name, BARE) for name in ABLATIONS),
    *((name, TAUGHT) for name in ABLATIONS if name != TAUGHT),
    *((name, BARE) for name in (ALONE, JOINT)),
    (JOINT, ALONE),
    *((name, BARE) for name in ("SASRec", "popularity", "largest id + 1")),
)
"""Differences that are shown, as far as both rows are there."""
GROUPS = ("prompts", "ablations", "joint", "rules")


class Bench:
    """The environments, and the ranks of each row of the table."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.train, self.validation, self.test = (
            self.env(split) for split in ("train", "validation", "test")
        )
        self.model = self.test.recommender
        self.clicks = ranked.Clicks(self.test.tasks)

    def env(self, split: str, **options: Any) -> RPPEnv:
        return ranked.environment("PeaPOD-v0", split, self.given, **options)

    def ranks(self, prefix: Any = None, model: Any = None) -> ranked.Ranks:
        """Rank the test clicks after vectors (T, P, d), by the environment's T5 or another."""
        model = self.model if model is None else model

        def scores(tasks: Any, rows: np.ndarray) -> Any:
            return model.scores(PrefixPrompts(None if prefix is None else prefix[rows], tasks))

        return self.clicks.ranks(scores)

    def played(self, policy: Any, env: RPPEnv) -> ranked.Ranks:
        """Rank the test clicks after the prompts of a policy."""
        return self.ranks(_prefix(policy, env))

    def whose(self, who: str) -> ranked.Ranks:
        env = self.env("test", whose=who)
        return self.played(peapod.pretrained(env), env)

    def tuned(self, name: str, seed: int, **how: Any) -> peapod.Tuned:
        """Train with early stopping."""
        config = peapod.Config(seed=seed, total_steps=5 * len(self.train.tasks))
        found = peapod.tune(self.train, self.validation, config, patience=2, **how)
        print(f"{name}, seed {seed}: epoch {found.epoch}, {found.validation:.4f}", flush=True)
        return found

    def solver(self, seed: int) -> ranked.Ranks:
        return self.played(self.tuned(SOLVER, seed).policy, self.test)

    def joint(self, seed: int) -> ranked.Ranks:
        found = self.tuned(JOINT, seed, joint=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "composer.safetensors"
            composer.save(path, found.composer, self.users.factors)
            env = self.env("test", composer=str(path))
        return self.ranks(_prefix(found.policy, env), found.model)

    def alone(self, seed: int) -> ranked.Ranks:
        return self.ranks(model=self.tuned(ALONE, seed, joint=True, prompt=False).model)

    @cached_property
    def users(self) -> composer.Users:
        data = self.test.tasks.dataset
        factors = fit_factors(training_clicks(data), composer.Config.dim)
        return composer.Users.of(data, factors)

    def taught(self, name: str, seed: int) -> ranked.Ranks:
        """Teach a composer of `ABLATIONS`, and rank after its vectors."""
        chosen = dict(ABLATIONS[name])
        how = {option: chosen.pop(option) for option in ("form", "task") if option in chosen}
        config = replace(composer.Config(), **chosen)
        tasks = self.test.tasks
        weights = composer.teach(self.model, tasks.dataset, self.users, config, seed=seed, **how)
        own, near, _ = self.users.around(tasks, config.neighbours)
        form = how.get("form", "attention")
        vectors = (torch.from_numpy(of) for of in (own, self.users.pool[near]))
        with torch.inference_mode():
            return self.ranks(composer.prefixes(form, weights, config, *vectors))

    def rows(self, group: str) -> dict[str, tuple[int, Callable[[int], ranked.Ranks]]]:
        """Return the runs of each row, and what ranks in the run of a seed."""
        seeds, test = self.given.seeds, self.test
        if group == "ablations":
            return {
                name: (seeds, lambda seed, name=name: self.taught(name, seed)) for name in ABLATIONS
            }
        if group == "joint":
            return {ALONE: (seeds, self.alone), JOINT: (seeds, self.joint)}
        return {
            OTHERS["another"]: (1, lambda _: self.whose("another")),
            OTHERS["self"]: (1, lambda _: self.whose("self")),
            "random attention": (
                seeds,
                lambda seed: self.played(Random(test.action_spaces, seed=seed), test),
            ),
            "equal attention": (1, lambda _: self.played(controls.zero(test), test)),
            PRETRAINED: (1, lambda _: self.played(peapod.pretrained(test), test)),
            SOLVER: (seeds, self.solver),
        }


def _prefix(policy: Any, env: RPPEnv) -> torch.Tensor:
    """(T, P, d) the vectors that a policy makes for all tasks of an environment."""
    rows = np.arange(len(env.tasks))
    observations, _ = env.reset(options={"users": rows})
    state = env.space.apply(env.space.start(rows), policy.act(observations)[0])
    return torch.from_numpy(env.space.prompts(state, TaskBatch(env.tasks, rows), rows).prefix)


def main() -> None:
    parser = ranked.parser(__doc__)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=["prompts"])
    parser.add_argument("--keep", type=Path, help="folder of what is finished, for one dataset")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(given)
    found = {BARE: [ranked.kept(given.keep and given.keep / f"{BARE}.npz", bench.ranks)]}
    for group in given.groups:
        if group == "rules":
            found |= bench.clicks.baselines(bench.model.vocabulary.numbers)
            continue
        for name, (runs, ranks) in bench.rows(group).items():
            found[name] = [
                ranked.kept(
                    given.keep and given.keep / f"{name}-{seed}.npz",
                    lambda seed=seed, ranks=ranks: ranks(seed),
                )
                for seed in range(runs)
            ]
    text, written = ranked.report(found, MINUS)
    print(text, flush=True)
    about = {
        "dataset": bench.test.tasks.dataset.name,
        "users": len(bench.test.tasks),
        "seeds": given.seeds,
        "recommender": bench.model.digest,
        "composer": bench.test.space.around.composer.digest,
    }
    if given.out:
        write_text(given.out, json.dumps({"about": about, **written}, indent=1) + "\n")


if __name__ == "__main__":
    main()
