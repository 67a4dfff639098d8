"""Options from outside the package: plugin folders and installed distributions, good ones and broken ones.

What is imported stays imported, so each case is a process of its own, forked from one that has imported the package.
"""

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from implicit_bias.core import plugins
from implicit_bias.core.errors import BadInput
from implicit_bias.core.plugin_classes import plugin_files
from implicit_bias.run import main
from tests.support.commands import SMALL, Ended, finish

OPTIMIZER = '''
from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.core.registry import hyper
from implicit_bias.optimizers.base import OPTIMIZERS, Optimizer, Step


@OPTIMIZERS.register
@dataclass(frozen=True)
class SlowSign(Optimizer):
    """Sign descent by a part of every step."""

    name: ClassVar[str] = "slow_sign"
    own_norm: ClassVar[str | None] = "linf"
    part: float = hyper(0.5, help="the part", gt=0, le=1)

    def update(self, state, gradient, t, norm):
        return state, Step({n: self.part * g.mantissa.sign() for n, g in gradient.items()})
'''
YAML = "# Sign descent, slowly.\nname: slow_sign\npart: 0.25\n"
NORM = '''
from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.norms.base import NORMS, Norm
from implicit_bias.norms.row import Row


@NORMS.register
@dataclass(frozen=True)
class Column(Norm):
    """Column norm."""

    name: ClassVar[str] = "column"

    def value(self, w):
        return Row().value(w.mT)

    def dual(self, g):
        return Row().dual(g.mT)

    def direction(self, g):
        return Row().direction(g.mT).mT

    def project(self, w):
        return Row().project(w.mT).mT

    def expression(self, variable):
        return Row().expression(variable.T)
'''
DATASET = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from implicit_bias.core.registry import hyper
from implicit_bias.datasets.base import DATASETS, Dataset, DatasetSource, checked_dataset


@DATASETS.register
@dataclass(frozen=True)
class TwoPoints(DatasetSource):
    """Two points."""

    name: ClassVar[str] = "two_points"
    seed: int = hyper(1, help="seed of the points", ge=0)
    at: tuple[int, ...] = hyper((1, 2), help="where")

    def load(self) -> Dataset:
        x = np.array([self.at, [-c for c in self.at]]) + np.random.RandomState(self.seed).rand(2, 1) / 9
        return checked_dataset(x, np.array([0, 1]), 2, origin="dataset=two_points")
