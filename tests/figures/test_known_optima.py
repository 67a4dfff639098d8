"""Figures of networks with known answers: what is read off features, units and accuracies, and what the claims ask for."""

import numpy as np
import pandas as pd
import pytest

from implicit_bias.figures.grokking.grokking import DECAYS, RATE, SCALES, Grokking, transitions
from implicit_bias.figures.morwani.modular_addition import METHODS as MODULAR
from implicit_bias.figures.morwani.modular_addition import NSD, ModularAddition, purity
from implicit_bias.figures.own.neural_collapse import METHODS, MUON, NGD, SIZES, NeuralCollapse, collapse_of


def test_features_at_the_means_of_a_simplex_have_collapsed() -> None:
    y = np.repeat(np.arange(4), 3)
    frame = np.eye(4) - 1 / 4
    spread, angle = collapse_of(frame[:, y] + 0.3, y)
    assert spread < 1e-14 and angle < 1e-12
    spread, angle = collapse_of(np.eye(12), y)  # each sample its own: 1 - 1/3 of the squares are within classes
    assert spread == pytest.approx((2 / 3) ** 0.5) and angle < 1e-12
    assert collapse_of(np.eye(4)[:, y] * np.array([3.0, 1, 1, 1])[:, None], y)[1] > 0.1


def test_purity_is_the_share_of_the_strongest_frequency() -> None:
    turns = 2 * np.pi * np.arange(7) / 7
    one, other = np.cos(2 * turns + 0.3), np.cos(3 * turns)
    first = np.stack([np.concatenate([one + 5, 2 * one]), np.concatenate([one, one])])  # a mean is no frequency
    assert purity(first, np.stack([one, one], axis=1)) == pytest.approx(1)
    mixed = np.concatenate([one + other, one + other])[None]
    assert purity(mixed, (one + other)[:, None]) == pytest.approx(1 / 2)


def accuracies(slope: float = 1.0, offset: float = 1.5, after: float = 1.0) -> pd.DataFrame:
    """Made-up runs whose accuracy rises at wd t = slope log(alpha) + offset, with margins that take turns there."""
    parts = []
    for scale in SCALES:
        for decay in DECAYS:
            for seed in (1, 2):
                step = np.arange(0, int(8 / decay / RATE), 20)
                time, middle = decay * RATE * step, slope * np.log(scale) + offset + 0.01 * seed
                rise = 1 / (1 + np.exp(-20 * (time - middle)))
                rows = {"step": step, "time": time, "test_accuracy": 0.65 + (after - 0.65) * rise, "accuracy": 1.0 - (step < 40)}
                l2 = np.where(time < middle - 0.2, 0.9 - 0.01 * (middle - time), 0.65)
                parts.append(
                    pd.DataFrame({**rows, "l2": l2, "l1": 0.3 + 0.6 * rise, "scale": scale, "decay": decay, "seed": seed})
                )
    return pd.concat(parts, ignore_index=True)


def test_grokking_is_timed_at_half_the_rise() -> None:
    found = transitions(accuracies())
    assert np.allclose(found["time"], np.log(found["scale"]) + 1.5 + 0.01 * found["seed"], atol=0.01)
    assert np.allclose(found["before"], 0.65, atol=1e-6) and np.allclose(found["after"], 1)
    assert [claim.holds for claim in Grokking().claims(accuracies(), "default")] == [True] * 4
    assert [claim.holds for claim in Grokking().claims(accuracies(slope=0.9), "default")] == [True, False, True, True]
    assert not Grokking().claims(accuracies(after=0.9), "default")[0].holds
    late = accuracies()
    assert not Grokking().claims(late.assign(l2=0.95), "default")[3].holds  # l1 never passes it


def collapsed(muon: float = 0.95, short: float = 0.0) -> pd.DataFrame:
    rows = []
    for k, each in SIZES:
        for method in METHODS:
            for norm, best in (("l2", each**-0.5 / (2 * (k - 1))), ("spectral", each**-0.5)):
                ratio = 1 - short if method == NGD else muon
                rows.append({"k": k, "each": each, "method": method, "norm": norm, "seed": 1, "step": 10, "ratio": ratio,
                             "margin": ratio * best, "spread": 0.001, "angle": 0.001})  # fmt: skip
    return pd.DataFrame(rows)


def test_neural_collapse_asks_for_four_digits_and_for_muon_below() -> None:
    figure = NeuralCollapse()
    assert [claim.holds for claim in figure.claims(collapsed(), "default")] == [True] * 4
    assert [claim.holds for claim in figure.claims(collapsed(short=2e-4), "default")] == [False, True, True, True]
    assert not figure.claims(collapsed(muon=0.995), "default")[3].holds
    assert MUON in METHODS and len(figure.findings(collapsed(), "default")) == 1


def test_modular_addition_asks_for_the_proven_maximum() -> None:
    def table(ratio: float, others: float) -> pd.DataFrame:
        ratios = {method: ratio if method == NSD else others for method in MODULAR}
        return pd.DataFrame([{"method": m, "seed": 1, "step": 9, "ratio": r, "pure": 0.95} for m, r in ratios.items()])

    figure = ModularAddition()
    assert [claim.holds for claim in figure.claims(table(0.97, 0.8), "default")] == [True] * 3
    assert [claim.holds for claim in figure.claims(table(0.9, 0.88), "default")] == [False, True, False]
    assert not figure.claims(table(1.01, 0.8), "default")[0].holds  # above a proven maximum: an error
