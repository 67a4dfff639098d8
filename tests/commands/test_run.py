"""The command and its Python twin: exit codes, one-line errors, tables, and what is imported when."""

import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import implicit_bias
from implicit_bias import sweep
from implicit_bias.cli.grid import Grid, Text, bar, latex, markdown
from implicit_bias.cli.matrix import MOST_ROWS, Swept, sweep_grid
from implicit_bias.cli.messages import ERASE, LOADING
from implicit_bias.cli.progress import Progress, ProgressLines
from implicit_bias.cli.show import Answer, show
from implicit_bias.cli.tables import run_grid
from implicit_bias.config.overrides import compose
from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import BadInput, NotSeparable
from implicit_bias.core.work import Work
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.run import main
from implicit_bias.runtime.processors import available_processors, limit_threads
from implicit_bias.runtime.termination import Terminated
from implicit_bias.storage.answers import remembered
from implicit_bias.storage.runs import COLUMNS
from implicit_bias.sweep import Outcome
from tests.support.commands import Command, soon

NORMS = ("linf", "l1", "l2", "spectral", "nuclear")


def tables(spec: RunSpec) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables such as a run of ``spec`` may give."""
    rows = [
        {"seed": spec.seed, "step": step, "norm": norm, "margin": 0.8 + 0.01 * i, "max_margin": 1.0, "upper_bound": 1.01}
        for step in (0, spec.steps)
        for i, norm in enumerate(NORMS)
    ]
    trajectory = pd.DataFrame(rows).reindex(columns=COLUMNS)
    last = trajectory.tail(len(NORMS)).reset_index(drop=True)
    own = last["norm"] == "spectral"
    return trajectory, last.assign(optimizer=spec.optimizer.name, own=own, ratio=last["margin"] / last["max_margin"])


def outcome(spec: RunSpec, status: str = "done") -> Outcome:
    trajectory, summary = tables(spec)
    name = f"{spec.optimizer.name}-{spec.seed}"
    return Outcome(spec, Path("results/runs") / name, status, trajectory=trajectory, summary=summary)  # type: ignore[arg-type]


def failure(spec: RunSpec, error: str, kind: Any) -> Outcome:
    return Outcome(spec, None, "failed", error=error, error_kind=kind)


Result = Callable[[RunSpec], Outcome]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Result], list[str]]:
    """Replaces what computes: ``fake(result)`` makes every cell ``result(spec)`` and returns the list of commands given.

    In an empty folder, where the table of a sweep can be written.
    """
    monkeypatch.chdir(tmp_path)

    def install(result: Result) -> list[str]:
        commands = []

        def execute(cells: Sequence[RunSpec], *, command: str, progress: Any, checked: Callable[[], None]) -> list[Outcome]:
            checked()
            commands.append(command)
            progress.status("computing")
            progress.tell(0.5, 1)
            return [result(spec) for spec in cells]

        monkeypatch.setattr(sweep, "execute", execute)
        return commands

    return install


def one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text.rstrip("\n")


# --- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["optimizr=muon"], "error: optimizr: unknown key; did you mean optimizer?"),
        (["+foo=1"], "error: foo: unknown key"),
        (["optimizer=mu0n"], "error: optimizer=mu0n: no such option; did you mean muon?"),
        (["steps=-5"], "error: steps=-5: must be an integer >= 1"),
        (["norm.p=0.5"], "error: norm.p=0.5: "),
        (["schedule.lr=abc"], "error: schedule.lr=abc: must be 'auto' or a number > 0"),
        (["dataset.num_classes=1"], "error: dataset.num_classes=1: must be an integer >= 2"),
        (["seed=1,2"], "error: seed=1,2: several values need -m"),
        (["seed=range(2"], "error: seed=range(2: cannot be read"),
        (["--frobnicate"], "error: --frobnicate: unknown flag; allowed: -m, --multirun, -h, --help"),
        (["-x"], "error: -x: unknown flag"),
        (["--optimizer", "muon"], "error: --optimizer: keys have no dashes; write optimizer=muon"),
        (["--optimizer=muon"], "error: --optimizer: keys have no dashes; write optimizer=muon"),
        (["--norm.p", "3"], "error: --norm.p: keys have no dashes; write norm.p=3"),
        (["--weight-decay", ".1"], "error: --weight-decay: keys have no dashes; write optimizer.weight_decay=.1"),
        (["--lr=.1"], "error: --lr: keys have no dashes; write schedule.lr=.1"),
        (["--steps", "seed=3"], "error: --steps: keys have no dashes; write steps=..."),
        (["-m", "optimizer=muon,mu0n"], "error: optimizer=mu0n: no such option"),
        (["--cfg", "steps=0"], "error: steps=0: "),
    ],
)
def test_bad_input_is_exit_code_2_and_one_line_before_anything_is_computed(
    fake: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    commands = fake(outcome)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert one_line(captured.err).startswith(line)
    assert captured.out == ""
    assert commands == []


def test_a_run_that_is_done(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    commands = fake(outcome)
    assert main(["steps=5", "name=a"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert commands == ["python -m implicit_bias.run steps=5 name=a"]
    assert captured.out.splitlines()[-1] == "results/runs/muon-1"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("optimizer=gd", True),
        ("optimizer=sd norm=linf", True),
        ("optimizer=momentum_gd schedule=constant", True),
        ("-m optimizer=signgd,gd", True),
        ("optimizer=gd schedule=loss_based", False),
        ("optimizer=gd schedule.power=0.5", False),
        ("optimizer=signgd schedule=constant", False),
        ("optimizer=gd model=mlp schedule=constant", False),
    ],
)
def test_a_line_names_the_faster_schedule(fake: Any, capsys: pytest.CaptureFixture[str], typed: str, said: bool) -> None:
    fake(outcome)
    assert main(typed.split()) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "with a constant step" in line]
    assert len(lines) == said
    assert all("schedule=loss_based" in line and "signgd" not in line for line in lines)


def test_a_finished_run_says_so(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake(lambda spec: outcome(spec, "skipped"))
    assert main([]) == 0
    assert "finished before; force=true computes it again" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "code"), [("bad_input", 2), ("not_separable", 2), ("io", 1), ("internal", 1), (None, 1)])
def test_exit_code_of_a_failed_run(fake: Any, capsys: pytest.CaptureFixture[str], kind: str | None, code: int) -> None:
    fake(lambda spec: failure(spec, "something\nwent wrong", kind))
    assert main([]) == code
    captured = capsys.readouterr()
    assert one_line(captured.err) == "error: something went wrong"
    assert captured.out == ""


def test_a_sweep_with_failed_cells_finishes_the_others_and_lists_the_failed_with_commands(
    fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(lambda spec: failure(spec, "the classes overlap", "not_separable") if spec.seed == 1 else outcome(spec))
    assert main(["-m", "seed=range(3)", "optimizer=muon,ngd", "dataset.noise=0.5", "log.norms=[l1]"]) == 1
    captured = capsys.readouterr()
    assert "4 computed, 0 finished before, 2 failed" in captured.out
    lines = captured.err.splitlines()
    assert lines[0] == "2 of 6 cells failed:"
    assert lines[1] == "  the classes overlap (2 runs)"
    assert lines[2] == "    python -m implicit_bias.run seed=1 optimizer=muon dataset.noise=0.5 'log.norms=[l1]'"
    assert len(lines) == 4


def test_a_reason_is_listed_once_and_leaves_room_for_others(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake(lambda spec: failure(spec, "it broke" if spec.seed == 1 else "the disk is full", "io"))
    assert main(["-m", "seed=range(100)"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("    ")][:-1] == [
        "100 of 100 cells failed:",
        "  the disk is full (99 runs)",
        "  it broke",
    ]
    assert lines[-2] == "    python -m implicit_bias.run seed=1"
    assert lines[-1].startswith("  ... and 89 more, all in ") and len(lines) == 1 + 2 + 10 + 1 + 1


def test_the_command_that_computes_a_failed_cell_again_is_that_cell(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    seen: list[RunSpec] = []

    def fail(spec: RunSpec) -> Outcome:
        seen.append(spec)
        return failure(spec, "broken", "internal")

    fake(fail)
    assert main(["-m", "optimizer=nsd", "norm=lp", "norm.p=choice(1.5,inf)", "name='a-b'", "log.norms=[l1],[l2,lp3]"]) == 1
    commands = [line.strip() for line in capsys.readouterr().err.splitlines() if line.startswith("    ")]
    assert len(commands) == 4
    for command, spec in zip(commands, list(seen), strict=True):
        (cell,) = compose(shlex.split(command)[3:])
        assert cell.spec == spec


def test_a_sweep_in_which_all_input_is_bad_is_exit_code_2(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake(lambda spec: failure(spec, "dataset.path=x.npz: there is no such file", "bad_input"))
    assert main(["-m", "dataset=file", "dataset.path=x.npz", "steps=1,2"]) == 2
    assert capsys.readouterr().out == ""


def raising(error: BaseException) -> Result:
    def result(spec: RunSpec) -> Outcome:
        raise error

    return result


def test_ctrl_c_is_130_and_one_line(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake(raising(KeyboardInterrupt()))
    assert main(["-m", "seed=1,2"]) == main(["--multirun", "seed=1,2"]) == 130
    for line in capsys.readouterr().err.splitlines():
        assert line == "interrupted; finished runs are kept, and the same command goes on from there"
    assert main([]) == 130
    assert one_line(capsys.readouterr().err).startswith("interrupted; the same command goes on from what is kept: optima")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["steps=10", "steps=20"], "steps: is given twice; steps=20 counts, steps=10 does not; for both: -m steps=10,20"),
        (["-m", "seed=1", "seed=2"], "seed: is given twice; seed=2 counts, seed=1 does not; for both: seed=1,2"),
        (["device=auto", "device=cpu"], "device: is given twice; device=cpu counts, device=auto does not"),
        (["steps=10", "seed=3", "steps=10"], None),
        (["optimizer=nsd", "norm=lp", "norm.p=3"], None),
    ],
)
def test_a_key_that_is_given_twice_is_told(
    fake: Any, capsys: pytest.CaptureFixture[str], words: list[str], line: str | None
) -> None:
    """Scripts end in the words of whoever calls them, so that the last counts; two values by mistake are not to go unseen."""
    fake(outcome)
    assert main(words) == 0
    assert capsys.readouterr().err == ("" if line is None else f"warning: {line}\n")


def test_bad_input_is_one_line_where_a_key_is_given_twice_too(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake(outcome)
    assert main(["steps=10", "steps=0"]) == 2
    assert one_line(capsys.readouterr().err).startswith("error: steps=0: ")


def test_sigterm_ends_the_work_like_ctrl_c(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def terminate(spec: RunSpec) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
        raise AssertionError("not reached")

    fake(terminate)
    assert main([]) == 143
    assert one_line(capsys.readouterr().err).startswith("interrupted")
    assert signal.getsignal(signal.SIGTERM) is before
    assert issubclass(Terminated, KeyboardInterrupt)


def test_off_the_main_thread_signals_are_left_alone(fake: Any) -> None:
    fake(outcome)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["progress=off"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_an_unexpected_error_is_one_line_and_the_traceback_on_request(
    fake: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMPLICIT_BIAS_TRACEBACK", raising=False)
    fake(raising(KeyError("a key\nof ours")))
    assert main([]) == 1
    line = one_line(capsys.readouterr().err)
    assert line.startswith("error: KeyError: ")
    assert "IMPLICIT_BIAS_TRACEBACK=1" in line
    monkeypatch.setenv("IMPLICIT_BIAS_TRACEBACK", "1")
    assert main([]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_full_disk_names_results_dir(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake(raising(OSError(28, "No space left on device", "results/runs/x")))
    assert main(["results_dir=results"]) == 1
    assert one_line(capsys.readouterr().err) == "error: results_dir=results: No space left on device (results/runs/x)"


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "implicit_bias.run", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=quick()) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_warns_in_one_line_where_seeds_cannot_differ(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake(outcome)
    assert main(["-m", "seed=1,2", "dataset.seed=1"]) == 0
    assert one_line(capsys.readouterr().err).startswith("warning: seed: ")


# --- flags -----------------------------------------------------------------------------------------------------------


def quick() -> dict[str, str]:
    root = str(Path(implicit_bias.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root}


def test_help_and_mistyped_keys_import_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from implicit_bias.run import main\n"
        "codes = main(['--help']), main(['--help', 'optimizer', 'log.points']), main(['--version'])\n"
        "early = {'torch', 'cvxpy', 'pandas', 'numpy', 'hydra', 'rich', 'pydantic'} & set(sys.modules)\n"
        "codes += main(['--help', 'optimizer.bta']), main(['optimizr=muon']), main(['optimizer=mu0n'])\n"
        "late = {'torch', 'cvxpy', 'pandas'} & set(sys.modules)\n"
        "print(codes, sorted(early), sorted(late))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=quick())
    assert done.stdout.splitlines()[-1] == "(0, 0, 0, 2, 2, 2) [] []"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"implicit_bias \S+\n", capsys.readouterr().out)
    assert implicit_bias.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        implicit_bias.nothing  # noqa: B018


@pytest.mark.parametrize("flags", [["--cfg"], ["--cfg", "job"]])
def test_cfg_prints_the_configuration_and_computes_nothing(
    fake: Any, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    commands = fake(outcome)
    assert main([*flags, "optimizer=adam", "seed=3"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == compose(["optimizer=adam", "seed=3"])[0].spec.canonical
    assert commands == []


def test_cfg_of_a_sweep_prints_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "-m", "seed=1,2"]) == 0
    assert [config["seed"] for config in yaml.safe_load_all(capsys.readouterr().out)] == [1, 2]


def test_threads_are_capped_and_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert os.environ["MKL_NUM_THREADS"] == str(available_processors())
    assert 1 <= available_processors() <= (os.cpu_count() or 1)


# --- from Python -----------------------------------------------------------------------------------------------------


def test_three_ways_to_say_the_same(fake: Any) -> None:
    commands = fake(outcome)
    dotted: dict[str, Any] = {"dataset.dim": 5}
    results = [
        implicit_bias.run("optimizer=muon", "steps=100", "dataset.dim=5"),
        implicit_bias.run(["optimizer=muon", "steps=100", "dataset.dim=5"]),
        implicit_bias.run(optimizer="muon", steps=100, **dotted),
    ]
    assert commands[2] == "implicit_bias.run('optimizer=muon', 'steps=100', 'dataset.dim=5')"
    for trajectory, summary in results:
        assert list(trajectory.columns) == list(COLUMNS)
        pd.testing.assert_frame_equal(summary, results[0][1])


@pytest.mark.slow
def test_run_is_a_function_and_a_module_whichever_is_imported_first() -> None:
    script = (
        "from implicit_bias import run\n"
        "first = run\n"
        "import implicit_bias.run\n"
        "from implicit_bias import run\n"
        "for each in (first, run, run.run):\n"
        "    try:\n"
        "        each('stepz=0')\n"
        "    except ValueError as error:\n"
        "        print(error)\n"
        "assert run.main(['stepz=0']) == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=quick())
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and lines[0].startswith("stepz: unknown key; did you mean steps?"), done.stderr
    assert len(set(lines)) == 1


def test_lists_sweep_and_the_tables_say_which_is_which(fake: Any) -> None:
    fake(outcome)
    dotted: dict[str, Any] = {"schedule.lr": [0.1, "auto"]}
    trajectory, summary = implicit_bias.run(steps=5, seed=[1, 2], **dotted)
    assert list(trajectory.columns) == ["schedule.lr", *COLUMNS]
    assert len(summary) == 4 * len(NORMS)
    assert list(summary["schedule.lr"].unique()) == [0.1, "auto"]
    assert sorted(summary["seed"].unique()) == [1, 2]
    again, _ = implicit_bias.run("steps=5", "seed=1,2", "schedule.lr=0.1,auto", multirun=True)
    assert len(again) == len(trajectory)


def test_a_list_for_a_key_that_takes_one_is_no_sweep(fake: Any) -> None:
    fake(outcome)
    dotted: dict[str, Any] = {"log.norms": ["l1", "l2"]}
    trajectory, _ = implicit_bias.run(**dotted)
    assert list(trajectory.columns) == list(COLUMNS)


def test_bad_input_from_python_is_an_exception(fake: Any) -> None:
    commands = fake(outcome)
    with pytest.raises(BadInput, match="steps='5': must be an integer >= 1"):
        implicit_bias.run(steps="5")
    with pytest.raises(BadInput, match="seed=1,2: several values need -m"):
        implicit_bias.run("seed=1,2")
    assert commands == []


@pytest.mark.parametrize(
    ("kind", "exception"), [("bad_input", BadInput), ("not_separable", NotSeparable), ("io", OSError), ("internal", RuntimeError)]
)
def test_a_failed_run_is_an_exception(fake: Any, kind: Any, exception: type[Exception]) -> None:
    fake(lambda spec: failure(spec, "what happened", kind))
    with pytest.raises(exception, match="what happened"):
        implicit_bias.run()


def test_failed_cells_of_a_sweep_are_warnings(fake: Any) -> None:
    fake(lambda spec: failure(spec, "overlap", "not_separable") if spec.seed == 1 else outcome(spec))
    with pytest.warns(RuntimeWarning, match="seed=1: overlap"):
        _, summary = implicit_bias.run(seed=[1, 2])
    assert list(summary["seed"].unique()) == [2]


# --- what is shown ---------------------------------------------------------------------------------------------------


def printed(summary: pd.DataFrame, capsys: pytest.CaptureFixture[str], certificate: bool = False) -> list[str]:
    show(Answer(run_grid(summary, certificate)))
    return capsys.readouterr().out.splitlines()


def printed_sweep(swept: Sequence[Swept], capsys: pytest.CaptureFixture[str]) -> list[str]:
    grid, captions = sweep_grid(swept)
    show(Answer(grid, tuple(captions)))
    return capsys.readouterr().out.splitlines()


def test_the_table_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    _, summary = tables(compose([])[0].spec)
    lines = printed(summary, capsys)
    assert lines[0].split() == ["norm", "margin", "best", "possible", "share"]
    row = next(line for line in lines if "spectral" in line)
    assert row.split() == ["spectral", "*", "0.8300", "1.000", "83.00", "%", "████████▎░"]
    assert "\x1b" not in "".join(lines)
    row = next(line for line in printed(summary, capsys, certificate=True) if "spectral" in line)
    assert row.split()[-2:] == ["[0.8300,", "1.010]"]


def test_bars_that_do_not_fit_beside_their_column_are_left_out() -> None:
    grid = Grid(("norm", "margin", "share", ""), 1, ((Text("l2"), Text("0.5"), Text("50.00 %"), Text(bar(0.5))),))
    assert [part.head for part in grid.fitted(grid.width())] == [grid.head]
    assert [part.head for part in grid.fitted(grid.width() - 1)] == [grid.head[:3]]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_tables_fit_80_columns(optimizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, summary = tables(compose([f"optimizer={optimizer}"])[0].spec)
    summary["norm"] = summary["norm"].replace("spectral", "schatten1.5")
    if OPTIMIZERS.get(optimizer).own_norm is not None:  # only those that take a norm can have this one for their own
        summary["own"] = summary["norm"] == "nuclear"
    summary[["margin", "max_margin", "upper_bound"]] *= 0.012345
    assert max(map(len, printed(summary, capsys, certificate=True))) <= 80
    swept = [({"optimizer": optimizer, "schedule.lr": 0.01, "seed": seed}, summary) for seed in range(3)]
    grid, _ = sweep_grid(swept)
    assert all(part.width() <= 80 for part in grid.fitted(80))
    assert sum(len(part.head) - 2 for part in grid.fitted(80)) == len(NORMS)


def test_a_table_without_references_shows_what_is_proven_and_else_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    _, summary = tables(compose(["reference=none"])[0].spec)
    summary[["max_margin", "ratio"]] = np.nan
    assert printed(summary, capsys)[2].split() == ["linf", "0.8000", "<=", "1.010", ">=", "79.21", "%", "███████▉░░"]
    summary["upper_bound"] = np.nan
    summary.loc[0, "margin"] = np.nan
    assert printed(summary, capsys)[2].split() == ["linf", "-", "-", "-"]
    summary["margin"] = -0.5
    assert printed(summary, capsys)[2].split() == ["linf", "-0.5000", "-", "-"]
    assert "nan" not in "".join(printed_sweep([({"seed": 1}, summary)], capsys))


def test_a_sweep_is_a_matrix_aggregated_over_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    cells = compose(["optimizer=muon,ngd", "seed=range(4)"], multirun=True)
    swept = []
    for cell in cells:
        _, summary = tables(cell.spec)
        summary["ratio"] += 0.01 * cell.spec.seed + 0.02 * (cell.swept["optimizer"] == "ngd")
        swept.append((cell.swept, summary))
    lines = printed_sweep(swept, capsys)
    assert lines[0].split() == ["optimizer", *NORMS]
    assert lines[2].startswith("muon ") and "84.5 ± 1.3* " in lines[2] and "+" not in lines[2]
    assert lines[3].startswith("ngd ") and lines[3].count("+") == len(NORMS) and "86.5 ± 1.3*+" in lines[3]
    assert lines[4].startswith("share of the best possible margin in percent, mean ± standard deviation of 4 runs")
    grid, _ = sweep_grid(swept)
    assert "| **86.5 ± 1.3\\*** |" in markdown(grid) and r"\textbf{86.5 $\pm$ 1.3*} &" in latex(grid)


@pytest.mark.slow
def test_a_large_sweep_is_not_thousands_of_rows(capsys: pytest.CaptureFixture[str]) -> None:
    cells = compose(["optimizer=muon,ngd", "schedule.lr=range(1,60)", "seed=1,2"], multirun=True)
    lines = printed_sweep([(cell.swept, tables(cell.spec)[1]) for cell in cells], capsys)
    assert len(lines) == 2 + MOST_ROWS + 3
    assert f"... and {2 * 59 - MOST_ROWS} more" in lines[-1]


def test_many_folders_are_counted_not_listed(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake(outcome)
    assert main(["-m", "seed=range(30)"]) == 0
    *_, command, counts, folders, table = capsys.readouterr().out.splitlines()
    assert counts == "30 computed, 0 finished before, 0 failed"
    assert folders == "30 folders in results/runs"
    assert table.startswith("table of the sweep: results/sweeps/")
    assert command == f"  python -m implicit_bias.compare {Path(table.removeprefix('table of the sweep: ')).parent}"


def test_an_answer_for_programs(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake(outcome)
    assert main(["--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == "results/runs/muon-1"
    assert told["sentence"].startswith("muon reached 83.0 % of the largest spectral margin, ")
    (own,) = [norm for norm in told["norms"] if norm["own"]]
    assert own["norm"] == "spectral" and own["best_possible"] == 1 and own["share"] == pytest.approx(0.83)
    assert not own["share_is_a_lower_bound"] and own["kkt_ratio"] is None
    assert main(["-m", "seed=1,2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["seed"] for run in told["runs"]] == [1, 2] and told["next"].endswith(str(Path(told["table"]).parent))
    assert main(["--md"]) == 0 and capsys.readouterr().out.startswith("| norm | margin | best possible | share |\n| :-- | --: |")
    assert main(["--json", "--md"]) == 2
    assert capsys.readouterr().err == "error: --json --md: must be one of --json, --md, --latex\n"


def test_progress_is_quiet_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.status("solving")
        progress.single("solving", 1.0)(0.5)
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_shows_rate_and_own_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress() as progress:
        progress.status("muon, 3 runs")
        for step in range(1, 11):
            progress.tell(float("nan") if step == 1 else 0.9876, step)
    written = stream.getvalue()
    assert "muon, 3 runs" in written
    assert "ratio 0.9876" in written
    assert "steps/s" in written


def test_the_bar_is_the_share_of_the_time_and_moves_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    now = 0.0
    with Progress() as progress:
        monkeypatch.setattr(progress.work, "_clock", lambda: now)
        progress.work.expect("optima", 30.0)
        progress.work.expect("steps", 70.0)
        progress.status("solving optimum 37 of 100 (linf)")
        progress.begun("optima")
        now = 20.0  # nobody has told of anything
        progress._bar.refresh()
        progress.work.end("optima")
        progress.status("muon, 20 runs")
        shared = progress.begun("steps")
        now = 60.0
        shared(0.5)
        progress.tell(0.5, 900)
        progress._bar.refresh()
    assert re.search(r"solving optimum 37 of 100 \(linf\) [^\n]*20%[^\n]*80 s left", stream.getvalue())
    assert re.search(r"muon, 20 runs [^\n]*6\d%[^\n]*3\d s left[^\n]*ratio 0.5000", stream.getvalue())


def test_a_terminal_is_told_at_once_that_packages_are_loaded_and_shows_it_no_longer_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["--cfg", "job", "schedule.lr=abc"]) == 2
    notice, erased, error = stream.getvalue().partition(ERASE)
    assert notice == LOADING and erased and error.startswith("error: schedule.lr=abc") and ERASE not in error
    monkeypatch.setenv("TERM", "dumb")
    assert main(["schedule.lr=abc"]) == 2 and stream.getvalue().count(LOADING) == 1


def test_progress_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(enabled=False) as progress:
        progress.tell(0.5, 1)
    assert stream.getvalue() == ""


# --- for real --------------------------------------------------------------------------------------------------------

SMALL = ["steps=20", "dataset.num_classes=3", "dataset.dim=6", "dataset.samples_per_class=3", "dataset.noise=0.3"]
SMALL += ["log.norms=[linf,l2]", "log.points=5", "progress=off"]


def test_the_same_command_is_answered_again_without_computing_as_long_as_nothing_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, results = [*SMALL, f"results_dir={tmp_path}/out"], tmp_path / "out"
    assert main(arguments) == 0
    *first, folder = capsys.readouterr().out.splitlines()

    def composed(*given: Any) -> Any:
        raise AssertionError("composed")

    with monkeypatch.context() as patched:
        patched.setattr("implicit_bias.config.overrides.compose", composed)
        assert main(arguments) == 0
        assert capsys.readouterr().out.splitlines() == [*first, "finished before; force=true computes it again", folder]
        assert main([*arguments, "--json"]) == 0 and json.loads(capsys.readouterr().out)["folder"] == folder
        for others in ([*arguments, "force=true"], ["-m", *arguments], [*arguments, "seed=2"]):
            assert main(others) == 1 and "composed" in capsys.readouterr().err  # these are other commands
        patched.setattr("implicit_bias.storage.answers.VERSION", "0.0")
        assert main(arguments) == 1
        capsys.readouterr()
    (known,) = results.glob("cache/answers/*.json")
    assert remembered(arguments) is not None
    with monkeypatch.context() as patched:
        patched.setenv("IMPLICIT_BIAS_PLUGINS", str(tmp_path))
        assert remembered(arguments) is None
    summary = Path(folder) / "summary.csv"
    whole = summary.read_bytes()
    summary.write_bytes(whole + b"x")
    assert remembered(arguments) is None
    assert main(arguments) == 0 and "summary.csv was changed; the run is computed again" in capsys.readouterr().err
    assert summary.read_bytes() == whole
    known.write_text("{}")
    assert remembered(arguments) is None and main(arguments) == 0


def test_an_answer_that_hangs_on_more_than_its_words_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable of the environment may be another the next time, and what is told of data is told again."""
    potential = [*SMALL, "optimizer=mirror", "norm=lp", "norm.p=3", "optimizer.potential=${oc.env:POTENTIAL}"]
    folders = set()
    for value in ("power", "square"):
        monkeypatch.setenv("POTENTIAL", value)
        assert main([*potential, f"results_dir={tmp_path}"]) == 0
        folders.add(capsys.readouterr().out.splitlines()[-1])
    assert len(folders) == 2
    told = ["dataset=sklearn", "dataset.name=wine", "optimizer=signgd", "steps=5", "reference=none", f"results_dir={tmp_path}"]
    for _ in range(2):
        assert main(told) == 0
        assert "warning: dataset=sklearn dataset.name=wine: column 'proline'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_is_answered_without_torch_and_pandas(tmp_path: Path) -> None:
    arguments = [*SMALL, f"results_dir={tmp_path}"]
    assert main(arguments) == 0
    code = (
        f"import sys; from implicit_bias.run import main; code = main({arguments!r});"
        " print([name for name in ('torch', 'pandas', 'hydra', 'numpy') if name in sys.modules]); sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, finished, _, imported = ended.stdout.splitlines()
    assert finished == "finished before; force=true computes it again" and imported == "[]"


def test_a_real_run_is_written_then_skipped_then_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, f"results_dir={tmp_path}/out"]
    assert main(arguments) == 0
    first = capsys.readouterr()
    assert first.err == ""
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert first.out.splitlines()[-1] == str(folder)
    assert main(arguments) == 0
    assert "finished before" in capsys.readouterr().out
    provenance = (folder / "provenance.json").read_bytes()
    assert main([*arguments, "force=true", "device=cpu"]) == 0
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir()] == [folder.name]
    assert (folder / "provenance.json").read_bytes() != provenance
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_hydra_leaves_nothing_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "reference=none"]) == 0
    assert main(["-m", *SMALL, "reference=none", "seed=1,2"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"results"}


def test_data_that_cannot_be_separated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noisy = [*SMALL, "dataset.dim=1", "dataset.samples_per_class=20", "dataset.noise=5", f"results_dir={tmp_path}"]
    noisy.remove("dataset.dim=6")
    noisy.remove("dataset.samples_per_class=3")
    noisy.remove("dataset.noise=0.3")
    assert main(noisy) == 2
    assert "separated" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "runs").exists() or list((tmp_path / "runs").iterdir()) == []
    assert main([*noisy, "reference=none"]) == 0
    capsys.readouterr()
    assert main(["-m", *noisy, "dataset.seed=1,2"]) == 1
    assert "2 of 2 cells failed:" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["/proc/nowhere", "/dev/null/x"])
