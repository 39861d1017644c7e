"""response_format, tools and tool_choice of a chat's body, in OpenAI's shapes and as the engine takes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmrouter.exceptions import GenerationRequestError
from llmrouter.moe import ResponseFormat, Tool
from service.moe._errors import APIError

_STRICT = ConfigDict(strict=True, extra="forbid")


class JSONSchemaBody(BaseModel):
    """The schema of an answer; name and description change nothing about it here."""

    model_config = _STRICT

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormatBody(BaseModel):
    """How an answer is to look."""

    model_config = _STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaBody | None = None

    def wanted(self) -> ResponseFormat | None:
        """Return what the engine is asked for, None for text.

        Raises
        ------
        APIError
            If type and json_schema do not go together.
        """
        if (self.json_schema is not None) != (self.type == "json_schema"):
            param = "response_format.json_schema"
            remedy = "give {'name': ..., 'schema': ...}" if self.json_schema is None else "leave it out"
            raise APIError(400, f"{param} does not fit type {self.type!r}; {remedy}", param=param)
        if self.type == "text":
            return None
        if self.json_schema is None:
            return ResponseFormat()
        return ResponseFormat(self.json_schema.schema_, strict=bool(self.json_schema.strict))


class FunctionBody(BaseModel):
    """A function that is offered."""

    model_config = _STRICT

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(BaseModel):
    """A tool; this server has functions only."""

    model_config = _STRICT

    type: Literal["function"]
    function: FunctionBody


class NamedFunction(BaseModel):
    """The function that must be called."""

    model_config = _STRICT

    name: str


class NamedTool(BaseModel):
    """The tool that must be called."""

    model_config = _STRICT

    type: Literal["function"]
    function: NamedFunction


ToolChoiceBody = Literal["none", "auto", "required"] | NamedTool


def offered_tools(tools: list[ToolBody] | None, choice: ToolChoiceBody | None) -> dict[str, Any]:
    """Return tools and choice as `GenerationRequest` takes them.

    Raises
    ------
    APIError
        If a tool's name is malformed.
    """
    offered = []
    for index, tool in enumerate(tools or []):
        function = tool.function
        try:
            offered.append(Tool(function.name, function.description, function.parameters, strict=bool(function.strict)))
        except GenerationRequestError as error:
            param = f"tools[{index}].function.name"
            raise APIError(400, f"{param}: {error}", param=param) from error
    if isinstance(choice, NamedTool):
        return {"tools": offered, "forced_tool": choice.function.name}
    return {"tools": offered, "tool_choice": choice or "auto"}
