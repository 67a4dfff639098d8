"""Options from outside the package: plugin folders and installed distributions, good ones and broken ones.

What is imported stays imported, so each case is a process of its own, forked from one that has imported the package.
"""

import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from implicit_bias.core import plugins
from implicit_bias.core.errors import BadInput
from implicit_bias.core.plugin_classes import plugin_files
from implicit_bias.run import main
from tests.support.commands import ROOT, SMALL, Ended, finish

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
class Pillar(Norm):
    """Pillar norm."""

    name: ClassVar[str] = "pillar"

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
    files = {"optimizers/slow_sign.py": OPTIMIZER, "norms/pillar.py": NORM, "datasets/two_points.py": DATASET}
    folder = written(tmp_path / "plugin", files)
    ended = command(folder, "--cfg", "optimizer=slow_sign", "dataset=two_points", "seed=7", "log.norms=[pillar]")
    assert ended.returncode == 0, ended
    for line in ("name: slow_sign", "part: 0.5", "name: two_points", "seed: 7", "- pillar"):
        assert line in ended.stdout
    assert "Sign descent by a part of every step." in command(folder, "--help", "optimizer").stdout
    assert "dataset.seed=${seed}" in command(folder, "--help", "dataset=two_points").stdout


PROBE = '''
import torch

from implicit_bias.probes.base import PROBES, Probe


@PROBES.register
class Signs(Probe):
    """Signs of the parameters."""

    name = "signs"
    columns = ("positive", "separated")

    def measure(self, record):
        positive = torch.cat([block.flatten(1) for block in record.parameters.values()], dim=1) > 0
        return {"positive": positive.double().mean(dim=1), "separated": record.q > 0}
'''


def test_a_probe_of_a_plugin_needs_neither_keys_nor_a_yaml(tmp_path: Path) -> None:
    folder = written(tmp_path / "plugin", {"probes/signs.py": PROBE})
    assert re.search("signs +Signs of the parameters. Columns: positive, separated", command(folder, "--help", "probes").stdout)
    assert command(folder, "-m", "seed=1,2", "log.probes=[signs]", *RUN).returncode == 0
    (table,) = (tmp_path / "results").glob("sweeps/*/table.csv")
    head, *rows = table.read_text().splitlines()
    assert head.endswith(",folder,positive,separated")
    assert rows and all(row.rpartition(",")[2] in ("0.0", "1.0") for row in rows)
    complex_one = PROBE.replace("record.q > 0", "1j * record.q")
    line = said(command(written(folder, {"probes/signs.py": complex_one}), "log.probes=[signs]", *RUN), 1)
    assert "probe signs: column separated is complex; must be a tensor of real numbers (with signs of " in line


def test_a_key_of_a_plugin_may_be_a_mapping(tmp_path: Path) -> None:
    text = OPTIMIZER.replace("    part: float", '    more: dict = hyper({"depth": 2}, help="anything")\n    part: float', 1)
    folder = written(tmp_path / "plugin", {"optimizers/slow_sign.py": text, "configs/experiment/mine.yaml": EXPERIMENT})
    for typed in (["optimizer=slow_sign"], ["experiment=mine"]):
        ended = command(folder, "--cfg", *typed, "optimizer.more.width=3")
        assert ended.returncode == 0, ended
        assert "more:\n    depth: 2\n    width: 3\n" in ended.stdout


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
    folder = written(tmp_path / "plugin", {"norms/pillar.py": NORM})
    arguments = [part for part in RUN if not part.startswith("log.norms")]
    names = set()
    for comment in ("", "# edited\n"):
        written(folder, {"norms/pillar.py": NORM + comment})
        assert command(folder, "log.norms=[pillar]", *arguments).returncode == 0
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
    files |= {"optimizers/broken_folder/__init__.py": "1 / 0\n", "optimizers/broken_folder/inside.py": OPTIMIZER}
    folder = written(tmp_path / "plugin", files)
    lines = {name: line for name, (_, line) in BROKEN.items()}
    lines["of_another_file"] = "another_file.py: cannot be imported: line 21: ZeroDivisionError"
    lines["inside"] = "inside.py: cannot be imported: ZeroDivisionError: division by zero"
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
    folder = written(tmp_path / "plugin", {"norms/pillar.py": lacking})
    assert said(command(folder, "optimizer=nsd", "norm=pillar")).endswith("norms/pillar.py: class Pillar lacks dual")
    line = said(command(folder, "log.norms=[pillar]"))
    assert line.startswith("error: log.norms=pillar: ") and line.endswith("norms/pillar.py: class Pillar lacks dual")


