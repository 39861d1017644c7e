"""How often the pocket models' tool calls are right: an offered function whose one argument is the answer."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.moe.pocket import NUMBER_TASKS, Prompt, right
from llmrouter.moe import Engine, GenerationRequest, GenerationResult, Tool

WAYS = ("text, no tools", "auto", "forced", "forced, one of two functions", "forced, argument one of four")
CHOICES = 4
_CALL_TOKENS = 100  # an answer of 40 characters and the JSON around it
_TEXT = {"type": "string", "maxLength": 40}


def measured(
    engine: Engine, asked: Sequence[Prompt], others: Sequence[Prompt], *, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield one row a way: how many answers are calls, of the right function, with the right argument.

    Parameters
    ----------
    engine : Engine
        Not started.
    asked : sequence of Prompt
        What is asked.
    others : sequence of Prompt
        Where wrong answers of the same task are taken from, for the argument that is one of four.
    seed : int
        Of their choice.
    """
    draw = random.Random(seed)
    for way in WAYS:
        choices = [_choices(prompt, others, draw) for prompt in asked]
        requests = [
            GenerationRequest(
                messages=[{"role": "user", "content": prompt.text}],
                max_tokens=_CALL_TOKENS,
                temperature=0.0,
                **_options(way, own),
            )
            for prompt, own in zip(asked, choices, strict=True)
        ]
        marks = [marked(result, prompt) for result, prompt in zip(engine.run(requests), asked, strict=True)]
        guess = sum(1 / len(own) for own in choices) / len(choices) if way == WAYS[-1] else None
        row: dict[str, Any] = {"way": way, "prompts": len(asked), "guess": guess}
        for number, name in enumerate(("calls", "right_function", "right_argument", "right_text")):
            row[name] = sum(mark[number] for mark in marks)
        yield row


def marked(result: GenerationResult, prompt: Prompt) -> tuple[bool, bool, bool, bool]:
    """Return whether there is one whole call, of the right function, with the right argument; and the right text."""
    text = right(result.text, prompt.answer, task=prompt.task)
    if len(result.tool_calls) != 1:
        return False, False, False, text
    [call] = result.tool_calls
    try:
        said = json.loads(call.arguments).get("answer")
    except json.JSONDecodeError:  # cut off
        return False, False, False, text
    meant = "answer_numbers" if prompt.task in NUMBER_TASKS else "answer_words"
    answered = isinstance(said, str) and right(said, prompt.answer, task=prompt.task)
    return True, call.name in ("give_answer", meant), answered, text


def _options(way: str, choices: Sequence[str]) -> dict[str, Any]:
    if way == WAYS[0]:
        return {}
    if way == "auto":
        return {"tools": [_tool("give_answer", _TEXT)], "tool_choice": "auto"}
    if way == "forced, one of two functions":
        tools = [_tool("answer_numbers", _TEXT), _tool("answer_words", _TEXT)]
    else:
        tools = [_tool("give_answer", _TEXT if way == "forced" else {"enum": list(choices)})]
    return {"tools": tools, "tool_choice": "required"}


def _tool(name: str, answer: Mapping[str, Any]) -> Tool:
    about = {"answer_numbers": " about numbers", "answer_words": " about words"}.get(name, "")
    schema = {"type": "object", "properties": {"answer": answer}, "required": ["answer"], "additionalProperties": False}
    return Tool(name, f"Give the answer to a question{about}.", schema)


def _choices(prompt: Prompt, others: Sequence[Prompt], draw: random.Random) -> list[str]:
    """Return the right answer and up to three others of the same task, in random order."""
    taken = {prompt.answer.casefold()}
    choices = [prompt.answer]
    pool = [other.answer for other in others if other.task == prompt.task]
    for answer in draw.sample(pool, len(pool)):
        if len(choices) < CHOICES and answer.casefold() not in taken:
            taken.add(answer.casefold())
            choices.append(answer)
    draw.shuffle(choices)
    return choices
