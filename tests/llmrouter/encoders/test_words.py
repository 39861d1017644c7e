import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from llmrouter.encoders import _words
from llmrouter.encoders._static import DEFAULT_FOLDER
from llmrouter.encoders._windows import WindowedTokenizer, read_tokenizer
from llmrouter.encoders._words import Words

WORDS = (
    "the",
    "The",
    "routes",
    "unbelievably",
    "x_1",
    "don't",
    "3.14",
    "qzxv",
    "a" * 40,
    "b" * 120,
    "[UNK]",
    "[unk]",
    "[x]",
)
TEXT = st.lists(
    st.one_of(
        st.sampled_from(WORDS), st.text(st.characters(max_codepoint=127)), st.text(), st.sampled_from("\t\n\r\x0b\x1c")
    ),
    max_size=12,
)


PLAIN = (
    "a plain question, is it not?",
    "",
    " \t\n",
    "def f(x):\n\treturn {x: [1]}",
    "b" * 120,
    "it\u2019s naïve \u2014 \u201cquite\u201d so",
    "ca\x00t a\x0bb \x7f",
    "日本 Привет, мир! e\u0301te\u0301 \u0301x",
    "a\u00a0b\u2028c d\u3000e",
)


@pytest.fixture(scope="module", params=[True, False], ids=["lower", "cased"])
def tokenizer(request):
    tokenizer = read_tokenizer(DEFAULT_FOLDER / "tokenizer.json")
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=request.param)
    return tokenizer


def alone(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


@given(parts=TEXT, joint=st.sampled_from(["", " "]))
@example(parts=["[UNK]"], joint="")
@example(parts=["ca\x00t", "d\x7fog", "a\x0bb"], joint=" ")
@example(parts=["naïve", "\u00a0", "\u2028x"], joint="")
def test_words_give_the_tokens_of_the_text(tokenizer, parts, joint):
    text = joint.join(parts)
    words = Words(tokenizer)
    for _ in range(2):  # split, then known
        tokens = words.tokens(text)
        assert tokens is None or tokens == alone(tokenizer, text)
    assert WindowedTokenizer(tokenizer, max_windows=1, window_tokens=10_000).windows_of_all([text, "b", text]) == [
        [alone(tokenizer, part)] if alone(tokenizer, part) else [] for part in (text, "b", text)
    ]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_is_looked_up(tokenizer, text):
    assert Words(tokenizer).tokens(text) == alone(tokenizer, text)


@pytest.mark.parametrize("text", ["what is [UNK]?", "日本語の文章には空白がありません" * 4])
def test_the_tokenizer_is_asked_for_other_text(tokenizer, text):
    assert Words(tokenizer).tokens(text) is None


def test_what_is_remembered_has_a_bound(tokenizer, monkeypatch):
    monkeypatch.setattr(_words, "_MOST_WORDS", 50)
    words = Words(tokenizer)
    for start in range(0, 400, 8):
        text = " ".join(f"w{number}" for number in range(start, start + 8)) + " " + "long" * 20
        assert words.tokens(text) == alone(tokenizer, text)
        assert 0 < len(words._known) <= 50
    assert not any(len(word) > 32 for word in words._known)


def test_a_text_of_many_new_words_is_learnt_in_parts(tokenizer):
    words, text = Words(tokenizer), " ".join(f"word{number}" for number in range(150))
    answers = [words.tokens(text) for _ in range(3)]
    assert answers == [None, None, alone(tokenizer, text)]


def test_added_tokens_of_any_spelling_are_left_to_their_tokenizer(tokenizer):
    assert Words.applies(tokenizer)
    other = Tokenizer.from_str(tokenizer.to_str())
    other.add_tokens(["Router"])
    assert not Words.applies(other)


def test_other_rules_are_left_to_their_tokenizer():
    other = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    other.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert not Words.applies(other)
    assert WindowedTokenizer(other, max_windows=1, window_tokens=9).windows("a,b a") == [[1, 0]]
