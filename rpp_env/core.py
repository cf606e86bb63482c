"""The environment itself: reset and step for a batch of users. Everything else is a face of it.

One step, in a straight line: the agents' choices become sentences, the sentences and the user's
task become a prompt, the recommender ranks the candidates, and the NDCG@10 of the item that the
user really chose next is the reward of all four agents.

The state of a user is: the task, the level of the history agent, the step, and what the last step
left behind (sentences, ranking, actions). Under the rules ``RPP-v0`` and ``RPPBandit-v0`` a reward
is a function of state and action, as far as the recommender's answers are; under ``RPPPaper-v0``
its distribution is.
"""

from __future__ import annotations

import operator
import secrets
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import ArrayLike, NDArray

from rpp_env.data.candidates import MAX_HISTORY, TaskSet
from rpp_env.embeddings import Embeddings
from rpp_env.errors import InvalidAction, InvalidOption, ResetNeeded
from rpp_env.factory import as_rules, assemble
from rpp_env.models.asking import release
from rpp_env.observation import Encoder, HashedNGrams, Observer, encode
from rpp_env.options import check_values
from rpp_env.prompting import Rankings
from rpp_env.recommenders.base import Recommender, rank_all
from rpp_env.rewriting import Rewrite, check_rewritten, open_rewriter
from rpp_env.rules import Rules
from rpp_env.sentences import AGENTS, Choice, PatternBook
from rpp_env.sentences.prompt import Prompt
from rpp_env.step import (
    COUNTS,
    IDENTIFIERS,
    METRICS,
    Moment,
    Scene,
    Step,
)
from rpp_env.table import RewardTable
from rpp_env.task import RankingTask

if TYPE_CHECKING:
    from rpp_env.data.dataset import Dataset
    from rpp_env.models.base import LanguageModel

