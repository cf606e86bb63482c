"""The environment itself: reset and step for a batch of users; everything else is an adapter to it.

One step, in a straight line: the agents' actions become a state of the prompt space, the state and
the users' tasks become prompts, the recommender ranks the candidates, and the NDCG@10 of the item
that a user really chose next is the reward of all agents.

The state of a user is: the task, the state of the prompt space, the step, and the last ranking and
actions. Under the rules ``RPP-v0`` and ``RPPBandit-v0`` a reward is a deterministic function of
state and action, if the recommender is deterministic; under ``RPPPaper-v0`` the candidates are
reordered at each step, so state and action determine its distribution.
"""

from __future__ import annotations

import inspect
import operator
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpp_env.actions import actions_of
from rpp_env.data.candidates import TaskSet
from rpp_env.embeddings import Embeddings
from rpp_env.episode import Episode
from rpp_env.errors import InvalidOption, ResetNeeded
from rpp_env.factory import as_rules, assemble
from rpp_env.models.asking import release
from rpp_env.observation import Context, Encoder, HashedNGrams, Observer, open_encoder
from rpp_env.options import check_choice, check_values
from rpp_env.prompting import PromptSpace, Recommender
from rpp_env.recommenders.base import rank_all
from rpp_env.rewriting import Rewrite, check_rewritten, open_rewriter
from rpp_env.rules import Rules
from rpp_env.sentences import AGENTS, SentenceCatalog
from rpp_env.sentences.prompt import Prompts
from rpp_env.sentences.space import SentencePrompts
from rpp_env.step import (
    COUNTS,
    IDENTIFIERS,
    METRICS,
    Moment,
    Scene,
    Step,
)
from rpp_env.table import RewardTable
from rpp_env.tables import explained

if TYPE_CHECKING:
    from rpp_env.data.dataset import Dataset
    from rpp_env.models.base import LanguageModel

