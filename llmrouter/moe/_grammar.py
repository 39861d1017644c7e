"""Answers that must follow a grammar: JSON schemas and tool calls as masks over a model's tokens (by llguidance)."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llmrouter.exceptions import GenerationFailedError, GenerationRequestError, MissingExtraError
from llmrouter.moe._schema_check import literals, place_of_error, schema_fault
from llmrouter.moe._tools import Tool
from llmrouter.moe._types import ResponseFormat
from llmrouter.moe._vocabulary import Vocabulary

# One blank where JSON allows any: models are used to it, and a model that likes blanks cannot go on for ever.
_SPACING = {"whitespace_pattern": " ?"}
_JSON_CHARACTERS = '{}[]":,.-0123456789truefalsn'
_LEXER_STATES = 50_000  # up to 2 kB each
_KEPT = 32  # compiled grammars; n choices, and many requests of one application, have the same
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class Constraint:
    """The grammar of one sequence, moved on token by token.

    Parameters
    ----------
    matcher : llguidance.LLMatcher
        At the beginning of the answer.
    first : bytes, optional
        What `allowed` returns at first, where it is known.
    """

    def __init__(self, matcher: Any, first: bytes | None = None) -> None:
        self._matcher = matcher
        self._first = first

    @property
    def finished(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self) -> bytes:
        """Return a byte for each token, 0 for those that may not come next.

        Raises
        ------
        GenerationFailedError
            If the grammar is too complex to go on, or no token fits.
        """
        if self._first is not None:
            return self._first
        try:
            mask = bytes(self._matcher.compute_logit_bias())
        except Exception as error:  # llguidance raises what its Rust side gives
            raise GenerationFailedError(f"the grammar of the answer cannot be followed: {_line(error)}") from error
        if self._matcher.is_error():
            raise GenerationFailedError(
                f"the grammar of the answer cannot be followed: {_line(self._matcher.get_error())}"
            )
        if not any(mask):
            raise GenerationFailedError("no token of this model fits the grammar of the answer; simplify the schema")
        return mask

    def prepared(self) -> Constraint:
        """Return a copy at the same place; what cannot be followed at all fails here."""
        if self._first is None:
            self._first = self.allowed()
        return Constraint(self._matcher.deep_copy(), self._first)

    def accept(self, token: int) -> None:
        """Move on by the chosen token."""
        self._first = None
        self._matcher.consume_token(token)


class GrammarMaker:
    """Makes constraints over one model's vocabulary; safe to use from several threads.

    Parameters
    ----------
    vocabulary : Vocabulary
        The model's.
    size : int
        Tokens that its logits have.
    end_tokens : iterable of int
        Ids that end an answer.
    refusal : str, optional
        Why this engine cannot constrain answers, if it cannot.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, size: int, end_tokens: Iterable[int], refusal: str | None = None
    ) -> None:
        self._vocabulary = vocabulary
        self.size = size
        self._end_tokens = sorted(end_tokens)
        self._refusal = refusal
        self._lock = threading.Lock()
        self._known_lock = threading.Lock()
        self._tokenizer: Any = None
        self._spelled: frozenset[bytes] = frozenset()
        self._known: OrderedDict[bytes, Constraint] = OrderedDict()

    def json(self, wanted: ResponseFormat) -> Constraint:
        """Return the constraint of an answer in JSON.

        Raises
        ------
        GenerationRequestError
            If the schema is wrong or cannot be followed, or this model cannot spell it.
        MissingExtraError
            If llguidance is not installed.
        """
        schema = _ANY_OBJECT if wanted.schema is None else wanted.schema
        self._check_form(schema, "response_format")
        return self._once(repr((schema, wanted.strict)), lambda: self._json(schema, strict=wanted.strict))

    def _json(self, schema: Mapping[str, Any], *, strict: bool) -> Constraint:
        self._check(schema, strict=strict, param="response_format")
        llguidance = _llguidance()
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_options(strict=strict))
        return self._constraint(grammar, "response_format")

    def tool_call(self, tools: Sequence[Tool]) -> Constraint:
        """Return the constraint of exactly one call of one of `tools`: ``{"name": "...", "arguments": {...}}``.

        Raises
        ------
        GenerationRequestError, MissingExtraError
            As `json`.
        """
        for index, tool in enumerate(tools):
            schema = tool.parameters or _NO_ARGUMENTS
            self._check_form(schema, _parameters(index))
            if (kind := schema.get("type", "object")) != "object":
                raise GenerationRequestError(
                    f"{_parameters(index)}: schema.type is {kind!r}; the arguments of a function are an object",
                    param="tools",
                )
        return self._once(repr(tools), lambda: self._tool_call(tools))

    def _once(self, key: str, make: Callable[[], Constraint]) -> Constraint:
        """Return a constraint of the caller's own, compiled only if it is not among the last ones."""
        digest = hashlib.sha256(key.encode(errors="replace")).digest()
        with self._known_lock:
            known = self._known.get(digest)
            if known is not None:
                self._known.move_to_end(digest)
                return known.prepared()
        made = make()
        with self._known_lock:
            self._known[digest] = made
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
            return made.prepared()

    def _tool_call(self, tools: Sequence[Tool]) -> Constraint:
        rules, choices = [], []
        for index, tool in enumerate(tools):
            schema = tool.parameters or _NO_ARGUMENTS
            self._check(schema, strict=tool.strict, param=_parameters(index))
            opening = json.dumps('{"name": ' + json.dumps(tool.name) + ', "arguments": ')
            choices.append(f'{opening} arguments{index} "}}"')
            whole = {**schema, "type": "object", "x-guidance": _options(strict=tool.strict)}
            rules.append(f"arguments{index}: %json {json.dumps(whole)}")
        grammar = "\n".join([f"start: {' | '.join(choices)}", *rules])
        return self._constraint(_llguidance().LLMatcher.grammar_from_lark(grammar), "tools")

    def _check_form(self, schema: Any, param: str) -> None:
        if self._refusal is not None:
            raise GenerationRequestError(f"{param} cannot be followed: {self._refusal}", param=_field(param))
        if fault := schema_fault(schema):
            raise GenerationRequestError(f"{param}: {fault}", param=_field(param))

    def _check(self, schema: Mapping[str, Any], *, strict: bool, param: str) -> None:
        tokenizer = self._built(param)
        self._check_spelling(schema, param)
        error_of = _compiler(tokenizer, strict=strict)
        if error := error_of(schema):
            place = place_of_error(schema, error_of)
            raise GenerationRequestError(f"{param}: {place}: {_line(error)}; {_remedy(error)}", param=_field(param))

    def _constraint(self, grammar: str, param: str) -> Constraint:
        matcher = _llguidance().LLMatcher(self._built(param), grammar, log_level=0, limits=_limits())
        constraint = Constraint(matcher)
        if matcher.is_error():
            raise GenerationRequestError(f"{param}: {_line(matcher.get_error())}; simplify the schema", param=param)
        try:
            constraint.prepared()
        except GenerationFailedError as error:
            raise GenerationRequestError(f"{param}: {error}; simplify the schema", param=param) from error
        return constraint

    def _built(self, param: str) -> Any:
        """Return llguidance's form of the tokenizer, made at the first use."""
        with self._lock:
            if self._tokenizer is None:
                core = self._vocabulary.core_json()
                if core is None:
                    raise GenerationRequestError(
                        f"{param} cannot be followed: this model's tokenizer has no tokenizer.json; leave {param} out",
                        param=_field(param),
                    )
                llguidance = _llguidance()
                try:
                    self._tokenizer = llguidance.LLTokenizer(
                        core, n_vocab=self.size, eos_token=self._end_tokens or None
                    )
                except Exception as error:  # llguidance raises what its Rust side gives
                    raise GenerationRequestError(
                        f"{param} cannot be followed: this model's tokenizer is of a kind that grammars do not know "
                        f"({_line(error)}); leave {param} out",
                        param=_field(param),
                    ) from error
                self._spelled = self._vocabulary.all_token_bytes()
            return self._tokenizer

    def _check_spelling(self, schema: Any, param: str) -> None:
        for text in (_JSON_CHARACTERS, *literals(schema)):
            for character in text:
                whole = character.encode(errors="replace")
                if whole not in self._spelled and not all(bytes([byte]) in self._spelled for byte in whole):
                    raise GenerationRequestError(
                        f"{param} cannot be followed: the vocabulary of this model has no token for {character!r}, "
                        f"which the JSON needs; take another model, or leave {param} out",
                        param=_field(param),
                    )


