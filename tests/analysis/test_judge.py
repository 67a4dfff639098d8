"""judge: any optimizer of torch's kind on any data, and a sentence that says which margin it reached."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import implicit_bias
from implicit_bias import judge
from implicit_bias.analysis import in_turn, judging
from implicit_bias.analysis.exponent_optima import Memory
from implicit_bias.analysis.fingerprints import VERDICT_COLUMNS, Identified
from implicit_bias.analysis.weights import Weights
from implicit_bias.core.errors import BadInput, NotSeparable, RunFailed
from implicit_bias.datasets import make_dataset
from implicit_bias.norms import make_norm
from implicit_bias.optimizers.foreign import base
from implicit_bias.sweep.references import solve_all
from tests.support.foreign_runs import MINE, mine

COLUMNS = ["seed", "step", "lr", "log_loss", "accuracy", "norm", "margin", "max_margin", "relative_gap", "upper_bound"]


def blobs(each: int = 8, noise: float = 0.2, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(seed)
    means = rng.randn(3, 6)
    return np.concatenate([means[c] + noise * rng.randn(each, 6) for c in range(3)]), np.repeat(["ash", "elm", "oak"], each)


def few() -> tuple[np.ndarray, np.ndarray]:
    """Of which all optima of both families take a second."""
    return blobs(each=4, noise=0.1, seed=5)


@pytest.fixture(scope="module")
def optima(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of results where optima are kept: those of the blobs take seconds."""
    return str(tmp_path_factory.mktemp("optima"))


known_of, known_once = base.known_of, cache(base.known_of)


@pytest.fixture(autouse=True)
def found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a class does at a constant gradient, before it sees data, takes half of a short run's time."""
    monkeypatch.setattr(base, "known_of", lambda of: (known_once if isinstance(of, base.Made) else known_of)(of))


blobs_optima = pytest.mark.xdist_group("blobs")


