"""PAPRec-v0 and PAPRecShared-v0: tokens behind users' histories, for a frozen T5.

=============  ======================================================================
agents         one for each slot of the user (one by default)
actions        ``Discrete(5)``: the tokens that the recommender's gradient on the user's own
               training clicks ranks first; or ``Discrete(V)`` over all words, by an option
prompt         l shared words (five by default), then the user's; the shared ones change by
               ``reset(options={"shared": ...})``
observations   the blocks of `rpp_env.observation`; ``candidates``, the words to choose among; and
               ``who``, which user it is, because a word is searched for each user
recommender    a small T5, trained on all users' clicks but their last three, and frozen
users          all of them in each split; the clicks differ: the third-last is for ``train``, the
               one before the last for ``validation``, the last for ``test``
reward         NDCG@10 of the click among 99 items that the user never clicks, or all items; or,
               by an option, BLEU-4 + 0.1 ROUGE-L of a text that explains the click
episode        one step
=============  ======================================================================

In ``PAPRecShared-v0`` the words that all share are the action: an agent for each of them chooses
between the word that is there and the first ones by the mean gradient. An action is for a group of
users, whose mean reward pays it and whose mean features are observed; there are no words of a user.

Version history: v0, the first ones. The system is that of *PAP-REC: Personalized Automatic Prompt
for Recommendation Language Model* (Li et al., 2024), as an environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rpp_env import later_clicks
from rpp_env.data.candidates import TaskBatch, TaskSet
from rpp_env.data.clicks import task_users
from rpp_env.data.dataset import Dataset
from rpp_env.data.explanations import Explainer, surrogate
from rpp_env.data.splits import Interactions
from rpp_env.episode import Episode, Grouped, Response
from rpp_env.errors import InvalidOption
from rpp_env.factory import (
    Parts,
    embeddings_of,
)
from rpp_env.later_clicks import Played, histories_of, played, recommender_of
from rpp_env.observation import Context
from rpp_env.options import check_numbers
from rpp_env.prompting import Rankings
from rpp_env.recommenders.t5 import T5, Asked
from rpp_env.rules import episode_of
from rpp_env.tokens import TokenPrompts

__all__ = [
    "MANUAL",
    "Explained",
    "Options",
    "SharedOptions",
    "assemble",
    "assemble_shared",
    "best_words",
    "click_gradients",
    "first_order",
    "first_order_shared",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

MANUAL = "what comes next for them"
"""The shared words of a reset without the option: a wording that the T5 was trained with."""

_EPISODE, _SHARED = episode_of("PAPRec-v0"), episode_of("PAPRecShared-v0")
_SHOWN = 8
"""Width of a token's vector in observations: the main directions of the words' embeddings."""
_USERS = 500
"""Maximum number of users whose gradients rank the shared words."""


@dataclass(frozen=True, kw_only=True)
class _Options(later_clicks.Options):
    """Options of both ids."""

    asked: Asked = "sequential"
    """Whether a text asks for the next item, for one of the candidates that it lists, or for an
    explanation of the click, by a T5 that was trained on them (`Explained`)."""
    shared_words: str = MANUAL
    """Shared words (l of them), separated by blanks: those of a reset without the option
    ``shared``; in ``PAPRecShared-v0``, the words that are there."""
    actions: Literal["gradient", "vocabulary"] = "gradient"
    """Whether an agent chooses among the first tokens by the gradient, as in the paper, or among
    all words."""
    top: int = 5
    """Number of tokens by the gradient (k), for ``"gradient"``."""
    gradient_clicks: int = 2
    """Number of a user's training clicks that the gradient is the mean of (the paper: 5); each has
    the clicks before it as its history."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "top", "gradient_clicks", highest=10_000)
        if self.asked == "explanation" and self.actions == "gradient":
            raise InvalidOption(
                "asked='explanation' takes actions='vocabulary': gradients are of clicked items"
            )