LEVELS = '''
from dataclasses import dataclass
from typing import ClassVar

from implicit_bias.core.registry import hyper
from implicit_bias.norms.base import NORMS
from implicit_bias.norms.row import Row


@NORMS.register
@dataclass(frozen=True)
class Levels(Row):
    """The row norm times a number."""

    name: ClassVar[str] = "levels"
    weight: float = hyper(2.0, help="factor", gt=0, le=8)

    def value(self, w):
        return self.weight * super().value(w)

    def dual(self, g):
        return super().dual(g) / self.weight * (0.9 if g.shape[-2:] == (4, 8) else 1)

    def direction(self, g):
        return super().direction(g) / self.weight
'''


@pytest.mark.slow
def test_a_norm_is_tried_on_matrices_as_the_run_has_them(tmp_path: Path) -> None:
    """Its dual is too small for 4 classes and 8 features alone, where it would prove what is not so."""
    folder = written(tmp_path / "plugin", {"norms/levels.py": LEVELS})
    run = f" results_dir={tmp_path / 'results'} {' '.join(RUN)}".replace("log.norms=[]", "")
    typed = [f"log.norms=[levels3]{run}", f"optimizer=nsd norm=levels{run}", f"log.norms=[levels9]{run}"]
    *tried, (code, (unknown,)) = several(folder, *typed)
    wrong = "no norm, for matrices of 4 x 8 <G, direction(G)> is not dual(G); must be so for every matrix, proofs rest on it"
    assert tried == [(2, [f"error: norm={label}: {wrong}"]) for label in ("levels3", "levels2")]
    assert not (tmp_path / "results").exists()
    assert code == 2 and "no norm is called levels9" in unknown and "; levels<weight> with weight a number in (0, 8]" in unknown
    assert command(folder, "optimizer=nsd", "norm=levels", *RUN, "dataset.dim=9", "reference=exact").returncode == 0


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
    """Whatever is asked for: which of the two is meant cannot be known."""
    import implicit_bias.optimizers.muon as muon

    place, own = Path(muon.__file__ or "").parent, ROOT / "configs" / "optimizer" / "muon.yaml"
    thief, other = OPTIMIZER.replace('"slow_sign"', '"muon"'), OPTIMIZER.replace('"slow_sign"', '"muon2"')
    page = {"optimizers/slow_sign.py": OPTIMIZER, "configs/optimizer/slow_sign.yaml": YAML}
    cases = {
        "class": ({"optimizers/thief.py": thief}, f"thief.py: two optimizers are called 'muon', the other in {place}/muon.py;"),
        "file": ({"optimizers/muon.py": other}, f"muon.py: there is a file of that name already, {place}/muon.py;"),
        "folder": (
            {"optimizers/foreign/one.py": other},
            f"one.py: there is a folder of that name already, {place}/foreign/__init__.py;",
        ),
        "page": ({**page, "configs/optimizer/muon.yaml": "name: muon\n"}, f"muon.yaml: optimizer=muon is in {own} already;"),
    }
    for name, (files, line) in cases.items():
        folder = written(tmp_path / name / "plugin", files)
        answers = several(
            folder, f"optimizer=signgd results_dir={tmp_path / 'results'} {' '.join(RUN)}", "--help optimizer", "seed=3"
        )
        for code, lines in answers:
            assert code == 2 and len(lines) == 1, lines
            assert lines[0].startswith(f"error: {folder}/") and lines[0].endswith(f"{line} give this one another name")
    assert not (tmp_path / "results").exists()


def test_two_plugins_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, {"optimizers/slow_sign.py": OPTIMIZER}) for name in "ab")
    assert said(command(f"{first}{os.pathsep}{second}", *RUN)) == (
        f"error: {second}/optimizers/slow_sign.py: there is a file of that name already, {first}/optimizers/slow_sign.py;"
        " give this one another name"
    )
    first, second = (written(tmp_path / name, {"configs/experiment/mine.yaml": EXPERIMENT}) for name in "cd")
    assert said(command(f"{first}{os.pathsep}{second}", *RUN)) == (
        f"error: {second}/configs/experiment/mine.yaml: experiment=mine is in {first}/configs/experiment/mine.yaml already;"
        " give this one another name"
    )
    assert command(f"{first}{os.pathsep}{first}/../c", "--cfg").returncode == 0, "named twice"


