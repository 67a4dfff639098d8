"""Checkpoints whose checksum is right and whose content is not: ignored, removed and said in a line; nothing of them is used."""

import io
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias.engine import Problem, snapshot_checks
from implicit_bias.engine.snapshot_checks import misfit
from implicit_bias.engine.steppers.native.compiling import compilers
from implicit_bias.run import main
from implicit_bias.storage import checkpoints
from implicit_bias.storage.checkpoints import Checkpoint
from tests.support.commands import checkpoint_files, tables
from tests.support.quick import quick_of

module = import_module("implicit_bias.sweep.execute")
SMALL = ["dataset.num_classes=3", "dataset.dim=5", "dataset.samples_per_class=3", "dataset.noise=0.3", "log.norms=[linf,l2]"]
SMALL += ["log.points=8", "progress=off", "reference=none", "steps=40", "device=cpu"]
PROBLEMS = {
    "in C, momentum": ["-m", "seed=1,2,3", "optimizer=signum", "compile=on"],
    "in C, adam": ["-m", "optimizer.eps=0.0,0.1", "optimizer=adam", "compile=on"],
    "in C, no buffers": ["optimizer=ngd", "compile=on", "log.weights=all"],
    "plain": ["-m", "seed=1,2", "optimizer=muon", "compile=off"],
    "a matrix in blocks": ["-m", "seed=1,2", "optimizer=muon_adam", "model.blocks=[2,2,1]"],
    "a scale an entry": ["dataset=digits", "dataset.samples=60", "optimizer=adam", "compile=off", "dataset.test_samples=20"],
    "stopping": ["-m", "seed=1,2", "optimizer=nsd", "norm=lp", "log.levels=3", "stop_log10_loss=-30"],
    "mini-batches": ["-m", "seed=1,2", "optimizer=adam", "batch.size=4", "log.levels=3"],
    "variance reduction": ["-m", "seed=1,2", "optimizer=nmd", "norm=lp", "batch.size=4", "batch.variance_reduction=svrg"],
    "a network's mini-batches": ["model=mlp", "model.width=4", "optimizer=signum", "batch.size=4", "batch.order=replace"],
    "backing off": ["optimizer=momentum_gd", "schedule=lyu_li"],
    "a network": ["-m", "seed=1,2", "model=mlp", "model.width=4", "optimizer=muon_adam", "model.bias=first"],
    "two classes": ["model=mlp", "model.width=4", "optimizer=shampoo", "dataset.num_classes=2", "log.weights=all"],
    "probed": ["-m", "seed=1,2", "optimizer=signum", "compile=on", "log.probes=[rank]"],
    "frozen": ["model=mlp", "model.width=4", "optimizer=adam", "model.frozen=[layer2]", "log.kkt_iters=0"],
    "not homogeneous": ["model=mlp", "model.width=4", "model.bias=all", "model.allow_inhomogeneous=true", "optimizer=gd"],
}
QUICK = ("in C, momentum", "plain", "stopping", "a network")
DATASET_KEYS = ("dataset.num_classes", "dataset.dim", "dataset.samples_per_class", "dataset.noise")


class Killed(KeyboardInterrupt):
    """Ends a computation in the middle."""


def arguments(kind: str) -> list[str]:
    own = PROBLEMS[kind]
    given = {argument.split("=")[0] for argument in own}
    keys = DATASET_KEYS if "dataset=digits" in own else ()
    return [*(a for a in SMALL if a.split("=")[0] not in {*keys, *given}), *own]


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str], int], Problem]:
    """``killed(arguments, step)`` is a command that is killed after the checkpoint at the first step from ``step`` on."""

    def until(typed: list[str], step: int) -> Problem:
        problems: list[Problem] = []
        simulate, keep = module.simulate, Checkpoint.keep

        def seen(problem: Problem, *rest: Any, **more: Any) -> Any:
            problems.append(problem)
            return simulate(problem, *rest, **more)

        def once(self: Checkpoint, t: int, snapshot: Any) -> None:
            if t >= step:
                keep(self, t, snapshot)
                raise Killed

        with monkeypatch.context() as patch:
            patch.setenv(checkpoints.VARIABLE, "0")
            patch.setattr(Checkpoint, "keep", once)
            patch.setattr(module, "simulate", seen)
            assert main(typed) == 130
        return problems[-1]

    return until