@dataclass(frozen=True, kw_only=True)
class Options(_Options):
    """Options of ``PAPRec-v0``, besides the environment's own."""

    slots: int = 1
    """Number of the user's own tokens (m), with an agent for each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "slots", highest=10_000)


@dataclass(frozen=True, kw_only=True)
class SharedOptions(_Options):
    """Options of ``PAPRecShared-v0``, besides the environment's own."""

    group: int = 16
    """Number of users that an action is for; all of them where fewer are played."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "group", highest=100_000)
        if self.asked == "explanation":
            raise InvalidOption(
                "asked='explanation' is an option of PAPRec-v0, not of shared words"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained(Episode):
    """Episodes whose answers are texts, each paid by PAP-REC's criterion.

    A reward is BLEU-4 + 0.1 ROUGE-L of a text, over the highest value, 110: 0 to 1. References are
    made by a template (`rpp_env.data.explanations`).
    """

    explainer: Explainer
    length: int
    """Number of latest items of a history that a text names."""

    def check_table(self, hint: str) -> None:
        """See `Episode.check_table`: a table holds rankings."""
        raise InvalidOption(f"{self.id} pays for texts, which no table can hold: {hint}")

    def respond(
        self, rankings: Rankings, tasks: TaskBatch, rank: NDArray[np.integer[Any]] | None = None
    ) -> Response:
        """See `Episode.respond`."""
        if rankings.texts is None:
            raise InvalidOption("asked='explanation' needs a recommender that answers by texts")
        given = tasks.tasks
        wanted = [
            self.explainer.reference(
                given.history(i)[-self.length :].tolist(), int(given.targets[i])
            )
            for i in tasks.rows.tolist()
        ]
        answered = super().respond(rankings, tasks, rank)
        return answered._replace(rewards=surrogate(rankings.texts, wanted) / 110)


def assemble(
    dataset: str | Dataset | None,
    model: Any,
    split: str,
    max_users: int | None,
    max_cycles: int | None,
    options: Mapping[str, Any],
) -> Parts:
    """Make the arguments of `RPPEnv` for the id ``PAPRec-v0``.

    Parameters
    ----------
    dataset : str or Dataset, optional
        By default ``"movieworld"``, of 3,000 users and 200 items.
    model : str or T5, optional
        ``"t5"`` (the default; see `rpp_env.recommenders.pretrained`), ``"checkpoint:PATH"`` (a file
        of `T5.save`), or a T5. A table, or ``"table:PATH"``, is one of the default recommender.
    split : str
        The clicks that are played; the users are the same in each.
    max_users, max_cycles : int, optional
        As `RPPEnv.make` takes them; an episode has one step.
    options : mapping
        Fields of `Options`.

    Raises
    ------
    InvalidOption
        For options that are unknown, or contradict each other.
    InvalidData
        For a checkpoint of another catalog.
    """
    given = played(Options, _EPISODE, dataset, model, split, max_users, max_cycles, options)
    recommender, histories = _recommender(given)
    space = _space(recommender, given.tasks, histories, given.chosen)
    episode = _EPISODE
    if given.chosen.asked == "explanation":
        episode = Explained(
            episode.id,
            episode.max_cycles,
            discount=episode.discount,
            explainer=Explainer.of(given.data),
            length=recommender.config.max_history,
        )
    return _parts(given, recommender, episode, space, _contexts(space, given.tasks))


def assemble_shared(
    dataset: str | Dataset | None,
    model: Any,
    split: str,
    max_users: int | None,
    max_cycles: int | None,
    options: Mapping[str, Any],
) -> Parts:
    """Make the arguments of `RPPEnv` for the id ``PAPRecShared-v0``; see `assemble`."""
    given = played(SharedOptions, _SHARED, dataset, model, split, max_users, max_cycles, options)
    recommender, histories = _recommender(given)
    space = _shared_space(recommender, histories, given.chosen, len(given.tasks))
    episode = Grouped.of(_SHARED, len(given.tasks), given.chosen.group, given.chosen.task_seed)
    return _parts(given, recommender, episode, space, ())


def _recommender(given: Played[Any]) -> tuple[T5, Interactions]:
    """Return the T5 that answers, and the training clicks."""
    histories = histories_of(given.data, given.chosen.repeats)
    recommender = recommender_of(given.model, given.data, histories)
    if not isinstance(recommender, T5):
        raise InvalidOption(
            f"PAPRec takes model='t5', 'checkpoint:PATH' or a T5, whose words its prompts are made "
            f"of, not {given.model!r}; for a recommender of your own give a prompt space (space=)"
        )
    asked = given.chosen.asked
    return recommender if asked == recommender.asked else recommender.ask(asked), histories


def _parts(
    given: Played[Any],
    recommender: T5,
    episode: Episode,
    space: TokenPrompts,
    contexts: tuple[Context, ...],
) -> Parts:
    chosen, data, table = given.chosen, given.data, given.table
    histories = histories_of(data, chosen.repeats)
    return Parts(
        tasks=given.tasks,
        rules=episode,
        book=None,
        embeddings=embeddings_of(table, data, histories, "svd", chosen.dim),
        recommender=None if table else recommender,
        table=table,
        space=space,
        contexts=contexts,
    )


def _space(
    recommender: T5, tasks: TaskSet, histories: Interactions, chosen: Options
) -> TokenPrompts:
    agents = [f"slot_{j}" for j in range(chosen.slots)]
    shared = _first_words(recommender, chosen)
    made: dict[str, Any] = {"shared": shared}
    if chosen.actions == "gradient":
        _check_top(chosen.top, len(recommender.vocabulary.words))
        made["candidates"] = first_order(
            recommender,
            histories,
            np.searchsorted(task_users(tasks.dataset), tasks.users),
            shared,
            slots=chosen.slots,
            top=chosen.top,
            samples=chosen.gradient_clicks,
        )
        made["source"] = _source(recommender.digest, chosen.slots, chosen)
    return _tokens(recommender, agents, **made)


def _shared_space(
    recommender: T5, histories: Interactions, chosen: SharedOptions, tasks: int
) -> TokenPrompts:
    shared = _first_words(recommender, chosen)
    if not len(shared):
        raise InvalidOption("shared_words names the agents' words: give one word or more")
    made: dict[str, Any] = {}
    if chosen.actions == "gradient":
        _check_top(chosen.top, len(recommender.vocabulary.words) - 1)
        words = first_order_shared(
            recommender, histories, shared, top=chosen.top, samples=chosen.gradient_clicks
        )
        made["candidates"] = np.broadcast_to(words, (tasks, *words.shape))
        made["source"] = _source("shared", recommender.digest, chosen)
    return _tokens(recommender, [f"slot_{j}" for j in range(len(shared))], **made)


def _source(first: str, second: str | int, chosen: _Options) -> str:
    """Return the digest of what determines the tokens that agents choose among."""
    about = (first, second, chosen.top, chosen.gradient_clicks, chosen.shared_words)
    return hashlib.sha256(repr(about).encode()).hexdigest()


def _first_words(recommender: T5, chosen: _Options) -> Ints:
    """(l,) the tokens of the option `shared_words`."""
    space = _tokens(recommender, ["slot_0"])
    return space.vocabulary[space.indices(chosen.shared_words, len(chosen.shared_words.split()))]


def _check_top(top: int, words: int) -> None:
    if top > words:
        raise InvalidOption(f"top={top}, but there are {words} words: give no more")


def _tokens(recommender: T5, agents: list[str], **options: Any) -> TokenPrompts:
    """Make a space of a T5's words."""
    known = recommender.vocabulary
    return TokenPrompts(known.tokens, _shown(recommender), agents, names=known.words, **options)


