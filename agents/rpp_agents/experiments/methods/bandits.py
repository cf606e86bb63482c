"""Contextual bandits over whole prompts: one agent that learns a prompt for each user.

The obvious baselines for four agents. In each round a batch of train users is met, in passes over
all of them; a cell is asked for each, and its reward learned from. Fitted, they ask the cell with
the best expected reward, once.

No train user is asked the same prompt twice. A bandit that is paid for its answers would do little
else after a while, but at temperature 0 a repeated question says nothing, and here nobody is paid
before the end.

=================  ============================================  ================================
method             expects of a cell for a user                  explores
=================  ============================================  ================================
`linucb`           a linear function of crossed features         by upper confidence bounds
`neural_bandit`    what an ensemble of two-tower networks says   by one network drawn for each ask
=================  ============================================  ================================

Users differ in how easy they are, whatever is asked, by more than prompts do. Both models therefore
have a number for each train user, which takes that out of the rewards and is forgotten afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from torch import Tensor, nn

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.players import Asking, Unasked, asking_best
from rpp_agents.experiments.problem import Problem, Users
from rpp_agents.networks import StackedLinear
from rpp_agents.observing import COMPONENTS, Components

__all__ = ["Context", "Crossed", "LinearPosterior", "Towers", "linucb", "neural_bandit"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LOOKS = 20


# ---------------------------------------------------------------- who is met, and when one looks


def _rounds(tasks: int, batch: int, budget: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Yield the rows of each round: passes over all users, `budget` in all, without repeats."""
    while budget > 0:
        order = rng.permutation(tasks)[:budget]
        budget -= len(order)
        for start in range(0, len(order), batch):
            yield order[start : start + batch]


