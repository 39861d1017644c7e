"""Every error that llmrouter raises, in one tree.

::

    LLMRouterError
    ├── ConfigError              a configuration key or value is wrong (path, value, allowed values)
    │   └── QualityFloorError    the data cannot support a quality floor; `.more_outcomes` says how many might
    ├── MissingExtraError        an optional package is needed; the message holds the pip line
    ├── DataError                a file or table of outcomes is wrong
    │   └── RowError             one or more rows are wrong; `.problems` lists them
    ├── ArtifactError            an artifact folder cannot be used
    │   ├── ArtifactCorruptError a file is missing, truncated or has another hash
    │   └── FingerprintError     artifact and encoder (or index) do not belong together
    ├── EncoderError             a text cannot be encoded, or an encoder cannot be loaded
    ├── VectorIndexError         wrong dimension, NaN, duplicate or unknown ids
    ├── NotFittedError           predict before fit
    ├── RoutingError             no decision is possible
    │   ├── UnknownModelError    the name is neither a pool model nor an alias
    │   └── NoEligibleModelError no pool model can take this request; `.reasons` says why, model by model
    ├── BackendError             a model of the pool failed to answer
    │   ├── BackendConnectError  could not connect, or the connection broke before the first byte
    │   ├── BackendTimeoutError  connect, first-byte, between-chunk or total time ran out
    │   ├── BackendStatusError   the upstream answered with an HTTP error; `.status` and `.body`
    │   └── BackendStreamError   the upstream broke off after the first byte
    ├── LocalModelError          a local model cannot be loaded or run
    │   ├── CheckpointError      its checkpoint is missing, broken, or of a kind the engine does not run
    │   ├── GenerationRequestError  a generation request is wrong; `.param` names the field
    │   │   └── ContextLengthError  the prompt leaves no room in the context window
    │   ├── QueueFullError       too many requests wait already; try again later
    │   ├── EngineStoppedError   the engine takes no requests: not started, or stopped
    │   └── GenerationFailedError  a generation broke off: cancelled, or the forward pass failed
    ├── SignalError              an answer could not be judged (which says nothing about it)
    │   └── SandboxError         there is no sandbox to run foreign code in
    └── StoreError               the outcome store cannot read or write
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class LLMRouterError(Exception):
    """Base class of every error raised by llmrouter."""


class ConfigError(LLMRouterError):
    """A configuration key or value is wrong.

    Parameters
    ----------
    message : str
        What is wrong, with the remedy.
    path : str, optional
        Where in the configuration, e.g. ``pool[0].price.input``.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class QualityFloorError(ConfigError):
    """The calibration data cannot support the quality floor that is asked for.

    Parameters
    ----------
    message : str
        What falls short, with the remedy.
    more_outcomes : int, optional
        About how many more fully observed prompts would support it, if they were like the ones at hand; None where
        no number would.
    """

    def __init__(self, message: str, *, more_outcomes: int | None = None) -> None:
        super().__init__(message)
        self.more_outcomes = more_outcomes


class MissingExtraError(LLMRouterError):
    """An optional dependency is needed and absent.

    Parameters
    ----------
    package : str
        The package that could not be imported.
    extra : str
        The extra of the distribution that brings it.
    purpose : str
        What it is needed for.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'llmrouter-service[{extra}]'")
        self.package = package
        self.extra = extra


class DataError(LLMRouterError, ValueError):
    """A file, a table of outcomes or an array is wrong."""


class RowError(DataError):
    """Rows of an outcome file are wrong.

    Parameters
    ----------
    source : str
        File (or table) the rows come from.
    problems : sequence of str
        One line a bad row: row number, field, value, remedy.
    """

    SHOWN = 10

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        shown = "\n  ".join(problems[: self.SHOWN])
        more = f"\n  ... and {len(problems) - self.SHOWN} more" if len(problems) > self.SHOWN else ""
        super().__init__(f"{source}: {len(problems)} bad row(s)\n  {shown}{more}")
        self.source = source
        self.problems = tuple(problems)


class ArtifactError(LLMRouterError):
    """An artifact folder cannot be used."""


class ArtifactCorruptError(ArtifactError):
    """A file of an artifact is missing, truncated, or does not match its recorded hash."""


class FingerprintError(ArtifactError):
    """An artifact was made with another encoder than the one at hand."""


class EncoderError(LLMRouterError):
    """A text cannot be encoded, or an encoder cannot be loaded."""


class VectorIndexError(LLMRouterError):
    """An index operation got a wrong dimension, NaN, or a duplicate or unknown id."""


class NotFittedError(LLMRouterError):
    """`predict` was called before `fit`."""


class RoutingError(LLMRouterError):
    """No routing decision is possible."""


class UnknownModelError(RoutingError):
    """A requested model is neither in the pool nor an alias of the router.

    Parameters
    ----------
    model : str
        The requested name.
    known : sequence of str
        The names that would have worked.
    """

    def __init__(self, model: str, *, known: Sequence[str]) -> None:
        super().__init__(f"The model {model!r} does not exist. Available: {', '.join(known)}.")
        self.model = model
        self.known = tuple(known)


class NoEligibleModelError(RoutingError):
    """No model of the pool can take the request.

    Parameters
    ----------
    reasons : mapping of str to str
        Model name -> why it was ruled out.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        super().__init__(f"No model of the pool can take this request ({listed}).")
        self.reasons = dict(reasons)


