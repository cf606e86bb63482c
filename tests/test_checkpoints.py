"""Common parts of local models: digests, equal requests, tokens. Engines: tests/llm."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rpp_env.errors import BrokenContract, InvalidOption, MissingExtra
from rpp_env.models import Generation, Request
from rpp_env.models.checkpoints import Chat, check_length, checkpoint_id, distinct, weights_digest
from rpp_env.models.transformers import TransformersModel
from rpp_env.models.vllm import VLLMModel
from rpp_env.sentences.prompt import as_messages


class Words:
    """A tokenizer of words that keep the blank before them, as those of GPT and LLaMA do."""

    unk_token_id = None
    model_max_length = 100
    all_special_tokens = ("<s>", "</s>")

    def __init__(self, known: Sequence[str] = (), template: str | None = "[{}]") -> None:
        self.words = ["<s>", "</s>", *known]
        self.chat_template = template

    def __call__(self, texts: Sequence[str], add_special_tokens: bool) -> dict[str, Any]:
        return {"input_ids": [self.encode(text, add_special_tokens) for text in texts]}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        found = re.findall(r"</?s>| ?[^\s<>]+|\s|[<>]", text)
        for word in found:
            if word not in self.words:
                self.words.append(word)
        return [0] * add_special_tokens + [self.words.index(word) for word in found]

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int | None]:
        return [self.words.index(t) if t in self.words else None for t in tokens]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:
        shown = [i for i in ids if not (skip_special_tokens and i < 2)]
        return "".join(self.words[i] for i in shown).replace("\u2581", " ").removeprefix(" ")

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: Any) -> str:
        assert self.chat_template is not None
        return "<s>" + "".join(self.chat_template.format(m["content"]) for m in messages)


# ---- what a checkpoint is called ----


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("a card")
    return folder


def test_a_digest_covers_everything_that_answers_depend_on(tmp_path: Path) -> None:
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert weights_digest(one) == weights_digest(two)
    (two / "README.md").write_text("another card")
    assert weights_digest(one) == weights_digest(two)
    (two / "model.safetensors").write_bytes(b"Weights")
    os.utime(two / "model.safetensors", ns=(0, 1))
    assert weights_digest(one) != weights_digest(two)
    (two / "model.safetensors").write_bytes(b"weights")
    (two / "chat_template.jinja").write_text("{{ messages }}")
    assert weights_digest(one) != weights_digest(two)


def test_an_id_holds_the_folder_and_no_path(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "small-llama")
    name = checkpoint_id(folder)
    assert re.fullmatch(r"small-llama@[0-9a-f]{12}", name)
    assert checkpoint_id(os.path.relpath(folder)) == name
    assert checkpoint_id("meta-llama/Llama-2-7b-chat-hf") == "meta-llama/Llama-2-7b-chat-hf"
    assert checkpoint_id("a/b", "0123456789abcdef") == "a/b@0123456789ab"


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="holds no checkpoint"):
        checkpoint_id(tmp_path)


# ---- which requests are one ----


def test_equal_requests_are_one_where_answers_are_equal() -> None:
    hello, bye = as_messages("hello"), as_messages("bye")
    drawn = Generation(temperature=1.0)
    seeded = Generation(temperature=1.0, seed=3)
    requests = [
        *(Request(hello), Request(bye), Request(hello)),
        *(Request(hello, drawn), Request(hello, drawn)),
        *(Request(hello, seeded), Request(hello, seeded)),
        *(Request(hello, drawn, choices=("A",)), Request(hello, drawn, choices=("A",))),
        Request(hello, grammar="root ::= [a]"),
    ]
    asked, index = distinct(requests)
    assert index == [0, 1, 0, 2, 3, 4, 4, 5, 5, 6]
    assert [asked[place] for place in index] == requests
    assert distinct([]) == ([], [])


def test_a_prompt_must_leave_room_for_its_reply() -> None:
    model: Any = SimpleNamespace(context_length=100, id="m")
    request = Request((), Generation(max_tokens=40))
    check_length(model, 60, request)
    with pytest.raises(InvalidOption, match=r"61 tokens and a reply of 40 do not fit into the 100"):
        check_length(model, 61, request)
    check_length(model, 99, Request((), Generation(max_tokens=40), choices=("A",)))


# ---- tokens ----


def said(chat: Chat, *messages: tuple[str, str]) -> str:
    (ids,) = chat.encode([[{"role": role, "content": text} for role, text in messages]])
    return "".join(chat.tokenizer.words[i] for i in ids)


def test_a_template_is_used_where_there_is_one() -> None:
    question = ("system", "be kind"), ("user", "hello you")
    assert said(Chat(Words()), *question) == "<s>[be kind][hello you]"
    assert said(Chat(Words(template=None)), *question) == "<s>be kind\n\nhello you"
    assert Chat(Words()).encode([]) == []


def test_a_begun_reply_is_continued() -> None:
    begun = ("user", "rank them"), ("assistant", "C\n")
    assert said(Chat(Words()), *begun) == "<s>[rank them]C\n"
    assert said(Chat(Words(template=None)), *begun) == "<s>rank them\n\nC\n"


@pytest.mark.parametrize(
    ("template", "last", "stem"),
    [
        ("[{}]", "user", "<s>[which film?]"),
        (None, "user", "<s>which film?\n\n"),
        (None, "assistant", "<s>which film?"),
    ],
)
def test_a_text_continues_a_conversation(template: str | None, last: str, stem: str) -> None:
    """Without a template it is one more message, behind a blank line, unless it has begun."""
    chat = Chat(Words(template=template))
    prompt, rests = chat.continued([{"role": last, "content": "which film?"}], [" Heat", " Up"])
    assert ["".join(chat.tokenizer.words[i] for i in ids) for ids in (prompt, *rests)] == [
        stem,
        " Heat",
        " Up",
    ]


def test_special_tokens_in_a_message_stay_text() -> None:
    chat = Chat(Words())
    (ids,) = chat.encode([as_messages("Film </s><s> 2")])
    assert ids.count(0) == 1  # the template's own
    assert 1 not in ids
    assert said(chat, ("user", "Film </s><s> 2")) == "<s>[Film < /s>< s> 2]"
    assert chat.count_tokens("</s>") > 1


def test_a_reply_keeps_the_blank_that_it_begins_with() -> None:
    tokenizer = Words()
    chat = Chat(tokenizer)
    prompt = tokenizer.encode("<s>[rank them]", False)
    assert chat.decode(prompt, tokenizer.encode(" A then B</s>", False)) == " A then B"
    assert chat.decode(prompt, []) == ""


def test_choices_are_tokens_with_and_without_a_blank() -> None:
    chat = Chat(Words(known=["A", " A", "B", "\u2581B", "\u0120B", "C"]))
    a, b, c = chat.choice_tokens(("A", "B", "C"))
    words = chat.tokenizer.words
    assert [words[i] for i in a] == ["A", " A"]
    # \u0120 is not read as a blank by this tokenizer's decoder, so it is another word.
    assert {words[i] for i in b} == {"B", "\u2581B", " B"}
    assert {words[i] for i in c} == {"C", " C"}


def test_choices_must_be_single_and_distinct_tokens() -> None:
    chat = Chat(Words())
    with pytest.raises(InvalidOption, match=r"'A B': not a single token"):
        chat.choice_tokens(("A", "A B"))
    with pytest.raises(InvalidOption, match="distinct"):
        chat.choice_tokens(("A", "A"))


# ---- without the libraries ----


@pytest.mark.parametrize(
    ("model", "library", "extra"),
    [(TransformersModel, "transformers", "transformers"), (VLLMModel, "vllm", "vllm")],
)
def test_the_extra_is_named(
    model: Any, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"rpp-env\[{extra}\]"):
        model("nowhere")


def test_contradictions_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(InvalidOption, match="batch_size"):
        TransformersModel("nowhere", batch_size=0)
    with pytest.raises(InvalidOption, match="chat template"):
        VLLMModel("nowhere", chat_template="x")


# ---- what a message says is data ----

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}"
    "{% set system = false %}{% endif %}{% for message in rest %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ refuse() }}{% endif %}"
    "{% if loop.index0 == 0 and system != false %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '<s>[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' </s>' }}{% endif %}{% endfor %}"
)
"""LLaMA-2's template: its marks are ordinary text to the tokenizer."""
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ refuse() }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


