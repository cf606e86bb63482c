"""Pretrained sentence encoders: the recipe of their model cards, and refused folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_models import real_model

import rpp_env
from rpp_env import RPPEnv, SentenceTransformerEncoder
from rpp_env.errors import InvalidData, InvalidOption, MissingExtra
from rpp_env.observation import open_encoder
from rpp_env.testing import check_encoder

TEXTS = ["a film of the user", "a list of films , ranked by how the user likes a film", "films", ""]
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a film films of the user list , ranked by how likes".split()
POOLING = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT of random weights, in a folder as sentence-transformers writes it."""
    transformers = pytest.importorskip("transformers")
    import torch

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        )
    ).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = transformers.BertTokenizerFast(vocab=vocabulary)
    tokenizer.save_pretrained(folder)
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"idx": i, "type": f"sentence_transformers.models.{k}"} for i, k in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "encoder")
    return tmp_path / "encoder"


def as_the_card_says(folder: Path, texts: list[str], most: int) -> np.ndarray:
    """The recipe of all-MiniLM-L6-v2's card: a padded batch, its attention mask, normalised."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=most, return_tensors="pt"
    )
    with torch.no_grad():
        vectors = AutoModel.from_pretrained(folder)(**tokens)[0]
    mask = tokens["attention_mask"].unsqueeze(-1).expand(vectors.size()).float()
    means = (vectors * mask).sum(1) / torch.clamp(mask.sum(1), min=1e-9)
    return torch.nn.functional.normalize(means, p=2, dim=1).numpy()


def test_vectors_are_those_of_the_cards_recipe(folder: Path) -> None:
    encoder = SentenceTransformerEncoder(str(folder), width=32)
    check_encoder(encoder, TEXTS)
    mine, wanted = encoder.encode(TEXTS), as_the_card_says(folder, TEXTS, 12)
    # A projection to the full width is a rotation: all products stay.
    np.testing.assert_allclose(mine @ mine.T, wanted @ wanted.T, atol=1e-5)
    cut = as_the_card_says(folder, TEXTS, 6)
    assert not np.allclose(mine @ mine.T, cut @ cut.T, atol=1e-3)


def test_vectors_are_projected_by_a_seed(folder: Path) -> None:
    encoder = SentenceTransformerEncoder(str(folder), width=8)
    check_encoder(encoder, TEXTS)
    assert encoder.width == 8
    other = SentenceTransformerEncoder(str(folder), width=8, seed=1)
    assert not np.allclose(other.encode(TEXTS), encoder.encode(TEXTS))
    with pytest.raises(InvalidOption, match=r"1\.\.32"):
        SentenceTransformerEncoder(str(folder), width=33)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("1_Pooling/config.json", None),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}),
        ("1_Pooling/config.json", {**POOLING, "pooling_mode_max_tokens": True}),
        ("1_Pooling/config.json", []),
        ("modules.json", None),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}]),
        ("modules.json", {"type": 1}),
        ("sentence_bert_config.json", {"max_seq_length": "long"}),
        ("model.safetensors", None),
    ],
)
def test_a_folder_of_another_model_is_refused(folder: Path, file: str, content: Any) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(json.dumps(content))
    with pytest.raises(InvalidData, match="encoder"):
        SentenceTransformerEncoder(str(folder))


def test_environments_take_an_encoder_by_its_name(made: Path) -> None:
    seen = []
    for encoder in ("hashed", str(made)):
        env = RPPEnv.make("movieworld", num_users=300, num_items=100, num_envs=4, encoder=encoder)
        env.reset(seed=0)
        seen.append(env.step(np.zeros((4, 4), int)).observations)
    assert open_encoder(str(made)) is env.encoder  # loaded once
    block = env.observer.layout["sentences"]
    assert not np.allclose(seen[0][..., block], seen[1][..., block])
    np.testing.assert_array_equal(
        np.delete(seen[0], range(block.start, block.stop), axis=-1),
        np.delete(seen[1], range(block.start, block.stop), axis=-1),
    )


def test_names_of_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path))
    assert open_encoder(None) is None
    assert open_encoder("hashed") is None
    with pytest.raises(InvalidOption, match=r"run `rpp-env model get minilm`"):
        rpp_env.parallel_env(encoder="minilm")
    with pytest.raises(InvalidOption, match=r"did you mean 'minilm'.*A folder"):
        open_encoder("mini-lm")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"rpp-env\[transformers\]"):
        SentenceTransformerEncoder()


def test_minilm() -> None:
    folder = real_model("minilm")
    encoder = SentenceTransformerEncoder(str(folder), width=384)
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "A violin is played."]
    mine, wanted = encoder.encode(texts), as_the_card_says(folder, texts, 256)
    np.testing.assert_allclose(mine @ mine.T, wanted @ wanted.T, atol=1e-5)
    alike = mine[0] @ mine.T
    assert alike[1] == pytest.approx(0.7553, abs=1e-3)  # as sentence-transformers has it
    assert alike[2] < 0.2
    check_encoder(SentenceTransformerEncoder(str(folder)))
