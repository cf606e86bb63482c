"""Policies that use the user's responses: rivals of learned ones where an id shows them.

They play the environments that show the response to the last list (`Episode.feedback`), and read
only that block of the observations. `StepPosterior` is fitted on whole episodes, the others on a
complete table of train users.

=================  =========================================================================
policy             plays
=================  =========================================================================
`Posterior`        the prompt with the highest expected reward, over the train users weighted
                   by how well they explain the responses so far (a posterior bandit)
`Posterior`,       a fixed list of prompts first, then as above;
explore=m          ``recall=False``: uses the last response only (no memory)
`KeepBest`         a fixed list of prompts until a response is good enough, then keeps that one;
                   at the end of the list, the best one of it
`KeepBest`,        all prompts of a short list, then the best one of them (explore, then commit)
enough=inf
`StepPosterior`    as `Posterior`, where each step asks for another item (sessions): the
                   responses and rewards of train users are those of the same step
=================  =========================================================================

The list is a greedy cover: each prompt is the one that adds most to the best reward of the prompts
before it, the mean over train users; the first is the best fixed prompt. Options (the noise that
the weights assume, the number of prompts to explore, what is good enough) are chosen on a half of
the train users that the other half explains. Nothing is fitted on the users who are scored.

The prior is the same for all users: what else the observations say about them is ignored, so that
differences between these policies are due to the responses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rpp_env.episode import reward_by_rank, shown_by_rank
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.baselines import Fixed, halving, reachable
from rpp_env.options import check_seed
from rpp_env.prompting import Axis

if TYPE_CHECKING:
    from rpp_env.core import RPPEnv

__all__ = [
    "KeepBest",
    "Posterior",
    "StepPosterior",
    "fit_explore_commit",
    "fit_keep_best",
    "fit_posterior",
    "fit_step_posterior",
    "simulate",
]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

NOISE = (0.1, 0.2, 0.4, 0.8)
"""Standard deviations of a response, among which one is chosen."""
ENOUGH = (0.3, 0.4, 0.6, 0.9)
"""Responses that are good enough to keep a prompt, among which one is chosen."""
EXPLORE = (2, 3, 5, 8)
"""Numbers of prompts that are tried first, among which one is chosen."""
COVER = 40
"""Length of the list of prompts."""
PROMPTS = 100
"""Number of prompts among which `fit_step_posterior` looks for the list."""

_BATCH = 512

_Base = tuple[tuple[Axis, ...], int, Ints]


C = TypeVar("C")
P = TypeVar("P")


@dataclass(frozen=True)
class Memory:
    """Memory of a policy in B episodes.

    Attributes
    ----------
    at : (B, axes) int64 array
        Positions of the last prompt on the axes of the prompt space.
    cell : (B,) int64 array
        Its prompt index.
    step : int
        Steps played.
    kept : (B, w) array
        What the policy keeps.
    """

    at: Ints
    cell: Ints
    step: int
    kept: Floats


@dataclass(frozen=True, eq=False)
class _Walker:
    """Base: moves towards the prompt that `choose` wants, and passes the response to `learn`."""

    axes: tuple[Axis, ...]
    column: int
    """Column of the observation with the response."""
    cover: Ints
    """The list of prompts, as prompt indices."""

    def act(
        self,
        observations: NDArray[np.float32],
        masks: Any = None,  # noqa: ARG002 - a prompt is legal by itself
        greedy: bool = False,  # noqa: ARG002 - there is nothing to sample
        memory: Any = None,
    ) -> tuple[Ints, Memory]:
        """See `Policy.act`; `memory` is a `Memory`, None where the episodes begin."""
        if memory is None:
            memory = self.begin(len(observations))
        else:
            memory = self.learn(memory, observations[:, 0, self.column])
        return self.move(memory)

    def begin(self, count: int) -> Memory:
        """Return the memory before the first step."""
        start = np.tile([axis.start for axis in self.axes], (count, 1))
        return Memory(start, np.zeros(count, np.int64), 0, self._nothing(count))

    def move(self, memory: Memory) -> tuple[Ints, Memory]:
        """Return actions (B, n), and the memory with the prompts that they lead to."""
        sizes = tuple(map(len, self.axes))
        wanted = np.unravel_index(self.choose(memory), sizes)
        actions = np.zeros((len(memory.at), 1 + max(axis.agent for axis in self.axes)), np.int64)
        at = memory.at.copy()
        for i, axis in enumerate(self.axes):
            after = axis.moves[at[:, i]][:, axis.order]
            best = np.abs(after - wanted[i][:, None]).argmin(axis=1)
            actions[:, axis.agent] = axis.order[best]
            at[:, i] = np.take_along_axis(after, best[:, None], axis=1)[:, 0]
        cell = np.ravel_multi_index(tuple(at.T), sizes)
        return actions, replace(memory, at=at, cell=cell, step=memory.step + 1)

    def _nothing(self, count: int) -> Floats:
        raise NotImplementedError

    def choose(self, memory: Memory) -> Ints:
        """(B,) prompt index to go to."""
        raise NotImplementedError

    def learn(self, memory: Memory, shown: Floats) -> Memory:
        """Return the memory after the responses (B,) to the last prompts."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Posterior(_Walker):
    """A posterior over train users, given the responses; see the module's docstring.

    Attributes
    ----------
    shown, worth : (U, C) float32 arrays
        Responses and rewards of the train users, by prompt index.
    noise : float
        Standard deviation of a response around that of a train user.
    explore : int
        Number of prompts of the list that are played first.
    recall : bool
        Whether all responses of the episode count, or only the last one.
    """

    shown: NDArray[np.float32]
    worth: NDArray[np.float32]
    noise: float = 0.2
    explore: int = 1
    recall: bool = True

    def _nothing(self, count: int) -> Floats:
        return np.zeros((count, len(self.shown)), np.float32)

    def choose(self, memory: Memory) -> Ints:
        """See `_Walker.choose`."""
        if memory.step < min(self.explore, len(self.cover)):
            return np.full(len(memory.cell), self.cover[memory.step])
        expected = _weights(memory) @ self.worth[:, self.cover]
        best: Ints = self.cover[expected.argmax(axis=1)]
        return best

    def learn(self, memory: Memory, shown: Floats) -> Memory:
        """See `_Walker.learn`."""
        errors = (shown[:, None] - self.shown.T[memory.cell]) / self.noise
        before = memory.kept if self.recall else np.float32(0)
        return replace(memory, kept=np.asarray(before - errors**2 / 2, np.float32))


