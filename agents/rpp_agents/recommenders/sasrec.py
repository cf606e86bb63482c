"""SASRec: self-attention over the items of a history (Kang and McAuley, ICDM 2018)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rpp_agents.policy import build, read_tensors, write_tensors
from rpp_agents.recommenders.base import (
    Patience,
    Progress,
    Vectors,
    earlier,
    keep_best,
    known,
    validation_ndcg,
    validation_tasks,
)
from rpp_env.data import Dataset, Interactions
from rpp_env.errors import InvalidData, InvalidOption

__all__ = ["Config", "SASRec", "SASRecScorer", "fit", "last_items"]


@dataclass(frozen=True, kw_only=True)
class Config(Patience):
    """SASRec's size and training.

    The loss is a choice of ours. On ml-100k it was ahead of the paper's own, ``"bce"``, after every
    one of the first six epochs: validation NDCG@10 0.436 against 0.425 after the sixth. The small
    batch is too: windows of 50 items make many steps an epoch, at no price on a CPU.
    """

    dim: int = 64
    """Width of items, positions and states."""
    blocks: int = 2
    """Blocks of self-attention and feed-forward network."""
    heads: int = 1
    """Heads of each self-attention; must divide `dim`."""
    max_length: int = 50
    """Latest items that a state can see."""
    dropout: float = 0.2
    """Of the embeddings and of what blocks add to them, as in the paper's formulas; attention
    weights are left alone, which the paper's code drops too."""
    loss: Literal["softmax", "bce"] = "softmax"
    """``"softmax"``: the next item against `negatives` random ones that the batch shares.
    ``"bce"``: the paper's, against one random item of its own."""
    negatives: int = 256
    """Random items that ``"softmax"`` compares with."""
    rate: float = 1e-3
    """Adam's learning rate."""
    batch: int = 32
    """Windows of histories per step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (self.dim, self.blocks, self.heads, self.max_length, self.negatives, self.batch)
        if min(sizes) < 1 or self.dim % self.heads or not 0 <= self.dropout < 1:
            raise InvalidOption(
                "sizes must be at least 1, heads must divide dim, and dropout must lie in [0, 1); "
                f"got {self}"
            )
        if self.loss not in ("softmax", "bce"):
            raise InvalidOption(f"loss must be softmax or bce, not {self.loss!r}")


class SASRec(nn.Module):
    """Items, their positions, and causal blocks on top; scores are products with the items.

    Sequences are (B, L) int64 tensors of item rows, the latest in the last column, -1 where there
    are none; L is at most `max_length`, and how many -1 stand in front makes no difference.

    Parameters
    ----------
    num_items : int
    config : Config
        Of which `dim`, `blocks`, `heads`, `max_length` and `dropout` are used.
    """

    def __init__(self, num_items: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(num_items, config.dim)
        self.positions = nn.Embedding(config.max_length, config.dim)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, sequences: Tensor) -> Tensor:
        """(B, L, d): the state after every item; it has seen that item and earlier ones."""
        length = sequences.shape[1]
        if length > self.config.max_length:
            raise InvalidOption(
                f"sequences have {length} columns; this SASRec sees the latest "
                f"{self.config.max_length}"
            )
        there = sequences >= 0
        # Scaled as in the paper's code, so that items outweigh positions.
        x = self.items(sequences.clamp(min=0)) * self.config.dim**0.5
        # The last position is always the latest item's.
        x = self.dropout(x + self.positions.weight[self.config.max_length - length :])
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        # Whoever stands on an empty place sees itself: a row without anything would be NaN.
        own = torch.eye(length, dtype=torch.bool, device=x.device)
        visible = (causal & there[:, None, :]) | own
        for block in self.blocks:
            x = block(x, visible[:, None])
        states: Tensor = self.norm(x)
        return states

    def encode(self, sequences: Tensor) -> Tensor:
        """(B, d): a vector per history, such that its product with an item's is the score."""
        vectors: Tensor = self(sequences)[:, -1]
        return vectors

    def save(self, path: str | Path) -> None:
        """Write the weights to one safetensors file, whole or not at all."""
        about = {"kind": "sasrec", "items": self.items.num_embeddings, **asdict(self.config)}
        write_tensors(path, self.state_dict(), about)

    @classmethod
    def load(cls, path: str | Path) -> SASRec:
        """Read what `save` wrote. Raises `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        if about.pop("kind", None) != "sasrec":
            raise InvalidData(f"{path} holds no SASRec")
        try:
            items = about.pop("items")
            module = build(lambda: cls(items, Config(**about)), tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InvalidData(f"{path} is of another version of rpp_agents: {error}") from error
        return module.eval()


class _Block(nn.Module):
    """Self-attention and a feed-forward network, each as ``x + dropout(g(norm(x)))``."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.dim
        self.heads = config.heads
        self.before, self.between = nn.LayerNorm(d), nn.LayerNorm(d)
        self.queries, self.keys, self.values = (nn.Linear(d, d) for _ in range(3))
        self.together = nn.Linear(d, d)
        self.network = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        shown = self.before(x)
        q, k, v = (
            part(shown).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.queries, self.keys, self.values)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + self.dropout(self.together(seen.transpose(1, 2).flatten(2)))
        mixed: Tensor = x + self.dropout(self.network(self.between(x)))
        return mixed


