"""Does MAPPO learn better if it observes sentences by a pretrained encoder than by hashed n-grams?

    rpp-env model get minilm
    python benchmarks/encoders.py [--steps 20000 60000] [--seeds 0 1 2 3 4]

It plays a table of 1,500 train users of movieworld, once for each encoder, seed and budget, and
then 1,000 test users, greedily. The primary contrast, named before the run: minilm minus hashed at
the largest budget. Intervals are over runs and users of one world
(`rpp_agents.experiments.statistics`).
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
from time_to_gain import tabulated
from verification import markdown

from rpp_agents import mappo, play
from rpp_agents.experiments.statistics import Lines
from rpp_env.observation import open_encoder

ENCODERS = ("hashed", "minilm")
TRAIN, TEST = 1500, 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", nargs="+", type=int, default=[20_000, 60_000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in options.steps:
            runs: dict[str, list[np.ndarray]] = {name: [] for name in options.encoders}
            for seed in options.seeds:
                for name in options.encoders:
                    given = {"encoder": open_encoder(name)}
                    env = tabulated("train", TRAIN, folder, num_envs=256, seed=seed, **given)
                    test = tabulated("test", TEST, folder, num_envs=TEST, **given)
                    config = mappo.Config(total_steps=steps, seed=seed, threads=1, evaluations=0)
                    policy = mappo.train(env, config, progress=False)
                    runs[name].append(play(policy, test, episodes=TEST))
                    print(f"{steps:,} steps, seed {seed}, {name}: {runs[name][-1].mean():.4f}")
            lines = Lines({name: {"movieworld": np.stack(found)} for name, found in runs.items()})
            first, *others = options.encoders
            rows += [
                [f"{steps:,}", name, f"{lines.mean(name):.3f}"]
                + ([f"{lines.minus(name, first):+.3f}"] if name != first else [""])
                for name in (first, *others)
            ]
    print(markdown(["steps", "encoder", "NDCG@10", f"minus {options.encoders[0]}"], rows))


if __name__ == "__main__":
    main()