@dataclass(frozen=True, eq=False)
class StepPosterior(_Walker):
    """A posterior over train users where each step asks for another item.

    Attributes
    ----------
    shown, worth : (S, U, P) float32 arrays
        Responses and rewards of the train users at each step of an episode with one prompt of the
        list.
    noise : float
        Standard deviation of a response around that of a train user.
    recall : bool
        Whether all responses of the episode count, or only the last one.
    """

    shown: NDArray[np.float32]
    worth: NDArray[np.float32]
    noise: float = 0.2
    recall: bool = True

    def _nothing(self, count: int) -> Floats:
        return np.zeros((count, self.shown.shape[1]), np.float32)

    def place(self, memory: Memory) -> Ints:
        """(B,) place in the list of the prompt to go to."""
        expected = _weights(memory) @ self.worth[self._step(memory)]
        best: Ints = expected.argmax(axis=1)
        return best

    def choose(self, memory: Memory) -> Ints:
        """See `_Walker.choose`."""
        chosen: Ints = self.cover[self.place(memory)]
        return chosen

    def learn(self, memory: Memory, shown: Floats) -> Memory:
        """See `_Walker.learn`."""
        last = replace(memory, step=memory.step - 1)
        expected = self.shown[self._step(last)].T[self.place(last)]
        before = memory.kept if self.recall else np.float32(0)
        errors = (shown[:, None] - expected) / self.noise
        return replace(memory, kept=np.asarray(before - errors**2 / 2, np.float32))

    def _step(self, memory: Memory) -> int:
        return min(memory.step, len(self.worth) - 1)

    def simulate(self, shown: Floats, worth: Floats) -> float:
        """Mean reward over the users and steps of tables (S, T, P) of other users."""
        users, memory, total = np.arange(worth.shape[1]), self.begin(worth.shape[1]), 0.0
        for step in range(len(worth)):
            place = self.place(memory)
            total += float(worth[step, users, place].mean())
            memory = self.learn(replace(memory, step=step + 1), shown[step, users, place])
        return total / len(worth)


