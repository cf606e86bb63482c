"""Profiles: known properties of users besides their clicks; one code per field, 0 if unknown."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpp_env.errors import InvalidData, InvalidOption, RPPWarning
from rpp_env.options import unknown
from rpp_env.text import plain

__all__ = ["AGES", "Profiles", "read_profiles"]

AGES = ("under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56 and over")
"""Bands of ages: those of ml-1m, coded by the lowest age of each band."""

_FROM = (18, 25, 35, 45, 50, 56)
_OLDEST = 120
_MISSING = frozenset({"", "-", "?", "n/a", "na", "nan", "none", "null", "unknown"})


@dataclass(frozen=True, eq=False)
class Profiles:
    """Profiles of all users of a dataset.

    Attributes
    ----------
    fields : tuple of str
        Names of the fields, such as ``"gender"``.
    values : tuple of tuple of str
        Meanings of the codes 1, 2, ... of each field.
    codes : (num_users, m) int64 array
        A code per user and field; 0 where it is missing. Read-only.

    Raises
    ------
    InvalidData
        If shapes disagree, a code is out of range, or a field occurs twice.
    """

    fields: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    codes: NDArray[np.int64]

    def __post_init__(self) -> None:
        values = tuple(tuple(map(plain, names)) for names in self.values)
        object.__setattr__(self, "values", values)
        codes = np.array(self.codes, dtype=np.int64)
        codes.setflags(write=False)
        object.__setattr__(self, "codes", codes)
        if not len(self.fields) == len(values) == len(set(self.fields)):
            raise InvalidData("profiles need distinct fields, and a tuple of values for each")
        if codes.ndim != 2 or codes.shape[1] != len(self.fields):
            raise InvalidData(
                f"profiles need one code per user and field: (users, {len(self.fields)}), not "
                f"{codes.shape}"
            )
        if len(codes) and ((codes < 0) | (codes > np.array(self.sizes))).any():
            raise InvalidData("codes of profiles lie in 0 (missing) to the number of values")

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each field, without the missing one."""
        return tuple(map(len, self.values))

    @property
    def width(self) -> int:
        """Columns of `one_hot`."""
        return sum(self.sizes)

    def one_hot(self, users: ArrayLike | None = None) -> NDArray[np.float32]:
        """(n, width) float32: 1 for each known field's value; a missing field's columns are 0.

        Parameters
        ----------
        users : (n,) array of int, optional
            User rows; all users if left out.
        """
        codes = self.codes if users is None else self.codes[np.asarray(users, dtype=np.int64)]
        out = np.zeros((len(codes), self.width), dtype=np.float32)
        starts = np.concatenate([[0], np.cumsum(self.sizes)])[:-1].astype(np.int64)
        rows, columns = np.nonzero(codes)
        out[rows, starts[columns] + codes[rows, columns] - 1] = 1.0
        return out

    def select(self, fields: Sequence[str]) -> Profiles:
        """Return the profiles of the same users with these fields, in this order.

        Raises
        ------
        InvalidOption
            For an unknown field.
        """
        for name in fields:
            if name not in self.fields:
                raise InvalidOption(unknown("profile field", name, self.fields))
        columns = [self.fields.index(name) for name in fields]
        return Profiles(
            tuple(fields), tuple(self.values[i] for i in columns), self.codes[:, columns]
        )

    def shuffled(self, users: ArrayLike, seed: int = 0) -> Profiles:
        """Return a control: each of `users` gets another one's profile, if there are several.

        The users are put in a random order, and each gets the next one's profile. Profiles of
        all other users are unchanged.
        """
        rows = np.unique(np.asarray(users, dtype=np.int64))
        order = np.random.default_rng([seed, 0x5A0F]).permutation(rows)
        codes = self.codes.copy()
        codes[order] = self.codes[np.roll(order, -1)]
        return Profiles(self.fields, self.values, codes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of fields, values and codes."""
        sha = hashlib.sha256(repr((self.fields, self.values)).encode())
        sha.update(self.codes.astype("<i8").tobytes())
        return sha.hexdigest()


def read_profiles(
    table: Mapping[str, Sequence[str]], users: Sequence[str], source: str
) -> Profiles | None:
    """Read the profiles of `users` from a ``.user`` file's columns; None if it has none of them.

    ``gender`` and ``occupation`` are used unchanged, ``age`` in the bands of `AGES`, and of
    ``zip_code`` the first digit, which is a region of the USA: codes that begin with a letter are
    missing. An invalid age is missing too, and a warning counts them.

    Parameters
    ----------
    table : mapping of str to sequence of str
        Columns by name, with ``user_id``.
    users : sequence of str
        Tokens of the users, in the order of their rows. A user who is not in the file has all
        fields missing.
    source : str
        The file's name, for the warning.
    """
    rows = {token: row for row, token in enumerate(table["user_id"])}
    places = [rows.get(token, -1) for token in users]
    fields, values, codes = [], [], []
    for column, field, read in (
        ("gender", "gender", _as_it_is),
        ("age", "age", _age),
        ("occupation", "occupation", _as_it_is),
        ("zip_code", "region", _region),
    ):
        if column not in table:
            continue
        texts = [table[column][place].strip() if place >= 0 else "" for place in places]
        found = [None if text.lower() in _MISSING else read(text) for text in texts]
        wrong = [text for text, value in zip(texts, found, strict=True) if value == ""]
        if wrong:
            warnings.warn(
                f"{source}, column {column}: {len(wrong):,} values are no {field} (the first is "
                f"{plain(wrong[0])[:40]!r}) and count as missing",
                RPPWarning,
                stacklevel=2,
            )
        names = AGES if field == "age" else tuple(sorted({v for v in found if v}))
        numbers: dict[Any, int] = {name: i for i, name in enumerate(names, start=1)}
        fields.append(field)
        values.append(names)
        codes.append([numbers.get(value, 0) for value in found])
    if not fields:
        return None
    return Profiles(tuple(fields), tuple(values), np.array(codes, dtype=np.int64).T)


def _as_it_is(text: str) -> str:
    return plain(text)


def _age(text: str) -> str:
    """Return the band of an age; empty if the text is not an age."""
    try:
        age = float(text)
    except ValueError:
        return ""
    if not 0 < age <= _OLDEST:
        return ""
    return AGES[int(np.searchsorted(_FROM, age, side="right"))]


def _region(text: str) -> str | None:
    return text[0] if text[0] in "0123456789" else None
