"""A frozen SASRec with a prefix: gradients, batches, padding, files, and training data."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rpp_env.data import (  # noqa: E402
    Dataset,
    Interactions,
    TaskSet,
    load_dataset,
    make_tasks,
    split_users,
    training_interactions,
)
from rpp_env.data.tensors import read_tensors, write_tensors  # noqa: E402
from rpp_env.errors import InvalidData, InvalidOption  # noqa: E402
from rpp_env.metrics import ndcg  # noqa: E402
from rpp_env.recommenders.sasrec import (  # noqa: E402
    CL4SRec,
    Config,
    SASRec,
    Training,
    _contrast,
    _view,
    full_ranks,
    last_items,
    pooled,
    train,
)
from rpp_env.vectors import PrefixPrompts  # noqa: E402

SMALL = Config(
    dim=32,
    blocks=2,
    heads=2,
    max_length=30,
    loss="cross_entropy",
    rate=3e-3,
    batch=64,
    epochs=6,
    patience=6,
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("movieworld", num_users=1800, num_items=120)


@pytest.fixture(scope="module")
def histories(data: Dataset) -> Interactions:
    return training_interactions(data, split_users(data))


@pytest.fixture(scope="module")
def model(data: Dataset, histories: Interactions) -> SASRec:
    return train(histories, SMALL, catalog=data.catalog_digest)


@pytest.fixture(scope="module")
def tasks(data: Dataset) -> TaskSet:
    """Tasks of users that were not trained on, with histories of every length from 1."""
    found = make_tasks(data, split_users(data).test, num_candidates=20)
    lengths = np.minimum(found.history_lengths, 1 + np.arange(len(found)) % 45)
    return cropped(found, lengths)


def cropped(tasks: TaskSet, lengths: np.ndarray[Any, Any]) -> TaskSet:
    """The same tasks with the latest `lengths` items of each history."""
    parts = [tasks.history(i)[len(tasks.history(i)) - n :] for i, n in enumerate(lengths.tolist())]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return replace(tasks, history_indptr=indptr, history_items=np.concatenate(parts))


def prefixes(count: int, n: int = 2, blocks: int = 0, seed: int = 0) -> np.ndarray[Any, Any]:
    shape = (count, blocks, n, 32) if blocks else (count, n, 32)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---------------------------------------------------------------------------------- the prefix


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize("empty", [False, True])
def test_gradients_of_the_prefix_are_those_of_finite_differences(
    model: SASRec, tasks: TaskSet, blocks: int, empty: bool
) -> None:
    double = SASRec(model.config, {name: w.double() for name, w in model.weights.items()})
    some = tasks.subset(np.arange(7, 10))
    sequences = torch.from_numpy(some.padded_history(30).astype(np.int64))
    if empty:
        sequences = torch.full_like(sequences, -1)
    given = torch.from_numpy(prefixes(3, 2, blocks)).double().requires_grad_()

    def scores(prefix: Any) -> Any:
        return double.encode(sequences, prefix) @ double.weights["items.weight"].T

    assert torch.autograd.gradcheck(scores, (given,), eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(scores(given).square().sum(), given)
    counts = gradient.abs().amax(dim=-1) > 0
    if empty and blocks:  # the second block's prefix replaces all that the first one made
        assert not counts[:, 0].any()
        counts = counts[:, 1]
    assert counts.all()


def test_scores_are_differentiable_in_the_prefix(model: SASRec, tasks: TaskSet) -> None:
    some = tasks.subset(np.arange(40))
    given = torch.from_numpy(prefixes(40)).requires_grad_()
    model.scores(PrefixPrompts(given, some))[:, 3].sum().backward()
    assert given.grad is not None
    assert (given.grad.abs().sum(dim=(1, 2)) > 0).all()
    assert all(not weight.requires_grad for weight in model.weights.values())


def test_a_prefix_of_no_vectors_is_no_prefix(model: SASRec, tasks: TaskSet) -> None:
    none = model.scores(PrefixPrompts(None, tasks))
    for blocks in (0, 2):
        empty = PrefixPrompts(prefixes(len(tasks), 0, blocks), tasks)
        assert torch.equal(model.scores(empty), none)
    some = model.scores(PrefixPrompts(prefixes(len(tasks), 1), tasks))
    assert not torch.isclose(some, none).all(dim=1).any()


def test_one_prefix_for_all_blocks_differs_from_one_for_each(model: SASRec, tasks: TaskSet) -> None:
    deep = prefixes(len(tasks), 1, blocks=2)
    both = model.scores(PrefixPrompts(deep, tasks))
    first = model.scores(PrefixPrompts(deep[:, :1], tasks))
    assert not torch.isclose(both, first).all(dim=1).any()
    assert torch.equal(first, model.scores(PrefixPrompts(deep[:, 0], tasks)))
    changed = deep.copy()
    changed[:, 1] += 1
    assert not torch.equal(model.scores(PrefixPrompts(changed, tasks)), both)


def test_items_keep_their_positions_under_a_prefix(model: SASRec) -> None:
    """A prefix that nothing looks at changes nothing: it has no position and moves none."""
    blind = SASRec(model.config, dict(model.weights))
    sequences = torch.tensor([[-1, -1, 4, 8, 15]])
    with torch.inference_mode():
        states = blind.states(sequences, torch.full((1, 2, 32), 0.1))
        changed = blind.states(sequences, torch.full((1, 2, 32), 0.7))
        # The prefix sees no item, and an item sees no later one.
        other = blind.states(torch.tensor([[-1, -1, 4, 8, 16]]), torch.full((1, 2, 32), 0.1))
    assert torch.equal(states[:, :6], other[:, :6])
    assert not torch.equal(states[:, 4:], changed[:, 4:])
    zero = {n: torch.zeros_like(w) if "values" in n else w for n, w in model.weights.items()}
    deaf = SASRec(model.config, zero)  # attention hands nothing on
    with torch.inference_mode():
        plain, given = deaf.encode(sequences), deaf.encode(sequences, torch.ones(1, 3, 32))
    assert torch.equal(plain, given)


def test_without_history_the_prefix_answers_and_without_both_nothing_does(
    model: SASRec, tasks: TaskSet
) -> None:
    bare = cropped(tasks, np.zeros(len(tasks), dtype=np.int64))
    none = model.rank(PrefixPrompts(None, bare))
    assert (none.order == np.arange(20)).all()  # all scores are equal: as they are shown
    assert (model.scores(PrefixPrompts(None, bare)) == 0).all()
    same = np.repeat(prefixes(1, 3), len(tasks), axis=0)
    with torch.inference_mode():
        scores = model.scores(PrefixPrompts(same, bare)).numpy()
    by_item = np.full((len(tasks), 120), np.nan, dtype=np.float32)
    np.put_along_axis(by_item, bare.candidates.astype(np.int64), scores, axis=1)
    assert (np.nanmax(by_item, axis=0) == np.nanmin(by_item, axis=0)).all()  # one score an item
    assert len(np.unique(scores)) > 50


@pytest.mark.parametrize(
    "shape", [(300, 2, 31), (299, 2, 32), (300, 32), (300, 3, 2, 32), (300, 1, 2, 2, 32)]
)
def test_a_prefix_of_another_shape_is_refused(
    model: SASRec, tasks: TaskSet, shape: tuple[int, ...]
) -> None:
    assert len(tasks) == 300
    with pytest.raises(InvalidOption, match=r"a prefix of shape .* reads \(300, n, 32\)"):
        model.rank(PrefixPrompts(np.zeros(shape, np.float32), tasks))


# ----------------------------------------------------------------------------- what an answer is


@pytest.mark.parametrize("n", [0, 1, 3])
def test_an_answer_does_not_depend_on_the_batch(model: SASRec, tasks: TaskSet, n: int) -> None:
    given = prefixes(len(tasks), n)
    number = np.arange(len(tasks))
    tasks = cropped(tasks, np.where(number % 4, tasks.history_lengths, 0))
    with torch.inference_mode():
        whole = model.scores(PrefixPrompts(given, tasks)).numpy()
        rng = np.random.default_rng(1)
        for size in (1, 2, 5, 31, 33, 64, 100, 299):
            rows = rng.permutation(len(tasks))[:size]
            some = model.scores(PrefixPrompts(given[rows], tasks.subset(rows))).numpy()
            assert np.array_equal(some, whole[rows]), size
    nobody = model.rank(PrefixPrompts(given[:0], tasks.subset([])))
    assert nobody.order.shape == (0, 20)


def test_empty_places_make_no_difference(model: SASRec) -> None:
    short = torch.randint(120, (5, 4), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.full((5, 9), -1), short], dim=1)
    given = torch.from_numpy(prefixes(5))
    with torch.inference_mode():
        for prefix in (None, given):
            one, two = model.encode(short, prefix), model.encode(padded, prefix)
            assert torch.allclose(one, two, atol=1e-5)
        with pytest.raises(InvalidOption, match="sees the latest 30"):
            model.encode(torch.zeros(1, 31, dtype=torch.long))


def test_ranking_changes_no_weight(model: SASRec, tasks: TaskSet) -> None:
    before = {name: weight.clone() for name, weight in model.weights.items()}
    digest = model.digest
    given = torch.from_numpy(prefixes(len(tasks))).requires_grad_()
    optimizer = torch.optim.Adam([given], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model.scores(PrefixPrompts(given, tasks)).square().mean().backward()
        optimizer.step()
    model.rank(PrefixPrompts(given.detach(), tasks))
    model.embed(torch.arange(3)).add_(1)
    assert model.digest == digest
    for name, weight in model.weights.items():
        assert torch.equal(weight, before[name])


def test_tasks_of_another_catalog_are_refused(model: SASRec, tasks: TaskSet) -> None:
    other = load_dataset("movieworld", num_users=60, num_items=121)
    with pytest.raises(InvalidData, match="knows 120 items, movieworld has 121"):
        model.rank(PrefixPrompts(None, make_tasks(other, [0, 1])))
    names = tuple(f"other{i}" for i in range(120))
    renamed = replace(tasks, dataset=replace(tasks.dataset, item_tokens=names))
    with pytest.raises(InvalidData, match="and they are others"):
        model.rank(PrefixPrompts(None, renamed))


# ----------------------------------------------------------------------------------- training


def test_it_learns_more_than_popularity(model: SASRec, data: Dataset) -> None:
    tasks = make_tasks(data, split_users(data).test, num_candidates=50)
    ranks = model.rank(PrefixPrompts(None, tasks)).ranks(tasks.position)
    counts = training_interactions(data, split_users(data)).counts[tasks.candidates]
    popular = np.argsort(-counts, axis=1, kind="stable")
    others = (popular == tasks.position[:, None]).argmax(axis=1) + 1
    low, _ = interval(ndcg(ranks, 10) - ndcg(others, 10))
    assert low > 0


def interval(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The 95% interval of a mean over users."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(2000, len(values)))].mean(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]))


def other_targets(data: Dataset) -> Dataset:
    items = data.items.copy()
    for user, place in enumerate(data.indptr[1:] - 1):
        # No other item of the user: an earlier choice of a target is taken out with it.
        items[place] = np.setdiff1d(np.arange(data.num_items), data.sequence(user))[user % 7]
    return replace(data, items=items)


@pytest.mark.slow
def test_no_target_changes_a_byte(model: SASRec, data: Dataset, tmp_path: Path) -> None:
    changed = other_targets(data)
    assert (changed.items != data.items).sum() == data.num_users
    again = train(
        training_interactions(changed, split_users(changed)), SMALL, catalog=data.catalog_digest
    )
    model.save(tmp_path / "one")
    again.save(tmp_path / "two")
    (one, said), (two, says) = (read_tensors(tmp_path / name) for name in ("one", "two"))
    assert said == says
    assert {name: t.numpy().tobytes() for name, t in one.items()} == {
        name: t.numpy().tobytes() for name, t in two.items()
    }
    # And the test can fail: a click of a train user's history does change them.
    items = data.items.copy()
    user = int(split_users(data).train[0])
    place = data.indptr[user] + 3
    items[place] = np.setdiff1d(np.arange(120), data.sequence(user))[0]
    touched = training_interactions(replace(data, items=items), split_users(data))
    assert (
        train(touched, replace(SMALL, epochs=1)).digest
        != train(training_interactions(data, split_users(data)), replace(SMALL, epochs=1)).digest
    )


def test_pools_put_histories_of_similar_length_into_the_same_batches() -> None:
    rng = np.random.default_rng(0)
    lengths, order = rng.integers(2, 100, 1003), rng.permutation(1003)
    found = pooled(order, lengths, 8, 16, rng)
    assert np.array_equal(np.sort(found), np.arange(1003))

    def spread(order: Any) -> float:
        return float(np.ptp(lengths[order[:1000]].reshape(-1, 8), axis=1).mean())

    assert spread(found) < spread(order) / 5


@pytest.mark.parametrize("loss", ["softmax", "bce", "bpr", "cross_entropy"])
@pytest.mark.parametrize("pool", [1, 4])
def test_every_loss_learns_the_next_item(loss: Any, pool: int) -> None:
    rng = np.random.default_rng(0)
    cycle = rng.permutation(40)
    following = np.empty(40, dtype=int)
    following[cycle] = np.roll(cycle, -1)
    sequences = []
    for length in rng.integers(3, 10, size=300):
        sequence = [int(rng.integers(40))]
        while len(sequence) < length:
            sequence.append(int(following[sequence[-1]]))
        sequences.append(sequence)
    indptr = np.concatenate([[0], np.cumsum([len(one) for one in sequences])])
    items = np.concatenate(sequences).astype(np.int32)
    histories = Interactions(indptr, items, 40)
    config = Config(
        dim=32, blocks=1, max_length=8, dropout=0.0, loss=loss, pool=pool, rate=0.02, epochs=25
    )
    found = train(histories, config)
    assert found.validation > 0.9
    assert found.config == config


def test_views_crop_mask_or_reorder() -> None:
    items, rng = np.arange(10, 30), np.random.default_rng(0)
    config = CL4SRec(crop=0.6, mask=0.3, reorder=0.5)
    kinds = {"crop": 0, "mask": 0, "reorder": 0}
    for _ in range(300):
        view = _view(items, config, rng)
        if len(view) < 20:
            assert np.array_equal(view, np.arange(view[0], view[0] + 12))
            kinds["crop"] += 1
        elif (view < 0).any():
            assert np.array_equal(view[view >= 0], items[view >= 0])
            assert view[-1] == 29
            kinds["mask"] += 1
        else:
            moved = np.flatnonzero(view != items)
            assert np.array_equal(np.sort(view), items)
            assert moved[-1] - moved[0] < 10
            kinds["reorder"] += 1
    assert min(kinds.values()) > 70
    assert _view(items[:1], config, rng).tolist() == [10]


def test_the_contrastive_loss_is_that_of_its_formula(model: SASRec) -> None:
    """Views that are the whole histories: partners are equal, and 1 of 3 others is the partner."""
    config = CL4SRec(**{**asdict(SMALL), "dropout": 0.0}, crop=1.0, mask=0.0, reorder=0.0)
    still = SASRec(config, model.weights, model.catalog)
    window = torch.tensor([[-1, 4, 7, 9], [3, 5, 6, 8]])
    found = _contrast(still, config, window, np.random.default_rng(0)).item()
    a, b = still.states(window[:, 1:])[:, -1].detach().numpy()
    losses = [
        np.log(np.exp(own @ own - own @ own) + 2 * np.exp(own @ other - own @ own))
        for own, other in ((a, b), (b, a))
    ]
    assert found == pytest.approx(np.mean(losses), abs=1e-4)


@pytest.mark.slow
def test_cl4srec_trains_resumes_and_is_read_back(histories: Interactions, tmp_path: Path) -> None:
    config = CL4SRec(**{**asdict(SMALL), "epochs": 2})
    path = tmp_path / "training.safetensors"
    Training(histories, replace(config, epochs=1), checkpoint=path).epoch()
    found = train(histories, config, checkpoint=path)
    assert found.digest == train(histories, config).digest
    assert found.digest != train(histories, replace(SMALL, epochs=2)).digest
    plain = train(histories, replace(config, contrastive=0.0))
    assert not torch.equal(plain.weights["items.weight"], found.weights["items.weight"])
    found.save(tmp_path / "cl4srec.safetensors")
    again = SASRec.load(tmp_path / "cl4srec.safetensors")
    assert again.config == config
    assert again.digest == found.digest


@pytest.mark.parametrize("fields", [{"contrastive": -1.0}, {"temperature": 0.0}, {"mask": 1.5}])
def test_impossible_options_of_cl4srec_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="shares in"):
        CL4SRec(**fields)


def test_a_training_in_parts_is_a_training_in_one(histories: Interactions, tmp_path: Path) -> None:
    config = replace(SMALL, epochs=3)
    whole = train(histories, config, seed=5)
    path = tmp_path / "training.safetensors"
    rows: list[Any] = []
    for epochs in (1, 2, 3):
        parts = Training(histories, replace(config, epochs=epochs), seed=5, checkpoint=path)
        assert parts.reached["epoch"] == epochs - 1
        assert not parts.done
        rows.append(parts.epoch())
        assert parts.done
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert parts.best.digest == whole.digest
    assert parts.best.validation == whole.validation
    done = train(histories, config, seed=5, checkpoint=path)  # nothing left to do
    assert done.digest == whole.digest


def test_a_checkpoint_of_another_training_is_refused(
    histories: Interactions, tmp_path: Path
) -> None:
    config = replace(SMALL, epochs=1)
    path = tmp_path / "training.safetensors"
    model = train(histories, config, checkpoint=path)
    others = Interactions(histories.indptr[:-9], histories.items[: histories.indptr[-10]], 120)
    for given, options, seed in (
        (histories, config, 1),
        (histories, replace(config, rate=1e-4), 0),
        (others, config, 0),
    ):
        with pytest.raises(InvalidData, match=r"another (seed|config|histories)"):
            Training(given, options, seed=seed, checkpoint=path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidData, match="damaged"):
        Training(histories, config, checkpoint=path)
    model.save(path)
    with pytest.raises(InvalidData, match="another kind"):
        Training(histories, config, checkpoint=path)


def test_a_saved_sasrec_loads_unchanged(model: SASRec, tasks: TaskSet, tmp_path: Path) -> None:
    path = tmp_path / "sasrec.safetensors"
    model.save(path)
    loaded = SASRec.load(path)
    assert loaded.config == model.config
    assert loaded.digest == model.digest
    assert loaded.catalog == model.catalog
    prompts = PrefixPrompts(prefixes(len(tasks)), tasks)
    assert np.array_equal(loaded.rank(prompts).order, model.rank(prompts).order)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidData, match="damaged"):
        SASRec.load(path)


def test_a_file_that_lies_about_itself_is_refused(model: SASRec, tmp_path: Path) -> None:
    path = tmp_path / "sasrec.safetensors"
    model.save(path)
    tensors, about = read_tensors(path)
    lies: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (tensors, {**about, "kind": "network"}),
        (tensors, {**about, "dim": 64}),
        (tensors, {**about, "dim": 10**9}),
        (tensors, {**about, "items": 10**15}),
        (tensors, {**about, "items": "many"}),
        (tensors, {**about, "blocks": 3}),
        (tensors, {**about, "wings": 2}),
        (tensors, {name: value for name, value in about.items() if name != "items"}),
        ({**tensors, "norm.bias": torch.full((32,), torch.nan)}, about),
        ({**tensors, "more": torch.zeros(3)}, about),
        ({**tensors, "norm.bias": torch.zeros(32, dtype=torch.int64)}, about),
    ]
    for given, said in lies:
        write_tensors(path, given, said)
        with pytest.raises(InvalidData, match=r"no SASRec|another version"):
            SASRec.load(path)


def test_full_ranks_are_those_of_a_plain_sort(model: SASRec, histories: Interactions) -> None:
    rng = np.random.default_rng(2)
    users = rng.permutation(len(histories.indptr) - 1)[:300]
    targets = rng.integers(120, size=300).astype(np.int32)
    dull = SASRec(model.config, dict(model.weights))
    dull.weights["items.weight"] = (model.weights["items.weight"] * 4).round() / 4  # ties
    for seen in ("drop", "keep"):
        ranks = full_ranks(dull, histories, users, targets, seen=seen)
        for i in range(0, 300, 7):
            items = histories.items[histories.indptr[users[i]] : histories.indptr[users[i] + 1]]
            last = last_items(
                histories, users[i : i + 1], histories.indptr[users[i : i + 1] + 1], 30
            )
            with torch.inference_mode():
                scores = (dull.encode(torch.from_numpy(last)) @ dull.weights["items.weight"].T)[0]
            listed = np.argsort(-scores.numpy(), kind="stable")
            left = [j for j in listed if seen == "keep" or j == targets[i] or j not in items]
            assert abs(left.index(targets[i]) + 1 - ranks[i]) <= 1  # sums of another batch
    with pytest.raises(InvalidOption, match="two items or more"):
        train(Interactions(np.array([0, 1]), np.array([3], np.int32), 5), SMALL)


@pytest.mark.parametrize(
    "fields", [{"loss": "hinge"}, {"heads": 3}, {"pool": 0}, {"dropout": 1.0}, {"epochs": 0}]
)
def test_impossible_options_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        replace(SMALL, **fields)
