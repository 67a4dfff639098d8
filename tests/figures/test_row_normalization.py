"""Row normalisation: what theory says of rules, and what the claims ask for."""

import numpy as np
import pandas as pd
import pytest

from implicit_bias.datasets.gaussian_clusters import GaussianClusters
from implicit_bias.figures.row_norm.row_normalization import RowNormalization
from implicit_bias.figures.row_norm.row_normalization_drawn import RULES
from implicit_bias.figures.row_norm.row_normalization_judged import (
    ALIGNED,
    ALIGNMENTS,
    CLOUDS,
    FEWER,
    METHODS,
    ROTATED,
    RULE,
    TURNED,
)
from implicit_bias.figures.row_norm.rules import (
    SIGN_ANGLE,
    class_means,
    critical_alignment,
    crossing,
    mean_angle,
    rule_accuracy,
)


def test_the_angle_between_a_normal_vector_and_its_signs() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4000))
    assert mean_angle(rows, np.sign(rows)) == pytest.approx(SIGN_ANGLE, abs=0.1)
    assert pytest.approx(37.08, abs=0.01) == SIGN_ANGLE
    assert mean_angle(rows, 3 * rows) == pytest.approx(0, abs=1e-5) and mean_angle(rows, -rows) == pytest.approx(180)


def test_samples_without_noise_are_the_class_means() -> None:
    for rotate in (None, 3):
        source = GaussianClusters(
            num_classes=4, dim=6, samples_per_class=1, noise=0, test_noise=0, test_samples=8, decay=0.5, rotate=rotate
        )
        means, data = class_means(source), source.load()
        assert np.array_equal(data.x, means)
        assert rule_accuracy(means / np.linalg.norm(means, axis=1, keepdims=True), data) == 1
        assert rule_accuracy(means[[1, 0, 2, 3]], data) < 1


def test_signs_become_the_better_rule_at_the_critical_alignment() -> None:
    """In many dimensions both rules have one ratio of signal to noise there, by its definition: sums over features."""
    a = GaussianClusters(dim=400, decay=1.0).variances()[0]
    critical = critical_alignment(a)
    mu = np.random.default_rng(1).normal(size=(4000, 400)) * np.sqrt(a / 400)

    def ratios(alignment: float) -> tuple[float, float]:
        noise = (1 - alignment + alignment * a) / 400
        plain = (mu**2).sum(axis=1).mean() ** 2 / (mu**2 * noise).sum(axis=1).mean()
        return float(plain), float(np.abs(mu).sum(axis=1).mean() ** 2 / noise.sum())

    assert 0 < critical < 1
    plain, signs = ratios(critical)
    assert plain == pytest.approx(signs, rel=0.01)
    assert np.diff(ratios(critical - 0.1))[0] < 0 < np.diff(ratios(critical + 0.1))[0]


def test_where_a_difference_changes_its_sign() -> None:
    places = np.array([0.0, 0.5, 1.0])
    assert crossing(places, np.array([-3.0, -1.0, 1.0])) == 0.75
    assert np.isnan(crossing(places, np.array([3.0, 1.0, 0.5]))) and np.isnan(crossing(places, np.array([3.0, -1.0, -2.0])))


def table(**changed: float) -> pd.DataFrame:
    """A table on which all holds, but for what is changed: an accuracy or an angle by ``<part>_<method>``."""
    said = {"clouds_row_gd": 0.3, "angle_row_gd": 27.0, "angle_adam": 36.0, "angle_signgd": 38.0, "lead": 0.02, "turned": 0.5}
    said |= {"crossing": 0.39} | changed
    rows: list[tuple[str, str, float, float, float]] = []
    rows += [(CLOUDS, m, 0.0, said.get(f"clouds_{m}", 0.25), said.get(f"angle_{m}", 25.0)) for m in METHODS]
    for x in ALIGNMENTS:
        lead = said["lead"] * (1 if x == 1 else -1)
        rows += [(ALIGNED, m, x, 0.4 if m == "row_gd" else 0.4 + lead, 30.0) for m in FEWER]
        rows += [(ROTATED, m, x, 0.4 if m == "row_gd" else 0.4 * said["turned"], 30.0) for m in FEWER if x in TURNED]
        rows += [(RULE, rule, x, x if rule == "sign" else said["crossing"], np.nan) for rule in RULES]
    once = pd.DataFrame(rows, columns=["part", "method", "x", "accuracy", "to_mean"]).assign(to_sign=40.0, certified=0.9)
    return pd.concat([once.assign(seed=seed) for seed in (1, 2)], ignore_index=True)


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({}, []),
        ({"clouds_ngd": 0.31}, ["RowGD classifies"]),
        ({"angle_signgd": 40.0}, ["rows of max-norm"]),
        ({"angle_row_gd": 37.0}, ["RowGD's rows"]),
        ({"lead": -0.02}, ["aligned"] * 3),
        ({"turned": 1.1}, ["aligned"]),
        ({"crossing": 0.6}, ["signs of"]),
    ],
)
def test_claims_ask_for_every_seed(changed: dict[str, float], failing: list[str]) -> None:
    claims = RowNormalization().claims(table(**changed), "default")
    assert len(claims) == 11
    found = [claim.claim for claim in claims if claim.holds is False]
    assert len(found) == len(failing) and all(text.startswith(begin) for text, begin in zip(found, failing, strict=True))


def test_a_rotation_must_not_change_what_has_no_axes() -> None:
    rows = table()
    rows.loc[(rows["part"] == ROTATED) & (rows["method"] == "row_gd"), "accuracy"] += 0.01
    failing = [claim.claim for claim in RowNormalization().claims(rows, "default") if claim.holds is False]
    assert len(failing) == 1 and failing[0].startswith("a rotation leaves")