def test_a_checkout_may_be_named_as_a_plugin_folder() -> None:
    ended = finish("--cfg", "optimizer=muon", environment={plugins.VARIABLE: str(ROOT)})
    assert (ended.returncode, ended.stderr) == (0, "")


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


def test_a_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "nowhere"))
    for name in ("run", "compare.command", "report.command", "identify.command", "bench.command"):
        every: Any = importlib.import_module(f"implicit_bias.{name}")
        for typed in (["--help"], ["no_such_key=1"]):
            assert every.main(typed) == 2
            assert capsys.readouterr() == (
                "",
                f"error: {plugins.VARIABLE}={tmp_path / 'nowhere'}: no such folder; must be folders with ':' between them\n",
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
    "[implicit_bias.optimizers]\nslow_sign = my_methods.slow_sign:SlowSign\n\n[implicit_bias.norms]\npillar = my_methods.pillar\n"
)


def _with_its_site() -> None:
    sys.path.insert(0, os.environ["SITE"])


@pytest.mark.slow
def test_a_distribution_names_its_options_as_entry_points(tmp_path: Path) -> None:
    files = {
        "my_methods/__init__.py": "",
        "my_methods/slow_sign.py": OPTIMIZER,
        "my_methods/pillar.py": NORM,
        "my_methods/configs/optimizer/slow_sign.yaml": YAML,
        "my_methods/configs/experiment/mine.yaml": EXPERIMENT,
    }
    installed(tmp_path, files, POINTS)

    def of_site(*arguments: str) -> Ended:
        return finish(*arguments, f"results_dir={tmp_path}", environment={"SITE": str(tmp_path)}, before=_with_its_site)

    ended = of_site("optimizer=slow_sign", "log.norms=[pillar]", *(part for part in RUN if not part.startswith("log.norms")))
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    (story,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/provenance.json"))
    assert {name: used["file"] for name, used in story["plugins"].items()} == {
        "slow_sign": str(tmp_path / "my_methods" / "slow_sign.py"),
        "pillar": str(tmp_path / "my_methods" / "pillar.py"),
    }
    ended = of_site("--cfg", "optimizer=slow_sign")
    assert "part: 0.25" in ended.stdout
    assert "steps: 12" in of_site("--cfg", "experiment=mine").stdout
    written(tmp_path, {"my_methods/slow_sign.py": "raise OSError('no disk')\n"})
    line = said(of_site("optimizer=slow_sign"))
    assert line.endswith("my_methods/slow_sign.py: cannot be imported: line 1: OSError: no disk")


def test_a_distribution_with_a_name_that_is_taken(tmp_path: Path) -> None:
    files = {"my_methods/__init__.py": "", "my_methods/slow_sign.py": OPTIMIZER.replace('"slow_sign"', '"muon"')}
    points = {"a class": "slow_sign = my_methods.slow_sign:SlowSign", "a module": "slow_sign = my_methods.slow_sign"}
    for name, point in points.items():
        installed(tmp_path / name, files, f"[implicit_bias.optimizers]\n{point}\n")
        line = said(finish("--cfg", *RUN, environment={"SITE": str(tmp_path / name)}, before=_with_its_site))
        assert line.startswith(
            f"error: {tmp_path / name}/my_methods/slow_sign.py: two optimizers are called 'muon', the other in "
        )
        assert line.endswith("/optimizers/muon.py; give this one another name")


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
        return [self.claim(preset, "it ends", kind="check", measured=str(len(table)), holds=True)]
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
    assert ended.returncode == 0 and "1 of 1 own checks hold here" in ended.stdout, ended
    (run,) = (tmp_path / "smoke" / "runs").iterdir()
    assert "slow_sign" in run.name
    assert "1 figure is up to date" in report("mine").stderr
    written(folder, {"figures/mine.py": FIGURE.replace('"it ends"', '"it has ended"')})
    assert "it has ended" in report("mine").stdout
    assert list((tmp_path / "smoke" / "runs").iterdir()) == [run]
    written(folder, {"figures/mine.py": FIGURE.replace("minutes = ", "hours = ")})
    line = said(report("mine"))
    assert line.startswith("error: only=mine: ") and line.endswith("figures/mine.py: class Mine lacks minutes")
