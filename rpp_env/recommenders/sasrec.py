"""SASRec: self-attention over a history (Kang and McAuley, ICDM 2018), with a prompt prefix.

=============  ======================================================================
reads          `rpp_env.vectors.PrefixPrompts`: a prefix of n vectors, and a history
answers        scores, the products of the last state with the items' vectors
white box      scores are differentiable in the prefix
training       on histories alone: BPR, cross-entropy over all items, sampled softmax;
               with `CL4SRec` also a contrastive loss
=============  ======================================================================

A prefix comes before the history and has no position. Positions count backwards from the latest
item, so that a prefix does not move them. Items attend to the prefix and to earlier items; nothing
attends to later ones. The score uses the state at the latest item, or, without a history, at the
last vector of the prefix; a user with neither gets the score 0 for every item.

Ties go to the candidate that is shown first.

torch is imported when a recommender is made, never by importing this module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.candidates import TaskSet
from rpp_env.data.dataset import Dataset
from rpp_env.data.splits import Interactions
from rpp_env.data.tensors import compare, read_tensors, write_tensors
from rpp_env.errors import InvalidData, InvalidOption, TrainingDiverged
from rpp_env.metrics import ndcg
from rpp_env.prompting import Rankings
from rpp_env.recommenders.base import by_score, check_catalog
from rpp_env.recommenders.patience import Patience, Progress
from rpp_env.recommenders.stages import Stages, copied
from rpp_env.vectors import PrefixPrompts

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

__all__ = [
    "CL4SRec",
    "Config",
    "SASRec",
    "Training",
    "full_ranks",
    "last_items",
    "make_optimizer",
    "pooled",
    "ranks_among_all",
    "run_epoch",
    "train",
    "windows",
]

Loss = Literal["softmax", "bce", "bpr", "cross_entropy"]

_ROWS = 32
"""Fixed number of users in a forward pass when ranking: sums then have one order, and a result does
not depend on the other users of a call."""
_PLACES = 16
"""Histories are padded to a multiple of this many places, for the same reason."""


@dataclass(frozen=True, kw_only=True)
class Config(Patience):
    """SASRec's size and training.

    The default loss is our choice. On ml-100k it was better than the paper's own, ``"bce"``, after
    every one of the first six epochs: validation NDCG@10 0.436 against 0.425 after the sixth. So is
    the small batch: windows of 50 items make many steps per epoch, at no cost on a CPU.
    """

    dim: int = 64
    """Width of items, positions and states."""
    blocks: int = 2
    """Number of blocks of self-attention and feed-forward network."""
    heads: int = 1
    """Number of heads of each self-attention; must divide `dim`."""
    max_length: int = 50
    """Number of latest items that a state can attend to."""
    dropout: float = 0.2
    """Dropout of the embeddings and of the blocks' outputs, as in the paper's formulas; attention
    weights have none, unlike in the paper's code."""
    loss: Loss = "softmax"
    """``"softmax"``: the next item against `negatives` random ones that the batch shares.
    ``"cross_entropy"``: against all items. ``"bpr"``: against one random item, by the difference
    of both scores (PPR's). ``"bce"``: against one random item, each score by itself (SASRec's)."""
    negatives: int = 256
    """Number of random items for ``"softmax"``."""
    rate: float = 1e-3
    """Adam's learning rate."""
    batch: int = 32
    """Number of windows of histories per step."""
    pool: int = 1
    """Number of batches that are drawn together and sorted by length, which saves padding if
    histories differ in length; the batches of a pool then come in random order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("dim", "blocks", "heads", "max_length", "negatives", "batch", "pool")
        if (
            min(getattr(self, name) for name in names) < 1
            or self.dim % self.heads
            or not 0 <= self.dropout < 1
        ):
            raise InvalidOption(
                "sizes must be at least 1, heads must divide dim, and dropout must lie in [0, 1); "
                f"got {self}"
            )
        if self.loss not in get_args(Loss):
            raise InvalidOption(f"loss must be {', '.join(get_args(Loss))}, not {self.loss!r}")


@dataclass(frozen=True, kw_only=True)
class CL4SRec(Config):
    """A SASRec that is also trained to tell histories apart (Xie et al., ICDE 2022).

    Two augmented views of every window are encoded, each by one of three operators drawn at random.
    InfoNCE over inner products then has to find a view's partner among all other views of the
    batch (their equation 4); the loss is added to that of the next items (equation 3).
    """

    contrastive: float = 0.1
    """Weight of the contrastive loss; their lambda."""
    temperature: float = 1.0
    """Divisor of the inner products."""
    crop: float = 0.6
    """Share of the items that a crop keeps, in one piece; their eta."""
    mask: float = 0.3
    """Share of the items that a mask hides; their gamma. The latest item is never hidden, because
    the vector is the state there."""
    reorder: float = 0.6
    """Share of the items, in one piece, that are shuffled; their beta."""

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = (self.crop, self.mask, self.reorder)
        if (
            self.contrastive < 0
            or self.temperature <= 0
            or not 0 <= min(shares) <= max(shares) <= 1
        ):
            raise InvalidOption(
                "contrastive must be at least 0, temperature above 0, and crop, mask and reorder "
                f"shares in [0, 1]; got {self}"
            )


class SASRec:
    """A SASRec model; none of its methods changes a weight.

    Sequences are (B, L) int64 tensors of item rows, the latest in the last column, -1 in empty
    places; L is at most `max_length`, and the number of leading -1 makes no difference.

    Parameters
    ----------
    config : Config
    weights : mapping of str to Tensor
        Weights made by `initial` or read by `load`.
    catalog : str
        The digest of the catalog that the item rows belong to (`Dataset.catalog_digest`); empty if
        unknown, and then it is not compared.

    Attributes
    ----------
    validation : float
        NDCG@10 of the held-out clicks by which `train` chose the epoch; otherwise NaN.
    """

    reads = PrefixPrompts

    def __init__(self, config: Config, weights: Mapping[str, Tensor], catalog: str = "") -> None:
        self.config = config
        self.weights = dict(weights)
        self.catalog = catalog
        self.validation = float("nan")

    @classmethod
    def initial(cls, num_items: int, config: Config, catalog: str = "") -> SASRec:
        """Make an untrained SASRec, with weights drawn from torch's global generator."""
        import torch
        from torch import nn

        d = config.dim
        weights: dict[str, Tensor] = {}

        def add(name: str, module: nn.Module) -> None:
            weights.update(
                {f"{name}.{part}": value.detach() for part, value in module.named_parameters()}
            )

        add("items", nn.Embedding(num_items, d))
        add("positions", nn.Embedding(config.max_length, d))
        for block in range(config.blocks):
            for name in _NORMS:
                add(f"blocks.{block}.{name}", nn.LayerNorm(d))
            for name in _LINEAR:
                add(f"blocks.{block}.{name}", nn.Linear(d, d))
        add("norm", nn.LayerNorm(d))
        for name in ("items.weight", "positions.weight"):
            torch.nn.init.normal_(weights[name], std=0.02)
        return cls(config, weights, catalog)

    @property
    def num_items(self) -> int:
        """Number of items in the catalog."""
        return len(self.weights["items.weight"])

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of size and weights."""
        sha = hashlib.sha256(repr(self.config).encode())
        for name, tensor in sorted(self.weights.items()):
            sha.update(f"{name} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def states(
        self, sequences: Tensor, prefix: Tensor | None = None, *, training: bool = False
    ) -> Tensor:
        """(B, n + L, d): the state at every place, from that place and those before it.

        Parameters
        ----------
        sequences : (B, L) int64 Tensor
        prefix : (B, n, d) or (B, blocks, n, d) Tensor, optional
            Vectors of the width of an item's input, which is its vector times the root of d. With
            an axis of blocks, each block reads its own; what the one below made of them is dropped.
        training : bool
            Whether to apply dropout, drawn from torch's global generator.
        """
        import torch
        import torch.nn.functional as F

        config, length = self.config, sequences.shape[1]
        if length > config.max_length:
            raise InvalidOption(
                f"sequences have {length} columns; this SASRec sees the latest {config.max_length}"
            )
        there = sequences >= 0
        # Scaled as in the paper's code, so that items outweigh positions.
        x = F.embedding(sequences.clamp(min=0), self.weights["items.weight"]) * config.dim**0.5
        # The last position is always the latest item's.
        x = x + self.weights["positions.weight"][config.max_length - length :]
        x = self._dropped(x, training)
        deep = None if prefix is None else self._deep(prefix, len(sequences))
        n = 0 if deep is None else deep.shape[2]
        if deep is not None and n:
            x = torch.cat([deep[:, 0], x], dim=1)
            there = F.pad(there, (n, 0), value=True)
        causal = torch.ones(n + length, n + length, dtype=torch.bool, device=x.device).tril()
        # An empty place attends to itself: an empty row of attention would be NaN.
        own = torch.eye(n + length, dtype=torch.bool, device=x.device)
        visible = ((causal & there[:, None, :]) | own)[:, None]
        for block in range(config.blocks):
            if deep is not None and n and block:
                x = torch.cat([deep[:, block], x[:, n:]], dim=1) if deep.shape[1] > 1 else x
            x = self._block(block, x, visible, training)
        return self._norm("norm", x)

    def encode(self, sequences: Tensor, prefix: Tensor | None = None) -> Tensor:
        """(B, d): a vector per history, such that its product with an item's is the score."""
        import torch

        states = self.states(sequences, prefix)
        empty = sequences[:, -1] < 0
        n = states.shape[1] - sequences.shape[1]
        alone = states[:, n - 1] if n else torch.zeros_like(states[:, -1])
        return torch.where(empty[:, None], alone, states[:, -1])

    def scores(self, prompts: PrefixPrompts) -> Tensor:
        """(B, K) scores of the candidates, differentiable in the prefix.

        Raises
        ------
        InvalidOption
            For a prefix of another shape than this SASRec reads.
        InvalidData
            For tasks of another catalog.
        """
        import torch

        tasks = prompts.tasks
        self.check(tasks.dataset)
        prefix = prompts.prefix
        if prefix is not None:
            # A copy: an array of somebody else may change later.
            prefix = prefix if isinstance(prefix, torch.Tensor) else torch.tensor(prefix)
            prefix = self._deep(prefix.to(torch.float32), len(tasks))
        histories = torch.from_numpy(tasks.padded_history(self.config.max_length).astype(np.int64))
        candidates = torch.from_numpy(tasks.candidates.astype(np.int64))
        vectors = self._vectors(histories, prefix)
        if prompts.shift is not None:
            vectors = vectors + self._shift(prompts.shift, len(tasks))
        parts = [
            _full(vectors[start : start + _ROWS]) @ self.weights["items.weight"].T
            for start in range(0, len(tasks), _ROWS)
        ]
        if not parts:
            return torch.zeros(candidates.shape)
        return torch.cat(parts)[: len(tasks)].gather(1, candidates)

    def rank(self, prompts: PrefixPrompts) -> Rankings:
        """Rank the candidates of every prompt by score; of equals, the one shown first."""
        import torch

        with torch.inference_mode():
            return by_score(self.scores(prompts).numpy())

    def read(self, tasks: TaskSet) -> NDArray[np.float32]:
        """(T, d): the states after the histories, without a prefix; 0 for empty histories."""
        import torch

        histories = tasks.padded_history(self.config.max_length).astype(np.int64)
        with torch.inference_mode():
            vectors = self._vectors(torch.from_numpy(histories), None)
        return np.asarray(vectors.numpy(), dtype=np.float32)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the inputs of items, (..., d), which have the scale of prefix vectors."""
        inputs: Tensor = self.weights["items.weight"][ids] * self.config.dim**0.5
        return inputs

    def check(self, dataset: Dataset) -> None:
        """Check that a dataset's items are those that this SASRec was trained on.

        Raises
        ------
        InvalidData
        """
        check_catalog("SASRec", self.num_items, self.catalog, dataset)

    def save(self, path: str | Path) -> None:
        """Write size and weights to one safetensors file, atomically."""
        about = {
            "kind": "sasrec",
            "items": self.num_items,
            "catalog": self.catalog,
            **asdict(self.config),
        }
        write_tensors(path, self.weights, about)

    @classmethod
    def load(cls, path: str | Path) -> SASRec:
        """Read a file that `save` wrote; `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        if about.pop("kind", None) != "sasrec":
            raise InvalidData(f"{path} holds no SASRec")
        return cls.of(path, tensors, about)

    @classmethod
    def of(cls, path: str | Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> SASRec:
        """Make a SASRec from a file's tensors and description, checking both."""
        import torch

        try:
            items, catalog = about.pop("items"), about.pop("catalog", "")
            config = (CL4SRec if "contrastive" in about else Config)(**about)
            with torch.device("meta"):
                plan = cls.initial(items, config).weights
            compare(plan, tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InvalidData(f"{path} is of another version of rpp_env: {error}") from error
        return cls(config, tensors, str(catalog))

    # ------------------------------------------------------------------------------- inside

    def _deep(self, prefix: Tensor, count: int) -> Tensor:
        """(B, 1 or blocks, n, d), checked."""
        d, blocks = self.config.dim, self.config.blocks
        deep = prefix[:, None] if prefix.ndim == 3 else prefix
        good = (count, 1, d), (count, blocks, d)
        if deep.ndim != 4 or (len(deep), deep.shape[1], deep.shape[3]) not in good:
            raise InvalidOption(
                f"a prefix of shape {tuple(prefix.shape)} came for {count} users; this SASRec "
                f"reads ({count}, n, {d}), or ({count}, {blocks}, n, {d}) for one prefix a block"
            )
        return deep

    def _shift(self, shift: Tensor | NDArray[Any], count: int) -> Tensor:
        """(B, d), checked."""
        import torch

        given = shift if isinstance(shift, torch.Tensor) else torch.tensor(shift)
        if given.shape != (count, self.config.dim):
            raise InvalidOption(
                f"a shift of shape {tuple(given.shape)} came for {count} users; this SASRec adds "
                f"({count}, {self.config.dim}) to its users' vectors"
            )
        return given.to(torch.float32)

    def _vectors(self, histories: Tensor, prefix: Tensor | None) -> Tensor:
        """(B, d): as `encode`, in forward passes of one shape for each length."""
        import torch

        lengths = (histories >= 0).sum(dim=1)
        most = histories.shape[1]
        # A history of nothing needs no places but the one that `encode` looks at.
        places = ((lengths + _PLACES - 1) // _PLACES * _PLACES).clamp(1, most)
        vectors, rows = [], []
        for length in np.unique(places.numpy()).tolist():
            chosen = (places == length).nonzero()[:, 0]
            for part in chosen.split(_ROWS):
                given = None if prefix is None else _full(prefix[part])
                sequences = _full(histories[part, most - length :])
                vectors.append(self.encode(sequences, given)[: len(part)])
                rows.append(part)
        if not rows:
            return torch.zeros(0, self.config.dim)
        return torch.cat(vectors)[torch.cat(rows).argsort()]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        import torch.nn.functional as F

        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, (self.config.dim,), weight, bias)

    def _block(self, number: int, x: Tensor, visible: Tensor, training: bool) -> Tensor:
        """Self-attention and a feed-forward network, each as ``x + dropout(g(norm(x)))``."""
        import torch.nn.functional as F

        at, config = f"blocks.{number}", self.config
        shown = self._norm(f"{at}.before", x)
        apart = (*x.shape[:2], config.heads, config.dim // config.heads)
        q, k, v = (
            self._linear(f"{at}.{part}", shown).view(apart).transpose(1, 2)
            for part in ("queries", "keys", "values")
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        seen = self._linear(f"{at}.together", seen.transpose(1, 2).flatten(2))
        x = x + self._dropped(seen, training)
        hidden = F.relu(self._linear(f"{at}.network.0", self._norm(f"{at}.between", x)))
        mixed = self._linear(f"{at}.network.2", hidden)
        return x + self._dropped(mixed, training)

    def _dropped(self, x: Tensor, training: bool) -> Tensor:
        """Apply dropout; without training, even a call that changes nothing would take time."""
        import torch.nn.functional as F

        return F.dropout(x, self.config.dropout) if training else x


_NORMS = ("before", "between")
_LINEAR = ("queries", "keys", "values", "together", "network.0", "network.2")


def _full(rows: Tensor) -> Tensor:
    """Rows repeated up to `_ROWS`."""
    import torch

    short = _ROWS - len(rows)
    return rows if short <= 0 else torch.cat([rows, rows[:1].expand(short, *rows.shape[1:])])


# ----------------------------------------------------------------------------------- training


def train(
    histories: Interactions,
    config: Config,
    *,
    seed: int = 0,
    catalog: str = "",
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> SASRec:
    """Train a SASRec on histories, and keep the epoch that is best on held-out clicks.

    The last items of a fifth of the users, of 2,000 at most, are held out; the rest is trained on.
    After every epoch the held-out items are ranked among all items but those of the user's history.
    The held-out items are not used for a final fit.

    Parameters
    ----------
    histories : Interactions
        Histories of the users to train on, without any target: `training_interactions`.
    config : Config
    seed : int
        Seed of first weights, samples, orders and dropout.
    catalog : str
        `Dataset.catalog_digest`, stored in the SASRec for later checks.
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
    training = Training(histories, config, seed=seed, catalog=catalog, checkpoint=checkpoint)
    while not training.done:
        row = training.epoch()
        if progress is not None:
            progress(row)
    return training.best


class Training(Stages[SASRec]):
    """The training loop of `train`, epoch by epoch; see there for the parameters."""

    def __init__(
        self,
        histories: Interactions,
        config: Config,
        *,
        seed: int = 0,
        catalog: str = "",
        checkpoint: str | Path | None = None,
    ) -> None:
        self.config, self.num_items = config, histories.num_items
        super().__init__(
            "sasrec", histories, config, seed=seed, catalog=catalog, checkpoint=checkpoint
        )
        if not (np.diff(self.taught.indptr) >= 2).any():
            raise InvalidOption(
                "SASRec is trained on histories of two items or more, and there is none: give more "
                "users, or longer histories"
            )

    def initial(self) -> SASRec:
        """See `Stages`."""
        return SASRec.initial(self.num_items, self.config, self.catalog)

    def of(self, path: Path, tensors: Mapping[str, Tensor]) -> SASRec:
        """See `Stages`."""
        size = {"items": self.num_items, "catalog": self.catalog}
        return SASRec.of(path, tensors, {**asdict(self.config), **size})

    def copy(self, model: SASRec) -> SASRec:
        """See `Stages`."""
        return SASRec(self.config, copied(model.weights), model.catalog)

    def make_optimizer(self, moments: Mapping[str, Mapping[str, Tensor]]) -> Optimizer:
        """See `Stages`."""
        return make_optimizer(self.model, moments)

    def learn(self, rng: np.random.Generator) -> float:
        """See `Stages`."""
        return run_epoch(self.model, self.optimizer, self.taught, rng)

    def judge(self) -> float:
        """See `Stages`."""
        ranks = full_ranks(self.model, self.taught, self.users, self.held)
        return float(ndcg(ranks, 10).mean())


def make_optimizer(
    model: SASRec, moments: Mapping[str, Mapping[str, Tensor]] | None = None
) -> Optimizer:
    """Make an Adam optimizer over all weights, and enable their gradients."""
    import torch

    for tensor in model.weights.values():
        tensor.requires_grad_(True)
    rate = model.config.rate
    optimizer = torch.optim.Adam(model.weights.values(), lr=rate, betas=(0.9, 0.98))
    for name, kept in (moments or {}).items():
        optimizer.state[model.weights[name]] = dict(kept)
    return optimizer


def full_ranks(
    model: SASRec,
    histories: Interactions,
    users: NDArray[np.int64],
    targets: NDArray[np.int32],
    *,
    seen: Literal["drop", "keep"] = "drop",
) -> NDArray[np.int64]:
    """(n,) int64: ranks, from 1, of targets among all items of the catalog.

    Ties go to the item with the lower row.

    Parameters
    ----------
    model : SASRec
    histories : Interactions
        Histories to read before each target.
    users : (n,) int64 array
        The users of the targets.
    targets : (n,) int32 array
        Item rows.
    seen : {"drop", "keep"}
        Whether items of the user's history are ranked with the others.
    """
    import torch

    items = model.weights["items.weight"].detach()

    def scores(sequences: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray((model.encode(sequences) @ items.T).numpy())

    return ranks_among_all(scores, histories, users, targets, model.config.max_length, seen=seen)


def ranks_among_all(
    scores: Callable[[Tensor], NDArray[np.float32]],
    histories: Interactions,
    users: NDArray[np.int64],
    targets: NDArray[np.int32],
    length: int,
    *,
    seen: Literal["drop", "keep"] = "drop",
) -> NDArray[np.int64]:
    """Rank targets among all items as `full_ranks` does, by any scores.

    Parameters
    ----------
    scores : callable
        Takes sequences (B, L) as `last_items` makes them, and returns (B, num_items) scores.
    histories, users, targets, seen
        See `full_ranks`.
    length : int
        Number of latest items that are read.
    """
    import torch

    ranks = np.zeros(len(users), dtype=np.int64)
    # Users with histories of similar length together, to save padding.
    order = np.argsort(np.diff(histories.indptr)[users], kind="stable")
    for start in range(0, len(order), 256):
        rows = order[start : start + 256]
        some, wanted = users[rows], targets[rows].astype(np.int64)
        ends = histories.indptr[some + 1]
        found = scores(torch.from_numpy(last_items(histories, some, ends, length)))
        own = found[np.arange(len(rows)), wanted]
        if seen == "drop":
            lengths = ends - histories.indptr[some]
            where = np.repeat(np.arange(len(rows)), lengths)
            begin = np.repeat(histories.indptr[some] - np.cumsum(lengths) + lengths, lengths)
            found[where, histories.items[begin + np.arange(len(where))]] = -np.inf
        better = (found > own[:, None]).sum(axis=1)
        tied = found == own[:, None]
        tied &= np.arange(found.shape[1]) < wanted[:, None]
        ranks[rows] = 1 + better + tied.sum(axis=1)
    return ranks


def last_items(
    histories: Interactions, users: NDArray[np.int64], ends: NDArray[np.int64], length: int
) -> NDArray[np.int64]:
    """(n, L) item rows of users before indices `ends` of ``histories.items``, -1 in front.

    L is `length`, or less if no history is that long.
    """
    most = int((ends - histories.indptr[users]).max(initial=1))
    length = max(1, min(length, most))
    where = ends[:, None] - np.arange(length, 0, -1)
    there = where >= histories.indptr[users][:, None]
    return np.where(there, histories.items[np.where(there, where, 0)], -1).astype(np.int64)


def run_epoch(
    model: SASRec, optimizer: Optimizer, histories: Interactions, rng: np.random.Generator
) -> float:
    """Train for one epoch, over all histories in random order; returns the mean loss.

    A history longer than `max_length` is cut into several windows, from its end, so that an epoch
    teaches every item of it once.
    """
    total, steps = 0.0, 0
    for window in _batches(histories, model.config, rng):
        optimizer.zero_grad()
        loss = _loss(model, window, rng)
        if isinstance(model.config, CL4SRec):
            loss = loss + model.config.contrastive * _contrast(model, model.config, window, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total, steps = total + loss.item(), steps + 1
    if not np.isfinite(total):
        raise TrainingDiverged(
            f"the loss of SASRec is no longer finite: lower its rate, {model.config.rate}"
        )
    return total / max(steps, 1)


def _batches(histories: Interactions, config: Config, rng: np.random.Generator) -> Iterator[Tensor]:
    """(B, L + 1) int64 windows of histories, in random order."""
    import torch

    users, ends = windows(histories, config.max_length)
    order = rng.permutation(len(users))
    if config.pool > 1:
        lengths = np.minimum(ends - histories.indptr[users], config.max_length)
        order = pooled(order, lengths, config.batch, config.pool, rng)
    for start in range(0, len(order), config.batch):
        chosen = order[start : start + config.batch]
        yield torch.from_numpy(
            last_items(histories, users[chosen], ends[chosen], config.max_length + 1)
        )


def pooled(
    order: NDArray[np.int64],
    lengths: NDArray[np.int64],
    batch: int,
    pool: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Reorder examples so that those of similar length are in the same batches of `batch`.

    Parameters
    ----------
    order : (n,) int64 array
        Indices of `lengths`, in random order.
    lengths : (N,) int64 array
    batch, pool : int
        Examples of a batch; batches that are sorted together, which then come in random order.
    rng : numpy.random.Generator
    """
    size, batches = batch * pool, []
    for start in range(0, len(order), size):
        part = order[start : start + size]
        part = part[np.argsort(lengths[part], kind="stable")]
        # The batch that may be smaller stays last.
        full = len(part) // batch * batch
        whole = np.split(part[:full], full // batch) if full else []
        batches += [whole[i] for i in rng.permutation(len(whole))] + [part[full:]]
    return np.concatenate(batches)


def windows(histories: Interactions, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return users and ends of windows of `length` + 1 items that cover every item once."""
    counts = np.diff(histories.indptr)
    # The first item of a history has no item before it.
    pieces = -(-np.maximum(counts - 1, 0) // length)
    users = np.repeat(np.arange(len(counts)), pieces)
    number = np.arange(len(users)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return users, histories.indptr[users + 1] - number * length


def _loss(model: SASRec, window: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the mean loss over every next item in the windows."""
    import torch
    import torch.nn.functional as F

    config, items = model.config, model.weights["items.weight"]
    inputs, targets = window[:, :-1], window[:, 1:]
    real = (inputs >= 0) & (targets >= 0)
    states, targets = model.states(inputs, training=True)[real], targets[real]
    if config.loss == "cross_entropy":
        return F.cross_entropy(states @ items.T, targets)
    liked = (states * items[targets]).sum(dim=1)
    count = model.num_items
    if config.loss in ("bce", "bpr"):
        others = torch.from_numpy(rng.integers(count, size=len(targets)))
        against = (states * items[others]).sum(dim=1)
        # A negative equal to the positive has no gradient.
        fair = others != targets
        if config.loss == "bpr":
            return F.softplus(against - liked)[fair].sum() / len(targets)
        return F.softplus(-liked).mean() + F.softplus(against[fair]).sum() / len(targets)
    shared = torch.from_numpy(rng.integers(count, size=config.negatives))
    against = (states @ items[shared].T).masked_fill(shared == targets[:, None], -torch.inf)
    return (torch.logaddexp(liked, against.logsumexp(dim=1)) - liked).mean()


def _contrast(model: SASRec, config: CL4SRec, window: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the mean loss of finding a view's partner among all views of a batch."""
    import torch
    import torch.nn.functional as F

    length = window.shape[1] - 1
    histories = [row[row >= 0] for row in window[:, 1:].numpy()]
    views = np.full((2 * len(histories), length), -1, dtype=np.int64)
    for at in range(len(views)):
        view = _view(histories[at % len(histories)], config, rng)
        views[at, length - len(view) :] = view
    vectors = model.states(torch.from_numpy(views), training=True)[:, -1]
    alike = vectors @ vectors.T / config.temperature
    alike = alike.masked_fill(torch.eye(len(views), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(alike, torch.arange(len(views)).roll(len(histories)))


def _view(items: NDArray[np.int64], config: CL4SRec, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a history of one item or more, cropped, masked (-1) or reordered."""
    operator, share = (("crop", config.crop), ("mask", config.mask), ("reorder", config.reorder))[
        rng.integers(3)
    ]
    if operator == "mask":
        hidden = rng.random(len(items)) < share
        hidden[-1] = False
        return np.where(hidden, -1, items)
    size = max(1, int(share * len(items)))
    start = int(rng.integers(len(items) - size + 1))
    piece = items[start : start + size]
    if operator == "crop":
        return piece
    return np.concatenate([items[:start], rng.permutation(piece), items[start + size :]])
