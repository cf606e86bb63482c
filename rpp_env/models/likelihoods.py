"""Log-probabilities of many continuations, with what they share read once.

Prompts and their continuations form a tree of tokens: candidates of one prompt share all of it, and
prompts with a common beginning share that. For transformers the tree is laid out as one sequence in
which every token attends only to its ancestors and has the position of its depth, so that one
forward pass gives the results of one pass per continuation. An engine with a prefix cache is asked
at each place of the tree where a continuation goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Branches", "Tree", "passes", "scores_alone", "scores_of"]

Branches = tuple[Sequence[int], Sequence[Sequence[int]]]
"""A prompt's tokens, and those of each of its continuations."""

ROWS = 256
"""Positions whose logits are converted to probabilities at a time."""


@dataclass
class Tree:
    """Prompts and continuations as a tree; node 0 has no parent, and parents precede children."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: list[list[list[int]]] = field(default_factory=list)
    """For each prompt and each of its continuations, the continuation's nodes."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> None:
        """Add a prompt (at least one token) with its continuations."""
        stem = self._walk(-1, prompt)[-1]
        self.paths.append([self._walk(stem, rest) for rest in continuations])

    def fresh(self, prompt: Sequence[int]) -> int:
        """Count a prompt's tokens that are not in the tree yet."""
        at = -1
        for i, token in enumerate(prompt):
            at = self._children.get((at, token), -2)
            if at == -2:
                return len(prompt) - i
        return 0

    def following(self) -> dict[int, list[int]]:
        """Return the nodes of continuations by the node that they follow, in rising order."""
        nodes = sorted({node for paths in self.paths for path in paths for node in path})
        found: dict[int, list[int]] = {}
        for node in nodes:
            found.setdefault(self.parents[node], []).append(node)
        return dict(sorted(found.items()))

    def text(self, node: int) -> list[int]:
        """Return the tokens from the beginning up to a node."""
        found = []
        while node >= 0:
            found.append(self.tokens[node])
            node = self.parents[node]
        return found[::-1]

    def sums(self, logprobs: Mapping[int, float]) -> list[list[float]]:
        """Add up the log-probabilities of each continuation's nodes, for each prompt."""
        return [[sum(logprobs[node] for node in path) for path in paths] for paths in self.paths]

    def _walk(self, at: int, tokens: Sequence[int]) -> list[int]:
        nodes = []
        for token in tokens:
            node = self._children.get((at, token))
            if node is None:
                node = len(self.tokens)
                self._children[at, token] = node
                self.tokens.append(token)
                self.parents.append(at)
                self.depths.append(0 if at < 0 else self.depths[at] + 1)
            nodes.append(node)
            at = node
        return nodes

    def attention(self) -> NDArray[np.bool_]:
        """(n, n): the tokens (columns) that each token (row) attends to: itself and ancestors."""
        sees = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node, :node] |= sees[parent, :node]
        return sees


def passes(
    branches: Sequence[Branches], most: int, ends: int, alone: bool = False
) -> Iterator[list[int]]:
    """Split prompts into groups for one pass each; prompts with a common beginning stay together.

    Parameters
    ----------
    branches : sequence of (prompt, continuations)
    most : int
        Maximum tokens of a pass; more only if a single prompt has more.
    ends : int
        Maximum tokens of continuations among them, likewise.
    alone : bool
        One prompt per pass, so that other requests change no bit of the result.
    """
    order = sorted(range(len(branches)), key=lambda i: tuple(branches[i][0]))
    group: list[int] = []
    tree, size, rests = Tree(), 0, 0
    for i in order:
        prompt, continuations = branches[i]
        more = sum(map(len, continuations))
        size, rests = size + tree.fresh(prompt) + more, rests + more
        if group and (alone or size > most or rests > ends):
            yield group
            group, tree, size, rests = [], Tree(), len(prompt) + more, more
        tree.add(prompt, ())
        group.append(i)
    if group:
        yield group


def scores_of(model: Any, tree: Tree, device: str) -> list[list[float]]:
    """Return each continuation's sum of token log-probabilities, for each prompt of the tree.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model of transformers.
    tree : Tree
    device : str
    """
    import torch

    following = tree.following()
    parents, nodes = list(following), [node for many in following.values() for node in many]
    places = [place for place, many in enumerate(following.values()) for _ in many]
    with torch.inference_mode():
        sees = torch.from_numpy(tree.attention()).to(device)
        mask = torch.zeros(sees.shape, dtype=model.dtype, device=device)
        mask.masked_fill_(~sees, torch.finfo(model.dtype).min)
        logits = model(
            input_ids=torch.tensor([tree.tokens], device=device),
            position_ids=torch.tensor([tree.depths], device=device),
            attention_mask=mask[None, None],
            use_cache=False,
            logits_to_keep=torch.tensor(parents, device=device),
        ).logits[0]
        given = torch.tensor(places, device=device)
        tokens = torch.tensor([tree.tokens[node] for node in nodes], device=device)
        norms = torch.cat([part.float().logsumexp(-1) for part in logits.split(ROWS)])
        found = (logits[given, tokens].float() - norms[given]).double().tolist()
    return tree.sums(dict(zip(nodes, found, strict=True)))


def scores_alone(model: Any, branches: Branches, device: str) -> list[float]:
    """Return the same sums for one prompt by brute force: one pass for each continuation."""
    import torch

    prompt, continuations = branches
    found = []
    for rest in continuations:
        ids = torch.tensor([[*prompt, *rest]], device=device)
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            logprobs = logits.float().log_softmax(-1)
        chosen = logprobs[torch.arange(len(rest)), torch.tensor(list(rest))]
        found.append(float(chosen.double().sum()))
    return found