def test_a_results_dir_that_cannot_be_written(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "reference=none", f"results_dir={where}"]) == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"error: results_dir={where}: must be a folder that can be written to (")


STARTED = "TEST_STARTED"


def announce() -> None:
    """In a command: make a file when steps begin."""
    module = sys.modules["implicit_bias.sweep.execute"]
    simulate = module.simulate

    def announced(*arguments: Any) -> Any:
        Path(os.environ[STARTED]).touch()
        return simulate(*arguments)

    module.simulate = announced  # type: ignore[attr-defined]


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_real_run(tmp_path: Path) -> None:
    """While steps in C are made."""
    arguments = ["steps=100000000", "reference=none", "progress=off", f"results_dir={tmp_path}/out"]
    with Command(*arguments, environment={STARTED: str(tmp_path / "started")}, before=announce) as command:
        soon((tmp_path / "started").exists, "steps are made")
        command.send(signal.SIGINT)
        ended = command.end(60)
    assert ended.returncode == 130
    assert re.fullmatch(r"interrupted at step [\d,]+; the same command goes on from there", one_line(ended.stderr))
    runs = tmp_path / "out" / "runs"
    assert not runs.exists() or list(runs.iterdir()) == []


def test_a_sweep_leaves_one_table_with_a_row_a_cell_and_norm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["-m", "optimizer=signgd,muon", "schedule.lr=0.1,0.2", "seed=1,2", "steps=20", "reference=none", "dataset.dim=6"]
    assert main([*sweep, "dataset.num_classes=3", f"results_dir={tmp_path}"]) == 0
    (path,) = tmp_path.glob("sweeps/*/table.csv")
    assert str(path) in capsys.readouterr().out
    table = pd.read_csv(path)
    assert len(table) == 8 * 5
    assert not table.duplicated(["optimizer", "schedule.lr", "seed", "norm"]).any()
    row = table[(table["optimizer"] == "muon") & (table["schedule.lr"] == 0.2) & (table["seed"] == 2) & table["own"]].iloc[0]
    summary = pd.read_csv(tmp_path / "runs" / row["folder"] / "summary.csv").set_index("norm")
    assert row["norm"] == "spectral"
    assert row["margin"] == summary.loc["spectral", "margin"]
    assert row["wall_seconds"] > 0
    assert main([*sweep, "dataset.num_classes=3", f"results_dir={tmp_path}"]) == 0
    assert len(list(tmp_path.glob("sweeps/*"))) == 1  # the same sweep, the same table


