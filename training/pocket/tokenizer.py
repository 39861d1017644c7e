"""The tokenizer: common instruction words are one token each, everything else is bytes.

A pre-token (a word with the blank before it, a run of digits, punctuation) that is in the vocabulary becomes one
token; any other falls apart into its UTF-8 bytes. So prompts stay short, payload words are seen letter by letter,
and every text whatsoever can be encoded and decoded back. Technically a byte-level BPE without merges.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (PAD, USER, ASSISTANT, END)
WORD_PATTERN = r" ?[A-Za-z]+|[0-9]| ?[^A-Za-z0-9\s]|\s"

CHAT_TEMPLATE = (
    "{#- Pocket models answer one question at a time: only the last user message is rendered. -#}"
    "{%- set asked = messages | selectattr('role', 'equalto', 'user') | list -%}"
    "{%- set content = asked[-1]['content'] if asked else '' -%}"
    "{%- if content is string -%}{%- set text = content -%}{%- else -%}"
    "{%- set text = content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') -%}"
    "{%- endif -%}"
    "<|user|>{{ text | trim }}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def instruction_words() -> list[str]:
    """Return the words of all *train* phrasings, as they occur (a word only in test phrasings gets no token)."""
    from training.pocket.tasks import TASKS
    from training.pocket.wrappers import PREFIXES, REQUESTS, SUFFIXES

    texts = [template for task in TASKS.values() for template in task.phrasings.train]
    texts += [*PREFIXES["train"], *REQUESTS["train"], *SUFFIXES["train"]]
    words: set[str] = set()
    for text in texts:
        for match in re.finditer(r"(^| )([A-Za-z]+)", re.sub(r"\{\w+\}", "0", text)):
            word, starts = match.group(2), match.start() == 0
            if len(word) < 2:
                continue
            words.add(" " + word.lower())
            words.add(" " + word)
            if starts:
                words.update((word, word.lower()))
    return sorted(words)


def byte_alphabet() -> list[str]:
    """Return the 256 printable stand-ins for bytes that byte-level pre-tokenizers use, in a fixed order."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def unit_words() -> list[str]:
    """Return the names of units: instruction words too, though they come in slots."""
    from training.pocket.lexicon import UNITS

    return sorted({" " + name for unit in UNITS for group in unit[:2] for name in group if len(name) > 1})


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the one tokenizer that all pocket models share."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *byte_alphabet()])}
    for word in [*instruction_words(), *unit_words()]:
        vocabulary.setdefault(word.replace(" ", "Ġ"), len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def byte_ids(text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Encode an answer byte by byte: models write letters, never whole words."""
    from tokenizers.pre_tokenizers import ByteLevel

    pieces = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    ids = tokenizer.convert_tokens_to_ids([character for piece, _ in pieces for character in piece])
    return list(ids)
