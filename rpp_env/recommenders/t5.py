"""A generative recommender: a small T5 that is trained from scratch and then frozen.

=============  ======================================================================
reads          tokens (`rpp_env.tokens.SlotPrompts`) behind the history, or vectors
               (`rpp_env.vectors.PrefixPrompts`) in front of it
answers        exact log-likelihoods of the items' ids, or a beam search over the trie of ids
white box      scores are differentiable in both; `T5.embed` is the token table
texts          explanations of a choice (`T5.explain`), if it was trained on them
training       tasks (sequential, top-n, explanation) in several wordings, one without words
=============  ======================================================================

Items are named by ids of our own, and no id knows a held-out click: *independent* ones are one new
token for each item, in an order by hash; *sequential* ones number the items by their first
appearance in the training histories, as P5 does (Geng et al., RecSys 2022), but without the clicks
that are held out. Published P5 checkpoints number held-out clicks, too, so that "the largest id of
the history plus one" beats them (`max_plus_one` is that rule).

A text is the history, the prompt's tokens, and the end. Its words are those of the wordings, of
genres and of titles: there are no pretrained weights here, so a word means what training makes of
it. In some wordings words of the target follow the history, so that a word asks for the items that
it describes (as the hint words of P5's explanations do); the first wording, that of every answer,
has none. Users are not named. As in P5, each item of a text also gets a *whole-word*
embedding in the encoder, by its place: counted back from the latest item (P5 counts from the first
one, so that a longer history moves all places), and by its place among the candidates. The decoder
starts from the latest item (P5: from padding, as it does here without a history).

torch and transformers are imported when a recommender is made, never by importing this module.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.candidates import TaskSet
from rpp_env.data.dataset import Dataset
from rpp_env.data.explanations import Explainer, plain
from rpp_env.data.splits import Interactions
from rpp_env.data.tensors import compare, read_tensors, write_tensors
from rpp_env.errors import InvalidData, InvalidOption, MissingExtra, TrainingDiverged
from rpp_env.metrics import ndcg
from rpp_env.options import check_choice
from rpp_env.prompting import Rankings
from rpp_env.recommenders.base import by_score, check_catalog
from rpp_env.recommenders.patience import Patience, Progress
from rpp_env.recommenders.sasrec import pooled, ranks_among_all
from rpp_env.recommenders.stages import Stages
from rpp_env.tokens import SlotPrompts
from rpp_env.vectors import PrefixPrompts

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

__all__ = ["T5", "WORDINGS", "Asked", "Config", "Training", "Vocabulary", "max_plus_one", "train"]

Ids = Literal["independent", "sequential"]
Asked = Literal["sequential", "top-n", "explanation"]
"""Tasks: the next item of all, the one of listed candidates, or a text that explains a choice."""
Ints = NDArray[np.int64]

WORDINGS: dict[str, tuple[str, ...]] = {
    "sequential": (
        "{history}",
        "{history} what comes next for them",
        "given {history} predict the next item",
        "{history} {words}",
        "after {history} comes {words}",
    ),
    "top-n": (
        "{history} candidates {candidates}",
        "choose one of candidates {candidates} after {history}",
        "{history} candidates {candidates} {words}",
    ),
    "explanation": (
        "{history} explain {item}",
        "explain {item} after {history}",
        "{history} explain {item} {words}",
    ),
}
"""Wordings of each task, one of which is drawn for each example in training; the first is the one
of every answer."""

_RANKING = ("sequential", "top-n")
_NAMES = {"top-n": "candidates", "explanation": "explain"}
"""The word before further items of a text."""

_ROWS = 32
"""Fixed number of users in a forward pass when ranking, as in `rpp_env.recommenders.sasrec`."""
_PLACES = 16
"""Texts are padded to a multiple of this many tokens."""
_POOL = 16
"""Number of batches of an epoch whose users are sorted by length together, to save padding."""
_PAD, _END, _WORDS = 0, 1, 2
"""Tokens: padding, which also starts the decoder; the end of a text; the first word."""
_MOST_WORDS = 1000
"""Number of words of genres and titles that are tokens, the most frequent ones."""
_SPREAD = 0.3
"""Standard deviation of the first embeddings. Theirs is 1 in transformers, for pretrained T5s."""
_HINTS = 6
"""Maximum number of words that describe the target in training: those of a prompt of PAP-REC."""
_LONGEST = 20
"""Maximum number of tokens of an explanation, its end included."""


@dataclass(frozen=True, kw_only=True)
class Config(Patience):
    """T5's size and training; t5-small has dim=512, layers=6, heads=8, feed_forward=2048."""

    dim: int = 128
    """Width of tokens and states."""
    layers: int = 3
    """Number of layers of the encoder, and of the decoder."""
    heads: int = 4
    """Number of heads of each attention; must divide `dim`."""
    feed_forward: int = 512
    """Width of the feed-forward networks."""
    dropout: float = 0.1
    """Dropout, in training."""
    ids: Ids = "independent"
    """One new token for each item, or two digits of its number in the order of the training
    histories."""
    tasks: tuple[str, ...] = _RANKING
    """Tasks to train on; a batch has one of them, drawn at random. ``"explanation"`` is a third."""
    max_history: int = 20
    """Number of latest items that a text names."""
    negatives: int = 99
    """Number of candidates besides the target in the texts of ``"top-n"``."""
    rate: float = 1e-3
    """AdamW's learning rate."""
    embedding_rate: float = 1e-2
    """AdamW's learning rate of the tokens' embeddings. They begin as random vectors, and at the
    others' rate a small T5 stays at the items' popularity for many epochs."""
    batch: int = 64
    """Number of examples per step."""
    samples: int = 1
    """Number of examples of each user in an epoch; each has a random target."""
    ahead: int = 1
    """Number of items that an example of ``"sequential"`` teaches, the next one and those after it,
    one after another (P5: one). Answers are the next item's alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = "dim layers heads feed_forward max_history negatives batch samples ahead".split()
        if (
            min(getattr(self, name) for name in names) < 1
            or self.dim % self.heads
            or not 0 <= self.dropout < 1
        ):
            raise InvalidOption(
                "sizes must be at least 1, heads must divide dim, and dropout must lie in [0, 1); "
                f"got {self}"
            )
        check_choice("ids", self.ids, get_args(Ids))
        if not set(self.tasks) & set(_RANKING) or set(self.tasks) - set(WORDINGS):
            raise InvalidOption(
                f"tasks are some of {', '.join(WORDINGS)}, and one of them ranks, since rankings "
                f"choose the epoch; got {self.tasks}"
            )

    @property
    def items_of_a_text(self) -> int:
        """Maximum number of items that a text names."""
        besides = {"top-n": self.negatives + 1, "explanation": 1}
        return self.max_history + max(besides.get(task, 0) for task in self.tasks)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words and item ids; they depend on the catalog and on training histories only.

    Attributes
    ----------
    words : tuple of str
        Word i is token i + 2.
    ids : (num_items, T) int64 array
        Tokens of each item's id.
    """

    words: tuple[str, ...]
    ids: Ints

    @classmethod
    def of(
        cls, dataset: Dataset, histories: Interactions, kind: Ids, tasks: Sequence[str] = _RANKING
    ) -> Vocabulary:
        """Make the vocabulary of a dataset's catalog, with the words of wordings.

        Those of the ranking tasks are always there, those of explanations if `tasks` has them.
        """
        worded = [text for task in dict.fromkeys([*_RANKING, *tasks]) for text in WORDINGS[task]]
        fixed = dict.fromkeys(word for text in worded for word in text.split() if word.isalpha())
        if "explanation" in tasks:
            fixed |= dict.fromkeys(Explainer.of(dataset).words)
        counts = Counter(word for words in _described(dataset) for word in words)
        often = sorted(counts, key=lambda word: (-counts[word], word))[:_MOST_WORDS]
        words = tuple(dict.fromkeys([*fixed, *often]))
        numbers = _numbers(dataset, histories, kind)
        base = len(numbers) if kind == "independent" else int(np.ceil(len(numbers) ** 0.5))
        digits = numbers[:, None] if kind == "independent" else np.stack(divmod(numbers, base), 1)
        return cls(words, digits + _WORDS + len(words))

    @property
    def size(self) -> int:
        """Number of tokens."""
        return int(self.ids.max()) + 1

    @property
    def numbers(self) -> Ints:
        """(num_items,) the number that each id spells, from 0."""
        digits = self.ids - self.first
        base = int(digits.max()) + 1
        numbers: Ints = (digits * base ** np.arange(digits.shape[1])[::-1]).sum(axis=1)
        return numbers

    @property
    def first(self) -> int:
        """The first token of ids."""
        return _WORDS + len(self.words)

    @property
    def tokens(self) -> Ints:
        """Tokens of all words, which is what a prompt may hold: no digits, ids or marks."""
        return np.arange(_WORDS, self.first)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of words, separated by blanks.

        Raises
        ------
        InvalidOption
            For a word that is no token.
        """
        numbers = {word: _WORDS + i for i, word in enumerate(self.words)}
        if unknown := [word for word in text.split() if word not in numbers]:
            raise InvalidOption(
                f"{unknown[0]!r} is no token of this T5, whose words are {len(numbers):,}, such as "
                f"{', '.join(self.words[:8])}"
            )
        return [numbers[word] for word in text.split()]

    def decode(self, ids: Any) -> str:
        """Return words as text."""
        return " ".join(self.words[int(i) - _WORDS] for i in np.ravel(ids))


def _described(dataset: Dataset) -> list[list[str]]:
    """Words of each item's genres and title: lower case, letters only."""
    return [
        [word for part in (*genres, title) for word in plain(part)]
        for genres, title in zip(dataset.genres, dataset.titles, strict=True)
    ]