def opened(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    header, content = checkpoints._opened(path.read_bytes())
    return header, torch.load(io.BytesIO(content), weights_only=True)


def rewritten(path: Path, snapshot: Any, step: int | None = None) -> None:
    """The checkpoint with another content, and a checksum that fits."""
    header, _ = checkpoints._opened(path.read_bytes())
    batch = Checkpoint(path.parents[2], header["batch"], torch.device("cpu"), "float64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "made_with", lambda *_: header["made_with"])
        path.write_bytes(batch._content(header["step"] if step is None else step, snapshot, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", quick_of(PROBLEMS, *QUICK))
def test_what_the_engine_keeps_fits_and_is_gone_on_from(
    tmp_path: Path, killed: Callable[..., Problem], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    problem = killed([*arguments(kind), f"results_dir={tmp_path / 'a'}"], 12)
    (path,) = checkpoint_files(tmp_path / "a")
    header, snapshot = opened(path)
    assert misfit(problem, snapshot) is None
    rewritten(path, snapshot)  # what the other tests do changes nothing by itself
    capsys.readouterr()
    assert main([*arguments(kind), f"results_dir={tmp_path / 'a'}"]) == 0
    assert re.search(f"going on from step {header['step']}$", capsys.readouterr().err, re.MULTILINE)
    assert main([*arguments(kind), f"results_dir={tmp_path / 'b'}"]) == 0
    assert tables(tmp_path / "a") == tables(tmp_path / "b")


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all parts of nested dictionaries and lists."""
    found = [path] if path else []
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            found += leaves(node[key], (*path, key))
    return found


def with_part(snapshot: Any, way: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy with one part changed, or left out where ``change`` gives Ellipsis."""
    key, *rest = way
    copy = list(snapshot) if isinstance(snapshot, list) else dict(snapshot)
    changed = with_part(copy[key], tuple(rest), change) if rest else change(copy[key])
    if changed is Ellipsis:
        del copy[key]
    else:
        copy[key] = changed
    return copy


#: Parts that a batch may have or not: those of records that were kept, of norms that were met, of a value that may be None.
FREE = ("past", "later", "kept", "stepping")
OPTIONAL = (("gradient", "weights"),)
OTHERS: tuple[Any, ...] = (None, "text", [[]], torch.zeros(0), -5)
NOTHING: tuple[Any, ...] = ({}, [], None, 3, {"step": 12})


def constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


@pytest.mark.parametrize("kind", quick_of(PROBLEMS, *QUICK))
def test_a_part_that_is_left_out_or_of_another_shape_or_type_is_noticed(
    tmp_path: Path, killed: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    problem = killed([*arguments(kind), f"results_dir={tmp_path}"], 12)
    _, snapshot = opened(checkpoint_files(tmp_path)[0])
    state = snapshot_checks._state_after_a_step(problem)  # the same for all, and long beside the other checks
    monkeypatch.setattr(snapshot_checks, "_state_after_a_step", lambda _: state)
    for way in leaves(snapshot):
        part: Any = snapshot
        for key in way:
            part = part[key]
        if not {*FREE, "warm"} & {*way}:
            assert misfit(problem, with_part(snapshot, way, lambda _: ...)), f"left out: {way}"
        if isinstance(part, torch.Tensor):
            for change in (lambda x: x[:-1], lambda x: x[None], lambda x: torch.cat([x, x]), lambda x: x.to(torch.complex128)):
                assert misfit(problem, with_part(snapshot, way, change)), f"changed: {way}"
        if way != ("stepping",):
            for other in OTHERS:
                if other is not None or way not in OPTIONAL:
                    assert misfit(problem, with_part(snapshot, way, constant(other))), f"{other} for {way}"
    for step in (-5, 0, 40, 10**9, 10**30, 1.5, True, None):
        assert misfit(problem, {**snapshot, "step": step})
    for nothing in NOTHING:
        assert misfit(problem, nothing)


SHORT = {
    "other shapes": lambda s: with_part(s, ("parameters", "weight"), lambda w: w.repeat(1, 3, 3)),
    "smaller buffers": lambda s: with_part(s, ("state", "momentum", "weight", 0), lambda w: w[:, :1, :1]),
    "scales of no rows": lambda s: with_part(s, ("state", "momentum", "weight", 1), lambda w: w[:, :1]),
    "another average": lambda s: with_part(s, ("probes", "certificate", "average", "weight"), lambda w: w[:, :1]),
    "no state": lambda s: with_part(s, ("state",), lambda _: {}),
    "state left out": lambda s: with_part(s, ("state",), lambda _: ...),
    "step -5": lambda s: with_part(s, ("step",), lambda _: -5),
    "step 10^9": lambda s: with_part(s, ("step",), lambda _: 10**9),
    "another step": lambda s: with_part(s, ("step",), lambda t: t + 1),
    "nothing": lambda s: {},
}


def three_runs(stepping: str, results: Path) -> list[str]:
    return ["-m", *SMALL, "seed=1,2,3", "optimizer=signum", f"compile={stepping}", f"results_dir={results}"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """What three runs come to, by how their steps are made."""

    @cache
    def computed(stepping: str) -> dict[str, bytes]:
        folder = tmp_path_factory.mktemp("undisturbed")
        assert main(three_runs(stepping, folder)) == 0
        return tables(folder)

    return computed


@pytest.mark.slow
@pytest.mark.parametrize("change", SHORT)
@pytest.mark.parametrize("stepping", quick_of(["off", "on"], "off"))
def test_a_checkpoint_of_another_form_is_one_warning_and_the_batch_is_computed_from_the_start(
    tmp_path: Path,
    killed: Callable[..., Problem],
    undisturbed: Callable[[str], dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
    change: str,
    stepping: str,
) -> None:
    if stepping == "on" and not compilers():
        pytest.skip("no C compiler here")
    typed = three_runs(stepping, tmp_path)
    killed(typed, 12)
    (path,) = checkpoint_files(tmp_path)
    _, snapshot = opened(path)
    forged = SHORT[change](snapshot)
    rewritten(path, forged, forged.get("step") if change.startswith("step") and isinstance(forged.get("step"), int) else None)
    capsys.readouterr()
    assert main(typed) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"warning: {path}: ") and "computed from the start" in error
    assert checkpoint_files(tmp_path) == []
    assert tables(tmp_path) == undisturbed(stepping)


def test_only_code_that_numbers_depend_on_makes_a_checkpoint_of_other_code(tmp_path: Path) -> None:
    """A new figure, or another way to write tables, leaves the checkpoints of long batches as they are."""
    package = Path(checkpoints.__file__).parent.parent
    sources = {str(path.relative_to(package)) for path in checkpoints.stepping_sources(package)}
    for needed in (
        "engine/steppers/cuda_kernel/linear.cu",
        "engine/simulate.py",
        "engine/steppers/native/linear.c",
        "optimizers/adam.py",
        "measures/certificate.py",
    ):
        assert needed in sources
    assert {"schedules/lyu_li.py", "models/linear.py", "norms/l1.py", "datasets/mnist.py", "probes/rank.py"} <= sources
    others = {path.parts[0] for path in map(Path, sources)}
    assert not others & {"figures", "reporting", "sweep", "solvers", "report.py", "run.py"}
    assert any(source.endswith("scaled.py") for source in sources) and any("losses" in source for source in sources)


def test_seconds_that_are_none_are_noticed(tmp_path: Path, killed: Callable[..., Problem]) -> None:
    problem = killed([*SMALL, f"results_dir={tmp_path}"], 12)
    (path,) = checkpoint_files(tmp_path)
    header, snapshot = opened(path)
    for seconds in (np.nan, np.inf, -1.0):
        batch = Checkpoint(tmp_path, header["batch"], torch.device("cpu"), "float64")
        path.write_bytes(batch._content(header["step"], snapshot, seconds))
        assert batch.read(problem, lambda: "c") is None and not path.exists()
