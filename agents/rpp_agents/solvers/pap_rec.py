"""PAP-REC: gradient-guided search for shared words and each user's own.

The native solver of ``PAPRec-v0`` and ``PAPRecShared-v0`` (Li et al., 2024). The gradient of the
log-likelihood of training clicks in a slot's embedding ranks the words to try (HotFlip); held-out
clicks decide which of them are kept, by NDCG@5 + hit@5 (`surrogate`). Shared words and users' words
take turns (`search`):

* shared turn: the slots in random order, until the best of a slot's five words is better than what
  there is; at most one word is exchanged,
* users' turn: for one slot, each of the user's own five words is tried for all users at once, and a
  user keeps a word that is better for the user than what there is.

`train` is the trainer ``pap_rec``: the turns of what is an action, users' words in ``PAPRec-v0``
and shared ones in ``PAPRecShared-v0``. `search` is the whole of it. Words are judged by exact
answers, so that nothing is lost to beams, or by the best of the `beams` of a beam search, as in
PAP-REC's code. Every task keeps its candidates, so that words are compared on equal terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rpp_agents.policy import read_tensors, write_tensors
from rpp_agents.runs import RunConfig
from rpp_agents.training import check_numbers, trainer
from rpp_env.data.candidates import TaskSet
from rpp_env.data.clicks import task_users, training_clicks
from rpp_env.data.splits import Interactions
from rpp_env.episode import Grouped
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.metrics import hit, ndcg
from rpp_env.options import check_choice
from rpp_env.pap_rec import best_words, click_gradients
from rpp_env.recommenders.t5 import T5
from rpp_env.tokens import SlotPrompts, TokenPrompts

__all__ = [
    "Config",
    "Criterion",
    "Found",
    "Judge",
    "SharedSolver",
    "Solver",
    "UserPolicy",
    "search",
    "shuffled",
    "surrogate",
    "train",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Criterion = Literal["surrogate", "reward", "likelihood"]
"""What decides whether a word is kept: NDCG@5 + hit@5, NDCG@10, or the click's log-likelihood."""


@dataclass(frozen=True)
class Config(RunConfig):
    """Options of PAP-REC, with the numbers of its code; a step is one answer."""

    total_steps: int = 100_000
    """Number of answers in training."""
    tried: int = 5
    """Number of words that are tried for a slot (k)."""
    clicks: int = 5
    """Number of a user's training clicks that a gradient is the mean of."""
    criterion: Criterion = "surrogate"
    """What decides whether a word is kept."""
    beams: int | None = None
    """Number of beams of the answers that decide (PAP-REC: 20, of which the best 5 count); None:
    exact answers. The reward stays that of the environment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "tried", "clicks", "beams")
        if self.criterion == "likelihood" and self.beams is not None:
            raise InvalidOption("criterion='likelihood' is exact: leave out beams")


def surrogate(ranks: NDArray[Any]) -> Floats:
    """(T,) NDCG@5 + hit@5 of the targets' ranks, from 1; 0 where it is not named; 0 to 2."""
    value: Floats = ndcg(ranks, 5) + hit(ranks, 5)
    return value


class Judge:
    """Values of prompts on the clicks of some tasks, the same at every call; counts answers.

    Parameters
    ----------
    recommender : T5
    tasks : TaskSet or sequence of TaskSet
        One task for each user; or several sets of the same users in the same order, whose mean is
        the value.
    criterion : {"surrogate", "reward", "likelihood"}
    """

    def __init__(
        self,
        recommender: T5,
        tasks: TaskSet | Sequence[TaskSet],
        criterion: Criterion = "surrogate",
    ) -> None:
        self.recommender, self.criterion = recommender, criterion
        self.clicks = (tasks,) if isinstance(tasks, TaskSet) else tuple(tasks)
        self.answers = 0
        """Number of answers so far."""

    def __call__(self, prompts: Ints) -> Floats:
        """(T,) the values of prompts (T, n)."""
        each = [self._values(prompts, tasks) for tasks in self.clicks]
        return np.asarray(np.mean(each, axis=0), np.float64)

    def _values(self, prompts: Ints, tasks: TaskSet) -> Floats:
        self.answers += len(prompts)
        asked = SlotPrompts(prompts, tasks)
        if self.criterion == "likelihood":
            with torch.inference_mode():
                scores = self.recommender.scores(asked).numpy()
            own = scores[np.arange(len(scores)), tasks.position]
            return np.asarray(own, np.float64)
        ranks = self.recommender.rank(asked).ranks(tasks.position)
        return surrogate(ranks) if self.criterion == "surrogate" else ndcg(ranks, 10)


