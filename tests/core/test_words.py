"""The wording that messages share."""

import pytest

from implicit_bias.cli.messages import in_terminal
from implicit_bias.config.files import groups, main_page
from implicit_bias.core.hints import KEYS, OPTIONS
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


def test_letters_in_another_order_are_one_slip_and_a_common_group_says_nothing() -> None:
    assert suggestion("esp", ["beta", "eps"]) == "; did you mean eps?"
    assert not suggestion("dataset.batch_size", ["dataset.rotate", "dataset.seed"])
    assert not suggestion("nothing", ["boosting", "null"])


def test_every_word_from_elsewhere_is_answered_by_what_there_is() -> None:
    for meant in KEYS.values():
        key = meant.partition(" ")[0]
        group, dot, last = key.partition(".")
        pages = [page.keys for page in groups().get(group, {}).values()] if dot else []
        assert key in main_page().keys or key in groups() or any(last in keys for keys in pages), meant
    for group, words in OPTIONS.items():
        for word, meant in words.items():
            assert word not in groups()[group]
            assert meant.partition("=")[2].replace(",", " ").split()[0] in groups()[group]


def test_lines_are_wrapped_between_words_and_commands_go_on_behind_a_backslash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = "error: seed=1,2: several values need -m: python -m implicit_bias.run -m seed=1,2 optimizer=muon steps=20000"
    assert in_terminal(text).splitlines() == [
        "error: seed=1,2: several values need -m:",
        "  python -m implicit_bias.run -m seed=1,2 optimizer=muon \\",
        "    steps=20000",
    ]  # fmt: skip
    lines = in_terminal(f"error: {'optimizer=mu0n: no such option; allowed: muon_adam, ' * 4}").splitlines()
    assert len(lines) > 3 and all(len(line) <= 60 for line in lines) and " ".join(lines).count("muon_adam, ") == 3


def test_nothing_is_suggested_for_what_is_like_nothing() -> None:
    assert not suggestion("xyz", ["Adam", "linf"])
