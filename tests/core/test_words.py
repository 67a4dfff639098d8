"""The wording that messages share."""

import pytest

from implicit_bias.core.words import suggestion


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("Adamw", ["Adam", "Adamax", "AdamW"], "AdamW"),
        ("LINF", ["l1", "linf"], "linf"),
        ("muonn", ["Muon", "nmd"], "Muon"),
        ("beta", ["Beta", "beta_1"], "Beta"),
    ],
)
def test_what_was_meant_is_found_in_any_case_of_letters(word: str, known: list[str], meant: str) -> None:
    assert suggestion(word, known) == f"; did you mean {meant}?"


def test_nothing_is_suggested_for_what_is_like_nothing() -> None:
    assert not suggestion("xyz", ["Adam", "linf"])
