"""Profiles: read from files, coded, selected, shuffled, and part of no digest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rpp_env.data import Dataset, Profiles, load_dataset
from rpp_env.data.profiles import AGES
from rpp_env.errors import InvalidData, InvalidOption, RPPWarning

INTER = "".join(f"{u}\t{i}\t5\t{i}\n" for u in "abcdef" for i in (1, 2))
HEAD = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"


def users(making, tmp_path: Path, body: str, head: str = HEAD) -> Dataset:
    return load_dataset(making.folder(tmp_path, INTER, user=head + body))


def test_a_file_of_users_is_read(making, tmp_path: Path) -> None:
    body = (
        "f\t56\tF\twriter\t94043\n"
        "a\t24\tM\twriter\t05461\n"
        "b\t\tM\tnone\tV3N4P\n"
        "c\t18\tF\t\t\n"
        "d\t1\t\tartist\t9\n"
        "e\t17.5\tNaN\tartist\tE2A4H\n"
        "z\t40\tM\tdoctor\t11111\n"
    )
    profiles = users(making, tmp_path, body).profiles
    assert profiles is not None
    assert profiles.fields == ("gender", "age", "occupation", "region")
    # Values are those of users with clicks; the order of rows is that of the clicks.
    assert profiles.values == (("F", "M"), AGES, ("artist", "writer"), ("0", "9"))
    assert profiles.codes.tolist() == [
        [2, 2, 2, 1],
        [2, 0, 0, 0],
        [1, 2, 0, 0],
        [0, 1, 1, 2],
        [0, 1, 1, 0],
        [1, 7, 2, 2],
    ]
    hot = profiles.one_hot()
    assert hot.shape == (6, profiles.width) == (6, 2 + 7 + 2 + 2)
    assert hot.sum(axis=1).tolist() == [4, 1, 2, 3, 2, 4]
    assert np.array_equal(profiles.one_hot([5, 0]), hot[[5, 0]])
    assert hot[0].tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0]


def test_ages_that_are_none_are_counted_and_missing(making, tmp_path: Path) -> None:
    ages = ("30", "old", "-3", "121", "0", "nan")
    body = "".join(f"{u}\t{age}\n" for u, age in zip("abcdef", ages, strict=True))
    with pytest.warns(RPPWarning, match=r"tiny\.user, column age: 4 values are no age .*'old'"):
        profiles = users(making, tmp_path, body, "user_id:token\tage:token\n").profiles
    assert profiles is not None
    assert profiles.codes[:, 0].tolist() == [3, 0, 0, 0, 0, 0]


def test_a_file_without_fields_has_no_profiles(making, tmp_path: Path) -> None:
    body = "".join(f"{u}\tA{u}\n" for u in "abcdef")
    assert users(making, tmp_path, body, "user_id:token\treviewer_id:token\n").profiles is None


def some() -> Profiles:
    codes = np.array([[1, 0], [2, 3], [0, 1], [1, 2]])
    return Profiles(("gender", "age"), (("F", "M"), ("a", "b", "c")), codes)


def test_fields_are_selected_by_name() -> None:
    chosen = some().select(["age"])
    assert (chosen.fields, chosen.width) == (("age",), 3)
    assert chosen.codes.tolist() == [[0], [3], [1], [2]]
    with pytest.raises(
        InvalidOption, match=r"profile field 'aeg' is not known; did you mean 'age'"
    ):
        some().select(["aeg"])


def test_shuffled_profiles_are_those_of_other_users() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(1, 401)[:, None]
    profiles = Profiles(("id",), (tuple(f"v{i}" for i in range(400)),), codes)
    chosen = np.sort(rng.permutation(400)[:100])
    mixed = profiles.shuffled(chosen, seed=1)
    rest = np.setdiff1d(np.arange(400), chosen)
    assert (mixed.codes[rest] == codes[rest]).all()
    assert (mixed.codes[chosen] != codes[chosen]).all()
    assert sorted(mixed.codes[chosen, 0]) == sorted(codes[chosen, 0])
    assert mixed.digest != profiles.digest
    assert profiles.shuffled(chosen, seed=1).digest == mixed.digest
    assert profiles.shuffled(chosen, seed=2).digest != mixed.digest


@pytest.mark.parametrize(
    "wrong",
    [
        {"codes": np.array([[3, 0]])},
        {"codes": np.array([[-1, 0]])},
        {"codes": np.array([1, 0])},
        {"codes": np.array([[1]])},
        {"fields": ("age", "age")},
        {"values": (("F", "M"),)},
    ],
)
def test_codes_that_mean_nothing_are_refused(wrong) -> None:
    with pytest.raises(InvalidData):
        replace(some(), **wrong)


def test_a_dataset_takes_one_profile_for_each_user(making) -> None:
    data = making.of([[0, 1], [1, 2], [2, 0], [0, 2]], 3)
    known = replace(data, profiles=some())
    assert known.digest == data.digest  # tables and tasks stay valid
    assert not known.profiles.codes.flags.writeable
    with pytest.raises(InvalidData, match="4 profiles for 5 users"):
        replace(making.of([[0, 1]] * 5, 3), profiles=some())


@pytest.mark.parametrize(
    ("name", "sizes", "missing"), [("ml-1m", (2, 7, 21, 10), 0), ("ml-100k", (2, 7, 20, 10), 27)]
)
def test_profiles_of_movielens(real, name: str, sizes: tuple[int, ...], missing: int) -> None:
    profiles = real(name).profiles
    assert profiles.fields == ("gender", "age", "occupation", "region")
    assert profiles.sizes == sizes
    assert (profiles.codes == 0).sum() == missing