__all__ = ["COUNTS", "IDENTIFIERS", "METRICS", "RPPEnv", "Step"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Space = PromptSpace[Any, Any] | Callable[[TaskSet], PromptSpace[Any, Any]]
"""A prompt space, or a function that makes one for the tasks that are played."""


_OPTIONS: dict[str, Any] = {
    "tasks": TaskSet,
    "book": SentenceCatalog | None,
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
        The tasks that can be played. Each reset takes the next `num_envs` of them, in an order that
        is shuffled again whenever all have been played.
    rules : Rules, str or Episode
        ``"RPP-v0"``, ``"RPPBandit-v0"``, ``"RPPPaper-v0"``, or rules of your own. With `space` an
        `Episode` is enough.
    book : SentenceCatalog, optional
        The catalog of sentences; it needs as many history options as the rules have.
    space : PromptSpace or callable, optional
        Another kind of prompts instead of a catalog of sentences, or a function that makes the
        space from the tasks that are played. One of `book` and `space` must be given.
    embeddings : Embeddings
        Embeddings of the tasks' dataset, for the observations.
    recommender : Recommender, optional
        Ranks the candidates; called once per step for the whole batch.
    table : RewardTable, optional
        Recorded answers instead of a recommender; exactly one of the two must be given.
    rewrite : callable, optional
        Rewrites the sentences of the prompts before they are sent (RPP+); see
        `rpp_env.rewriting`.
    encoder : Encoder, optional
        Embeds the sentences for the observations; `HashedNGrams` by default.
    observe, ranking
        See `Observer`.
    num_envs : int
        Users played at once (B).
    padded_actions : bool
        Give every agent as many actions as the one with most (9). An agent with n options maps an
        action `a` that it does not have to ``a % n``; ``infos["masked_actions"]`` counts these.
    agent_names : {"roles", "index"}
        `AGENTS` (the prompt space's own names), or ``agent_0``, ``agent_1``, ... for libraries that
        group agents by name.
    contexts : sequence of Context or callable
        Further blocks of the observations, or functions that make them from the tasks.
    seed : int, optional
        Used by the first `reset` if that is called without one. Without either, the first reset
        draws a seed at random, as Gymnasium's environments do; see `np_random_seed`.

    Raises
    ------
    InvalidOption
        For options that are unknown or contradict each other.
    TableMismatch
        For a table that was made from other tasks or sentences, or that lacks a history length that
        the rules can show.
    """

    def __init__(
        self,
        tasks: TaskSet,
        *,
        rules: Rules | Episode | str = "RPP-v0",
        book: SentenceCatalog | None = None,
        space: Space | None = None,
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
        contexts: Sequence[Context | Callable[[TaskSet], Context]] = (),
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
        episode = rules if isinstance(rules, Episode) else as_rules(rules).episode
        _check_parts(recommender, table, rewrite, book, space, episode)
        if not 1 <= num_envs <= _MOST_ENVS or not len(tasks):
            raise InvalidOption(
                f"one user or more must play, and {_MOST_ENVS:,} at most: num_envs is {num_envs}, "
                f"and there are {len(tasks)} tasks"
            )
        self.tasks = tasks
        self.rules = cast("Rules", rules if isinstance(rules, Episode) else as_rules(rules))
        """The `rules` as given; an `Episode` if that was given."""
        self.book = cast("SentenceCatalog", book)
        """The catalog of sentences; None if a prompt space was given."""
        self.episode = episode
        self.embeddings = embeddings
        self.recommender = recommender
        self.rewrite = rewrite
        self.padded_actions = padded_actions
        self.seed = None if seed is None else _as_seed(seed)
        self.space: PromptSpace[Any, Any] = (
            self._sentences(rules, book, encoder, agent_names)
            if book is not None
            else self._given(space, encoder)
        )
        self.encoder: Encoder | None = getattr(self.space, "encoder", None)
        """Encoder of the sentences for the observations."""
        self.agents: tuple[str, ...] = tuple(
            self.space.agents
            if agent_names == "roles"
            else (f"agent_{i}" for i in range(len(self.space.agents)))
        )
        reads = getattr(recommender, "reads", None)
        makes = self.space.makes
        if reads is not None and makes is not None and not issubclass(makes, reads):
            names = " or ".join(one.__name__ for one in get_args(reads) or (reads,))
            raise InvalidOption(
                f"{type(recommender).__name__} reads {names}, but the prompts here are "
                f"{makes.__name__}: give a recommender that reads {makes.__name__}"
            )
        if table is not None:
            table.check(tasks, self.space)
            table = table.for_space(self.space)
        self.table = table
        """The recorded answers, indexed by the prompt index of this prompt space."""
        self.actions = actions_of(self.space.action_spaces, padded_actions)
        """How actions are parsed and observed."""
        self.action_spaces = self.actions.spaces
        """The action space of each agent."""
        every = episode.every(tasks)
        self.contexts = [_made(given, every, "contexts") for given in _as_contexts(contexts)]
        """Further blocks of the observations."""
        self.observer = Observer(
            every,
            embeddings,
            self.space,
            episode.max_cycles,
            ranking,
            observe,
            self.contexts,
            feedback=episode.feedback != "none",
            seen=episode.seen,
        )
        self._count = num_envs
        # Whether the outcome of a task depends on how often it was played since the seed.
        self._several = episode.order == "step" if table is None else table.samples > 1
        self._scene = Scene(
            self.observer,
            self.space,
            episode,
            np.ascontiguousarray(every.candidates),
            np.asarray(tasks.users, np.int64),
        )
        self._calls = dict.fromkeys(("batches", "prompts", "prompt_tokens", "completion_tokens"), 0)
        self._rng: np.random.Generator | None = None
        self._seed: int | None = None
        self._moment: Moment | None = None
        self._last: Step | None = None

    def _sentences(
        self, rules: Any, book: SentenceCatalog, encoder: Encoder | None, agent_names: str
    ) -> SentencePrompts:
        """Make the prompt space of a catalog of sentences."""
        if isinstance(rules, Episode):
            raise InvalidOption(
                f"a catalog of sentences needs rules, which define the history lengths; episode "
                f"{rules.id!r} does not: give rules, or a prompt space"
            )
        agents = (
            AGENTS if agent_names == "roles" else tuple(f"agent_{i}" for i in range(len(AGENTS)))
        )
        return SentencePrompts(
            book,
            as_rules(rules).lengths,
            self.tasks,
            HashedNGrams() if encoder is None else encoder,
            rewritten=self.rewrite is not None,
            agents=agents,
        )

    def _given(self, space: Any, encoder: Encoder | None) -> PromptSpace[Any, Any]:
        """Return the given prompt space, or make it for these tasks."""
        if self.rewrite is not None or encoder is not None:
            raise InvalidOption(
                "rewrite and encoder are for a catalog of sentences, but a prompt space is given"
            )
        made: PromptSpace[Any, Any] = _made(space, self.tasks, "space")
        parts = ("agents", "action_spaces", "shape", "width", "start", "apply", "prompts")
        for part in (*parts, "features", "cell", "blocks", "counts"):
            if not hasattr(made, part):
                raise InvalidOption(
                    f"{type(made).__name__} is not a prompt space: it lacks {part!r}; make it a "
                    "subclass of rpp_env.prompting.PromptSpace"
                )
        return made

    @classmethod
    def make(
        cls,
        dataset: str | Dataset | None = None,
        model: str | LanguageModel | Recommender[Any] | RewardTable | None = None,
        split: str = "train",
        *,
        rules: Rules | Episode | str = "RPP-v0",
        space: Space | None = None,
        num_envs: int = 256,
        max_users: int | None = None,
        max_cycles: int | None = None,
        rewrite: Rewrite | str | None = None,
        encoder: Encoder | str | None = None,
        observe: Literal["shared", "private"] = "shared",
        ranking: Literal["mean", "sequence"] = "mean",
        padded_actions: bool = False,
        agent_names: Literal["roles", "index"] = "roles",
        contexts: Sequence[Context | Callable[[TaskSet], Context]] = (),
        seed: int | None = None,
        **options: Any,
    ) -> RPPEnv:
        """Make an environment from names.

        Loaded and fitted parts are cached in memory, so that a second environment over the same
        data (another split, for example) is made at once. The model is not called.

        Parameters
        ----------
        dataset : str or Dataset, optional
            A name or path that `load_dataset` knows, or a dataset. By default the id's own:
            ``"movieworld"`` under RPP's rules, ``"arrivals"`` under PPR's.
        model : str, LanguageModel, Recommender or RewardTable, optional
            ``"embedded"`` (the default under RPP's rules), ``"table:PATH"`` (a table, or a folder
            of tables by split, ``train.rpptable`` and so on), ``"table:NAME"`` (one that comes with
            the package; see `rpp_env.tables`), or an object with `complete` or `rank`, or a table.
            Of a table, only the tasks that are in it are played.
        split : {"train", "validation", "test"}
            The split whose users are played.
        rules : Rules, str or Episode
            The id of rules, or a `Rules` object; with `space`, an `Episode` is enough. The id of
            another system, such as ``"PPR-v0"``, has its own recommenders and options; see
            `rpp_env.ppr`.
        max_users : int, optional
            Play only this many users of the split, drawn by the option `user_seed` (not by `seed`).
        max_cycles : int, optional
            Steps of an episode, to override the rules'.
        rewrite : str or callable, optional
            RPP+: the rewriter of the chosen sentences. ``"embedded"``, the name of a language model
            (``"http://host:8000/v1#name"``, ...), or a callable from prompts to prompts, such as an
            `LLMRewriter` with its own options.
        encoder : Encoder or str, optional
            Encoder of the sentences for the observations: ``"hashed"`` n-grams (the default),
            ``"minilm"`` (after ``rpp-env model get minilm``), a folder that sentence-transformers
            wrote, or an object.
        space, num_envs, observe, ranking, padded_actions, agent_names, contexts, seed
            As the constructor takes them.
        **options
            Fields of `rpp_env.factory.Options`: candidates, embeddings, sentences, decoding.

        Raises
        ------
        InvalidOption
            For an unknown or contradictory option; the message lists the known ones.
        UnknownDataset, InvalidData
            If the data are missing or invalid.
        """
        sentences = space is None
        with explained(model):
            parts = assemble(
                dataset, model, split, rules, max_users, max_cycles, options, sentences=sentences
            )
            return cls(
                parts.tasks,
                rules=parts.rules,
                book=parts.book,
                space=parts.space if sentences else space,
                embeddings=parts.embeddings,
                recommender=parts.recommender,
                table=parts.table,
                rewrite=open_rewriter(rewrite),
                encoder=open_encoder(encoder),
                observe=observe,
                ranking=ranking,
                num_envs=num_envs,
                padded_actions=padded_actions,
                agent_names=agent_names,
                contexts=(*parts.contexts, *_as_contexts(contexts)),
                seed=seed,
            )

    def remade(self, **changes: Any) -> RPPEnv:
        """A fresh environment of the same tasks, prompts, answers and contexts.

        Parameters
        ----------
        **changes
            As the constructor takes them; what is left out besides these parts is its default.
        """
        names = ("tasks", "rules", "book", "embeddings", "recommender", "table", "contexts")
        parts: dict[str, Any] = {name: getattr(self, name) for name in names}
        if parts["book"] is None:
            parts["space"] = self.space
        return type(self)(**parts | changes)

    # ---------------------------------------------------------------- what it looks like

    @property
    def num_envs(self) -> int:
        """Number of users at play (B): `num_envs`, or as many as the last reset named."""
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
        return self.episode.max_cycles

    @property
    def tabulable(self) -> bool:
        """Return whether a table can hold every answer: finite prompts, one list per task."""
        return self.space.shape is not None and not self.episode.changes

    @property
    def clock(self) -> slice:
        """Columns of an observation with the time: the only input of a state-blind policy."""
        return self.observer.layout["step"]

    @property
    def state_clock(self) -> slice:
        """Columns of a state with the time; a state begins like a shared observation."""
        return self.observer.layout["step"]

    unit = "users"
    """Id of the environment, for the labels of learning curves."""
    identifiers = IDENTIFIERS
    """Infos that are identifiers, so that trainers do not average them."""

    @property
    def np_random_seed(self) -> int:
        """Seed of the episodes being played: ``reset(seed=env.np_random_seed)`` repeats them.

        It is the last seed given to `reset`, else the constructor's, else one drawn at random.
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
        """Counts so far: ``batches`` and ``prompts`` sent, and the tokens that they cost."""
        return dict(self._calls)

    @property
    def nvec(self) -> Ints:
        """(n,) number of actions of each agent; for vectors see `action_spaces`."""
        return self.actions.nvec

    def action_masks(self) -> NDArray[np.int8]:
        """(n, most actions) int8, a new array: 1 for the agent's options; (n, 1) for vectors."""
        return self.actions.masks()

    # ---------------------------------------------------------------- playing

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Floats, dict[str, NDArray[Any]]]:
        """Begin episodes.

        Parameters
        ----------
        seed : int, optional
            Restarts the order of the users (and, under the paper's rules, of their candidates).
            Without it the order continues; the first reset then uses the constructor's seed or
            draws one (`np_random_seed`).
        options : mapping, optional
            ``"users"``: the users to play, as task rows (int) or user tokens (str; the user's first
            draw). The batch takes the number of users given.
            ``"reset_mask"``: (B,) bool, begins new episodes of these users only.
            Further ones may be the prompt space's (`PromptSpace.options`).

        Returns
        -------
        (observations, infos)
            (B, n, d) float32, and the keys of `Step.infos`: the user, and zeros for users who
            begin.

        Raises
        ------
        InvalidOption
            For unknown or invalid options, and for a seed that is not an integer of 0 or more.
        """
        options = known_options(options, self.space.options)
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
        own = {name: options[name] for name in self.space.options if name in options}
        if own and self.table is not None:
            raise InvalidOption(
                f"a table holds answers under one value of {', '.join(own)}: make the environment "
                "with a recommender"
            )
        state = self.space.begin(rows, own)
        zeros = np.zeros(len(rows), np.int64)
        visit = self._visited(rows) if self._several else zeros
        if mask is None:
            self._last = None
            # The arrays may be shared: no moment is ever changed.
            self._moment = Moment(
                scene=self._scene,
                rows=rows,
                visit=visit,
                clock=zeros,
                state=state,
                actions=self.actions.none(len(rows)),
            )
        else:
            none = self.actions.none(len(rows))
            self._moment = self._at_play("reset_mask").begun(mask, rows, visit, state, none)
        return self._moment.observations(), self._moment.infos()

    def step(self, actions: ArrayLike) -> Step:
        """Take one step: send every user's next prompt and return the result.

        Parameters
        ----------
        actions : (B, n) array of int, or (B, n, d) of float
            One choice per user and agent, in the order of `agents`; see `action_spaces`.

        Raises
        ------
        ResetNeeded
            Before the first reset, and for users whose episode is over.
        InvalidAction
            For an action that an agent does not have; nothing is sent then.
        """
        before = self._at_play("step()")
        over = before.clock >= self.episode.max_cycles
        if np.count_nonzero(over):  # any() is slower, and many play one user
            raise ResetNeeded(
                f"the episodes of {over.sum()} of {len(over)} users are over (the first is user "
                f"{over.argmax()}): call reset(), with options={{'reset_mask': ...}} for only some"
            )
        chosen, masked = self.actions.read(actions, len(over), self.agents)
        state = self.space.apply(before.state, chosen)
        after = Moment(
            scene=self._scene,
            rows=before.rows,
            visit=before.visit,
            clock=before.clock + 1,
            state=state,
            actions=chosen,
            masked=masked,
        )
        (self._ask if self.table is None else self._replay)(after, before.clock)
        if self.episode.feedback != "none":
            after.before = before
        # Nothing below can fail: a step that raises leaves the environment unchanged.
        self._moment = after
        self._last = Step.to(after)
        return self._last

    def state(self) -> Floats:
        """(B, s) float32, a new array: the shared part and all last actions; also at the end."""
        return self._at_play("state()").team_state()

    def close(self) -> None:
        """Close the model's files and connections; the next step opens them again."""
        release(self.recommender)
        release(self.rewrite)

    def _at_play(self, call: str) -> Moment:
        if self._moment is None:
            raise ResetNeeded(f"{call} before the first reset(): call reset() to begin")
        return self._moment

    # ---------------------------------------------------------------- choice of users

    def _start(self, seed: int) -> None:
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._queue: Ints = np.zeros(0, np.int64)
        self._visits = np.zeros(len(self.tasks), np.int64)

    def _next(self, count: int) -> Ints:
        """Return the next `count` task rows in the current order."""
        assert self._rng is not None
        while len(self._queue) < count:
            self._queue = np.concatenate([self._queue, self._rng.permutation(len(self.tasks))])
        rows, self._queue = self._queue[:count], self._queue[count:]
        return rows

    def _visited(self, rows: Ints) -> Ints:
        """Count how often each task was begun since the seed; repeats in `rows` count up."""
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
        counted = isinstance(users, np.ndarray) and users.dtype.kind in "iu"
        if counted or not any(isinstance(user, str) for user in users):
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
        # Backwards, so that a user's first draw is kept.
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

    def _ask(self, moment: Moment, t: Ints) -> None:
        """Send the prompts of a moment to the recommender in one call, and store the result.

        `t` (B,) is the step of each user's episode, from 0.
        """
        assert self.recommender is not None
        rows, space = moment.rows, self.space
        tasks = self.episode.tasks(
            self.tasks, rows, t, visit=moment.visit, seed=self.np_random_seed
        )
        prompts = space.prompts(moment.state, tasks, rows)
        if self.rewrite is not None:
            rewritten = Prompts(self.rewrite(list(prompts)))
            check_rewritten(rewritten, prompts)
            prompts = rewritten
        rankings = rank_all(self.recommender, prompts, self.tasks.num_candidates, len(tasks))
        for name, number in (
            ("batches", 1),
            ("prompts", len(tasks)),
            ("prompt_tokens", int(rankings.spent("prompt_tokens").sum())),
            ("completion_tokens", int(rankings.spent("completion_tokens").sum())),
        ):
            self._calls[name] += number
        moment.state = space.answered(moment.state, prompts, rankings)
        moment.rankings, moment.prompts, moment.tasks = rankings, prompts, tasks
        moment.response = self.episode.respond(rankings, tasks)

    def _replay(self, moment: Moment, t: Ints) -> None:
        """Look up the answers of a moment in the table."""
        assert self.table is not None
        turn = moment.visit * self.episode.max_cycles + t if self._several else None
        moment.tasks = self.episode.tasks(self.tasks, moment.rows, t)
        cells = self.space.cell(moment.state)
        asked = moment.tasks.rows
        if len(asked) > len(cells):
            cells = np.resize(cells, len(asked))
            turn = None if turn is None else np.resize(turn, len(asked))
        rankings, rank = self.table.lookup(asked, cells, turn)
        moment.state = self.space.answered(moment.state, None, rankings)
        moment.response = self.episode.respond(rankings, moment.tasks, rank)


def _as_contexts(given: Any) -> Sequence[Any]:
    """Return `given`, or raise InvalidOption if it is not a sequence of contexts."""
    fits = isinstance(given, Sequence) and not isinstance(given, str)
    if not fits or not all(isinstance(one, Context) or callable(one) for one in given):
        raise InvalidOption(
            "contexts must be a sequence of Context, or of functions that make them from the "
            f"tasks, not {given!r}"
        )
    contexts: Sequence[Any] = given
    return contexts


def _made(given: Any, tasks: TaskSet, name: str) -> Any:
    """Call `given` with the tasks if it is a function, else return it."""
    if not callable(given):
        return given
    try:
        inspect.signature(given).bind(tasks)
    except TypeError as error:
        raise InvalidOption(
            f"{name}: {given!r} must be a function of the tasks: {error}"
        ) from error
    return given(tasks)


def _check_parts(
    recommender: Any, table: Any, rewrite: Any, book: Any, space: Any, episode: Episode
) -> None:
    """Raise InvalidOption for parts of an environment that contradict each other."""
    if (recommender is None) == (table is None):
        raise InvalidOption("give a recommender or a table, and not both")
    if rewrite is not None and not callable(rewrite):
        raise InvalidOption(
            f"rewrite={rewrite!r}: give a callable from prompts to prompts, such as "
            "LLMRewriter(model); names are accepted by RPPEnv.make and the other factories"
        )
    if table is not None and rewrite is not None:
        raise InvalidOption(
            "a table cannot be rewritten: it holds answers to the catalog's sentences, not to "
            "sentences that are rewritten for each user; give a model"
        )
    if table is not None:
        episode.check_table(
            "give a recommender, or rules of one task per episode that is not reordered at every "
            "step"
        )
    if (book is None) == (space is None):
        raise InvalidOption("give a book (catalog of sentences) or a prompt space, and not both")


RESET_OPTIONS = ("users", "reset_mask")
"""Options of `RPPEnv.reset`."""

_OF_OTHERS = ("options", "minari_autoseed")
"""Options that PettingZoo's conformance suite passes to every environment, and Minari passes on."""


def known_options(
    options: Mapping[str, Any] | None, more: Collection[str] = ()
) -> Mapping[str, Any]:
    """Return the options of a reset; InvalidOption for one that would have no effect.

    `more` names those of the prompt space.
    """
    if options is None:
        return {}
    for name in options:
        if name not in _OF_OTHERS:
            check_choice("reset option", name, (*RESET_OPTIONS, *more))
    return options


def named_users(users: Any) -> int:
    """Count the users that an option names; 0 if it is not a sequence."""
    if isinstance(users, str) or not isinstance(users, Collection):
        return 0
    return 0 if isinstance(users, np.ndarray) and users.ndim == 0 else len(users)


def check_one_user(options: Mapping[str, Any] | None, more: Collection[str] = ()) -> None:
    """Raise InvalidOption for reset options with several users, in one-user environments."""
    if (count := named_users(known_options(options, more).get("users"))) > 1:
        raise InvalidOption(f"this environment has one user; options name {count}")


def _as_seed(seed: Any) -> int:
    """Return `seed`, or raise InvalidOption if no random generator can start from it."""
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise InvalidOption(f"a seed is an integer of 0 or more, or None; got {seed!r}")
    return number
