"""Who answers on a route: the policy around the ordinary one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from llmrouter.exceptions import ConfigError
from llmrouter.policy import Appraisal, BasePolicy, TrainingFacts, View, WrappingPolicy, policy_from_config
from llmrouter.routes._route import Route
from llmrouter.types import Decision, Outcome

_BEYOND = 1_000
"""Added to the tiers of models that are not the route's."""


class RoutesPolicy(WrappingPolicy):
    """Rank the models of the request's route first, as the route says; without a route the base decides.

    On a route the base's choice, what it rules out and its exploration do not hold: the user's words do. It goes on
    counting, so that a budget or a quota includes what routes spend. Limits of the request itself (allowed models,
    largest cost, capabilities) hold as ever, and a request's own cost weight or quality floor goes before the order
    of the models: it chooses among them.

    Parameters
    ----------
    routes : sequence of Route
        Checked ones (see `checked_routes`).
    base : mapping or BasePolicy, optional
        The ordinary policy; by default utility.

    Raises
    ------
    ConfigError
        If the policy of a route does not exist or refuses its parameters.
    """

    def __init__(self, routes: Sequence[Route], base: Mapping[str, Any] | BasePolicy | None = None) -> None:
        super().__init__(base)
        self.routes = {route.name: route for route in routes}
        self.policies: dict[str, BasePolicy] = {}
        for i, route in enumerate(routes):
            if route.policy is not None:
                self.policies[route.name] = _built(route.policy, path=f"routes[{i}].policy")
        self.locks = _all_locks(self.base, self.policies)

    @property
    def name(self) -> str:
        """The base's: what decides where no route does."""
        return self.base.name

    def around(self, base: BasePolicy) -> Self:
        """Return the same routes, with what their policies count, around another base."""
        return self._with(base=base, locks=_all_locks(base, self.policies))

    def bind(self, facts: TrainingFacts, /) -> Self:
        """Return the policy with the base and every route's policy bound."""
        policies = {}
        for name, policy in self.policies.items():
            try:
                policies[name] = policy.bind(facts)
            except ConfigError as error:
                raise ConfigError(f"the policy of the route {name!r} does not fit the artifact: {error}") from error
        return self._with(base=self.base.bind(facts), policies=policies)

    def appraise(self, view: View, /) -> Appraisal:
        """Value the candidates on the request's route.

        Raises
        ------
        ConfigError
            If the request is on a route that does not exist.
        """
        base = self.base.appraise(view)
        pick = view.request.route
        if pick is None or pick.is_other:
            return base
        route = self.routes.get(pick.name)
        if route is None:
            raise ConfigError(f"the request is on the route {pick.name!r}; there are {', '.join(self.routes)}")
        mine = {i for i in range(len(view.candidates)) if not route.models or view.name(i) in route.models}
        usable = [i for i in view.eligible if i in mine]
        warnings: tuple[str, ...] = ()
        if not usable and not route.only:
            warnings = (f"no model of the route {route.name!r} can take this request: another answers",)
        policy = self.policies.get(route.name)
        if policy is not None and usable:
            return self._by_policy(view, route, policy, base, mine)
        return replace(
            base,
            policy=f"route({route.name})",
            tiers=[self._tier(view, route, base, i) for i in range(len(view.candidates))],
            samples=None,
            explorer=None,
            ruled_out=_outside(view, route, mine) if route.only else {},
            warnings=warnings,
        )

    def record(self, view: View, decision: Decision, /) -> None:
        """Let the base and the route's policy count the decision."""
        super().record(view, decision)
        policy = self._policy_of(view)
        if policy is not None:
            policy.record(view, decision)

    def observe(self, outcome: Outcome, /) -> None:
        """Let all policies take in the outcome."""
        super().observe(outcome)
        for policy in self.policies.values():
            policy.observe(outcome)

    def _policy_of(self, view: View) -> BasePolicy | None:
        pick = view.request.route
        return None if pick is None else self.policies.get(pick.name)

    def _tier(self, view: View, route: Route, base: Appraisal, i: int) -> int:
        name, of_base = view.name(i), 0 if base.tiers is None else base.tiers[i]
        if name not in route.models:
            return _BEYOND + of_base
        preference = view.request.preference
        wished = preference.cost_weight is not None or preference.quality_floor is not None
        return of_base if wished else route.models.index(name)

    def _by_policy(self, view: View, route: Route, policy: BasePolicy, base: Appraisal, mine: set[int]) -> Appraisal:
        """Let the route's policy value its models; the others come after them, in the base's order."""
        outside = _outside(view, route, mine)
        own = policy.appraise(view.without(outside))
        ruled_out = {**own.ruled_out, **(outside if route.only else {})}
        named = replace(own, policy=f"route({route.name};{own.policy})", ruled_out=ruled_out)
        if not outside or route.only:
            return named
        if own.samples is not None or own.explorer is not None:
            # A draw knows no tiers: what may be drawn has to be the route's, so the others stay out.
            return replace(named, ruled_out={**ruled_out, **outside})
        tiers = [0 if own.tiers is None else own.tiers[i] for i in range(len(view.candidates))]
        scores = list(own.scores)
        for i in outside:
            tiers[i] = _BEYOND + (0 if base.tiers is None else base.tiers[i])
            scores[i] = base.scores[i]
        return replace(named, tiers=tiers, scores=scores)

    def _around(self, base: str) -> str:
        return base


def _outside(view: View, route: Route, mine: set[int]) -> dict[int, str]:
    return {i: f"not a model of the route {route.name!r}" for i in view.eligible if i not in mine}


def _built(section: Mapping[str, Any], *, path: str) -> BasePolicy:
    try:
        policy = policy_from_config(section)
    except ConfigError as error:
        raise ConfigError(str(error), path=path) from error
    if not isinstance(policy, BasePolicy):
        raise ConfigError(
            f"{policy.name!r} is not built on llmrouter.policy.BasePolicy, and cannot choose on a route; take one "
            "that is, e.g. {kind: utility}",
            path=path,
        )
    return policy


def _all_locks(base: BasePolicy, policies: Mapping[str, BasePolicy]) -> tuple[Any, ...]:
    locks = [lock for policy in (base, *policies.values()) for lock in policy.locks]
    return tuple({id(lock): lock for lock in locks}.values())