class BackendError(LLMRouterError):
    """A model of the pool failed to answer.

    Parameters
    ----------
    message : str
        What happened.
    model : str
        Pool name of the model.

    Attributes
    ----------
    latency_s : float or None
        How long the failed attempt took, in seconds; set by who made it, None where nobody has measured it.
    """

    latency_s: float | None = None

    def __init__(self, message: str, *, model: str = "") -> None:
        super().__init__(message)
        self.model = model


class BackendConnectError(BackendError):
    """The upstream could not be reached, or hung up before its first byte."""


class BackendTimeoutError(BackendError):
    """The upstream did not answer in time."""


class BackendStatusError(BackendError):
    """The upstream answered with an HTTP error status.

    Parameters
    ----------
    message : str
        Short description.
    model : str
        Pool name of the model.
    status : int
        HTTP status of the upstream.
    body : bytes
        The upstream's own body, to be relayed unchanged where the error is the client's.
    headers : mapping of str to str, optional
        Upstream headers worth keeping (``retry-after``, ``content-type``), lower-case names.
    """

    def __init__(
        self, message: str, *, model: str = "", status: int, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, model=model)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


class BackendStreamError(BackendError):
    """The upstream broke off after its first byte."""


class LocalModelError(LLMRouterError):
    """A local model cannot be loaded or run."""


class CheckpointError(LocalModelError):
    """A checkpoint is missing, broken, or of a kind that the local engine does not run."""


class GenerationRequestError(LocalModelError):
    """A generation request is wrong.

    Parameters
    ----------
    message : str
        What is wrong, with the remedy.
    param : str
        The field of the request.
    """

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthError(GenerationRequestError):
    """The prompt leaves no room for a completion in the model's context window.

    Parameters
    ----------
    prompt_tokens : int
        Tokens of the prompt, chat template included.
    context_window : int
        Tokens of prompt and completion that the model takes.
    """

    def __init__(self, *, prompt_tokens: int, context_window: int) -> None:
        super().__init__(
            f"This model's maximum context length is {context_window} tokens, and the prompt has {prompt_tokens}. "
            f"Shorten the messages to at most {context_window - 1} tokens.",
            param="messages",
        )
        self.prompt_tokens = prompt_tokens
        self.context_window = context_window


class QueueFullError(LocalModelError):
    """Too many requests are waiting for a local model.

    Parameters
    ----------
    model : str
        Name of the model.
    waiting : int
        Requests in its queue.
    retry_after_s : float
        When to try again, in seconds.
    """

    def __init__(self, model: str, *, waiting: int, retry_after_s: float = 1.0) -> None:
        super().__init__(f"The queue of {model!r} is full ({waiting} requests waiting). Try again later.")
        self.model = model
        self.waiting = waiting
        self.retry_after_s = retry_after_s


class EngineStoppedError(LocalModelError):
    """A local engine takes no requests: it was not started, or it was stopped."""


class GenerationFailedError(LocalModelError):
    """A generation broke off: it was cancelled, the engine stopped, or the forward pass failed."""


class SignalError(LLMRouterError):
    """An answer could not be judged: that says nothing about the answer."""


class SandboxError(SignalError):
    """There is no sandbox to run foreign code in; the message says what is missing."""


class StoreError(LLMRouterError):
    """The outcome store cannot read or write."""