'''
RUN = ("steps=3", *SMALL)


def written(folder: Path, files: Mapping[str, str]) -> Path:
    """The folder, with these files in it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def command(folder: Path | str, *arguments: str) -> Ended:
    """The command with a plugin folder, its results beside it."""
    results = [] if "--help" in arguments else [f"results_dir={Path(folder).parent / 'results'}"]
    return finish(*arguments, *results, environment={plugins.VARIABLE: str(folder)})


def said(ended: Ended, code: int = 2) -> str:
    """The one line on stderr of a command that ended so."""
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == code, ended
    return line


@pytest.mark.parametrize("layout", ["", "implicit_bias/"])
def test_an_optimizer_in_a_folder_is_an_option_like_any_other(layout: str, tmp_path: Path) -> None:
    files = {f"{layout}optimizers/slow_sign.py": OPTIMIZER, "configs/optimizer/slow_sign.yaml": YAML}
    folder = written(tmp_path / "plugin", files)
    ended = command(folder, "-m", "optimizer=slow_sign", "optimizer.part=0.5,1", *RUN)
    assert (ended.returncode, ended.stderr) == (0, "")
    runs = sorted((tmp_path / "results" / "runs").iterdir())
    assert len(runs) == 2
    story = json.loads((runs[0] / "provenance.json").read_text())
    file = folder / layout / "optimizers" / "slow_sign.py"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert story["plugins"] == {"slow_sign": {"file": str(file), "sha256": digest}}
    assert "slow_sign" in ended.stdout
    described = command(folder, "--help", "optimizer=slow_sign").stdout
    assert "Sign descent, slowly." in described and "optimizer.part=0.25" in described
    assert "did you mean slow_sign?" in said(command(folder, "optimizer=slw_sign"))
    assert "optimizer.prt: unknown key for optimizer=slow_sign; did you mean optimizer.part?" in said(
        command(folder, "optimizer=slow_sign", "optimizer.prt=1")
    )


def test_without_a_yaml_the_class_says_the_defaults(tmp_path: Path) -> None:
    files = {"optimizers/slow_sign.py": OPTIMIZER, "norms/column.py": NORM, "datasets/two_points.py": DATASET}
    folder = written(tmp_path / "plugin", files)
    ended = command(folder, "--cfg", "optimizer=slow_sign", "dataset=two_points", "seed=7", "log.norms=[column]")
    assert ended.returncode == 0, ended
    for line in ("name: slow_sign", "part: 0.5", "name: two_points", "seed: 7", "- column"):
        assert line in ended.stdout
    assert "Sign descent by a part of every step." in command(folder, "--help", "optimizer").stdout
    assert "dataset.seed=${seed}" in command(folder, "--help", "dataset=two_points").stdout


def test_a_yaml_may_leave_keys_out(tmp_path: Path) -> None:
    files = {"optimizers/slow_sign.py": OPTIMIZER, "configs/optimizer/slow_sign.yaml": "# Slow.\n"}
    ended = command(written(tmp_path / "plugin", files), "--cfg", "optimizer=slow_sign")
    assert "part: 0.5" in ended.stdout


@pytest.mark.slow
def test_an_edited_class_is_another_run_and_the_packages_own_keep_their_hashes(tmp_path: Path) -> None:
    helper = "def half():\n    return 0.5\n"
    using = OPTIMIZER.replace("from typing", "from implicit_bias.norms.parts import half\nfrom typing", 1)
    folder = written(tmp_path / "plugin", {"optimizers/slow_sign.py": using, "norms/parts.py": helper})

    def runs(*arguments: str) -> set[str]:
        assert command(folder, *arguments, *RUN).returncode == 0
        return {path.name for path in (tmp_path / "results" / "runs").iterdir()}

    own = runs("optimizer=muon")
    first = runs("optimizer=slow_sign")
    assert runs("optimizer=slow_sign") == first and len(first) == 2
    written(folder, {"norms/parts.py": helper.replace("0.5", "0.25")})
    second = runs("optimizer=slow_sign")
    assert len(second) == 3
    written(folder, {"optimizers/slow_sign.py": using + "\n"})
    assert len(runs("optimizer=slow_sign")) == 4
    assert finish("optimizer=muon", *RUN, f"results_dir={tmp_path / 'own'}").returncode == 0
    assert {path.name for path in (tmp_path / "own" / "runs").iterdir()} == own


def test_what_a_class_depends_on_is_not_what_happens_to_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "two_methods/__init__.py": "def half():\n    return 0.5\n",
        "two_methods/one.py": "from two_methods import half\n\nclass A: ...\n\nclass B: ...\n",
        "two_methods/other.py": "",
    }
    written(tmp_path, files)
    monkeypatch.syspath_prepend(tmp_path)
    one: Any = importlib.import_module("two_methods.one")
    before = plugin_files(one.A)
    importlib.import_module("two_methods.other")
    assert plugin_files(one.B) == before
    assert [file.name for file in before] == ["one.py", "__init__.py"]
    assert plugin_files(BadInput) == {}


def test_a_norm_that_is_only_measured_counts(tmp_path: Path) -> None:
    folder = written(tmp_path / "plugin", {"norms/column.py": NORM})
    arguments = [part for part in RUN if not part.startswith("log.norms")]
    names = set()
    for comment in ("", "# edited\n"):
        written(folder, {"norms/column.py": NORM + comment})
        assert command(folder, "log.norms=[column]", *arguments).returncode == 0
        names = {path.name for path in (tmp_path / "results" / "runs").iterdir()}
    assert len(names) == 2


@pytest.mark.slow
def test_workers_see_the_plugins_of_a_folder_that_is_named_from_here(tmp_path: Path) -> None:
    written(tmp_path / "plugin", {"optimizers/slow_sign.py": OPTIMIZER})
    sweep = ("-m", "optimizer=slow_sign", "seed=1,2", "launcher.cluster=local", "launcher.workers=1", *RUN)
    ended = finish(*sweep, environment={plugins.VARIABLE: "plugin", "HERE": str(tmp_path)}, before=_from_here)
    assert ended.returncode == 0, ended
    assert len(list((tmp_path / "results" / "runs").iterdir())) == 2


def _from_here() -> None:
    os.chdir(os.environ["HERE"])


def several(folder: Path, *typed: str) -> list[tuple[int, list[str]]]:
    """Exit code and lines on stderr of several commands in one process, given as one would type them."""
    variables = {plugins.VARIABLE: str(folder), "TYPED": json.dumps(typed)}
    parts = finish(environment=variables, before=_one_after_the_other).stderr.split(CUT)[:-1]
    assert len(parts) == len(typed), parts
    return [(int(lines[-1]), lines[:-1]) for lines in map(str.splitlines, parts)]


CUT = "=== next\n"


def _one_after_the_other() -> None:
    for typed in json.loads(os.environ["TYPED"]):
        print(f"{main(typed.split())}\n{CUT}", end="", file=sys.stderr, flush=True)
    os._exit(0)


# By the name of a file and of its option: its text, and what is in the one line about it.
BROKEN = {
    "syntax": ("x = (\n", "syntax.py: cannot be imported: line 1: SyntaxError: '(' was never closed"),
    "missing": (
        "import os\nimport nowhere_at_all\n",
        "missing.py: cannot be imported: line 2: ModuleNotFoundError: No module named 'nowhere_at_all'",
    ),
    "leaves": ("import sys\nsys.exit(3)\n", "leaves.py: cannot be imported: line 2: SystemExit: 3"),
    "late": (OPTIMIZER + "\n1 / 0\n", "late.py: cannot be imported: line 21: ZeroDivisionError: division by zero"),
    "nameless": (
        OPTIMIZER.replace('    name: ClassVar[str] = "slow_sign"\n', ""),
        'TypeError: class SlowSign has no name; it needs name: ClassVar[str] = "..."',
    ),
    "plain": (
        OPTIMIZER.replace("@dataclass(frozen=True)\n", ""),
        "plain.py: class SlowSign has keys but is no dataclass; it needs @dataclass(frozen=True)",
    ),
    "needy": (
        OPTIMIZER.replace('= hyper(0.5, help="the part", gt=0, le=1)', ""),
        "needy.py: class SlowSign: part has no default; declare it as a key, hyper(default, help=...)",
    ),
    "spaced": (OPTIMIZER.replace("slow_sign", "slow sign"), "spaced.py: class SlowSign: name='slow sign'; must be a word"),
}


def test_a_broken_plugin_is_one_line_where_it_is_asked_for_and_a_warning_elsewhere(tmp_path: Path) -> None:
    files = {f"optimizers/{name}.py": text.replace("slow_sign", name) for name, (text, _) in BROKEN.items()}
    files["optimizers/another_file.py"] = files["optimizers/late.py"].replace('"late"', '"of_another_file"')
    files["configs/optimizer/alone.yaml"] = "name: alone\n"
    folder = written(tmp_path / "plugin", files)
    lines = {name: line for name, (_, line) in BROKEN.items()}
    lines["of_another_file"] = "another_file.py: cannot be imported: line 21: ZeroDivisionError"
    lines["alone"] = "alone.yaml: no optimizer of that name is registered; write its class"
    run = f" results_dir={tmp_path / 'results'} {' '.join(RUN)}"
    *asked, others, again = several(folder, *(f"optimizer={name}" for name in lines), f"optimizer=muon{run}", f"seed=2{run}")
    for (name, line), (code, said) in zip(lines.items(), asked, strict=True):
        assert code == 2 and len(said) == 1, said
        assert said[0].startswith(f"error: optimizer={name}: {folder}") and line in said[0]
    assert others[0] == 0 and len(others[1]) == len(lines)
    for line in lines.values():
        (warning,) = [said for said in others[1] if line in said]
        assert warning.startswith(f"warning: {folder}") and warning.endswith("; it is left out")
    assert again == (0, [])


def test_a_norm_that_lacks_methods(tmp_path: Path) -> None:
    lacking = NORM.replace("    def dual", "    def daul")
    folder = written(tmp_path / "plugin", {"norms/column.py": lacking})
    assert said(command(folder, "optimizer=nsd", "norm=column")).endswith("norms/column.py: class Column lacks dual")
    line = said(command(folder, "log.norms=[column]"))
    assert line.startswith("error: log.norms=column: ") and line.endswith("norms/column.py: class Column lacks dual")


def test_an_optimizer_in_a_norm_that_is_none(tmp_path: Path) -> None:
    text = OPTIMIZER.replace('"linf"', '"lnf"').replace('    """Sign descent by a part of every step."""\n', "")
    folder = written(tmp_path / "plugin", {"optimizers/slow_sign.py": '"""From the module."""\n' + text})
    (code, (line,)), (helped, none) = several(folder, "optimizer=slow_sign", "--help optimizer=slow_sign")
    assert code == 2 and "error: optimizer=slow_sign: its class names a norm that cannot be: no norm is called 'lnf'" in line
    assert (helped, none) == (0, [])
    assert "  From the module.\n" in command(folder, "--help", "optimizer=slow_sign").stdout


def test_a_forgotten_decorator_is_told_to_who_asks_and_a_helper_is_no_fault(tmp_path: Path) -> None:
    folder = written(tmp_path / "plugin", {"optimizers/slow_sign.py": OPTIMIZER.replace("@OPTIMIZERS.register\n", "")})
    assert said(command(folder, "optimizer=slow_sign")).endswith(
        "slow_sign.py: registers no optimizer; put @OPTIMIZERS.register above its class"
    )
    assert command(folder, *RUN).stderr == ""


def test_a_plugin_replaces_nothing_and_both_files_are_named(tmp_path: Path) -> None:
    import implicit_bias.optimizers.muon as muon

    thief, same = OPTIMIZER.replace('"slow_sign"', '"muon"'), {"optimizers/muon.py": OPTIMIZER.replace('"slow_sign"', '"muon2"')}
    folder = written(tmp_path / "a" / "plugin", {"optimizers/thief.py": thief})
    warning = said(command(folder, *RUN), 0)
    assert f"{folder}/optimizers/thief.py" in warning and f"'muon', the other in {muon.__file__}" in warning
    assert "muon', the other in" in said(command(folder, "optimizer=thief"))
    folder = written(tmp_path / "b" / "plugin", same)
    warning = said(command(folder, *RUN), 0)
    assert f"{folder}/optimizers/muon.py: there is a file of that name already, {muon.__file__}" in warning
    folder = written(
        tmp_path / "c" / "plugin", {"optimizers/slow_sign.py": OPTIMIZER, "configs/optimizer/muon.yaml": "name: muon\n"}
    )
    assert "configs/optimizer/muon.yaml: optimizer=muon is the package's own" in said(command(folder, *RUN), 0)
    first, second = (written(tmp_path / name, {"optimizers/slow_sign.py": OPTIMIZER}) for name in "de")
    warning = said(command(f"{first}{os.pathsep}{second}", "--cfg", *RUN), 0)
    assert f"{second}/optimizers/slow_sign.py: there is a file of that name already, {first}/optimizers/slow_sign.py" in warning


def test_a_yaml_that_is_wrong_is_one_line(tmp_path: Path) -> None:
    wrong = {
        "renamed": ("name: fast_sign\n", "renamed.yaml: name: fast_sign; must be renamed, as the file is called"),
        "open": ("name: [\n", "open.yaml: cannot be read: "),
        "listed": ("- 1\n", "listed.yaml: cannot be read: a configuration must be a mapping"),
        "misspelt": ("prt: 1\n", "optimizer.prt: unknown key for optimizer=misspelt; allowed: part"),
        "large": ("part: 2\n", "optimizer.part=2: must be a number in (0, 1]"),
    }
    files = {f"optimizers/{name}.py": OPTIMIZER.replace("slow_sign", name) for name in wrong}
    files |= {f"configs/optimizer/{name}.yaml": text for name, (text, _) in wrong.items()}
    answers = several(written(tmp_path / "plugin", files), *(f"optimizer={name}" for name in wrong))
    for (_, line), (code, (said,)) in zip(wrong.values(), answers, strict=True):
        assert code == 2 and line in said


def test_a_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, reason in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "nothing to add; must have one of the folders datasets,"),
    ):
        monkeypatch.setenv(plugins.VARIABLE, str(folder))
        with pytest.raises(BadInput, match=f"{plugins.VARIABLE}={folder}: {reason}"):
            plugins.folders()
    assert said(command(tmp_path / "nowhere", *RUN)).startswith(
        f"error: {plugins.VARIABLE}={tmp_path / 'nowhere'}: no such folder"
    )
    monkeypatch.setenv(plugins.VARIABLE, os.pathsep)
    assert plugins.folders() == () and plugins.environment() == {}


def test_workers_are_told_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "norms").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(plugins.VARIABLE, f"a{os.pathsep}b{os.pathsep}a")
    assert plugins.environment() == {plugins.VARIABLE: f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}"}


EXPERIMENT = "# @package _global_\n# Mine.\ndefaults:\n  - override /optimizer: slow_sign\n\nsteps: 12\noptimizer:\n  part: 1.0\n"


def test_an_experiment_of_a_plugin_chooses_its_options(tmp_path: Path) -> None:
    files = {"optimizers/slow_sign.py": OPTIMIZER, "configs/experiment/mine.yaml": EXPERIMENT}
    folder = written(tmp_path / "plugin", files)
    ended = command(folder, "--cfg", "experiment=mine")
    assert ended.returncode == 0, ended
    for line in ("name: slow_sign", "part: 1.0", "steps: 12"):
        assert line in ended.stdout
    broken = written(folder, {"configs/experiment/mine.yaml": EXPERIMENT.replace("slow_sign", "slw_sign")})
    assert "optimizer/slw_sign" in said(command(broken, "experiment=mine"))


def installed(site: Path, files: Mapping[str, str], points: str) -> None:
    """A distribution as an installer leaves it."""
    written(site, files)
    written(site, {"my_methods-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: my_methods\nVersion: 1.0\n"})
    written(site, {"my_methods-1.0.dist-info/entry_points.txt": points})


POINTS = (
    "[implicit_bias.optimizers]\nslow_sign = my_methods.slow_sign:SlowSign\n\n[implicit_bias.norms]\ncolumn = my_methods.column\n"
)


def _with_its_site() -> None:
    sys.path.insert(0, os.environ["SITE"])


def test_a_distribution_names_its_options_as_entry_points(tmp_path: Path) -> None:
    files = {
        "my_methods/__init__.py": "",
        "my_methods/slow_sign.py": OPTIMIZER,
        "my_methods/column.py": NORM,
        "my_methods/configs/optimizer/slow_sign.yaml": YAML,
        "my_methods/configs/experiment/mine.yaml": EXPERIMENT,
    }
    installed(tmp_path, files, POINTS)

    def of_site(*arguments: str) -> Ended:
        return finish(*arguments, f"results_dir={tmp_path}", environment={"SITE": str(tmp_path)}, before=_with_its_site)

    ended = of_site("optimizer=slow_sign", "log.norms=[column]", *(part for part in RUN if not part.startswith("log.norms")))
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    (story,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/provenance.json"))
    assert {name: used["file"] for name, used in story["plugins"].items()} == {
        "slow_sign": str(tmp_path / "my_methods" / "slow_sign.py"),
        "column": str(tmp_path / "my_methods" / "column.py"),
    }
    ended = of_site("--cfg", "optimizer=slow_sign")
    assert "part: 0.25" in ended.stdout
    assert "steps: 12" in of_site("--cfg", "experiment=mine").stdout
    written(tmp_path, {"my_methods/slow_sign.py": "raise OSError('no disk')\n"})
    line = said(of_site("optimizer=slow_sign"))
    assert line.endswith("my_methods/slow_sign.py: cannot be imported: line 1: OSError: no disk")


def test_an_entry_point_of_nothing(tmp_path: Path) -> None:
    points = "[implicit_bias.optimizers]\nslow_sign = nowhere.at_all\nnumber = my_methods:NUMBER\n"
    installed(tmp_path, {"my_methods/__init__.py": "NUMBER = 3\n"}, points)
    arguments = ("optimizer=slow_sign", f"results_dir={tmp_path}")
    line = said(finish(*arguments, environment={"SITE": str(tmp_path)}, before=_with_its_site))
    assert "entry point slow_sign = nowhere.at_all: cannot be imported: ModuleNotFoundError" in line
    line = said(finish("optimizer=number", environment={"SITE": str(tmp_path)}, before=_with_its_site))
    assert line.endswith("entry point number = my_methods:NUMBER is neither a module nor a class")


FIGURE = '''
import pandas as pd

