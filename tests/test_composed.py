"""Prompts composed from similar users: the reference's formula, pre-training, batches and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from rpp_env.composed import (  # noqa: E402
    AttentionPrompts,
    Composer,
    Neighbourhood,
    NeighbourPrompts,
)
from rpp_env.data import Dataset, load_dataset  # noqa: E402
from rpp_env.data.candidates import TaskBatch, TaskSet  # noqa: E402
from rpp_env.data.clicks import click_tasks, task_users, tasks_before, training_clicks  # noqa: E402
from rpp_env.data.neighbours import fit_factors  # noqa: E402
from rpp_env.data.tensors import read_tensors, write_tensors  # noqa: E402
from rpp_env.errors import InvalidData, InvalidOption  # noqa: E402
from rpp_env.recommenders import composer as module  # noqa: E402
from rpp_env.recommenders.composer import (  # noqa: E402
    FORMS,
    Config,
    Users,
    load,
    prefixes,
    pretrain,
    save,
    teach,
)
from rpp_env.recommenders.t5 import T5, train  # noqa: E402
from rpp_env.recommenders.t5 import Config as T5Config  # noqa: E402
from rpp_env.testing import check_space  # noqa: E402
from rpp_env.vectors import PrefixPrompts  # noqa: E402

T5_SIZE = T5Config(
    dim=16, layers=1, heads=2, feed_forward=32, negatives=9, batch=32, rate=1e-2, epochs=2
)
SMALL = Config(dim=6, heads=2, length=3, neighbours=4, clicks=1, epochs=2)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("movieworld", num_users=240, num_items=100)


@pytest.fixture(scope="module")
def users(data: Dataset) -> Users:
    return Users.of(data, fit_factors(training_clicks(data), 6, rounds=3))


@pytest.fixture(scope="module")
def model(data: Dataset) -> T5:
    return train(data, training_clicks(data), T5_SIZE)


@pytest.fixture(scope="module")
def tasks(data: Dataset) -> TaskSet:
    return click_tasks(data, task_users(data), "test", num_candidates=20)


def around(users: Users, tasks: TaskSet, count: int = 4) -> Neighbourhood:
    composer = Composer.seeded(6, 16, heads=2, length=3)
    biased = {n: w + 0.1 if n.endswith("bias") else w for n, w in composer.weights.items()}
    return Neighbourhood(Composer(2, 3, biased), users.pool, users.around(tasks, count)[1])


# ------------------------------------------------------------------------------- the formula


def test_it_is_the_reference_s_attention(users: Users, tasks: TaskSet) -> None:
    """Query, key, value, heads and projection as torch's own multi-head attention has them."""
    own, near, _ = users.around(tasks, 4)
    found = around(users, tasks)
    weights = {name: torch.from_numpy(w) for name, w in found.composer.weights.items()}
    inner = len(weights["query.weight"])
    theirs = torch.nn.MultiheadAttention(inner, 2, batch_first=True, kdim=6, vdim=6)
    with torch.no_grad():
        theirs.q_proj_weight.copy_(torch.eye(inner))
        theirs.k_proj_weight.copy_(weights["key.weight"])
        theirs.v_proj_weight.copy_(weights["value.weight"])
        biases = [torch.zeros(inner), weights["key.bias"], weights["value.bias"]]
        theirs.in_proj_bias.copy_(torch.cat(biases))
        theirs.out_proj.weight.copy_(torch.eye(inner))
        theirs.out_proj.bias.zero_()
        mine, others = torch.from_numpy(own), torch.from_numpy(users.pool[near])
        query = torch.nn.functional.linear(mine, weights["query.weight"], weights["query.bias"])
        mixed, shares = theirs(query[:, None], others, others, average_attn_weights=False)
        wanted = mixed[:, 0] @ weights["project.weight"].T + weights["project.bias"]
        attention = module.logits(weights, 2, mine, others).softmax(2)
        prefix = module.compose(weights, 2, attention, others, 3)
    assert torch.allclose(attention, shares[:, :, 0], atol=1e-5)
    assert torch.allclose(prefix, wanted.view(-1, 3, 16), atol=1e-5)
    played = found.composer.prefix(attention.numpy(), found.values[near])
    assert np.allclose(played, prefix, atol=1e-5)
    # Neighbours have no order.
    order = np.array([2, 0, 3, 1])
    again = found.composer.prefix(attention.numpy()[:, :, order], found.values[near[:, order]])
    assert np.allclose(again, played, atol=1e-5)


