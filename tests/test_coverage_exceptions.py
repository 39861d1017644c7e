"""What is not traced for coverage is there under that name, so that nothing is left out by mistake."""

import re
from pathlib import Path

import pytest

from tests.conftest import NOT_TRACED

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", sorted(NOT_TRACED))
def test_it_is_there(name):
    path = HERE / (name.replace(".", "/") + ".py")
    if not path.is_file():
        module, _, function = name.rpartition(".")
        path = HERE / (module.replace(".", "/") + ".py")
        assert re.search(rf"^(async )?def {function}\(", path.read_text(encoding="utf-8"), re.MULTILINE)
