"""optimizer=torch with what a user brings: a class in a file, groups, closures, averages; what a checkpoint holds, and faults."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import io
import linecache
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import implicit_bias
from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import BadInput, RunFailed
from implicit_bias.engine import simulate
from implicit_bias.engine.snapshot_checks import misfit
from implicit_bias.models import MODELS
from implicit_bias.optimizers.foreign.target import EXTRA, find
from implicit_bias.run import main
from implicit_bias.schedules import SCHEDULES
from implicit_bias.storage import checkpoints
from tests.support.foreign_runs import MINE, by_us, difference, mine, mixture, problem, torch_class, trained
from tests.support.quick import quick_of

SMALL = ["optimizer=torch", "progress=off", "reference=none", "steps=20", "device=cpu", "log.points=5"]


def needs(package: str) -> pytest.MarkDecorator:
    """Skips where a package of optimizers is not installed."""
    there = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"{package} is not installed (pip install 'implicit-bias[optimizers]')")


def folders(results: Path) -> list[str]:
    return sorted(path.name for path in results.glob("runs/*"))


def test_a_file_enters_by_its_content(tmp_path: Path) -> None:
    """Not by its path: a copy is the same run, a changed one is another."""
    path, results = mine(tmp_path), tmp_path / "results"
    typed = [*SMALL, f"results_dir={results}"]
    implicit_bias.run([*typed, f"optimizer.target={path}:SignDescent"])
    (first,) = folders(results)
    assert "torch-SignDescent-" in first
    (tmp_path / "copy.py").write_text(MINE)
    implicit_bias.run([*typed, f"optimizer.target={tmp_path}/copy.py:SignDescent"])
    assert folders(results) == [first]
    path.write_text(MINE.replace("p.grad.sign()", "2 * p.grad.sign()"))
    implicit_bias.run([*typed, f"optimizer.target={path}:SignDescent", "schedule.lr=0.1"])
    implicit_bias.run([*typed, f"optimizer.target={tmp_path}/copy.py:SignDescent", "schedule.lr=0.1"])
    assert len(folders(results)) == 3


def test_the_version_of_a_package_enters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    implicit_bias.run([*SMALL, f"results_dir={tmp_path}"])
    monkeypatch.setattr("implicit_bias.optimizers.foreign.target._installed", lambda name: "99.0")
    implicit_bias.run([*SMALL, f"results_dir={tmp_path}"])
    assert len(folders(tmp_path)) == 2


def test_a_class_of_a_notebook_works_in_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mine(tmp_path)
    spec = importlib.util.spec_from_file_location("__main__", path)
    assert spec is not None and spec.loader is not None
    notebook = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    spec.loader.exec_module(notebook)
    keys: dict[str, Any] = {"optimizer.target": notebook.SignDescent}
    trajectory, _ = implicit_bias.run([*SMALL, f"results_dir={tmp_path}/results"], **keys)
    assert trajectory["step"].max() == 20
    with pytest.raises(BadInput, match="other processes do not know a class of this session; put it in a file"):
        compose(["optimizer=torch", "optimizer.target=__main__.SignDescent", "launcher.cluster=local"])
    bare: Any = types.ModuleType("__main__")
    exec(MINE, bare.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", bare)
    with pytest.raises(BadInput, match="its source cannot be found"):
        compose(["optimizer=torch", "optimizer.target=__main__.SignDescent"])


def test_groups_keep_their_share_of_the_rate(tmp_path: Path) -> None:
    """The second layer of a network at a tenth of the rate, whatever the schedule says."""
    path, data, model = mine(tmp_path), mixture(1), MODELS.get("mlp")(width=6, depth=2)

    def moved(optimizer: Any) -> dict[str, Tensor]:
        start = model.initial(data, [0])
        batch = problem(optimizer, data, 1, SCHEDULES.get("constant")(lr=0.5), model=model, initial=start)
        ended = simulate(batch).parameters[1]
        return {name: (block - start[name]).abs() for name, block in ended.items()}

    plain, split = (moved(torch_class(path, "SignDescent", groups=g)) for g in (None, f"{path}:fast_first"))
    first, second = plain
    assert difference(split[first], plain[first]) < 1e-12
    assert difference(split[second], plain[second] / 10) < 1e-12


GROUPS = [
    ("mine.py:no_such", "optimizer.groups={folder}/mine.py:no_such: the file has no no_such"),
    ("none.py:fast_first", "optimizer.groups={folder}/none.py:fast_first: {folder}/none.py cannot be read (No such file"),
]


@pytest.mark.parametrize(("typed", "line"), GROUPS)
def test_groups_that_are_none_are_one_line(typed: str, line: str, tmp_path: Path) -> None:
    mine(tmp_path)
    with pytest.raises(BadInput) as error:
        compose(["optimizer=torch", f"optimizer.groups={tmp_path}/{typed}"])
    assert str(error.value).startswith(line.format(folder=tmp_path))


FILES = {
    "syntax.py": ("class Broken(", "syntax.py:Broken: cannot be imported (SyntaxError"),
    "raises.py": ("raise OSError('no disk')", "raises.py:Broken: cannot be imported (OSError: no disk, line 1)"),
    "leaves.py": (
        "import sys\nsys.exit(3)",
        "leaves.py:Broken: cannot be imported (SystemExit: 3, line 2); what it does as a script must stand under if __name__",
    ),
    "made.py": (
        "import torch\nclass Broken(torch.optim.SGD):\n    def __init__(self, params, lr=1):\n        raise ValueError('no')\n",
        "made.py:Broken: cannot be made (ValueError: no, line 4); optimizer.kwargs are",
    ),
    "empty.py": ("", "empty.py:Broken: the file has no Broken; allowed: a class derived from torch.optim.Optimizer"),
    "other.py": ("class Broken: pass", "other.py:Broken: must be a class derived from torch.optim.Optimizer"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_hold_no_optimizer_are_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, line = FILES[name]
    (tmp_path / name).write_text(content)
    assert main([*SMALL, f"results_dir={tmp_path}/results", f"optimizer.target={tmp_path}/{name}:Broken"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
    assert not (tmp_path / "results").exists()


BUILT_IN = "this is a built-in function"
#: A file with what makes optimizers in every way, and what does not.
FACTORIES = """
import functools
from os import popen, system
import torch