__all__ = ["COUNTS", "IDENTIFIERS", "METRICS", "RPPEnv", "Step"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


_OPTIONS: dict[str, Any] = {
    "tasks": TaskSet,
    "book": PatternBook,
    "embeddings": Embeddings,
    "table": RewardTable | None,
    "encoder": Encoder | None,
    "observe": Literal["shared", "private"],
    "ranking": Literal["mean", "sequence"],
    "num_envs": int,
    "padded_actions": bool,
    "agent_names": Literal["roles", "index"],
}
"""Types of the constructor's arguments; the others are checked where they are used."""


_MOST_ENVS = 10_000_000


class RPPEnv:
    """Personalised prompting of a frozen recommender, for a batch of users.

    Parameters
    ----------
    tasks : TaskSet
        Who can be played. At each reset the next `num_envs` of them, in an order that is shuffled
        anew each time all were played.
    rules : Rules or str
        ``"RPP-v0"``, ``"RPPBandit-v0"``, ``"RPPPaper-v0"``, or rules of your own.
    book : PatternBook
        The sentences; as many for the history agent as the rules have options.
    embeddings : Embeddings
        Of the tasks' dataset, for the observations.
    recommender : Recommender, optional
        Who ranks; asked once a step for the whole batch.
    table : RewardTable, optional
        Recorded answers instead of a recommender; one of the two must be given.
    rewrite : callable, optional
        Changes the sentences of the prompts before they are asked (RPP+); see
        `rpp_env.rewriting`.
    encoder : Encoder, optional
        Embeds the sentences for the observations; `HashedNGrams` by default.
    observe, ranking
        See `Observer`.
    num_envs : int
        Users that are played at once (B).
    padded_actions : bool
        Give every agent as many actions as the one with most (9). An action that an agent with n
        options does not have means ``a % n``, and is counted in ``infos["masked_actions"]``.
    agent_names : {"roles", "index"}
        `AGENTS`, or ``agent_0`` to ``agent_3`` for libraries that group agents by name.
    seed : int, optional
        Used by the first `reset` if that is not given one. Without either, the first reset draws a
        seed at random, as Gymnasium's environments do; see `np_random_seed`.

    Raises
    ------
    InvalidOption
        For options that are unknown or contradict each other.
    TableMismatch
        For a table that was made from other tasks or sentences, or that lacks a number of history
        items that the rules can show.
    """

    def __init__(
        self,
        tasks: TaskSet,
        *,
        rules: Rules | str = "RPP-v0",
        book: PatternBook,
        embeddings: Embeddings,
        recommender: Recommender[Any] | None = None,
        table: RewardTable | None = None,
        rewrite: Rewrite | None = None,
        encoder: Encoder | None = None,
        observe: Literal["shared", "private"] = "shared",
        ranking: Literal["mean", "sequence"] = "mean",
        num_envs: int = 256,
        padded_actions: bool = False,
        agent_names: Literal["roles", "index"] = "roles",
        seed: int | None = None,
    ) -> None:
        check_values(
            _OPTIONS,
            {
                "tasks": tasks,
                "book": book,
                "embeddings": embeddings,
                "table": table,
                "encoder": encoder,
                "observe": observe,
                "ranking": ranking,
                "num_envs": num_envs,
                "padded_actions": padded_actions,
                "agent_names": agent_names,
            },
        )
        self.rules = rules = as_rules(rules)
        if (recommender is None) == (table is None):
            raise InvalidOption("give a recommender or a table, and not both")
        if rewrite is not None and not callable(rewrite):
            raise InvalidOption(
                f"rewrite={rewrite!r}: give a callable from prompts to prompts, such as "
                "LLMRewriter(model); names are for RPPEnv.make and the faces"
            )
        if table is not None and rewrite is not None:
            raise InvalidOption(
                "a table cannot be rewritten: it holds answers to the book's sentences, and none "
                "to sentences that are rewritten for each user; give a model"
            )
        if table is not None and rules.order == "step":
            raise InvalidOption(
                f"a table cannot replay {rules.id}: its candidates are reordered at every step"
            )
        if not 1 <= num_envs <= _MOST_ENVS or not len(tasks):
            raise InvalidOption(
                f"one user or more must play, and {_MOST_ENVS:,} at most: num_envs is {num_envs}, "
                f"and there are {len(tasks)} tasks"
            )
        if book.sizes[1] != len(rules.history_options):
            raise InvalidOption(
                f"the book has {book.sizes[1]} history records, but {rules.id} has "
                f"{len(rules.history_options)} history options; give one label per option"
            )
        if table is not None:
            table.check(tasks, book, rules)
        self.tasks = tasks
        self.book = book
        self.embeddings = embeddings
        self.recommender = recommender
        self.table = None if table is None else table.for_rules(rules)
        """The recorded answers, by the levels of these rules."""
        self.rewrite = rewrite
        self.encoder = HashedNGrams() if encoder is None else encoder
        self.padded_actions = padded_actions
        self.seed = None if seed is None else _as_seed(seed)
        self.agents: tuple[str, ...] = (
            AGENTS if agent_names == "roles" else tuple(f"agent_{i}" for i in range(len(AGENTS)))
        )
        self._sizes = np.array(book.sizes, dtype=np.int64)
        self.nvec: Ints = (
            np.full_like(self._sizes, self._sizes.max()) if padded_actions else self._sizes
        )
        self.action_spaces: tuple[Discrete | Box, ...] = tuple(map(Discrete, self.nvec.tolist()))
        """What each agent chooses from."""
        self.observer = Observer(
            tasks, embeddings, rules, book.sizes, self.encoder.width, ranking, observe
        )
        self._limits = self.nvec.astype(np.uint64)
        self._count = num_envs
        # Does what is seen at a visit hang on how many there were before?
        self._several = rules.order == "step" if table is None else table.samples > 1
        levels, moves = np.arange(rules.max_level + 1), np.arange(len(rules.history_options))
        self._next_level = np.array(
            [rules.next_level(np.full_like(moves, level), moves) for level in levels]
        )
        self._scene = Scene(
            self.observer,
            rules,
            np.ascontiguousarray(tasks.candidates),
            np.asarray(tasks.users, np.int64),
        )
        self._items_shown = rules.items_shown(levels, np.full(len(levels), MAX_HISTORY))
        self._lengths = tasks.history_lengths
        self._positions = np.asarray(tasks.position, dtype=np.int64)
        self._strides = np.array([book.sizes[2] * book.sizes[3], 0, book.sizes[3], 1])
        self._vectors = _ended(
            self._encode_book() if rewrite is None else np.zeros((0, self.encoder.width))
        )
        self._calls = dict.fromkeys(("batches", "prompts", "prompt_tokens", "completion_tokens"), 0)
        self._rng: np.random.Generator | None = None
        self._seed: int | None = None
        self._moment: Moment | None = None
        self._last: Step | None = None

    @classmethod
    def make(
        cls,
        dataset: str | Dataset = "movieworld",
        model: str | LanguageModel | Recommender[Any] | RewardTable = "embedded",
        split: str = "train",
        *,
        rules: Rules | str = "RPP-v0",
        num_envs: int = 256,
        max_users: int | None = None,
        max_cycles: int | None = None,
        rewrite: Rewrite | str | None = None,
        encoder: Encoder | None = None,
        observe: Literal["shared", "private"] = "shared",
        ranking: Literal["mean", "sequence"] = "mean",
        padded_actions: bool = False,
        agent_names: Literal["roles", "index"] = "roles",
        seed: int | None = None,
        **options: Any,
    ) -> RPPEnv:
        """Make an environment from names.

        What is loaded and fitted is kept in memory, so that a second environment over the same data
        (another split, say) is made at once. Nothing is asked of the model.

        Parameters
        ----------
        dataset : str or Dataset
            A name or path that `load_dataset` knows, or a dataset.
        model : str, LanguageModel, Recommender or RewardTable
            ``"embedded"``, ``"table:PATH"`` (a table, or a folder of tables by split,
            ``train.rpptable`` and so on), or an object with `complete` or `rank`, or a table.
            A table brings its embeddings; only tasks that are in it are played.
        split : {"train", "validation", "test"}
            Whose users are played.
        rules : Rules or str
            The id of rules, or rules of your own.
        max_users : int, optional
            Play only this many users of the split, drawn by the option `user_seed` (not by `seed`).
        max_cycles : int, optional
            Steps of an episode, where they shall differ from the rules'.
        rewrite : str or callable, optional
            RPP+: who rewrites the chosen sentences for each user. ``"embedded"``, the name of a
            language model (``"http://host:8000/v1#name"``, ...), or a callable from prompts to
            prompts, such as `LLMRewriter` with options of your own.
        num_envs, encoder, observe, ranking, padded_actions, agent_names, seed
            As the constructor takes them.
        **options
            Fields of `rpp_env.factory.Options`: candidates, embeddings, sentences, decoding.

        Raises
        ------
        InvalidOption
            For an unknown or contradictory option, with the names of those that exist.
        UnknownDataset, InvalidData
            Where the data are not there or not right.
        """
        parts = assemble(dataset, model, split, as_rules(rules), max_users, max_cycles, options)
        return cls(
            parts.tasks,
            rules=parts.rules,
            book=parts.book,
            embeddings=parts.embeddings,
            recommender=parts.recommender,
            table=parts.table,
            rewrite=open_rewriter(rewrite),
            encoder=encoder,
            observe=observe,
            ranking=ranking,
            num_envs=num_envs,
            padded_actions=padded_actions,
            agent_names=agent_names,
            seed=seed,
        )

    # ---------------------------------------------------------------- what it looks like

    @property
    def num_envs(self) -> int:
        """Users at play (B): as constructed, or as many as the last reset named."""
        return self._count if self._moment is None else len(self._moment.rows)

    @property
    def observation_width(self) -> int:
        """Width d of an observation."""
        return self.observer.width

    @property
    def state_width(self) -> int:
        """Width s of a state."""
        return self.observer.state_width

    @property
    def max_cycles(self) -> int:
        """Steps of an episode."""
        return self.rules.max_cycles

    @property
    def clock(self) -> slice:
        """Columns of an observation that tell the time: all that a state-blind policy may see."""
        return self.observer.layout["step"]

    @property
    def state_clock(self) -> slice:
        """The same of a state, which begins as an observation that hides nothing."""
        return self.observer.layout["step"]

    unit = "users"
    """What is played, for the labels of learning curves."""
    identifiers = IDENTIFIERS
    """Infos that name something, so that trainers do not average them."""

    @property
    def np_random_seed(self) -> int:
        """Seed of the episodes being played: ``reset(seed=env.np_random_seed)`` repeats them.

        The one that was last given to `reset`, else the constructor's, else one drawn at random.
        Before the first reset it is the seed that this reset will use.
        """
        if self._seed is None:
            self._seed = secrets.randbits(63) if self.seed is None else self.seed
        return self._seed

    @property
    def playing(self) -> Ints:
        """(B,) task rows of the users at play; a copy."""
        return np.zeros(0, np.int64) if self._moment is None else self._moment.rows.copy()

    @property
    def last_step(self) -> Step | None:
        """The last step with its prompts and rankings; None before it and after a full reset."""
        return self._last

    @property
    def calls(self) -> dict[str, int]:
        """What was asked so far: ``batches`` and ``prompts``, and the tokens that they cost."""
        return dict(self._calls)

    def action_masks(self) -> NDArray[np.int8]:
        """(n, most actions) int8, fresh: 1 where an agent has that option."""
        return (np.arange(self._sizes.max()) < self._sizes[:, None]).astype(np.int8)

    # ---------------------------------------------------------------- playing

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Floats, dict[str, NDArray[Any]]]:
        """Begin episodes.

        Parameters
        ----------
        seed : int, optional
            Starts the order of the users (and, under the paper's rules, of their candidates) anew.
            Without it the walk through the users goes on; the first reset then uses the
            constructor's seed or draws one (`np_random_seed`).
        options : mapping, optional
            ``"users"``: who plays, as task rows (int) or user tokens (str; a user's first draw).
            Any number, and the batch takes that size.
            ``"reset_mask"``: (B,) bool, begin only these users' episodes anew; the others go on.

        Returns
        -------
        (observations, infos)
            (B, n, d) float32, and the keys of `Step.infos`: who plays, and zeros for the users who
            begin.

        Raises
        ------
        InvalidOption
            For options that are unknown or wrong, and for a seed that is no integer of 0 or more.
        """
        options = known_options(options)
        seed = None if seed is None else _as_seed(seed)
        mask = self._mask(options.get("reset_mask"))
        users = options.get("users")
        count = self._count if mask is None else int(mask.sum())
        chosen = None if users is None else self._rows(users)
        if mask is not None and chosen is not None and len(chosen) != count:
            raise InvalidOption(
                f"reset_mask begins {count} episodes, but {len(chosen)} users are named"
            )
        if seed is not None or self._rng is None:
            self._start(self.np_random_seed if seed is None else seed)
        rows = self._next(count) if chosen is None else chosen
        zeros = np.zeros(len(rows), np.int64)
        visit = self._visited(rows) if self._several else zeros
        if mask is None:
            self._last = None
            # They may share their zeros: no moment is ever changed.
            self._moment = Moment(
                scene=self._scene,
                rows=rows,
                visit=visit,
                level=zeros + self.rules.start,
                clock=zeros,
                actions=np.full((len(rows), len(self._sizes)), -1),
                wanted=zeros,
                answer=None,
                rank=None,
                vectors=self._vectors,
                sentence=zeros - 1,
            )
        else:
            self._moment = self._at_play("reset_mask").begun(mask, rows, visit, self.rules.start)
        return self._moment.observations(), self._moment.infos()

    def step(self, actions: ArrayLike) -> Step:
        """Ask for every user's next prompt and see what comes back.

        Parameters
        ----------
        actions : (B, n) array of int
            One choice per user and agent, in the order of `AGENTS`.

        Raises
        ------
        ResetNeeded
            Before the first reset, and where an episode is over.
        InvalidAction
            For an action that an agent does not have; nothing is asked then.
        """
        before = self._at_play("step()")
        over = before.clock >= self.rules.max_cycles
        if np.count_nonzero(over):  # any() is slower, and many play one user
            raise ResetNeeded(
                f"the episodes of {over.sum()} of {len(over)} users are over (the first is user "
                f"{over.argmax()}): call reset(), with options={{'reset_mask': ...}} for only some"
            )
        choices, masked = self._checked(actions, before)
        level = self._next_level[before.level, choices[:, 1]]
        after = Moment(
            scene=self._scene,
            rows=before.rows,
            visit=before.visit,
            level=level,
            clock=before.clock + 1,
            actions=choices,
            wanted=np.minimum(self._items_shown.take(level), self._lengths.take(before.rows)),
            answer=None,
            rank=None,
            vectors=self._vectors,
            sentence=choices.dot(self._strides),
            masked=masked,
        )
        after.answer, after.rank = (self._ask if self.table is None else self._replay)(after)
        # From here on nothing can fail: a step that raised has changed nothing.
        self._moment = after
        self._last = Step.to(after)
        return self._last

    def state(self) -> Floats:
        """(B, s) float32, fresh: the shared part and all last actions. Also after the end."""
        return self._at_play("state()").state()

    def close(self) -> None:
        """Close the model's files and connections; the next step opens them again."""
        release(self.recommender)
        release(self.rewrite)

    def _at_play(self, call: str) -> Moment:
        if self._moment is None:
            raise ResetNeeded(f"{call} before the first reset(): call reset() to begin")
        return self._moment

    # ---------------------------------------------------------------- who plays

    def _start(self, seed: int) -> None:
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._queue: Ints = np.zeros(0, np.int64)
        self._visits = np.zeros(len(self.tasks), np.int64)

    def _next(self, count: int) -> Ints:
        """The next `count` task rows of the walk."""
        assert self._rng is not None
        while len(self._queue) < count:
            self._queue = np.concatenate([self._queue, self._rng.permutation(len(self.tasks))])
        rows, self._queue = self._queue[:count], self._queue[count:]
        return rows

    def _visited(self, rows: Ints) -> Ints:
        """How often each task was begun before, since the seed; one played twice counts twice."""
        visit = self._visits[rows]
        np.add.at(self._visits, rows, 1)
        if len(np.unique(rows)) < len(rows):
            seen: dict[int, int] = {}
            for i, row in enumerate(rows.tolist()):
                visit[i] += seen.get(row, 0)
                seen[row] = seen.get(row, 0) + 1
        return visit

    def _rows(self, users: Any) -> Ints:
        if not named_users(users):
            raise InvalidOption(
                f"users must be a sequence of task rows or user tokens, not {users!r}"
            )
        if not any(isinstance(user, str) for user in users):
            rows = np.asarray(users)
            if rows.ndim != 1 or rows.dtype.kind not in "iu":
                raise InvalidOption(
                    f"task rows must be integers in one dimension; got {rows.dtype}"
                )
            if rows.min() < 0 or rows.max() >= len(self.tasks):
                raise InvalidOption(
                    f"task rows must lie in 0..{len(self.tasks) - 1}; "
                    f"got {rows.min()}..{rows.max()}"
                )
            return rows.astype(np.int64)
        tokens = self.tasks.dataset.user_tokens
        # Backwards, so that a user's first draw wins.
        known = {
            tokens[user]: i for i, user in reversed(list(enumerate(self.tasks.users.tolist())))
        }
        unknown = [user for user in users if user not in known]
        if unknown:
            raise InvalidOption(
                f"user {unknown[0]!r} has no task here; known are {len(known)} tokens such as "
                f"{tokens[self.tasks.users[0]]!r}"
            )
        return np.array([known[str(user)] for user in users], dtype=np.int64)

    def _mask(self, mask: Any) -> NDArray[np.bool_] | None:
        if mask is None:
            return None
        shape = self._at_play("reset_mask").rows.shape
        begins: NDArray[np.bool_] = np.asarray(mask)
        if begins.dtype != bool or begins.shape != shape or not begins.any():
            raise InvalidOption(
                f"reset_mask must be a bool array of shape {shape} with at least one True; got "
                f"{begins.dtype} of shape {begins.shape}"
            )
        return begins

    # ---------------------------------------------------------------- one step

    def _checked(self, actions: ArrayLike, moment: Moment) -> tuple[Ints, Ints | None]:
        """(B, n) choices that the book holds, and how many of each user's had to be mapped."""
        given = np.asarray(actions)
        expected = moment.actions.shape
        if given.shape != expected or given.dtype.kind not in "iu":
            raise InvalidAction(
                f"actions must be integers of shape {expected} (users, agents); got "
                f"{given.dtype} of shape {given.shape}"
            )
        choices = given.astype(np.int64)
        # Without their signs the negative ones are the highest of all.
        wrong = choices.view(np.uint64) >= self._limits
        if np.count_nonzero(wrong):
            user, agent = np.argwhere(wrong)[0]
            raise InvalidAction(
                f"agent {self.agents[agent]!r} chose {given[user, agent]} for user {user}; "
                f"the book holds 0..{self.nvec[agent] - 1}"
            )
        if not self.padded_actions:
            return choices, None
        return choices % self._sizes, (choices >= self._sizes).sum(axis=1)

    def _ask(self, moment: Moment) -> tuple[Rankings, Ints]:
        """Put the questions to the recommender, all at once; what it says goes into `moment`."""
        assert self.recommender is not None
        tasks = [self.tasks.task(row) for row in moment.rows.tolist()]
        shuffled = self._shuffled(moment) if self.rules.order == "step" else None
        if shuffled is not None:
            tasks = [_reordered(task, order) for task, order in zip(tasks, shuffled, strict=True)]
        choices = self.book.choose(moment.actions)
        prompts = [
            Prompt(task, choice, shown)
            for task, choice, shown in zip(tasks, choices, moment.wanted.tolist(), strict=True)
        ]
        if self.rewrite is not None:
            rewritten = list(self.rewrite(list(prompts)))
            check_rewritten(rewritten, prompts)
            prompts = rewritten
        rankings = rank_all(self.recommender, prompts, self.tasks.num_candidates)
        answer = rankings if shuffled is None else rankings.reordered(shuffled)
        for name, number in (
            ("batches", 1),
            ("prompts", len(prompts)),
            ("prompt_tokens", int(rankings.spent("prompt_tokens").sum())),
            ("completion_tokens", int(rankings.spent("completion_tokens").sum())),
        ):
            self._calls[name] += number
        if self.rewrite is not None:
            said = [prompt.instructions for prompt in prompts]
            row = {text: i for i, text in enumerate(dict.fromkeys(said))}
            moment.vectors = _ended(encode(self.encoder, list(row)))
            moment.sentence = np.array([row[text] for text in said])
            moment.edited = np.array(list(map(_edited, prompts, choices)))
        moment.rankings, moment.prompts = rankings, prompts
        return answer, answer.ranks(self._positions[moment.rows])

    def _replay(self, moment: Moment) -> tuple[Rankings, Ints]:
        """Look the answers up in the table."""
        assert self.table is not None
        turn = None
        if self._several:
            turn = moment.visit * self.rules.max_cycles + moment.clock - 1
        return self.table.lookup(moment.rows, moment.level, moment.sentence, turn)

    def _shuffled(self, moment: Moment) -> Ints:
        """(B, K) fresh orders of the candidates.

        Each hangs on the seed, the user, the draw, how often this task was begun, and the step, so
        that it is the same in every batch.
        """
        tokens, users = self.tasks.dataset.user_tokens, self.tasks.users
        orders = np.empty((len(moment.rows), self.tasks.num_candidates), np.int64)
        for i, row in enumerate(moment.rows.tolist()):
            user = int.from_bytes(tokens[users[row]].encode(), "little")
            key = [self._seed, user, self.tasks.draw[row], moment.visit[i], moment.clock[i] - 1]
            orders[i] = np.random.default_rng(key).permutation(orders.shape[1])
        return orders

    # ---------------------------------------------------------------- sentences

    def _encode_book(self) -> Floats:
        """(roles * reasonings * outputs, e): every combination of sentences, encoded once."""
        roles, _, reasonings, outputs = (np.arange(size) for size in self.book.sizes)
        grid = np.stack(np.meshgrid(roles, [0], reasonings, outputs, indexing="ij"), axis=-1)
        task = self.tasks.task(0)
        texts = [Prompt(task, c, 1).instructions for c in self.book.choose(grid.reshape(-1, 4))]
        return encode(self.encoder, texts)


