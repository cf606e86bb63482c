"""vLLM's engine and transformers give the same replies with one checkpoint."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_env.errors import BrokenContract, InvalidOption, ModelUnavailable
from rpp_env.models import Generation, Reply, Request
from rpp_env.models.transformers import TransformersModel
from rpp_env.models.vllm import VLLMModel
from rpp_env.recommenders import LikelihoodRecommender
from rpp_env.sentences.leads import FORMS, ContinuedPrompt
from rpp_env.sentences.prompt import LETTERS, Prompt, as_messages
from rpp_env.testing import check_model, check_recommender

GENERATION = Generation(max_tokens=24)
SHORT = 2048
"""Tokens of the engine's context and of one of its passes: the checkpoint reads 8,192."""


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[VLLMModel]:
    model = VLLMModel(checkpoint, max_model_len=SHORT, max_num_batched_tokens=SHORT)
    yield model
    model.close()


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> TransformersModel:
    return TransformersModel(checkpoint, device="cpu", batch_size=16)


@pytest.fixture(scope="module")
def both(engine: VLLMModel, plain: TransformersModel) -> tuple[VLLMModel, TransformersModel]:
    return engine, plain


def ask(prompts: Sequence[Prompt], generation: Generation = GENERATION) -> list[Request]:
    return [Request(prompt.messages, generation) for prompt in prompts]


def choose(prompts: Sequence[Prompt]) -> list[Request]:
    return [
        Request(as_messages(p.lettered()), choices=tuple(LETTERS[: len(p.task.candidates)]))
        for p in prompts
    ]


# ---- the contract ----


def test_both_keep_the_contract(both: Any, prompts: list[Prompt]) -> None:
    for model in both:
        check_model(model, prompts[:3], GENERATION)


def test_alone_transformers_is_deterministic(checkpoint: Path, prompts: list[Prompt]) -> None:
    model = TransformersModel(checkpoint, device="cpu", batch_size=1)
    assert "deterministic" in model.capabilities
    check_model(model, prompts[:2], GENERATION)


def test_ids_name_the_weights_and_no_path(both: Any, checkpoint: Path) -> None:
    engine, plain = both
    assert engine.id.startswith("vllm:smollm2@")
    assert plain.id.startswith("hf:smollm2@")
    for model in both:
        assert "float32" in model.id
        assert str(checkpoint.parent) not in model.id
    assert (engine.context_length, plain.context_length) == (SHORT, 8192)
    assert engine.id.split()[0].partition(":")[2] == plain.id.split()[0].partition(":")[2]


# ---- likelihoods ----


