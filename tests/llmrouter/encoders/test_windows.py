import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from llmrouter.encoders._windows import (
    CHARACTERS_PER_TOKEN,
    EXACT_COUNT_CHARACTERS,
    WindowedTokenizer,
    spread_slices,
    spread_starts,
)


def numbers(max_windows, window_tokens):
    """A tokenizer whose token ids are the numbers that the text is made of."""
    tokenizer = Tokenizer(models.WordLevel({str(number): number for number in range(20_000)}, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=7)
    return WindowedTokenizer(tokenizer, max_windows=max_windows, window_tokens=window_tokens)


def text(count):
    return " ".join(str(number) for number in range(1, count + 1))


def test_up_to_the_limit_windows_are_consecutive_and_whole():
    tokenizer = numbers(4, 10)
    assert tokenizer.windows("") == []
    assert tokenizer.windows(text(1)) == [[1]]
    for count in (9, 10, 11, 20, 35, 39, 40):
        windows = tokenizer.windows(text(count))
        assert [token for window in windows for token in window] == list(range(1, count + 1))
        assert all(len(window) == 10 for window in windows[:-1])


def test_above_the_limit_windows_are_spread_with_head_and_tail():
    windows = numbers(4, 10).windows(text(70))
    assert [window[0] for window in windows] == [1, 21, 41, 61]
    assert all(window == list(range(window[0], window[0] + 10)) for window in windows)
    assert windows[-1][-1] == 70
    assert [window[0] for window in numbers(1, 10).windows(text(70))] == [1]


def test_far_above_the_limit_only_slices_are_tokenized():
    tokenizer = numbers(4, 10)
    count = 15_000
    assert len(text(count)) > 4 * 10 * CHARACTERS_PER_TOKEN
    windows = tokenizer.windows(text(count))
    assert len(windows) == 4
    assert all(len(window) == 10 for window in windows)
    assert windows[0] == list(range(1, 11))
    assert windows[-1][-3:] == [count - 2, count - 1, count]
    middle = [max(window) for window in windows[1:-1]]
    assert 1000 < middle[0] < middle[1] < count


def test_work_is_bounded_by_the_settings_and_not_by_the_text():
    seen = []

    class Counting(WindowedTokenizer):
        def __init__(self, inner):
            self._tokenizer, self._words = inner, None
            self.max_windows, self.window_tokens = 4, 10

    class Recorder:
        def __init__(self, tokenizer):
            self._inner = tokenizer

        def encode_batch_fast(self, texts, **options):
            seen.append(sum(map(len, texts)))
            return self._inner.encode_batch_fast(texts, **options)

    Counting(Recorder(numbers(4, 10)._tokenizer)).windows("7 " * 5_000_000)
    assert seen == [4 * 10 * CHARACTERS_PER_TOKEN]


def test_together_is_the_same_as_one_by_one():
    tokenizer = numbers(4, 10)
    texts = [text(count) for count in (0, 1, 10, 45, 500, 15_000, 3)]
    assert tokenizer.windows_of_all(texts) == [tokenizer.windows(each) for each in texts]
    short = texts[:4]
    assert tokenizer.windows_of_all(short) == [tokenizer.windows(each) for each in short]
    assert tokenizer.windows_of_all([]) == []


def test_dropped_tokens_leave_before_windows_are_cut():
    tokenizer = numbers(4, 3)
    assert tokenizer.windows("1 0 2 0 0 3 4", drop=0) == [[1, 2, 3], [4]]
    assert tokenizer.windows("0 0", drop=0) == []


def test_counts_are_exact_then_estimated():
    tokenizer = numbers(1, 1)
    assert tokenizer.count("") == 0
    exact = "5 " * (EXACT_COUNT_CHARACTERS // 2)
    assert tokenizer.count(exact) == EXACT_COUNT_CHARACTERS // 2
    assert tokenizer.count("5 " * EXACT_COUNT_CHARACTERS) == pytest.approx(EXACT_COUNT_CHARACTERS, rel=0.001)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 3000))
def test_spread_pieces_begin_at_the_head_and_end_at_the_tail(count, length, extra):
    total = count * length + extra
    starts = spread_starts(total, count, length)
    assert len(starts) == count
    assert starts[0] == 0
    assert count == 1 or starts[-1] + length == total
    assert all(later - earlier >= length for earlier, later in itertools.pairwise(starts))
    assert [len(piece) for piece in spread_slices("x" * total, count, length)] == [length] * count
