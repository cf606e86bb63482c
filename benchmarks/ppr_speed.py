"""PPR-v0 beside the bare recommender: processor time of 256 users of 100 candidates.

    python benchmarks/ppr_speed.py

"rank" is the SASRec's forward pass and sort in the shapes that make an answer independent of the
batch; "bare" is one forward pass over all users, padded no further than their longest history.
Steps are interleaved, so that all meet the same load; medians of the processor's time.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from rpp_env import RPPEnv
from rpp_env.markdown import table
from rpp_env.vectors import PrefixPrompts

ROUNDS = 100


def measured(shots: str) -> dict[str, float]:
    """Milliseconds of each."""
    env = RPPEnv.make(rules="PPR-v0", num_envs=256, seed=0, shots=shots)
    env.reset(seed=0)
    actions = env.actions.drawn(np.random.default_rng(0), (256, 1))
    model, rows = env.recommender, env.playing
    tasks = env.tasks.subset(rows)
    prefix = env.space.decode(actions)
    prompts = PrefixPrompts(prefix, tasks)
    length = max(1, int(tasks.history_lengths.max()))
    histories = torch.from_numpy(tasks.padded_history(length).astype(np.int64))
    candidates = torch.from_numpy(tasks.candidates.astype(np.int64))

    def bare() -> None:
        with torch.inference_mode():
            users = model.encode(histories, torch.from_numpy(prefix))
            scores = (users @ model.weights["items.weight"].T).gather(1, candidates)
        np.argsort(-scores.numpy(), axis=1, kind="stable")

    def whole() -> None:
        env.reset(options={"users": rows})
        _ = env.step(actions).observations

    calls = {
        "bare": bare,
        "rank": lambda: model.rank(prompts),
        "step": lambda: env.step(actions),
        "reset, step, observations": whole,
    }
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            if name == "step":
                env.reset(options={"users": rows})
            began = time.process_time()
            call()
            spent[name].append(time.process_time() - began)
    return {name: float(np.median(times)) * 1e3 for name, times in spent.items()}


def main() -> None:
    torch.set_num_threads(1)
    rows = [
        ["shots", "bare, ms", "rank, ms", "step, ms", "rank / step", "rank / all", "bare / step"]
    ]
    for shots in ("joint", "zero"):
        found = measured(shots)
        rank, step = found["rank"], found["step"]
        rows.append(
            [
                shots,
                *(f"{found[name]:.1f}" for name in ("bare", "rank", "step")),
                f"{rank / step:.2f}",
                f"{rank / found['reset, step, observations']:.2f}",
                f"{found['bare'] / step:.2f}",
            ]
        )
    print(table(rows, padded=False))


if __name__ == "__main__":
    main()