def make(params, lr=0.1):
    return torch.optim.AdamW(params, lr=lr)

class Factory:
    def __call__(self, params, lr=0.1):
        return make(params, lr)

part = functools.partial(torch.optim.AdamW, weight_decay=0.1)
instance = Factory()
wrapped = functools.partial(system)
"""
NO_OPTIMIZERS = {
    "os.system": BUILT_IN,
    "builtins.print": BUILT_IN,
    "torch.set_num_threads": BUILT_IN,
    "os.popen": "this is a function of os",
    "shutil.rmtree": "this is a function of shutil",
    "{file}:system": BUILT_IN,
    "{file}:popen": "this is a function of os",
    "{file}:wrapped": "this is of type partial",
    "{file}:Factory": "this is another class",
}


@pytest.mark.parametrize("key", ["target", "groups"])
@pytest.mark.parametrize("typed", NO_OPTIMIZERS)
def test_what_makes_no_optimizer_is_never_called(typed: str, key: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "factories.py").write_text(FACTORIES)
    named = typed.format(file=tmp_path / "factories.py")
    with pytest.raises(BadInput) as error:
        compose(["optimizer=torch", f"optimizer.{key}={named}"])
    assert str(error.value).startswith(f"optimizer.{key}={named}: must be a ") and str(error.value).endswith(NO_OPTIMIZERS[typed])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["make", "part", "instance"])
def test_functions_of_a_file_make_optimizers(name: str, tmp_path: Path) -> None:
    (tmp_path / "factories.py").write_text(FACTORIES)
    (cell,) = compose(["optimizer=torch", f"optimizer.target={tmp_path}/factories.py:{name}"])
    assert cell.spec.optimizer.own == "linf"


def test_a_function_by_its_dotted_path_is_of_a_module_that_imports_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial object is none: by its path nothing tells two of them apart."""
    (tmp_path / "made_with_torch.py").write_text(FACTORIES)
    (tmp_path / "made_without.py").write_text("def make(params):\n    raise AssertionError('called')\n")
    monkeypatch.syspath_prepend(tmp_path)
    (cell,) = compose(["optimizer=torch", "optimizer.target=made_with_torch.make"])
    assert cell.spec.optimizer.own == "linf"
    for typed in ("made_without.make", "made_with_torch.part"):
        with pytest.raises(BadInput, match=r"must be a class .*, in a file of yours or a module that imports torch; this is "):
            compose(["optimizer=torch", f"optimizer.target={typed}"])


