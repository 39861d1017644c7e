"""What embeddings do not see: two questions about the same things that must not be answered alike."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A number with its sign; a word, with what joins its parts; a sign that is read like a word.
_TOKEN = re.compile(r"(?<!\w)-\d[\w.,:/]*\w|(?<!\w)-\d|\w+(?:['.,:/]\w+)*|[+*/%<>=^$€£&|]")
_SIGN = re.compile(r"[+*/%<>=^$€£&|]")

_APOSTROPHE = "\u2019"

_NEGATIONS = """
not no never none nobody nothing nowhere neither nor cannot without except unless against non un anti
nicht nie niemals kein keine keinen keinem keiner keines nichts niemand ohne weder
pas jamais rien aucun aucune sans ni nunca nada nadie ningún ninguna sin não nem sem nenhum mai nessuno niente senza
niet geen nooit zonder не ни нет без никогда
"""
_OPPOSITES = """
more less most least many few fewer much little increase decrease increases decreases raise lower maximum minimum max
min maximize minimize best worst better worse before after above below over under up down first last next previous
earliest latest oldest newest old new high low higher highest lowest big small large bigger smaller larger largest
smallest long short longer shorter fast slow faster slower hot cold in out on off open close start stop begin end add
remove insert delete enable disable allow deny include exclude with buy sell import export encode decode encrypt decrypt
compress decompress true false yes all any only even odd positive negative left right north south east west male female
man woman husband wife son daughter brother sister father mother safe unsafe legal illegal ascending descending
"""
_NUMBERS = """
one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty hundred thousand million
billion second third fourth fifth half quarter double triple twice once daily weekly monthly yearly today tomorrow
yesterday monday tuesday wednesday thursday friday saturday sunday january february march april may june july august
september october november december
"""
_TELLING = frozenset(f"{_NEGATIONS} {_OPPOSITES} {_NUMBERS}".split())
# Words that begin sentences; a capital does not make names of them.
_OPENERS = """
a an and are as at but can could define describe did do does explain find for from give had has have he hello help her
hey hi his how i i'd i'm i've if is it its let list make me my of or our please read say she should show so summarize
tell that the their then there these they this those to translate was we were what what's when where which who who's
whom whose why will would write you your
"""
_NO_NAMES = frozenset(_OPENERS.split())


def may_share(first: str, second: str) -> bool:
    """Return whether two questions that look alike to an encoder may have the same answer.

    They may not where numbers, names, negations, opposites or signs differ or come in another order, nor where other
    words that both have come in another order: to many encoders "miles to metres" and "metres to miles" are the same.
    """
    a, b = (_TOKEN.findall(text.replace(_APOSTROPHE, "'")) for text in (first, second))
    telling = _names(a) | _names(b)
    lower_a, lower_b = [token.casefold() for token in a], [token.casefold() for token in b]
    if _telling(lower_a, telling) != _telling(lower_b, telling):
        return False
    once = _once(lower_a) & _once(lower_b)
    return [word for word in lower_a if word in once] == [word for word in lower_b if word in once]


def _names(tokens: Iterable[str]) -> set[str]:
    """Return what is written with a capital or an underscore, in lower case."""
    return {
        lower for token in tokens if (token != (lower := token.casefold()) or "_" in token) and lower not in _NO_NAMES
    }


def _telling(words: Iterable[str], names: set[str]) -> list[str]:
    return [
        word
        for word in words
        if word in names
        or word in _TELLING
        or word.endswith("n't")
        or any(character.isdigit() for character in word)
        or _SIGN.fullmatch(word)
    ]


def _once(words: list[str]) -> set[str]:
    return {word for word in words if words.count(word) == 1}
