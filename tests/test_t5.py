"""A frozen T5: ids without leaks, exact likelihoods, gradients, batches, files, resuming."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from rpp_env import RPPEnv  # noqa: E402
from rpp_env.data import Dataset, Interactions, load_dataset  # noqa: E402
from rpp_env.data.clicks import click_tasks, task_users, training_clicks  # noqa: E402
from rpp_env.data.explanations import Explainer  # noqa: E402
from rpp_env.data.tensors import read_tensors, write_tensors  # noqa: E402
from rpp_env.episode import Episode  # noqa: E402
from rpp_env.errors import InvalidData, InvalidOption, MissingExtra  # noqa: E402
from rpp_env.metrics import chance_ndcg, ndcg  # noqa: E402
from rpp_env.recommenders.t5 import (  # noqa: E402
    T5,
    Config,
    Training,
    Vocabulary,
    max_plus_one,
    train,
)
from rpp_env.testing import check_space  # noqa: E402
from rpp_env.tokens import SlotPrompts, TokenPrompts  # noqa: E402
from rpp_env.vectors import PrefixPrompts, VectorPrompts  # noqa: E402

SMALL = Config(
    dim=16, layers=1, heads=2, feed_forward=32, negatives=9, batch=32, rate=1e-2, epochs=2
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("movieworld", num_users=240, num_items=100)


@pytest.fixture(scope="module")
def histories(data: Dataset) -> Interactions:
    return training_clicks(data)


@pytest.fixture(scope="module", params=["independent", "sequential"])
def model(request: Any, data: Dataset, histories: Interactions) -> T5:
    return train(data, histories, replace(SMALL, ids=request.param))


@pytest.fixture(scope="module")
def tasks(data: Dataset) -> Any:
    return click_tasks(data, task_users(data), "test", num_candidates=20).subset(np.arange(100))


def slots(tasks: Any, words: str = "") -> Callable[[T5], SlotPrompts]:
    def of(model: T5) -> SlotPrompts:
        ids = np.array(model.vocabulary.encode(words), np.int64)
        return SlotPrompts(np.tile(ids, (len(tasks), 1)), tasks)

    return of


# ---------------------------------------------------------------------------------- honest ids


@pytest.mark.parametrize("kind", ["independent", "sequential"])
def test_ids_vocabulary_and_training_data_know_no_held_out_click(data: Dataset, kind: Any) -> None:
    """Other held-out items change nothing, bit for bit; other training items do (if ids may)."""
    last = np.concatenate([data.indptr[1:] - back for back in (1, 2, 3)])
    rng = np.random.default_rng(1)
    moved = data.items.copy()
    moved[last] = rng.permutation(moved[last])
    assert (moved != data.items).mean() > 0.05
    other = replace(data, items=moved)
    config = replace(SMALL, ids=kind, tasks=("sequential", "top-n"))
    made = []
    for world in (data, other):
        training = Training(world, training_clicks(world, repeats="keep"), config)
        batches = list(training.batches(np.random.default_rng(0)))
        made.append((training, batches))
    (one, first), (two, second) = made
    assert np.array_equal(one.vocabulary.ids, two.vocabulary.ids)
    assert one.vocabulary.words == two.vocabulary.words
    assert all(torch.equal(w, two.model.weights[n]) for n, w in one.model.weights.items())
    for (text, targets), (text_2, targets_2) in zip(first, second, strict=True):
        assert np.array_equal(text.tokens, text_2.tokens)
        assert np.array_equal(text.spans, text_2.spans)
        assert np.array_equal(targets, targets_2)
    # What is taught does matter: the comparison could fail.
    reversed_items = replace(data, items=data.items[::-1].copy(), indptr=data.indptr)
    third = Vocabulary.of(data, training_clicks(reversed_items, repeats="keep"), kind)
    assert np.array_equal(third.ids, one.vocabulary.ids) == (kind == "independent")


def test_ids_do_not_depend_on_the_order_of_the_catalog(
    data: Dataset, histories: Interactions
) -> None:
    order = np.random.default_rng(0).permutation(data.num_items)
    place = np.argsort(order)
    other = replace(
        data,
        titles=tuple(data.titles[i] for i in order),
        item_tokens=tuple(data.item_tokens[i] for i in order),
        genres=tuple(data.genres[i] for i in order),
        items=place[data.items].astype(np.int32),
    )
    for kind in ("independent", "sequential"):
        one = Vocabulary.of(data, histories, kind).numbers
        two = Vocabulary.of(other, training_clicks(other), kind).numbers
        assert np.array_equal(two, one[order])


def small(sequences: Any, items: int) -> Dataset:
    """A dataset of these sequences, of the same length."""
    return Dataset(
        name="made",
        domain="movies",
        titles=tuple(f"Film {i}" for i in range(items)),
        item_tokens=tuple(f"i{i}" for i in range(items)),
        genres=(("Drama",),) * items,
        user_tokens=tuple(f"u{u}" for u in range(len(sequences))),
        indptr=np.arange(len(sequences) + 1) * len(sequences[0]),
        items=np.concatenate(sequences).astype(np.int32),
    )


def test_the_largest_number_plus_one(data: Dataset, histories: Interactions) -> None:
    """The rule finds what P5's numbering leaks, and is at chance for ids of ours."""
    made = small([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [3, 9, 1, 0, 2]], 10)
    tasks = click_tasks(made, range(3), "test", num_candidates=None, repeats="keep")
    # Numbered with the held-out clicks, the target is the largest number + 1 of two users.
    assert max_plus_one(np.arange(10), tasks).tolist() == [1, 1, 3]
    every = click_tasks(data, task_users(data), "test", num_candidates=20)
    for kind in ("independent", "sequential"):
        numbers = Vocabulary.of(data, histories, kind).numbers
        assert sorted(numbers) == list(range(data.num_items))
        found = ndcg(max_plus_one(numbers, every), 10)
        error = found.std() / len(found) ** 0.5
        assert found.mean() < chance_ndcg(20) + 3 * error


