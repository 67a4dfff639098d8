"""``compare``: which runs are one curve and what each is called, what is drawn, written and printed, and what is refused."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from implicit_bias import run
from implicit_bias.analysis.comparison import (
    Source,
    at_the_end,
    comparison_table,
    different_problems,
    different_seeds,
    labels,
    over_runs,
    quantity_of,
    values_of,
    with_optima,
)
from implicit_bias.analysis.sources import sources_of
from implicit_bias.compare import command as compare
from implicit_bias.core.errors import BadInput
from implicit_bias.plotting.keyed import colours_of
from implicit_bias.plotting.overlay import overlay
from implicit_bias.plotting.style import FREE_COLORS, OPTIMIZER_LOOKS, curve_looks, drawing
from implicit_bias.storage.files import read_table
from tests.support.commands import SMALL
from tests.support.quick import quick_of

# On one worker: its runs are computed once.
pytestmark = pytest.mark.xdist_group("compare")
OPTIONS = {
    "dataset.num_classes": 3,
    "dataset.dim": 4,
    "dataset.samples_per_class": 3,
    "dataset.noise": 0.3,
    "log.norms": ["linf", "l2"],
    "log.points": 8,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny runs: SignGD on two seeds, Muon at two learning rates."""
    folder = tmp_path_factory.mktemp("compare") / "results"
    keys: dict[str, Any] = {"steps": 20, "results_dir": folder, "progress": "off", "compile": "off", **OPTIONS}
    run(optimizer="signgd", seed=[1, 2], **keys)
    run(optimizer="muon", **{**keys, "schedule.lr": [0.1, 0.2]})
    return folder