def _numbers(dataset: Dataset, histories: Interactions, kind: Ids) -> Ints:
    """(num_items,) a number for each item that knows no click, or training clicks only."""
    # By hash: the order of a file may be that in which all clicks were read, held-out ones as well.
    digests = [hashlib.sha256(token.encode()).digest() for token in dataset.item_tokens]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    if kind == "sequential":
        order = list(dict.fromkeys([*histories.items.tolist(), *order]))
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order))
    return numbers


def max_plus_one(numbers: Ints, tasks: TaskSet) -> Ints:
    """(T,) ranks, from 1, of the targets by the rule "largest number of the history + 1, + 2, ...".

    Smaller numbers come after all larger ones. It knows nothing of users and items: where it is
    better than chance, numbers leak.

    Parameters
    ----------
    numbers : (num_items,) int64 array
        `Vocabulary.numbers`.
    tasks : TaskSet
    """
    owner = np.repeat(np.arange(len(tasks)), tasks.history_lengths)
    largest = np.full(len(tasks), -1)
    np.maximum.at(largest, owner, numbers[tasks.history_items])
    ahead = numbers[tasks.candidates] - largest[:, None] - 1
    ahead = np.where(ahead < 0, ahead + len(numbers), ahead)
    own = ahead[np.arange(len(tasks)), tasks.position]
    ranks: Ints = 1 + (ahead < own[:, None]).sum(axis=1)
    return ranks