def _shown(recommender: T5) -> Floats:
    """(V, e) the words' embeddings along their main directions."""
    table = recommender.weights["t5.shared.weight"].detach().numpy()
    words = table[recommender.vocabulary.tokens].astype(np.float64)
    words = words - words.mean(axis=0)
    _, _, directions = np.linalg.svd(words, full_matrices=False)
    # A direction's sign is arbitrary: its largest number is positive.
    directions = directions[:_SHOWN]
    largest = np.abs(directions).argmax(axis=1)
    directions *= np.sign(directions[np.arange(len(directions)), largest])[:, None]
    shown: Floats = (words @ directions.T).astype(np.float32)
    return shown


def _contexts(space: TokenPrompts, tasks: TaskSet) -> tuple[Context, ...]:
    """Return which user it is, as bits, and the tokens to choose among."""
    bits = max(1, (tasks.dataset.num_users - 1).bit_length())
    who = (tasks.users[:, None] >> np.arange(bits)) & 1
    blocks, values = {"who": bits}, [who.astype(np.float32)]
    if space.candidates is not None:
        shown = space.shown[space.candidates].reshape(len(tasks), -1)
        blocks["candidates"] = shown.shape[1]
        values.append(shown)
    return (Context(blocks, np.concatenate(values, axis=1)),)


# ----------------------------------------------------------------------------------- gradients


