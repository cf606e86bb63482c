"""Checks of the contracts that the environment relies on, for your own parts: ``check_model(m)``.

Each function returns None, or raises `BrokenContract` with what was promised and what came.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from rpp_env.core import RPPEnv, Space
from rpp_env.data.candidates import TaskBatch
from rpp_env.data.dataset import Dataset
from rpp_env.episode import Episode
from rpp_env.errors import BrokenContract, InvalidAction, InvalidOption
from rpp_env.evaluation.baselines import Policy, search_fixed
from rpp_env.evaluation.diagnose import Reference, diagnose
from rpp_env.evaluation.evaluate import evaluate
from rpp_env.joint import JointEnv, JointVectorEnv
from rpp_env.models.base import Generation, LanguageModel, Reply, Request
from rpp_env.observation import Encoder, encode
from rpp_env.parallel import parallel_env, raw_env
from rpp_env.prompting import Recommender, walk
from rpp_env.rewriting import Rewrite, check_rewritten
from rpp_env.sentences import SentenceCatalog
from rpp_env.sentences.prompt import Prompt
from rpp_env.table import RewardTable, tabulate
from rpp_env.task import Ranking, RankingTask

__all__ = [
    "check_encoder",
    "check_model",
    "check_recommender",
    "check_rewrite",
    "check_space",
    "example_prompts",
]


Ints = NDArray[np.int64]


def example_prompts(domain: str = "movies") -> list[Prompt]:
    """Make a dozen prompts over made-up titles, with every output format and several users."""
    titles = [f"{first} {second}" for first in _FIRST for second in _SECOND]
    book = SentenceCatalog.load(domain)
    prompts = []
    for user in range(12):
        shown = titles[user : user + 16]
        task = RankingTask(
            f"user {user}", tuple(shown[:6]), tuple(shown[6:]), shown[6 + user % 10], domain
        )
        actions = [user % size for size in book.sizes]
        prompts.append(Prompt(task, book.choose(np.array([actions]))[0], 1 + user % 6))
    return prompts


def check_model(
    model: LanguageModel,
    prompts: Sequence[Prompt] | None = None,
    generation: Generation | None = None,
) -> None:
    """Check a language model by sending it a dozen requests a few times.

    It must return one reply per request, none for none, with plausible token counts. A model that
    declares itself ``"deterministic"`` must return the same reply to the same request, wherever it
    stands in any batch. For a slow model, give a few `prompts` and a `generation` of few tokens.

    Raises
    ------
    BrokenContract
        If a check fails.
    """
    _expect(isinstance(model, LanguageModel), f"{_name(model)} lacks a part of LanguageModel")
    _expect(_is(str, model.id) and model.id != "", "model.id must be a text that is not empty")
    _expect(model.context_length > 0, "model.context_length must be above 0")
    known = {"choices", "grammar", "likelihood", "deterministic"}
    _expect(
        set(model.capabilities) <= known,
        f"model.capabilities may hold {sorted(known)}; got {sorted(model.capabilities)}",
    )
    asked = [
        Request(tuple(prompt.messages), generation or Generation())
        for prompt in (example_prompts() if prompts is None else prompts)
    ]
    _expect(list(model.complete([])) == [], "complete([]) must return []")
    together = _complete(model, asked)
    for reply in together:
        _expect(_is(Reply, reply) and _is(str, reply.text), f"not a Reply: {reply!r}")
        _expect(min(reply.prompt_tokens, reply.completion_tokens) >= 0, "tokens must be counts")
    if "deterministic" in model.capabilities:
        texts = [reply.text for reply in together]
        for what, again in (
            ("asked again", _complete(model, asked)),
            ("in the opposite order", _complete(model, asked[::-1])[::-1]),
            ("one at a time", [reply for one in asked for reply in _complete(model, [one])]),
        ):
            _expect(
                [reply.text for reply in again] == texts,
                f"a deterministic model must answer the same when {what}",
            )


def check_recommender(
    recommender: Recommender[Any],
    prompts: Sequence[Prompt] | Callable[[Ints], Any] | None = None,
    count: int = 12,
) -> None:
    """Check a recommender on a dozen prompts: one ranking each, over all candidates, in order.

    Give `prompts` of your own for a recommender that only knows its own catalogue or reads no
    sentences: a function that takes indices (some of 0 to `count` - 1) and returns these prompts in
    that order. `check_space` does so for the prompts of a space. A recommender must rank the same
    way in any batch, so one that samples fails.

    Raises
    ------
    BrokenContract
        If a check fails.
    """
    _expect(isinstance(recommender, Recommender), f"{_name(recommender)} has no rank(prompts)")
    if callable(prompts):
        make, sizes = prompts, None
    else:
        asked = list(example_prompts() if prompts is None else prompts)
        sizes = [len(prompt.task.candidates) for prompt in asked]
        count = len(asked)

        def make(numbers: Ints) -> Any:
            return [asked[i] for i in numbers.tolist()]

    def rank(numbers: Ints) -> list[Ranking]:
        return list(recommender.rank(make(numbers)))

    every = np.arange(count)
    _expect(rank(every[:0]) == [], "rank must return nothing for no prompts")
    together = rank(every)
    _expect(len(together) == count, f"rank returned {len(together)} rankings for {count} prompts")
    for ranking, size in zip(together, sizes or [len(r.order) for r in together], strict=True):
        _expect(
            _is(Ranking, ranking) and sorted(ranking.order) == list(range(size)),
            f"a ranking must order all {size} candidates; got {ranking!r}",
        )
    _expect(
        rank(every[::-1])[::-1] == together,
        "a ranking must not depend on the order of the batch",
    )
    _expect(
        [ranking for i in every for ranking in rank(every[i : i + 1])] == together,
        "a ranking must not depend on the other prompts of the batch",
    )


_ENVS = 4
Learner = Callable[["RPPEnv", "RPPEnv"], Policy]
"""Takes an environment to train in and one to evaluate in, and returns a policy."""


def check_space(
    space: Space,
    recommender: Recommender[Any],
    dataset: str | Dataset,
    *,
    learners: Sequence[Learner] = (),
    load: Callable[[Path], Policy] | None = None,
    steps: int = 2,
    seed: int = 0,
    **options: Any,
) -> None:
    """Check a prompt space, with a recommender that reads its prompts, in every use of it.

    Checks the space's own functions; the recommender on its prompts (`check_recommender`); the
    core; a table, `diagnose` and the best fixed prompt if the space has a `shape`, and that they
    are refused if it has none; `evaluate`; PettingZoo's and Gymnasium's checks; and learners.

    Parameters
    ----------
    space : PromptSpace or callable
        As `RPPEnv` takes it.
    recommender : Recommender
    dataset : str or Dataset
        The users to play: 24 of the training split, and 24 of the test split.
    learners : sequence of callable
        Trainers and bandits: ``learn(env, eval_env)`` returns a policy.
    load : callable, optional
        Reads a policy that a learner's policy has saved; the two must act alike.
    steps : int
        Steps of an episode.
    seed : int
    **options
        As `RPPEnv.make` takes them.

    Raises
    ------
    BrokenContract
        If a check fails.
    """
    episode = Episode("check-v0", steps)
    made: dict[str, Any] = {"space": space, "rules": episode, "seed": seed, **options}
    train, test = (
        RPPEnv.make(dataset, recommender, split, num_envs=_ENVS, max_users=24, **made)
        for split in ("train", "test")
    )
    rng = np.random.default_rng(seed)
    _check_functions(train, rng)
    rows = np.arange(min(12, len(train.tasks)))
    actions = train.observer.actions.drawn(rng, (len(rows), len(train.agents)))

    def ask(numbers: Ints) -> Any:
        state = train.space.apply(train.space.start(rows[numbers]), actions[numbers])
        return train.space.prompts(state, TaskBatch(train.tasks, rows[numbers]), rows[numbers])

    check_recommender(recommender, ask, len(rows))
    _check_play(train, rng)
    kept = _check_tables(train, test, made)
    _check_reports(*kept)
    _check_libraries(dataset, recommender, made)
    for learn in learners:
        _check_learner(learn, load, *kept)


def _check_functions(env: RPPEnv, rng: np.random.Generator) -> None:
    """Check the functions of a space."""
    space, count = env.space, len(env.space.agents)
    name = _name(space)
    _expect(
        len(set(space.agents)) == count == len(space.action_spaces),
        f"{name} must have one action space for each of its agents, with different names",
    )
    _expect(sum(space.blocks.values()) == space.width, f"{name}.blocks must add up to its width")
    rows = np.arange(len(env.tasks))[:6]
    state = space.start(rows)
    for _ in range(3):
        before = _bytes(state)
        actions = env.observer.actions.drawn(rng, (len(rows), count))
        after, again = space.apply(state, actions), space.apply(state, actions)
        _expect(_bytes(state) == before, f"{name}.apply must not change the state")
        _expect(_bytes(after) == _bytes(again), f"{name}.apply must return the same for the same")
        for stage, at in (("start", state), ("apply", after)):
            seen = space.features(at)
            _expect(
                seen.shape == (len(rows), space.width) and seen.dtype == np.float32,
                f"{name}.features must be float32 of shape (users, {space.width}) after {stage}; "
                f"got {seen.dtype} of {seen.shape}",
            )
            _expect(
                bool((np.abs(seen) <= 1).all()),
                f"{name}.features must lie in [-1, 1] after {stage}",
            )
        state = after
    prompts = space.prompts(state, TaskBatch(env.tasks, rows), rows)
    if space.makes is not None:
        _expect(
            isinstance(prompts, space.makes),
            f"{name}.makes is {space.makes.__name__}, but its prompts are {_name(prompts)}",
        )
    for wrong in (actions[:, :0], actions[:1], np.full(actions.shape, "x")):
        _refused(partial(space.apply, state, wrong), f"{name}.apply", "of another shape or kind")
    high = np.array(actions)
    first = space.action_spaces[-1]
    high[2, -1] = first.n if isinstance(first, Discrete) else first.high + 1
    refusal = _refused(lambda: space.apply(state, high), f"{name}.apply", "out of bounds")
    _expect(
        repr(space.agents[-1]) in refusal,
        f"{name}.apply must name the agent whose action it refuses: {refusal}",
    )
    if space.shape is not None:
        _check_cells(env, rng)


def _check_cells(env: RPPEnv, rng: np.random.Generator) -> None:
    """Check prompt indices and axes."""
    space, steps, name = env.space, env.max_cycles, _name(env.space)
    assert space.shape is not None
    cells = math.prod(space.shape)
    axes = tuple(map(len, space.axes))
    _expect(axes == space.shape, f"{name}.axes have lengths {axes}, and its shape is {space.shape}")
    rows = rng.integers(len(env.tasks), size=32)
    plans = env.observer.actions.drawn(rng, (len(rows), steps, len(space.agents)))
    where = walk(space.axes, plans)
    state = space.start(rows)
    for step in range(steps):
        state = space.apply(state, plans[:, step])
        expected = np.ravel_multi_index(tuple(where[:, :, step]), space.shape)
        _expect(
            np.array_equal(space.cell(state), expected),
            f"{name}.cell must be where its axes lead",
        )
    some = rng.integers(cells, size=len(rows))
    _expect(
        np.array_equal(space.cell(space.at(some, rows)), some), f"{name}.at must be cell's inverse"
    )
    alike = space.alike(some, rows)
    _expect(
        bool((alike <= some).all()) and np.array_equal(space.alike(alike, rows), alike),
        f"{name}.alike must return the first of the indices with equal prompts",
    )


def _check_play(env: RPPEnv, rng: np.random.Generator) -> None:
    """Check episodes of the core."""
    rows = np.arange(min(6, len(env.tasks)))
    plan = env.observer.actions.drawn(rng, (env.max_cycles, len(rows), len(env.agents)))

    def play(some: Ints) -> list[Any]:
        seen: list[Any] = [env.reset(seed=0, options={"users": rows[some]})[0]]
        for actions in plan:
            step = env.step(actions[some])
            seen += [step.observations, step.rewards, step.orders, env.state()]
        return seen

    every = np.arange(len(rows))
    together = play(every)
    for what, some in (("again", every), ("in another order", every[::-1]), ("alone", every[2:3])):
        _expect(
            all(
                np.array_equal(mine, both[some])
                for mine, both in zip(play(some), together, strict=True)
            ),
            f"{_name(env.space)}: users who play {what} must see and earn the same",
        )


def _check_tables(train: RPPEnv, test: RPPEnv, made: dict[str, Any]) -> tuple[RPPEnv, RPPEnv]:
    """Replace live environments by tables and compare; unchanged if there are no tables."""
    if train.space.shape is None:
        _refused(lambda: tabulate(train), "tabulate", "infinitely many", InvalidOption)
        return train, test
    kept = []
    for env in (train, test):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "check.rpptable"
            table = tabulate(env, path)
            kept.append(
                RPPEnv(
                    env.tasks,
                    rules=env.episode,
                    space=made["space"],
                    embeddings=env.embeddings,
                    table=RewardTable.load(path),
                    num_envs=_ENVS,
                    seed=made["seed"],
                )
            )
        assert table.sizes == env.space.shape
    rng = np.random.default_rng(0)
    live, replay = train, kept[0]
    for one in (live, replay):
        one.reset(seed=0)
    for _ in range(live.max_cycles):
        actions = live.observer.actions.drawn(rng, (live.num_envs, len(live.agents)))
        played, replayed = live.step(actions), replay.step(actions)
        _expect(
            played.observations.tobytes() == replayed.observations.tobytes()
            and played.rewards.tobytes() == replayed.rewards.tobytes(),
            f"a table of {_name(live.space)} must return what the recommender returned",
        )
    return kept[0], kept[1]


def _check_reports(train: RPPEnv, test: RPPEnv) -> None:
    """Check `evaluate` and `diagnose`."""
    shaped = train.space.shape is not None
    lines = ("random", "fixed") if shaped else ("random",)
    report = evaluate(
        _Still(test), test, baselines=lines, train_env=train if shaped else None, resamples=20
    )
    _expect({*lines, "policy"} <= set(report.lines), "evaluate must report every line")
    if shaped:
        diagnose(train, test, reference=_blind(train), resamples=20).markdown()
    else:
        _refused(lambda: search_fixed(train), "search_fixed", "infinitely many", InvalidOption)


def _check_libraries(
    dataset: str | Dataset, recommender: Recommender[Any], made: dict[str, Any]
) -> None:
    """Run PettingZoo's parallel and AEC checks, Gymnasium's checks of one user and of many."""
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        # The suites warn about names, spaces of different sizes, and environments without an id.
        warnings.simplefilter("ignore")
        from pettingzoo.test.api_test import api_test
        from pettingzoo.test.parallel_test import parallel_api_test

        parallel = parallel_env(dataset, recommender, max_users=4, render_mode="ansi", **made)
        parallel_api_test(parallel, num_cycles=6)
        parallel.reset(seed=0)
        for again in range(2):
            text = parallel.render()
            _expect(isinstance(text, str), f"render must return a text (call {again})")
            spaces = parallel.action_spaces
            parallel.step({agent: spaces[agent].sample() for agent in parallel.possible_agents})
        cast("Any", api_test)(raw_env(dataset, recommender, max_users=4, **made), num_cycles=6)
        joint = JointEnv(dataset, recommender, max_users=4, **made)
        check_env(joint, skip_render_check=True)
        many = JointVectorEnv(3, dataset, recommender, max_users=4, **made)
    observations, _ = many.reset(seed=0)
    for _ in range(2 * many.core.max_cycles + 1):
        _expect(many.observation_space.contains(observations), "a state must lie in its space")
        observations, rewards, *_ = many.step(many.action_space.sample())
        _expect(rewards.shape == (3,), "a batch must return one reward per user")


def _check_learner(
    learn: Learner, load: Callable[[Path], Policy] | None, train: RPPEnv, test: RPPEnv
) -> None:
    """Check that a learner's policy can be played, evaluated, saved and loaded."""
    policy = learn(train, test)
    report = evaluate(policy, test, baselines=("random",), resamples=20)
    scores = report.scores["policy"].metric("ndcg@10")
    _expect(bool(np.isfinite(scores).all()), "a learner's policy must earn finite rewards")
    if load is None:
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy"
        policy.save(path)  # type: ignore[attr-defined]
        again = load(path)
    seen, _ = test.reset(seed=0, options={"users": np.arange(min(4, len(test.tasks)))})
    masks = test.action_masks()
    acted = [player.act(seen, masks, greedy=True)[0] for player in (policy, again)]
    _expect(
        np.array_equal(acted[0], acted[1]), "a policy that was saved and loaded must act the same"
    )