# ---------------------------------------------------------------------------------- likelihoods


def test_scores_are_the_likelihoods_of_ids(model: T5, tasks: Any, data: Dataset) -> None:
    """By brute force: each item's tokens one after another, by transformers' own function."""
    few = tasks.subset(np.arange(3))
    prompts = slots(few, "drama comedy")(model)
    found = model.scores(prompts)
    text = model._text(few.padded_history(20).astype(np.int64), prompts.ids)
    for i in range(3):
        length = text.lengths[i]
        tokens, spans = (torch.from_numpy(a[i : i + 1, :length]) for a in (text.tokens, text.spans))
        x = model.embed(tokens) + model.weights["whole.weight"][spans]
        for place, item in enumerate(few.candidates[i]):
            labels = torch.from_numpy(model.vocabulary.ids[item][None])
            begun = torch.cat([torch.from_numpy(text.starts[i : i + 1, None]), labels[:, :-1]], 1)
            loss = model.module.t5(inputs_embeds=x, decoder_input_ids=begun, labels=labels).loss
            assert found[i, place].item() == pytest.approx(-loss.item() * labels.numel(), abs=1e-4)


def test_all_items_share_one_probability(model: T5, tasks: Any, data: Dataset) -> None:
    every = click_tasks(data, tasks.users[:5], "test", num_candidates=None)
    total = model.scores(SlotPrompts(np.zeros((5, 0), np.int64), every)).exp().sum(dim=1)
    assert (total <= 1 + 1e-5).all()
    assert (total > 0.01).all()  # the rest is for other tokens; the model is hardly trained