@pytest.mark.slow
def test_runs_that_stop_at_their_own_step_keep_only_their_last_parameters(tmp_path: Path) -> None:
    """log.points records every step, so that each run has a record where its companions stop."""
    network = [
        "dataset.num_classes=2",
        "dataset.dim=6",
        "model=mlp",
        "model.width=5",
        "optimizer=nmgd",
        "steps=150",
        "log.points=600",
    ]
    assert main(["-m", *network, "seed=range(1,6)", "stop_log10_loss=-1", "log.kkt_iters=0", f"results_dir={tmp_path}"]) == 0
    last = []
    for folder in sorted((tmp_path / "runs").iterdir()):
        summary = pd.read_csv(folder / "summary.csv")
        last.append(int(summary["step"].iloc[0]))
        with np.load(folder / "final.npz") as final:
            assert set(final) == {"layer1", "layer2", "log_scale", "log_loss"}
            assert float(final["log_loss"]) == summary["log_loss"].iloc[0]
    assert len(set(last)) > 1


def test_a_results_folder_that_cannot_be_made_is_noticed_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("implicit_bias.run._execute", lambda *_: pytest.fail("computed"))
    file = tmp_path / "file"
    file.write_text("")
    assert main([f"results_dir={file / 'below'}", "steps=5"]) == 2
    assert one_line(capsys.readouterr().err).startswith(f"error: results_dir={file / 'below'}: ")


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    work = Work(clock=lambda: now)
    work.expect("steps", 2000.0)
    work.begin("steps")
    lines = ProgressLines(work, clock=lambda: now)
    lines.cells = "1 of 4 cells"
    lines.status("muon, 3 runs")
    times = []
    for second in range(1000):
        now = float(second)
        work.share(second / 2000)
        lines.tell()
        if capsys.readouterr().err:
            times.append(second)
    assert times[0] == 10 and min(b - a for a, b in itertools.pairwise(times)) >= 10 and len(times) < 50
    now = 1200.0
    work.share(0.6)
    lines.tell()
    assert capsys.readouterr().err == "20 min: muon, 3 runs, 1 of 4 cells, 60%, about 13 min left\n"


def test_a_quick_run_without_a_terminal_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in SMALL if word != "progress=off"]
    assert main([*words, "reference=none", f"results_dir={tmp_path}", "progress=auto"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("model", [[], ["model=mlp", "model.width=5", "model.frozen=[layer2]", "schedule.lr=0.1"]])
def test_single_precision_says_what_it_costs(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, *model, "reference=none", f"results_dir={tmp_path}", "log.norms=[linf]"]
    assert main([*arguments, "precision=float32"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("float32"))
    error, gradient = map(float, re.findall(r"by (?:up to about )?(\d+e-\d+)", line))
    assert 2**-24 * 0.9 <= error < 1e-4 and 2**-24 * 0.9 <= gradient < 1e-4
    assert main(["-m", *arguments, "precision=float32", "seed=1,2"]) == 0
    assert "\nfloat32: margins" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "float32" not in capsys.readouterr().out
