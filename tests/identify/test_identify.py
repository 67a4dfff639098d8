"""``identify``: what can be named, what is written, printed and returned, and what is refused."""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from implicit_bias import run
from implicit_bias.analysis.fingerprints import CURVE_COLUMNS, VERDICT_COLUMNS
from implicit_bias.analysis.optimal_margins import COLUMNS, margins
from implicit_bias.core.errors import BadInput, NotSeparable
from implicit_bias.datasets import make_dataset
from implicit_bias.identify import command
from implicit_bias.identify.notebook import identify
from implicit_bias.measures.exponents import CANNOT_TELL, GRID, MAXIMISES, NONE_OF_THESE, NOT_SEPARATED, exponent
from implicit_bias.plotting import style
from implicit_bias.storage.files import read_table
from implicit_bias.storage.references import ReferenceCache

# On one worker: its runs, and the optima of their data, are computed once.
pytestmark = pytest.mark.xdist_group("identify")
#: Three classes in many dimensions: separated in no time, and far apart in every norm.
DATA = {"num_classes": 3, "dim": 30, "samples_per_class": 4, "noise": 1.0}
OPTIONS = {**{f"dataset.{key}": value for key, value in DATA.items()}, "log.norms": ["l2"], "log.points": 12}
TYPED = ["dataset=gaussian_mixture", *(f"dataset.{key}={value}" for key, value in DATA.items())]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NSD in l_3 on two seeds with all parameters, SignGD with the last ones, and a network."""
    folder = tmp_path_factory.mktemp("identify") / "results"
    keys: dict[str, Any] = {"results_dir": folder, "progress": "off", "reference": "none", **OPTIONS}
    every = {**keys, "log.weights": "all"}
    run(**{**every, "optimizer": "nsd", "norm": "lp", "norm.p": 3, "seed": [1, 2], "steps": 3000})
    run(**{**keys, "optimizer": "signgd", "steps": 3000})
    run(**{**every, "optimizer": "ngd", "model": "mlp", "model.width": 4, "steps": 60, "log.kkt_iters": 0})
    return folder


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NSD in l_3 and SignGD after a few steps."""
    folder = tmp_path_factory.mktemp("early") / "results"
    keys: dict[str, Any] = {"results_dir": folder, "progress": "off", "reference": "none", "steps": 20, **OPTIONS}
    run(**{**keys, "optimizer": "nsd", "norm": "lp", "norm.p": 3, "log.weights": "all"})
    run(**{**keys, "optimizer": "signgd"})
    return folder


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are made, and not written as files, which takes most of the time: one test looks at those."""
    monkeypatch.setattr(style, "saved", lambda figure, kind: b"")


def folders(results: Path, pattern: str) -> list[str]:
    return sorted(str(path) for path in (results / "runs").glob(pattern))


@pytest.mark.slow
def test_the_command_finds_writes_and_prints(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = [*folders(results, "*nsd*"), *folders(results, "*signgd*")]
    assert command.main([*named, f"results_dir={results}", f"out={tmp_path}", "progress=off"]) == 0
    out = capsys.readouterr().out
    verdicts, curves = read_table(tmp_path / "verdicts.csv"), read_table(tmp_path / "identify.csv")
    assert tuple(verdicts.columns) == VERDICT_COLUMNS
    assert tuple(curves.columns) == CURVE_COLUMNS
    assert len(verdicts) == 6
    assert verdicts["run"].tolist() == [Path(name).name for name in named for _ in range(2)]
    nsd = verdicts[(verdicts["optimizer"] == "nsd") & (verdicts["family"] == "lp")]
    assert nsd["seed"].tolist() == [1, 2]
    assert (nsd["verdict"] == MAXIMISES).all()
    assert (1 / nsd["p"] - 1 / 3).abs().max() <= 0.03
    assert ((nsd["p_low"] <= 3) & (nsd["p_high"] >= 3)).all()
    assert nsd["trend"].between(2.5, 4).all()
    other = verdicts[(verdicts["optimizer"] == "nsd") & (verdicts["family"] == "schatten")]
    assert (other["verdict"] != MAXIMISES).all()
    assert (other["kappa"].to_numpy() < nsd["kappa"].to_numpy()).all()
    signgd = verdicts[(verdicts["optimizer"] == "signgd") & (verdicts["family"] == "lp")].iloc[0]
    assert (signgd["p"], signgd["p_high"], signgd["verdict"]) == (math.inf, math.inf, MAXIMISES)
    assert verdicts[verdicts["optimizer"] == "signgd"]["trend"].isna().all()

    assert (curves["kappa_lower"] <= curves["kappa_upper"] * (1 + 1e-12)).all() or curves["kappa_lower"].isna().any()
    mine = curves[(curves["run"] == Path(named[0]).name) & (curves["family"] == "lp")]
    steps = np.load(Path(named[0]) / "final.npz")["steps"]
    assert sorted(mine["step"].unique()) == steps.tolist()
    assert mine[mine["step"] == 0][["margin", "kappa_lower", "kappa_upper"]].isna().all(axis=None)
    assert np.isinf(mine["p"]).any()
    best = mine[mine["step"] == steps[-1]]
    assert best["kappa_lower"].max() == nsd["kappa"].iloc[0]
    assert best["resolution"].max() == pytest.approx(1, abs=1e-3)

    assert "maximises" in out
    assert "log.weights=all" in out  # of SignGD the growth is not known
    with Image.open(tmp_path / "identify.png") as picture:
        assert min(picture.size) > 400
    assert (tmp_path / "identify.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_a_sweep_a_pattern_and_a_folder_are_the_same_runs(results: Path, tmp_path: Path) -> None:
    sweep = results / "sweeps" / "mine"
    sweep.mkdir(parents=True)
    names = [Path(name).name for name in folders(results, "*nsd*")]
    pd.DataFrame({"folder": [name for name in names for _ in range(2)]}).to_csv(sweep / "table.csv", index=False)
    pattern = str(results / "runs" / "*nsd*")
    found = [identify(*named, family="lp", results_dir=results) for named in ([str(sweep)], [pattern], folders(results, "*nsd*"))]
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other)
    twice = identify(pattern, folders(results, "*nsd*")[0], family="lp", results_dir=results, out=tmp_path)
    assert twice["seed"].tolist() == [1, 2, 1]  # named in two arguments
    assert read_table(tmp_path / "verdicts.csv")["family"].unique().tolist() == ["lp"]


@pytest.mark.slow
def test_a_file_of_parameters_says_what_its_run_says(results: Path, tmp_path: Path, unsaved: None) -> None:
    folder = Path(folders(results, "*nsd*seed1*")[0])
    arrays = np.load(folder / "final.npz")
    np.savez(tmp_path / "other.npz", W=arrays["weight"], b=np.zeros((2, 2)))
    np.savez(tmp_path / "single.npz", anything=3.5 * arrays["weight"])
    shutil.copy(folder / "final.npz", tmp_path / "ours.npz")
    words = [f"{name}={tmp_path / file}.npz" for name, file in (("a", "other"), ("b", "single"), ("c", "ours"))]
    out = tmp_path / "out"
    assert command.main([*words, *TYPED, "family=lp", f"results_dir={results}", f"out={out}", "progress=off"]) == 0
    found = read_table(out / "verdicts.csv")
    assert found["run"].tolist() == ["a", "b", "c"]
    assert found["optimizer"].isna().all()
    assert found["seed"].tolist() == [1, 1, 1]
    known = identify(str(folder), family="lp", results_dir=results)
    np.testing.assert_allclose(found["kappa"], known["kappa"].iloc[0], rtol=1e-12)
    np.testing.assert_allclose(found["p"], known["p"].iloc[0], rtol=1e-9)
    assert found["trend"].isna().tolist() == [True, True, False]


@pytest.mark.slow
def test_arrays_from_python(results: Path) -> None:
    data = make_dataset({"name": "gaussian_mixture", **DATA, "seed": 1}).load()
    arrays = np.load(Path(folders(results, "*nsd*seed1*")[0]) / "final.npz")
    words = np.array(["ant", "bee", "cat"])[data.y]
    table = pd.DataFrame(data.x)
    found = identify({"mine": arrays["weight"]}, dataset=(table, pd.Series(words)), family="lp", results_dir=results)
    assert found[["run", "family", "verdict"]].to_numpy().tolist() == [["mine", "lp", MAXIMISES]]
    assert 1 / found["p"].iloc[0] == pytest.approx(1 / 3, abs=0.03)
    many = identify(arrays["weight_all"][-2:], dataset=data, family="lp", results_dir=results)
    assert many["run"].tolist() == ["weights 0", "weights 1"]
    assert many["kappa"].is_monotonic_increasing
    assert many["kappa"].iloc[1] == pytest.approx(found["kappa"].iloc[0], rel=1e-12)
    assert many["trend"].isna().all()


@pytest.mark.slow
def test_networks_have_kkt_ratios_and_what_is_not_separated_no_exponent(results: Path, tmp_path: Path, unsaved: None) -> None:
    named = folders(results, "*mlp*")
    assert command.main([*named, f"results_dir={results}", f"out={tmp_path}", "progress=off"]) == 0
    curves, verdicts = read_table(tmp_path / "identify.csv"), read_table(tmp_path / "verdicts.csv")
    assert curves["kappa_upper"].isna().all()
    assert curves["resolution"].isna().all()
    assert (curves["kappa_lower"].dropna() <= 1).all()
    assert (verdicts["verdict"] != MAXIMISES).all()

    with pytest.raises(BadInput, match="cannot be separated"):
        identify(np.eye(2), dataset=([[1.0, 0], [1.0, 0]], [0, 1]), results_dir=None)
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="device=cuda: no CUDA GPU"):
            identify(*named, device="cuda", results_dir=results)
    data = make_dataset({"name": "gaussian_mixture", **DATA, "seed": 1}).load()
    found = identify(-np.ones((3, 30)) * np.arange(30), dataset=data, results_dir=results)
    assert found["verdict"].tolist() == [NOT_SEPARATED] * 2
    assert found[["p", "p_low", "p_high", "kappa", "trend"]].isna().all(axis=None)


@pytest.mark.slow
def test_a_networks_last_record_agrees_with_what_the_run_logged(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"results_dir": tmp_path, "progress": "off", **OPTIONS, "log.norms": ["lp4", "schatten4"]}
    keys |= {"optimizer": "nsd", "norm": "lp", "norm.p": 4, "model": "mlp", "model.width": 8, "steps": 200}
    trajectory, _ = run(**keys)
    last = trajectory[trajectory["step"] == trajectory["step"].max()].set_index("norm")
    identify(str(tmp_path / "runs" / "*"), results_dir=tmp_path, out=tmp_path / "out")
    curves = read_table(tmp_path / "out" / "identify.csv")
    for family in ("lp", "schatten"):
        here = curves[(curves["family"] == family) & (curves["p"].sub(4).abs() < 0.2)]
        if here.empty:  # 1/4 is no point of the grid, only of its refinements
            continue
        found = here.iloc[(here["p"] - 4).abs().to_numpy().argmin()]
        assert found["margin"] == pytest.approx(last.loc[f"{family}4", "margin"], rel=0.05)
        assert found["kappa_lower"] >= last.loc[f"{family}4", "kkt_ratio"] - 0.02


@pytest.mark.slow
def test_two_classes_cannot_tell_schatten_norms_apart(tmp_path: Path) -> None:
    keys: dict[str, Any] = {**OPTIONS, "dataset.num_classes": 2, "results_dir": tmp_path, "progress": "off", "reference": "none"}
    run(optimizer="muon", steps=300, **keys)
    found = identify(str(tmp_path / "runs" / "*"), results_dir=tmp_path)
    assert found["verdict"].tolist()[1] == CANNOT_TELL
    assert found["p"].isna().tolist()[1]


def test_margins_stand_beside_certified_maxima() -> None:
    data = make_dataset({"name": "gaussian_mixture", **DATA, "seed": 1}).load()
    w = np.stack([data.x[data.y == c].mean(axis=0) for c in range(3)])
    labels = np.array(["c", "a", "b"])[data.y]  # sorted: class 1 first
    order = [1, 2, 0]
    found = margins(w[order], data.x, labels, norms=["linf", "l2", "lp3"])
    assert tuple(found.columns) == COLUMNS
    assert found["norm"].tolist() == ["linf", "l2", "lp3"]
    gaps = w @ data.x.T
    smallest = min(gaps[data.y[i], i] - gaps[c, i] for i in range(len(data.y)) for c in range(3) if c != data.y[i])
    assert found["margin"].iloc[1] == pytest.approx(smallest / np.linalg.norm(w), rel=1e-12)
    assert (found["lower"] <= found["upper"]).all()
    np.testing.assert_allclose(found["ratio"], found["margin"] / found["max_margin"])
    assert (found["ratio"] <= 1).all()
    several = margins(np.stack([w[order], w[order]]), data.x, labels, norms="l2")
    assert several["run"].tolist() == [0, 1]
    assert several["ratio"].tolist() == [found["ratio"].iloc[1]] * 2
    with pytest.raises(NotSeparable):
        margins(np.eye(2), [[1.0, 0], [1.0, 0]], [0, 1])
    with pytest.raises(BadInput, match=r"^W: an array of shape \(3, 29\)"):
        margins(w[:, 1:], data.x, data.y)
    with pytest.raises(BadInput, match=r"^norms=lq: "):
        margins(w, data.x, data.y, norms=["lq"])
    with pytest.raises(BadInput, match=r"^W: the numbers cannot be read as an array \("):
        margins([[1.0], [1.0, 2.0]], data.x, data.y)
    with pytest.raises(BadInput, match=r"^results_dir=.*: is a file; must be None or the path of a folder$"):
        margins(w, data.x, data.y, results_dir=__file__)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "RUN: no run is named; must be a run folder"),
        (["nowhere"], "nowhere: no such run; must be a run folder"),
        (["mine=nowhere/w.npz"], "nowhere/w.npz: no such run"),
        (["nowhere*"], "nowhere*: no run matches"),
        (["familly=lp"], "familly: unknown key; did you mean family?"),
        (["--fast"], "--fast: unknown flag"),
        (["{run}", "family=lpp"], "family=lpp: no such family; did you mean lp?"),
        (["{run}", "device=tpu"], "device=tpu: must be one of auto, cpu, cuda"),
        (["{run}", "reference_timeout=0"], "reference_timeout=0: must be a number > 0"),
        (["{run}", "dataset=digits"], "dataset=digits: run folders name their own data"),
        (["{run}", "out={run}/config.yaml"], "config.yaml: must be a folder"),
        (["{w}"], "dataset: must be given, "),
        (["{w}", "dataset=digits"], "a matrix of shape (3, 30); must be (10, 64)"),
        (["{w}", "dataset=digit"], "dataset=digit: no such option; did you mean digits?"),
        (["{w}", "dataset=digits", "dataset.dimm=3"], "dataset.dimm: unknown key"),
        (["muon"], "muon: no such run; did you mean optimizer=muon?"),
        (["{run}/.."], "/..: no run folder, but one of them; did you mean '"),
        (
            ["{turned}", *TYPED],
            "a matrix of shape (30, 3); must be (3, 30), (classes, features) of the data, as its transpose is",
        ),
        (["{plain}", *TYPED], "numpy.savez('plain.npz', W=...)"),
        (["{run}/config.yaml"], "config.yaml: must be a run folder, a sweep's folder or an .npz file"),
        (["a={run}", "a={nsd}"], "and one seed; must have names of their own, name=RUN"),
        (["{empty}"], "no run folder, it has no trajectory.csv"),
        (["{vectors}", "dataset=digits"], "0 matrices; must be one (classes, features), or one of them called W"),
        (["{nan}", *TYPED], "W: must be a matrix of finite numbers"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    says: str,
    early: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "w.npz", W=np.ones((3, 30)))
    np.savez(tmp_path / "turned.npz", W=np.ones((30, 3)))
    np.save(tmp_path / "plain.npy", np.ones((3, 30)))
    np.savez(tmp_path / "vectors.npz", v=np.ones(3))
    np.savez(tmp_path / "nan.npz", W=np.full((3, 30), np.nan))
    before = sorted(tmp_path.rglob("*"))
    places = {
        "run": folders(early, "*signgd*")[0],
        "nsd": folders(early, "*nsd*seed1*")[0],
        **{name: f"{name}.npz" for name in ("w", "turned", "vectors", "nan")},
        "plain": "plain.npy",
        "empty": "empty",
    }
    assert command.main([word.format(**places) for word in words]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_no_optimum_is_solved_for_weights_that_separate_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unsaved: None
) -> None:
    """But for one that proves that the classes can be separated; the tables are those that all optima would have made."""

    def solve(*_: Any, **__: Any) -> None:
        raise AssertionError("not reached")

    solved: list[str] = []
    put = ReferenceCache.put

    def noted(cache: ReferenceCache, x: Any, y: Any, norm: Any, *of: Any) -> None:
        solved.append(norm.label)
        put(cache, x, y, norm, *of)

    monkeypatch.setattr("implicit_bias.analysis.exponent_optima.solve_from", solve)
    monkeypatch.setattr(ReferenceCache, "put", noted)
    data = make_dataset({"name": "gaussian_mixture", **DATA, "seed": 1}).load()
    w = np.stack([data.x[data.y == c].mean(axis=0) for c in (1, 0, 2)])  # two classes in each other's place
    np.savez(tmp_path / "w.npz", W=w)
    words = [str(tmp_path / "w.npz"), *TYPED, f"results_dir={tmp_path}", f"out={tmp_path / 'out'}", "progress=off"]
    assert command.main(words) == 0
    wrong = sum(int((w @ x).argmax() != y) for x, y in zip(data.x, data.y, strict=True))
    assert 0 < wrong < 12
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"w: not separated: {wrong} of 12 samples are not classified; its rows must be in the order of the sorted labels" in said
    )
    assert solved == ["l2"]
    curves, verdicts = read_table(tmp_path / "out" / "identify.csv"), read_table(tmp_path / "out" / "verdicts.csv")
    assert verdicts["verdict"].tolist() == [NOT_SEPARATED] * 2
    assert sorted(curves["p"].unique()) == sorted(exponent(u) for u in GRID)
    assert (curves["margin"] < 0).all() and curves[["kappa_lower", "kappa_upper", "resolution"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"reference_timeout": "a"}, "reference_timeout=a: must be a number > 0"),
        ({"progress": "on"}, "progress=on: must be auto or off"),
        ({"device": "tpu"}, "device=tpu: must be auto, cpu or cuda"),
        ({"family": "lq"}, "family=lq: no such family; must be lp, schatten or lp,schatten"),
        ({"results_dir": __file__}, f"results_dir={__file__}: is a file; must be None or the path of a folder"),
    ],
)
def test_arguments_from_python_are_checked(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput, match=f"^{re.escape(line)}$"):
        identify(np.eye(2), dataset=([[1.0, 0], [0, 1.0]], [0, 1]), **{"results_dir": None, **keys})


@pytest.mark.slow
def test_optima_that_ran_out_of_time_are_told_of(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], unsaved: None
) -> None:
    """kappa is then known less closely: neither below what is proven nor above 1."""
    words = [folders(results, "*nsd*seed1*")[0], "family=lp", f"results_dir={tmp_path}", "reference_timeout=1e-9"]
    assert command.main(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"nsd\S* \d+ of 1\d lp optima ran out of time: the largest kappa lies in \[0\.\d+, [01]\.\d+\]", told.replace(":", "", 1)
    )
    assert "(a larger reference_timeout allows more)" in told


def test_damaged_folders_and_changed_data_are_refused(early: Path, tmp_path: Path) -> None:
    folder = tmp_path / Path(folders(early, "*signgd*")[0]).name
    shutil.copytree(folders(early, "*signgd*")[0], folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "seed": 7}))
    with pytest.raises(BadInput, match=r"damaged, config.yaml was changed"):
        identify(str(folder))
    path = tmp_path / "data.csv"
    path.write_text("a,b,label\n2,0,x\n0,2,y\n1.5,0.1,x\n")
    keys: dict[str, Any] = {"dataset": "file", "dataset.path": path, "steps": 5, "log.norms": ["l2"]}
    run(**keys, optimizer="ngd", results_dir=tmp_path / "r", progress="off")
    pattern = str(tmp_path / "r" / "runs" / "*")
    assert len(identify(pattern, family="lp", results_dir=None)) == 1
    path.write_text("a,b,label\n2,0,x\n0,2,y\n1.5,0.2,x\n")
    with pytest.raises(BadInput, match=r"dataset\.path=.*data\.csv has changed since"):
        identify(pattern)


def test_help_says_every_key_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from implicit_bias.identify import main; main(['--help']);"
        " heavy = {'torch', 'pandas', 'numpy', 'matplotlib', 'hydra', 'rich'} & set(sys.modules); assert not heavy, heavy"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for key in (*command.OPTIONS, "RUN", CANNOT_TELL):
        assert key in " ".join(ended.stdout.split())
    package = "from implicit_bias import identify, margins; print(callable(identify), callable(margins))"
    ended = subprocess.run([sys.executable, "-c", package], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True", "True"]


@pytest.mark.slow
def test_none_of_these_names_no_exponent(results: Path) -> None:
    data = make_dataset({"name": "gaussian_mixture", **DATA, "seed": 1}).load()
    rng = np.random.default_rng(0)
    # Near a separator, but of no norm: one entry of each row is far too large.
    w = np.linalg.lstsq(data.x, np.eye(3)[data.y], rcond=None)[0].T
    null = np.linalg.svd(data.x)[2][-1]
    found = identify(w + 2 * np.linalg.norm(w) * rng.standard_normal((3, 1)) * null, dataset=data, results_dir=results)
    assert found["verdict"].tolist() == [NONE_OF_THESE] * 2
    assert found[["p", "p_low", "p_high"]].isna().all(axis=None)
    assert found["kappa"].between(0.1, 0.9).all()


@pytest.mark.slow
def test_exponents_of_both_families_are_found_between_the_points_of_a_grid(results: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"results_dir": tmp_path, "progress": "off", "reference": "none", **OPTIONS}
    keys |= {"optimizer": "nsd", "steps": 3000, "log.weights": "all"}
    for family, p in (("lp", 2.3), ("schatten", 4)):  # the first between the points of the grid
        run(**{**keys, "norm": family, "norm.p": p})
    found = identify(str(tmp_path / "runs" / "*"), results_dir=results)
    for family, p, error in (("lp", 2.3, 0.03), ("schatten", 4, 0.05)):
        mine = found[found["run"].str.contains(f"-{family}{p}-")].set_index("family")
        right, wrong = mine.loc[family], mine.loc["schatten" if family == "lp" else "lp"]
        assert abs(1 / float(str(right["p"])) - 1 / p) <= error
        assert float(str(right["p_low"])) <= p <= float(str(right["p_high"]))
        assert right["verdict"] == MAXIMISES
        assert wrong["verdict"] != MAXIMISES
        assert float(str(wrong["kappa"])) < float(str(right["kappa"]))
