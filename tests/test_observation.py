"""Observations: layout, values, and what they must not depend on."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from rpp_env import (
    BrokenContract,
    HashedNGrams,
    InvalidOption,
    RPPEnv,
)
from rpp_env.embeddings import Embeddings
from rpp_env.models import echo, silent
from rpp_env.observation import LAGS, WINDOWS, Observer, encode, history_context
from rpp_env.sentences import AGENTS
from rpp_env.sentences.space import SentencePrompts

SMALL = {"num_users": 120, "num_items": 100, "num_envs": 6}
SIZES = (5, 5, 9, 5)


@pytest.fixture
def env() -> RPPEnv:
    return RPPEnv.make(model=echo(), **SMALL)


def cut(env: RPPEnv, observations: np.ndarray, name: str) -> np.ndarray:
    return observations[..., env.observer.layout[name]]


# ---- encoders ----


def test_hashed_ngrams_are_unit_vectors_that_know_words_and_their_order() -> None:
    encoder = HashedNGrams()
    a, b, c, d, empty = encoder.encode(
        ["rank the films", "Rank, the films!", "the films rank", "step by step", ""]
    )
    assert np.linalg.norm([a, c, d], axis=1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(a, b)
    assert 0.5 < a @ c < 0.999 > abs(a @ d)
    assert not empty.any()


def test_hashed_ngrams_depend_only_on_the_seed() -> None:
    texts = ["one sentence", "another one"]
    assert np.array_equal(HashedNGrams().encode(texts), HashedNGrams().encode(texts))
    assert not np.array_equal(HashedNGrams(seed=1).encode(texts), HashedNGrams().encode(texts))
    # Pinned: tables that were published would not fit observations that move.
    pinned = (HashedNGrams(8).encode(["rank"]) * np.sqrt(8)).round().astype(int).tolist()
    assert pinned == [[-1, -1, 1, 1, -1, 1, 1, -1]]


@pytest.mark.parametrize("width", [0, 12, 520])
def test_hashed_ngrams_refuse_a_width(width: int) -> None:
    with pytest.raises(InvalidOption, match="multiple of 8"):
        HashedNGrams(width)


def test_outputs_of_an_encoder_are_checked() -> None:
    class Wide(HashedNGrams):
        def encode(self, texts: object) -> np.ndarray:
            return np.zeros((1, 2), np.float32)

    with pytest.raises(BrokenContract, match=r"\(1, 2\) for 2 texts.*\(2, 32\)"):
        encode(Wide(), ["a", "b"])


# ---- the layout ----


def test_the_layout_is_the_one_in_the_docstring(env: RPPEnv) -> None:
    widths = {name: part.stop - part.start for name, part in env.observer.layout.items()}
    assert widths == {
        "user": 32,
        "recency": 20,
        "content": 20,
        "popularity": 2,
        "length": 1,
        "sentences": 32,
        "ranking": 32,
        "named": 1,
        "shown": 1,
        "level": 1,
        "step": 1,
        "own_action": 9,
    }
    starts = [part.start for part in env.observer.layout.values()]
    assert starts == np.cumsum([0, *widths.values()])[:-1].tolist()
    assert env.observation_width == 152
    assert env.state_width == 143 + sum(SIZES) == 167
    import rpp_env.observation as module

    assert all(f"``{name}``" in (module.__doc__ or "") for name in widths)


def test_before_the_first_step_only_known_blocks_are_nonzero(env: RPPEnv) -> None:
    observations, _ = env.reset(seed=0)
    for name in ("sentences", "ranking", "named", "shown", "step", "own_action"):
        assert not cut(env, observations, name).any()
    assert (cut(env, observations, "level") == np.float32(2 / 6)).all()
    assert (cut(env, observations, "length") > 0).all()


def test_blocks_after_a_step(env: RPPEnv) -> None:
    env.reset(seed=0)
    step = env.step(actions := np.array([[1, 4, 8, 2]] * 6))
    observed = step.observations
    assert step.prompts is not None
    sentences = env.encoder.encode([prompt.instructions for prompt in step.prompts])
    assert np.array_equal(cut(env, observed, "sentences")[:, 0], sentences)
    assert (cut(env, observed, "level") == np.float32(4 / 6)).all()
    assert (cut(env, observed, "step") == np.float32(1 / 5)).all()
    assert (cut(env, observed, "named") == 1).all()
    shown = cut(env, observed, "shown")[:, 0, 0]
    assert np.array_equal(shown, (step.infos["shown"] / 50).astype(np.float32))
    own = cut(env, observed, "own_action")
    assert np.array_equal(own.argmax(axis=-1), actions)
    assert (own.sum(axis=-1) == 1).all()


def test_the_ranking_is_the_dcg_weighted_mean_of_named_items(env: RPPEnv) -> None:
    env.reset(seed=0)
    observed = cut(env, env.step([[0, 2, 0, 0]] * 6).observations, "ranking")[:, 0]
    weights = 1 / np.log2(np.arange(20) + 2)
    for row, vector in zip(env.playing, observed, strict=True):
        items = env.embeddings.items[env.tasks.candidates[row]]
        assert vector == pytest.approx(weights @ items / weights.sum(), abs=1e-6)


def test_unnamed_items_are_not_in_the_ranking() -> None:
    env = RPPEnv.make(model=silent(), **SMALL)
    env.reset(seed=0)
    step = env.step([[0, 2, 0, 0]] * 6)
    assert not cut(env, step.observations, "ranking").any()
    assert not cut(env, step.observations, "named").any()


def test_a_ranking_can_be_shown_as_a_sequence() -> None:
    env = RPPEnv.make(model=echo(), ranking="sequence", **SMALL)
    env.reset(seed=0)
    observed = cut(env, env.step([[0, 2, 0, 0]] * 6).observations, "ranking")[:, 0]
    items = env.embeddings.items[env.tasks.candidates[env.playing]]
    assert np.array_equal(observed.reshape(6, 20, 32), items)


def test_the_state_is_the_shared_part_and_all_last_actions(env: RPPEnv) -> None:
    observations, _ = env.reset(seed=0)
    shared = env.observer.shared_width
    assert np.array_equal(env.state()[:, :shared], observations[:, 0, :shared])
    assert not env.state()[:, shared:].any()
    observations = env.step([[1, 2, 8, 4]] * 6).observations
    assert np.array_equal(env.state()[:, :shared], observations[:, 0, :shared])
    expected = np.concatenate([np.eye(n)[a] for n, a in zip(SIZES, (1, 2, 8, 4), strict=True)])
    assert np.array_equal(env.state()[:, shared:], np.tile(expected, (6, 1)))


def test_shared_means_that_agents_differ_in_their_own_action_only(env: RPPEnv) -> None:
    env.reset(seed=0)
    observed = env.step([[1, 2, 3, 4]] * 6).observations
    shared = env.observer.shared_width
    assert (observed[:, :, :shared] == observed[:, :1, :shared]).all()


def test_private_means_that_each_agent_sees_its_own_slices() -> None:
    env, whole = (RPPEnv.make(model=echo(), observe=how, **SMALL) for how in ("private", "shared"))
    for one in (env, whole):
        one.reset(seed=0)
        one.step([[1, 4, 3, 4]] * 6)
    assert env.last_step is not None
    assert whole.last_step is not None
    mine, all_of_it = env.last_step.observations, whole.last_step.observations
    for agent in range(len(AGENTS)):
        seen = {*SentencePrompts.private[agent], "step", "own_action"}
        for name in env.observer.layout:
            part = cut(env, mine, name)[:, agent]
            expected = cut(env, all_of_it, name)[:, agent]
            assert np.array_equal(part, expected if name in seen else 0 * expected), name
    assert np.array_equal(env.state(), whole.state())


@pytest.mark.parametrize("option", [{"observe": "nothing"}, {"ranking": "median"}])
def test_unknown_ways_to_observe_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(InvalidOption, match=f"{next(iter(option))} is '.*; .*t may be "):
        RPPEnv.make(model=echo(), **SMALL, **option)


# ---- what only depends on the task ----


def test_the_history_block_against_its_definition(env: RPPEnv) -> None:
    static = history_context(env.tasks, env.embeddings).values
    for name, vectors in (("recency", env.embeddings.items), ("content", env.embeddings.content)):
        for row in range(0, len(env.tasks), 7):
            history = vectors[env.tasks.history(row)].astype(np.float64)
            means = [history[-window:].mean(axis=0) for window in WINDOWS]
            expected = [np.linalg.norm(mean) for mean in means]
            expected += [
                a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)
                for a, b in combinations(means, 2)
            ]
            expected += [
                (history[lag:] * history[:-lag]).sum(axis=1).mean() if len(history) > lag else 0.0
                for lag in LAGS
            ]
            assert cut(env, static[row], name) == pytest.approx(expected, abs=1e-5)


def test_popularity_length_and_user_against_their_definitions(env: RPPEnv) -> None:
    static = history_context(env.tasks, env.embeddings).values
    for row in range(0, len(env.tasks), 7):
        history = env.tasks.history(row)
        known = env.embeddings.popularity[history]
        expected = [known[-20:].mean(), known[-3:].mean()]
        assert cut(env, static[row], "popularity") == pytest.approx(expected, abs=1e-6)
        assert cut(env, static[row], "length") == pytest.approx(len(history) / 50)
        user = env.embeddings.items[history].mean(axis=0)
        assert cut(env, static[row], "user") == pytest.approx(user, abs=1e-6)


def test_short_histories_and_unknown_items_stay_finite_and_in_range(env: RPPEnv) -> None:
    tasks = env.tasks.subset([0, 1])
    short = replace(
        tasks,
        history_indptr=np.array([0, 1, 3]),
        history_items=np.array([5, 6, 7], dtype=np.int32),
    )
    items = env.embeddings.items.copy()
    items[[5, 6]] = 0
    embeddings = Embeddings(items, env.embeddings.content * 0, env.embeddings.popularity)
    static = history_context(short, embeddings).values
    assert np.isfinite(static).all()
    assert np.abs(static).max() <= 1
    assert not cut(env, static[0], "recency").any()


def begin(observer: Observer, space: SentencePrompts, count: int) -> np.ndarray:
    rows = np.arange(count)
    return observer.begin(rows, space.features(space.start(rows)))


def test_a_task_looks_the_same_whichever_others_there_are(env: RPPEnv) -> None:
    whole = begin(env.observer, env.space, len(env.tasks))
    for rows in ([17], [3, 17, 40], list(range(30))[::-1]):
        subset = env.tasks.subset(rows)
        space = SentencePrompts(env.book, env.rules.lengths, subset, HashedNGrams())
        alone = Observer(subset, env.embeddings, space, env.max_cycles)
        assert np.array_equal(begin(alone, space, len(rows)), whole[rows])