def test_likelihoods_are_equal_and_prompts_come_from_the_prefix_cache(
    both: Any, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, plain = both
    assert "likelihood" in engine.capabilities
    read, cached = 0, 0

    def run(self: VLLMModel, prompts: Any, settings: Any) -> Any:
        nonlocal read, cached
        outputs = original(self, prompts, settings)
        read += sum(len(output.prompt_token_ids) for output in outputs)
        cached += sum(output.num_cached_tokens for output in outputs)
        return outputs

    original = VLLMModel._run
    monkeypatch.setattr(VLLMModel, "_run", run)
    monkeypatch.setattr("rpp_env.models.vllm.MOST_TOKENS", 4)  # six titles in two questions
    requests = []
    for prompt in prompts[:2]:
        lead = prompt.lead()
        titles = prompt.task.candidates
        requests.append(Request(lead.messages, continuations=lead.continuations(titles)))
    for one, other in zip(engine.complete(requests), plain.complete(requests), strict=True):
        np.testing.assert_allclose(one.choice_logprobs, other.choice_logprobs, rtol=0, atol=2e-3)
        assert one.choice_tokens == other.choice_tokens
        assert one.prompt_tokens == other.prompt_tokens
    assert cached > 0.6 * read
    few = [ContinuedPrompt(prompt.task, FORMS["list"], prompt.shown) for prompt in prompts[:2]]
    check_recommender(LikelihoodRecommender(engine, "pmi"), few)


def test_an_engine_that_gives_no_likelihoods_is_refused(
    engine: VLLMModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in ([0.0, 0.0], [float("nan"), -1.0], None):

        def scores(self: VLLMModel, branches: Any, given: Any = answer) -> Any:
            if given is None:
                raise BrokenContract("nothing came back")
            return [given]

        monkeypatch.setattr(VLLMModel, "_scores", scores)
        vars(engine).pop("capabilities", None)
        assert engine.capabilities == {"choices", "grammar"}
        with pytest.raises(InvalidOption, match="needs the log-probabilities of given texts"):
            LikelihoodRecommender(engine)
        monkeypatch.undo()
    vars(engine).pop("capabilities", None)


# ---- the same replies ----


def test_replies_are_equal_at_temperature_0(both: Any, prompts: list[Prompt]) -> None:
    engine, plain = both
    requests = ask(prompts)
    fast, slow = engine.complete(requests), plain.complete(requests)
    differ = [i for i in range(len(requests)) if fast[i] != slow[i]]
    margins = [margin(plain, requests[i], fast[i], slow[i]) for i in differ]
    assert max(margins, default=0.0) < 0.001
    assert len(differ) <= 0.01 * len(requests), margins


def margin(model: TransformersModel, request: Request, fast: Reply, slow: Reply) -> float:
    """How much more probable, in logits, the better of two tokens was where replies part."""
    (prompt,) = model._chat.encode([request.messages])
    alone = model._generate(
        [prompt], max_new_tokens=request.generation.max_tokens, output_logits=True
    )
    written = alone.sequences[0, len(prompt) :].tolist()
    other = fast.text if model._chat.decode(prompt, written) == slow.text else slow.text
    for i, logits in enumerate(alone.logits):
        if not other.startswith(model._chat.decode(prompt, written[: i + 1])):
            best = logits[0].float().topk(2).values
            return float(best[0] - best[1])
    # The other one goes on where this one ends.
    best = alone.logits[-1][0].float().topk(2).values
    return float(best[0] - best[1])


def test_letters_are_equally_probable(both: Any, prompts: list[Prompt]) -> None:
    engine, plain = both
    requests = choose(prompts)
    fast, slow = engine.complete(requests), plain.complete(requests)
    for one, other, request in zip(fast, slow, requests, strict=True):
        assert one.choice_logprobs is not None
        assert other.choice_logprobs is not None
        assert len(one.choice_logprobs) == len(request.choices or ())
        np.testing.assert_allclose(one.choice_logprobs, other.choice_logprobs, atol=1e-3)
        assert (one.prompt_tokens, one.completion_tokens) == (other.prompt_tokens, 1)
        best = int(np.argmax(one.choice_logprobs))
        assert one.text == (request.choices or ())[best]


def test_all_52_letters_can_be_ranked(both: Any) -> None:
    request = Request(as_messages("Which letter?"), choices=tuple(LETTERS))
    one, other = (model.complete([request])[0].choice_logprobs for model in both)
    assert np.isfinite(one).all()
    np.testing.assert_allclose(one, other, atol=1e-3)
    assert len(set(one)) == 52


def test_a_begun_reply_is_continued(both: Any, prompts: list[Prompt]) -> None:
    """The letter after two others, as the structured way of ranking asks for it."""
    letters = tuple(LETTERS[: len(prompts[0].task.candidates)])
    question = as_messages(prompts[0].lettered(whole=True))
    begun = Request((*question, {"role": "assistant", "content": "C\nA\n"}), choices=letters)
    first = Request(question, choices=letters)
    for model in both:
        one, other = model.complete([begun, first])
        assert one.prompt_tokens > other.prompt_tokens
        assert one.choice_logprobs != other.choice_logprobs
    one, other = (model.complete([begun])[0].choice_logprobs for model in both)
    np.testing.assert_allclose(one, other, atol=1e-3)


# ---- what a request may ask for ----


def test_replies_stop_at_stop_texts(both: Any, prompts: list[Prompt]) -> None:
    whole = both[0].complete(ask(prompts[:8]))
    # What half of these replies have in their middle.
    stop = whole[0].text[len(whole[0].text) // 2 :][:2]
    stopped = ask(prompts[:8], Generation(max_tokens=24, stop=(stop,)))
    short = ask(prompts[:8], Generation(max_tokens=3))
    for model in both:
        for reply, full in zip(model.complete(stopped), whole, strict=True):
            assert reply.text == full.text.partition(stop)[0]
            assert reply.completion_tokens <= full.completion_tokens
            if stop in full.text:
                assert reply.finish_reason == "stop"
        for reply, full in zip(model.complete(short), whole, strict=True):
            assert full.text.startswith(reply.text)
            assert (reply.completion_tokens, reply.finish_reason) == (3, "length")


def test_sampling_follows_its_seed(both: Any, prompts: list[Prompt]) -> None:
    drawn = ask(prompts[:4], Generation(temperature=2.0, top_p=0.95, max_tokens=24, seed=7))
    free = ask(prompts[:1] * 4, Generation(temperature=2.0, max_tokens=24))
    for model in both:
        together = [reply.text for reply in model.complete(drawn)]
        assert [reply.text for one in drawn for reply in model.complete([one])] == together
        assert len({reply.text for reply in model.complete(free)}) > 1


def test_many_seeds_at_once(engine: VLLMModel) -> None:
    """More prompt tokens than one pass takes: read in parts, each would end the engine."""
    settings = Generation(temperature=0.7, seed=0, max_tokens=2)
    long = [Request(as_messages(f"{i} " + "word " * 300), settings) for i in range(8)]
    assert sum(reply.prompt_tokens for reply in engine.complete(long)) > SHORT


def test_equal_requests_are_sent_once(
    both: Any, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, plain = both
    asked: list[int] = []
    generate, written = engine._engine.generate, plain._write
    monkeypatch.setattr(
        engine._engine, "generate", lambda p, *a, **k: asked.append(len(p)) or generate(p, *a, **k)
    )
    monkeypatch.setattr(plain, "_write", lambda p, *a: asked.append(len(p)) or written(p, *a))
    requests = ask([prompts[i] for i in (3, 1, 3, 2, 1, 3)], Generation(max_tokens=8))
    for model in both:
        asked.clear()
        replies = model.complete(requests)
        assert sum(asked) == 3
        assert replies[0] == replies[2] == replies[5]
        assert replies[1] == replies[4]


def test_a_grammar_holds_the_reply(both: Any, prompts: list[Prompt]) -> None:
    engine, plain = both
    grammar = 'root ::= ("alpha" | "beta") " " [0-9] [0-9]'
    held = [Request(p.messages, Generation(max_tokens=40), grammar=grammar) for p in prompts[:5]]
    for reply in engine.complete(held):
        name, _, number = reply.text.partition(" ")
        assert name in {"alpha", "beta"}
        assert number.isdigit()
        assert len(number) == 2
    with pytest.raises(InvalidOption, match="vLLM refuses"):
        engine.complete([Request(prompts[0].messages, grammar="root ::= (((")])
    with pytest.raises(InvalidOption, match="cannot hold a reply to a grammar"):
        plain.complete(held)


def test_all_kinds_of_requests_in_one_call(engine: VLLMModel, prompts: list[Prompt]) -> None:
    kinds = [
        *choose(prompts[:2]),
        *ask(prompts[:2], Generation(max_tokens=12)),
        *ask(prompts[:1], Generation(max_tokens=12, stop=("\n",))),
        Request(prompts[0].messages, Generation(max_tokens=9), grammar='root ::= "yes" | "no"'),
    ]
    mixed = engine.complete(kinds)
    apart = [reply for request in kinds for reply in engine.complete([request])]
    assert [reply.text for reply in mixed] == [reply.text for reply in apart]


# ---- refusals ----


def test_unsupported_requests_are_refused(both: Any, prompts: list[Prompt]) -> None:
    good = ask(prompts[:1], Generation(max_tokens=4))[0]
    before = both[0].complete([good]), both[1].complete([good])
    for model in both:
        with pytest.raises(InvalidOption, match="not a single token"):
            model.complete([good, Request(as_messages("x"), choices=("A", "first of all"))])
        with pytest.raises(InvalidOption, match=f"do not fit into the {model.context_length}"):
            model.complete([good, Request(as_messages("word " * 9000))])
        assert model.complete([]) == []
    assert (both[0].complete([good]), both[1].complete([good])) == before


def test_an_interrupted_call_leaves_nothing_behind(
    engine: VLLMModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = ask(prompts[:3], Generation(max_tokens=8))
    before = engine.complete(good)
    step = engine._engine.llm_engine.step
    steps = iter(range(5))

    def interrupted() -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(engine._engine.llm_engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.complete(ask(prompts[:20]))
    monkeypatch.undo()
    assert engine.complete(good) == before


def test_an_engine_that_has_ended_is_unavailable(
    engine: VLLMModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    def ended(*_: Any, **__: Any) -> Any:
        raise EngineDeadError

    monkeypatch.setattr(engine._engine, "generate", ended)
    with pytest.raises(ModelUnavailable, match="has ended"):
        engine.complete(ask(prompts[:1]))


def test_transformers_is_sent_to_other_processes_and_an_engine_is_not(both: Any) -> None:
    engine, plain = both
    copy = pickle.loads(pickle.dumps(plain))  # noqa: S301 - our own
    assert copy.id == plain.id
    with pytest.raises(InvalidOption, match="another process"):
        pickle.dumps(engine)


def kept(checkpoint: str) -> str:
    """Make an engine without closing it."""
    globals()["engine of this process"] = model = VLLMModel(checkpoint, max_model_len=256)
    return model.id


def test_an_engine_ends_with_its_process(checkpoint: Path, engine: VLLMModel) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        name = pool.submit(kept, str(checkpoint)).result()
        (process,) = pool._processes.values()
    # The pool waited for its process, which waited for the engine; it would wait for ever.
    assert name == engine.id
    assert process.exitcode == 0


def test_no_checkpoint_no_model(tmp_path: Path) -> None:
    for model in (VLLMModel, TransformersModel):
        with pytest.raises(InvalidOption, match="holds no checkpoint"):
            model(tmp_path)