def test_actions_are_attention(users: Users, tasks: TaskSet) -> None:
    found, rows = around(users, tasks), np.arange(40)
    batch = TaskBatch(tasks, rows)
    space, choice = AttentionPrompts(found, sharpness=3.0), NeighbourPrompts(found)
    assert space.agents == choice.agents == ("head_0", "head_1")
    assert choice.shape == (4, 4)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (40, 2, 4)).astype(np.float32)
    shares = space.attention(actions)
    assert np.allclose(shares, torch.from_numpy(3 * actions).softmax(2), atol=1e-6)
    zero = space.prompts(space.start(rows), batch, rows).prefix
    mean = found.composer.prefix(
        np.full((40, 2, 4), 0.25, np.float32), found.values[found.near[rows]]
    )
    assert np.allclose(zero, mean, atol=1e-5)
    # The sharpest attention is a choice, and each head listens for itself.
    picks = rng.integers(4, size=(40, 2))
    sharp = AttentionPrompts(found, sharpness=40.0)
    one = sharp.prompts(sharp.apply(sharp.start(rows), 2 * choice.codebook[picks] - 1), batch, rows)
    two = choice.prompts(choice.apply(choice.start(rows), picks), batch, rows)
    assert np.allclose(one.prefix, two.prefix, atol=1e-5)
    other = choice.prompts(choice.apply(choice.start(rows), picks[:, ::-1]), batch, rows)
    assert not np.allclose(other.prefix, two.prefix)


def test_both_spaces_pass_the_checks(model: T5, data: Dataset, users: Users) -> None:
    for made in (AttentionPrompts, NeighbourPrompts):
        check_space(lambda tasks, made=made: made(around(users, tasks, 3)), model, data)


def test_a_prefix_does_not_depend_on_the_batch(users: Users, tasks: TaskSet) -> None:
    space = AttentionPrompts(around(users, tasks))
    actions = np.random.default_rng(0).uniform(-1, 1, (len(tasks), 2, 4)).astype(np.float32)

    def made(rows: Any) -> bytes:
        state = space.apply(space.start(rows), actions[rows])
        return space.prompts(state, TaskBatch(tasks, rows), rows).prefix

    whole = made(np.arange(len(tasks)))
    for size in (1, 7, 100):
        rows = np.random.default_rng(size).permutation(len(tasks))[:size]
        assert made(rows).tobytes() == whole[rows].tobytes()


# ------------------------------------------------------------------------------ pre-training


@pytest.mark.filterwarnings("ignore:.*chose their target before")
def test_pretraining_reads_training_clicks_only(model: T5, data: Dataset) -> None:
    """Other held-out items change no weight, bit for bit; another training click does."""
    last = np.concatenate([data.indptr[1:] - back for back in (1, 2, 3)])
    made = []
    for places in ([], last, data.indptr[:-1]):
        items = data.items.copy()
        items[places] = np.random.default_rng(1).permutation(items[places])
        world = replace(data, items=items)
        factors = fit_factors(training_clicks(world, repeats="keep"), 6, rounds=2)
        rows, taught = task_users(world), training_clicks(world, repeats="keep")
        pool = module.unit(factors.fold_in(taught.indptr, taught.items))
        found = pretrain(model, world, Users(factors, rows, pool), replace(SMALL, epochs=1))
        made.append(found.digest)
    assert made[0] == made[1] != made[2]


