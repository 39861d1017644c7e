"""What people write around a request: greetings, "please", "answer briefly".

A wrapper is drawn for every prompt; those of the test split use the same words in combinations never trained on.
"""

# ruff: noqa: SIM905 - word lists read better as text than as a thousand quotation marks

from __future__ import annotations

from random import Random

from training.pocket.types import Split

PREFIXES = {
    "train": (
        "Question: ",
        "Task: ",
        "Hello. ",
        "Hi, ",
        "Quick question: ",
        "Please answer: ",
        "Here is a task. ",
        "Can you tell me: ",
        "Hi! Please help me. ",
        "Answer this question: ",
        "I have a question. ",
        "Please help: ",
        "Here is a quick one: ",
        "I have a task for you: ",
        "Good morning! ",
        "Help me with this: ",
    ),
    "test": (
        "Hello, quick question: ",
        "Hi. Please answer this question: ",
        "Here is a question: ",
        "Please help me with a quick task. ",
        "Hello! I have a task: ",
    ),
}
REQUESTS = {
    "train": ("Please ", "Could you ", "Can you ", "Can you please ", "I want you to ", "Now "),
    "test": ("Could you please ", "Now please ", "Hi, can you ", "Hello, please "),
}
SUFFIXES = {
    "train": (
        " Answer briefly.",
        " Thanks!",
        " Thank you.",
        " Give only the answer.",
        " Answer:",
        " Be brief.",
        " Please answer briefly.",
        " Just the answer, please.",
        " Only give the answer.",
        " Answer only.",
        " Thanks for your help!",
        " Thanks in advance.",
        " A short answer, please.",
        " No explanation.",
    ),
    "test": (
        " Please be brief.",
        " Only the answer, please.",
        " Thanks for the answer!",
        " Please give just the answer. Thank you.",
    ),
}
VERBS = frozenset(
    """Add Calculate Compute Subtract Take Find Multiply Give Name Pick Compare Tell Sort Put Order Arrange Write List
    Say Decide Check Continue Complete Convert Change Express Count Reverse Spell Turn Make Capitalize Alphabetize
    Form""".split()
)


def lowered(text: str) -> str:
    """Return the text with a small first letter, except before a slot or a lone "I"."""
    return text if text.startswith(("{", "I ")) else text[0].lower() + text[1:]


def wrap(core: str, random: Random, *, split: Split) -> tuple[str, str]:
    """Return the core with something before or after it (or neither), and the wrapper's id."""
    kind: Split = "test" if split == "test" and random.random() < 0.6 else "train"
    style, before, after = random.random(), "-", "-"
    ends = core.endswith(("?", "=", "...", " is", ":"))
    imperative = core.split(" ", maxsplit=1)[0] in VERBS and not core.endswith("?")
    suffix = ""
    if style > 0.6:
        after = f"{kind}{(index := random.randrange(len(SUFFIXES[kind])))}"
        suffix = SUFFIXES[kind][index]
    if not ends and (suffix or random.random() < 0.4):
        core += "."
    if 0.4 < style < 0.85:
        if imperative and random.random() < 0.6:
            before = f"{kind}r{(index := random.randrange(len(REQUESTS[kind])))}"
            opening = REQUESTS[kind][index]
            core = opening + lowered(core)
            if opening.lower().startswith(("could", "can", "hi, can")):
                core = core.removesuffix(".") + "?"
        else:
            before = f"{kind}{(index := random.randrange(len(PREFIXES[kind])))}"
            opening = PREFIXES[kind][index]
            core = opening + (lowered(core) if opening.endswith((": ", ", ")) and random.random() < 0.5 else core)
    return core + suffix, f"{before}.{after}"
