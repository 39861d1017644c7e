from __future__ import annotations

import pytest

ESTIMATOR_CHECK = "test_estimator_check"
SHARE = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave two of three of scikit-learn's checks to `make soak`: a third of them for each router.

    Every router meets a third of the checks, and every check a third of the routers.
    """
    routers: dict[str, int] = {}
    checks: dict[str, int] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.originalname == ESTIMATOR_CHECK:
            router = routers.setdefault(type(item.callspec.params["estimator"]).__name__, len(routers))
            check = checks.setdefault(_name(item.callspec.params["check"]), len(checks))
            if (router + check) % SHARE:
                item.add_marker(pytest.mark.soak)


def _name(check: object) -> str:
    return str(getattr(getattr(check, "func", check), "__name__", check))
