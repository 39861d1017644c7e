"""The page about conformance says what the tests show, and every item is shown by one."""

from __future__ import annotations

from conformance_items import COMPLAINTS, DEVIATIONS, ELSEWHERE
from conformance_table import HERE, PAGE, render, shown_by


def test_every_item_is_shown() -> None:
    assert [item for item, tests in shown_by().items() if not tests] == []


def test_every_corpus_file_is_played_and_listed() -> None:
    played = (HERE / "test_conformance_corpus.py").read_text(encoding="utf-8")
    for file in (HERE / "corpus").iterdir():
        assert f'load("{file.stem}")' in played
        assert f"`{file.stem}.json`" in render()


def test_tests_of_other_folders_exist() -> None:
    for test in ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (HERE.parent / path).read_text(encoding="utf-8")


def test_no_item_has_two_meanings() -> None:
    assert not set(DEVIATIONS) & set(COMPLAINTS)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run python tests/conformance/conformance_table.py"