def test_a_beam_over_the_trie_is_within_half_a_percent_of_exact(model: T5, data: Dataset) -> None:
    """With half of the beginnings as beams, user by user, in NDCG@10 over all items."""
    every = click_tasks(data, task_users(data), "test", num_candidates=None)
    bare = SlotPrompts(np.zeros((len(every), 0), np.int64), every)
    beginnings = len(np.unique(model.vocabulary.ids[:, :-1], axis=0))
    half, exact = -(-beginnings // 2), model.scores(bare)
    wanted = ndcg(model.rank(bare).ranks(every.position), 10)
    apart = {}
    for beams in (beginnings, half, 1):
        found = model.beam(beams).rank(bare)
        scores = model._scores(bare, beams)
        reached = scores.isfinite()
        # What is reached has its exact likelihood, and every beginning has ten items.
        assert torch.allclose(scores[reached], exact[reached], atol=1e-4)
        assert np.array_equal(found.named, reached.sum(dim=1))
        assert (found.named == (10 * beams if beginnings > 1 else 100)).all()
        values = ndcg(found.ranks(every.position), 10)
        apart[beams] = np.abs(values - wanted).mean() / wanted.mean()
    assert apart[half] < 0.005
    # One beam is too few where ids have two tokens: the comparison could fail.
    assert (apart[1] > 0.1) == (beginnings > 1)


def test_a_beam_continues_candidates_only(model: T5, tasks: Any) -> None:
    prompts = slots(tasks, "drama")(model)
    narrow = model.beam(1)
    found = narrow.rank(prompts)
    best = model.rank(prompts)
    assert (found.named >= 1).all()
    first = model.vocabulary.ids[:, :-1]
    for i in range(len(tasks)):
        reached = tasks.candidates[i][found.order[i, : found.named[i]]]
        assert len(np.unique(first[reached], axis=0)) == 1
    assert np.array_equal(found.order, best.order) == (model.config.ids == "independent")
    some = np.array([7, 3])
    again = narrow.rank(SlotPrompts(prompts.ids[some], tasks.subset(some)))
    assert np.array_equal(again.order, found.order[some])
    assert narrow.digest != model.digest == narrow.beam(None).digest
    assert torch.equal(narrow.scores(prompts), model.scores(prompts))
    with pytest.raises(InvalidOption, match="beams must be 1 or more"):
        model.beam(0)


def test_texts_hold_the_history_the_tokens_and_the_end(model: T5, tasks: Any) -> None:
    words = model.vocabulary.encode("drama comedy")
    text = model._text(tasks.padded_history(20).astype(np.int64), np.tile(words, (len(tasks), 1)))
    T = model.vocabulary.ids.shape[1]
    for i in range(len(tasks)):
        shown = tasks.history(i)[-20:]
        wanted = [*model.vocabulary.ids[shown].ravel(), *words, 1]
        assert text.tokens[i, : text.lengths[i]].tolist() == wanted
        assert not text.tokens[i, text.lengths[i] :].any()
        places = [*np.repeat(np.arange(len(shown), 0, -1), T), 0, 0, 0]
        assert text.spans[i, : text.lengths[i]].tolist() == places
        assert text.tokens[i, text.slots[i]].tolist() == words
    listed = tasks.candidates.astype(np.int64)[:, :4]
    asked = model.ask("top-n")
    text = asked._text(tasks.padded_history(2).astype(np.int64), np.tile(words, (100, 1)), listed)
    wanted = [*model.vocabulary.ids[tasks.history(0)[-2:]].ravel()]
    wanted += model.vocabulary.encode("candidates")
    wanted += [*model.vocabulary.ids[listed[0]].ravel(), *words, 1]
    assert text.tokens[0, : text.lengths[0]].tolist() == wanted
    assert set(text.spans[0]) == {0, 1, 2, 21, 22, 23, 24}


def test_an_answer_does_not_depend_on_the_batch(model: T5, tasks: Any) -> None:
    prompts = slots(tasks, "drama")(model)
    vectors = np.random.default_rng(0).normal(size=(len(tasks), 2, 16)).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(tasks))
    for make in (
        lambda rows: SlotPrompts(prompts.ids[rows], tasks.subset(rows)),
        lambda rows: PrefixPrompts(vectors[rows], tasks.subset(rows)),
    ):
        whole = model.scores(make(np.arange(len(tasks))))
        assert torch.equal(model.scores(make(order)), whole[order])
        for row in (0, 7, 55):
            assert torch.equal(model.scores(make(np.array([row]))), whole[[row]])
    assert model.scores(SlotPrompts(prompts.ids[:0], tasks.subset([]))).shape[0] == 0