@blobs_optima
@pytest.mark.slow
def test_it_says_what_was_reached_of_which_optimum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, optima: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = judge(lambda p: torch.optim.AdamW(p, lr=1e-2), data=few(), steps=300, results_dir=optima)
    own = found.summary[found.summary["own"]].iloc[0]
    assert own["norm"] == "linf" and 0 < own["ratio"] <= 1
    assert found.sentence.startswith("AdamW, 300 steps, loss 10^")
    reached = f"it reached {100 * own['ratio']:.1f} % of the certified linf optimum"
    assert f"in linf, the norm of its steps, {reached}" in found.sentence
    assert any(word in found.sentence for word in ("still rising", "falling", "at rest"))
    assert capsys.readouterr().out == f"{found}\n" and str(found) == repr(found)
    assert list(found.trajectory.columns[:10]) == COLUMNS and found.trajectory["step"].max() == 300
    assert (found.trajectory.loc[found.trajectory["step"] > 0, "lr"] == 1e-2).all()
    assert list(found.verdicts.columns) == list(VERDICT_COLUMNS)
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.slow
def test_it_is_the_run_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Adam does at a constant gradient is found out anew by both."""
    monkeypatch.setattr(base, "known_of", known_of)
    norms = ["linf", "spectral"]
    keys: dict[str, Any] = {"norms": norms, "family": (), "results_dir": str(tmp_path)}
    found = judge(torch.optim.Adam, "gaussian_mixture", steps=60, lr=0.05, seed=3, **keys)
    typed = [
        "optimizer=torch",
        "optimizer.target=torch.optim.Adam",
        "schedule.lr=0.05",
        "schedule.power=0.5",
        "seed=3",
        "steps=60",
        f"log.norms=[{','.join(norms)}]",
    ]
    trajectory, summary = implicit_bias.run([*typed, "progress=off", "device=cpu", f"results_dir={tmp_path}"])
    for column in ("lr", "log_loss", "margin", "max_margin", "upper_bound"):
        assert found.trajectory[column].to_numpy() == pytest.approx(trajectory[column].to_numpy(), rel=1e-9, nan_ok=True)
    assert found.summary["own"].tolist() == summary["own"].tolist()


@pytest.mark.slow
def test_data_may_be_arrays_frames_tensors_names_and_datasets() -> None:
    x, y = blobs()
    keys: dict[str, Any] = {"norms": ["l2", "linf"], "family": ()}
    first = judge(torch.optim.SGD, (x, y), steps=20, **keys).summary["margin"]
    frame = pd.DataFrame(x, columns=list("abcdef"))
    words = pd.Series(y, dtype="category")
    for data in ((frame, words), (torch.tensor(x, requires_grad=True), list(y)), [x.tolist(), y.tolist()]):
        assert judge(torch.optim.SGD, data, steps=20, **keys).summary["margin"].tolist() == first.tolist()
    source = make_dataset({"name": "gaussian_mixture", "seed": 2}).load()
    named, given = (
        judge(torch.optim.SGD, data, steps=5, seed=2, **{**keys, "norms": ["l2"]}) for data in ("gaussian_mixture", source)
    )
    assert named.summary["margin"].tolist() == given.summary["margin"].tolist()


def test_a_class_of_a_notebook_and_a_rate_of_ours(tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(MINE, space)
    found = judge(space["SignDescent"], blobs(), steps=200, lr=0.1, norms="linf", family=())
    assert found.sentence.startswith("SignDescent, 200 steps") and found.summary["norm"].tolist() == ["linf"]
    lr = found.trajectory["lr"].to_numpy()[1:]
    assert lr == pytest.approx(0.1 * found.trajectory["step"].to_numpy()[1:] ** -0.5)


@blobs_optima
@pytest.mark.slow
def test_the_nearest_exponent_is_named_and_what_no_exponent_fits_is_said_to_be_of_none(optima: str) -> None:
    space: dict[str, Any] = {}
    exec(MINE, space)
    kept: dict[str, Any] = {"results_dir": optima, "optima_timeout": 900}
    signs = judge(space["SignDescent"], few(), steps=np.int64(1500), lr=np.float32(0.1), norms="linf", **kept)
    assert re.search(r"; nearest exponent: lp p = inf in \[\S+, inf\] \(maximises\)$", signs.sentence)
    slow = judge(lambda p: torch.optim.SGD(p, lr=1e-3), few(), steps=300, norms="l2", **kept)
    assert re.search(r"; nearest exponent: none of these \(largest kappa 0\.\d{3}\)$", slow.sentence)
    assert slow.verdicts["p"].isna().all()
    x, y = few()
    two = judge(torch.optim.SGD, (x[y != "oak"], y[y != "oak"]), steps=100, lr=1.0, norms="l2", family="schatten")
    assert two.sentence.endswith("data cannot tell in schatten")


def test_an_interrupt_goes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        judge(Interrupted, blobs(), steps=5)
    assert not list(tmp_path.iterdir())


def test_what_is_not_separated_is_no_error() -> None:
    slow = judge(lambda p: torch.optim.SGD(p, lr=1e-9), "gaussian_mixture", steps=5, norms="l2")
    assert "not separated yet (accuracy" in slow.sentence
    assert slow.verdicts["verdict"].tolist() == ["not separated"] * 2 and slow.verdicts["p"].isna().all()
    never = judge(torch.optim.SGD, (np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]]), [0, 1, 1]), steps=5)
    assert "the classes cannot be separated by a linear model, so there is no maximum margin" in never.sentence
    assert never.summary["max_margin"].isna().all()


@blobs_optima
@pytest.mark.slow
def test_it_names_the_nearest_exponent(optima: str) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(MINE, space)
    x, y = few()
    asked: dict[str, Any] = {"norms": "l2", "family": "lp", "results_dir": optima, "optima_timeout": 900}
    found = judge(space["SignDescent"], (x, y), steps=150, lr=0.1, **asked)
    (row,) = found.verdicts.to_dict("records")
    assert (row["run"], row["family"], row["p"], row["verdict"]) == ("SignDescent", "lp", np.inf, "nearest so far")
    assert row["p_low"] > 10 and row["kappa"] == pytest.approx(found.summary["ratio"].iloc[-1], abs=1e-3)
    assert found.sentence.endswith(", inf] (nearest so far)") and "; nearest exponent: lp p = inf in [" in found.sentence
    early = judge(torch.optim.SGD, (x, y), steps=5, **asked)
    assert early.verdicts["verdict"].tolist() == ["none of these"]
    assert early.sentence.startswith("SGD, 5 steps") and "; nearest exponent: none of these (largest kappa 0." in early.sentence


@pytest.mark.slow
def test_symmetries_rule_families_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the study has found, beside those of the optimizer's own norm."""
    given: list[Weights] = []

    def seen(runs: list[Weights], *rest: Any) -> Identified:
        given.extend(runs)
        return Identified(pd.DataFrame(), pd.DataFrame(columns=list(VERDICT_COLUMNS)))

    monkeypatch.setattr(judging, "identified", seen)
    for make in (torch.optim.Adam, torch.optim.Adafactor, torch.optim.SGD):
        judge(make, blobs(), steps=100, lr=1.0, norms="l2")
    assert [run.own for run in given] == ["linf", None, "l2"]
    assert [run.possible for run in given] == [["lp"], [], []]
    assert [run.ruled_out for run in given] == [("schatten",), ("lp", "schatten"), ()]


