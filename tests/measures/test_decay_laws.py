"""Weight decay: the gap of Frank and Wolfe and what it proves, and the laws that give numbers before a run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from implicit_bias import run
from implicit_bias.core.errors import BadInput
from implicit_bias.losses import LOSSES
from implicit_bias.measures.decay_laws import decay_gap, gap_constant, optimum_of_losses
from implicit_bias.measures.frank_wolfe import excess_bound, relative_gap
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import make_norm
from implicit_bias.norms.blocks import over_blocks
from implicit_bias.solvers.constrained import constrained_optimum
from implicit_bias.solvers.reference import solve_exact

K, D, PER_CLASS = 4, 12, 6
DATA = (f"dataset.num_classes={K}", f"dataset.dim={D}", f"dataset.samples_per_class={PER_CLASS}", "dataset.seed=1")


def samples() -> tuple[np.ndarray, np.ndarray]:
    """The Gaussian mixture of the command."""
    rng = np.random.RandomState(1)
    means = rng.randn(K, D)
    x = np.concatenate([(means[c][:, None] + rng.randn(D, PER_CLASS)).T for c in range(K)])
    return x, np.arange(K).repeat(PER_CLASS)


def tables(tmp_path: Path, *words: str) -> tuple[Any, Any]:
    several = any("optimizer.weight_decay=0," in word for word in words)
    return run(*DATA, "progress=off", f"results_dir={tmp_path}", *words, multirun=several)


# --- the gap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["linf", "l2", "spectral"])
def test_the_gap_is_that_of_autograd(label: str) -> None:
    rng = np.random.RandomState(0)
    x, y = torch.tensor(rng.randn(2, 9, 5)), torch.tensor(rng.randint(3, size=(2, 9)))
    w = torch.tensor(rng.randn(2, 3, 5), requires_grad=True)
    losses = torch.stack([torch.nn.functional.cross_entropy(x[r] @ w[r].T, y[r]) for r in range(2)])
    losses.sum().backward()
    norm, radius = make_norm(label), torch.tensor([2.0, 0.5]).double()
    assert w.grad is not None
    expected = ((w.grad * w).sum(dim=(1, 2)) + radius * norm.dual(w.grad)) / losses
    gradient = MODELS.get("linear")().objective(Data(x, y, 3), LOSSES.get("cross_entropy")()).gradient({"weight": w.detach()})
    given = {"weight": w.detach()}
    got = relative_gap(given, gradient, over_blocks(norm, ["weight"]), radius[:, None, None])
    torch.testing.assert_close(got, expected.detach(), rtol=1e-12, atol=1e-12)
    none = relative_gap(given, gradient, over_blocks(norm, ["weight"]), torch.tensor([2.0, math.inf]).double())
    assert none[0] == got[0] and none[1].isnan()


def test_what_a_gap_proves() -> None:
    gap = torch.tensor([0.0, 0.5, 1.0, 3.0]).double()
    assert torch.equal(excess_bound(gap, log_convex=True), gap)
    assert excess_bound(gap, log_convex=False).tolist() == [0.0, math.log(2), math.inf, math.inf]
    assert [name for name in LOSSES if LOSSES.get(name).log_convex] == ["exponential"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["signum", "ngd", "muon", "adam"])
def test_it_bounds_the_excess_of_the_exponential_loss_at_every_record(tmp_path: Path, optimizer: str) -> None:
    """Against the optimum that a solver finds, which knows nothing of the run; at B gamma* = 3, and 100: a loss of e^-100."""
    x, y = samples()
    words = (f"optimizer={optimizer}", "loss=exponential", "steps=1000", "log.norms=[]")
    label = {"signum": "linf", "adam": "linf", "ngd": "l2", "muon": "spectral"}[optimizer]
    norm = make_norm(label)
    gamma = solve_exact(x, y, K, norm).lower
    for multiple in (3.0, 100.0):
        trajectory, summary = tables(tmp_path, *words, f"optimizer.weight_decay={gamma / multiple!r}")
        best = constrained_optimum(x, y, K, norm, multiple / gamma)
        inside = trajectory[trajectory["param_norm"] <= multiple / gamma * (1 + 1e-12)]
        excess = inside["log_loss"] - (best.log_sum - math.log(len(x)))
        # The smallest number that the column is rounded by: it is a difference of numbers of the order of B gamma*.
        assert (excess <= inside["fw_gap"] + 1e-9 * multiple).all()
        assert (excess >= -1e-6).all() and len(inside) > 20
        assert list(trajectory.columns)[-1] == "fw_gap" and "fw_gap" in summary


def test_it_bounds_the_excess_of_the_cross_entropy(tmp_path: Path) -> None:
    """There the optimum is cvxpy's, at a radius at which its loss is no small number."""
    import cvxpy

    x, y = samples()
    radius = 3.0 / solve_exact(x, y, K, make_norm("l2")).lower
    w = cvxpy.Variable((K, D))
    scores = x @ w.T
    loss = sum(cvxpy.log_sum_exp(scores[i] - scores[i, y[i]]) for i in range(len(x))) / len(x)
    best = cvxpy.Problem(cvxpy.Minimize(loss), [cvxpy.norm(w, "fro") <= radius]).solve(solver="CLARABEL")
    trajectory, _ = tables(tmp_path, "optimizer=ngd", "steps=1000", "log.norms=[]", f"optimizer.weight_decay={1 / radius!r}")
    gap = torch.tensor(trajectory["fw_gap"].to_numpy())
    excess = trajectory["log_loss"] - math.log(best)
    assert (excess <= excess_bound(gap, log_convex=False).numpy() + 1e-6).all()
    assert abs(excess.iloc[-1]) < 1e-4 and gap[-1] < 1e-3