def test_gradients_reach_prompts_and_no_weight(model: T5, tasks: Any) -> None:
    before = {name: w.clone() for name, w in model.weights.items()}
    prompts = slots(tasks, "drama comedy")(model)
    vectors = model.embed(torch.from_numpy(prompts.ids)).requires_grad_()
    scores = model.scores(replace(prompts, vectors=vectors))
    assert torch.allclose(scores.detach(), model.scores(prompts), atol=1e-5)
    scores.sum().backward()
    assert vectors.grad.abs().sum() > 0
    # Not zeros: there the norm of the first layer bends most.
    made = torch.Generator().manual_seed(0)
    prefix = torch.randn(len(tasks), 2, 16, generator=made).requires_grad_()
    picked = model.scores(PrefixPrompts(prefix, tasks))[3, 0]
    picked.backward()
    assert prefix.grad.abs().sum() > 0
    # By differences.
    step = torch.zeros_like(prefix)
    step[3, 1, 5] = 1e-2
    with torch.no_grad():
        up, down = (
            model.scores(PrefixPrompts(prefix + way * step, tasks))[3, 0] for way in (1, -1)
        )
    assert (up - down).item() / 2e-2 == pytest.approx(prefix.grad[3, 1, 5].item(), abs=2e-3)
    assert all(w.grad is None and not w.requires_grad for w in model.weights.values())
    assert all(torch.equal(before[name], w) for name, w in model.weights.items())


def test_candidates_can_be_listed_in_the_text(model: T5, tasks: Any) -> None:
    asked = model.ask("top-n")
    few = click_tasks(tasks.dataset, tasks.users, "test", num_candidates=10)
    assert not torch.equal(asked.scores(slots(few)(model)), model.scores(slots(few)(model)))
    with pytest.raises(InvalidOption, match="20 candidates came in a text"):
        asked.scores(slots(tasks)(model))
    with pytest.raises(InvalidOption, match="trained on sequential, top-n: train one with tasks="):
        model.ask("explanation")
    with pytest.raises(InvalidOption, match="task"):
        model.ask("poems")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------- explanations

GENRES = ("drama", "comedy", "war")
ANIMALS = "owl fox cat dog hen cow pig rat bee ant elk eel".split()


def test_an_epoch_teaches_every_user_as_often(data: Dataset, histories: Interactions) -> None:
    config = replace(SMALL, tasks=("sequential",), batch=8, samples=2)
    training = Training(data, histories, config)
    taught = sum(len(labels) for _, labels in training.batches(np.random.default_rng(0)))
    assert taught == 2 * (np.diff(training.taught.indptr) >= 2).sum()