@dataclass(frozen=True, eq=False)
class Found:
    """Result of `search`.

    Attributes
    ----------
    shared : (l,) int64 array
        The shared tokens.
    own : (U, m) int64 array
        The users' tokens, in the order of the tasks.
    value : float
        Mean value on the clicks that chose the words: it flatters them.
    changed : float
        Share of the users whose tokens were exchanged.
    answers : int
        Number of answers that the search took.
    turns : list of (str, float)
        Whose turn it was, and the value after it.
    """

    shared: Ints
    own: Ints
    value: float
    changed: float
    answers: int
    turns: list[tuple[str, float]] = field(default_factory=list)

    def prompts(self) -> Ints:
        """(U, l + m) the tokens of all users."""
        return np.concatenate([np.tile(self.shared, (len(self.own), 1)), self.own], axis=1)


def search(
    recommender: T5,
    tasks: TaskSet | Sequence[TaskSet],
    config: Config = Config(),
    *,
    shared: Ints | None = None,
    length: int = 5,
    slots: int = 1,
    first: Literal["shared", "random"] = "shared",
    rounds: int = 100,
    histories: Interactions | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Found:
    """Search the shared words and each user's own by turns, as PAP-REC does.

    It ends when a turn of each changes nothing (PAP-REC's code always takes 100 rounds).

    Parameters
    ----------
    recommender : T5
    tasks : TaskSet or sequence of TaskSet
        Clicks that decide, one for each user, never the test's. With several sets, of the same
        users in the same order, the mean over a user's clicks decides.
    config : Config
        `total_steps` is the maximum number of answers.
    shared : (l,) int64 array, optional
        First shared tokens; by default `length` words drawn at random.
    length : int
        Number of shared words (l).
    slots : int
        Number of words of each user (m). 0: nothing personal; for a prompt of equal length, give
        one shared word more.
    first : {"shared", "random"}
        Words that users begin with: the last shared one, or a random one for each user, as in
        PAP-REC's code.
    rounds : int
        Maximum number of turns (PAP-REC: 100).
    histories : Interactions, optional
        Training clicks, by default `training_clicks` of the tasks' dataset.
    progress : callable, optional
        Called with (turn, value) after every turn.

    Raises
    ------
    InvalidOption
        If a user has two tasks of a set, and if sets are of other users.
    """
    check_choice("first", first, ("shared", "random"))
    at_work = _Search(recommender, tasks, config, slots, histories)
    at_work.begin(length if shared is None else shared, first == "random")
    value = float(at_work.judge(at_work.prompts()).mean())
    turn, idle = "shared" if len(at_work.shared) else "users", 0
    turns: list[tuple[str, float]] = []
    needed = 2 if slots and len(at_work.shared) else 1
    while len(turns) < rounds and idle < needed and at_work.left:
        if turn == "shared":
            better = at_work.shared_turn(value)
            changed, value = better is not None, value if better is None else better
        else:
            changed = at_work.users_turn()
            value = float(at_work.judge(at_work.prompts()).mean())
        idle = 0 if changed else idle + 1
        turns.append((turn, value))
        if progress is not None:
            progress(turn, value)
        if slots and len(at_work.shared):
            turn = "users" if turn == "shared" else "shared"
    moved = float((at_work.own != at_work.first).any(axis=1).mean()) if slots else 0.0
    return Found(at_work.shared, at_work.own, value, moved, at_work.judge.answers, turns)


def shuffled(found: Found, seed: int = 0) -> Found:
    """Give every user the words of another user: the control of personal words."""
    order = np.random.default_rng(seed).permutation(len(found.own))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    return Found(found.shared, found.own[other], float("nan"), found.changed, found.answers)


class _Search:
    """The tokens of all users, and the two kinds of turns."""

    def __init__(
        self,
        recommender: T5,
        tasks: TaskSet | Sequence[TaskSet],
        config: Config,
        slots: int,
        histories: Interactions | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        several = (tasks,) if isinstance(tasks, TaskSet) else tuple(tasks)
        if not several or any(not np.array_equal(t.users, several[0].users) for t in several):
            raise InvalidOption("give one set of tasks, or several of the same users in one order")
        of, users = several[0].dataset, several[0].users
        if len(np.unique(users)) < len(users):
            raise InvalidOption(
                "a user's words are chosen on one task of a set, but some users have more"
            )
        if recommender.asked == "explanation":
            raise InvalidOption(
                "PAP-REC's search judges rankings: asked='explanation' is for trainers that learn "
                "from rewards"
            )
        self.recommender, self.config, self.slots = recommender, config, slots
        answering = recommender if config.beams is None else recommender.beam(config.beams)
        self.judge = Judge(answering, several, config.criterion)
        self.histories = training_clicks(of) if histories is None else histories
        self.users = np.searchsorted(task_users(of), users)
        self.rng = np.random.default_rng(config.seed) if rng is None else rng
        self.words = recommender.vocabulary.tokens
        self.passes = 0

    def begin(self, shared: Ints | int, own: Ints | bool = False) -> None:
        """Draw first words, or take those given.

        Users begin with the last shared word, or with random ones (`own` is True).
        """
        if isinstance(shared, int):
            shared = self.rng.choice(self.words, shared)
        self.shared = np.array(shared, np.int64)
        shape = (len(self.users), self.slots)
        if isinstance(own, np.ndarray):
            self.own = own.copy()
        elif own:
            self.own = self.rng.choice(self.words, shape)
        else:
            # Not a random word for each user: most users never see one that is better.
            filler = self.shared[-1:] if len(self.shared) else self.words[:1]
            self.own = np.tile(filler, shape)
        self.first = self.own.copy()

    @property
    def left(self) -> bool:
        """Whether there are answers left for another turn."""
        least = (self.config.tried + 2) * len(self.users) * len(self.judge.clicks)
        return self.judge.answers + least <= self.config.total_steps

    def prompts(self, shared: Ints | None = None, own: Ints | None = None) -> Ints:
        """(U, l + m) the tokens of all users."""
        shared = self.shared if shared is None else shared
        own = self.own if own is None else own
        return np.concatenate([np.tile(shared, (len(own), 1)), own], axis=1)

    def gradients(self) -> tuple[Floats, NDArray[np.bool_]]:
        """(U, l + m, d) mean gradients of training clicks, and which users have some."""
        self.passes += 1
        return click_gradients(
            self.recommender,
            self.histories,
            self.users,
            self.prompts(),
            samples=self.config.clicks,
            seed=self.config.seed * 1_000_003 + self.passes,
        )

    def shared_turn(self, value: float) -> float | None:
        """Exchange one shared word if that is better than `value`; returns the new value."""
        first = self.first_words()
        for slot in self.rng.permutation(len(self.shared)).tolist():
            better = self.exchange(slot, first[slot], value)
            if better is not None or not self.left:
                return better
        return None

    def first_words(self) -> Ints:
        """(l, k) the words that the mean gradient ranks first for each shared slot."""
        gradients, there = self.gradients()
        mean = gradients[there].mean(axis=0) if there.any() else gradients.sum(axis=0)
        own = mean[: len(self.shared)]
        first: Ints = self.words[best_words(self.recommender, own, self.config.tried)]
        return first

    def exchange(self, slot: int, words: Ints, value: float) -> float | None:
        """Put the best of `words` (k,) into a shared slot if that is better than `value`."""
        best, chosen = value, None
        for word in words:
            tried = self.shared.copy()
            tried[slot] = word
            mean_value = float(self.judge(self.prompts(shared=tried)).mean())
            if mean_value > best:
                best, chosen = mean_value, tried
        if chosen is None:
            return None
        self.shared = chosen
        return best

    def users_turn(self) -> bool:
        """Try each user's own words in one slot, and keep those that are better for the user."""
        gradients, there = self.gradients()
        slot = int(self.rng.integers(self.slots))
        at = len(self.shared) + slot
        tried = self.words[best_words(self.recommender, gradients[:, at], self.config.tried)]
        return self.keep_better(tried, slot, there)

    def keep_better(self, tried: Ints, slot: int, there: NDArray[np.bool_]) -> bool:
        """Try words (U, k) in a slot of the users of `there`; returns whether one was kept."""
        base, changed = self.judge(self.prompts()), False
        for column in tried.T:
            own = self.own.copy()
            own[:, slot] = np.where(there, column, own[:, slot])
            value = self.judge(self.prompts(own=own))
            better = there & (value > base)
            self.own[better] = own[better]
            base = np.where(better, value, base)
            changed = changed or bool(better.any())
        return changed


# ----------------------------------------------------------------------------------- a trainer


class UserPolicy:
    """Plays the action that was found for each user, by the block ``who`` of observations.

    Parameters
    ----------
    actions : (num_users, m) int64 array
        Actions by user row; a single row for all.
    columns : (int, int)
        First column of the block ``who`` in an observation, and the one after its last; equal where
        one row is for all.
    """

    def __init__(self, actions: Ints, columns: tuple[int, int]) -> None:
        self.actions, self.columns = actions, columns

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,  # noqa: ARG002 - all actions are always legal
        greedy: bool = False,  # noqa: ARG002 - there is nothing to sample
        memory: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """See `rpp_agents.policy.Policy.act`."""
        first, end = self.columns
        if observations.ndim != 3 or observations.shape[2] < end:
            raise InvalidOption(
                f"this policy reads which user it is in columns {first} to {end} of observations, "
                f"but got an array of shape {observations.shape}: it was trained in an environment "
                "of another shape"
            )
        bits = observations[:, 0, first:end] > 0.5
        users = bits.astype(np.int64) @ (1 << np.arange(end - first))
        return self.actions[np.minimum(users, len(self.actions) - 1)], memory

    def save(self, path: str | Path) -> None:
        """Write the actions to one safetensors file, atomically."""
        about = {"kind": "pap_rec", "columns": list(self.columns)}
        write_tensors(path, {"actions": torch.from_numpy(self.actions)}, about)

    @classmethod
    def load(cls, path: str | Path) -> UserPolicy:
        """Read a file that `save` wrote; `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        if about.get("kind") != "pap_rec":
            raise InvalidData(f"{path} holds a {about.get('kind')!r}, not a policy of PAP-REC")
        try:
            first, end = (int(column) for column in about["columns"])
            actions = tensors["actions"].numpy().astype(np.int64)
        except (LookupError, TypeError, ValueError) as error:
            raise InvalidData(f"{path} is of another version of rpp_agents: {error}") from error
        if actions.ndim != 2 or not len(actions) or not 0 <= first <= end <= first + 62:
            raise InvalidData(f"{path} is damaged: it holds no actions of users")
        return cls(actions, (first, end))


class Solver:
    """Users' turns on the clicks of an environment; a `rpp_agents.training.Learner`.

    Parameters
    ----------
    env : RPPEnv
        Environment of ``PAPRec-v0``; its shared words stay as they are.
    config : Config

    Raises
    ------
    InvalidOption
        For an environment without a T5, or whose observations do not name the user.
    """

    def __init__(self, env: Any, config: Config) -> None:
        space, recommender = getattr(env, "space", None), getattr(env, "recommender", None)
        layout = env.observer.layout if isinstance(space, TokenPrompts) else {}
        if not isinstance(recommender, T5) or "who" not in layout:
            raise InvalidOption(
                "the solver of PAP-REC reads the gradients of a T5 in a user's words: it takes an "
                f"environment of PAPRec-v0 with model='t5', not {type(recommender).__name__} and "
                f"{type(space).__name__}"
            )
        assert isinstance(space, TokenPrompts)
        self.env, self.space, self.config = env, space, config
        self.rng = np.random.default_rng(config.seed)
        self.search = _Search(recommender, env.tasks, config, len(space.agents), rng=self.rng)
        first = np.zeros((len(env.tasks), len(space.agents)), np.int64)
        self.search.begin(space.vocabulary[space.shared], self._words(first))
        tried = config.tried if space.candidates is None else space.candidates.shape[2]
        self.steps = (tried + 1) * len(env.tasks)
        at = layout["who"]
        actions = np.zeros((env.tasks.dataset.num_users, len(space.agents)), np.int64)
        self.policy = UserPolicy(actions, (at.start, at.stop))
        self.slot = 0

    def _words(self, actions: Ints) -> Ints:
        """(T, m) tokens of actions (T, m) of all tasks."""
        state = self.space.apply(self.space.start(np.arange(len(actions))), actions)
        ids: Ints = self.space.vocabulary[state.tokens]
        return ids

    def reset(self, seed: int) -> None:
        """Begin a segment; nothing is played."""

    def iterate(self, progress: float) -> dict[str, float]:  # noqa: ARG002 - nothing is scheduled
        """Take one users' turn."""
        at_work, space = self.search, self.space
        if space.candidates is None:
            at_work.users_turn()
        else:
            # The environment has taken the gradient already: its actions are what can be tried.
            there = np.ones(len(at_work.own), bool)
            at_work.keep_better(space.vocabulary[space.candidates[:, self.slot]], self.slot, there)
            self.slot = (self.slot + 1) % len(space.agents)
        self._play()
        judge = Judge(at_work.recommender, self.env.tasks, "reward")
        value = judge(at_work.prompts()).mean()
        moved = (at_work.own != at_work.first).any(axis=1).mean()
        asked = float(at_work.judge.answers)
        return {
            "reward": float(value),
            "info/changed": float(moved),
            "info/gradient_calls": asked,
        }

    def tensors(self) -> dict[str, Tensor]:
        """See `rpp_agents.training.Learner`; the words are the whole model."""
        numbers = [self.search.passes, self.slot, self.search.judge.answers]
        return {
            "optimizer.own": torch.from_numpy(self.search.own.copy()),
            "optimizer.numbers": torch.tensor(numbers),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `rpp_agents.training.Learner`."""
        own = tensors["optimizer.own"].numpy()
        if own.shape != self.search.own.shape:
            raise ValueError(f"the users' words are of shape {own.shape}")
        self.search.own[:] = own
        passes, self.slot, answers = tensors["optimizer.numbers"].tolist()
        self.search.passes, self.search.judge.answers = int(passes), int(answers)
        self._play()

    def _play(self) -> None:
        """Let the policy play the users' words."""
        own = self.search.own
        chosen = self.space.indices(own, own.size).reshape(own.shape)
        if self.space.candidates is not None:
            same = self.space.candidates == chosen[:, :, None]
            chosen = same.argmax(axis=2)
        self.policy.actions[self.env.tasks.users] = chosen


class SharedSolver:
    """Shared turns on all clicks of an environment; a `rpp_agents.training.Learner`.

    An iteration tries the words of one slot, drawn at random, and keeps the best if it is better
    than the one that is there.

    Parameters
    ----------
    env : RPPEnv
        Environment of ``PAPRecShared-v0``. Its groups are not played: words are judged on all of
        its tasks.
    config : Config

    Raises
    ------
    InvalidOption
        For an environment without a T5.
    """

    def __init__(self, env: Any, config: Config) -> None:
        space, recommender = env.space, env.recommender
        if not isinstance(recommender, T5) or not isinstance(space, TokenPrompts):
            raise InvalidOption(
                "the solver of PAP-REC reads the gradients of a T5: it takes an environment of "
                f"PAPRecShared-v0 with model='t5', not {type(recommender).__name__} and "
                f"{type(space).__name__}"
            )
        self.env, self.space = env, space
        self.rng = np.random.default_rng(config.seed)
        self.search = _Search(recommender, env.tasks, config, 0, rng=self.rng)
        self.policy = UserPolicy(np.zeros((1, len(space.agents)), np.int64), (0, 0))
        self.search.begin(self._words())
        self.value = float("nan")
        """Mean value of the words on the clicks that chose them; NaN before the first turn."""
        tried = config.tried + 1 if space.candidates is None else space.candidates.shape[2]
        # A step is a group's answers, as for trainers that play.
        self.steps = max(1, tried * len(env.tasks) // env.episode.answers)

    def _words(self) -> Ints:
        """(l,) tokens of the policy's action."""
        state = self.space.apply(self.space.start(np.zeros(1, np.int64)), self.policy.actions)
        ids: Ints = self.space.keys(state)[0]
        return ids

    def reset(self, seed: int) -> None:
        """Begin a segment; nothing is played."""

    def iterate(self, progress: float) -> dict[str, float]:  # noqa: ARG002 - nothing is scheduled
        """Try the words of one slot."""
        at_work, space = self.search, self.space
        slot = int(self.rng.integers(len(at_work.shared)))
        # The word that is there is tried, too.
        tried = (
            np.append(at_work.shared[slot], at_work.first_words()[slot])
            if space.candidates is None
            else space.vocabulary[space.candidates[0, slot]]
        )
        best = at_work.exchange(slot, tried, -np.inf)
        assert best is not None
        self.value = best
        self._play()
        judge = Judge(at_work.recommender, self.env.tasks, "reward")
        value, asked = judge(at_work.prompts()).mean(), at_work.judge.answers
        return {"reward": float(value), "info/gradient_calls": float(asked)}

    def tensors(self) -> dict[str, Tensor]:
        """See `rpp_agents.training.Learner`; the words are the whole model."""
        numbers = [self.search.passes, self.search.judge.answers]
        return {
            "optimizer.shared": torch.from_numpy(self.search.shared.copy()),
            "optimizer.numbers": torch.tensor(numbers),
            "optimizer.value": torch.tensor(self.value, dtype=torch.float64),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `rpp_agents.training.Learner`."""
        shared = tensors["optimizer.shared"].numpy()
        if shared.shape != self.search.shared.shape:
            raise ValueError(f"the shared words are of shape {shared.shape}")
        self.search.shared = shared.copy()
        self.search.passes, self.search.judge.answers = tensors["optimizer.numbers"].tolist()
        self.value = float(tensors["optimizer.value"])
        self._play()

    def _play(self) -> None:
        """Let the policy play the shared words."""
        chosen = self.space.indices(self.search.shared, len(self.search.shared))
        if self.space.candidates is not None:
            chosen = (self.space.candidates[0] == chosen[:, None]).argmax(axis=1)
        self.policy.actions[0] = chosen


def solver(env: Any, config: Config) -> Solver | SharedSolver:
    """Make the solver of what is an action of `env`: shared words, or users' own."""
    return (SharedSolver if isinstance(env.episode, Grouped) else Solver)(env, config)


train = trainer("PAP-REC", solver, Config())
