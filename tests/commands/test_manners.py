"""A program that imports the package keeps its process as it was; a command sets up its own."""

import logging
import logging.handlers
import os
import shutil
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import implicit_bias
from implicit_bias.bench import command as bench
from implicit_bias.cli import messages
from implicit_bias.compare import command as compare
from implicit_bias.engine import simulate
from implicit_bias.report import command as report
from implicit_bias.runtime import processors
from implicit_bias.runtime.processors import MKL_VARIABLE, prepare_process
from implicit_bias.sweep.clusters import slurm, worker
from tests.engine.test_engine import mixtures, problem

ROOT = Path(implicit_bias.__file__).resolve().parents[1]
# Everything that can be imported, then a run from Python; mallopt itself is watched where the C library is asked for it.
HOST = """
import ctypes, logging, os, sys, warnings
asked = []
find = ctypes.CDLL.__getattr__
ctypes.CDLL.__getattr__ = lambda library, name: (asked.append(name), find(library, name))[1]
before = dict(os.environ)
import implicit_bias
import implicit_bias.bench, implicit_bias.compare, implicit_bias.report
import implicit_bias.sweep.clusters.slurm, implicit_bias.sweep.clusters.worker
from implicit_bias import run
trajectory, summary = run(
    optimizer="muon", steps=5, compile="off", reference="none", progress="off", results_dir=sys.argv[1],
    **{"dataset.num_classes": 2, "dataset.dim": 3, "dataset.samples_per_class": 2},
)
assert trajectory["step"].max() == 5 and not summary.empty
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert "mallopt" not in asked
from implicit_bias.runtime.processors import prepare_process
prepare_process()
assert "mallopt" in asked or sys.platform != "linux"
"""


@pytest.mark.slow
def test_a_host_keeps_its_environment_and_its_allocator(tmp_path: Path) -> None:
    unset = {MKL_VARIABLE, *processors.THREAD_VARIABLES}
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", HOST, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_a_command_asks_for_reproducible_products_and_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MKL_VARIABLE)
    prepare_process()
    assert os.environ[MKL_VARIABLE] == "AUTO,STRICT"
    monkeypatch.setenv(MKL_VARIABLE, "COMPATIBLE")
    prepare_process()
    assert os.environ[MKL_VARIABLE] == "COMPATIBLE"


def test_every_entry_point_sets_up_its_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Called(Exception):
        """The process would be set up here."""

    def called() -> None:
        raise Called

    main_module = import_module("implicit_bias.run")
    entries: list[tuple[Any, Any]] = [
        (main_module, lambda: main_module.main(["--version"])),
        (report, lambda: report.main(["foo=1"])),
        (compare, lambda: compare.main(["--help"])),
        (bench, lambda: bench.main(["--help"])),
        (worker, worker.main),
        (slurm, lambda: slurm.BatchJob()(str(tmp_path))),
    ]
    for module, entry in entries:
        monkeypatch.setattr(module, "prepare_process", called)
        with pytest.raises(Called):
            entry()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the compiler was given to compile, by a compiler that leaves it as it is."""
    seen: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Any:
        seen.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return seen


def compiled(optimizer: str, runs: int) -> str:
    """What made the steps of a batch of so many runs, which was to be compiled."""
    data = mixtures(list(range(1, runs + 1)))
    return simulate(problem(optimizer, data, runs, 6, compile="on", loss="pair_logistic")).stepping


@pytest.mark.slow
def test_compiled_steps_leave_the_hosts_compiled_functions_and_log_levels(graphs: list[object]) -> None:
    hosts: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Any:
        hosts.append(graph)
        return graph.forward

    theirs = torch._dynamo.optimize(backend)(lambda x: x.sin() + 1)
    loggers = [logging.getLogger(name) for name in ("torch._dynamo", "torch._inductor")]
    theirs(torch.ones(3))
    levels, limit = [logger.level for logger in loggers], torch._dynamo.config.recompile_limit
    assert compiled("signgd", 2) == "torch.compile" and graphs
    theirs(torch.ones(3))
    assert len(hosts) == 1, "compiled anew"
    assert [logger.level for logger in loggers] == levels
    assert torch._dynamo.config.recompile_limit == limit


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["signgd", "muon"])
def test_there_is_no_limit_to_the_batches_whose_steps_are_compiled(optimizer: str, graphs: list[object]) -> None:
    """Muon's decomposition cuts the step in pieces, functions that all batches share."""
    counts = []
    with torch._dynamo.config.patch(recompile_limit=2):
        for runs in range(1, 4):  # one more than the limit
            before = len(graphs)
            assert compiled(optimizer, runs) == "torch.compile"
            counts.append(len(graphs) - before)
    assert min(counts) >= 1 and len(set(counts[1:])) == 1, counts


def test_lines_are_those_of_one_logger_that_a_host_may_redirect(capsys: pytest.CaptureFixture[str]) -> None:
    logger, told = logging.getLogger("implicit_bias"), logging.handlers.MemoryHandler(10, flushLevel=logging.CRITICAL)
    before, collected = logger.handlers[:], list[str]()
    messages.warn("a cache is damaged")
    logger.handlers[:] = [told]
    try:
        messages.warn("of no use")
        messages.note("going on")
        with messages.warnings_told(collected.append):
            messages.warn("one of many")
        messages.show_warning("the first of many")
    finally:
        logger.handlers[:] = before
    messages.error("it ends")
    assert [(record.levelname, record.getMessage()) for record in told.buffer] == [("WARNING", "of no use"), ("INFO", "going on")]
    assert collected == ["one of many"]
    assert capsys.readouterr().err == "warning: a cache is damaged\nwarning: the first of many\nerror: it ends\n"
