"""What ``--help`` says: of everything, of a group, of an option and of a key, from what the classes declare."""

import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from implicit_bias.__main__ import main as package
from implicit_bias.cli.wrapping import NARROWEST, WIDEST, WIDTH, entry, fitted, terminal_width
from implicit_bias.config import help as pages
from implicit_bias.config.files import groups, main_page
from implicit_bias.config.help import help_text, topics_text
from implicit_bias.config.overrides import compose
from implicit_bias.config.run_settings import SECTIONS, RunSettings
from implicit_bias.config.schema import REGISTRIES
from implicit_bias.core.errors import BadInput
from implicit_bias.core.kinds import kinds
from implicit_bias.core.registry import hyper_fields
from implicit_bias.run import main
from tests.support.commands import ROOT

OPTIONS = [(group, option) for group, registry in REGISTRIES.items() for option in registry]


def words(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_alone(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    assert capsys.readouterr().out == help_text() + "\n"


def test_the_package_alone_says_what_there_is_and_the_command_alone_computes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``python -m implicit_bias``, which ``implicit-bias`` is, too; behind it anything may be typed as behind the command."""
    assert package([]) == 0
    overview = capsys.readouterr().out
    assert "implicit-bias --help" in overview and len(overview) < len(help_text()) / 4
    assert all(f" {option}" in overview for options in groups().values() for option in options)
    monkeypatch.setattr(sys, "argv", ["implicit-bias"])
    assert package() == 0
    assert capsys.readouterr().out == overview
    assert package(["--cfg", "optimizer=muon"]) == 0
    configuration = capsys.readouterr().out
    assert main(["--cfg", "optimizer=muon"]) == 0
    assert capsys.readouterr().out == configuration
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("implicit_bias.run._execute", lambda cells, *_: pytest.fail(f"{len(cells)} computed"))
    with pytest.raises(pytest.fail.Exception, match="1 computed"):
        main([])
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["project"]["scripts"] == {"implicit-bias": f"{package.__module__}:{package.__name__}"}


def test_it_names_every_option_and_every_key_with_its_default() -> None:
    text = help_text()
    for group, options in groups().items():
        assert f"{group}=..." in text or not options
        for option in options:
            assert re.search(rf"^    {option}\b", text, re.MULTILINE), option
    for group, option in OPTIONS:
        for key in hyper_fields(REGISTRIES[group].get(option)):
            assert f"{group}.{key}=" in text
    for key in main_page().keys:
        assert f"{key}=" in text
    for part in ("EXAMPLES", "EXIT CODES", "done", "130", "-m, --multirun", "make figures", "from implicit_bias import run"):
        assert part in text


@pytest.mark.parametrize(("prefix", "cls"), [("", RunSettings), *((f"{name}.", cls) for name, cls in SECTIONS.items())])
def test_it_says_what_the_runs_own_keys_mean_and_may_be(prefix: str, cls: type) -> None:
    text = words(help_text())
    for name, kind in kinds(cls).items():
        assert f"{prefix}{name}=" in text
        assert f"{words(kind.spec.help)}. Allowed: {kind.allowed}" in text


def test_the_examples_compose() -> None:
    lines = [line for line in pages.COMMANDS.splitlines() if "implicit_bias.run " in line and "..." not in line]
    assert len(lines) >= 5
    for line in lines:
        typed = shlex.split(line)[3:]
        assert compose([word for word in typed if word != "-m"], multirun="-m" in typed)


@pytest.mark.parametrize("group", list(groups()))
def test_a_group_lists_its_options_one_a_line(group: str) -> None:
    lines = topics_text([group], width=10_000).splitlines()
    for option, page in groups()[group].items():
        (line,) = [line for line in lines if line.split()[:1] == [option]]
        assert page.help in line


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_describes_every_key(group: str, option: str) -> None:
    text = words(topics_text([f"{group}={option}"]))
    cls = REGISTRIES[group].get(option)
    for name, kind in kinds(cls).items():
        default = groups()[group][option].keys[name].default
        assert f"{group}.{name}={words(default)} {words(kind.spec.help)}. Allowed: {kind.allowed}" in text


def test_adam_is_described_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in (["--help", "optimizer=adam"], ["optimizer=adam", "--help"]):
        assert main(typed) == 0
        said = capsys.readouterr().out
        assert "Adam without a stability constant" in said
        beta2 = "optimizer.beta2=0.95 weight of the past in the average of squared gradients. Allowed: a number in [0, 1)"
        assert beta2 in words(said)
        assert len(re.findall(r"^  optimizer\.\w+=", said, re.MULTILINE)) == 5


def test_one_key_is_described_alone() -> None:
    assert words(topics_text(["steps"])) == "steps=10000 updates to make. Allowed: an integer >= 1"
    assert topics_text(["steps=5"]) == topics_text(["steps"])
    assert topics_text(["hydra.launcher.workers"]) == topics_text(["launcher.workers"])
    rate = words(topics_text(["schedule.lr"]))
    assert "Allowed: 'auto' or a number > 0 of schedule=constant,loss_based,lyu_li,power schedule.lr=1.0" in rate
    assert rate.endswith("Allowed: a number in (0, 1] of schedule=edge")
    assert topics_text(["steps", "log.points"]) == f"{topics_text(['steps'])}\n\n{topics_text(['log.points'])}"


def test_a_key_that_differs_between_options_is_described_for_each() -> None:
    text = " ".join(topics_text(["model.init"]).split())
    assert "of model=linear" in text and "of model=cnn,diagonal,mlp" in text
    assert "uniform or normal" in text and "zero or gaussian" in text


def test_an_experiment_shows_what_it_sets() -> None:
    text = topics_text(["experiment=adam_eps"])
    assert "schedule.lr=0.03" in text and "steps=20000" in text


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        ("optimizr", "--help optimizr: no such group or key; did you mean optimizer? allowed: dataset, "),
        ("lr", "--help lr: no such group or key; did you mean schedule.lr? allowed: dataset, "),
        ("noise", "--help noise: no such group or key; did you mean dataset.noise"),
        ("step", "--help step: no such group or key; did you mean steps?"),
        ("optimizer=adm", "optimizer=adm: no such option; did you mean adam? allowed: adam, "),
        ("optimizer=", "optimizer=: no such option; allowed: adam, "),
        ("optimizer.bta", "--help optimizer.bta: no such group or key; did you mean optimizer.beta? allowed: optimizer.beta"),
        ("optimizer.name", "--help optimizer.name: no such group or key"),
        ("loss.x", "--help loss.x: no such group or key; did you mean loss? allowed: loss, or group=option"),
        ("log.pionts", "--help log.pionts: no such group or key; did you mean log.points? allowed: log.norms, "),
        ("a.b.c", "--help a.b.c: no such group or key; allowed: dataset, "),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(topic: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput):
        topics_text([topic])
    assert main(["--help", "steps", topic]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {says}") and captured.err.count("\n") == 1


@pytest.mark.parametrize("width", [NARROWEST, 72, WIDEST])
def test_lines_fit_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert terminal_width() == width
    for text in (help_text(), topics_text(["optimizer", "model=mlp", "schedule.lr", "log"])):
        for line in filter(None, text.splitlines()):
            # What is one word, and what is to be copied, is not broken.
            whole = len(line.split()) == 1 or line.lstrip().startswith(("python -m", "trajectory, summary = run("))
            assert len(line) <= width or whole, line


def test_without_a_terminal_lines_have_a_fixed_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback: os.terminal_size(fallback))
    assert terminal_width() == WIDTH
    for said, taken in (("5", NARROWEST), ("1000", WIDEST)):
        monkeypatch.undo()
        monkeypatch.setenv("COLUMNS", said)
        assert terminal_width() == taken


def test_two_columns() -> None:
    assert entry("key", "one two", column=5, indent=2, width=40) == ["  key    one two"]
    assert entry("key", "one two three", column=5, indent=2, width=18) == ["  key    one two", "         three"]
    assert entry("long_key", "one", column=5, indent=2, width=40) == ["  long_key", "         one"]
    assert entry("key", "one two", column=15, indent=2, width=20) == ["  key", "      one two"]
    assert fitted("  key    one two three", 18) == "  key    one two\n         three"
    assert fitted("  a command    what it does", 20) == "  a command\n      what it does"
    assert fitted("  python -m a.b 'of two' words", 22) == "  python -m a.b \\\n    'of two' words"
    assert fitted("  python -m a.long.command", 20) == "  python -m a.long.command"