class T5:
    """A T5; none of its methods changes a weight.

    Parameters
    ----------
    config : Config
    vocabulary : Vocabulary
    module : torch.nn.Module
        Made by `initial` or `load`.
    catalog : str
        The digest of the catalog that the items belong to (`Dataset.catalog_digest`).
    asked : {"sequential", "top-n", "explanation"}
        The task of the texts; see `ask`.
    beams : int, optional
        Number of beams of an answer; None: exact. See `beam`.

    Attributes
    ----------
    validation : float
        NDCG@10 of the held-out clicks by which `train` chose the epoch; otherwise NaN.
    """

    reads = SlotPrompts | PrefixPrompts

    def __init__(
        self,
        config: Config,
        vocabulary: Vocabulary,
        module: Any,
        catalog: str = "",
        asked: Asked = "sequential",
        beams: int | None = None,
    ) -> None:
        self.config, self.vocabulary, self.module = config, vocabulary, module
        self.catalog, self.asked, self.beams = catalog, asked, beams
        self.validation = float("nan")
        module.eval().requires_grad_(False)
        # Ids that begin alike share the decoder's steps. For each depth: the distinct beginnings,
        # and which of them each item has.
        self._trie: list[tuple[Ints, Ints]] = []
        for depth in range(vocabulary.ids.shape[1]):
            begun, of = np.unique(vocabulary.ids[:, :depth], axis=0, return_inverse=True)
            self._trie.append((begun.astype(np.int64), of.reshape(-1)))

    @classmethod
    def initial(cls, config: Config, vocabulary: Vocabulary, catalog: str = "") -> T5:
        """Make an untrained T5, with weights drawn from torch's global generator."""
        return cls(config, vocabulary, _module(config, vocabulary.size), catalog)

    def ask(self, asked: Asked) -> T5:
        """Return the same recommender with texts of another task.

        Raises
        ------
        InvalidOption
            For a task that it was not trained on.
        """
        check_choice("task", asked, get_args(Asked))
        if asked not in self.config.tasks:
            raise InvalidOption(
                f"the task {asked!r} came; this T5 was trained on {', '.join(self.config.tasks)}: "
                f"train one with tasks=({', '.join(map(repr, self.config.tasks))}, {asked!r})"
            )
        return self._as(asked, self.beams)

    def beam(self, beams: int | None = 20) -> T5:
        """Return the same recommender with answers by beam search over the trie of ids.

        After each token of an id, only the `beams` most likely beginnings of candidates are
        continued. Candidates that are not reached are not named; those that are have their exact
        log-likelihood. Ids of one token (``ids="independent"``) are all reached. `scores` and
        `likelihoods` stay exact.

        Parameters
        ----------
        beams : int, optional
            Number of beams (PAP-REC, P5 and PeaPOD: 20); None: exact answers.

        Raises
        ------
        InvalidOption
            For less than one beam.
        """
        if beams is not None and beams < 1:
            raise InvalidOption(f"beams must be 1 or more, or None for exact answers; got {beams}")
        return self._as(self.asked, beams)

    def _as(self, asked: Asked, beams: int | None) -> T5:
        return T5(self.config, self.vocabulary, self.module, self.catalog, asked, beams)

    @property
    def num_items(self) -> int:
        """Number of items in the catalog."""
        return len(self.vocabulary.ids)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights by name, shared with the recommender."""
        return dict(self.module.named_parameters())

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of size, vocabulary and weights."""
        about = (self.config, self.vocabulary.words, self.asked)
        sha = hashlib.sha256(repr(about if self.beams is None else (*about, self.beams)).encode())
        sha.update(np.ascontiguousarray(self.vocabulary.ids, "<i8").tobytes())
        for name, tensor in sorted(self.weights.items()):
            sha.update(f"{name} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of tokens, (..., d), as the encoder reads them."""
        embedded: Tensor = self.weights["t5.shared.weight"][ids]
        return embedded

    def scores(self, prompts: SlotPrompts | PrefixPrompts) -> Tensor:
        """(B, K) exact log-likelihoods of the candidates' ids.

        Differentiable in `PrefixPrompts.prefix` and in `SlotPrompts.vectors`.

        Raises
        ------
        InvalidOption
            For a prompt of another shape than this T5 reads, for more candidates than it was
            trained with where texts list them, and where the task is an explanation.
        InvalidData
            For tasks of another catalog.
        """
        return self._scores(prompts, None)

    def _scores(self, prompts: SlotPrompts | PrefixPrompts, beams: int | None) -> Tensor:
        """(B, K) log-likelihoods; -inf for candidates that no beam reaches."""
        import torch

        if self.asked == "explanation":
            raise InvalidOption("a T5 that is asked to explain ranks nothing: use explain")
        candidates = torch.from_numpy(prompts.tasks.candidates.astype(np.int64))
        return self._likelihoods(*self._read(prompts), candidates, beams)

    def explain(self, prompts: SlotPrompts | PrefixPrompts) -> list[str]:
        """(B,) texts that explain why the tasks' users chose their targets, by greedy decoding.

        Of a T5 that was trained on explanations and is asked for them. Texts have words of the
        vocabulary only, and at most 19 of them.

        Raises
        ------
        InvalidOption
            For prompts as `scores` refuses them, and for another task (`ask`).
        InvalidData
            For tasks of another catalog.
        """
        import torch

        if self.asked != "explanation":
            raise InvalidOption(f"this T5 is asked for {self.asked}: use ask('explanation') first")
        words = torch.from_numpy(np.append(self.vocabulary.tokens, _END))
        found = [""] * len(prompts.tasks)
        with torch.inference_mode():
            for part, hidden, mask, starts in self._encodings(*self._read(prompts)):
                begun = torch.zeros((len(hidden), 1, 0), dtype=torch.int64)
                for _ in range(_LONGEST):
                    logs = self._continued(hidden, mask, starts, begun)[:, 0, -1, words]
                    begun = torch.cat([begun, words[logs.argmax(dim=1)][:, None, None]], dim=2)
                    if (begun == _END).any(dim=2).all():
                        break
                for row, tokens in zip(part.tolist(), begun[:, 0].tolist(), strict=False):
                    end = tokens.index(_END) if _END in tokens else _LONGEST - 1
                    found[row] = self.vocabulary.decode(tokens[:end])
        return found

    def _read(
        self, prompts: SlotPrompts | PrefixPrompts
    ) -> tuple[_Text, Tensor | None, Tensor | None]:
        """Return the texts of prompts, with the vectors of their slots and their prefixes."""
        tasks, n = prompts.tasks, self.config.max_history
        self.check(tasks.dataset)
        if isinstance(prompts, SlotPrompts):
            inside, before = prompts, None
        else:
            inside, before = SlotPrompts(np.zeros((len(tasks), 0), np.int64), tasks), prompts
            if prompts.shift is not None:
                raise InvalidOption("a T5 adds no vector to its users': leave out the shift")
        listed = None
        if self.asked == "explanation":
            listed = tasks.targets.astype(np.int64)[:, None]
        if self.asked == "top-n":
            listed = tasks.candidates.astype(np.int64)
            if listed.shape[1] > self.config.negatives + 1:
                raise InvalidOption(
                    f"{listed.shape[1]} candidates came in a text; this T5 was trained with "
                    f"{self.config.negatives + 1}"
                )
        text = self._text(tasks.padded_history(n).astype(np.int64), inside.ids, listed)
        vectors = self._vectors("slots", inside.vectors, len(tasks))
        prefix = self._vectors("a prefix", before if before is None else before.prefix, len(tasks))
        return text, vectors, prefix

    def likelihoods(self, histories: Ints, ids: Ints, vectors: Tensor | None = None) -> Tensor:
        """(B, num_items) log-likelihoods of all items after histories and tokens.

        Parameters
        ----------
        histories : (B, L) int64 array
            Item rows, the latest in the last column, -1 in front; L is at most `max_history`.
        ids : (B, m) int64 array
            Tokens of the prompts.
        vectors : (B, m, d) Tensor, optional
            See `SlotPrompts.vectors`.
        """
        text = self._text(histories, ids)
        return self._likelihoods(text, self._vectors("slots", vectors, len(histories)))

    def rank(self, prompts: SlotPrompts | PrefixPrompts) -> Rankings:
        """Rank the candidates of every prompt by score; of equals, the one shown first.

        A T5 that is asked to explain names no candidate, and its texts are those of `explain`.
        """
        import torch

        if self.asked == "explanation":
            shape = prompts.tasks.candidates.shape
            order = np.broadcast_to(np.arange(shape[1]), shape)
            return Rankings(order, np.zeros(shape[0], np.int64), texts=self.explain(prompts))
        with torch.inference_mode():
            scores = self._scores(prompts, self.beams).numpy()
        return replace(by_score(scores), named=np.isfinite(scores).sum(axis=1))

    def check(self, dataset: Dataset) -> None:
        """Check that a dataset's items are those that this T5 was trained on.

        Raises
        ------
        InvalidData
        """
        check_catalog("T5", self.num_items, self.catalog, dataset)

    def save(self, path: str | Path) -> None:
        """Write size, vocabulary and weights to one safetensors file, atomically."""
        import torch

        about = {
            "kind": "t5",
            "catalog": self.catalog,
            "words": list(self.vocabulary.words),
            **asdict(self.config),
        }
        ids = torch.from_numpy(self.vocabulary.ids)
        write_tensors(path, {**self.weights, "ids": ids}, about)

    @classmethod
    def load(cls, path: str | Path) -> T5:
        """Read a file that `save` wrote; `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        if about.pop("kind", None) != "t5":
            raise InvalidData(f"{path} holds no T5")
        try:
            words, catalog = tuple(map(str, about.pop("words"))), str(about.pop("catalog"))
            config = Config(**about | {"tasks": tuple(about["tasks"])})
            vocabulary = Vocabulary(words, tensors.pop("ids").numpy().astype(np.int64))
            if vocabulary.ids.ndim != 2 or vocabulary.ids.min() != vocabulary.first:
                raise InvalidData("its ids are no ids of items")
            return cls.of(path, tensors, config, vocabulary, catalog)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InvalidData(f"{path} is of another version of rpp_env: {error}") from error

    @classmethod
    def of(
        cls,
        path: str | Path,
        tensors: Mapping[str, Tensor],
        config: Config,
        vocabulary: Vocabulary,
        catalog: str,
    ) -> T5:
        """Make a T5 of a file's tensors, checking them."""
        import torch

        try:
            with torch.device("meta"):
                plan = dict(_module(config, vocabulary.size).named_parameters())
            compare(plan, tensors)
        except ValueError as error:
            raise InvalidData(f"{path} is damaged: {error}") from error
        with torch.random.fork_rng(devices=[]):
            module = _module(config, vocabulary.size)
        with torch.no_grad():
            for name, weight in module.named_parameters():
                weight.copy_(tensors[name])
        return cls(config, vocabulary, module, catalog)

    # ------------------------------------------------------------------------------- inside

    def _text(self, histories: Ints, slots: Any, listed: Ints | None = None) -> _Text:
        """Write the texts of histories (B, L), -1 in empty places, with slots (B, m)."""
        ids, count = self.vocabulary.ids, len(histories)
        slots = np.asarray(slots)
        if slots.ndim != 2 or len(slots) != count or slots.dtype.kind not in "iu":
            raise InvalidOption(
                f"tokens of shape {slots.shape} ({slots.dtype}) came for {count} users; this T5 "
                f"reads integers of shape ({count}, m)"
            )
        if slots.size and not 0 <= slots.min() <= slots.max() < self.vocabulary.size:
            raise InvalidOption(
                f"tokens lie in 0..{self.vocabulary.size - 1}; got {slots.min()}..{slots.max()}"
            )
        there = histories >= 0
        # From the latest item back, whatever the length.
        whole = np.cumsum(there[:, ::-1], axis=1)[:, ::-1] * there
        parts = [_spelled(ids, histories), slots, np.full((count, 1), _END)]
        spans = [np.repeat(whole, ids.shape[1], axis=1), 0 * slots, np.zeros((count, 1), np.int64)]
        if listed is not None:
            word = np.full((count, 1), self.vocabulary.encode(_NAMES[self.asked])[0])
            parts[1:1] = [word, _spelled(ids, listed)]
            after = self.config.max_history + 1 + np.arange(listed.shape[1])
            after = np.tile(np.repeat(after, ids.shape[1]), (count, 1))
            spans[1:1] = [0 * word, after]
        tokens, span = np.concatenate(parts, axis=1), np.concatenate(spans, axis=1)
        # Padding moves behind the text.
        order = np.argsort(tokens == _PAD, axis=1, kind="stable")
        lengths = (tokens != _PAD).sum(axis=1)
        at = lengths[:, None] - 1 - slots.shape[1] + np.arange(slots.shape[1])
        return _Text(
            np.take_along_axis(tokens, order, axis=1),
            np.take_along_axis(span, order, axis=1),
            lengths,
            at,
            _spelled(ids, histories[:, -1:])[:, -1],
        )

    def _vectors(self, what: str, given: Any, count: int) -> Tensor | None:
        """(B, n, d) float32, checked."""
        import torch

        if given is None:
            return None
        # A copy: an array of somebody else may change later.
        found = given if isinstance(given, torch.Tensor) else torch.tensor(given)
        d = self.config.dim
        if found.ndim != 3 or (len(found), found.shape[2]) != (count, d):
            raise InvalidOption(
                f"{what} of shape {tuple(found.shape)} came for {count} users; this T5 reads "
                f"({count}, n, {d})"
            )
        return found.to(torch.float32)

    def _likelihoods(
        self,
        text: _Text,
        vectors: Tensor | None = None,
        prefix: Tensor | None = None,
        candidates: Tensor | None = None,
        beams: int | None = None,
    ) -> Tensor:
        """(B, K); over all items by default."""
        import torch

        count, found, rows = len(text.lengths), [], []
        for part, hidden, mask, starts in self._encodings(text, vectors, prefix):
            some = None if candidates is None else candidates[part[np.arange(_ROWS) % len(part)]]
            if beams is None:
                scores = self._decoded(hidden, mask, starts)
            else:
                scores = self._reached(hidden, mask, starts, beams, some)
            found.append((scores if some is None else scores.gather(1, some))[: len(part)])
            rows.append(part)
        if not rows:
            return torch.zeros((count, self.num_items if candidates is None else 0))
        return torch.cat(found)[torch.from_numpy(np.concatenate(rows).argsort())]

    def _encodings(
        self, text: _Text, vectors: Tensor | None = None, prefix: Tensor | None = None
    ) -> Iterator[tuple[Ints, Tensor, Tensor, Tensor]]:
        """Yield rows, and states, mask and first decoder tokens of forward passes.

        All passes of a length have one shape: the first rows of a pass are those that are yielded,
        and the others repeat them.
        """
        import torch

        if vectors is not None and vectors.shape[1] != text.slots.shape[1]:
            raise InvalidOption(
                f"{vectors.shape[1]} vectors came for {text.slots.shape[1]} tokens: give one each"
            )
        places = -(-text.lengths // _PLACES) * _PLACES
        for length in np.unique(places).tolist():
            for part in np.split(
                (at := np.flatnonzero(places == length)), range(_ROWS, len(at), _ROWS)
            ):
                full = part[np.arange(_ROWS) % len(part)]
                hidden, mask = self._encoded(
                    text.part(full, length),
                    None if vectors is None else vectors[full],
                    None if prefix is None else prefix[full],
                )
                yield part, hidden, mask, torch.from_numpy(text.starts[full])

    def _continued(self, hidden: Tensor, mask: Tensor, starts: Tensor, begun: Tensor) -> Tensor:
        """(B, n, t + 1, V) log-probabilities of the tokens after beginnings (B, n, t)."""
        import torch

        count, many = begun.shape[:2]
        first = starts[:, None, None].expand(-1, many, 1)
        logits = self.module.t5(
            encoder_outputs=(hidden.repeat_interleave(many, 0),),
            attention_mask=mask.repeat_interleave(many, 0),
            decoder_input_ids=torch.cat([first, begun], dim=2).flatten(0, 1),
        ).logits
        found: Tensor = logits.log_softmax(dim=-1).view(count, many, begun.shape[2] + 1, -1)
        return found

    def _decoded(self, hidden: Tensor, mask: Tensor, starts: Tensor) -> Tensor:
        """(B, num_items) log-likelihoods."""
        import torch

        begun, of = map(torch.from_numpy, self._trie[-1])
        ids, steps = torch.from_numpy(self.vocabulary.ids), len(self._trie)
        logs = self._continued(hidden, mask, starts, begun.expand(len(hidden), -1, -1))
        total: Tensor = sum(
            (logs[:, of, step, ids[:, step]] for step in range(steps)),
            torch.zeros(len(hidden), len(ids)),
        )
        return total

    def _reached(
        self, hidden: Tensor, mask: Tensor, starts: Tensor, beams: int, allowed: Tensor | None
    ) -> Tensor:
        """(B, num_items) log-likelihoods by beam search; -inf where no beam arrives.

        Beginnings that no item of `allowed` (B, K) has are not continued; by default all are.
        """
        import torch

        ids, steps = self.vocabulary.ids, self.vocabulary.ids.shape[1]
        rows = torch.arange(len(hidden))[:, None]
        kept = torch.zeros((len(hidden), 1), dtype=torch.int64)
        value = torch.zeros((len(hidden), 1))
        for step, (begun, of) in enumerate(self._trie):
            logs = self._continued(hidden, mask, starts, torch.from_numpy(begun)[kept])[:, :, -1]
            # Nodes of the next depth: that of each item, and one item of each.
            node = self._trie[step + 1][1] if step + 1 < steps else np.arange(len(ids))
            item = np.unique(node, return_index=True)[1]
            place = torch.full((len(hidden), len(begun)), -1)
            place = place.scatter(1, kept, torch.arange(kept.shape[1]).expand_as(kept))
            place = place[:, torch.from_numpy(of[item])]
            at = place.clamp(min=0)
            found = value.gather(1, at) + logs[rows, at, torch.from_numpy(ids[item, step])]
            there = place >= 0
            if allowed is not None:
                some = torch.zeros_like(there).scatter(1, torch.from_numpy(node)[allowed], True)
                there = there & some
            found = found.masked_fill(~there, -torch.inf)
            if step + 1 < steps:
                value, kept = found.topk(min(beams, found.shape[1]), dim=1)
        return found

    def _encoded(
        self, text: _Text, vectors: Tensor | None, prefix: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the encoder's states and mask, the prefix in front."""
        import torch
        import torch.nn.functional as F

        tokens = torch.from_numpy(text.tokens)
        x = F.embedding(tokens, self.weights["t5.shared.weight"])
        if vectors is not None:
            at = torch.from_numpy(text.slots)[..., None].expand(vectors.shape)
            x = x.scatter(1, at, vectors)
        x = x + F.embedding(torch.from_numpy(text.spans), self.weights["whole.weight"])
        mask = (tokens != _PAD).long()
        if prefix is not None:
            x = torch.cat([prefix, x], dim=1)
            mask = F.pad(mask, (prefix.shape[1], 0), value=1)
        encoder = self.module.t5.encoder
        hidden: Tensor = encoder(inputs_embeds=x, attention_mask=mask)[0]
        return hidden, mask

    def loss(self, text: _Text, labels: Tensor) -> Tensor:
        """Return the mean over examples of the cross-entropy of tokens `labels` (B, J).

        -1 is in empty places, of which none may be the first. An example counts once, however many
        tokens it teaches.
        """
        import torch
        import torch.nn.functional as F

        t5 = self.module.t5
        hidden, mask = self._encoded(text, None, None)
        there = labels >= 0
        begun = torch.cat([torch.from_numpy(text.starts)[:, None], labels[:, :-1]], dim=1)
        states = t5.decoder(
            input_ids=begun.clamp(min=0), encoder_hidden_states=hidden, encoder_attention_mask=mask
        )[0]
        # Empty places get no logits, which are most of the cost of a large catalog.
        logits = t5.lm_head(states[there] * self.config.dim**-0.5)
        each = F.cross_entropy(logits, labels[there], reduction="none")
        shares = (1 / there.sum(dim=1, keepdim=True)).expand_as(there)[there]
        return (each * shares).sum() / len(labels)


@dataclass(frozen=True, eq=False)
class _Text:
    """Texts: tokens and whole-word places (B, L), lengths (B,), and places of slots (B, m).

    `starts` (B,) are the tokens that the decoder starts from.
    """

    tokens: Ints
    spans: Ints
    lengths: Ints
    slots: Ints
    starts: Ints

    def part(self, rows: Ints, length: int) -> _Text:
        """Return some texts, padded or cut to a length that all of them have at most."""
        short = max(0, length - self.tokens.shape[1])
        tokens, spans = (
            np.pad(a[rows, :length], ((0, 0), (0, short))) for a in (self.tokens, self.spans)
        )
        return _Text(tokens, spans, self.lengths[rows], self.slots[rows], self.starts[rows])


def _spelled(ids: Ints, items: Ints) -> Ints:
    """(B, L x T) the tokens of items (B, L), padding in empty places."""
    tokens = np.where(items[..., None] >= 0, ids[items], _PAD)
    return tokens.reshape(len(items), items.shape[1] * ids.shape[1])


def _module(config: Config, size: int) -> Any:
    """Make the network: transformers' T5, and the whole-word embeddings."""
    try:
        from torch import nn
        from transformers import T5Config, T5ForConditionalGeneration
    except ImportError as error:
        raise MissingExtra(f"{error.name}, which a T5 needs,", "transformers") from error
    module: Any = nn.Module()
    module.t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=size,
            d_model=config.dim,
            d_kv=config.dim // config.heads,
            d_ff=config.feed_forward,
            num_layers=config.layers,
            num_heads=config.heads,
            dropout_rate=config.dropout,
            pad_token_id=_PAD,
            eos_token_id=_END,
            decoder_start_token_id=_PAD,
            use_cache=False,
        )
    )
    module.whole = nn.Embedding(config.items_of_a_text + 1, config.dim)
    for table in (module.t5.shared, module.whole):
        nn.init.normal_(table.weight, std=_SPREAD)
    return module


# ----------------------------------------------------------------------------------- training


def train(
    dataset: Dataset,
    histories: Interactions,
    config: Config,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> T5:
    """Train a T5 on histories, and keep the epoch that is best on held-out clicks.

    As in `rpp_env.recommenders.sasrec.train`, the last items of a fifth of the users are held out,
    and are ranked among all items but those of the history after every epoch.

    Parameters
    ----------
    dataset : Dataset
        The catalog; no sequence of it is read.
    histories : Interactions
        Histories of the users to train on, without any target.
    config : Config
    seed : int
        Seed of first weights, examples, orders and dropout.
    checkpoint : str or Path, optional
        A file that is written after every epoch, and from which training resumes bit-identically.
    progress : callable, optional
        Called after every epoch.

    Raises
    ------
    InvalidOption
        If no user has two items or more besides the held-out ones.
    InvalidData
        For a checkpoint of other histories, another config or seed.
    TrainingDiverged
        If the loss is no longer finite.
    """
    training = Training(dataset, histories, config, seed=seed, checkpoint=checkpoint)
    while not training.done:
        row = training.epoch()
        if progress is not None:
            progress(row)
    return training.best


class Training(Stages[T5]):
    """The training loop of `train`, epoch by epoch; see there for the parameters."""

    def __init__(
        self,
        dataset: Dataset,
        histories: Interactions,
        config: Config,
        *,
        seed: int = 0,
        checkpoint: str | Path | None = None,
    ) -> None:
        self.config = config
        self.vocabulary = Vocabulary.of(dataset, histories, config.ids, config.tasks)
        numbers = {word: _WORDS + i for i, word in enumerate(self.vocabulary.words)}
        self._explainer, self._numbers = Explainer.of(dataset), numbers
        self._template = {numbers.get(word) for word in self._explainer.words}
        self._hints = [
            [numbers[word] for word in words if word in numbers] for words in _described(dataset)
        ]
        self._wordings = {
            task: [
                [
                    part if part.startswith("{") else self.vocabulary.encode(part)
                    for part in text.split()
                ]
                for text in WORDINGS[task]
            ]
            for task in config.tasks
        }
        super().__init__(
            "t5",
            histories,
            config,
            seed=seed,
            catalog=dataset.catalog_digest,
            checkpoint=checkpoint,
        )
        if not (np.diff(self.taught.indptr) >= 2).any():
            raise InvalidOption(
                "a T5 is trained on histories of two items or more, and there is none: give more "
                "users, or longer histories"
            )

    def initial(self) -> T5:
        """See `Stages`."""
        return T5.initial(self.config, self.vocabulary, self.catalog)

    def of(self, path: Path, tensors: Mapping[str, Tensor]) -> T5:
        """See `Stages`."""
        return T5.of(path, tensors, self.config, self.vocabulary, self.catalog)

    def copy(self, model: T5) -> T5:
        """See `Stages`."""
        return T5(self.config, self.vocabulary, copy.deepcopy(model.module), self.catalog)

    def make_optimizer(self, moments: Mapping[str, Mapping[str, Tensor]]) -> Optimizer:
        """See `Stages`."""
        import torch

        self.model.module.requires_grad_(True)
        weights = self.model.weights
        assert next(iter(weights)) == "t5.shared.weight"
        tokens, *others = weights.values()
        made = torch.optim.AdamW(
            [
                {"params": [tokens], "lr": self.config.embedding_rate},
                {"params": others, "lr": self.config.rate},
            ]
        )
        for name, kept in moments.items():
            made.state[weights[name]] = dict(kept)
        return made

    def learn(self, rng: np.random.Generator) -> float:
        """See `Stages`."""
        import torch

        total, steps = 0.0, 0
        self.model.module.train()
        for text, labels in self.batches(rng):
            self.optimizer.zero_grad()
            loss = self.model.loss(text, torch.from_numpy(labels))
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total, steps = total + loss.item(), steps + 1
        self.model.module.eval()
        if not np.isfinite(total):
            raise TrainingDiverged(
                f"the loss of T5 is no longer finite: lower its rate, {self.config.rate}"
            )
        return total / max(steps, 1)

    def judge(self) -> float:
        """See `Stages`."""
        import torch

        def scores(sequences: Tensor) -> NDArray[np.float32]:
            histories = sequences.numpy()
            with torch.inference_mode():
                found = self.model.likelihoods(histories, np.zeros((len(histories), 0), np.int64))
                return np.asarray(found.numpy())

        ranks = ranks_among_all(scores, self.taught, self.users, self.held, self.config.max_history)
        return float(ndcg(ranks, 10).mean())

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[_Text, Ints]]:
        """Yield texts and labels (B, J): `samples` examples of each user, in random order.

        Users with about as many clicks are in the same batches.

        Labels are the tokens of the answer, -1 in empty places.
        """
        lengths = np.diff(self.taught.indptr)
        users = rng.permutation(np.repeat(np.flatnonzero(lengths >= 2), self.config.samples))
        users = pooled(users, lengths, self.config.batch, _POOL, rng)
        for start in range(0, len(users), self.config.batch):
            some = users[start : start + self.config.batch]
            task = self.config.tasks[rng.integers(len(self.config.tasks))]
            ends = self.taught.indptr[some] + rng.integers(1, lengths[some])
            yield self._batch(task, some, ends, rng)

    def _batch(
        self, task: str, users: Ints, ends: Ints, rng: np.random.Generator
    ) -> tuple[_Text, Ints]:
        """Write a batch of examples: a random wording, and a random number of latest items."""
        ids = self.vocabulary.ids
        size = int(ids.shape[1])
        width = {"sequential": self.config.ahead * size, "explanation": _LONGEST}.get(task, size)
        labels = np.full((len(users), width), -1)
        rows: list[tuple[list[int], list[int]]] = []
        for row, (user, end) in enumerate(zip(users.tolist(), ends.tolist(), strict=True)):
            target = int(self.taught.items[end])
            past = self.taught.items[self.taught.indptr[user] : end].tolist()
            shown = past[-int(rng.integers(1, self.config.max_history + 1)) :]
            n = len(shown)
            parts = {"{history}": list(zip(shown, range(n, 0, -1), strict=True))}
            if task == "top-n":
                others = rng.integers(self.taught.num_items, size=self.config.negatives).tolist()
                listed = list(dict.fromkeys([target, *others]))
                mixed = [listed[i] for i in rng.permutation(len(listed))]
                parts["{candidates}"] = [
                    (item, self.config.max_history + 1 + i) for i, item in enumerate(mixed)
                ]
            hints = self._hints[target]
            if task == "explanation":
                parts["{item}"] = [(target, self.config.max_history + 1)]
                said = self._explainer.reference(shown, target).split()
                answer = [self._numbers[word] for word in said if word in self._numbers]
                hints = [token for token in answer if token not in self._template]
                answer = [*answer[: _LONGEST - 1], _END]
            many = int(rng.integers(1, _HINTS + 1))
            words = [hints[i] for i in rng.integers(len(hints), size=many)] if hints else []
            wordings = self._wordings[task]
            wording = wordings[int(rng.integers(len(wordings)))]
            if task != "explanation":
                # Words describe the first item alone.
                after = end + (1 if "{words}" in wording else width // size)
                after = min(after, int(self.taught.indptr[user + 1]))
                answer = ids[self.taught.items[end:after]].ravel().tolist()
            labels[row, : len(answer)] = answer
            rows.append(_written(wording, parts, words, ids))
        length = max(len(tokens) for tokens, _ in rows)
        tokens, spans = np.zeros((2, len(rows), length), np.int64)
        for i, (text, span) in enumerate(rows):
            tokens[i, : len(text)], spans[i, : len(span)] = text, span
        lengths = (tokens != _PAD).sum(axis=1)
        latest = self.taught.items[ends - 1][:, None].astype(np.int64)
        none = np.zeros((len(rows), 0), np.int64)
        starts = _spelled(self.vocabulary.ids, latest)[:, -1]
        longest = int((labels >= 0).sum(axis=1).max())
        return _Text(tokens, spans, lengths, none, starts), labels[:, :longest]


def _written(
    wording: Sequence[str | list[int]],
    items: Mapping[str, Sequence[tuple[int, int]]],
    words: Sequence[int],
    ids: Ints,
) -> tuple[list[int], list[int]]:
    """Write one text of items with their places: its tokens, and the place of each, or 0."""
    tokens: list[int] = []
    spans: list[int] = []
    for part in wording:
        if isinstance(part, str) and part != "{words}":
            for item, place in items[part]:
                tokens += ids[item].tolist()
                spans += [place] * ids.shape[1]
        else:
            tokens += words if isinstance(part, str) else part
            spans += [0] * (len(tokens) - len(spans))
    return [*tokens, _END], [*spans, 0]