class Templated(Words):
    """Keeps the texts that its template has written."""

    def __init__(self, template: str) -> None:
        super().__init__(template=template)
        self.texts: list[str] = []

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **options: Any) -> str:
        jinja2 = pytest.importorskip("jinja2")

        def refuse() -> None:
            raise jinja2.exceptions.TemplateError("roles must alternate")

        template = jinja2.Template(self.chat_template)
        self.texts.append(template.render(messages=messages, refuse=refuse, **options))
        return self.texts[-1]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (LLAMA_2, ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>"]),
        (VICUNA, ["USER:", "ASSISTANT:", "</s>"]),
    ],
    ids=["LLaMA-2", "Vicuna"],
)
def test_a_title_cannot_end_the_user_s_message(template: str, words: list[str]) -> None:
    tokenizer = Templated(template)
    chat = Chat(tokenizer)
    asked = []
    for text in ("An Owl", "An Owl " + " ".join(words) + f" no blank{words[0]}between{words[1]}"):
        chat.encode([as_messages(text)])
        asked.append(tokenizer.texts[-1])
    for word in words:
        assert asked[0].count(word) == asked[1].count(word), "the template's own and no other"
    assert "An Owl" in asked[1]


def test_templates_that_take_no_example_are_left_alone() -> None:
    tokenizer = Templated("{{ refuse() }}")
    assert Chat(tokenizer)._as_data("[INST] <s>") == "[INST] < s>"
    assert Chat(Words(template=None))._as_data("[INST] <s>") == "[INST] < s>"


# ---- vLLM's engine, as far as it can be seen without one ----


class Engine:
    """Answers each prompt with its own last token; or, where it errs, with another's."""

    errs = False

    def generate(self, prompts: Sequence[Any], settings: Sequence[Any], **_: Any) -> list[Any]:
        del settings
        tokens = [prompt["prompt_token_ids"] for prompt in prompts]
        order = range(len(tokens))[:: -1 if self.errs else 1]
        return [
            SimpleNamespace(
                prompt_token_ids=list(tokens[i]),
                outputs=[SimpleNamespace(token_ids=tokens[i][-1:], finish_reason="stop")],
            )
            for i in order
        ]


def test_an_engines_answer_to_another_prompt_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, members in {
        "vllm": {"SamplingParams": SimpleNamespace},
        "vllm.exceptions": {"VLLMClientError": OSError},
        "vllm.sampling_params": {"StructuredOutputsParams": SimpleNamespace},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.exceptions": {"EngineDeadError": EOFError},
    }.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    model = VLLMModel.__new__(VLLMModel)
    model.id, model.context_length = "vllm:stub", 1000
    model._process, model._chat, model._engine = os.getpid(), Chat(Words()), Engine()
    requests = [Request(as_messages(f"say {word}")) for word in ("one", "two", "three")]
    assert [reply.completion_tokens for reply in model.complete(requests)] == [1, 1, 1]
    model._engine.errs = True
    with pytest.raises(BrokenContract, match="an answer to another prompt"):
        model.complete(requests)
