"""Payloads of the word tasks, by level (1 easy, 2 middling, 3 hard); the key of a word is the word itself.

So a word kept for the test split is never seen in training by any word task.
"""

from __future__ import annotations

from random import Random

from training.pocket.lexicon import (
    CAPITALS,
    IRREGULAR_PLURALS,
    OPPOSITES,
    PLURAL_NOUNS,
    draw_word,
)
from training.pocket.payloads_numbers import listed
from training.pocket.types import Payload, Split

WORD_LENGTHS = ((3, 4), (5, 6), (7, 9))


def any_word(random: Random, level: int, lengths: tuple[tuple[int, int], ...] = WORD_LENGTHS) -> str:
    """Draw a word of the level's length from either split, in proportion to their sizes."""
    split: Split = "test" if random.random() < 0.3 else "train"
    return draw_word(random, *lengths[level - 1], split)


def quoted(random: Random, word: str) -> str:
    """Return the word as it is, or, now and then, in quotation marks."""
    style = random.random()
    return f"'{word}'" if style < 0.1 else f'"{word}"' if style < 0.2 else word


def word_payload(random: Random, word: str, answer: str) -> Payload:
    """Return a payload of one word."""
    return Payload({"word": quoted(random, word)}, answer, (word.lower(),))


def reverse(random: Random, level: int) -> Payload:
    """Return a word and its letters from last to first."""
    word = any_word(random, level, ((3, 4), (5, 5), (6, 8)))
    return word_payload(random, word, word[::-1])


def mixed_case(random: Random, word: str) -> str:
    """Return the word in lower case, as a title, in upper case, or with each letter's case drawn."""
    style = random.random()
    if style < 0.4:
        return word
    if style < 0.6:
        return word.title()
    if style < 0.8:
        return word.upper()
    return "".join(letter.upper() if random.random() < 0.5 else letter for letter in word)


def upper_case(random: Random, level: int) -> Payload:
    """Return a word in any case and in upper case."""
    word = any_word(random, level)
    shown = word if random.random() < 0.7 else mixed_case(random, word)
    return word_payload(random, shown, word.upper())


def lower_case(random: Random, level: int) -> Payload:
    """Return a word with capitals and the same in lower case."""
    word = any_word(random, level)
    shown = word.upper() if random.random() < 0.6 else mixed_case(random, word)
    return word_payload(random, shown, word)


def title_case(random: Random, level: int) -> Payload:
    """Return one to three words and the same with capital first letters."""
    words = [any_word(random, 1 if level == 1 else 2) for _ in range(level)]
    text = " ".join(words)
    return Payload({"text": text.upper() if random.random() < 0.2 else text}, text.title(), tuple(words))


def spell(random: Random, level: int) -> Payload:
    """Return a word and its letters with hyphens between them."""
    word = any_word(random, level)
    return word_payload(random, word, "-".join(word))


def first_letter(random: Random, level: int) -> Payload:
    """Return a word and its first letter."""
    word = any_word(random, level)
    return word_payload(random, word, word[0])


def last_letter(random: Random, level: int) -> Payload:
    """Return a word and its last letter."""
    word = any_word(random, level)
    return word_payload(random, word, word[-1])


def count_letters(random: Random, level: int) -> Payload:
    """Return a word and its length."""
    word = any_word(random, level, ((3, 4), (5, 7), (8, 11)))
    return word_payload(random, word, str(len(word)))


def sort_letters(random: Random, level: int) -> Payload:
    """Return a word and its letters in alphabetical order."""
    word = any_word(random, level, ((3, 3), (4, 5), (6, 7)))
    return word_payload(random, word, "".join(sorted(word)))


def sort_words(random: Random, level: int) -> Payload:
    """Two or three words; three; four (level 1: the first letters differ)."""
    while True:
        words = [
            any_word(random, random.choice((1, 1, 2)))
            for _ in range(random.choice(((2, 3), (3, 3), (4, 4))[level - 1]))
        ]
        if len(set(words)) == len(words) and (level > 1 or len({word[0] for word in words}) == len(words)):
            return Payload({"list": listed(random, words)}, " ".join(sorted(words)), tuple(words))


def capital(random: Random, level: int) -> Payload:
    """Return a country and its capital; a level is a third of the list, the best known first."""
    countries = list(CAPITALS)
    third = len(countries) // 3
    country = random.choice(countries[third * (level - 1) : third * level])
    return Payload({"country": country}, CAPITALS[country], (country,))


def opposite(random: Random, level: int) -> Payload:
    """Return a word and its opposite; a level is a third of the list."""
    third = len(OPPOSITES) // 3
    word, other = random.choice(OPPOSITES[third * (level - 1) : third * level])
    return Payload({"word": quoted(random, word)}, other, (word,))


def regular_plural(word: str) -> str:
    """Return the plural by the rules of spelling."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return word + "s"


def plural(random: Random, level: int) -> Payload:
    """Plain "s"; the spelling rules; irregular ones."""
    while True:
        word = random.choice(PLURAL_NOUNS if level < 3 else tuple(IRREGULAR_PLURALS))
        answer = IRREGULAR_PLURALS.get(word, regular_plural(word))
        if level != 1 or answer == word + "s":
            return Payload({"word": quoted(random, word)}, answer, (word,))
