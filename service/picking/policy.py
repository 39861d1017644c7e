"""The policy that knows the routes, around the ordinary one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrouter.exceptions import ConfigError
from llmrouter.policy import BasePolicy, Policy
from llmrouter.routes import RoutesPolicy

if TYPE_CHECKING:
    from service.settings import Settings


def with_routes(policy: Policy, settings: Settings, *, reuse: Policy | None = None) -> Policy:
    """Return a policy with the configured routes around it; the policy itself where there are none.

    Parameters
    ----------
    policy : Policy
        The ordinary one.
    settings : Settings
        The configuration.
    reuse : Policy, optional
        What this function returned for the same routes before: what their policies count goes on.

    Raises
    ------
    ConfigError
        If the ordinary policy is not built on `BasePolicy`, or that of a route refuses its parameters.
    """
    routes = settings.router.routes
    if routes is None:
        return policy
    if not isinstance(policy, BasePolicy):
        raise ConfigError(
            f"router.routes work around policies built on llmrouter.policy.BasePolicy; {policy.name!r} is not: "
            "leave the routes out, or take another policy",
            path="router.routes",
        )
    if isinstance(reuse, RoutesPolicy):
        return reuse.around(policy)
    return RoutesPolicy([route.route for route in routes], policy)
