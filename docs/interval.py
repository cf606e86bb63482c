"""A published difference with its 95% interval, from `scores.npz` with NumPy alone.

python interval.py scores.npz "movieworld" "RPP (MAPPO)" "best fixed, 5 merged"
"""

import math
import sys

import numpy as np


def by_draw(raw, setting, method):
    """Scores of each draw's users: the mean over the method's runs there."""
    rows = (raw["setting"] == setting) & (raw["method"] == method)
    scores, draws = raw["score"][rows], raw["draw"][rows]
    means = {int(draw): scores[draws == draw].mean(axis=0) for draw in np.unique(draws)}
    return {draw: mean[~np.isnan(mean)] for draw, mean in means.items()}, raw["group"][rows]


def student(freedom):
    """The 97.5% quantile of Student's t, by integrating its density."""
    t = np.linspace(0, 100, 2_000_001)
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = np.exp(log - (freedom + 1) / 2 * np.log1p(t**2 / freedom))
    density /= math.sqrt(freedom * math.pi)
    area = np.cumsum((density[1:] + density[:-1]) / 2) * (t[1] - t[0])
    return t[1 + np.searchsorted(area, 0.475)]


def interval(file, setting, method, against):
    """The mean difference, and where its interval begins and ends."""
    raw = np.load(file, allow_pickle=False)
    (ours, groups), (theirs, _) = (by_draw(raw, setting, one) for one in (method, against))
    scores = [ours[draw] - theirs[draw] for draw in ours if draw in theirs]
    means = np.array([one.mean() for one in scores])
    spreads = [(means.var(ddof=1) / len(means), len(means) - 1)]
    if len(set(groups.tolist())) == 1:  # the same users in all draws: users and draws are crossed
        table = np.stack(scores)
        users = table.mean(axis=0)
        spreads.append((users.var(ddof=1) / len(users), len(users) - 1))
        rest = table - means[:, None] - users + table.mean()
        shared = (rest**2).sum() / ((len(means) - 1) * (len(users) - 1)) / table.size
        total = sum(of for of, _ in spreads)
        kept = max(total - shared, *(of for of, _ in spreads)) / total
        spreads = [(of * kept, freedom) for of, freedom in spreads]
    variance = sum(of for of, _ in spreads)
    freedom = variance**2 / sum(of**2 / degrees for of, degrees in spreads)
    half = student(freedom) * math.sqrt(variance)
    return means.mean(), means.mean() - half, means.mean() + half


if __name__ == "__main__":
    print("{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval(*sys.argv[1:])))