class _Still:
    """Draws actions once, and repeats them at every step."""

    def __init__(self, env: RPPEnv) -> None:
        rng = np.random.default_rng(0)
        self._choice = env.observer.actions.drawn(rng, (1, len(env.agents)))

    def act(
        self,
        observations: NDArray[np.float32],
        masks: Any = None,  # noqa: ARG002 - the drawn actions are legal
        greedy: bool = False,  # noqa: ARG002 - there is nothing to sample
        memory: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        return np.repeat(self._choice, len(observations), axis=0), memory


def _blind(env: RPPEnv) -> Reference:
    """Make a reference that prefers the first prompts, in place of a fitted one."""
    sizes = env.space.shape or ()
    wished = -np.arange(math.prod(sizes), dtype=np.float32)
    return Reference(
        lambda seen: np.tile(wished, (len(seen), 1)),
        env.space.axes,
        env.max_cycles,
        np.arange(min(3, len(wished))),
    )


def _bytes(state: Any) -> list[bytes]:
    values = (getattr(state, field.name) for field in fields(state))
    return [np.asarray(value).tobytes() for value in values]


def _refused(
    call: Callable[[], Any], name: str, why: str, error: type[Exception] = InvalidAction
) -> str:
    """Return the message of the error that `call` must raise."""
    try:
        call()
    except error as refusal:
        return str(refusal)
    raise BrokenContract(f"{name} must refuse what is {why}, by {error.__name__}")


def check_encoder(encoder: Encoder, texts: Sequence[str] | None = None) -> None:
    """Check an encoder: shape, dtype and range of its vectors, and independence of the batch.

    Raises
    ------
    BrokenContract
        If a check fails.
    """
    _expect(isinstance(encoder, Encoder), f"{_name(encoder)} lacks width or encode(texts)")
    if texts is None:
        texts = ["", *(prompt.instructions for prompt in example_prompts())]
    together = encode(encoder, texts)
    encode(encoder, [])
    _expect(len(np.unique(together, axis=0)) > 1, "different texts must not all have one vector")
    for what, again in (
        ("asked again", encode(encoder, texts)),
        ("in the opposite order", encode(encoder, texts[::-1])[::-1]),
        ("one at a time", np.concatenate([encode(encoder, [text]) for text in texts])),
    ):
        # Not to the bit: a network's matrix products depend on the batch in their last bits.
        _expect(
            bool(np.allclose(again, together, atol=1e-5)),
            f"the vector of a text must be the same when {what}",
        )


def check_rewrite(rewrite: Rewrite, prompts: Sequence[Prompt] | None = None) -> None:
    """Check a rewriter: every prompt comes back in its place, with only its sentences changed.

    A prompt must be rewritten the same way in any batch, and whatever the target is, so a rewriter
    that samples anew each time fails (`LLMRewriter` caches its replies).

    Raises
    ------
    BrokenContract
        If a check fails.
    """
    _expect(callable(rewrite), f"{_name(rewrite)} cannot be called with prompts")
    asked = list(example_prompts() if prompts is None else prompts)

    def sentences(given: Sequence[Prompt]) -> list[str]:
        made = list(rewrite(list(given)))
        check_rewritten(made, given)
        return [prompt.instructions for prompt in made]

    together = sentences(asked)
    _expect(sentences([]) == [], "no prompts must be rewritten to none")
    for what, again in (
        ("asked again", sentences(asked)),
        ("in the opposite order", sentences(asked[::-1])[::-1]),
        ("one at a time", [played for one in asked for played in sentences([one])]),
        ("another candidate is the target", sentences([_another_target(one) for one in asked])),
    ):
        _expect(again == together, f"a prompt must be rewritten the same when {what}")


def _another_target(prompt: Prompt) -> Prompt:
    task = prompt.task
    other = task.candidates[(task.position + 1) % len(task.candidates)]
    return replace(prompt, task=replace(task, target=other))


_FIRST = ("Silent", "Golden", "Broken", "Hidden", "Distant", "Burning")
_SECOND = ("River", "Garden", "Letter", "Winter", "Station", "Mirror")


def _complete(model: LanguageModel, asked: Sequence[Request]) -> list[Reply]:
    replies = list(model.complete(asked))
    _expect(
        len(replies) == len(asked),
        f"complete returned {len(replies)} replies to {len(asked)} requests",
    )
    return replies


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise BrokenContract(message)


def _is(kind: type, thing: object) -> bool:
    return isinstance(thing, kind)


def _name(thing: Any) -> str:
    return type(thing).__name__