@pytest.mark.parametrize("end", ["", ":"])
def test_a_file_alone_is_told_its_classes(end: str, tmp_path: Path) -> None:
    path = mine(tmp_path)
    with pytest.raises(BadInput) as error:
        compose(["optimizer=torch", f"optimizer.target='{path}{end}'"])
    assert str(error.value) == (
        f"optimizer.target={path}{end}: names no class; must be {path}:<class> with <class> one of"
        " SignDescent, Raises, Still, Rateless, Draws, Forgets, Ascends"
    )
    with pytest.raises(BadInput, match=r"names no function; must be .*mine.py:fast_first$"):
        compose(["optimizer=torch", f"optimizer.groups='{path}{end}'"])


@pytest.mark.parametrize("rate", ["auto", "0.1"])
def test_a_class_that_raises_fails_its_run_in_one_line(rate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mine(tmp_path)
    path.write_text(f"{path.read_text()}\n# {tmp_path}\n")  # a class is known by its content, wherever it is
    typed = [*SMALL, f"results_dir={tmp_path}/results", f"optimizer.target={path}:Raises", f"schedule.lr={rate}"]
    assert main(typed) == 1
    (said,) = capsys.readouterr().err.splitlines()
    (line,) = (n for n, text in enumerate(path.read_text().splitlines(), 1) if "raise ValueError" in text)
    assert said == f"error: optimizer.target={path}:Raises: ValueError in step 1, line {line}: no step today nor tomorrow"


def test_a_class_that_stands_still_has_no_automatic_rate(tmp_path: Path) -> None:
    path = mine(tmp_path)
    with pytest.raises(BadInput, match=r"schedule.lr=auto: means nothing .*, it does not move at a constant gradient"):
        compose(["optimizer=torch", f"optimizer.target={path}:Still"])
    (cell,) = compose(["optimizer=torch", f"optimizer.target={path}:Still", "schedule.lr=1"])
    assert cell.spec.own_norm is None


def test_a_division_of_zero_by_zero_is_told() -> None:
    """A feature that is zero in every sample has no gradient."""
    data = mixture(1)
    data.x[..., 3] = 0
    with pytest.raises(
        RunFailed, match=r"step 1 is nan at an entry whose gradient is exactly zero.* optimizer.kwargs.eps=1e-300"
    ):
        by_us(torch_class("torch.optim.Adam", kwargs={"eps": 0.0}), data, 5)
    assert by_us(torch_class("torch.optim.Adam", kwargs={"eps": 1e-300}), data, 5).isfinite().all()


def test_lbfgs_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    from tests.support.foreign_runs import by_hand

    data, kwargs = mixture(1), {"lr": 0.5, "max_iter": 4}
    trajectory = simulate(problem(torch_class("torch.optim.LBFGS", kwargs=kwargs), data, 8, SCHEDULES.get("as_given")()))
    ours = trained(trajectory)[0]
    assert difference(ours, by_hand(lambda p: torch.optim.LBFGS(p, **kwargs), data, 8, lr=None)) < 1e-9  # type: ignore[arg-type]
    evaluations = trajectory.common["evaluations"][:, 0]
    assert evaluations[0] == 0 and (evaluations[1:] >= trajectory.steps[1:]).all() and evaluations[-1] > 8


@pytest.mark.parametrize("feed", ["loss", "log_loss"])
def test_a_sharpness_aware_step_is_asked_for_two_gradients(feed: str, tmp_path: Path) -> None:
    optimizer, data = torch_class(mine(tmp_path), "Ascends", feed=feed), mixture(1, 2)
    assert optimizer.alone and optimizer.own is None
    trajectory = simulate(problem(optimizer, data, 10))
    assert trajectory.common["evaluations"].tolist() == [[2.0 * step] * 2 for step in trajectory.steps]
    single = by_us(optimizer, mixture(2), 10)
    assert difference(trained(trajectory)[1], single[0]) < 1e-12


def test_runs_with_closures_are_computed_one_by_one(tmp_path: Path) -> None:
    target = f"optimizer.target={mine(tmp_path)}:Ascends"
    typed = [*SMALL, target, "schedule.lr=0.1", "seed=1,2", f"results_dir={tmp_path}/results"]
    _, summary = implicit_bias.run(typed, multirun=True)
    assert set(summary["seed"]) == {1, 2} and "evaluations" in summary
    assert all('"batch_runs": 1' in path.read_text() for path in tmp_path.glob("results/runs/*/provenance.json"))


def resumed(optimizer: Any, steps: int = 40, half: int = 17) -> tuple[Tensor, Tensor]:
    """W after ``steps`` steps, undisturbed and by way of a file."""
    kept: list[bytes] = []

    def keep(step: int, snapshot: Any) -> None:
        if step == half:
            buffer = io.BytesIO()
            torch.save(snapshot(), buffer)
            kept.append(buffer.getvalue())

    given = optimizer.kwargs.get("lr") is not None
    batch = problem(optimizer, mixture(1, 2), steps, SCHEDULES.get("as_given")() if given else None)
    whole = trained(simulate(batch, keep=keep))
    snapshot = torch.load(io.BytesIO(kept[0]), weights_only=True)
    assert misfit(batch, snapshot) is None
    return whole, trained(simulate(batch, resume=snapshot))


RESUMED = ["Adam", "AdamW", "SGD", "Rprop", "RMSprop", "Adagrad", "Adadelta", "RAdam", "Adamax", "ASGD", "Adafactor", "LBFGS"]


@pytest.mark.parametrize("name", quick_of(RESUMED, "AdamW"))
def test_a_class_of_torchs_goes_on_to_the_bit(name: str) -> None:
    optimizer = torch_class(f"torch.optim.{name}", kwargs={"lr": 0.1} if name in ("LBFGS", "AdamW") else {})
    assert optimizer.not_resumable is None
    whole, again = resumed(optimizer)
    assert torch.equal(whole, again)


def test_random_numbers_go_on_too_and_are_a_runs_own(tmp_path: Path) -> None:
    optimizer, before = torch_class(mine(tmp_path), "Draws"), torch.get_rng_state()
    whole, again = resumed(optimizer)
    assert torch.equal(whole, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(whole[1], by_us(optimizer, mixture(2), 40)[0])


@needs("schedulefree")
def test_schedule_free_methods_show_their_average_and_go_on() -> None:
    optimizer = torch_class("schedulefree.SGDScheduleFree", kwargs={"lr": 0.5})
    whole, again = resumed(optimizer)
    assert torch.equal(whole, again)
    schedulefree = importlib.import_module("schedulefree")
    data = mixture(1)
    weight = torch.nn.Parameter(torch.zeros(10, 25, dtype=torch.float64))
    theirs = schedulefree.SGDScheduleFree([weight], lr=0.5)
    theirs.train()
    for _ in range(40):
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(data.x[0] @ weight.mT, data.y[0]).backward()
        theirs.step()
    assert difference(whole[0], weight.detach()) > 1e-3
    theirs.eval()
    assert difference(whole[0], weight.detach()) < 1e-11


@needs("pytorch_optimizer")
def test_a_state_that_a_file_cannot_hold_is_told() -> None:
    reason = torch_class("pytorch_optimizer.SCION").not_resumable
    assert reason is not None and "holds pytorch_optimizer" in reason and "\n" not in reason


def test_a_class_that_cannot_go_on_writes_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(checkpoints.VARIABLE, "0")
    written: list[Path] = []
    monkeypatch.setattr(checkpoints, "atomic_write_bytes", lambda path, content: written.append(path))
    path = mine(tmp_path)
    typed = [*SMALL, f"results_dir={tmp_path}/results", "schedule.lr=0.1"]
    assert main([*typed, f"optimizer.target={path}:Forgets"]) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("no checkpoints, after state_dict and load_state_dict its steps are others; a computation that is killed"
                         " starts over")  # fmt: skip
    assert not written
    assert main([*typed, "optimizer.target=torch.optim.Adam"]) == 0
    assert written and not capsys.readouterr().err


@pytest.mark.parametrize("broken", [{}, {"stacked": False, "underflowed": [0, 0], "instances": []}, {"instances": 3}])
def test_what_is_no_state_is_refused(broken: dict[str, Any]) -> None:
    batch = problem(torch_class("torch.optim.Adam"), mixture(1, 2), 40)
    kept: list[Any] = []
    simulate(batch, keep=lambda step, snapshot: kept.append(copy.deepcopy(snapshot())) if step == 5 else None)
    assert misfit(batch, kept[0]) is None
    assert misfit(batch, {**kept[0], "state": broken}) == "of another form (state)"


@pytest.mark.slow
def test_depth_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the step on at which a gradient is lost, and from the loss on at which constants act."""
    path = mine(tmp_path)
    typed = ["optimizer=torch", "progress=off", "reference=none", "steps=60", f"results_dir={tmp_path}/results"]
    deep = [*typed, "schedule=constant", "schedule.lr=20"]
    assert main([*deep, f"optimizer.target={path}:SignDescent"]) == 0
    said = capsys.readouterr().out
    assert "on entries of the gradient are too small for any double, and are 0.0" in said
    assert "absolute constants" not in said
    assert main([*deep, "optimizer.target=torch.optim.Adam", "optimizer.kwargs.betas=[0,0]"]) == 0
    assert "absolute constants act: at gradients with entries of about 1e-08" in capsys.readouterr().out
    assert main([*deep, f"optimizer.target={path}:SignDescent", "optimizer.feed=log_loss"]) == 0
    said = capsys.readouterr().out
    assert "fed with gradients of log L" in said and "optimizer.feed=log_loss" not in said


@needs("pytorch_optimizer")
@pytest.mark.parametrize(
    ("name", "own"), [("Lion", "linf"), ("MADGRAD", "lp4"), ("Shampoo", "spectral"), ("SignSGD", "linf"), ("SM3", None)]
)
def test_the_own_norm_of_others(name: str, own: str | None) -> None:
    assert torch_class(f"pytorch_optimizer.{name}").own == own


@needs("pytorch_optimizer")
@pytest.mark.parametrize("target", ["pytorch_optimizer.Lamb", "pytorch_optimizer.MADGRAD", "pytorch_optimizer.Fromage"])
def test_a_rate_that_is_no_length_of_a_step_is_not_chosen_automatically(target: str) -> None:
    with pytest.raises(
        BadInput, match=r"^schedule.lr=auto: means nothing for .*; give schedule.lr=<number>, or schedule=as_given"
    ):
        compose(["optimizer=torch", f"optimizer.target={target}"])
    assert compose(["optimizer=torch", f"optimizer.target={target}", "schedule.lr=0.1"])


@needs("prodigyopt")
def test_a_search_for_the_step_size_has_no_automatic_rate() -> None:
    with pytest.raises(BadInput, match="the size of its steps changes with the distance that it has come"):
        compose(["optimizer=torch", "optimizer.target=prodigyopt.Prodigy"])


def test_packages_of_optimizers_are_imported_only_when_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EXTRA:
        monkeypatch.delitem(sys.modules, name, raising=False)
    compose(["optimizer=torch", "optimizer.target=torch.optim.Adagrad"])
    assert not set(EXTRA) & set(sys.modules)


def test_a_package_of_the_extra_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr("implicit_bias.optimizers.foreign.target.importlib.import_module", nothing)
    with pytest.raises(BadInput, match=r"no module lion_pytorch here \(pip install 'implicit-bias\[optimizers\]' brings it\)"):
        find("lion_pytorch.Lion")
    with pytest.raises(BadInput) as error:
        find("soap.SOAP")
    assert "pip" not in str(error.value)


def _in_a_cell(cell: str, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The identity of the class ``Mine`` after a notebook has run a cell."""
    monkeypatch.setitem(linecache.cache, name, (len(cell), None, cell.splitlines(keepends=True), name))
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(cell, name, "exec"), space)
    monkeypatch.setattr(sys.modules["__main__"], "Mine", space["Mine"], raising=False)
    return find("__main__.Mine").identity


def test_a_class_of_a_notebook_is_known_by_its_source_in_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = "import torch\n\nclass Mine(torch.optim.SGD):\n    rho = 1\n    def step(self, closure=None):\n        pass\n"
    first = _in_a_cell(mine, "<cell 1>", monkeypatch)
    assert _in_a_cell(f"x = 3\n{mine}y = 4\n", "<cell 2>", monkeypatch) == first
    assert _in_a_cell(mine.replace("rho = 1", "rho = 2"), "<cell 3>", monkeypatch) != first
