"""Prompt spaces of sentences, vectors, a codebook and tokens, in everything that uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from small_sasrec import WIDTH, Slotted, small_world, trained

from rpp_env import (
    RULES,
    BrokenContract,
    Dataset,
    HashedNGrams,
    InvalidAction,
    InvalidOption,
    JointEnv,
    LLMRecommender,
    RPPEnv,
    SentenceCatalog,
    TableMismatch,
    TaskSet,
    parallel_env,
    tabulate,
)
from rpp_env.actions import actions_of
from rpp_env.data.candidates import TaskBatch
from rpp_env.episode import Episode
from rpp_env.models import echo
from rpp_env.observation import Context
from rpp_env.prompting import Axis, PromptSpace, Rankings, walk
from rpp_env.sentences import history_labels
from rpp_env.sentences.space import SentencePrompts
from rpp_env.testing import check_space
from rpp_env.tokens import SlotPrompts, TokenPrompts
from rpp_env.vectors import CodebookPrompts, PrefixPrompts, VectorPrompts

NAMES = ("first", "second")
ONE = Episode("test-v0", 1)
SMALL: dict[str, Any] = {"num_users": 120, "num_items": 100}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return small_world()


@pytest.fixture(scope="module")
def sasrec(data: Dataset) -> Any:
    """A small one, trained here."""
    pytest.importorskip("torch", reason="SASRec needs torch")
    return trained(data)


@pytest.fixture(scope="module")
def items(sasrec: Any) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = sasrec.weights["items.weight"].numpy()
    return vectors


# ---- all kinds through everything ----


def test_vectors_of_a_box(data: Dataset, sasrec: Any) -> None:
    check_space(VectorPrompts(np.eye(WIDTH)[:5] * 2, NAMES), sasrec, data)


def test_vectors_of_a_codebook(data: Dataset, sasrec: Any, items: NDArray[np.float32]) -> None:
    check_space(CodebookPrompts(items[:7] * 4, NAMES), sasrec, data)


def test_tokens_in_slots(data: Dataset, sasrec: Any, items: NDArray[np.float32]) -> None:
    tokens = np.arange(3, 12)
    space = TokenPrompts(tokens, items[tokens], NAMES)
    check_space(space, Slotted(sasrec, items), data)


def small_book(rules: Any) -> SentenceCatalog:
    book = SentenceCatalog.load("movies", history_labels(rules.history, rules.history_options))
    return replace(
        book,
        role_playing=book.role_playing[:2],
        reasoning_guidance=book.reasoning_guidance[:2],
        output_format=book.output_format[:1],
    )


@pytest.mark.parametrize("name", RULES)
def test_sentences(data: Dataset, name: str) -> None:
    rules = replace(RULES[name], max_cycles=2)

    def space(tasks: TaskSet) -> SentencePrompts:
        return SentencePrompts(small_book(rules), rules.lengths, tasks, HashedNGrams())

    check_space(space, LLMRecommender(echo()), data, steps=2)


# ---- what a prefix does ----


def test_only_the_prefix_changes_the_ranking(data: Dataset, sasrec: Any) -> None:
    space = VectorPrompts(3 * np.eye(WIDTH), NAMES)
    env = RPPEnv.make(data, sasrec, "test", space=space, rules=ONE, num_envs=32, seed=0)
    env.reset(seed=0)
    rows = env.playing
    codes = np.random.default_rng(0).uniform(-1, 1, (32, 2, WIDTH)).astype(np.float32)
    step = env.step(codes)
    direct = sasrec.rank(PrefixPrompts(3 * codes, env.tasks.subset(rows)))
    assert np.array_equal(step.orders, direct.order)
    expected = direct.ranks(env.tasks.position[rows])
    assert np.array_equal(step.infos["rank"], expected)
    assert isinstance(step.prompts, PrefixPrompts)
    assert step.actions.dtype == np.float32
    seen = step.observations
    assert np.array_equal(seen[:, 0, env.observer.layout["prompt"]], codes.reshape(32, -1))
    assert np.array_equal(seen[:, :, env.observer.layout["own_action"]], codes)
    assert env.state().shape == (32, env.state_width)
    env.reset(seed=0)
    assert not np.array_equal(env.step(-codes).orders, step.orders)


class Silent:
    def rank(self, prompts: SlotPrompts) -> Rankings:
        order = np.tile(np.arange(prompts.tasks.num_candidates), (len(prompts), 1))
        return Rankings(order, np.zeros(len(order), np.int64))


@pytest.mark.parametrize(("options", "own"), [(256, 256), (257, 0), (32_000, 0)])
def test_observations_of_large_vocabularies_stay_narrow(
    data: Dataset, options: int, own: int
) -> None:
    vectors = np.random.default_rng(0).normal(size=(options, 3))
    space = TokenPrompts(np.arange(options), vectors, NAMES)
    env = RPPEnv.make(data, Silent(), "test", space=space, rules=ONE, num_envs=4, seed=0)
    env.reset(seed=0)
    chosen = np.array([[0, 1], [2, 3], [4, 5], [options - 1, 6]])
    step = env.step(chosen)
    layout = env.observer.layout
    assert layout["own_action"].stop - layout["own_action"].start == own
    assert step.observations.shape == (4, 2, env.observer.shared_width + own)
    assert env.state().shape == (4, env.observer.shared_width + 2 * own)
    assert env.actions.masks().shape == (2, options)
    scaled = (vectors / np.abs(vectors).max())[chosen].reshape(4, -1)
    assert np.allclose(step.observations[:, 0, layout["prompt"]], scaled)


def test_a_table_of_a_codebook_belongs_to_it(
    data: Dataset, sasrec: Any, items: NDArray[np.float32], tmp_path: Path
) -> None:
    space = CodebookPrompts(items[:4], NAMES)
    options: dict[str, Any] = {"rules": ONE, "num_envs": 4, "max_users": 6, "seed": 0}
    env = RPPEnv.make(data, sasrec, space=space, **options)
    table = tabulate(env, tmp_path / "train.rpptable")
    assert table.sizes == (4, 4)
    replay = RPPEnv.make(data, f"table:{tmp_path}", space=space, **options)
    for one in (env, replay):
        one.reset(seed=1)
    actions = np.array([[0, 1], [2, 3], [3, 3], [1, 0]])
    assert np.array_equal(env.step(actions).rewards, replay.step(actions).rewards)
    other = CodebookPrompts(items[4:8], NAMES)
    with pytest.raises(TableMismatch, match="made with codebook="):
        RPPEnv.make(data, f"table:{tmp_path}", space=other, **options)
    with pytest.raises(TableMismatch, match="history items can be shown here"):
        RPPEnv.make(data, f"table:{tmp_path}", num_envs=4, max_users=6)
    with pytest.raises(InvalidOption, match="is for prompts of sentences"):
        tabulate(env, shown=[1, 2])


# ---- refusals ----


def test_a_recommender_must_read_the_spaces_prompts(data: Dataset, sasrec: Any) -> None:
    space = VectorPrompts(np.eye(WIDTH))
    with pytest.raises(InvalidOption, match=r"LLMRecommender reads Prompts.*are PrefixPrompts"):
        RPPEnv.make(data, space=space, rules=ONE)
    with pytest.raises(InvalidOption, match=r"SASRec reads PrefixPrompts.*are Prompts"):
        RPPEnv.make(data, sasrec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padded_actions": True}, "padded_actions pads discrete actions"),
        ({"observe": "private"}, "observe='private' needs a prompt space that assigns"),
        ({"rewrite": "embedded"}, "rewrite and encoder are for a catalog of sentences"),
        ({"encoder": HashedNGrams()}, "rewrite and encoder are for a catalog of sentences"),
        ({"book": "movies"}, "a prompt space is given"),
        ({"space": object()}, "object is not a prompt space: it lacks 'agents'"),
        ({"space": None}, "episode 'test-v0' does not define the history lengths"),
    ],
)
def test_contradictory_options_are_refused(
    data: Dataset, options: dict[str, Any], message: str
) -> None:
    class Never:
        def rank(self, prompts: Any) -> Any:
            raise AssertionError

    made = {"space": VectorPrompts(np.eye(WIDTH)), "rules": ONE, **options}
    with pytest.raises(InvalidOption, match=message):
        RPPEnv.make(data, Never(), **made)


def test_wrong_vectors_are_refused_by_name(data: Dataset, sasrec: Any) -> None:
    space = VectorPrompts(np.eye(WIDTH), NAMES)
    options: dict[str, Any] = {"space": space, "rules": ONE, "seed": 0}
    env = RPPEnv.make(data, sasrec, num_envs=2, **options)
    env.reset()
    good = np.zeros((2, 2, WIDTH), np.float32)
    bad, nothing = good.copy(), good.copy()
    bad[1, 1, 3], nothing[0, 0, 0] = 1.5, np.nan
    for actions, message in (
        (bad, r"agent 'second' chose 1.5 as number 3 for user 1; its bounds are -1.0 to 1.0"),
        (nothing, r"agent 'first' chose nan as number 0 for user 0"),
        (good[:, :1], r"shape \(2, 2, 16\).*got float32 of shape \(2, 1, 16\)"),
        (good.astype(object), "got object"),
    ):
        with pytest.raises(InvalidAction, match=message):
            env.step(actions)
    assert env.calls["batches"] == 0
    with pytest.raises(InvalidOption, match="choose vectors"):
        _ = env.nvec
    assert env.action_masks().tolist() == [[1], [1]]
    one = parallel_env(data, sasrec, **options)
    one.reset()
    with pytest.raises(
        InvalidAction, match="step\\(\\) needs 16 numbers from each of first, second"
    ):
        one.step({"first": 3, "second": good[0, 0]})
    assert one.action_space("first") == Box(-1, 1, (WIDTH,), np.float32)
    joint = JointEnv(data, sasrec, **options)
    assert joint.action_space == Box(-1, 1, (2 * WIDTH,), np.float32)
    joint.reset()
    joint.step(joint.action_space.sample())
    assert joint.action_masks().shape == (0,)


@pytest.mark.parametrize(
    "spaces",
    [
        (Discrete(3), Box(-1, 1, (2,))),
        (Discrete(3, start=1),),
        (Box(-1, 1, (2,)), Box(-1, 1, (3,))),
        (Box(-np.inf, 1, (2,)),),
        (Box(-1, 1, (2, 2)),),
    ],
)
def test_unplayable_action_spaces_are_refused(spaces: Sequence[Any]) -> None:
    with pytest.raises(InvalidOption, match="must"):
        actions_of(spaces)


# ---- what observations show ----


def test_contexts_are_further_blocks(data: Dataset, sasrec: Any) -> None:
    def profile(tasks: TaskSet) -> Context:
        values = np.linspace(-1, 1, len(tasks), dtype=np.float32)[:, None]
        return Context({"profile": 1}, values)

    options: dict[str, Any] = {"space": VectorPrompts(np.eye(WIDTH)), "rules": ONE, "num_envs": 4}
    env = RPPEnv.make(data, sasrec, contexts=[profile], **options)
    seen, _ = env.reset(options={"users": [5, 1, 0, 2]})
    expected = np.linspace(-1, 1, len(env.tasks), dtype=np.float32)[[5, 1, 0, 2]]
    assert np.array_equal(seen[:, 0, env.observer.layout["profile"]][:, 0], expected)
    assert list(env.observer.layout)[4:7] == ["length", "profile", "prompt"]
    with pytest.raises(InvalidOption, match="two blocks of an observation have one name"):
        RPPEnv.make(data, sasrec, contexts=[profile, profile], **options)
    with pytest.raises(InvalidOption, match=r"take float32 values of shape \(tasks, 2\)"):
        Context({"a": 1, "b": 1}, np.zeros((3, 1), np.float32))
    with pytest.raises(InvalidOption, match=r"in \[-1, 1\]"):
        Context({"a": 1}, np.full((3, 1), np.nan, np.float32))


# ---- episodes and axes ----


def test_the_papers_order_is_a_tasks_order(data: Dataset) -> None:
    env = RPPEnv.make(data, echo(), rules="RPPPaper-v0", num_envs=3, seed=4)
    env.reset()
    step = env.step(np.zeros((3, 4), np.int64))
    shown = step.tasks
    assert [p.task for p in step.prompts] == list(shown)
    alone = shown.as_set()
    assert [alone.task(i) for i in range(3)] == [replace(p.task) for p in step.prompts]
    assert np.array_equal(alone.targets, env.tasks.targets[step.rows])
    batch = env.episode.tasks(env.tasks, step.rows, np.zeros(3, np.int64), seed=4)
    assert np.array_equal(batch.candidates, shown.candidates)
    assert not np.array_equal(batch.candidates, env.tasks.candidates[step.rows])


def test_a_batch_of_tasks_is_a_sequence(data: Dataset) -> None:
    env = RPPEnv.make(data, echo(), num_envs=3)
    batch = TaskBatch(env.tasks, np.array([4, 0, 4]))
    assert list(batch) == [env.tasks.task(4), env.tasks.task(0), env.tasks.task(4)]
    assert batch[1:] == [env.tasks.task(0), env.tasks.task(4)]
    assert np.array_equal(batch.histories(7), env.tasks.padded_history(7)[[4, 0, 4]])


def test_cells_are_alike_where_their_prompts_are_equal(data: Dataset) -> None:
    rules = RULES["RPP-v0"]
    env = RPPEnv.make(data, echo(), book=small_book(rules), num_envs=4)
    # The latest 1, 4, 9 and all items of four histories.
    tasks = env.tasks.subset(range(4))
    lengths = np.minimum(tasks.history_lengths, [1, 4, 9, 50])
    kept = [tasks.history(i)[len(tasks.history(i)) - n :] for i, n in enumerate(lengths.tolist())]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    short = replace(tasks, history_indptr=indptr, history_items=np.concatenate(kept))
    space = SentencePrompts(small_book(rules), rules.lengths, short, HashedNGrams())
    cells = np.arange(int(np.prod(space.shape)))
    asked = []
    for row in range(4):
        rows = np.full(len(cells), row)
        prompts = space.prompts(space.at(cells, rows), TaskBatch(short, rows), rows)
        first = [prompts.index(prompt) for prompt in prompts]
        assert space.alike(cells, rows).tolist() == first
        asked.append(len(set(first)))
    assert asked[:3] == [4, 16, 24]  # history lengths 1; 1, 2, 3, 4; 1, 2, 3, 5, 8, 9
    live = RPPEnv(short, book=env.book, embeddings=env.embeddings, recommender=env.recommender)
    seen: list[int] = []

    class Counting(LLMRecommender):
        def rank(self, prompts: Sequence[Any]) -> Rankings:
            seen.append(len(prompts))
            return super().rank(prompts)

    live.recommender = Counting(echo())
    tabulate(live)
    assert sum(seen) == sum(asked)


@pytest.mark.parametrize("name", RULES)
def test_walks_equal_the_history_agents_moves(name: str) -> None:
    lengths = RULES[name].lengths
    actions = np.random.default_rng(0).integers(len(lengths.options), size=(9, 6, 1))
    axis = replace(lengths.axis, agent=0)
    found = walk((axis,), actions)[0]
    level = np.full(9, lengths.start)
    for step in range(6):
        level = lengths.next_level(level, actions[:, step, 0])
        assert np.array_equal(found[:, step], level)


def test_a_free_axis_is_reached_at_once() -> None:
    actions, positions = Axis.of(2, 4).route(3, 2)
    assert actions.tolist() == positions.tolist() == [3, 3]


# ---- each promise can be broken, and is noticed ----


@dataclass(frozen=True)
class Lights:
    on: NDArray[np.int64]


class Plain(PromptSpace[Lights, SlotPrompts]):
    """Two agents with three options each, and no more than a space must have."""

    agents = NAMES
    action_spaces = (Discrete(3), Discrete(3))
    shape = (3, 3)
    width = 2

    def start(self, rows: NDArray[np.int64]) -> Lights:
        return Lights(np.full((len(rows), 2), -1))

    def apply(self, state: Lights, actions: NDArray[Any]) -> Lights:
        from rpp_env.prompting import check_choices

        return Lights(check_choices(actions, len(state.on), np.array([3, 3]), self.agents))

    def prompts(self, state: Lights, tasks: TaskBatch, rows: NDArray[np.int64]) -> SlotPrompts:
        return SlotPrompts(state.on, tasks.as_set())

    def features(self, state: Lights) -> NDArray[np.float32]:
        return (state.on / 3).astype(np.float32)

    def cell(self, state: Lights) -> NDArray[np.int64]:
        return state.on.dot(np.array([3, 1]))


class Shifts:
    """Ranks by the prompt alone: candidates turned round by its number."""

    def rank(self, prompts: SlotPrompts) -> Rankings:
        turns = prompts.ids.dot(np.array([3, 1]))
        K = prompts.tasks.num_candidates
        order = (np.arange(K) + turns[:, None]) % K
        return Rankings(order, np.full(len(order), K))


def test_a_space_with_no_more_than_it_must_have(data: Dataset) -> None:
    check_space(Plain(), Shifts(), data)


def wide(space: PromptSpace[Any, Any]) -> None:
    space.features = lambda state: np.full((len(state.on), 2), 2, np.float32)  # type: ignore[method-assign]


def narrow(space: PromptSpace[Any, Any]) -> None:
    space.features = lambda state: np.zeros((len(state.on), 1), np.float32)  # type: ignore[method-assign]


def any_action(space: PromptSpace[Any, Any]) -> None:
    space.apply = lambda state, actions: Lights(np.array(actions))  # type: ignore[method-assign, assignment]


def changes(space: PromptSpace[Any, Any]) -> None:
    apply = space.apply

    def changed(state: Any, actions: Any) -> Any:
        state.on[0] = 0
        return apply(state, actions)

    space.apply = changed  # type: ignore[method-assign]


def elsewhere(space: PromptSpace[Any, Any]) -> None:
    space.cell = lambda state: state.on.dot(np.array([1, 3]))  # type: ignore[method-assign]


def lost(space: PromptSpace[Any, Any]) -> None:
    space.at = lambda cells, rows: Lights(np.zeros((len(rows), 2), np.int64))  # type: ignore[method-assign]


def one_name(space: PromptSpace[Any, Any]) -> None:
    space.agents = ("same", "same")


def other(space: PromptSpace[Any, Any]) -> None:
    space.makes = PrefixPrompts


def nameless(space: PromptSpace[Any, Any]) -> None:
    space.agents = ("a", "b")
    apply = space.apply

    def renamed(state: Any, actions: Any) -> Any:
        try:
            return apply(state, actions)
        except InvalidAction:
            raise InvalidAction("no") from None

    space.apply = renamed  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "how",
    [wide, narrow, any_action, changes, elsewhere, lost, one_name, other, nameless],
    ids=lambda how: how.__name__,
)
def test_a_broken_space_is_caught(data: Dataset, how: Callable[[Any], None]) -> None:
    space = Plain()
    how(space)
    with pytest.raises(BrokenContract):
        check_space(space, Shifts(), data)


def test_a_recommender_that_looks_at_the_batch_is_caught(data: Dataset) -> None:
    class Batched(Shifts):
        def rank(self, prompts: SlotPrompts) -> Rankings:
            found = super().rank(prompts)
            return replace(found, order=(found.order + len(found.order)) % found.order.shape[1])

    with pytest.raises(BrokenContract, match="other prompts of the batch"):
        check_space(Plain(), Batched(), data)


def test_a_learner_must_play(data: Dataset) -> None:
    class Off:
        def act(self, observations: Any, *_: Any, **__: Any) -> Any:
            return np.full((len(observations), 2), 9), None

    with pytest.raises(InvalidAction, match="chose 9"):
        check_space(Plain(), Shifts(), data, learners=[lambda env, eval_env: Off()])
