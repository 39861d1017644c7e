"""The administration of models in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from service.models.wanted import HOW, MOST_ROWS

Schema = dict[str, Any]

_JOB, _JOBS, _POOL, _NEW, _PRICE = "ModelJob", "ModelJobs", "PoolModels", "NewModel", "ModelPrice"
_LARGEST = 10**6
_NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$"
_ERRORS = {
    400: "A field is wrong, or the configuration would not be right with it; `param` names it.",
    401: "No key, or one that does not hold.",
    403: "The key lacks the scope admin.",
    404: "There is no such model or job, or this gateway has no keys or no `learning.models`.",
    408: "The body did not arrive in time.",
    409: "Another job is running.",
    413: "The body is too large.",
    429: "Too many wrong keys came from this address.",
    500: "A fault of the gateway.",
    503: "The store of keys fails.",
}
_OF_BODY = (400, 408, 413)


def schemas() -> dict[str, Schema]:
    """Return the schemas that `paths` refers to, besides ``Error``."""
    share: Schema = {"type": "number", "minimum": 0, "maximum": 1}
    scores: Schema = {"type": "object", "additionalProperties": share}
    names: Schema = {"type": "array", "items": {"type": "string"}}
    number: Schema = {"type": ["number", "null"]}
    usd: Schema = {"type": "number", "minimum": 0}
    text: Schema = {"type": "string", "minLength": 1, "maxLength": 256}
    rows: Schema = {"type": "array", "items": {"type": "object"}, "maxItems": MOST_ROWS}
    card: Schema = {
        "type": "object",
        "additionalProperties": False,
        "description": "What is known of it beforehand.",
        "properties": {
            "family": {"type": "string"},
            "siblings": {**names, "description": "Models of the pool of the same family."},
            "scores": {**scores, "description": "Public benchmark -> score."},
            "known_scores": {
                "type": "object",
                "additionalProperties": scores,
                "description": "Model of the pool -> its scores on the same benchmarks.",
            },
            "quality": {**share, "description": "Mean quality that you expect."},
        },
    }
    entry: Schema = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "pattern": _NAME_PATTERN}},
        "description": "An entry of `pool`, as in the configuration.",
    }
    new: Schema = {
        "type": "object",
        "additionalProperties": False,
        "oneOf": [{"required": ["model"]}, {"required": ["name"], "not": {"required": ["replaces"]}}],
        "properties": {
            "model": entry,
            "name": {**text, "description": "A model that is in the pool already, and not known to the artifact."},
            "replaces": {**text, "description": "The model of the pool that it stands in for from then on."},
            "how": {"enum": list(HOW), "default": "profile"},
            "prompts": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 50},
            "max_usd": {"type": "number", "minimum": 0, "maximum": _LARGEST, "default": 1.0},
            "max_output_tokens": {"type": "integer", "minimum": 1, "maximum": _LARGEST, "default": 1024},
            "concurrency": {"type": "integer", "minimum": 1, "maximum": 64, "default": 4},
            "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1, "default": 0},
            "std": {"type": "number", "minimum": 0.001, "maximum": 1, "default": 0.1},
            "scorer": {**text, "default": "reference", "description": "`reference` or `judge:MODEL`."},
            "references": {**rows, "description": "Right answers: prompt or prompt_id, answer, kind, ..."},
            "scores": {**rows, "description": "With how: scores. prompt or prompt_id, quality, tokens."},
            "card": card,
            "apply": {"type": "boolean", "default": True, "description": "false only works it out."},
        },
    }
    price: Schema = {
        "type": "object",
        "required": ["input", "output"],
        "properties": {"input": usd, "output": usd},
        "description": "US dollars per million tokens; further fields as in the configuration.",
    }
    job: Schema = {
        "type": "object",
        "required": ["id", "object", "action", "model", "status", "created", "updated", "progress", "result", "error"],
        "properties": {
            "id": {"type": "string", "pattern": "^mj_[0-9a-f]{24}$"},
            "object": {"const": "model_job"},
            "action": {"enum": ["add", "replace", "remove", "reprice"]},
            "model": {"type": "string"},
            "status": {"enum": ["running", "succeeded", "failed", "interrupted"]},
            "created": {"type": "number", "description": "Seconds since the epoch."},
            "updated": {"type": "number"},
            "plan": {"type": ["object", "null"], "description": "How many prompts, expected and highest cost."},
            "progress": {"type": ["object", "null"], "description": "done, total, failed, spent_usd."},
            "result": {"type": ["object", "null"], "description": "Expected quality, placement, artifact."},
            "error": {"type": "string"},
        },
    }
    known: Schema = {
        "type": "object",
        "required": ["object", "name", "price", "known", "how"],
        "properties": {
            "object": {"const": "pool_model"},
            "name": {"type": "string"},
            "price": {"type": "object"},
            "context_window": {"type": ["integer", "null"]},
            "known": {"type": "boolean", "description": "Whether the artifact knows it."},
            "how": {"enum": ["training", "prior", *HOW]},
            **dict.fromkeys(("mean_quality", "mean_output_tokens", "mean_cost_usd"), number),
        },
    }
    return {
        _NEW: new,
        _PRICE: price,
        _JOB: job,
        _JOBS: _listing(_ref(_JOB)),
        _POOL: _listing(known, artifact={"type": "string"}),
    }


def paths() -> Schema:
    """Return the paths of the administration of models."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    job_id = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        "/admin/models": {
            "get": _operation("listPoolModels", "List the pool, with what the artifact knows of it.", _POOL),
            "post": _operation(
                "addModel",
                "Take a model in without training; the job says how far it is.",
                _JOB,
                202,
                body=_ref(_NEW),
                further=(*_OF_BODY, 409),
            ),
        },
        "/admin/models/jobs": {"get": _operation("listModelJobs", "List the jobs, newest first.", _JOBS)},
        "/admin/models/jobs/{job_id}": {
            "parameters": [job_id],
            "get": _operation("getModelJob", "Return how far a job is, and what it came to.", _JOB),
        },
        "/admin/models/{name}": {
            "parameters": [name],
            "delete": _operation("removeModel", "Let a model go.", _JOB, 202, further=(400, 409)),
        },
        "/admin/models/{name}/price": {
            "parameters": [name],
            "put": _operation(
                "repriceModel",
                "Give a model another price; nothing is fitted again.",
                _JOB,
                202,
                body=_ref(_PRICE),
                further=(*_OF_BODY, 409),
            ),
        },
    }


def _operation(
    name: str,
    summary: str,
    answer: str,
    status: int = 200,
    *,
    body: Schema | None = None,
    further: tuple[int, ...] = (),
) -> Schema:
    statuses = sorted({401, 403, 404, 429, 500, 503, *further})
    operation: Schema = {
        "operationId": name,
        "summary": summary,
        "tags": ["admin"],
        "responses": {
            str(status): _json(_ref(answer), "Done." if status == 200 else "Begun."),
            **{str(code): _json(_ref("Error"), _ERRORS[code]) for code in statuses},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _listing(items: Schema, **further: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["object", "data", *further],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": items}, **further},
    }


def _json(schema: Schema, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
