"""The default recommender: trained once, cached, and trained again if damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from rpp_env.data import Dataset, Interactions, load_dataset, split_arrivals
from rpp_env.errors import RPPWarning
from rpp_env.recommenders.pretrained import SMALL, checkpoint_name, pretrained

TINY = replace(SMALL, dim=8, epochs=1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path))
    return tmp_path / "recommenders"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("arrivals", num_users=200, num_items=100)


@pytest.fixture(scope="module")
def histories(data: Dataset) -> Interactions:
    return split_arrivals(data).interactions(data)


def test_it_is_trained_once_and_kept(
    cache: Path, data: Dataset, histories: Interactions, capsys: Any
) -> None:
    first = pretrained(data, histories, TINY)
    said = capsys.readouterr().err
    assert "training a small SASRec on 160 warm users of arrivals, once" in said
    assert "epoch 1: NDCG@10" in said
    assert [path.name for path in cache.iterdir()] == [checkpoint_name(data, histories, TINY)]
    assert pretrained(data, histories, TINY).digest == first.digest
    assert capsys.readouterr().err == ""
    rows: list[Any] = []
    other = pretrained(data, histories, TINY, seed=1, progress=rows.append)
    assert len(rows) == 1
    assert other.digest != first.digest
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_file_is_made_again(cache: Path, data: Dataset, histories: Interactions) -> None:
    first = pretrained(data, histories, TINY, progress=lambda _: None)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    for content in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:50], b"nothing"):
        path.write_bytes(content)
        with pytest.warns(RPPWarning, match="made again"):
            again = pretrained(data, histories, TINY, progress=lambda _: None)
        assert again.digest == first.digest
        assert pretrained(data, histories, TINY).digest == first.digest


def test_where_nothing_can_be_written_it_is_trained_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Dataset, histories: Interactions
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path / "file"))
    with pytest.warns(RPPWarning, match="trained again next time"):
        model = pretrained(data, histories, TINY, progress=lambda _: None)
    assert model.num_items == 100


def test_checkpoint_names_differ_with_everything_that_determines_the_weights(
    data: Dataset, histories: Interactions
) -> None:
    items = histories.items.copy()
    items[5] = (items[5] + 1) % 100
    others = [
        (data, histories, TINY, 0),
        (data, histories, TINY, 1),
        (data, histories, replace(TINY, rate=1e-2), 0),
        (data, Interactions(histories.indptr, items, 100), TINY, 0),
        (replace(data, item_tokens=tuple(f"x{i}" for i in range(100))), histories, TINY, 0),
        (replace(data, name="../../etc"), histories, TINY, 0),
    ]
    names = [checkpoint_name(*given) for given in others]
    assert len(set(names)) == len(names)
    assert all("/" not in name and ".." not in name.removesuffix(".safetensors") for name in names)
    assert np.unique([name.count(".") for name in names]).tolist() == [1]


def test_the_generated_worlds_recommender_is_included(cache: Path, capsys: Any) -> None:
    """Weights of a generated world are shipped, and found by what decides them."""
    world = load_dataset("arrivals")
    model = pretrained(world, split_arrivals(world).interactions(world))
    assert capsys.readouterr().err == ""
    assert not cache.exists()
    assert model.catalog == world.catalog_digest
    assert model.config == SMALL