@blobs_optima
@pytest.mark.slow
def test_one_without_a_norm_of_its_own_says_so(optima: str) -> None:
    found = judge(torch.optim.Adafactor, few(), steps=600, lr=0.5, results_dir=optima)
    assert "no norm of its own is known; the best ratio is " in found.sentence
    assert not found.summary["own"].any()
    assert found.notes[0].startswith("no norm of its own was found (nearest: lp2")


def test_closures_and_log_losses() -> None:
    found = judge(lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=4), blobs(), steps=20, norms=["l2"], family=())
    assert found.trajectory["evaluations"].iloc[-1] > 20
    fed = judge(torch.optim.Adam, blobs(), steps=100, lr=0.1, feed="log_loss", norms=["linf"], family=())
    assert fed.notes == ("fed with gradients of log L: another objective than L, of the same directions",)


def test_it_trains_by_mini_batches_and_measures_all_samples(optima: str) -> None:
    x, y = (torch.tensor(part) for part in (blobs()[0], np.repeat([0, 1, 2], 8)))
    keys: dict[str, Any] = {"norms": ["l2"], "family": (), "results_dir": optima, "seed": 3}
    found = judge(lambda p: torch.optim.SGD(p, momentum=0.9), blobs(), steps=24, lr=0.1, batch_size=5, **keys)
    w = torch.nn.Parameter(torch.zeros(3, 6, dtype=torch.float64))
    theirs = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    for t in range(24):
        order = np.random.default_rng([3, t // 4]).permutation(24)
        rows = np.sort(order[5 * (t % 4) : 5 * (t % 4) + 5])
        theirs.param_groups[0]["lr"] = 0.1 * (t + 1) ** -0.5
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(x[rows] @ w.T, y[rows]).backward()
        theirs.step()
    loss = torch.nn.functional.cross_entropy(x @ w.detach().T, y).log()
    assert found.summary["log_loss"].iloc[0] == pytest.approx(float(loss), rel=1e-10)


def test_a_terminal_shows_it_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    found = judge(torch.optim.SGD, blobs(), steps=5, norms=["l2"], family=())
    assert not capsys.readouterr().out and repr(found).startswith("SGD, 5 steps")


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"make_optimizer": "adam"},
        "make_optimizer: a str; must be a function of the parameters, such as lambda params: MyOptimizer(params, lr=0.01), or",
    ),
    (
        {"make_optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)},
        "make_optimizer: a SGD; must be a function of the parameters, such as lambda params: SGD(params, lr=0.01), or a class",
    ),
    ({"make_optimizer": lambda p: 3}, "make_optimizer: gives a int; must give a torch.optim.Optimizer"),
    (
        {"make_optimizer": lambda p: torch.optim.Adam(p, lr=-1)},
        "make_optimizer: cannot make an optimizer of a list of parameters (Val",
    ),
    (
        {"data": "my.csv"},
        (
            'data=my.csv: a file is read by make_dataset({"name": "file", "path": "my.csv", "label": "<its column of labels>"})'
            ".load(), from implicit_bias.datasets import make_dataset"
        ),
    ),
    ({"data": Path("my.npz")}, 'data=my.npz: a file is read by make_dataset({"name": "file", "path": "my.npz"}).load(), from'),
    ({"data": "iris"}, "data=iris: no such dataset; did you mean sklearn.datasets.load_iris(return_X_y=True)?"),
    ({"data": "digitz"}, "data=digitz: no such dataset; did you mean digits?"),
    ({"data": 3}, "data: a int; must be a pair (X, y), a Dataset or the name of a dataset"),
    ({"data": (np.zeros((3, 2)), [0, 1])}, "data: "),
    ({"steps": 0}, "steps=0: must be an integer >= 1"),
    ({"steps": 1.5}, "steps=1.5: must be an integer >= 1"),
    ({"lr": 0}, "lr=0: must be None or a number > 0"),
    ({"lr": "auto"}, "lr=auto: must be None or a number > 0"),
    ({"feed": "both"}, "feed=both: must be loss or log_loss"),
    ({"norms": ["l7"]}, "norms=l7: "),
    ({"family": "schaten"}, "family=schaten: must be lp, schatten or both"),
    ({"norms": [3]}, "norms=[3]: must be labels of norms"),
    ({"norms": None}, "norms=null: must be labels of norms"),
    ({"family": "lpp"}, "family=lpp: must be lp, schatten or both, or () for neither"),
    ({"family": 3}, "family=3: must be lp, schatten or both"),
    ({"seed": "a"}, "seed=a: must be an integer >= 0, at most "),
    ({"seed": -1}, "seed=-1: must be an integer >= 0"),
    ({"reference_timeout": 0}, "reference_timeout=0: must be a number > 0"),
    ({"optima_timeout": -1}, "optima_timeout=-1: must be a number > 0"),
    ({"batch_size": 25}, "batch_size=25: must be None or an integer in [1, 24], the samples there are"),
    ({"batch_size": 0}, "batch_size=0: must be None or an integer in [1, 24]"),
    ({"batch_size": True}, "batch_size=true: must be None or an integer in [1, 24]"),
    ({"batch_size": 4, "batch_order": "shuffle"}, "batch_order=shuffle: must be reshuffle, cyclic or replace"),
    ({"progress": "on"}, "progress=on: must be auto or off"),
    ({"results_dir": 3}, "results_dir=3: must be None or the path of a folder"),
    ({"data": ([[1.0], [1.0, 2.0]], [0, 1])}, "data: the features cannot be read as an array (setting an array element"),
    ({"data": (np.eye(2), ["ash", None])}, "data: the label of sample 2 is missing; must be one label a sample"),
]


