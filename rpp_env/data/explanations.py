"""Explanations of a choice, made by a template from genres and titles; metrics of generated texts.

Where there is no review, a text that explains why a user chose an item is made from what is known:
the latest item of the history that shares a genre with it (`Explainer.reference`). Such texts are
*template-made*: whoever knows the template scores high without knowing the user, so that
`Explainer.copied`, the template filled without a search in the history, is a baseline to print
beside every score.

The metrics are BLEU (Papineni et al., ACL 2002), without smoothing, and ROUGE (Lin, 2004), as
torchmetrics computes them, which is imported when a text is scored. Words are separated by blanks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.dataset import Dataset
from rpp_env.errors import InvalidOption, MissingExtra

__all__ = ["TEMPLATES", "Explainer", "plain", "surrogate", "text_scores"]

TEMPLATES = {
    "shared": "because you liked {title} which is {genre} too",
    "new": "it is {genre} and unlike what you chose before",
}
"""Texts for an item that shares a genre with one of the history, and for one that does not."""

_NO_GENRE = "different"


def plain(text: str) -> list[str]:
    """Return the words of a text in lower case, those of letters only."""
    return [word for word in text.lower().split() if word.isalpha()]


@dataclass(frozen=True)
class Explainer:
    """Texts about the items of a catalog.

    Attributes
    ----------
    titles : tuple of str
        The items' titles, as `plain` words.
    genres : tuple of tuples of str
        Their genres, as `plain` words.
    """

    titles: tuple[str, ...]
    genres: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, dataset: Dataset) -> Explainer:
        """Read titles and genres; no sequence is read."""
        genres = [(" ".join(plain(genre)) for genre in some) for some in dataset.genres]
        return cls(
            tuple(" ".join(plain(title)) for title in dataset.titles),
            tuple(tuple(genre for genre in some if genre) for some in genres),
        )

    @property
    def words(self) -> list[str]:
        """Words of the templates."""
        return plain(f"{' '.join(TEMPLATES.values())} {_NO_GENRE}")

    def reference(self, history: Sequence[int], item: int) -> str:
        """Explain a choice by the latest item that shares a genre with it.

        Parameters
        ----------
        history : sequence of int
            Item rows, the latest last.
        item : int
            Row of the item that was chosen.
        """
        for earlier in reversed(history):
            for genre in self.genres[item]:
                if genre in self.genres[earlier]:
                    return TEMPLATES["shared"].format(title=self.titles[earlier], genre=genre)
        return TEMPLATES["new"].format(genre=self._first(item))

    def copied(self, history: Sequence[int], item: int) -> str:
        """Fill the template with the latest title and the item's first genre: a baseline.

        The latest item need not have that genre.
        """
        if not len(history):
            return TEMPLATES["new"].format(genre=self._first(item))
        return TEMPLATES["shared"].format(title=self.titles[history[-1]], genre=self._first(item))

    def _first(self, item: int) -> str:
        return self.genres[item][0] if self.genres[item] else _NO_GENRE


def text_scores(found: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Compute BLEU-1, BLEU-4 and ROUGE-1, ROUGE-2, ROUGE-L of texts, in percent.

    Parameters
    ----------
    found, wanted : sequences of str
        Generated texts, and the reference of each.

    Returns
    -------
    dict of float
        BLEU of the corpus, and means over texts of ROUGE's F1; 0 to 100.

    Raises
    ------
    InvalidOption
        For another number of references than texts, and for none.
    MissingExtra
        Without torchmetrics.
    """
    bleu, rouge = _metrics(found, wanted)
    references = [[text] for text in wanted]
    scores = {f"BLEU-{n}": 100 * float(bleu(found, references, n_gram=n)) for n in (1, 4)}
    names = ("1", "2", "L")
    parts = rouge(found, wanted, rouge_keys=tuple(f"rouge{name}" for name in names))
    return scores | {f"ROUGE-{n}": 100 * float(parts[f"rouge{n}_fmeasure"]) for n in names}


def surrogate(found: Sequence[str], wanted: Sequence[str]) -> NDArray[np.float64]:
    """Compute PAP-REC's criterion of each text, BLEU-4 + 0.1 ROUGE-L in percent: 0 to 110.

    BLEU is that of the text alone, without smoothing: 0 where no four words in a row are right.

    Parameters
    ----------
    found, wanted : sequences of str
        See `text_scores`.

    Returns
    -------
    (B,) float64 array

    Raises
    ------
    InvalidOption, MissingExtra
        See `text_scores`.
    """
    bleu, rouge = _metrics(found, wanted)
    each = [
        float(bleu([text], [[own]]))
        + 0.1 * float(rouge(text, own, rouge_keys="rougeL")["rougeL_fmeasure"])
        for text, own in zip(found, wanted, strict=True)
    ]
    return 100 * np.array(each, np.float64)


def _metrics(found: Sequence[str], wanted: Sequence[str]) -> tuple[Any, Any]:
    """Check the texts, and import BLEU and ROUGE."""
    if len(found) != len(wanted) or not len(found):
        raise InvalidOption(
            f"{len(found)} texts came with {len(wanted)} references: give one each, and one or more"
        )
    try:
        from torchmetrics.functional.text import bleu_score, rouge_score
    except ImportError as error:
        raise MissingExtra("torchmetrics, which scores texts,", "explanation") from error
    return bleu_score, rouge_score
