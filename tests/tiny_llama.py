"""A tiny random LLaMA, made in a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TITLES = ("Alien", "Aliens", "Alien 3", "Up", "Jaws", "Heat", "...And Justice for All", "Help!")


def random_llama(
    folder: Path,
    texts: Sequence[str],
    *,
    context: int = 4096,
    split: bool = True,
    lower: bool = False,
) -> None:
    """Save a LLaMA of two small layers, random weights, and a tokenizer fitted to `texts`.

    Parameters
    ----------
    folder : Path
    texts : sequence of str
    context : int
        Most tokens that it reads.
    split : bool
        Whether words are split before they are made tokens, as most tokenizers do.
    lower : bool
        Whether the tokenizer reads all letters as small ones.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split)
    tokenizer.decoder = decoders.ByteLevel()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<pad>", "</s>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    fast.add_special_tokens({"pad_token": "<pad>", "eos_token": "</s>"})
    fast.chat_template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,  # so that some tokens are clearly more probable than others
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).half().save_pretrained(folder)
    fast.save_pretrained(folder)
