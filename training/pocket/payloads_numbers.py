"""Payloads of the number tasks, by level (1 easy, 2 middling, 3 hard)."""

from __future__ import annotations

from random import Random

from training.pocket.lexicon import COMMON_WORDS, UNITS
from training.pocket.types import Payload


def pair(a: int, b: int, answer: int, name: str) -> Payload:
    """Return a payload of two numbers; (a, b) and (b, a) are different payloads."""
    return Payload({"a": str(a), "b": str(b)}, str(answer), (f"{name} {a} {b}",))


def add(random: Random, level: int) -> Payload:
    """Single digits and a little more; two digits plus one; two digits plus two."""
    if level == 1:
        a, b = random.randint(0, 12), random.randint(0, 12)
    elif level == 2:
        a, b = random.randint(10, 99), random.randint(1, 9)
        if random.random() < 0.5:
            a, b = b, a
    else:
        a, b = random.randint(10, 99), random.randint(10, 99)
    return pair(a, b, a + b, "+")


def subtract(random: Random, level: int) -> Payload:
    """Differences are never negative."""
    if level == 1:
        b = random.randint(0, 9)
        a = b + random.randint(0, 9)
    elif level == 2:
        a, b = random.randint(10, 99), random.randint(1, 9)
    else:
        low, high = sorted((random.randint(10, 99), random.randint(10, 99)))
        a, b = high, low
    return pair(a, b, a - b, "-")


def multiply(random: Random, level: int) -> Payload:
    """Easy factors; the times table; two digits by one."""
    if level == 1:
        a, b = random.randint(1, 10), random.choice((1, 2, 5, 10))
        if random.random() < 0.5:
            a, b = b, a
    elif level == 2:
        a, b = random.randint(2, 9), random.randint(2, 9)
    else:
        a, b = random.randint(11, 49), random.randint(2, 5)
    return pair(a, b, a * b, "*")


def two_numbers(random: Random, level: int) -> tuple[int, int]:
    """Return two different numbers; at level 3 they share their first digit."""
    while True:
        if level == 1:
            a, b = random.randint(0, 9), random.randint(0, 40)
            if random.random() < 0.5:
                a, b = b, a
        elif level == 2:
            a, b = random.randint(10, 99), random.randint(10, 99)
        else:
            first = 100 * random.randint(1, 9)
            a, b = first + random.randint(0, 99), first + random.randint(0, 99)
        if a != b:
            return a, b


def larger(random: Random, level: int) -> Payload:
    """Return two numbers and the larger one."""
    a, b = two_numbers(random, level)
    return pair(a, b, max(a, b), "?")


def smaller(random: Random, level: int) -> Payload:
    """Return two numbers and the smaller one."""
    a, b = two_numbers(random, level)
    return pair(a, b, min(a, b), "?")


def number_list(random: Random, level: int) -> list[int]:
    """Return different numbers: three small ones, four up to 99, five up to 99 (or up to 999 at times)."""
    if level == 1:
        return random.sample(range(10), 3)
    if level == 2:
        return random.sample(range(1, 50), 4)
    return random.sample(range(1, 1000 if random.random() < 0.2 else 100), 5)


def listed(random: Random, items: list[str]) -> str:
    """Join items as people do: with commas (mostly), blanks, or a last "and"."""
    style = random.random()
    if style < 0.55:
        return ", ".join(items)
    if style < 0.8 or len(items) < 3:
        return " ".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]


def list_payload(random: Random, numbers: list[int], answer: str) -> Payload:
    """Return a payload whose key is the ordered list."""
    texts = [str(number) for number in numbers]
    return Payload({"list": listed(random, texts)}, answer, ("list " + " ".join(texts),))


def maximum(random: Random, level: int) -> Payload:
    """Return a list and its largest number."""
    numbers = number_list(random, level)
    return list_payload(random, numbers, str(max(numbers)))


def minimum(random: Random, level: int) -> Payload:
    """Return a list and its smallest number."""
    numbers = number_list(random, level)
    return list_payload(random, numbers, str(min(numbers)))


def sort_numbers(random: Random, level: int) -> Payload:
    """Return a list and the same in ascending order, with blanks between."""
    numbers = number_list(random, level)
    return list_payload(random, numbers, " ".join(str(number) for number in sorted(numbers)))


def parity(random: Random, level: int) -> Payload:
    """One or two digits; three; four or five."""
    number = random.randint(*((0, 99), (100, 999), (1000, 99999))[level - 1])
    return Payload({"a": str(number)}, "odd" if number % 2 else "even", (f"parity {number}",))


def next_number(random: Random, level: int) -> Payload:
    """Count in steps of one or two; up to five; up to ten and downwards."""
    start, step = random.randint(0, (12, 40, 80)[level - 1]), random.randint(1, (2, 5, 10)[level - 1])
    length = random.randint(3, 5)
    numbers = [start + step * place for place in range(length + 1)]
    if level == 3 and random.random() < 0.4:
        numbers.reverse()
    texts = [str(number) for number in numbers[:-1]]
    separator = ", " if random.random() < 0.7 else " "
    return Payload({"list": separator.join(texts)}, str(numbers[-1]), ("next " + " ".join(texts[:3]),))


def convert_units(random: Random, level: int) -> Payload:
    """Powers of ten with one digit, with two; then the 60, 24, 12 and 7 of clocks, calendars and feet."""
    decimal = level == 1 or (level == 2 and random.random() < 0.7)
    sources, targets, factor, _ = random.choice([unit for unit in UNITS if unit[3] == decimal])
    if level == 1:
        number = random.randint(2, 9)
    elif decimal:
        number = random.randint(10, 99)
    else:
        number = random.randint(2, 5) if level == 2 else random.randint(6, 12)
    source = random.choice(sources)
    slots = {"n": str(number), "from": source, "to": random.choice(targets)}
    return Payload(slots, str(number * factor), (f"units {number} {factor} {source}",))


def count_items(random: Random, level: int) -> Payload:
    """Two to four items; five to seven; eight to ten."""
    items = random.sample(COMMON_WORDS, random.randint(*((2, 4), (5, 7), (8, 10))[level - 1]))
    return Payload({"list": ", ".join(items)}, str(len(items)), ("items " + " ".join(items),))