def test_pretraining_changes_the_composer_and_no_recommender(
    model: T5, data: Dataset, users: Users
) -> None:
    before, rows = model.digest, []
    found = pretrain(model, data, users, replace(SMALL, epochs=3, rate=2e-2), progress=rows.append)
    assert model.digest == before
    assert found.digest == pretrain(model, data, users, replace(SMALL, epochs=3, rate=2e-2)).digest
    first = Composer.seeded(6, 16, heads=2, length=3)
    assert all(not np.array_equal(found.weights[n], w) for n, w in first.weights.items())
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    # It fits what it is taught: the latest training clicks.
    tasks = tasks_before(data, users.rows, data.lengths[users.rows] - 4, num_candidates=None)
    own, near, _ = users.around(tasks, 4)
    fits = []
    for composer in (first, found):
        weights = {name: torch.from_numpy(w) for name, w in composer.weights.items()}
        others = torch.from_numpy(users.pool[near])
        shares = module.logits(weights, 2, torch.from_numpy(own), others).softmax(2)
        prefix = module.compose(weights, 2, shares, others, 3)
        scores = model.scores(PrefixPrompts(prefix, tasks))
        fits.append(scores.gather(1, torch.from_numpy(tasks.position)[:, None]).mean())
    assert fits[1] > fits[0]
    with pytest.raises(InvalidOption, match="heads=3 must divide"):
        pretrain(model, data, users, replace(SMALL, heads=3))


# ---------------------------------------------------------------------------------- ablations


def drawn(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(size=shape)).float()


def test_an_mlp_of_the_own_vector_takes_the_place_of_attention() -> None:
    weights = {"hidden.weight": drawn(16, 6), "hidden.bias": drawn(16)}
    weights |= {"project.weight": drawn(48, 16), "project.bias": drawn(48)}
    own, others = drawn(5, 6), drawn(5, 4, 6)
    found = prefixes("mlp", weights, SMALL, own, others)
    for user, prefix in zip(own.numpy(), found.numpy(), strict=True):
        inner = np.maximum(
            weights["hidden.weight"].numpy() @ user + weights["hidden.bias"].numpy(), 0
        )
        flat = weights["project.weight"].numpy() @ inner + weights["project.bias"].numpy()
        assert np.allclose(prefix, flat.reshape(3, 16), atol=1e-4)
    assert torch.equal(found, prefixes("mlp", weights, SMALL, own, others + 1))


def test_a_pool_weighs_its_components_by_cosines() -> None:
    weights = {"attention": drawn(7, 6), "key": drawn(7, 6, seed=1), "components": drawn(7, 3, 16)}
    own = drawn(5, 6)
    found = prefixes("pool", weights, SMALL, own, drawn(5, 4, 6))
    for user, prefix in zip(own.numpy(), found.numpy(), strict=True):
        wanted = np.zeros((3, 16))
        for attention, key, component in zip(*(w.numpy() for w in weights.values()), strict=True):
            seen = user * attention
            share = seen @ key / (np.linalg.norm(seen) * np.linalg.norm(key))
            assert -1 <= share <= 1
            wanted += share * component
        assert np.allclose(prefix, wanted, atol=1e-4)


def test_task_prompts_stand_in_front_and_are_the_same_for_all() -> None:
    weights = {"attention": drawn(7, 6), "key": drawn(7, 6), "components": drawn(7, 3, 16)}
    own, others = drawn(5, 6), drawn(5, 4, 6)
    task = drawn(2, 16)
    found = prefixes("pool", weights | {"task": task}, SMALL, own, others)
    assert found.shape == (5, 5, 16)
    assert (found[:, :2] == task).all()
    assert torch.equal(found[:, 2:], prefixes("pool", weights, SMALL, own, others))


@pytest.mark.parametrize(("form", "task"), [("attention", 2), ("mlp", 0), ("pool", 1)])
def test_ablations_are_taught_by_the_same_clicks(
    model: T5, data: Dataset, users: Users, form: str, task: int
) -> None:
    config, before = replace(SMALL, epochs=3, rate=2e-2), model.digest
    rows: list[Any] = []
    given: dict[str, Any] = {"form": form, "task": task, "components": 5}
    weights = teach(model, data, users, config, **given, progress=rows.append)
    first = teach(model, data, users, replace(config, rate=1e-12), **given)
    assert model.digest == before
    assert ("task" in weights) == bool(task)
    assert all(not torch.equal(w, first[name]) for name, w in weights.items())
    assert not any(w.requires_grad for w in weights.values())
    tasks = tasks_before(data, users.rows, data.lengths[users.rows] - 4, num_candidates=None)
    own, near, _ = users.around(tasks, 4)
    fits = []
    for made in (first, weights):
        prefix = prefixes(form, made, config, *map(torch.from_numpy, (own, users.pool[near])))
        assert prefix.shape == (len(own), task + 3, 16)
        scores = model.scores(PrefixPrompts(prefix, tasks))
        fits.append(scores.gather(1, torch.from_numpy(tasks.position)[:, None]).mean())
    assert fits[1] > fits[0]
    assert len(rows) >= 1


