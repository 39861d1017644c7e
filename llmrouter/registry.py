"""Names for implementations: ``kind, name -> "module:Class"``, imported when chosen.

Built-in names are listed below; other distributions add theirs through entry points in the group
``llmrouter.<kind>`` (e.g. ``llmrouter.router``). A new router is one file and one line here.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Literal, get_args

from llmrouter.exceptions import ConfigError

Kind = Literal["encoder", "index", "router", "policy", "flow", "bound", "store", "backend", "verifier"]

_BUILTIN: Mapping[Kind, Mapping[str, str]] = {
    "encoder": {
        "static": "llmrouter.encoders._static:StaticEncoder",
        "form": "llmrouter.encoders._form:FormEncoder",
        "head": "llmrouter.encoders._head:HeadEncoder",
        "onnx": "llmrouter.encoders._onnx:OnnxEncoder",
        "sentence-transformers": "llmrouter.encoders._sentence_transformers:SentenceTransformersEncoder",
    },
    "index": {
        "exact": "llmrouter.index._exact:ExactIndex",
        "faiss-flat": "llmrouter.index._faiss:FaissFlatIndex",
    },
    "router": {
        "stack": "llmrouter.routers._stack:StackRouter",
        "stack-full": "llmrouter.routers._stack:FullStackRouter",
        "forest": "llmrouter.routers._forest:ForestRouter",
        "kernel-ridge": "llmrouter.routers._kernel_ridge:KernelRidgeRouter",
        "knn": "llmrouter.routers._knn:KNNRouter",
        "ridge": "llmrouter.routers._linear:RidgeRouter",
        "logistic": "llmrouter.routers._linear:LogisticRouter",
        "svm": "llmrouter.routers._svm:SVMRouter",
        "mlp": "llmrouter.routers._mlp:MLPRouter",
        "boosting": "llmrouter.routers._boosting:BoostingRouter",
        "mf": "llmrouter.routers._factorisation:FactorisationRouter",
        "mirt": "llmrouter.routers._irt:MIRTRouter",
        "nirt": "llmrouter.routers._irt:NIRTRouter",
        "carrot": "llmrouter.routers._carrot:CarrotRouter",
        "kernel-knn": "llmrouter.routers._kernel_knn:KernelKNNRouter",
        "condensed-knn": "llmrouter.routers._condensed:CondensedKNNRouter",
        "knn-select": "llmrouter.routers._selection:KNNSelectRouter",
        "r2t2": "llmrouter.routers._r2t2:R2T2Router",
        "uniroute": "llmrouter.routers._kmeans:UniRouteRouter",
        "learned-map": "llmrouter.routers._learned_map:LearnedMapRouter",
        "avengers": "llmrouter.routers._avengers:AvengersRouter",
        "avengers-pro": "llmrouter.routers._avengers:AvengersProRouter",
        "two-step": "llmrouter.routers._two_step:TwoStepRouter",
        "cscr": "llmrouter.routers._cscr:CSCRRouter",
        "routerdc": "llmrouter.routers._routerdc:RouterDCRouter",
        "llm-bandit": "llmrouter.routers._llm_bandit:LLMBanditRouter",
        "linear-bandit": "llmrouter.routers._bandit:LinearBanditRouter",
        "random": "llmrouter.routers._baselines:RandomRouter",
        "mean": "llmrouter.routers._baselines:MeanRouter",
        "cheapest": "llmrouter.routers._baselines:CheapestRouter",
        "best-single": "llmrouter.routers._baselines:BestSingleRouter",
    },
    "policy": {
        "utility": "llmrouter.policy._utility:UtilityPolicy",
        "quality_floor": "llmrouter.policy._quality_floor:QualityFloorPolicy",
        "budget": "llmrouter.policy._budget:BudgetPolicy",
        "latency": "llmrouter.policy._latency:LatencyPolicy",
        "quota": "llmrouter.policy._quota:QuotaPolicy",
        "sticky": "llmrouter.policy._sticky:StickyPolicy",
        "category_map": "llmrouter.policy._category_map:CategoryMapPolicy",
        "subset": "llmrouter.policy._subset:SubsetPolicy",
        "ucb": "llmrouter.policy._bandit:UCBPolicy",
        "thompson": "llmrouter.policy._bandit:ThompsonPolicy",
        "explore": "llmrouter.policy._explore:ExplorePolicy",
    },
    "flow": {
        "cascade": "llmrouter.flows._cascade:Cascade",
        "cascade-routing": "llmrouter.flows._cascade_routing:CascadeRouting",
    },
    "bound": {
        "oracle": "llmrouter.evaluation._bounds:Oracle",
        "zero": "llmrouter.evaluation._bounds:ZeroRouter",
    },
    "store": {
        "sqlite": "llmrouter.outcomes._sqlite:SQLiteOutcomeStore",
        "memory": "llmrouter.outcomes._memory:MemoryOutcomeStore",
        "redis": "llmrouter.outcomes._redis:RedisOutcomeStore",
        "rediss": "llmrouter.outcomes._redis:RedisOutcomeStore",
        "unix": "llmrouter.outcomes._redis:RedisOutcomeStore",
    },
    "verifier": {
        "exact": "llmrouter.verifiers._reading:ExactVerifier",
        "numeric": "llmrouter.verifiers._reading:NumericVerifier",
        "regex": "llmrouter.verifiers._reading:RegexVerifier",
        "json_schema": "llmrouter.verifiers._reading:JSONSchemaVerifier",
        "unit_tests": "llmrouter.verifiers._unit_tests:UnitTestsVerifier",
    },
    "backend": {
        "openai": "llmrouter.pool._openai:OpenAIBackend",
        "litellm": "llmrouter.pool._litellm:LiteLLMBackend",
        "scripted": "llmrouter.pool._scripted:ScriptedBackend",
    },
}


_WORDS = {"true": True, "false": False}


@lru_cache
def _targets(kind: Kind) -> Mapping[str, str]:
    if kind not in get_args(Kind):
        raise ConfigError(f"unknown registry kind {kind!r}; one of {', '.join(get_args(Kind))}")
    plugins = {point.name: point.value for point in entry_points(group=f"llmrouter.{kind}")}
    return {**plugins, **_BUILTIN[kind]}


def available(kind: Kind) -> tuple[str, ...]:
    """Return the names registered for `kind`, sorted."""
    return tuple(sorted(_targets(kind)))


def resolve(kind: Kind, name: str) -> type[Any]:
    """Import and return the class registered as `name`.

    Raises
    ------
    ConfigError
        If the name is unknown; the message lists the known ones.
    """
    target = _targets(kind).get(name)
    if target is None:
        raise ConfigError(f"unknown {kind} {name!r}; one of {', '.join(available(kind))}")
    module_name, _, class_name = target.partition(":")
    loaded: type[Any] = getattr(importlib.import_module(module_name), class_name)
    return loaded


def create(kind: Kind, name: str, /, **parameters: Any) -> Any:
    """Construct the implementation registered as `name` with `parameters`.

    Raises
    ------
    ConfigError
        If the name or a parameter is unknown.
    """
    implementation = resolve(kind, name)
    try:
        return implementation(**parameters)
    except TypeError as error:
        known = inspect.signature(implementation).parameters
        unknown = sorted(parameters.keys() - known.keys())
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        if unknown and not takes_any:
            raise ConfigError(
                f"{kind} {name!r} has no parameter {unknown[0]!r}; one of {', '.join(known) or '(none)'}"
            ) from error
        raise ConfigError(f"{kind} {name!r}: {error}") from error


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Split ``"knn:k=40,shrinkage=5"`` into ``("knn", {"k": 40, "shrinkage": 5})``.

    Values are Python literals where they parse as such, ``true`` and ``false`` as YAML has them, else strings.

    Raises
    ------
    ConfigError
        If `spec` is no text, or a parameter has no ``=``.
    """
    if not isinstance(spec, str):
        raise ConfigError(f"a name must be text such as 'knn:k=40', not {spec!r}")
    name, _, rest = spec.strip().partition(":")
    parameters: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, separator, text = item.partition("=")
        if not separator or not key.isidentifier():
            raise ConfigError(f"bad parameter {item!r} in {spec!r}; write NAME:key=value,key=value")
        try:
            parameters[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parameters[key] = _WORDS.get(text, text)
    return name, parameters
