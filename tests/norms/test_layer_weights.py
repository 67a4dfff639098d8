"""The weights of the modular norm, from the definition of the operator norm to runs and certified optima."""

from pathlib import Path

import numpy as np
import pytest
import torch

from implicit_bias import margins
from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import BadInput
from implicit_bias.engine.steppers.native.compiling import compilers
from implicit_bias.norms import make_norm, over_blocks
from implicit_bias.norms.column_blocks import ColumnBlocks
from implicit_bias.norms.layer_weights import rms_weight
from implicit_bias.storage.runs import read_provenance
from implicit_bias.sweep import Outcome, execute

F64 = torch.float64
SMALL = ["dataset.num_classes=3", "dataset.dim=8", "dataset.samples_per_class=5", "dataset.noise=0.4"]


def run(tmp_path: Path, *overrides: str) -> Outcome:
    (outcome,) = execute([cell.spec for cell in compose([*SMALL, f"results_dir={tmp_path}", *overrides])], command="test")
    assert outcome.status == "done" and outcome.directory is not None
    return outcome


def final(outcome: Outcome) -> dict[str, np.ndarray]:
    assert outcome.directory is not None
    with np.load(outcome.directory / "final.npz") as kept:
        return {name: kept[name] * np.exp(kept["log_scale"]) for name in kept.files if kept[name].ndim == 2}


def test_it_is_the_operator_norm_from_root_mean_square_to_root_mean_square() -> None:
    w = torch.randn(6, 20, dtype=F64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(20, 20_000, dtype=F64, generator=torch.Generator().manual_seed(1))
    _, _, vh = torch.linalg.svd(w)

    def rms(columns: torch.Tensor) -> torch.Tensor:
        return columns.square().mean(dim=0).sqrt()

    value = float(make_norm("spectral-rms").value(w))
    assert (rms(w @ x) / rms(x)).max() < value
    assert float(rms(w @ vh[:1].T) / rms(vh[:1].T)) == pytest.approx(value, rel=1e-12)
    assert make_norm("hybrid0.5-rms").value(w) == pytest.approx(0.5 * value, rel=1e-15)


def test_a_step_changes_outputs_by_as_much_whatever_the_widths_are() -> None:
    """Directions have singular values sqrt(d_out / d_in): inputs of RMS 1 change outputs by RMS 1 at most."""
    shapes = {"layer1": (4, 64), "layer2": (64, 4)}
    rng = torch.Generator().manual_seed(0)
    g = {name: torch.randn(1, *shape, dtype=F64, generator=rng) for name, shape in shapes.items()}
    whole = over_blocks(make_norm("spectral-rms"), list(shapes))
    for name, (rows, columns) in shapes.items():
        singular = torch.linalg.svdvals(whole.direction(g)[name][0])
        np.testing.assert_allclose(singular, (rows / columns) ** 0.5, rtol=1e-10)


def test_weights_are_of_the_blocks_not_of_what_the_row_space_leaves() -> None:
    basis = torch.linalg.qr(torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(0)))[0]
    g = {"weight": basis @ torch.randn(2, 4, 7, dtype=F64, generator=torch.Generator().manual_seed(1))}
    for label in ("spectral-rms", "hybrid2-rms"):
        plain, inside = (over_blocks(make_norm(label), ["weight"], bases) for bases in (None, {"weight": basis}))
        torch.testing.assert_close(inside.dual(g), plain.dual(g), rtol=1e-11, atol=0)
        torch.testing.assert_close(inside.direction(g)["weight"], plain.direction(g)["weight"], rtol=1e-9, atol=1e-11)
        assert inside.label == label


def test_with_numbers_for_weights_columns_of_zeros_change_nothing() -> None:
    w = torch.randn(3, 4, 6, dtype=F64, generator=torch.Generator().manual_seed(3))
    for label in ("spectral-rms", "hybrid2-l2-linf-rms"):
        norm = make_norm(label)
        fixed = norm.of_shape(4, 6)
        torch.testing.assert_close(fixed.value(w), norm.value(w), rtol=1e-14, atol=0)
        wider = torch.nn.functional.pad(w, (0, 3))
        torch.testing.assert_close(fixed.value(wider), norm.value(w), rtol=1e-12, atol=0)
        assert not torch.allclose(norm.value(wider), norm.value(w))
    # Optima are kept by labels, and two data sets of different sizes have different weights.
    labels = {ColumnBlocks.of_rows(make_norm("spectral-rms"), (2, 4), rows).label for rows in (3, 4)}
    assert len({*labels, ColumnBlocks(make_norm("spectral"), (2, 4)).label}) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "typed"),
    [
        ("spectral-rms", ["norm=spectral"]),
        ("hybrid2-rms", ["norm=hybrid", "norm.ratio=2"]),
        ("hybrid0.5-l2-linf-rms", ["norm=hybrid", "norm.ratio=0.5", "norm.outer=l2"]),
    ],
)
def test_descent_reaches_its_certified_optimum_on_a_cut_linear_model(tmp_path: Path, norm: str, typed: list[str]) -> None:
    others = ["spectral", "hybrid2", "hybrid0.5-l2-linf"]
    keys = ["optimizer=nsd", *typed, "norm.layer_weights=rms", "model.blocks=[2,6]", "steps=2000"]
    outcome = run(tmp_path, *keys, f"log.norms=[{','.join([norm, *others])}]")
    assert outcome.summary is not None
    summary = outcome.summary.set_index("norm")
    assert list(summary.index[summary["own"]]) == [norm]
    assert summary["ratio"][norm] == summary["ratio"].max() > 0.98
    assert (summary["margin"] <= summary["max_margin"] * (1 + 1e-9)).all()
    assert (summary["max_margin"] <= summary["upper_bound"] * (1 + 1e-9)).all()
    blocks = final(outcome)
    sizes = [rms_weight(*block.shape) * np.linalg.norm(block, 2) for block in blocks.values()]
    if norm != "spectral-rms":
        ratio, rest = float(norm.removeprefix("hybrid").split("-")[0]), np.abs(blocks["weight2"]).max()
        sizes = [ratio * sizes[0], rest]
    expected = np.linalg.norm(sizes, 2 if "l2-linf" in norm else np.inf)
    assert outcome.trajectory is not None
    assert outcome.trajectory.groupby("norm")["param_norm"].last()[norm] == pytest.approx(expected, rel=1e-10)