def test_the_column_is_of_the_own_norm_in_every_row_and_of_runs_with_decay_alone(tmp_path: Path) -> None:
    words = ("steps=30", "reference=none", "log.norms=[linf,l2]", "loss=exponential")
    mixed, _ = tables(tmp_path / "together", "optimizer=ngd", "optimizer.weight_decay=0,0.1", *words)
    without, with_decay = (
        tables(tmp_path / name, "optimizer=ngd", f"optimizer.weight_decay={name}", *words)[0] for name in ("0", "0.1")
    )
    assert "fw_gap" not in without and with_decay["fw_gap"].notna().all()
    assert (with_decay.groupby("step")["fw_gap"].nunique() == 1).all()
    assert len(mixed) == 2 * len(without)
    folders = sorted((tmp_path / "together" / "runs").iterdir())
    written = [(folder / "trajectory.csv").read_text() for folder in folders]
    alone = [(folder / "trajectory.csv").read_text() for name in ("0", "0.1") for folder in (tmp_path / name / "runs").iterdir()]
    assert sorted(written) == sorted(alone)


def test_networks_have_it_too(tmp_path: Path) -> None:
    trajectory, summary = tables(
        tmp_path, "model=mlp", "model.width=6", "optimizer=muon", "optimizer.weight_decay=0.05", "steps=50", "log.norms=[]"
    )
    assert trajectory["fw_gap"].notna().all()
    assert summary["gap_constant"].isna().all()


# --- the laws --------------------------------------------------------------------------------------------------------


def test_the_constant_of_known_weights() -> None:
    assert 0 <= gap_constant(np.full((3, 4), 0.1)) < 1e-14
    assert gap_constant([0.0, 2.0, 2.0, 0.0]) == 0.0
    # Weights 1/2, 1/4, 1/4: entropy (3/2) log 2, less log 2.
    assert gap_constant([2, 1, 1]) == pytest.approx(0.5 * math.log(2), rel=1e-14)
    for wrong in ([0.0, 0.0], [-1.0, 2.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="weights must be finite"):
            gap_constant(wrong)


@pytest.mark.parametrize("label", ["linf", "l2", "spectral"])
def test_the_law_is_the_limit_of_the_path(label: str) -> None:
    """(1 - ratio) B gamma* of the best point of a ball, found by a solver, tends to kappa."""
    x, y = samples()
    norm = make_norm(label)
    optimum = solve_exact(x, y, K, norm, tol=1e-9)
    kappa, wd = gap_constant(optimum.weights), optimum.lower / 1000
    found = constrained_optimum(x, y, K, norm, 1 / wd)
    assert 1 - found.margin / optimum.lower == pytest.approx(float(decay_gap(wd, kappa, optimum.lower)), rel=0.02)


def test_a_run_with_decay_ends_at_the_predicted_margin_and_the_summary_has_the_constant(tmp_path: Path) -> None:
    wd = 0.02
    words = (f"optimizer.weight_decay={wd}", f"schedule.lr={0.1 / wd}", "steps=3000", "log.norms=[linf]")
    _, summary = tables(tmp_path, "optimizer=muon", *words)
    x, y = samples()
    for label in ("spectral", "linf"):
        row = summary[summary["norm"] == label].iloc[0]
        assert row["gap_constant"] == pytest.approx(gap_constant(solve_exact(x, y, K, make_norm(label)).weights), abs=1e-3)
    own = summary[summary["own"]].iloc[0]
    assert 1 - own["ratio"] == pytest.approx(float(decay_gap(wd, own["gap_constant"], own["max_margin"])), rel=0.1)
    assert own["param_norm"] * wd == pytest.approx(1, abs=1e-3)
    columns = list(summary.columns)
    assert columns[-1] == "gap_constant" and columns.index("optimum_upper") == len(columns) - 2


def test_the_constant_is_empty_without_an_optimum(tmp_path: Path) -> None:
    _, summary = tables(tmp_path, "steps=5", "reference=none")
    assert summary["gap_constant"].isna().all()


def test_the_optimum_is_read_off_a_line() -> None:
    lengths = np.array([1.0, 2.0, 4.0])
    assert optimum_of_losses(-3.0 * lengths + 7.0, lengths) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="must have steps between them"):
        optimum_of_losses([0.0, 0.0], [1.0, 1.0])


def test_the_optimum_is_read_off_a_run(tmp_path: Path) -> None:
    """While the margin itself is still short of it."""
    trajectory, _ = tables(tmp_path, "optimizer=ngd", "schedule.lr=0.5", "steps=10000", "log.norms=[]")
    late = trajectory[trajectory["step"] >= 1000]
    lengths = np.concatenate([[0.0], np.cumsum(0.5 * np.arange(1, 10_001) ** -0.5)])[late["step"]]
    read, optimum = optimum_of_losses(late["log_loss"], lengths), late["max_margin"].iloc[0]
    assert abs(read / optimum - 1) < 1e-3 < late["relative_gap"].iloc[-1]


def test_bad_decay_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^optimizer\.weight_decay=nan: "):
        tables(tmp_path, "optimizer.weight_decay=nan")