def test_unknown_forms_are_refused(model: T5, data: Dataset, users: Users) -> None:
    assert set(FORMS) == {"attention", "mlp", "pool"}
    with pytest.raises(InvalidOption, match="did you mean 'pool'"):
        teach(model, data, users, SMALL, form="pol")


def test_patience_counts_bad_epochs_in_a_row(
    model: T5, data: Dataset, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resets with each better epoch; the reference's counts bad epochs in total."""
    losses = iter([5.0, 6.0, 4.0, 6.0, 3.0, 6.0, 7.0, 1.0])
    scores = T5.scores
    now = {"loss": 0.0}

    def scripted(self: T5, prompts: Any) -> Any:
        found = scores(self, prompts)
        if torch.is_inference_mode_enabled():
            return torch.full_like(found, -now["loss"])
        now["loss"] = now["next"] if now.get("step") != now["epoch"] else now["loss"]
        return found

    rows: list[Any] = []

    def after_epoch(row: Any) -> None:
        rows.append(row)
        now.update(epoch=row["epoch"], next=next(losses))

    now.update(epoch=0, next=next(losses), step=-1)
    monkeypatch.setattr(T5, "scores", scripted)
    pretrain(model, data, users, replace(SMALL, epochs=8, patience=2), progress=after_epoch)
    assert [-row["validation"] for row in rows] == [5.0, 6.0, 4.0, 6.0, 3.0, 6.0, 7.0]


# ------------------------------------------------------------------------- files, bad input


def test_a_file_gives_the_same_composer(users: Users, tmp_path: Path) -> None:
    path, composer = tmp_path / "c.safetensors", Composer.seeded(6, 16, heads=2, length=3)
    save(path, composer, users.factors)
    again, factors = load(path)
    assert again.digest == composer.digest
    assert factors.digest == users.factors.digest
    tensors, about = read_tensors(path)
    for name, changes, without, said in (
        ("a", {"kind": "t5"}, "", "holds no composer"),
        ("b", {"heads": 3}, "", "damaged"),
        ("c", {"length": "three"}, "", "damaged"),
        ("d", {}, "key.bias", "damaged"),
        ("e", {}, "items", "holds no composer"),
        ("f", {"decay": 0}, "", "damaged"),
        ("g", {"length": 5}, "", "damaged"),
    ):
        kept = {key: tensor for key, tensor in tensors.items() if key != without}
        write_tensors(tmp_path / name, kept, {**about, **changes})
        with pytest.raises(InvalidData, match=said):
            load(tmp_path / name)


def test_mismatched_arguments_are_refused(users: Users, tasks: TaskSet) -> None:
    found = around(users, tasks)
    with pytest.raises(InvalidOption, match="reads vectors of 6 numbers"):
        Neighbourhood(found.composer, users.pool[:, :5], found.near)
    for near in (found.near - 1000, found.near + len(users.pool), found.near[:, :0]):
        with pytest.raises(InvalidOption, match="neighbours are rows of"):
            Neighbourhood(found.composer, users.pool, near)
    for sharpness in (0.0, 41.0, float("nan")):
        with pytest.raises(InvalidOption, match="sharpness"):
            AttentionPrompts(found, sharpness=sharpness)
    with pytest.raises(InvalidOption, match="finite weights"):
        Composer(2, 3, {n: w * np.nan for n, w in found.composer.weights.items()})
    for wrong in ({"heads": 0}, {"clicks": 0}, {"rate": 0.0}, {"patience": 0}):
        with pytest.raises(InvalidOption):
            replace(SMALL, **wrong)