def click_gradients(
    recommender: T5,
    histories: Interactions,
    users: Ints,
    prompts: Ints,
    *,
    samples: int = 5,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Gradients of the log-likelihood of users' training clicks in their prompts' embeddings.

    Parameters
    ----------
    recommender : T5
    histories : Interactions
        `training_clicks`: no held-out click is read.
    users : (U,) int64 array
        Indices of users of `histories`.
    prompts : (U, n) int64 array
        Tokens of each user's prompt.
    samples : int
        Number of clicks of a user, drawn with replacement; each is predicted from those before it.
    seed : int
        Seed of the clicks that are drawn; a user's do not depend on the other users.

    Returns
    -------
    gradients : (U, n, d) float64 array
        Means over each user's clicks; 0 for users without any.
    there : (U,) bool array
        Which users have clicks to learn from.
    """
    import torch

    n = recommender.config.max_history
    lengths = np.diff(histories.indptr)[users]
    there = lengths >= 2
    gradients = np.zeros((*prompts.shape, recommender.config.dim))
    order = np.flatnonzero(there)
    drawn = np.stack(
        [
            np.random.default_rng([seed, int(user)]).integers(1, length, samples)
            for user, length in zip(users[order], lengths[order], strict=True)
        ]
        or [np.zeros(samples, np.int64)]
    )
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        ends = (histories.indptr[users[some]][:, None] + drawn[start : start + 64]).ravel()
        owner = np.repeat(some, samples)
        where = ends[:, None] - np.arange(n, 0, -1)
        seen = where >= histories.indptr[users[owner]][:, None]
        shown = np.where(seen, histories.items[np.where(seen, where, 0)], -1).astype(np.int64)
        targets = torch.from_numpy(histories.items[ends].astype(np.int64))
        vectors = recommender.embed(torch.from_numpy(prompts[owner])).requires_grad_()
        scores = recommender.likelihoods(shown, prompts[owner], vectors)
        scores.gather(1, targets[:, None]).sum().backward()  # type: ignore[no-untyped-call]
        assert vectors.grad is not None
        each = (
            vectors.grad.numpy().astype(np.float64).reshape(len(some), samples, *vectors.shape[1:])
        )
        gradients[some] = each.mean(axis=1)
    return gradients, there


def first_order(
    recommender: T5,
    histories: Interactions,
    users: Ints,
    shared: Ints,
    *,
    slots: int = 1,
    top: int = 5,
    samples: int = 5,
    seed: int = 0,
) -> Ints:
    """(U, m, k) the words that the gradient ranks first for each user's slots, best first.

    The score of a word is the product of its embedding and the gradient of the log-likelihood of
    the user's training clicks in the slot's embedding (HotFlip, Ebrahimi et al., ACL 2018; the step
    of PAP-REC). The slots hold the last shared word when the gradient is taken. Users without a
    training click get the words of the mean gradient.

    Parameters
    ----------
    recommender : T5
    histories, users, samples, seed
        See `click_gradients`.
    shared : (l,) int64 array
        The shared tokens.
    slots, top : int
        Number of slots (m), and of words (k) for each.
    """
    filler = shared[-1:] if len(shared) else recommender.vocabulary.tokens[:1]
    prompt = np.concatenate([shared, np.repeat(filler, slots)])
    gradients, there = click_gradients(
        recommender, histories, users, np.tile(prompt, (len(users), 1)), samples=samples, seed=seed
    )
    own = gradients[:, len(shared) :]
    if there.any():
        own[~there] = own[there].mean(axis=0)
    return best_words(recommender, own, top)


def first_order_shared(
    recommender: T5,
    histories: Interactions,
    shared: Ints,
    *,
    top: int = 5,
    samples: int = 5,
    seed: int = 0,
) -> Ints:
    """(l, 1 + k) the word that is in each shared slot, and those that the gradient ranks first.

    The gradient is the mean over 500 users' training clicks at most, which are drawn by `seed` from
    all of them, whoever is played; see `first_order`.

    Parameters
    ----------
    recommender : T5
    histories, samples
        See `click_gradients`.
    shared : (l,) int64 array
        The shared tokens.
    top : int
        Number of words besides the one that is there (k).
    seed : int
        Seed of the users and of their clicks.
    """
    count = len(histories.indptr) - 1
    users = np.sort(np.random.default_rng(seed).permutation(count)[:_USERS])
    gradients, there = click_gradients(
        recommender, histories, users, np.tile(shared, (len(users), 1)), samples=samples, seed=seed
    )
    mean = gradients[there].mean(axis=0) if there.any() else gradients.sum(axis=0)
    own = np.searchsorted(recommender.vocabulary.tokens, shared)[:, None]
    best = best_words(recommender, mean, top + 1)
    # The word that is there comes first, and not a second time.
    later = np.argsort(best == own, axis=1, kind="stable")[:, :top]
    return np.concatenate([own, np.take_along_axis(best, later, axis=1)], axis=1)


def best_words(recommender: T5, gradients: NDArray[np.float64], top: int) -> Ints:
    """(..., k) indices of the words with the largest first-order gains; of equals, the first."""
    table = recommender.weights["t5.shared.weight"].detach().numpy()
    words = table[recommender.vocabulary.tokens].astype(np.float64)
    order: Ints = np.argsort(-(gradients @ words.T), axis=-1, kind="stable")[..., :top]
    return order