def _weights(memory: Memory) -> Floats:
    """(B, U) weights of the train users, from the logarithms that a posterior keeps."""
    weights: Floats = np.exp(memory.kept - memory.kept.max(axis=1, keepdims=True))
    return weights


@dataclass(frozen=True, eq=False)
class KeepBest(_Walker):
    """Tries the prompts of the list until one is good enough; see the module's docstring.

    Attributes
    ----------
    enough : float
        Response from which a prompt is kept; infinite: the whole list is tried.
    """

    enough: float = 0.5

    def _nothing(self, count: int) -> Floats:
        # The next place of the list, the best response so far (-1: none) and its prompt index.
        return np.tile([0.0, -1.0, 0.0], (count, 1))

    def choose(self, memory: Memory) -> Ints:
        """See `_Walker.choose`."""
        place, best, cell = memory.kept.T
        keeps = (best >= self.enough) | (place >= len(self.cover))
        tried = self.cover[np.minimum(place, len(self.cover) - 1).astype(np.int64)]
        chosen: Ints = np.where(keeps, cell.astype(np.int64), tried)
        return chosen

    def learn(self, memory: Memory, shown: Floats) -> Memory:
        """See `_Walker.learn`."""
        place, best, cell = memory.kept.T
        searching = best < self.enough
        # A prompt that takes two steps to reach is in place when it was played.
        wanted = self.cover[np.minimum(place, len(self.cover) - 1).astype(np.int64)]
        place = place + (searching & (memory.cell == wanted))
        better = shown > best
        kept = [place, np.where(better, shown, best), np.where(better, memory.cell, cell)]
        return replace(memory, kept=np.stack(kept, axis=1))


def simulate(policy: Any, shown: Floats, worth: Floats, steps: int) -> NDArray[np.float64]:
    """(T,) mean reward over the steps of an episode of each user of a table.

    Parameters
    ----------
    policy : Posterior or KeepBest
    shown, worth : (T, C) arrays
        Responses and rewards, by prompt index.
    steps : int
        Steps of an episode.
    """
    users = np.arange(len(worth))
    memory, total = policy.begin(len(worth)), np.zeros(len(worth))
    for _ in range(steps):
        _, memory = policy.move(memory)
        total += worth[users, memory.cell]
        memory = policy.learn(memory, shown[users, memory.cell])
    return total / steps


def responses(env: RPPEnv) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(T, C) responses and rewards of a complete table, means over recorded answers.

    Raises
    ------
    InvalidOption
        For an environment without a table, or one that shows no response.
    """
    if env.table is None:
        raise InvalidOption(
            "policies for responses are fitted on a complete table: make one with `rpp-env "
            "tabulate`, and give model='table:PATH'"
        )
    ranks = env.table.ranks()
    shows, worth = _by_rank(env)
    return shows[ranks].mean(axis=2), worth[ranks].mean(axis=2)


def _by_rank(env: RPPEnv) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the response and the reward to each rank of the target; 0: it was not named."""
    candidates = env.tasks.num_candidates
    shows = shown_by_rank(env.episode.feedback, candidates)
    if shows is None:
        raise InvalidOption(
            f"{env.episode.id} shows no response here: take RPPFeedback-v0, or the option feedback"
        )
    return shows, reward_by_rank(candidates).astype(np.float32)


