"""The reader of ``key=value`` arguments that report, compare and bench share."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from implicit_bias.bench import command as bench
from implicit_bias.cli.arguments import Interface, a_folder
from implicit_bias.cli.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED
from implicit_bias.compare import command as compare
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper, hyper_fields
from implicit_bias.figures.base import Preset
from implicit_bias.report import command as report
from implicit_bias.report import request

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], Interface]] = {
    "report": (report.main, report.INTERFACE),
    "compare": (compare.main, compare.INTERFACE),
    "bench": (bench.main, bench.INTERFACE),
}


@dataclass(frozen=True)
class Request:
    """A key of every type."""

    colour: Literal["red", "blue"] = hyper("red", help="of the line")
    count: int = hyper(3, help="how many", ge=1, le=9)
    share: float = hyper(0.5, help="how much", gt=0, lt=1)
    quick: bool = hyper(False, help="in a hurry")
    names: tuple[str, ...] | None = hyper(None, help="of those that are meant")
    folder: str = hyper("here", help="where to")


INTERFACE = Interface(
    Request,
    "python -m a.command [key=value ...]",
    "Does it.",
    readers={"folder": a_folder("folder", "x")},
    homes=("colour", "count"),
    elsewhere={"hue": "colour"},
)


def work(typed: Sequence[str]) -> int:
    """What every command does, and then nothing."""
    Request(**INTERFACE.read(typed).keys)
    return DONE


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("colour=blue", "colour", "blue"),
        ("count=9", "count", 9),
        ("share=.25", "share", 0.25),
        ("quick=true", "quick", True),
        ("quick=false", "quick", False),
        ("names=a,b", "names", ("a", "b")),
        ("names=null", "names", None),
        ("folder=some/where", "folder", "some/where"),
    ],
)
def test_values_have_the_type_of_their_field(typed: str, key: str, value: Any) -> None:
    assert INTERFACE.read([typed]) == ((), {key: value})


def test_keys_that_are_not_given_keep_their_defaults_and_the_last_of_a_repeated_one_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert Request(**INTERFACE.read([]).keys) == Request()
    assert INTERFACE.read(["quick=true", "count=3", "quick=true"]).keys == {"count": 3, "quick": True}
    assert capsys.readouterr().err == ""
    assert INTERFACE.read(["count=2", "count=3"]).keys == {"count": 3}
    assert capsys.readouterr().err == "warning: count: is given twice; count=3 counts, count=2 does not\n"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("colour=green", "colour=green: must be one of red, blue"),
        ("count=0", "count=0: must be an integer in [1, 9]"),
        ("count=10", "count=10: must be an integer in [1, 9]"),
        ("count=two", "count=two: must be an integer in [1, 9]"),
        ("count=", "count=: must be an integer in [1, 9]"),
        ("share=1", "share=1: must be a number in (0, 1)"),
        ("share=nan", "share=nan: must be a number in (0, 1)"),
        ("quick=yes", "quick=yes: must be true or false"),
        ("names=", "names=: must be null or names, with commas between them"),
        ("names=a,,b", "names=a,,b: must be null or names, with commas between them"),
        ("folder=", "folder=: must be a folder, or a name that is free"),
        (f"folder={'f' * 5000}", f"folder={'f' * 20}...: must be a folder, or a name that can be one"),
        ("folder=a\0b", "folder=a\0b...: must be a folder, or a name that can be one"),
        ("color=red", "color: unknown key; did you mean colour? allowed: colour=, count=, share=, quick=, names=, folder="),
        ("red", "red: must be key=value, such as colour=red; allowed: colour=, "),
        ("7", "7: must be key=value, such as count=7; allowed: colour=, "),
        ("quick", "quick: must be key=value, such as quick=true; allowed: colour=, "),
        ("green", "green: must be key=value; allowed: colour=, "),
        ("color", "color: must be key=value; did you mean colour? allowed: colour=, "),
        ("hue=red", "hue: unknown key; did you mean colour? allowed: colour=, "),
        ("--colour=red", "--colour: keys have no dashes; write colour=red"),
        ("--colour red", "--colour: keys have no dashes; write colour=red"),
        ("--hue red", "--hue: keys have no dashes; write colour=red"),
        ("--quick", "--quick: keys have no dashes; write quick=true"),
        ("--folder count=3", "--folder: keys have no dashes; write folder=..."),
        ("--color red", "--color: unknown flag; allowed: -h, --help"),
        ("-x", "-x: unknown flag; allowed: -h, --help"),
    ],
)
def test_what_is_not_allowed_is_one_line(typed: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert INTERFACE.answer(typed.split(" "), work) == BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {says}") and captured.err.count("\n") == 1


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="must be a folder, or a name that is free"):
        a_folder("folder", "x")(str(tmp_path / "file"))
    assert a_folder("folder", "x")(str(tmp_path)) == str(tmp_path)


def test_operands_are_kept_in_their_order() -> None:
    interface = Interface(Request, "usage", "about", is_operand=lambda word: "=" not in word, operand="a path")
    assert interface.read(["a", "count=2", "b"]) == (("a", "b"), {"count": 2})
    with pytest.raises(BadInput, match=r"^x: unknown key; allowed: colour=, .*folder=, or a path$"):
        interface.read(["x=1"])


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (BadInput("key: wrong\nindeed"), BAD_INPUT, "error: key: wrong indeed"),
        (OSError(28, "No space left on device", "a/b"), FAILED, "error: a/b: No space left on device"),
        (OSError(28, "No space left on device"), FAILED, "error: results_dir: No space left on device"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (KeyError("a key\nof ours"), FAILED, "error: KeyError: "),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(typed: Sequence[str]) -> int:
        raise error

    monkeypatch.delenv("IMPLICIT_BIAS_TRACEBACK", raising=False)
    assert INTERFACE.answer([], fails) == code
    said = capsys.readouterr().err
    assert said.startswith(says) and said.count("\n") == 1
    monkeypatch.setenv("IMPLICIT_BIAS_TRACEBACK", "1")
    assert INTERFACE.answer([], fails) == code
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, KeyError)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_describes_every_key_and_starts_nothing(
    command: str, flag: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main, interface = COMMANDS[command]
    for typed in ([flag], ["nonsense=1", flag]):
        assert main(typed) == 0
        captured = capsys.readouterr()
        assert captured.err == "" and captured.out.startswith(f"usage: python -m implicit_bias.{command} ")
        said = " ".join(captured.out.split())
        for key, declared in hyper_fields(interface.request).items():
            assert f" {key}=" in said and declared.metadata["hyper"].help in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("report", "fan_fig1", "only=fan_fig1"),
        ("report", "fan_fig1,rates", "only=fan_fig1,rates"),
        ("report", "smoke", "preset=smoke"),
        ("report", "redraw", "redraw=true"),
        ("bench", "muon", "optimizer=muon"),
        ("bench", "100x10x25", "size=100x10x25"),
        ("bench", "networks", "size=networks"),
        ("bench", "64", "runs=64"),
    ],
)
def test_a_value_without_its_key_is_answered_with_both(
    command: str, typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main, _ = COMMANDS[command]
    assert main([typed]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {typed}: must be key=value, such as {meant}; allowed: ") and error.count("\n") == 1


@pytest.mark.parametrize("typed", [["FIGURE=rates"], ["--figure", "rates"], ["--only=rates"]])
def test_a_figure_is_named_by_only(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(typed) == 2
    assert re.search("did you mean only\\?|write only=rates", capsys.readouterr().err)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("typed", ["foo=1", "--foo", "results_dri=x"])
def test_unknown_arguments_are_refused_before_anything_is_done(
    command: str, typed: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main, _ = COMMANDS[command]
    assert main([typed]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {typed.partition('=')[0]}: unknown ") and error.count("\n") == 1 and "allowed: " in error
    assert list(tmp_path.iterdir()) == []


def test_help_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (60, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        for _, interface in COMMANDS.values():
            long = [line for line in interface.help_text().splitlines() if len(line) > width and not line.startswith("usage")]
            assert not long


def test_every_field_of_a_request_is_a_key_but_for_operands() -> None:
    for _, interface in COMMANDS.values():
        operands = {"runs"} if interface.is_operand else set()
        assert {field.name for field in fields(interface.request)} - operands == set(hyper_fields(interface.request))


def test_the_reports_presets_are_those_of_the_figures() -> None:
    assert get_args(request.Preset) == get_args(Preset)
