"""A ranking task of one user, and a ranking that answers it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rpp_env.errors import InvalidTask

__all__ = ["Ranking", "RankingTask"]


@dataclass(frozen=True, slots=True)
class RankingTask:
    """One next-item ranking task: a user's history, the candidates and the true next item.

    Attributes
    ----------
    user : str
        The user's token in the dataset.
    history : tuple of str
        Titles in time order, oldest first, without the target; empty for a new user, for whom no
        sentence prompt can be made.
    candidates : tuple of str
        Distinct titles in the order in which the prompt shows them.
    target : str
        The title that the user chose next; one of `candidates`.
    domain : str
        Selects the sentences: ``"movies"``, ``"music"``, ``"games"`` or ``"products"``.

    Raises
    ------
    InvalidTask
        For repeated candidates, or a target outside the candidates.
    """

    user: str
    history: tuple[str, ...]
    candidates: tuple[str, ...]
    target: str
    domain: str = "movies"

    def __post_init__(self) -> None:
        if len(set(self.candidates)) != len(self.candidates):
            twice = sorted({c for c in self.candidates if self.candidates.count(c) > 1})
            raise InvalidTask(
                f"user {self.user!r}: candidates must differ, but {twice[0]!r} appears twice"
            )
        if self.target not in self.candidates:
            raise InvalidTask(
                f"user {self.user!r}: the target {self.target!r} is not among the "
                f"{len(self.candidates)} candidates"
            )

    @property
    def position(self) -> int:
        """0-based position of the target among the candidates as shown."""
        return self.candidates.index(self.target)


@dataclass(frozen=True, slots=True)
class Ranking:
    """An order over a task's candidates, and how many of them the recommender placed itself.

    Attributes
    ----------
    order : tuple of int
        A permutation of ``range(K)``, best first. The first `named` entries were placed by the
        recommender; the others follow in the order in which the candidates were shown.
    named : int
        How many candidates the recommender placed, 0 to K. The others earn no reward.
    text, prompt_tokens, completion_tokens, trimmed
        The reply, its cost, and the number of history items dropped so that the prompt fits. Not
        compared; empty or zero for recommenders that read no text.
    """

    order: tuple[int, ...]
    named: int
    text: str = field(default="", compare=False)
    prompt_tokens: int = field(default=0, compare=False)
    completion_tokens: int = field(default=0, compare=False)
    trimmed: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        count = len(self.order)
        if sorted(self.order) != list(range(count)):
            raise ValueError(f"order must be a permutation of 0..{count - 1}, not {self.order}")
        if not 0 <= self.named <= count:
            raise ValueError(f"named must lie in 0..{count}, not {self.named}")

    def rank(self, position: int) -> int:
        """Return the 1-based rank of the candidate at `position`; 0 if it was not named."""
        place = self.order.index(position)
        return place + 1 if place < self.named else 0