def test_the_loss_is_the_cross_entropy_of_the_modules_own_logits(
    data: Dataset, histories: Interactions
) -> None:
    """The loss makes logits at the places that are taught only; transformers makes all of them."""
    config = replace(SMALL, ids="sequential", tasks=("sequential",), ahead=3)
    training = Training(data, histories, config)
    model = training.model
    model.module.eval()
    texts, labels = next(training.batches(np.random.default_rng(0)))
    assert len(set((labels >= 0).sum(axis=1).tolist())) > 1
    taught = torch.from_numpy(labels)
    hidden, mask = model._encoded(texts, None, None)
    begun = torch.cat([torch.from_numpy(texts.starts)[:, None], taught[:, :-1]], dim=1)
    logits = model.module.t5(
        encoder_outputs=(hidden,), attention_mask=mask, decoder_input_ids=begun.clamp(min=0)
    ).logits
    own = logits.log_softmax(2).gather(2, taught.clamp(min=0)[..., None])[..., 0]
    wanted = -torch.stack([row[t >= 0].mean() for row, t in zip(own, taught, strict=True)]).mean()
    assert torch.allclose(model.loss(texts, taught), wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def animals() -> Dataset:
    rng = np.random.default_rng(0)
    made = small([rng.permutation(12)[:9] for _ in range(240)], 12)
    genres = tuple((GENRES[i % 3],) for i in range(12))
    return replace(made, titles=tuple(f"The {name} 2" for name in ANIMALS), genres=genres)


@pytest.fixture(scope="module")
def explaining(animals: Dataset) -> T5:
    config = replace(
        SMALL,
        dim=32,
        feed_forward=64,
        rate=6e-3,
        embedding_rate=3e-2,
        dropout=0.0,
        samples=6,
        tasks=("sequential", *["explanation"] * 4),  # most batches
    )
    training = Training(animals, training_clicks(animals), config)
    for _ in range(7):
        training.epoch()
    return training.copy(training.model)


def test_explanations_that_are_taught_are_the_references(animals: Dataset) -> None:
    config = replace(SMALL, tasks=("top-n", "explanation"))
    training = Training(animals, training_clicks(animals), config)
    known, explainer = training.vocabulary, Explainer.of(animals)
    assert set(explainer.words) <= set(known.words)
    items = {int(token): item for item, token in enumerate(known.ids[:, 0])}
    seen = 0
    for text, labels in training.batches(np.random.default_rng(0)):
        if labels.shape[1] == 1:
            continue
        for i in range(len(labels)):
            places = {
                p: items[int(t)] for t, p in zip(text.tokens[i], text.spans[i], strict=True) if p
            }
            item = places.pop(config.max_history + 1)
            history = [places[place] for place in sorted(places, reverse=True)]
            tokens = [token for token in labels[i].tolist() if token >= 0]
            assert tokens[-1] == 1
            assert known.decode(tokens[:-1]) == explainer.reference(history, item)
            seen += 1
    assert seen > 50


def test_a_t5_learns_to_explain(explaining: T5, animals: Dataset) -> None:
    """The template, and the genre of the item that it is asked about."""
    tasks = click_tasks(animals, task_users(animals), "test", num_candidates=None)
    model, explainer = explaining.ask("explanation"), Explainer.of(animals)
    found = model.explain(SlotPrompts(np.zeros((240, 0), np.int64), tasks))
    wanted = [
        explainer.reference(tasks.history(i)[-20:].tolist(), int(tasks.targets[i]))
        for i in range(240)
    ]
    assert found[0].startswith("because you liked the ")
    genres = [[text.split()[-2] for text in texts] for texts in (found, wanted)]
    right = np.mean([a == b for a, b in zip(*genres, strict=True)])
    assert right > 1 / 3 + 4 * (2 / 9 / 240) ** 0.5  # chance, and four standard errors


def test_an_explanation_depends_on_its_user_alone(
    explaining: T5, animals: Dataset, tmp_path: Path
) -> None:
    tasks = click_tasks(animals, task_users(animals)[:40], "test", num_candidates=4)
    ids = np.tile(explaining.vocabulary.encode("drama"), (40, 1))
    model = explaining.ask("explanation")
    before = {name: w.clone() for name, w in model.weights.items()}
    whole = model.explain(SlotPrompts(ids, tasks))
    order = np.random.default_rng(0).permutation(40)
    for rows in (order, np.array([7])):
        assert model.explain(SlotPrompts(ids[rows], tasks.subset(rows))) == [whole[i] for i in rows]
    prefix = np.random.default_rng(1).normal(size=(40, 2, 32)).astype(np.float32)
    assert len(model.explain(PrefixPrompts(prefix, tasks))) == 40
    rankings = model.rank(SlotPrompts(ids, tasks))
    assert rankings.texts == whole
    assert not rankings.named.any()  # a text names no candidate
    assert all(torch.equal(before[name], w) for name, w in model.weights.items())
    explaining.save(tmp_path / "e")
    assert T5.load(tmp_path / "e").ask("explanation").explain(SlotPrompts(ids, tasks)) == whole
    with pytest.raises(InvalidOption, match="use explain"):
        model.scores(SlotPrompts(ids, tasks))
    with pytest.raises(InvalidOption, match="ask"):
        explaining.explain(SlotPrompts(ids, tasks))


# ---------------------------------------------------------------------------------- bad input


def test_unreadable_prompts_are_refused(model: T5, tasks: Any) -> None:
    ids = np.zeros((len(tasks), 1), np.int64)
    for prompts, said in (
        (SlotPrompts(ids[:3], tasks), r"tokens of shape \(3, 1\)"),
        (SlotPrompts(ids.astype(float), tasks), "float64"),
        (SlotPrompts(ids - 1, tasks), "tokens lie in"),
        (SlotPrompts(ids + model.vocabulary.size, tasks), "tokens lie in"),
        (SlotPrompts(ids, tasks, torch.zeros(len(tasks), 2, 16)), "2 vectors came for 1 tokens"),
        (PrefixPrompts(np.zeros((len(tasks), 1, 15)), tasks), "a prefix of shape"),
        (PrefixPrompts(None, tasks, np.zeros((len(tasks), 16))), "leave out the shift"),
    ):
        with pytest.raises(InvalidOption, match=said):
            model.scores(prompts)
    with pytest.raises(InvalidOption, match="'quantum' is no token"):
        model.vocabulary.encode("drama quantum")
    other = load_dataset("movieworld", num_users=50, num_items=110)
    with pytest.raises(InvalidData, match="knows 100 items, movieworld has 110"):
        model.check(other)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 15},
        {"dropout": 1.0},
        {"ids": "random"},
        {"tasks": ()},
        {"tasks": ("sequential", "chat")},
        {"tasks": ("explanation",)},
    ],
)
def test_options_out_of_range_are_refused(wrong: Any) -> None:
    with pytest.raises(InvalidOption):
        replace(SMALL, **wrong)