class _Looks:
    """Detects when the next twentieth of the budget is spent."""

    def __init__(self, budget: int) -> None:
        self.every = max(1, budget // _LOOKS)
        self.calls = 0

    def due(self, calls: int) -> bool:
        before, self.calls = self.calls, self.calls + calls
        return before // self.every < self.calls // self.every


# ---------------------------------------------------------------- LinUCB


class Context:
    """Features of a user for a linear model: a constant and principal components of observations.

    The first observations of the train users give the components (`Components`), no reward does.

    Parameters
    ----------
    observations : (T, d) array
        Of train users.
    dim : int
        Components; fewer where the observations have fewer, or the users are too few to tell.

    Raises
    ------
    InvalidOption
        For a single user: nothing tells what differs.
    """

    def __init__(self, observations: NDArray[Any], dim: int) -> None:
        self._components = Components.fit(observations, dim)

    def __call__(self, observations: NDArray[Any]) -> Floats:
        """(B, 1 + dim)."""
        found = self._components(observations)
        return np.hstack([np.ones((len(found), 1)), found])


class Crossed:
    """Features of a user and a prompt: the prompt's options, crossed with the context.

    A cell has one option of each part, and one pair of options of each two parts. Each option of a
    part carries the whole context z, each pair the first `paired` numbers of it:
    with four parts, x = (z for each of the 4 options, z[:paired] for each of the 6 pairs), and
    zeros elsewhere.

    Parameters
    ----------
    shape : ints
        Options of each part: the axes of the prompt space.
    width : int
        Length of z.
    paired : int
        How much of it the pairs are crossed with.
    """

    def __init__(self, shape: tuple[int, ...], width: int, paired: int) -> None:
        chosen = np.unravel_index(np.arange(np.prod(shape)), shape)
        pairs = list(combinations(range(len(shape)), 2))
        sizes = [shape[a] * shape[b] for a, b in pairs]
        self.width, self.paired = width, min(paired, width)
        self.singles, self.doubles = sum(shape), sum(sizes)
        self.single = np.stack(chosen, 1) + np.cumsum([0, *shape[:-1]])
        """(cells, parts) indices of a prompt's options."""
        self.double = np.zeros((len(self.single), len(pairs)), np.int64)
        """(cells, pairs) indices of a prompt's pairs of options; none in a space with one axis."""
        begins = np.cumsum([0, *sizes])
        for i, (a, b) in enumerate(pairs):
            self.double[:, i] = begins[i] + chosen[a] * shape[b] + chosen[b]

    @property
    def size(self) -> int:
        """Length of x."""
        return self.singles * self.width + self.doubles * self.paired

    def rows(self, context: Floats, cells: Ints) -> Floats:
        """(B, size) x of users with contexts (B, width) and a cell each."""
        count = np.arange(len(cells))[:, None]
        single = np.zeros((len(cells), self.singles, self.width))
        single[count, self.single[cells]] = context[:, None]
        double = np.zeros((len(cells), self.doubles, self.paired))
        double[count, self.double[cells]] = context[:, None, : self.paired]
        return np.hstack([single.reshape(len(cells), -1), double.reshape(len(cells), -1)])

    def means(self, weights: Floats, context: Floats) -> Floats:
        """(B, cells) w'x of every cell."""
        single, double = np.split(weights, [self.singles * self.width])
        of_cell = single.reshape(-1, self.width)[self.single].sum(1)
        of_cell[:, : self.paired] += double.reshape(-1, self.paired)[self.double].sum(1)
        return np.asarray(context @ of_cell.T)

    def squares(self, matrix: Floats, context: Floats) -> Floats:
        """(B, cells) x'Mx of every cell, M symmetric (size, size).

        That is z'Qz with a Q of each cell, which is the sum of those blocks of M where its options
        and pairs meet; no x is written down.
        """
        k, m, cut = self.width, self.paired, self.singles * self.width
        by_cell = np.zeros((len(self.single), k, k))
        blocks = matrix[:cut, :cut].reshape(self.singles, k, self.singles, k).swapaxes(1, 2).copy()
        parts, pairs = self.single.shape[1], self.double.shape[1]
        for a, b in np.ndindex(parts, parts):
            by_cell += blocks[self.single[:, a], self.single[:, b]]
        blocks = matrix[:cut, cut:].reshape(self.singles, k, self.doubles, m).swapaxes(1, 2).copy()
        for a, b in np.ndindex(parts, pairs):
            by_cell[:, :, :m] += 2 * blocks[self.single[:, a], self.double[:, b]]
        blocks = matrix[cut:, cut:].reshape(self.doubles, m, self.doubles, m).swapaxes(1, 2).copy()
        for a, b in np.ndindex(pairs, pairs):
            by_cell[:, :m, :m] += blocks[self.double[:, a], self.double[:, b]]
        products = np.einsum("bi,bj->bij", context, context).reshape(len(context), -1)
        return np.asarray(products @ by_cell.reshape(len(by_cell), -1).T)


class LinearPosterior:
    """Ridge regression of rewards on features, with a separate intercept for each user.

    The intercepts are features too, one for each user, with a ridge of their own. They are not kept
    but integrated out: what a user's n-th row adds is its distance from the mean of the earlier
    ones, so that `mean` is that of the regression with all intercepts in it.

    Parameters
    ----------
    size, users : int
        Features, and users.
    ridge, user_ridge : float
        Penalties of the squared weights and intercepts.
    """

    def __init__(self, size: int, users: int, ridge: float, user_ridge: float) -> None:
        self.covariance: Floats = np.eye(size) / ridge
        """The inverse of A = X'X + ridge, intercepts taken out."""
        self._moment = np.zeros(size)
        self._weight = np.full(users, user_ridge)
        self._row_sums, self._reward_sums = np.zeros((users, size)), np.zeros(users)

    @property
    def mean(self) -> Floats:
        """(size,) weights."""
        return self.covariance @ self._moment

    def update(self, users: Ints, rows: Floats, rewards: Floats) -> None:
        """Update with rewards (B,) of rows (B, size) of different users."""
        weight = self._weight[users]
        scale = np.sqrt(weight / (weight + 1))
        X = scale[:, None] * (rows - self._row_sums[users] / weight[:, None])
        y = scale * (rewards - self._reward_sums[users] / weight)
        self._weight[users] += 1
        self._row_sums[users] += rows
        self._reward_sums[users] += rewards
        self._moment += X.T @ y
        # Woodbury, written as a difference of squares so that it stays symmetric.
        moved = X @ self.covariance
        root = cholesky(np.eye(len(X)) + moved @ X.T, lower=True)
        moved = solve_triangular(root, moved, lower=True)
        self.covariance -= moved.T @ moved


def linucb(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    alpha: float = 0.4,
    dim: int = COMPONENTS,
    paired: int = 1,
    ridge: float = 1.0,
    user_ridge: float = 1.0,
    batch: int = 64,
    calls: int = 1,
) -> Asking:
    """LinUCB (Li et al. 2010, A contextual-bandit approach) over whole prompts.

    Shared by all cells with the same option of a part (an axis of the prompt space, such as the
    roles): that option's weights for the whole context. Shared by all cells with the same two
    options of two parts: that pair's weights, by default an intercept alone (`Crossed`). Nothing is
    one cell's own, unless there is one part: a model for each of 1,575 cells of sentences
    ("disjoint" LinUCB) has 3 calls per cell to learn from at 5,000 and 25 at 40,000, of users who
    differ by more than prompts do.

    Asked is the cell with the highest mean + alpha * sqrt(x'A^-1 x) that the user was not asked
    yet; in the first round, where all are alike, a random one. In a round all users meet the same
    posterior.

    Parameters
    ----------
    alpha : float
        Deviations above the mean that count as possible.
    dim : int
        Principal components of the observation in the context.
    paired : int
        Numbers of the context that pairs are crossed with; 1 is the constant.
    ridge, user_ridge : float
        Penalties of the weights and of the train users' own intercepts.
    batch : int
        Users in a round.
    calls : int
        Cells that it asks about a user when it is fitted, the best by their means; the answers are
        merged.
    """
    users = problem.train
    users.finite("a bandit")
    rng = np.random.default_rng(seed)
    context = Context(users.observations, dim)
    seen = context(users.observations)
    crossed = Crossed(users.shape, seen.shape[1], paired)
    posterior = LinearPosterior(crossed.size, len(users), ridge, user_ridge)

    def player() -> Asking:
        weights = posterior.mean
        return asking_best(lambda them: crossed.means(weights, context(them.observations)), calls)

    looks, unasked = _Looks(budget), Unasked(users)
    for rows in _rounds(len(users), batch, budget, rng):
        if looks.calls:
            z = seen[rows]
            # Rounding can leave a square a hair below 0.
            widths = np.sqrt(crossed.squares(posterior.covariance, z).clip(min=0))
            values = crossed.means(posterior.mean, z) + alpha * widths
        else:
            values = rng.random((len(rows), users.cells))
        cells = unasked.best(rows, values)
        rewards = users.ask(rows, cells).rewards
        posterior.update(rows, crossed.rows(seen[rows], cells), rewards)
        if looks.due(len(rows)):
            watch(looks.calls, player())
    return player()


# ---------------------------------------------------------------- the neural bandit


class Towers(nn.Module):
    """An ensemble of networks: the reward is the product of a user's vector and a prompt's vector.

    Nothing but that product needs both, so that all cells of many users cost two small networks and
    a matrix product.

    Parameters
    ----------
    members, width : int
        Networks, and numbers that are seen of a user.
    shape : ints
        Options of each part; a cell is seen as one one-hot vector for each.
    users : int
        Train users, who have an intercept each.
    hidden, rank : int
        Widths of the hidden layers and of the vectors.
    """

    cells: Tensor

    def __init__(
        self, members: int, width: int, shape: tuple[int, ...], users: int, hidden: int, rank: int
    ) -> None:
        super().__init__()
        self.rank = rank
        chosen = np.unravel_index(np.arange(np.prod(shape)), shape)
        parts = [np.eye(size, dtype=np.float32)[c] for size, c in zip(shape, chosen, strict=True)]
        self.register_buffer("cells", torch.from_numpy(np.hstack(parts)), persistent=False)
        gain = 2.0**0.5
        self.user_in = StackedLinear(members, width, hidden, gain=gain)
        self.user_out = StackedLinear(members, hidden, rank, gain=1.0)
        self.cell_in = StackedLinear(members, sum(shape), hidden, gain=gain)
        self.cell_out = StackedLinear(members, hidden, rank + 1, gain=1.0)
        self.ease = nn.Parameter(torch.zeros(members, users))

    def _user(self, seen: Tensor) -> Tensor:
        # The last number of a cell's vector is its own intercept.
        vectors = self.user_out(F.relu(self.user_in(seen))) / self.rank**0.5
        return F.pad(vectors, (0, 1), value=1.0)

    def _cell(self, cells: Tensor) -> Tensor:
        vectors: Tensor = self.cell_out(F.relu(self.cell_in(cells)))
        return vectors

    def forward(self, seen: Tensor) -> Tensor:
        """(members, B, cells) expected rewards of users (B, width), up to a constant for each."""
        users = self._user(seen.expand(len(self.ease), -1, -1))
        return users @ self._cell(self.cells.expand(len(self.ease), -1, -1)).transpose(1, 2)

    def asked(self, seen: Tensor, rows: Tensor, cells: Tensor) -> Tensor:
        """(members, N) expected rewards of train users `rows` and `cells`, both (members, N)."""
        product = (self._user(seen[rows]) * self._cell(self.cells[cells])).sum(-1)
        return product + self.ease.gather(1, rows)


def neural_bandit(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    dim: int = COMPONENTS,
    members: int = 5,
    hidden: int = 64,
    rank: int = 16,
    epsilon: float = 0.3,
    batch: int = 128,
    steps: int = 8,
    minibatch: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 1.0,
    calls: int = 1,
) -> Asking:
    """A neural bandit: an ensemble of two-tower networks (`Towers`), trained on all answers so far.

    It asks what one of the networks, drawn anew for each user, puts first (Thompson sampling from
    an ensemble), or with a falling probability any cell; fitted, what their mean puts first.

    Parameters
    ----------
    dim : int
        Principal components of the observation that are seen (`Context`): with all of it the
        networks learn the train users by heart.
    members, hidden, rank : int
        As `Towers` takes them.
    epsilon : float
        Share of random cells at the beginning; it falls to 0 at the end of the budget.
    batch : int
        Users in a round.
    steps, minibatch : int
        Gradient steps after a round, and answers in each, drawn for each network by itself.
    learning_rate, weight_decay : float
        Of AdamW.
    calls : int
        As `linucb` takes it.
    """
    users = problem.train
    users.finite("a bandit")
    rng = np.random.default_rng(seed)
    context = Context(users.observations, dim)

    def see(them: Users) -> Tensor:
        return torch.from_numpy(context(them.observations)[:, 1:].astype(np.float32))

    seen = see(users)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Towers(members, seen.shape[1], users.shape, len(users), hidden, rank)
    optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=weight_decay)
    who, what = np.zeros(budget, np.int64), np.zeros(budget, np.int64)
    paid = np.zeros(budget, np.float32)
    looks, unasked = _Looks(budget), Unasked(users)
    for rows in _rounds(len(users), batch, budget, rng):
        done, now = looks.calls, slice(looks.calls, looks.calls + len(rows))
        with torch.no_grad():
            every = net(seen[rows]).numpy()
        values = every[rng.integers(members, size=len(rows)), np.arange(len(rows))]
        at_random = rng.random(len(rows)) < (epsilon * (1 - done / budget) if done else 1.0)
        values[at_random] = rng.random((int(at_random.sum()), users.cells))
        cells = unasked.best(rows, values)
        who[now], what[now], paid[now] = rows, cells, users.ask(rows, cells).rewards
        for _ in range(steps):
            drawn = rng.integers(now.stop, size=(members, minibatch))
            some, asked, reward = (torch.from_numpy(a[drawn]) for a in (who, what, paid))
            # Summed over the networks, whose gradients have nothing to do with each other.
            loss = (net.asked(seen, some, asked) - reward).square().mean(1).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if looks.due(len(rows)):
            watch(looks.calls, _best_mean(copy.deepcopy(net), see, calls))
    return _best_mean(net, see, calls)


def _best_mean(net: Towers, see: Callable[[Users], Tensor], calls: int) -> Asking:
    def mean(users: Users) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = net(see(users)).mean(0).numpy()
        return found

    return asking_best(mean, calls)