def test_a_norm_by_weight_of_one_matrix_is_the_same_problem(tmp_path: Path) -> None:
    """And its steps in C are the plain ones of the norm without a weight."""
    plain = run(tmp_path, "optimizer=nsd", "norm=spectral", "steps=60", "log.norms=[spectral-rms]", "compile=off")
    weighted = run(tmp_path, "optimizer=nsd", "norm=spectral", "norm.layer_weights=rms", "steps=60", "log.norms=[spectral]")
    assert plain.summary is not None and weighted.summary is not None and weighted.directory is not None
    one, other = (outcome.summary.set_index("norm") for outcome in (plain, weighted) if outcome.summary is not None)
    np.testing.assert_allclose(one["ratio"], one["ratio"]["spectral"], rtol=1e-6)
    factor = rms_weight(3, 8)
    assert other["max_margin"]["spectral"] == pytest.approx(factor * other["max_margin"]["spectral-rms"], rel=1e-6)
    np.testing.assert_allclose(other["margin"]["spectral"], one["margin"]["spectral"], rtol=1e-7)
    assert read_provenance(weighted.directory)["stepping"] == ("c" if compilers() else "torch")


def test_features_that_are_zero_count_as_columns_in_margins_of_given_weights() -> None:
    rng = np.random.RandomState(0)
    y = np.arange(3).repeat(4)
    x = np.zeros((12, 7))
    x[:, :5] = rng.randn(3, 5)[y] + 0.1 * rng.randn(12, 5)
    w = rng.randn(3, 7)
    table = margins(w, x, y, norms=["spectral", "spectral-rms", "hybrid2-rms"]).set_index("norm")
    factor = rms_weight(3, 7)
    for column in ("margin", "max_margin"):
        expected = table[column]["spectral"] / factor
        assert table[column]["spectral-rms"] == pytest.approx(expected, rel=1e-5)
        assert table[column]["hybrid2-rms"] == pytest.approx(expected / 2, rel=1e-5)


@pytest.mark.slow
def test_layers_of_a_network_have_weights_and_the_layer_margin_is_the_same_up_to_a_factor(tmp_path: Path) -> None:
    keys = ["model=mlp", "model.width=6", "optimizer=nsd", "norm=spectral", "norm.layer_weights=rms", "steps=40"]
    outcome = run(tmp_path, *keys, "log.norms=[spectral,spectral-rms]")
    blocks = final(outcome)
    assert outcome.trajectory is not None
    last = outcome.trajectory[outcome.trajectory["step"] == 40].set_index("norm")
    sizes = {name: rms_weight(*block.shape) * np.linalg.norm(block, 2) for name, block in blocks.items()}
    assert last["param_norm"]["spectral-rms"] == pytest.approx(max(sizes.values()), rel=1e-10)
    factor = np.prod([rms_weight(*block.shape) ** degree for block, degree in zip(blocks.values(), (2, 1), strict=True)])
    assert last["layer_margin"]["spectral"] == pytest.approx(factor * last["layer_margin"]["spectral-rms"], rel=1e-9)
    assert last["layer_alignment"]["spectral"] == pytest.approx(last["layer_alignment"]["spectral-rms"], rel=1e-9)


def test_labels_hashes_and_what_it_is_not_for() -> None:
    for label in ("spectral-rms", "hybrid0.1-rms", "hybrid2-l2-linf-rms", "hybrid2-max-l2-rms"):
        assert make_norm(label).label == label
    with pytest.raises(KeyError):
        make_norm("nuclear-rms")
    for typed in (["norm=spectral"], ["norm=hybrid", "norm.ratio=2"]):
        plain, null, weighted = (
            compose(["optimizer=nsd", *typed, *more])[0].spec
            for more in ([], ["norm.layer_weights=null"], ["norm.layer_weights=rms"])
        )
        assert plain.hash() == null.hash() != weighted.hash()
        assert weighted.own_norm is not None and weighted.own_norm.label.endswith("-rms")
    with pytest.raises(BadInput, match=r"^norm\.layer_weights=max: must be null or rms"):
        compose(["optimizer=nsd", "norm=spectral", "norm.layer_weights=max"])
    with pytest.raises(BadInput, match=r"^norm\.layer_weights=rms: norm=nuclear has no such key"):
        compose(["optimizer=nsd", "norm=nuclear", "norm.layer_weights=rms"])