def test_an_environment_refuses_prompts_that_no_t5_reads(model: T5, data: Dataset) -> None:
    with pytest.raises(InvalidOption, match="T5 reads SlotPrompts or PrefixPrompts"):
        RPPEnv.make(data, model)


def test_without_transformers_the_extra_is_named(
    data: Dataset, histories: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"rpp-env\[transformers\]"):
        train(data, histories, SMALL)


# ---------------------------------------------------------------------------------- files, training


def test_a_file_gives_the_same_recommender(model: T5, tasks: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    model.save(path)
    again = T5.load(path)
    assert again.digest == model.digest
    prompts = slots(tasks, "drama")(model)
    assert torch.equal(again.scores(prompts), model.scores(prompts))
    tensors, about = read_tensors(path)
    for name, changes, without, said in (
        ("a", {"kind": "sasrec"}, "", "holds no T5"),
        ("b", {"dim": 32}, "", "damaged"),
        ("c", {"words": ["one"]}, "", "version|damaged"),
        ("d", {"dim": "wide"}, "", "version"),
        ("e", {}, "whole.weight", "damaged"),
        ("f", {}, "ids", "version"),
        ("g", {"tasks": 3}, "", "version"),
    ):
        kept = {key: tensor for key, tensor in tensors.items() if key != without}
        write_tensors(tmp_path / name, kept, {**about, **changes})
        with pytest.raises(InvalidData, match=said):
            T5.load(tmp_path / name)


def test_training_resumes_to_the_same_bits(
    data: Dataset, histories: Interactions, tmp_path: Path
) -> None:
    config, path = replace(SMALL, epochs=3), tmp_path / "stage.safetensors"
    whole = train(data, histories, config)
    Training(data, histories, config, checkpoint=path).epoch()
    state = torch.random.get_rng_state()
    training = Training(data, histories, config, checkpoint=path)
    while not training.done:
        training.epoch()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert training.best.digest == whole.digest
    assert training.best.validation == whole.validation > 0
    with pytest.raises(InvalidData, match="another seed"):
        Training(data, histories, config, seed=1, checkpoint=path)


def test_training_learns_the_next_item() -> None:
    """Items that follow each other in a ring: the next one is found among all."""
    count, length = 12, 9
    starts = np.arange(240) % count
    data = small(list((starts[:, None] + np.arange(length)) % count), count)
    config = replace(SMALL, dim=32, rate=3e-3, epochs=3, samples=4, tasks=("sequential",))
    model = train(data, training_clicks(data), config)
    tasks = click_tasks(data, task_users(data), "test", num_candidates=None)
    bare = SlotPrompts(np.zeros((240, 0), np.int64), tasks)
    assert ndcg(model.rank(bare).ranks(tasks.position), 10).mean() > 0.9


def test_both_kinds_of_prompts_pass_the_checks(model: T5, data: Dataset) -> None:
    tokens = model.vocabulary.tokens[:4]
    shown = model.embed(torch.from_numpy(tokens)).numpy()
    check_space(TokenPrompts(tokens, shown, ("a", "b")), model, data)
    check_space(VectorPrompts(np.eye(16), ("a", "b")), model, data)
    env = RPPEnv.make(
        data, model, space=TokenPrompts(tokens, shown), rules=Episode("test-v0", 1), num_envs=8
    )
    assert env.recommender is model
