"""The contract kit over every registered policy."""

import pytest

from llmrouter.registry import available
from tests.contracts.policy_kit import check_policy


@pytest.mark.parametrize("name", available("policy"))
def test_contract(name):
    check_policy(name)