def fit_posterior(
    env: RPPEnv,
    *,
    explore: int | None = None,
    recall: bool = True,
    rows: Ints | None = None,
    seed: int = 0,
) -> Posterior:
    """Fit a `Posterior` on the users of `env`, which replays a complete table.

    Parameters
    ----------
    env : RPPEnv
        The environment of the train users, which shows responses.
    explore : int, optional
        Number of prompts to try first; by default the best one of `EXPLORE`. 1: a greedy policy.
    recall : bool
        Whether all responses of the episode count, or only the last one.
    rows : (R,) int array, optional
        Rows of the table to fit on; by default all.
    seed : int
        Seed by which the users are halved.

    Raises
    ------
    InvalidOption
        For an environment without a table, or one that shows no response.
    """

    def make(base: _Base, shown: Any, worth: Any, noise: float, count: int) -> Posterior:
        return Posterior(*base, shown, worth, noise=noise, explore=count, recall=recall)

    counts = EXPLORE if explore is None else (explore,)
    return _tuned(env, make, [(noise, count) for count in counts for noise in NOISE], rows, seed)


def fit_keep_best(env: RPPEnv, *, rows: Ints | None = None, seed: int = 0) -> KeepBest:
    """Fit a `KeepBest` on the users of `env`; see `fit_posterior`."""

    def make(base: _Base, shown: Any, worth: Any, enough: float) -> KeepBest:  # noqa: ARG001
        return KeepBest(*base, enough=enough)

    return _tuned(env, make, [(enough,) for enough in ENOUGH], rows, seed)


def fit_explore_commit(env: RPPEnv, *, rows: Ints | None = None, seed: int = 0) -> KeepBest:
    """Fit a `KeepBest` that tries a whole short list first, by `EXPLORE`; see `fit_posterior`."""

    def make(base: _Base, shown: Any, worth: Any, count: int) -> KeepBest:  # noqa: ARG001
        axes, column, cover = base
        return KeepBest(axes, column, cover[:count], enough=math.inf)

    return _tuned(env, make, [(count,) for count in EXPLORE], rows, seed)