class SASRecScorer(Vectors):
    """Every user's history, read by a SASRec.

    Parameters
    ----------
    dataset : Dataset
        Its histories are read without their targets.
    module : SASRec
        Trained on these items.
    """

    def __init__(self, dataset: Dataset, module: SASRec) -> None:
        if module.items.num_embeddings != dataset.num_items:
            raise InvalidData(
                f"this SASRec knows {module.items.num_embeddings} items, {dataset.name} has "
                f"{dataset.num_items}"
            )
        self.module = module.eval()
        histories = known(dataset)
        length, vectors = module.config.max_length, []
        with torch.inference_mode():
            for start in range(0, dataset.num_users, 512):
                users = np.arange(start, min(start + 512, dataset.num_users))
                last = last_items(histories, users, histories.indptr[users + 1], length)
                vectors.append(module.encode(torch.from_numpy(last)).numpy())
        items = module.items.weight.detach().numpy().copy()
        super().__init__(dataset, np.concatenate(vectors), items)


def last_items(
    histories: Interactions, users: NDArray[np.int64], ends: NDArray[np.int64], length: int
) -> NDArray[np.int64]:
    """(n, L) item rows of users before places `ends` of ``histories.items``, -1 in front.

    L is `length`, or less where nobody has so many.
    """
    most = int((ends - histories.indptr[users]).max(initial=1))
    length = max(1, min(length, most))
    where = ends[:, None] - np.arange(length, 0, -1)
    there = where >= histories.indptr[users][:, None]
    return np.where(there, histories.items[np.where(there, where, 0)], -1).astype(np.int64)


def fit(
    dataset: Dataset, config: Config, seed: int = 0, progress: Progress | None = None
) -> SASRecScorer:
    """Train a SASRec on all histories without their targets; see `rpp_agents.recommenders.fit`.

    A history longer than `max_length` is cut into several windows, from its end, so that an epoch
    teaches every item of it once.
    """
    before = earlier(dataset)
    histories, tasks = known(before), validation_tasks(before)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = SASRec(dataset.num_items, config)
        state, best = keep_best(
            _epochs(module, histories, config, rng),
            lambda _: validation_ndcg(SASRecScorer(before, module), tasks),
            config,
            progress,
        )
    module.load_state_dict(state)
    scorer = SASRecScorer(dataset, module)
    scorer.validation = best
    return scorer


def _epochs(
    module: SASRec, histories: Interactions, config: Config, rng: np.random.Generator
) -> Iterator[dict[str, Tensor]]:
    users, ends = _windows(histories, config.max_length)
    optimizer = torch.optim.Adam(module.parameters(), lr=config.rate, betas=(0.9, 0.98))
    while True:
        module.train()
        order = rng.permutation(len(users))
        for start in range(0, len(order), config.batch):
            chosen = order[start : start + config.batch]
            window = last_items(histories, users[chosen], ends[chosen], config.max_length + 1)
            sequences = torch.from_numpy(window)
            optimizer.zero_grad()
            loss = _loss(module, sequences, config, rng)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield copy.deepcopy(module.state_dict())


def _windows(histories: Interactions, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users and ends of the windows of `length` + 1 items that together teach every item."""
    counts = np.diff(histories.indptr)
    # The first item of a history is nobody's next one.
    pieces = -(-np.maximum(counts - 1, 0) // length)
    users = np.repeat(np.arange(len(counts)), pieces)
    number = np.arange(len(users)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return users, histories.indptr[users + 1] - number * length


def _loss(module: SASRec, window: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    inputs, targets = window[:, :-1], window[:, 1:]
    real = (inputs >= 0) & (targets >= 0)
    states, targets = module(inputs)[real], targets[real]
    items = module.items.weight
    liked = (states * items[targets]).sum(dim=1)
    count = module.items.num_embeddings
    if config.loss == "bce":
        others = torch.from_numpy(rng.integers(count, size=len(targets)))
        against = (states * items[others]).sum(dim=1)
        # An item drawn against itself teaches nothing.
        fair = others != targets
        return F.softplus(-liked).mean() + F.softplus(against[fair]).sum() / len(targets)
    shared = torch.from_numpy(rng.integers(count, size=config.negatives))
    against = (states @ items[shared].T).masked_fill(shared == targets[:, None], -torch.inf)
    loss: Tensor = (torch.logaddexp(liked, against.logsumexp(dim=1)) - liked).mean()
    return loss
