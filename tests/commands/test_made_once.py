"""Each object of a run is made once, and what a run computes is read from it: nobody opens its configuration a second time."""

import ast
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import implicit_bias
from implicit_bias.config.schema import REGISTRIES
from implicit_bias.norms import make_norm
from implicit_bias.run import main
from tests.support.commands import SMALL

QUICK = [*SMALL, "steps=50", "log.points=5", "progress=off", "log.norms=[linf,l1,l2,spectral,nuclear]"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many objects of each group were made since, and norms by their labels; solvers make norms for purposes of their own."""
    counted: Counter[str] = Counter()

    def counts(cls: Any, group: str) -> None:
        original = cls.__init__

        def init(self: Any, *arguments: Any, **keys: Any) -> None:
            counted[group] += type(self) is cls
            original(self, *arguments, **keys)

        monkeypatch.setattr(cls, "__init__", init)

    for group in ("dataset", "model", "loss", "optimizer", "schedule"):
        for name in REGISTRIES[group]:
            counts(REGISTRIES[group].get(name), group)

    def norm(name: str, **keys: Any) -> Any:
        found = make_norm(name, **keys)
        counted[found.label] += 1
        return found

    for name, module in list(sys.modules.items()):
        if name.startswith("implicit_bias.") and not name.startswith("implicit_bias.solvers.") and hasattr(module, "make_norm"):
            monkeypatch.setattr(module, "make_norm", norm)
    return counted


OBJECTS = {"dataset": 1, "model": 1, "loss": 1, "optimizer": 1, "schedule": 1}
LOGGED = {"linf": 1, "l1": 1, "l2": 1, "spectral": 1, "nuclear": 1}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizer=muon", "schedule.lr=0.1"], {**OBJECTS, **LOGGED}),
        # The number that auto stands for is known when the data are: with it a schedule is made for the optimizer
        # to refuse, and one of the batch.
        (["optimizer=muon"], {**OBJECTS, **LOGGED, "schedule": 3}),
        (["optimizer=nsd", "norm=lp", "schedule.lr=0.1", "log.norms=[lp3,l2]"], {**OBJECTS, "lp3": 1, "l2": 1}),
        (["optimizer=muon_signum", "schedule.lr=0.1", "log.norms=[l2]"], {**OBJECTS, "hybrid0.1": 1, "l2": 1}),
        (["model=mlp", "model.width=4", "schedule.lr=0.1", "log.norms=[l2]"], {**OBJECTS, "spectral": 1, "l2": 1}),
    ],
)
def test_a_run_makes_each_of_its_objects_once(
    made: Counter[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], expected: dict[str, int]
) -> None:
    assert main([*QUICK, *overrides, "reference=auto", f"results_dir={tmp_path}"]) == 0
    assert "optimizer" in capsys.readouterr().out
    assert made == expected


def test_a_run_that_is_finished_makes_no_more(made: Counter[str], tmp_path: Path) -> None:
    assert main([*QUICK, "optimizer=muon", f"results_dir={tmp_path}"]) == 0
    made.clear()
    assert main([*QUICK, "optimizer=muon", f"results_dir={tmp_path}"]) == 0
    assert not made  # its answer is remembered
    assert main([*QUICK, "optimizer=muon", "certificate=show", f"results_dir={tmp_path}"]) == 0
    assert made == {**OBJECTS, **LOGGED}


def test_the_runs_of_a_sweep_share_what_is_equal(made: Counter[str], tmp_path: Path) -> None:
    sweep = ["-m", *QUICK, "optimizer=signgd,muon", "seed=1,2,3", "schedule.lr=0.1", f"results_dir={tmp_path}"]
    assert main(sweep) == 0
    assert made == {**OBJECTS, **LOGGED, "dataset": 3, "optimizer": 2}


def test_a_batch_of_different_numbers_makes_one_object_more(made: Counter[str], tmp_path: Path) -> None:
    """The one whose numbers are tensors, a value a run."""
    sweep = ["-m", *QUICK, "optimizer=muon", "optimizer.beta=0.5,0.8,0.9", "schedule.lr=0.1", f"results_dir={tmp_path}"]
    assert main(sweep) == 0
    assert made == {**OBJECTS, **LOGGED, "optimizer": 4}


# --- nobody opens a configuration ------------------------------------------------------------------------------------

ROOT = Path(implicit_bias.__file__).parent
#: What makes and checks configurations, and what reads those of finished runs of any version.
READERS = ("config", "analysis", "compare")
#: Where a run's configuration is printed, and handed to another process.
WRITERS = ("run.py", "sweep/clusters/tasks.py")
NAMES = ("config", "configuration", "canonical", "config_yaml", "_canonical")


def sources(*words: str) -> dict[str, ast.Module]:
    """The modules that have one of these words in them."""
    paths = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
    texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items() if name.split("/")[0] not in READERS}
    return {name: ast.parse(text) for name, text in texts.items() if any(word in text for word in words)}


def opened(tree: ast.AST) -> list[int]:
    """The lines in which a configuration is opened: ``spec.canonical["steps"]``, ``config.get("name")``."""

    def is_configuration(node: ast.AST) -> bool:
        return (isinstance(node, ast.Name) and node.id in NAMES) or (isinstance(node, ast.Attribute) and node.attr in NAMES)

    readers = ("get", "items", "values", "keys", "pop")
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Subscript) and is_configuration(node.value))
        or (isinstance(node, ast.Attribute) and node.attr in readers and is_configuration(node.value))
    ]


@pytest.mark.slow
def test_configurations_are_opened_where_they_are_made_alone() -> None:
    assert opened(ast.parse('run.spec.canonical["steps"]')) == opened(ast.parse('config.get("name")')) == [1]
    assert {name: lines for name, tree in sources(*NAMES).items() if (lines := opened(tree))} == {}


def test_the_dictionary_of_a_run_leaves_it_to_be_written_only() -> None:
    trees = sources("canonical")
    asked = {name for name, tree in trees.items() for node in ast.walk(tree) if getattr(node, "attr", None) == "canonical"}
    assert asked == set(WRITERS)
    assert not any(getattr(node, "attr", None) == "_canonical" for tree in trees.values() for node in ast.walk(tree))