from implicit_bias.figures import FIGURES, Figure, PerPreset
from implicit_bias.plotting.style import SINGLE, panels


@FIGURES.register
class Mine(Figure):
    """A figure of a plugin."""

    name = "mine"
    title = "Mine"
    source = "none"
    minutes = PerPreset(0.1, 0.1, 0.1)

    def caption(self, preset):
        return "One run."

    def setting(self, preset):
        return "a mixture"

    def sweeps(self, preset):
        return [["experiment=mine", "steps=5"]]

    def table(self, runs, preset):
        return pd.concat([run.trajectory for run in runs])[["step", "log_loss"]]

    def draw(self, table, preset):
        figure, axes = panels(1, 1, width=SINGLE, height=2)
        axes[0, 0].plot(table["step"], table["log_loss"])
        return figure

    def claims(self, table, preset):
        return [self.claim(preset, "it ends", measured=str(len(table)), holds=True)]
'''


def _report_instead() -> None:
    from implicit_bias.report.command import main as report

    code = report(os.environ["REPORT"].split())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@pytest.mark.slow
def test_a_figure_of_a_plugin_is_drawn_judged_and_drawn_again_when_it_changes(tmp_path: Path) -> None:
    small = "reference: none\nprecision: float64\nlog:\n  norms: []\n"
    files = {
        "figures/mine.py": FIGURE,
        "optimizers/slow_sign.py": OPTIMIZER,
        "configs/experiment/mine.yaml": EXPERIMENT.replace("steps: 12\n", small),
    }
    folder = written(tmp_path / "plugin", files)

    def report(name: str) -> Ended:
        variables = {plugins.VARIABLE: str(folder), "REPORT": f"only={name} preset=smoke results_dir={tmp_path}"}
        return finish(environment=variables, before=_report_instead)

    ended = report("mine")
    assert ended.returncode == 0 and "1 of 1 claims hold" in ended.stdout, ended
    (run,) = (tmp_path / "smoke" / "runs").iterdir()
    assert "slow_sign" in run.name
    assert "1 figures are up to date" in report("mine").stderr
    written(folder, {"figures/mine.py": FIGURE.replace('"it ends"', '"it has ended"')})
    assert "it has ended" in report("mine").stdout
    assert list((tmp_path / "smoke" / "runs").iterdir()) == [run]
    written(folder, {"figures/mine.py": FIGURE.replace("minutes = ", "hours = ")})
    line = said(report("mine"))
    assert line.startswith("error: only=mine: ") and line.endswith("figures/mine.py: class Mine lacks minutes")