@pytest.mark.parametrize(("keys", "line"), WRONG)
def test_what_cannot_be_used_is_one_line(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput) as error:
        judge(**{"make_optimizer": torch.optim.SGD, "data": blobs(), "steps": 5, **keys})
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_an_optimizer_that_fails_is_one_line(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("mine", mine(tmp_path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(RunFailed, match=r"^Raises: ValueError in step 1: no step today nor tomorrow$"):
        judge(module.Raises, blobs(), steps=5)
    with pytest.raises(RunFailed, match=r"^SGD: by step \d+ the parameters are no longer finite numbers; choose a smaller rate"):
        judge(lambda p: torch.optim.SGD(p, lr=1e308, maximize=True), blobs(), steps=50, norms=["l2"])


@pytest.mark.slow
def test_where_time_is_short_the_sentence_says_what_is_proven() -> None:
    """Intervals stand in the place of optima, and it is said that exponents were not looked for."""
    found = judge(torch.optim.SGD, blobs(), steps=200, lr=1.0, norms=["l2", "linf"], optima_timeout=1e-6)
    assert found.summary["ratio"].isna().all() and found.verdicts.empty
    assert re.search(r"it reached a margin of 0\.\d+, the l2 optimum being in \[0\.\d+, 0\.\d+\]", found.sentence)
    assert found.sentence.endswith("; there was no time to look for an exponent in lp and schatten")
    left_out = "exponents of lp and schatten were left out, for want of time (optima_timeout=1e-05 allows more)"
    assert found.notes[-1] == left_out
    lower, upper = found.summary["optimum_lower"], found.summary["optimum_upper"]
    exact = judge(torch.optim.SGD, blobs(), steps=1, lr=1.0, norms=["l2", "linf"], family=()).summary["max_margin"]
    assert (lower <= exact).all() and (exact <= upper).all()


def test_exponents_that_were_not_found_to_have_optima_in_time_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: Any) -> Identified:
        raise BadInput("dataset: there is no optimum to compare with: whether they can be separated cannot be told")

    monkeypatch.setattr(judging, "identified", refused)
    found = judge(torch.optim.SGD, blobs(), steps=200, lr=1.0, norms="l2")
    assert found.sentence.endswith("; there was no time to look for an exponent in lp and schatten") and found.verdicts.empty


@pytest.mark.slow
def test_optima_share_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first may take half of it, the last one all that is left; a norm without a separator of its own takes another's."""
    sizes = {"num_classes": 3, "dim": 6, "samples_per_class": 4}
    dataset = make_dataset({"name": "gaussian_mixture", "noise": 0.2, "seed": 1, **sizes}).load()
    norms = {label: make_norm(label) for label in ("linf", "l2", "spectral")}
    asked: list[float] = []

    def solved(wanted: Any, method: str, cache: Any, notify: Any, timeout: float) -> list[Any]:
        asked.append(timeout)
        ((_, norm),) = wanted[0][1].items()
        if norm.label in ("linf", "spectral"):
            return [NotSeparable("whether they can be separated cannot be told", proven=False)]
        return solve_all(wanted, method, cache, notify, 60.0)

    monkeypatch.setattr(in_turn, "solve_all", solved)
    found = in_turn.solve_in_turn(dataset, norms, Memory(), lambda text: None, 60.0, 80.0)
    assert asked[0] == pytest.approx(40, rel=1e-3) and asked[1] <= asked[0] and asked[2] <= 60
    assert isinstance(found, dict) and list(found) == ["linf", "l2", "spectral"]
    exact = solve_all([(dataset, norms)], "exact", Memory(), lambda text: None)[0]
    assert isinstance(exact, dict)
    for label in ("linf", "spectral"):
        assert found[label].lower <= exact[label].upper and exact[label].lower <= found[label].upper
        assert found[label].late and not found[label].proven

    asked.clear()
    cache = Memory()
    late = in_turn.solve_in_turn(dataset, {"l2": norms["l2"], "linf": norms["linf"]}, cache, lambda text: None, 60.0, 1e-9)
    kept = cache.get(dataset.x, dataset.y, norms["linf"], "exact")
    assert kept is not None and kept.late, "what looks for exponents begins there"
    assert len(asked) == 1, "nothing is tried when there is no time left, and a separator"
    assert isinstance(late, dict) and late["linf"].lower <= exact["linf"].upper and exact["linf"].lower <= late["linf"].upper

    monkeypatch.setattr(in_turn, "solve_all", lambda *asked: [NotSeparable("proof: weights cancel")])
    assert isinstance(in_turn.solve_in_turn(dataset, norms, Memory(), lambda text: None, 60.0, 80.0), NotSeparable)


def test_what_an_optimizer_does_to_its_parameters_is_said() -> None:
    class Cuts(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    p.data = p.data[:2]

    with pytest.raises(
        RunFailed, match=r"^Cuts: ValueError in step 1: weight has become \(\(2, 6\), 'float64'\); must stay \(\(3, 6"
    ):
        judge(Cuts, blobs(), steps=5, lr=1.0, family=())

    class Rests(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return None

    assert judge(Rests, blobs(), steps=5, lr=1.0, family=()).notes == ("it does not move at a constant gradient",)
