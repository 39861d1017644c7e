"""Bodies of requests in OpenAI's shapes, but for responses."""

from __future__ import annotations

from service.control import CONTROL_SCHEMA
from service.openapi._parts import (
    Names,
    Schema,
    array_of,
    chat_settings,
    nullable,
    object_of,
    ref,
    request_of,
    whole,
)
from service.routes.feedback import DEFAULT_SCALE, HEAVIEST, LABELS, MOST, RESERVED, SCALES, THUMBS

_LONGEST_TEXT = 256


def control(models: tuple[str, ...], *, verifiers: tuple[str, ...] = ()) -> Schema:
    """Return the body's ``llmrouter`` object, where `models` may hold these names; () where they are not known.

    Parameters
    ----------
    models : tuple of str
        Names of models.
    verifiers : tuple of str
        Kinds that ``verify`` may name.
    """
    schema: Schema = {**CONTROL_SCHEMA, "description": "What a request asks of the router; headers say the same."}
    if models:
        known = {**schema["properties"]["models"], "items": {"enum": list(models)}}
        schema["properties"] = {**schema["properties"], "models": known}
    if verifiers:
        schema["properties"] = {**schema["properties"], "verify": verifier(verifiers)}
    return schema


def chat(names: Names) -> Schema:
    """Return the body of a chat completion."""
    part = {"type": "object", "properties": {"type": {"type": "string"}, "text": {"type": "string"}}}
    content = {"anyOf": [nullable("string"), array_of(part)]}
    message = object_of({"role": "string"}, content=content)
    return request_of(names, {"messages": array_of(message, minItems=1)}, chat_settings())


def completion(names: Names) -> Schema:
    """Return the body of an older completion."""
    prompt: Schema = {
        "anyOf": [{"type": "string"}, array_of({"type": "string"}, minItems=1, maxItems=1)],
        "description": "One prompt of text.",
    }
    properties: Schema = {
        "best_of": {"enum": [None, 1], "description": "Or the same as `n`."},
        "echo": nullable("boolean"),
        "logprobs": whole(least=0),
        "max_tokens": whole(least=1),
        "suffix": {"enum": [None, ""], "description": "Not supported by chat models."},
    }
    alone: Schema = {
        "description": "Chat models do not tell the log-probabilities of a prompt.",
        "anyOf": [
            {"properties": {"echo": {"enum": [None, False]}}},
            {"properties": {"logprobs": {"type": "null"}}},
        ],
    }
    # `max_tokens` and `logprobs` take the place of these.
    others = chat_settings(but=(*properties, "max_completion_tokens", "top_logprobs"))
    return {**request_of(names, {"prompt": prompt}, {**others, **properties}), **alone}


def embeddings(names: Names) -> Schema:
    """Return the body of a request for embeddings."""
    tokens = array_of(whole(nullable=False))
    given: Schema = {
        "anyOf": [
            {"type": "string"},
            array_of({"type": "string"}, minItems=1),
            {**tokens, "minItems": 1},
            array_of(tokens, minItems=1),
        ]
    }
    model: Schema = {"enum": list(names.embedders)} if names.embedders else {"type": "string"}
    return object_of(
        {"model": model, "input": given},
        dimensions=whole(least=1),
        encoding_format=nullable("string"),
        user=nullable("string"),
        llmrouter=control(names.embedders),
    )


def feedback() -> Schema:
    """Return the body of judgements: one, or a list of them."""
    batch = {"type": "array", "minItems": 1, "maxItems": MOST, "items": ref("Judgement")}
    return {
        "anyOf": [
            ref("Judgement"),
            {
                "type": "object",
                "required": ["feedback"],
                "properties": {"feedback": batch},
                "additionalProperties": False,
            },
        ]
    }


def judgement() -> Schema:
    """Return one judgement: a quality, in one of the ways to say it."""
    common: Schema = {
        "request_id": {"type": "string", "minLength": 1, "maxLength": _LONGEST_TEXT},
        "source": {
            "type": "string",
            "minLength": 1,
            "maxLength": _LONGEST_TEXT,
            "default": "user",
            "description": "Who judges; the last word of each counts. What begins with "
            f"{', '.join(RESERVED)} needs the scope feedback:trusted.",
        },
        "weight": {"type": "number", "exclusiveMinimum": 0, "maximum": HEAVIEST, "default": 1.0},
    }
    share: Schema = {"type": "number", "minimum": 0, "maximum": 1}
    nothing: Schema = {"type": "null"}
    measures: dict[str, Schema] = {
        "quality": share,
        "score": {**share, "description": "The same as `quality`."},
        "label": {"enum": list(LABELS), "description": "A word for one of the two ends of the scale."},
        "thumbs": {"enum": list(THUMBS)},
        "rating": {
            "type": "number",
            "minimum": 1,
            "maximum": DEFAULT_SCALE,
            "description": f"From 1, the worst, to {DEFAULT_SCALE}; to `scale`, where that is given.",
        },
    }

    def judged_by(name: str) -> Schema:
        others = {other: nothing for other in (*measures, "scale") if other != name}
        return {
            "type": "object",
            "required": ["request_id", name],
            "properties": {**common, **others, name: measures[name]},
            "additionalProperties": False,
        }

    def rated_to(best: int) -> Schema:
        form = judged_by("rating")
        rating = {**measures["rating"], "maximum": best}
        properties = {**form["properties"], "rating": rating, "scale": {"const": best}}
        return {**form, "required": [*form["required"], "scale"], "properties": properties}

    return {"anyOf": [*map(judged_by, measures), *map(rated_to, SCALES)]}


def verifier(kinds: tuple[str, ...]) -> Schema:
    """Return the body's ``llmrouter.verify``, of one of these kinds."""
    text: Schema = {"type": "string"}
    flag: Schema = {"type": "boolean"}
    texts = array_of(text, minItems=1)
    tolerance: Schema = {"type": "number", "minimum": 0}
    forms: dict[str, tuple[dict[str, Schema], dict[str, Schema]]] = {
        "exact": (
            {"answer": {"anyOf": [text, texts]}},
            {
                "part": {"enum": ["whole", "last_line", "boxed"]},
                "ignore_case": flag,
                "ignore_punctuation": flag,
                "ignore_articles": flag,
            },
        ),
        "numeric": ({"answer": {"type": "number"}}, {"absolute": tolerance, "relative": tolerance}),
        "regex": (
            {"pattern": {"type": "string", "format": "regex", "minLength": 1, "maxLength": 2000}},
            {"full": flag, "ignore_case": flag, "expect": flag},
        ),
        "json_schema": ({"schema": {"type": ["object", "boolean"]}}, {"fenced": flag}),
        "unit_tests": (
            {"tests": {"anyOf": [text, {**texts, "maxItems": 200}]}},
            {
                "setup": text,
                "prefix": text,
                "score": {"enum": ["all", "share"]},
                "timeout_s": {"type": "number", "exclusiveMinimum": 0, "maximum": 60},
                "memory_mb": {"type": "integer", "minimum": 64, "maximum": 4096},
            },
        ),
    }
    return {
        "description": "Judges the answer once it is given; the verdict is feedback from `verifier:KIND`.",
        "anyOf": [
            *(
                {
                    "type": "object",
                    "required": ["kind", *required],
                    "properties": {"kind": {"const": kind}, **required, **optional},
                    "additionalProperties": False,
                }
                for kind, (required, optional) in forms.items()
                if kind in kinds
            ),
            {"type": "null"},
        ],
    }
