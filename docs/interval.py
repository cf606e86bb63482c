"""A published difference with its 95% interval, from `scores.npz` with NumPy alone.

python interval.py scores.npz "movieworld" "RPP (MAPPO)" "best fixed, 5 merged"
"""

import math
import sys

import numpy as np


def by_draw(raw, setting, method):
    """(runs, users) scores of each draw, and which users these are."""
    rows = (raw["setting"] == setting) & (raw["method"] == method)
    scores, draws = raw["values"][raw["score"][rows]], raw["draw"][rows]
    runs = {int(draw): scores[draws == draw] for draw in np.unique(draws)}
    return {draw: one[:, ~np.isnan(one[0])] for draw, one in runs.items()}, raw["group"][rows]


def spread(values):
    """Variance of a mean, and its degrees of freedom."""
    return values.var(ddof=1) / len(values), len(values) - 1


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
    draws = [draw for draw in ours if draw in theirs]
    scores = [ours[draw].mean(axis=0) - theirs[draw].mean(axis=0) for draw in draws]
    means = np.array([one.mean() for one in scores])
    if len(draws) == 1:  # nothing is known of other draws: users, and runs where there are several
        runs = [one[draws[0]].mean(axis=1) for one in (ours, theirs)]
        spreads = [spread(one) for one in (scores[0], *runs) if len(one) > 1]
    else:
        spreads = [spread(means)]
    if len(set(groups.tolist())) == 1 and len(draws) > 1:  # the same users in all draws: crossed
        table = np.stack(scores)
        users = table.mean(axis=0)
        spreads.append(spread(users))
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
