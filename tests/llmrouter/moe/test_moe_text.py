"""Incremental text: joined pieces equal the whole, characters stay whole, stop strings end it anywhere."""

import random

import pytest
from tiny_checkpoints import make_tokenizer

from llmrouter.moe._text import TextStream
from llmrouter.moe._vocabulary import Vocabulary

TEXT = "naïve 東京 🙂🚀 Größe\n  two  spaces, Ελλάδα 👩‍👩‍👧 and the quick brown fox. " * 3


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(make_tokenizer())


def feed(stream, tokens):
    pieces = []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            return pieces
    return [*pieces, stream.finish()]


def test_pieces_join_to_the_text_and_hold_no_half_characters(vocabulary):
    pieces = feed(TextStream(vocabulary), vocabulary.encode(TEXT, special_tokens=False))
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(map(bool, pieces)) > 20


def test_a_character_cut_at_the_end_becomes_one_replacement(vocabulary):
    tokens = vocabulary.encode("ok 🚀", special_tokens=False)
    stream = TextStream(vocabulary)
    pieces = feed(stream, tokens[:-1])
    assert "".join(pieces) == "ok \ufffd"
    assert "\ufffd" not in "".join(pieces[:-1])


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_never_lose_or_repeat_text(vocabulary, seed):
    draw = random.Random(seed)
    tokens = [draw.randrange(3, 320) for _ in range(draw.randrange(1, 120))]
    joined = "".join(feed(TextStream(vocabulary), tokens))
    assert joined == vocabulary.decode(tokens)


def test_a_long_run_of_broken_bytes_is_not_held_forever(vocabulary):
    half = vocabulary.encode("東", special_tokens=False)[0]
    stream = TextStream(vocabulary)
    pieces = [stream.push(half) for _ in range(200)]
    assert sum(map(len, pieces)) > 100


def test_special_tokens_have_no_text(vocabulary):
    start, end = (vocabulary._tokenizer.convert_tokens_to_ids(t) for t in ("<|start|>", "<|end|>"))
    tokens = vocabulary.encode("a b", special_tokens=False)
    assert "".join(feed(TextStream(vocabulary), [start, *tokens, end, *tokens])) == "a ba b"


@pytest.mark.parametrize("stop", ["brown", "k b", "fox.", "京 🙂", "🚀", "n", "\n  two"])
def test_stop_strings_end_the_text_wherever_token_borders_fall(vocabulary, stop):
    stream = TextStream(vocabulary, [stop, "never there"])
    pieces = feed(stream, vocabulary.encode(TEXT, special_tokens=False))
    assert stream.stopped
    assert "".join(pieces) == TEXT[: TEXT.index(stop)]


def test_the_earliest_of_several_stop_strings_counts(vocabulary):
    stream = TextStream(vocabulary, ["fox", "brown", "quick brown"])
    pieces = feed(stream, vocabulary.encode("the quick brown fox", special_tokens=False))
    assert "".join(pieces) == "the "


def test_a_stop_string_that_only_begins_is_released_at_the_end(vocabulary):
    stream = TextStream(vocabulary, ["fox jumps"])
    pieces = feed(stream, vocabulary.encode("the fox", special_tokens=False))
    assert "".join(pieces) == "the fox"
    assert pieces[-1].endswith("fox")
    assert not stream.stopped


def test_token_bytes_join_to_the_text(vocabulary):
    tokens = vocabulary.encode(TEXT, special_tokens=False)
    assert b"".join(map(vocabulary.token_bytes, tokens)).decode() == TEXT
    assert vocabulary.token_bytes(2) == b"<|end|>"


def test_tokens_of_sentencepiece_vocabularies():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", "▁two", "wo", *(f"<0x{byte:02X}>" for byte in range(256))]
    core = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<unk>"))
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>"))
    emoji = [4 + byte for byte in "🚀".encode()]
    assert vocabulary.token_bytes(2) == b" two"
    assert b"".join(map(vocabulary.token_bytes, emoji)) == "🚀".encode()
    pieces = feed(TextStream(vocabulary), [2, 2, *emoji, 3])
    assert "".join(pieces) == "two two🚀wo"
    assert not any("\ufffd" in piece for piece in pieces)