def fit_step_posterior(
    env: RPPEnv, *, episodes: int, prompts: int = PROMPTS, recall: bool = True, seed: int = 0
) -> StepPosterior:
    """Fit a `StepPosterior` on episodes that it plays with the users of `env`.

    Half of the episodes search for good prompts by successive halving. Those that were left longest
    are then played with as many users as the other half pays for, and the list is their cover.

    Parameters
    ----------
    env : RPPEnv
        The environment of the train users, which shows responses.
    episodes : int
        Number of episodes to play at most.
    prompts : int
        Number of prompts that all users of the second half play.
    recall : bool
        Whether all responses of the episode count, or only the last one.
    seed : int
        Seed of the order of users and prompts.

    Raises
    ------
    InvalidOption
        For an environment that shows no response, and for too few episodes.
    """
    check_seed(seed)
    if prompts < 1 or episodes // 2 < 2 * prompts:
        raise InvalidOption(
            f"half of {episodes:,} episodes are too few to play {prompts:,} prompts with 2 users: "
            "give more episodes or fewer prompts, at least one"
        )
    shows, worth_of = _by_rank(env)
    axes, column = tuple(env.space.axes), env.observer.layout["response"].start
    rng = np.random.default_rng(seed)
    cells, order = rng.permutation(reachable(axes)), rng.permutation(len(env.tasks))
    cells = cells[: episodes // 2]
    plans = np.stack([Fixed.of(env.space, cell, env.max_cycles).plan for cell in cells.tolist()])
    tried, total = np.zeros(len(cells), np.int64), np.zeros(len(cells))

    def ask(start: int, stop: int, left: Ints) -> NDArray[np.float64]:
        who = np.repeat(order[start:stop], len(left))
        ranks = _ranks(env, who, plans[np.tile(left, stop - start)])
        means = worth_of[ranks].mean(axis=1, dtype=np.float64)
        rewards: NDArray[np.float64] = means.reshape(-1, len(left))
        tried[left] += stop - start
        total[left] += rewards.sum(axis=0)
        return rewards

    halving(ask, np.arange(len(cells)), len(order), episodes // 2)
    kept = np.lexsort((-total / np.maximum(tried, 1), -tried))[:prompts]
    users = order[-min(len(order), (episodes - int(tried.sum())) // len(kept)) :]
    ranks = _ranks(env, np.repeat(users, len(kept)), plans[np.tile(kept, len(users))])
    table = ranks.reshape(len(users), len(kept), -1).transpose(2, 0, 1)
    shown, worth = shows[table], worth_of[table]

    def listed(rows: Ints) -> Ints:
        return _greedy(worth[:, rows].mean(axis=0), np.arange(len(kept)))

    def tables(rows: Ints, places: Ints) -> tuple[Any, Any]:
        return shown[:, rows][..., places], worth[:, rows][..., places]

    def made(rows: Ints, places: Ints, noise: float) -> StepPosterior:
        cover = cells[kept[places]]
        return StepPosterior(axes, column, cover, *tables(rows, places), noise, recall)

    def score(first: Ints, second: Ints, noise: float) -> float:
        places = listed(first)
        return made(first, places, noise).simulate(*tables(second, places))

    every = np.arange(len(users))
    # Where responses say nothing of the next item, the best noise is infinite.
    return made(every, listed(every), _chosen(len(users), (*NOISE, math.inf), seed, score))


def _ranks(env: RPPEnv, users: Ints, plans: Ints) -> Ints:
    """(N, S) ranks of the targets in an episode of each of `users` with plans (N, S, n)."""
    found = []
    for i in range(0, len(users), _BATCH):
        env.reset(options={"users": users[i : i + _BATCH]})
        actions = plans[i : i + _BATCH].swapaxes(0, 1)
        found.append(np.stack([np.array(env.step(one).infos["rank"]) for one in actions], axis=1))
    return np.concatenate(found)


def _chosen(
    users: int, options: Sequence[C], seed: int, score: Callable[[Ints, Ints, C], float]
) -> C:
    """Return the option with the best `score` on half of the users, fitted on the other half."""
    order = np.random.default_rng(seed).permutation(users)
    half = (users + 1) // 2
    first, second = order[:half], order[half:]
    if not len(second):
        return options[0]
    return options[int(np.argmax([score(first, second, option) for option in options]))]


def _tuned(
    env: RPPEnv,
    make: Callable[..., P],
    options: Sequence[tuple[Any, ...]],
    rows: Ints | None,
    seed: int,
) -> P:
    """Choose options on half of the users, and return the policy of all of them."""
    check_seed(seed)
    shown, worth = responses(env)
    if rows is not None:
        shown, worth = shown[rows], worth[rows]
    axes, column = tuple(env.space.axes), env.observer.layout["response"].start

    def made(rows: Ints, option: tuple[Any, ...]) -> P:
        base = axes, column, _greedy(worth[rows], reachable(axes))
        return make(base, shown[rows], worth[rows], *option)

    def score(first: Ints, second: Ints, option: tuple[Any, ...]) -> float:
        scores = simulate(made(first, option), shown[second], worth[second], env.max_cycles)
        return float(scores.mean())

    return made(np.arange(len(worth)), _chosen(len(worth), options, seed, score))


def _greedy(worth: Floats, left: Ints) -> Ints:
    """Return a greedy cover of users with rewards (U, C), out of the columns `left`."""
    best, found = np.zeros(len(worth), np.float32), []
    for _ in range(min(COVER, len(left))):
        gains = np.maximum(worth[:, left], best[:, None]).mean(axis=0)
        chosen = int(gains.argmax())
        found.append(int(left[chosen]))
        best = np.maximum(best, worth[:, found[-1]])
        left = np.delete(left, chosen)
    return np.array(found, np.int64)
