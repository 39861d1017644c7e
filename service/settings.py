"""The gateway's configuration: one YAML file, checked as a whole before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
)

from llmrouter.exceptions import ConfigError
from llmrouter.pool import Timeouts
from llmrouter.types import Capability, ModelCard, Speed
from service import config_checks, config_file, config_problems
from service.cache.settings import CacheSettings
from service.endpoints import Served
from service.keys.settings import AuthSettings
from service.learning.settings import LearningSettings
from service.limits.settings import LimitsSettings, RedisSettings
from service.loads.settings import LoadOption
from service.models.overlay import Overlay, overlay_path, read_overlay
from service.picking import checks as picking_checks
from service.picking.settings import ChooserSettings, RouteSettings
from service.pricing_settings import PriceSettings, PricingSettings
from service.resilience.settings import DeploymentSettings, ResilienceSettings
from service.section import Section
from service.telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from llmrouter.engine import RoutingEngine
    from llmrouter.policy import Policy

DEFAULT_CONFIG = Path(__file__).parent / "default.yaml"
"""The embedded configuration: the pocket pool, the shipped artifact, a SQLite log in the working directory."""

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"


class SpeedSettings(Section):
    """How fast a model answers: seconds to its first token, then tokens per second."""

    time_to_first_token_s: PositiveFloat
    tokens_per_s: PositiveFloat


class TimeoutSettings(Section):
    """Seconds; see `llmrouter.pool.Timeouts`."""

    connect_s: PositiveFloat = 5.0
    first_byte_s: PositiveFloat = 60.0
    between_chunks_s: PositiveFloat = 60.0
    total_s: PositiveFloat = 600.0

    def timeouts(self) -> Timeouts:
        """Return them as the pool takes them."""
        return Timeouts(**self.model_dump())


class ModelSettings(Section):
    """One model of the pool.

    Attributes
    ----------
    name : str
        Pool name: what clients ask for, what headers and outcomes say.
    backend : str
        ``openai`` (any compatible URL), ``litellm`` or ``scripted``.
    model : str or None
        The upstream's name of the model; None is `name`.
    base_url, api_key, headers
        Where and how to reach it; `api_key` belongs into an environment variable.
    price : PriceSettings
        Taken from the known models where it is left out and `model` is known.
    capabilities, context_window, prior_quality, speed, energy_j_per_token
        See `llmrouter.types.ModelCard`.
    endpoints : set of str
        What the upstream serves: ``chat`` (chat completions), ``completions``, ``responses``, ``embeddings``. What a
        model does not serve itself is translated to chat completions; embeddings are not.
    deployments : list of DeploymentSettings
        Several places that serve the model; `base_url`, `api_key`, `model` and `headers` hold where one of them leaves
        them out.
    max_tokens_field : {"max_completion_tokens", "max_tokens"} or None
        The name under which the upstream knows the limit on output tokens, where it knows one only; None sends it
        under the client's.
    cache_control : bool
        Whether the upstream takes the ``cache_control`` marks of Anthropic's clients; else they are left out.
    stream_usage : bool
        Whether the upstream understands ``stream_options.include_usage``; without it streams have no token counts.
    timeouts : TimeoutSettings
        Limits on one call.
    load : LoadSettings or bool
        Whether the engine reports its load, ``true`` for ``{}``: decisions then follow its present price and speed in
        place of `price` and `speed`. Bills and budgets always follow `price`.
    options : mapping
        Further parameters of the backend, e.g. ``reply`` of a scripted one.
    """

    name: Annotated[str, Field(pattern=_NAME, max_length=128)]
    backend: str = "openai"
    model: str | None = None
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s/]")] | None = None
    api_key: SecretStr | None = None
    headers: dict[str, SecretStr] = {}
    price: PriceSettings
    capabilities: frozenset[Capability] = frozenset()
    context_window: PositiveInt | None = None
    prior_quality: Annotated[float, Field(ge=0, le=1)] | None = None
    speed: SpeedSettings | None = None
    energy_j_per_token: PositiveFloat | None = None
    endpoints: Annotated[frozenset[Served], Field(min_length=1)] = frozenset({"chat"})
    deployments: tuple[DeploymentSettings, ...] = ()
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] | None = None
    cache_control: bool = False
    stream_usage: bool = True
    timeouts: TimeoutSettings = TimeoutSettings()
    load: LoadOption = None
    options: dict[str, Any] = Field(default={}, repr=False)

    @property
    def generates(self) -> bool:
        """Whether it answers chats, so that it can be routed to."""
        return "chat" in self.endpoints

    @property
    def card(self) -> ModelCard:
        """What the router knows of the model before it is asked anything."""
        # Whoever keeps to a schema also keeps to JSON.
        implied = {Capability.JSON_MODE} if Capability.JSON_SCHEMA in self.capabilities else set()
        return ModelCard(
            name=self.name,
            price=self.price.price,
            context_window=self.context_window,
            capabilities=self.capabilities | implied,
            prior_quality=self.prior_quality,
            speed=None if self.speed is None else Speed(**self.speed.model_dump()),
            energy_j_per_token=self.energy_j_per_token,
        )


class RouterSettings(Section):
    """The trained router, and what it reads of a chat.

    Attributes
    ----------
    artifact : Path or None
        Folder (or link to one) that training wrote; None is the artifact that ships with the package.
    encoder : str or None
        ``static``, ``minilm``, a hub id or a path; None is the one the artifact was made with.
    embedding_cache : int or None
        Vectors of the latest texts that each worker keeps, shared by all artifacts with the same encoder; 0 is none.
        None is 4,096 where the encoder runs a network (``minilm``, ONNX, a hub's), and none for a token table.
    text, turns
        See `llmrouter.encoders.chat_text`.
    routes : tuple of RouteSettings or None
        The user's routes in words, see [routes](routes.md); requests on none of them are left to ``policy``.
    routes_file : Path or None
        A YAML file that holds them, in place of `routes`; watched like the configuration.
    chooser : ChooserSettings or None
        Who picks the route of a request; None is ``kind: embedding`` where there are routes.
    """

    artifact: Path | None = None
    encoder: str | None = None
    embedding_cache: NonNegativeInt | None = None
    text: Literal["last_user_turn", "system_and_last_turns"] = "last_user_turn"
    turns: PositiveInt = 1
    routes: tuple[RouteSettings, ...] | None = None
    routes_file: Path | None = None
    chooser: ChooserSettings | None = None

    @property
    def picks_by(self) -> ChooserSettings:
        """The chooser in force, where there are routes."""
        return self.chooser or ChooserSettings()

    @property
    def picks_only(self) -> str | None:
        """The model that picks routes and answers nobody, if there is one."""
        return None if self.routes is None or self.picks_by.answers else self.picks_by.model


class PolicySettings(BaseModel):
    """A policy by its registry name; every other key is a parameter of that policy, `base` a policy below it."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    kind: str = "utility"


class LogSettings(Section):
    """The outcome log.

    Attributes
    ----------
    store : str
        ``sqlite:///outcomes.db``; ``redis://HOST:PORT/DATABASE`` for many replicas, or ``redis://`` alone for that of
        the section ``redis``.
    prompts : {"text", "hash", "embedding", "none"}
        What is kept of prompts: the text that the router read and its SHA-256; the SHA-256 alone; the vector that the
        router made of the text, and the SHA-256; or nothing. Training needs text or vectors. A key can have a setting
        of its own (``prompts``), which then holds.
    retention_days : float or None
        Older outcomes are removed, with their feedback; None keeps them.
    max_outcomes : int or None
        So many outcomes are kept, the newest; None keeps all.
    flush_interval_s : float
        An outcome is on disk at most that many seconds after its answer ended.
    max_queue : int
        Outcomes kept in memory while the store cannot write; more go into the spool file.
    spool : Path or None
        That file; None puts it beside the store.
    """

    store: str = "sqlite:///outcomes.db"
    prompts: Literal["text", "hash", "embedding", "none"] = "text"
    retention_days: PositiveFloat | None = None
    max_outcomes: PositiveInt | None = None
    flush_interval_s: Annotated[float, Field(gt=0, le=60)] = 0.25
    max_queue: PositiveInt = 10_000
    spool: Path | None = None


class ServerSettings(Section):
    """Where the gateway listens.

    Attributes
    ----------
    host, port
        Port 0 takes a free one.
    workers : int
        Processes. Several need limits in Redis, if there are any, to be exact.
    allow_insecure : bool
        Allow a host beyond loopback without keys (`auth`).
    max_body_bytes : int
        Larger requests are refused with 413.
    header_timeout_s, body_timeout_s : float
        A client that takes longer to send the head of its request is cut off, one that takes longer for the body gets
        408.
    write_timeout_s : float
        A client that does not read its answer for so long is cut off, and the call of the model with it.
    watch_s : float
        How often the configuration and the artifact are looked at for changes; 0 leaves it to SIGHUP.
    drain_s : int
        On SIGTERM requests under way get that many seconds to end.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    allow_insecure: bool = False
    max_body_bytes: PositiveInt = 32 * 1024 * 1024
    header_timeout_s: PositiveFloat = 15.0
    body_timeout_s: PositiveFloat = 60.0
    write_timeout_s: PositiveFloat = 60.0
    watch_s: NonNegativeFloat = 2.0
    drain_s: PositiveInt = 30


class Settings(Section):
    """The whole configuration, frozen."""

    pool: tuple[ModelSettings, ...]
    router: RouterSettings = RouterSettings()
    policy: PolicySettings = PolicySettings()
    pricing: PricingSettings = PricingSettings()
    log: LogSettings = LogSettings()
    server: ServerSettings = ServerSettings()
    auth: AuthSettings | None = None
    limits: LimitsSettings = LimitsSettings()
    cache: CacheSettings | None = None
    resilience: ResilienceSettings = ResilienceSettings()
    learning: LearningSettings = LearningSettings()
    redis: RedisSettings | None = None
    telemetry: TelemetrySettings = TelemetrySettings()

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The pool as the router sees it: the models that answer chats."""
        return tuple(model.card for model in self.answering)

    @property
    def answering(self) -> tuple[ModelSettings, ...]:
        """The models that may answer chats."""
        return tuple(model for model in self.pool if model.generates and model.name != self.router.picks_only)

    def at(self, *, host: str | None = None, port: int | None = None) -> Settings:
        """Return the same settings with another place to listen.

        Raises
        ------
        ConfigError
            If it is none.
        """
        changed = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
        tree = {"server": {**self.server.model_dump(), **changed}}
        try:
            server = ServerSettings.model_validate(tree["server"])
        except ValidationError as error:
            raise config_problems.as_config_error(
                config_problems.of_validation(error, ServerSettings, tree, prefix=("server",)), source="server"
            ) from error
        return self.model_copy(update={"server": server})


def load_settings(
    path: Path | str | None = None, *, environment: Mapping[str, str] | None = None, overlay: Overlay | None = None
) -> Settings:
    """Read and check a configuration file, with the overlay that it names (`learning.models.overlay`) merged over it.

    Parameters
    ----------
    path : Path or str, optional
        YAML; None is the embedded default (`DEFAULT_CONFIG`).
    environment : mapping of str to str, optional
        For ``${NAME}`` and ``${NAME:-default}``; by default the process's.
    overlay : Overlay, optional
        In place of the one that is named.

    Raises
    ------
    ConfigError
        If anything is wrong; the message lists every problem with its path, the value and the allowed values. Values
        of secret keys are never shown.
    """
    file = DEFAULT_CONFIG if path is None else Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration {file} is not UTF-8 text (byte {error.start})") from error
    return parse_settings(text, source=str(file), environment=environment, overlay=overlay)


def parse_settings(
    text: str, *, source: str, environment: Mapping[str, str] | None = None, overlay: Overlay | None = None
) -> Settings:
    """Check the text of a configuration; see `load_settings`. `source` names it in errors."""
    written = config_file.parse_yaml(text, source=source)
    problems: dict[config_file.Path, str] = {}
    variables = os.environ if environment is None else environment
    place = overlay_path(written, variables)
    if overlay is None and place is not None:
        overlay = read_overlay(place)
    if overlay is not None:
        written = overlay.merged(written)
        source = source if place is None else f"{source} with {place}"
    tree = config_file.substitute(written, variables, problems)
    tree = config_checks.with_known_prices(tree, environment=variables)
    found = config_checks.check_pool(tree)
    tree = picking_checks.with_routes_file(tree, found, environment=variables)
    written = picking_checks.with_routes_file(written, {})
    tree, wrong = picking_checks.check_router(tree, written)
    found |= wrong
    if isinstance(tree.get("policy"), dict):
        tree["policy"], wrong = config_checks.check_policy(tree["policy"], written)
        found |= wrong
    settings = None
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        found = config_problems.of_validation(error, Settings, written) | found
    # A place whose variable is missing has no value yet that could be judged.
    problems = {**{path: message for path, message in found.items() if path not in problems}, **problems}
    if problems or settings is None:
        raise config_problems.as_config_error(problems, source=source)
    return settings


def build_policy(settings: PolicySettings) -> Policy:
    """Construct the configured policy.

    Raises
    ------
    ConfigError
        If it does not exist or refuses its parameters.
    """
    from llmrouter.policy import policy_from_config

    return policy_from_config({"kind": settings.kind, **(settings.model_extra or {})})


def configured_policy(settings: Settings) -> Policy:
    """Construct the ordinary policy: the configured one, with exploration around it where that is on.

    Raises
    ------
    ConfigError
        If it does not exist or refuses its parameters.
    """
    policy = build_policy(settings.policy)
    explore = settings.learning.explore
    return policy if explore is None else explore.around(policy, workers=settings.server.workers)


def build_engine(settings: Settings, *, policy: Policy | None = None) -> RoutingEngine:
    """Load the configured artifact as a routing engine over the configured pool.

    Parameters
    ----------
    settings : Settings
        The configuration.
    policy : Policy, optional
        By default constructed as configured, routes included.

    Raises
    ------
    ArtifactError
        If the artifact cannot be used.
    ConfigError, EncoderError, MissingExtraError
        If the policy or the encoder cannot.
    """
    from llmrouter import artifact
    from llmrouter.encoders import cached_encoder, load_encoder
    from service.picking.policy import with_routes

    router = settings.router
    engine = artifact.load(
        artifact.default_artifact() if router.artifact is None else router.artifact,
        settings.cards,
        policy=with_routes(configured_policy(settings), settings) if policy is None else policy,
        encoder=None if router.encoder is None else load_encoder(router.encoder),
    )
    engine.encoder = cached_encoder(engine.encoder, router.embedding_cache)
    return engine