def _compiler(tokenizer: Any, *, strict: bool) -> Callable[[Mapping[str, Any]], str]:
    matcher = _llguidance().LLMatcher
    options = _options(strict=strict)

    def error_of(schema: Mapping[str, Any]) -> str:
        grammar = matcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
        return str(matcher.validate_grammar(grammar, tokenizer, limits=_limits()))

    return error_of


def _options(*, strict: bool) -> dict[str, Any]:
    """Return how schemas are compiled; not strict is as good as it goes: oneOf as anyOf, unknown keywords ignored."""
    return {**_SPACING, "lenient": not strict, "coerce_one_of": not strict}


def _limits() -> Any:
    return _llguidance().LLParserLimits(max_lexer_states=_LEXER_STATES, verbose_errors=False)


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtraError("llguidance", extra="moe", purpose="An answer that follows a schema") from error
    return llguidance


def _parameters(index: int) -> str:
    return f"tools[{index}].function.parameters"


def _field(param: str) -> str:
    return "response_format" if param.startswith("response_format") else "tools"


def _remedy(error: str) -> str:
    if error.startswith(("Unimplemented keys", "Unknown format")):
        return "leave that out, or give strict: false, with which it is not enforced"
    if error.startswith("oneOf"):
        return "write anyOf, or give strict: false, with which it is taken for anyOf"
    return "correct the schema there"


def _line(error: object) -> str:
    """Return a message of llguidance in one line of at most 300 characters."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip() not in ("", "<non-verbose/>"))
    text = text.partition(". Enable '")[0]  # an option of the library, not of the request
    return text if len(text) <= 300 else f"{text[:297]}..."
