"""Exact checking of answers: right or wrong, nothing between.

Rules, by task
--------------
* all: blanks around the answer and one final full stop are ignored; runs of blanks count as one.
* `upper_case`, `lower_case`, `title_case`: the case is the point, so it must match.
* `sort_numbers`, `sort_words`: items may be separated by blanks, commas, or both.
* `spell`: hyphens are part of the answer; case is ignored.
* all others: case is ignored.
"""

from __future__ import annotations

CASE_TASKS = frozenset({"upper_case", "lower_case", "title_case"})
LIST_TASKS = frozenset({"sort_numbers", "sort_words"})


def normalise(text: str, task: str) -> str:
    """Bring an answer into the form in which it is compared."""
    if task in LIST_TASKS:
        text = text.replace(",", " ")
    text = " ".join(text.split()).removesuffix(".").rstrip()
    return text if task in CASE_TASKS else text.casefold()


def score(answer: str, expected: str, *, task: str) -> int:
    """Return 1 for a right answer, else 0.

    Examples
    --------
    >>> score(" Paris. ", "Paris", task="capital")
    1
    >>> score("cat", "CAT", task="upper_case")
    0
    """
    return int(normalise(answer, task) == normalise(expected, task))