def own_table(path: Path, **columns: Any) -> Path:
    """A trajectory as someone else's code may write it."""
    steps = [0, 1, 10, 20]
    rows = {"seed": 1, "step": steps, "norm": "linf", "margin": [np.nan, -0.5, 0.1, 0.2], **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def source(name: str = "a", optimizer: str = "muon", called: str = "", *, seed: int = 1, **config: Any) -> Source:
    """A run of a configuration that differs from others of this function by ``config`` alone."""
    sections: dict[str, dict[str, Any]] = {
        "optimizer": {"name": optimizer},
        "dataset": {"name": "mnist", "seed": seed},
        "schedule": {"name": "power", "lr": 0.1},
    }
    for key, value in config.items():
        group, _, last = key.partition("__")
        if last:
            sections.setdefault(group, {})[last] = value
    top = {key: value for key, value in config.items() if "__" not in key}
    table = pd.DataFrame({"seed": seed, "step": [0, 1, 10], "norm": "l2", "margin": [np.nan, 1.0, 2.0 + seed]})
    return Source(f"{name}{seed}", table, called, {**sections, "seed": seed, "steps": 10, "results_dir": name, **top})


def test_runs_that_differ_in_nothing_but_seed_or_what_is_measured_are_one_curve() -> None:
    assert (
        labels([source(seed=1), source(seed=2), source(log={"points": 5}), source(reference="none", device="cuda")])
        == ["muon"] * 4
    )


def test_labels_tell_exactly_the_keys_that_differ() -> None:
    rates = [source(), source(schedule__lr=0.2)]
    assert labels(rates) == ["muon lr 0.1", "muon lr 0.2"]
    # Another optimizer's own keys make no difference; where its schedule is compared with nobody's, it is not told.
    assert labels([*rates, source(optimizer="adam", optimizer__eps=0.0, schedule__lr=3)]) == [
        "muon lr 0.1",
        "muon lr 0.2",
        "adam",
    ]
    assert labels([source(), source(optimizer="adam", dataset__name="digits", dataset__samples_per_class=5)]) == [
        "muon dataset mnist",
        "adam dataset digits",
    ]
    assert labels([source(dataset__dim=4, model={"dim": 1}), source(dataset__dim=5, model={"dim": 2})]) == [
        "muon dataset.dim 4, model.dim 1",
        "muon dataset.dim 5, model.dim 2",
    ]
    assert labels([source(called="ours"), source(called="ours", optimizer="adam")]) == [
        "ours optimizer muon",
        "ours optimizer adam",
    ]
    assert labels([source(steps=10), source(steps=20, start=None)]) == ["muon steps 10", "muon steps 20"]


def test_curves_of_one_name_stand_by_size_of_their_numbers() -> None:
    table = comparison_table([source(str(lr), schedule__lr=lr) for lr in (10.0, 0.5, 1e-3)])
    assert list(table["label"].unique()) == ["muon lr 0.001", "muon lr 0.5", "muon lr 10.0"]


def test_ends_are_means_over_runs_and_a_run_that_is_there_twice_counts_once() -> None:
    table = comparison_table([source(seed=1), source(seed=2), source(seed=2), source("b", "adam", seed=4)])
    ends = at_the_end(table).set_index("label")
    assert ends["runs"].tolist() == [2, 1]
    assert ends["margin"].tolist() == [3.5, 6.0]
    assert ends["best"].tolist() == [False, True]
    curve = over_runs(table[table["label"] == "muon"], "margin")
    assert curve[["x", "mean", "min", "max"]].to_numpy().tolist() == [[1, 1, 1, 1], [10, 3.5, 3, 4]]


def test_what_does_not_compare_is_noted() -> None:
    assert not different_problems([source(seed=1), source(seed=2), source(optimizer="adam", schedule__lr=3)])
    assert different_problems([source(), source(dataset__dim=5)])
    assert different_seeds(comparison_table([source(seed=1), source(seed=2), source("b", "adam", seed=2)]))
    assert not different_seeds(comparison_table([source(seed=2), source("b", "adam", seed=2)]))


def test_looks_are_known_ones_shades_of_them_or_free_colours() -> None:
    names = {
        "signgd": "signgd",
        "mine": "mine",
        **{f"muon lr {lr}": "muon" for lr in range(9)},
        **{f"x{i}": f"x{i}" for i in range(11)},
    }
    looks = curve_looks(names)
    assert looks["signgd"] == OPTIMIZER_LOOKS["signgd"].__class__("signgd", "#0072B2", "s")
    assert len({(look.color, str(look.line)) for look in looks.values()}) == len(names)
    assert looks["mine"].color == FREE_COLORS[0]
    assert [look.color for look in curve_looks({"nsd p 2": "nsd", "nsd p 3": "nsd"}).values()] == list(FREE_COLORS[:2])
    assert not {look.color.lower() for look in OPTIMIZER_LOOKS.values()} & {color.lower() for color in FREE_COLORS}


def test_shades_of_several_optimizers_are_no_black_and_no_two_alike() -> None:
    looks = curve_looks({f"{name} lr {lr}": name for name in ("signgd", "adam", "muon", "signum") for lr in (1, 2, 3)})
    seen = [np.array(to_rgb(look.color)) for look in looks.values()]
    assert min(max(color) for color in seen) > 0.3
    dashes = [str(look.line) for look in looks.values()]
    for i, j in combinations(range(len(seen)), 2):
        assert dashes[i] != dashes[j] or np.abs(seen[i] - seen[j]).max() > 0.1, (list(looks)[i], list(looks)[j])


def test_keys_are_colours_dashes_and_panels() -> None:
    runs = [
        source(f"{name}{lr}{beta}", name, schedule__lr=lr, optimizer__beta=beta)
        for name in ("muon", "signum")
        for lr in (0.1, 1.0)
        for beta in (0.5, 0.9)
    ]
    table = comparison_table(runs, keys={"color": "lr", "style": "optimizer.beta", "facet": "optimizer"})
    with drawing():
        picture = overlay(table, ["l2"], "margin", words={"color": "lr", "style": "beta", "facet": "optimizer"})
    assert [axis.get_title() for axis in picture.axes] == ["$\\ell_2$, muon", "$\\ell_2$, signum"]
    for axis in picture.axes:
        looks = [(line.get_color(), line.get_linestyle()) for line in axis.lines if "lr" in str(line.get_label())]
        assert len(set(looks)) == 4 and len({color for color, _ in looks}) == 2
    (legend,) = picture.legends
    assert [text.get_text() for text in legend.get_texts()] == ["lr 0.1", "lr 1.0", "beta 0.5", "beta 0.9"]
    assert colours_of(["muon", "mine"])["muon"] == OPTIMIZER_LOOKS["muon"].color
    assert values_of([source(), source(called="own")], "optimizer", "color") == {("", "a1"): "muon", ("own", "a1"): "muon"}
    with pytest.raises(BadInput, match=r"style=seed: in no run; must be a key of the runs, such as lr"):
        values_of([source(schedule__lr=1), source(schedule__lr=2)], "seed", "style")


def test_a_table_takes_over_the_optima_of_a_run() -> None:
    run, mine = source(), Source("mine.csv", source(seed=3).trajectory, "mine")
    best = replace(run, trajectory=run.trajectory.assign(max_margin=4.0))
    ours, theirs = with_optima([run, mine], [best])
    assert ours is run and theirs.trajectory["max_margin"].tolist() == [4.0] * 3
    other = replace(best, trajectory=best.trajectory.assign(seed=3, max_margin=8.0))
    (of_seed,) = with_optima([mine], [best, other])
    assert of_seed.trajectory["max_margin"].tolist() == [8.0] * 3
    assert comparison_table([of_seed])["ratio"].iloc[-1] == 5 / 8
    with pytest.raises(BadInput, match=r"^like: no run has seed 3 of mine.csv; must be"):
        with_optima([mine], [best, replace(best, trajectory=best.trajectory.assign(seed=2))])
    with pytest.raises(BadInput, match=r"^like=a1: it has no optimum; must be"):
        with_optima([mine], [run])


@pytest.mark.slow
def test_the_command_draws_writes_and_prints(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """End to end, with a table from elsewhere between our runs."""
    mine = own_table(tmp_path / "adamw" / "trajectory.csv")
    assert compare.main([f"{results}/runs/*", str(mine), f"out={tmp_path}/out", "title=A title"]) == 0
    answer = capsys.readouterr()
    assert answer.err == ""
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"comparison.{kind}" for kind in ("csv", "pdf", "png")]
    with Image.open(tmp_path / "out" / "comparison.png") as image:
        assert image.width == 1360
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert list(table["label"].unique()) == ["muon lr 0.1", "muon lr 0.2", "signgd", "adamw"]
    assert set(table["norm"]) == {"linf"}  # the only norm that all have
    lines = answer.out.splitlines()
    means = table[table["step"] == 20].groupby("label")["margin"].mean()
    for label, mean in means.items():
        row = next(line for line in lines if str(label) in line).removeprefix("linf")
        own = " *" * (label == "signgd")
        cells = [f"{label}{own}", "2" if label == "signgd" else "1", "20", f"{mean:#.4g}{'+' * bool(mean == means.max())}"]
        assert row.split()[: len(" ".join(cells).split())] == " ".join(cells).split()
    assert "the curves are of different seeds" in lines
    assert not any("different data" in line for line in lines)
    assert lines[-1] == f"{tmp_path}/out/comparison.csv"


@pytest.mark.slow
def test_a_sweeps_folder_is_all_of_its_runs_under_every_common_norm(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = sorted(path.name for path in (results / "runs").glob("*signgd*"))
    sweep = results / "sweeps" / "mine-0123456789ab"
    sweep.mkdir(parents=True)
    pd.DataFrame({"seed": [1, 1, 2, 2], "folder": [name for name in folders for _ in range(2)]}).to_csv(
        sweep / "table.csv", index=False
    )
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert compare.main([f"ours={sweep}"]) == 0
    written = list(tmp_path.glob("results/compare/*/comparison.csv"))  # the same inputs, the same folder
    assert len(written) == 1
    table = pd.read_csv(written[0])
    assert set(table["label"]) == {"ours"}
    assert list(table["norm"].unique()) == ["linf", "l2"]
    assert table["run"].nunique() == 2
    assert "optimum" in capsys.readouterr().out


@pytest.fixture(scope="module")
def table(results: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The comparison of our runs."""
    folder = tmp_path_factory.mktemp("table")
    assert compare.main([f"{results}/runs/*", f"out={folder}"]) == 0
    return read_table(folder / "comparison.csv")


@pytest.mark.parametrize("quantity", ["margin", "ratio", "relative_gap", "log_loss", "alignment", "kkt_ratio"])
@pytest.mark.parametrize("x", quick_of(["step", "log_loss"], "step"))
def test_every_quantity_is_drawn_against_steps_or_loss(table: pd.DataFrame, quantity: str, x: str) -> None:
    with drawing():
        axes = overlay(table, ["linf", "l2"], quantity, x).axes
        assert len(axes) == (1 if quantity == "log_loss" else 2)
        curves = {str(line.get_label()): line for line in axes[0].get_lines()}
    rows = table[(table["label"] == "signgd") & (table["norm"] == "linf") & (table["step"] == 20)]
    unit = np.log(10) if quantity == "log_loss" else 1
    last = 20 if x == "step" else -rows["log_loss"].mean() / np.log(10)
    assert np.asarray(curves["signgd"].get_xdata())[-1] == pytest.approx(last)
    assert np.asarray(curves["signgd"].get_ydata())[-1] == pytest.approx(rows[quantity].mean() / unit)
    assert {"muon lr 0.1", "muon lr 0.2"} < set(curves)


def test_auto_is_the_gap_where_there_are_optima_else_the_margin(table: pd.DataFrame) -> None:
    assert quantity_of(table) == "relative_gap"
    assert quantity_of(table.assign(relative_gap=table["relative_gap"].where(table["label"] != "signgd"))) == "margin"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "RUN: no run is named; must be"),
        (["--frobnicate"], "--frobnicate: unknown flag; allowed: -h, --help"),
        (
            ["RUNS", "norm=linf"],
            "norm: unknown key; did you mean norms? allowed: norms=, quantity=, x=, color=, style=, facet=, like=, out=",
        ),
        (["RUNS", "norms=row"], "norms=row: not measured in muon lr 0.1; allowed: linf, l2"),
        (["RUNS", "norms="], "norms=: must be names of norms"),
        (["RUNS", "quantity=margins"], "quantity=margins: no such quantity; did you mean margin? must be one of auto, margin"),
        (["RUNS", "x=time"], "x=time: no such x; must be one of step, epoch, log_loss"),
        (["RUNS", "OWN", "x=log_loss"], "x=log_loss: own has none; allowed here: step"),
        (["RUNS", "OWN", "quantity=ratio"], "quantity=ratio: own has none; allowed here: auto, margin"),
        (["RUNS", "color=frob"], "color=frob: in no run; must be a key of the runs, such as beta, name, nesterov, lr"),
        (["RUNS", "like=OWN"], "like=OWN: OWN is no run folder; must be one such as"),
        (["RUNS", "OWN", "like=nowhere/*"], "nowhere/*: no run matches"),
        (["RUNS", "out=OWN"], "out=OWN: must be a folder, or a name that is free"),
        (["nowhere/at-all"], "nowhere/at-all: no such run; must be a run folder, a sweep's folder or a trajectory.csv"),
        (["nowhere/*"], "nowhere/*: no run matches"),
        (["mine=nowhere/x.csv"], "nowhere/x.csv: no such run"),
        (["."], ".: no run folder, it has no trajectory.csv"),
        (["HOLDER"], "HOLDER: no run folder, but one of them; did you mean 'HOLDER/*', all of its runs?"),
        (["signgd=OWN", "RUNS"], "OWN: another curve is called signgd; give it a name of its own"),
        (["a=OWN", "a=OTHER"], "OTHER: seed 1 of a is in OWN too"),
        (["OTHER", "OWN"], "norms: nothing in common, no norm is in every run (other has l1; own has linf)"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    says: str,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    own_table(tmp_path / "OWN" if "out=OWN" in arguments else tmp_path / "own.csv")
    own_table(tmp_path / "other.csv", norm="l1")
    names = {"RUNS": f"{results}/runs/*", "HOLDER": f"{results}/runs", "OWN": "own.csv", "OTHER": "other.csv"}

    def real(text: str) -> str:
        for name, path in names.items():
            text = text if text == "out=OWN" else text.replace(name, path) if not text.startswith("RUN:") else text
        return text

    assert compare.main([real(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: {says if 'out=OWN' in arguments else real(says)}")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no table, it is empty; must be CSV with the columns seed, step, norm, margin"),
        ("\x00\xff\n", "no table, it is no text; must be CSV|must have the columns seed"),
        ("some\nlines\nof code(x, y)\n", "no table, line 3 has 2 values, lines above have 1; must be CSV with the columns seed"),
        ('seed,step\n1,"2\n', "no table, a quote in line 2 is not closed; must be CSV"),
        ("seed,step,margin\n1,1,2\n", "no column norm; must have the columns seed, step, norm, margin"),
        ("seed,step,norm,margin\n", "empty"),
        ("seed,step,norm,margin\n1,1,l2,big\n", "margin=big in row 1; must be a number or empty"),
        ("seed,step,norm,margin\n1,1,l2,2\n1,1.5,l2,2\n", "step=1.5 in row 2; must be an integer"),
        ("seed,step,norm,margin\n,1,l2,2\n", "seed=nan in row 1; must be an integer"),
        ("seed,step,norm,margin\n1,1e300,l2,2\n", "step=1e\\+300 in row 1; must be an integer >= 0, at most"),
        ("seed,step,norm,margin\n1,inf,l2,2\n", "step=inf in row 1; must be an integer >= 0"),
        ("seed,step,norm,margin\n1,-3,l2,2\n", "step=-3 in row 1; must be an integer >= 0"),
        ("seed,step,norm,margin\n-1e300,1,l2,2\n", "seed=-1e\\+300 in row 1; must be an integer, at most"),
        (f"seed,step,norm,margin\n{10**30},1,l2,2\n", "seed=1\\S* in row 1; must be an integer, at most"),
        ("seed,step,norm,margin\nTrue,1,l2,2\n", "seed=True in row 1; must be an integer"),
        ("seed,step,norm,margin\n1,1,l2,1e308\n", "margin=1e\\+308 in row 1; must be a number or empty, at most 1e\\+150"),
        ("seed,step,norm,margin,max_margin\n1,1,l2,1,-1e308\n", "max_margin=-1e\\+308 in row 1"),
        (f"seed,step,norm,margin\n1,1,{'l' * 5000},1\n", "a norm with a name of 5000 letters"),
        ("seed,step,norm,margin\n1,1,l2,2\n1,1,l2,3\n", "seed 1, step 1, norm l2 is there twice"),
    ],
)
def test_a_table_from_elsewhere_is_checked(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(content, encoding="latin-1")
    with pytest.raises(BadInput, match=says):
        compare.compare(compare.request_from([str(tmp_path / "own.csv")]))


def test_a_table_that_may_not_be_read_is_no_matter_of_its_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "own.csv").write_text("")
    monkeypatch.setattr("implicit_bias.storage.files.read_table", refuse)
    with pytest.raises(BadInput, match=r"own\.csv: cannot be read \(Permission denied\)$"):
        compare.compare(compare.request_from([str(tmp_path / "own.csv")]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        "1,1,l2,.5,0\n1,2,l2,.6,0\n",  # an optimum of zero: nothing is relative to it
        "1,1,l2,1e150,1e-150\n1,2,l2,-1e150,\n",
        "1,1,l2,1e149,1e150\n2,1,l2,-1e149,1e150\n1,9,l2,inf,1e150\n2,9,l2,1e149,inf\n",
        f"{2**53},{2**53},l2,1,2\n",
        "1,1,l2,1e-300,1e-310\n1,2,l2,2e-300,1e-310\n",
    ],
)
@pytest.mark.filterwarnings("error")
def test_numbers_of_any_size_are_drawn(rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(f"seed,step,norm,margin,max_margin\n{rows}")
    assert compare.main([str(path), f"out={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().err == ""
    table = read_table(tmp_path / "out" / "comparison.csv")
    assert not np.isinf(table[["margin", "max_margin", "ratio", "relative_gap"]].to_numpy(float)).any()


@pytest.mark.parametrize(
    "arguments",
    [["title=" + "t" * 5000], ["x" * 5000], ["m" * 5000 + "=own.csv"], ["out=" + "o" * 5000], ["a=" + "y" * 5000 + ".csv"]],
)
def test_texts_without_end_are_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own_table(tmp_path / "own.csv")
    assert compare.main(["own.csv", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "must" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["own.csv"]


FORGED = {
    "config.yaml": [
        b"- a\n- list\n",
        b"3\n",
        b"",
        b"optimizer: muon\n",
        b"dataset: {name: x}\n",
        b"a: [\n",
        b"{" * 1000,
        b"\xff\xfe",
        b"1: 2\noptimizer: {name: muon}\n",
        b"optimizer: {name: [1]}\n",
    ],
    "summary.csv": [b"", b"a,b\n1,2\n", b'own,norm\nTrue,"', b"\x00\xff"],
    "trajectory.csv": [
        b"",
        b"a,b\n1,2,3,4\n5\n1,2,3,4,5,6\n",
        b"seed,step,norm\n1,1,l2\n",
        b"seed,step,norm,margin\n1,1,l2,big\n",
        b"seed,step,norm,margin\n1,1e300,l2,1\n",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content"), [(name, content) for name, contents in FORGED.items() for content in contents])
def test_a_run_folder_that_no_run_wrote_is_refused_whatever_its_checksums_say(
    name: str, content: bytes, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "forged"
    shutil.copytree(next((results / "runs").glob("*signgd*")), folder)
    story = json.loads((folder / "provenance.json").read_text())
    (folder / name).write_bytes(content)
    story["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "provenance.json").write_text(json.dumps(story))
    assert compare.main([str(folder), f"out={tmp_path / 'out'}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith(f"error: {folder}")
    assert not (tmp_path / "out").exists()


def test_a_damaged_folder_is_refused(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = next((results / "runs").glob("*signgd*"))
    copy = tmp_path / folder.name
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes() + (b"1" if path.name == "trajectory.csv" else b""))
    assert compare.main([str(copy)]) == 2
    assert capsys.readouterr().err == (
        f"error: {copy}: damaged, trajectory.csv was changed; must be as the run left it, compute it again\n"
    )


@pytest.mark.slow
def test_too_many_configurations_and_a_folder_that_cannot_be_made(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert compare.main([f"{results}/runs/*", f"out={file}/below"]) == 2
    assert capsys.readouterr().err == f"error: out={file}/below: must be a folder that can be written to (Not a directory)\n"
    monkeypatch.setattr(compare, "MOST_CURVES", 2)
    assert compare.main([f"{results}/runs/*", f"out={tmp_path}/out"]) == 2
    assert capsys.readouterr().err.startswith("error: RUN: 3 configurations; must be at most 2")
    assert not (tmp_path / "out").exists()


def test_help_says_every_key_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from implicit_bias import compare; code = compare.main(['--help'])\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'hydra'} & set(sys.modules); sys.exit(code)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert all(f"  {key}=" in answer.stdout for key in compare.OPTIONS)


@pytest.mark.parametrize(
    ("rows", "words"),
    [("1,1,l2,0.5,3\n1,2,l2,0.6,3\n", "more values than there are columns"), ("1,1,l2,\n1,2,l2,inf\n", "margin has no number")],
)
def test_tables_that_would_be_misread_are_refused(
    rows: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(f"seed,step,norm,margin\n{rows}")
    assert compare.main([str(path), f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_versions_of_one_plugin_are_two_curves(tmp_path: Path) -> None:
    run([*SMALL, "optimizer=signgd", "steps=20", "progress=off", f"results_dir={tmp_path}"])
    (folder,) = (tmp_path / "runs").iterdir()
    edited = folder.with_name(f"{folder.name}-edited")
    shutil.copytree(folder, edited)
    for place, content in ((folder, "1"), (edited, "2")):
        story = json.loads((place / "provenance.json").read_text())
        story["plugins"] = {"signgd": {"file": "mine.py", "sha256": content * 64}}
        (place / "provenance.json").write_text(json.dumps(story))
    first, second = labels([source for place in (folder, edited) for source in sources_of("", str(place))])
    assert first != second and first.startswith("signgd version ") and second.startswith("signgd version ")
