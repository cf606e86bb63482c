"""A pilot: does personalising the prompt pay for this catalog and this model? With few calls.

Some train users are asked every one of a few prompts, which cover the options of each agent evenly.
The users are split in two halves; each half is scored with what was chosen on the other one. The
primary contrast is named here, before any run: *personal prompt minus best fixed prompt*, NDCG@10,
paired over users, with a 95% interval by Student's t (`rpp_agents.experiments.statistics.Lines`).

==========================  ======================================================================
line                        chosen on the other half
==========================  ======================================================================
best fixed prompt           the prompt with the best mean
five fixed prompts merged   five prompts, one after another, by the mean of their merged orders
personal prompt             for each user the prompt with the best prediction by a ridge regression
                            from the first observation; its penalty is chosen by leaving one user
                            out, and may be infinite, which is the best fixed prompt
==========================  ======================================================================

`power` is how often such a pilot would find a gain of a given size. It resamples the measured
observations and the measured rewards independently of each other, which leaves no connection, takes
the prompts' means away, and plants one: the sign of a random direction of the observations' first
five principal components says which half of the prompts earns the user more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.players import borda_points
from rpp_agents.experiments.problem import Users, joined
from rpp_agents.experiments.statistics import Contrast, Lines
from rpp_env.errors import InvalidOption
from rpp_env.metrics import chance_ndcg, ndcg

__all__ = ["PRIMARY", "Answers", "Pilot", "analyse", "ask", "choose_cells", "power"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PRIMARY = ("personal prompt", "best fixed prompt")
"""The two lines of the primary contrast."""
MERGED = 5
"""Number of fixed prompts whose answers are merged."""
FEWEST = 8
"""Fewest users of a pilot: four in each half."""
ENOUGH = 0.8
"""Power from which "does not pay" may be said."""
_PENALTIES = np.concatenate([np.geomspace(1.0, 1e5, 11), [np.inf]])
_COMPONENTS = 5
_MOST_FACTOR = 64

Verdict = Literal["pays", "does not pay", "cannot be told"]


def choose_cells(users: Users, count: int, seed: int) -> Ints:
    """Draw different prompts that cover every axis of the space evenly (a Latin hypercube).

    Parameters
    ----------
    users : Users
    count : int
        Number of prompts; fewer are returned where the space has fewer.
    seed : int
    """
    shape = users.finite("pilot")
    rng = np.random.default_rng([seed, 1])
    reachable = [np.arange(axis.lowest, len(axis)) for axis in users.env.space.axes]
    count = min(count, math.prod(map(len, reachable)))
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        columns = []
        for options in reachable:
            rounds = [rng.permutation(options) for _ in range(math.ceil(count / len(options)))]
            columns.append(rng.permutation(np.concatenate(rounds)[:count]))
        chosen.update(dict.fromkeys(np.ravel_multi_index(tuple(columns), shape).tolist()))
    return np.array(list(chosen)[:count], np.int64)


@dataclass(frozen=True)
class Answers:
    """The model's answers: every prompt for every user.

    Attributes
    ----------
    observations : (U, d) array
        The users' first observations.
    rewards : (U, C) float64 array
        NDCG@10.
    points : (U, C, K) int64 array
        Borda points of the candidates; see `borda_points`.
    targets : (U,) int64 array
        Positions of the targets among the candidates.
    """

    observations: Floats
    rewards: Floats
    points: Ints
    targets: Ints


def ask(
    users: Users,
    cells: Ints,
    watch: Callable[[int, int], None] | None = None,
    batch: int = 16,
) -> Answers:
    """Ask every prompt for every user, some users at a time."""
    found = []
    for start in range(0, len(users), batch):
        rows = users.rows[start : start + batch]
        # A user's prompts one after another: they share their beginnings.
        found.append(users.ask(np.repeat(rows, len(cells)), np.tile(cells, len(rows))))
        if watch is not None:
            watch(min(start + batch, len(users)) * len(cells), len(users) * len(cells))
    whole = joined(found)
    shape = (len(users), len(cells))
    points = borda_points(whole.rankings.order, whole.rankings.named.astype(np.int64))
    return Answers(
        users.observations.astype(np.float64),
        np.asarray(whole.rewards, np.float64).reshape(shape),
        points.reshape(*shape, -1),
        np.asarray(users.env.tasks.position[: len(users)], np.int64),
    )


# A personal prompt


class Ridge:
    """Ridge regression of several outputs on the same inputs, for many outputs in turn.

    Parameters
    ----------
    inputs : (U, d) array
        Standardised here; constant columns are left out.
    """

    def __init__(self, inputs: Floats) -> None:
        self._mean, deviation = inputs.mean(axis=0), inputs.std(axis=0)
        self._used = deviation > 1e-9
        self._scale = np.where(self._used, deviation, 1.0)
        left, self._values, self._right = np.linalg.svd(self._scaled(inputs), full_matrices=False)
        self._left = left

    def _scaled(self, inputs: Floats) -> Floats:
        scaled: Floats = ((inputs - self._mean) / self._scale)[:, self._used]
        return scaled

    def predict(self, outputs: Floats, inputs: Floats) -> Floats:
        """Fit on (U, C) outputs and predict for (B, d) inputs; the penalty is chosen on the way.

        The penalty has the least squared error when each user is left out in turn.
        """
        mean = outputs.mean(axis=0)
        inner = self._left.T @ (outputs - mean)
        best, kept = np.inf, self._values * 0
        for penalty in _PENALTIES:
            shrunk = self._values**2 / (self._values**2 + penalty)
            fitted = self._left @ (shrunk[:, None] * inner)
            # The intercept is fitted, too, hence 1 / U.
            lever = 1 / len(outputs) + (self._left**2) @ shrunk
            error = (((outputs - mean - fitted) / np.maximum(1 - lever, 1e-9)[:, None]) ** 2).mean()
            if error < best:
                best, kept = error, shrunk
        weights = np.divide(kept, self._values, out=np.zeros_like(kept), where=self._values > 1e-9)
        slopes = self._right.T @ (weights[:, None] * inner)
        predicted: Floats = mean + self._scaled(inputs) @ slopes
        return predicted


class Halves:
    """The two halves of some users, each with what is chosen on it."""

    def __init__(self, observations: Floats, seed: int) -> None:
        order = np.random.default_rng([seed, 2]).permutation(len(observations))
        parts = np.array_split(order, 2)
        self.ways = [(parts[0], parts[1]), (parts[1], parts[0])]
        self._models = [Ridge(observations[fit]) for fit, _ in self.ways]
        self._observations = observations

    def fixed(self, rewards: Floats) -> Ints:
        """(U,) the best fixed prompt of the half in which a user is not."""
        chosen = np.empty(len(rewards), np.int64)
        for fit, score in self.ways:
            chosen[score] = rewards[fit].mean(axis=0).argmax()
        return chosen

    def personal(self, rewards: Floats) -> Ints:
        """(U,) the prompt that is predicted to be best for each user."""
        chosen = np.empty(len(rewards), np.int64)
        for (fit, score), model in zip(self.ways, self._models, strict=True):
            # What a user earns on average says nothing of prompts.
            own = rewards[fit] - rewards[fit].mean(axis=1, keepdims=True)
            chosen[score] = model.predict(own, self._observations[score]).argmax(axis=1)
        return chosen

    def merged(self, answers: Answers) -> Floats:
        """(U,) NDCG@10 of the merged orders of the prompts that suit the other half best."""
        scores = np.empty(len(answers.rewards))
        for fit, score in self.ways:
            total = np.zeros_like(answers.points[:, 0])
            for _ in range(MERGED):
                tried = [
                    _merged(total[fit] + answers.points[fit, c], answers.targets[fit]).mean()
                    for c in range(answers.rewards.shape[1])
                ]
                total = total + answers.points[:, int(np.argmax(tried))]
            scores[score] = _merged(total[score], answers.targets[score])
        return scores


def _merged(points: Ints, targets: Ints) -> Floats:
    """NDCG@10 of orders by points; ties are half a place each."""
    mine = points[np.arange(len(points)), targets][:, None]
    rank = 1 + (points > mine).sum(axis=1) + ((points == mine).sum(axis=1) - 1) / 2
    return np.where((mine[:, 0] > 0) & (rank <= 10), 1 / np.log2(rank + 1), 0.0)


def _taken(rewards: Floats, cells: Ints) -> Floats:
    return np.asarray(rewards[np.arange(len(rewards)), cells])


def primary(observations: Floats, rewards: Floats, seed: int) -> Contrast:
    """Return the primary contrast."""
    halves = Halves(observations, seed)
    personal = _taken(rewards, halves.personal(rewards))
    fixed = _taken(rewards, halves.fixed(rewards))
    return _minus({PRIMARY[0]: personal, PRIMARY[1]: fixed}, *PRIMARY)


def _minus(scores: dict[str, Floats], line: str, other: str) -> Contrast:
    """Return the mean paired difference of two lines."""
    return Lines({name: {"": [scores[name]]} for name in {line, other}}).minus(line, other)


def power(
    answers: Answers, users: int, gain: float, *, replicates: int = 100, seed: int = 0
) -> float:
    """Share of pilots of this size that would find a gain of this size that is there.

    Parameters
    ----------
    answers : Answers
        Of a pilot: their observations and the spread of their rewards are resampled.
    users : int
    gain : float
        NDCG@10 of the best personal policy minus the best fixed prompt.
    replicates : int
    seed : int

    Returns
    -------
    float
        Share of the replicates whose 95% interval is above 0.
    """
    rng = np.random.default_rng([seed, 3])
    seen = answers.observations
    scaled = (seen - seen.mean(axis=0)) / np.maximum(seen.std(axis=0), 1e-9)
    _, _, right = np.linalg.svd(scaled, full_matrices=False)
    leading = scaled @ right[:_COMPONENTS].T
    leading = leading / np.maximum(leading.std(axis=0), 1e-9)
    rewards = answers.rewards - answers.rewards.mean(axis=0)
    prompts = rewards.shape[1]
    found = 0
    for _ in range(replicates):
        who, what = rng.integers(len(seen), size=(2, users))
        side = leading[who] @ rng.standard_normal(leading.shape[1]) > 0
        liked = rng.permutation(prompts) < prompts // 2
        planted = rewards[what] + 2 * gain * (side[:, None] == liked)
        found += primary(seen[who], planted, int(rng.integers(2**31))).low > 0
    return found / replicates


@dataclass(frozen=True)
class Pilot:
    """Result of a pilot.

    Attributes
    ----------
    scores : dict of (U,) arrays
        NDCG@10 of every user by line.
    contrast : Contrast
        The primary contrast.
    worth : float
        The smallest gain that is worth having.
    power : float
        How often a pilot like this one finds a gain of that size.
    needed : int or None
        Fewest users with a power of `ENOUGH`, of those tried; None if `most` are not enough.
    most : int
        Most users that were tried for `needed`.
    chance : float
    """

    scores: dict[str, Floats]
    contrast: Contrast
    worth: float
    power: float
    needed: int | None
    most: int
    chance: float

    @property
    def verdict(self) -> Verdict:
        """Return whether personalising pays, by the primary contrast.

        "pays": the interval is above 0. "does not pay": it is below `worth`, and a pilot like this
        one would have found a gain of that size in 80% of all cases or more; or the `ceiling` is
        below `worth`.
        """
        if self.contrast.low > 0:
            return "pays"
        if self.ceiling.high < self.worth:
            return "does not pay"
        if self.contrast.high < self.worth and self.power >= ENOUGH:
            return "does not pay"
        return "cannot be told"

    @property
    def ceiling(self) -> Contrast:
        """Hindsight minus best fixed prompt: no policy over these prompts can gain more."""
        return self.minus("hindsight", PRIMARY[1])

    def mean(self, line: str) -> Contrast:
        """Return the mean of a line."""
        return Lines({line: {"": [self.scores[line]]}}).mean(line)

    def minus(self, line: str, other: str) -> Contrast:
        """Return the mean paired difference of two lines."""
        return _minus(self.scores, line, other)


def analyse(
    answers: Answers,
    others: dict[str, Floats] | None = None,
    *,
    worth: float = 0.03,
    replicates: int = 100,
    seed: int = 0,
    watch: Callable[[int, int], None] | None = None,
) -> Pilot:
    """Score the lines, and find the power of the primary contrast.

    Parameters
    ----------
    answers : Answers
    others : dict of (U,) arrays, optional
        NDCG@10 of lines that read no prompt.
    worth : float
        The smallest gain that is worth having, in NDCG@10.
    replicates : int
        Simulated pilots for each number of users.
    seed : int
        Seed of the halves and of the simulation.
    watch : callable, optional
        Called with the numbers of users that have been simulated, and of all.

    Raises
    ------
    InvalidOption
        For fewer than `FEWEST` users or two prompts.
    """
    rewards = answers.rewards
    users, prompts = rewards.shape
    if users < FEWEST or prompts < 2:
        raise InvalidOption(
            f"a pilot needs {FEWEST} users and 2 prompts or more; got {users} and {prompts}: give "
            "more calls, or a dataset with more train users"
        )
    halves = Halves(answers.observations, seed)
    scores = dict(others or {})
    scores |= {
        "random prompt": rewards.mean(axis=1),
        PRIMARY[1]: _taken(rewards, halves.fixed(rewards)),
        "five fixed prompts merged": halves.merged(answers),
        PRIMARY[0]: _taken(rewards, halves.personal(rewards)),
        "hindsight": rewards.max(axis=1),
    }
    sizes = _sizes(users)
    reached, needed = 0.0, None
    for i, size in enumerate(sizes):
        share = power(answers, size, worth, replicates=replicates, seed=seed)
        reached = share if i == 0 else reached
        if watch is not None:
            watch(i + 1, len(sizes))
        if share >= ENOUGH:
            needed = size
            break
    return Pilot(
        scores,
        _minus(scores, *PRIMARY),
        worth,
        reached,
        needed,
        sizes[-1],
        chance_ndcg(answers.points.shape[2]),
    )


def _sizes(users: int) -> list[int]:
    """Numbers of users whose power is found, in turn."""
    factors = [2**i for i in range(int(math.log2(_MOST_FACTOR)) + 1)]
    return [users * factor for factor in factors if users * factor <= 20_000] or [users]


def without_prompts(name: str, users: Users, progress: Any = None, seed: int = 0) -> Floats:
    """(U,) NDCG@10 of a recommender that reads no prompt, fitted on histories without targets."""
    from rpp_agents.recommenders import fit, target_ranks

    tasks = users.env.tasks
    scorer = fit(name, tasks.dataset, seed=seed, progress=progress)
    return np.asarray(ndcg(target_ranks(scorer, tasks)), np.float64)[: len(users)]


def described(users: Users, cells: Sequence[int]) -> list[str]:
    """Describe prompts in words."""
    return [users.env.space.described(cell) for cell in cells]