RESET_OPTIONS = ("users", "reset_mask")
"""What `RPPEnv.reset` understands."""

_OF_OTHERS = ("options", "minari_autoseed")
"""What PettingZoo's conformance suite gives every environment, and what Minari passes on."""


def known_options(options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The options of a reset, or InvalidOption where one of them would have no effect."""
    if options is None:
        return {}
    if unknown := [name for name in options if name not in (*RESET_OPTIONS, *_OF_OTHERS)]:
        known = " and ".join(map(repr, RESET_OPTIONS))
        raise InvalidOption(f"reset option {unknown[0]!r} is unknown; there are {known}")
    return options


def named_users(users: Any) -> int:
    """How many users an option names; 0 where it is no sequence."""
    if isinstance(users, str) or not isinstance(users, Collection):
        return 0
    return 0 if isinstance(users, np.ndarray) and users.ndim == 0 else len(users)


def check_one_user(options: Mapping[str, Any] | None) -> None:
    """Refuse reset options that name several users, for the environments that play one."""
    if (count := named_users(known_options(options).get("users"))) > 1:
        raise InvalidOption(f"this environment has one user; options name {count}")


def _as_seed(seed: Any) -> int:
    """`seed`, or InvalidOption where no generator of random numbers can begin with it."""
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise InvalidOption(f"a seed is an integer of 0 or more, or None; got {seed!r}")
    return number


def _ended(vectors: NDArray[Any]) -> Floats:
    """The same rows, float32, and one of zeros: -1, nothing said yet, finds it."""
    return np.vstack([vectors, np.zeros((1, vectors.shape[1]))]).astype(np.float32)


def _edited(prompt: Prompt, chosen: Choice) -> tuple[int, int]:
    """How many sentences differ from the chosen ones, and how many rewrites were of no use."""
    said = prompt.choice
    changed = (
        said.role != chosen.role,
        said.reasoning != chosen.reasoning,
        said.output != chosen.output,
    )
    return sum(changed), prompt.fallbacks


def _reordered(task: RankingTask, order: Ints) -> RankingTask:
    return replace(task, candidates=tuple(task.candidates[i] for i in order))
