"""The sentence under a run's table: what is claimed, and what is not."""

import math

import pandas as pd
import pytest

from implicit_bias.analysis.answers import answer_sentence, depth_line, missed_line

# The margins a decade of steps earlier and at the end, and the largest there are, by norm.
Margins = dict[str, tuple[float, float, float]]


def run_of(margins: Margins, own: str | None = "spectral", accuracy: float = 1.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables with what the sentence reads."""
    rows = [
        {"step": step, "norm": norm, "margin": of[place], "max_margin": of[2], "upper_bound": of[2] if of[2] == of[2] else 1.0}
        for place, step in enumerate((1000, 10_000))
        for norm, of in margins.items()
    ]
    trajectory = pd.DataFrame(rows).assign(log_loss=-20 * math.log(10), accuracy=accuracy, optimizer="muon")
    last = trajectory[trajectory["step"] == 10_000].reset_index(drop=True)
    return trajectory, last.assign(own=last["norm"] == own, ratio=last["margin"] / last["max_margin"])


UNKNOWN = math.nan


@pytest.mark.parametrize(
    ("margins", "own", "said"),
    [
        (
            {"l2": (0.9, 0.91, 1), "spectral": (0.95, 0.985, 1)},
            "spectral",
            (
                "muon reached 98.5 % of the largest spectral margin, still rising 3.5 % a decade"
                ", and at most 91.0 % of any other (l2)"
                ": it maximises the spectral margin"
            ),
        ),
        (
            {"linf": (0.9, 0.99, 1), "spectral": (0.9, 0.95, 1)},
            "spectral",
            (
                "muon reached 95.0 % of the largest spectral margin, still rising 5.0 % a decade"
                ", and 99.0 % of the largest linf margin"
                ": that it maximises the spectral margin, its own norm's, does not show yet"
            ),
        ),
        (
            {"linf": (0.97, 0.99, 1), "spectral": (0.95, 0.98, 1)},
            "spectral",
            (
                "muon reached 98.0 % of the largest spectral margin, still rising 3.0 % a decade"
                ", and 99.0 % of the largest linf margin"
                ": it reaches the spectral margin, its own norm's, and the linf margin even more nearly"
                ", as far as these data tell norms apart"
            ),
        ),
        (
            {"spectral": (0.88, 0.88, 1)},
            "spectral",
            "muon reached 88.0 % of the largest spectral margin, at rest: the spectral margin is not reached",
        ),
        (
            {"linf": (0.5, 0.5, 1), "spectral": (0.88, 0.88, 1)},
            "spectral",
            (
                "muon reached 88.0 % of the largest spectral margin, at rest"
                ", and at most 50.0 % of any other (linf)"
                ": nearest to the spectral margin, without reaching it"
            ),
        ),
        (
            {"linf": (0.9, 0.98, 1), "spectral": (0.9, 0.99, 1)},
            "spectral",
            (
                "muon reached 99.0 % of the largest spectral margin, still rising 9.0 % a decade"
                ", and at most 98.0 % of any other (linf)"
                ": it maximises the spectral margin, as far as these data tell norms apart"
            ),
        ),
        (
            {"l2": (0.8, 0.8, UNKNOWN), "spectral": (0.9, 0.98, UNKNOWN)},
            "spectral",
            (
                "muon reached at least 98.0 % of the largest spectral margin, still rising 8.0 % a decade"
                ", and at least 80.0 % of the largest l2 margin"
                ": it maximises the spectral margin"
            ),
        ),
        (
            {"l2": (0.8, 0.85, 1), "linf": (0.5, 0.6, 1)},
            None,
            (
                "muon, of which no own norm is known, reached 85.0 % of the largest l2 margin, still rising 5.0 % a decade"
                ", and less of any other"
                ": none of these is maximised so far"
            ),
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_a_run(margins: Margins, own: str | None, said: str) -> None:
    assert answer_sentence("muon", *run_of(margins, own)) == said


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((0.80, 0.85, 0.88), "still rising 8.0 % a decade: nearest to the spectral margin, more steps will tell"),
        ((0.878, 0.879, 0.88), "still rising 0.2 % a decade: nearest to the spectral margin, hardly rising"),
        ((0.87, 0.87, 0.88), "still rising 1.0 % a decade: nearest to the spectral margin, more steps will tell"),
        ((0.80, 0.89, 0.88), "risen 8.0 % in a decade and now falling: nearest to the spectral margin, without reaching it"),
        ((0.90, 0.86, 0.88), "fallen 2.0 % in a decade and now rising: nearest to the spectral margin, more steps will tell"),
        ((0.88, 0.90, 0.88), "as a decade before and now falling: nearest to the spectral margin, without reaching it"),
        ((-0.1, 0.83, 0.88), "still rising 16.6 % a decade of late: nearest to the spectral margin, more steps will tell"),
        ((-0.1, 0.88, 0.88), "at rest: nearest to the spectral margin, without reaching it"),
        (
            (0.80, 0.88, 0.88),
            "risen 8.0 % in a decade and now at rest: nearest to the spectral margin, without reaching it",
        ),
        ((0.90, 0.88, 0.88), "fallen 2.0 % in a decade and now at rest: nearest to the spectral margin, without reaching it"),
        ((0.90, 0.89, 0.88), "falling 2.0 % a decade: nearest to the spectral margin, without reaching it"),
    ],
)
def test_more_steps_are_advised_only_where_the_margin_still_moves_fast_enough(shares: tuple[float, ...], said: str) -> None:
    """Shares at a tenth of the steps, at half of them and at the end; without another norm the same is said of the one."""
    first, last = run_of({"spectral": (shares[0], shares[-1], 1), "l2": (0.1, 0.1, 1)})
    half = first.tail(2).assign(step=5000, margin=lambda rows: rows["margin"].where(rows["norm"] == "l2", shares[1]))
    found = answer_sentence("muon", pd.concat([first, half]), last)
    assert found == f"muon reached 88.0 % of the largest spectral margin, {said}".replace(
        ": nearest", ", and at most 10.0 % of any other (l2): nearest"
    )
    curve, end = (table[table["norm"] == "spectral"] for table in (pd.concat([first, half]), last))
    alone = answer_sentence("muon", curve, end)
    assert alone is not None and ("more steps" in alone) == ("more steps" in said)


def test_where_no_margin_was_positive_before_it_is_too_early_to_tell() -> None:
    found = answer_sentence("muon", *run_of({"spectral": (-0.1, 0.12, 1), "l2": (-0.1, 0.1, 1)}))
    assert found is not None and found.endswith(": nearest to the spectral margin, too early to tell whether it maximises that")
    found = answer_sentence("muon", *run_of({"spectral": (-0.1, 0.12, 1)}))
    assert found is not None and found.endswith("margin: whether it maximises the spectral margin it is too early to tell")
    found = answer_sentence("muon", *run_of({"spectral": (-0.1, 0.12, 1), "l2": (-0.1, 0.2, 1)}))
    assert found is not None and found.endswith(": that it maximises the spectral margin, its own norm's, does not show yet")


def test_norms_that_are_one_on_the_data_are_no_rivals() -> None:
    found = answer_sentence("muon", *run_of({"linf": (0.5, 0.6, 1), "l2": (1.9, 1.98, 2), "spectral": (1.9, 1.98, 2)}), classes=2)
    assert found is not None
    assert found.startswith(
        "muon reached 99.0 % of the largest spectral margin (with two classes also the largest l2 margin), still"
    )
    assert found.endswith("and at most 60.0 % of any other (linf): it maximises the spectral margin")


def test_a_share_known_from_below_bounds_no_other() -> None:
    found = answer_sentence("muon", *run_of({"l2": (0.9, 0.91, 1), "linf": (0.5, 0.6, UNKNOWN), "spectral": (0.95, 0.985, 1)}))
    assert found is not None and ", and 91.0 % of the largest l2 margin: it maximises" in found
    found = answer_sentence("muon", *run_of({"l2": (0.4, 0.4, UNKNOWN), "spectral": (0.9, 0.95, UNKNOWN)}))
    assert found is not None and found.endswith(": whether it maximises the spectral margin more steps will tell")
    found = answer_sentence("muon", *run_of({"l2": (0.9, 0.91, 1), "linf": (0.5, 0.6, UNKNOWN)}, own=None))
    assert found is not None and "any other" not in found


def test_without_an_own_norm_two_margins_that_are_reached_are_told_apart_by_nothing() -> None:
    found = answer_sentence("mine", *run_of({"l2": (0.9, 0.99, 1), "linf": (0.9, 0.98, 1)}, own=None))
    assert found is not None and found.endswith("it maximises the l2 margin, as far as these data tell norms apart")


def test_an_own_norm_without_an_optimum_is_not_called_unknown() -> None:
    trajectory, summary = run_of({"l2": (0.8, 0.85, 1), "spectral": (0.9, 0.98, UNKNOWN)})
    summary.loc[summary["norm"] == "spectral", "upper_bound"] = UNKNOWN
    found = answer_sentence("muon", trajectory, summary)
    assert found is not None and found.startswith("muon, of whose own norm, spectral, no optimum is known, reached 85.0 %")


def test_margins_of_perturbed_samples_are_called_robust() -> None:
    trajectory, summary = run_of({"l2": (0.9, 0.91, 1), "spectral": (0.95, 0.985, 1)})
    found = answer_sentence("muon", trajectory, summary.assign(robust_accuracy=1.0))
    assert found is not None and found.startswith("muon reached 98.5 % of the largest robust spectral margin")
    assert found.endswith("it maximises the robust spectral margin")


def test_nothing_is_said_of_margins_before_separation() -> None:
    assert answer_sentence("muon", *run_of({"spectral": (-0.5, -0.1, 1)}, accuracy=0.9)) is None


def test_a_loss_that_was_asked_for_and_missed_is_said() -> None:
    _, summary = run_of({"spectral": (0.9, 0.98, 1)})
    assert depth_line(summary) == "step 10,000: loss 10^-20.0, accuracy 1.0000"
    assert missed_line(summary, None) is None and missed_line(summary, -19) is None
    assert str(missed_line(summary, -100)).startswith("the loss asked for, 10^-100, was not reached (stop_log10_loss)")


def test_a_network_is_told_by_its_proven_kkt_ratios() -> None:
    trajectory, summary = run_of({"l2": (0.8, 0.8, UNKNOWN), "spectral": (0.9, 0.98, UNKNOWN)})
    network = summary.assign(soft_margin=1.0, kkt_ratio=[0.6, 0.98])
    assert answer_sentence("muon", trajectory, network) == (
        "muon reached a KKT ratio of 0.980 under spectral, its own norm: close to a KKT direction of the spectral margin problem"
    )


def test_a_network_whose_optimum_is_known_is_held_against_it() -> None:
    trajectory, summary = run_of({"l2": (0.8, 0.8, UNKNOWN), "spectral": (0.9, 0.98, 1)})
    found = answer_sentence("muon", trajectory, summary.assign(soft_margin=1.0, kkt_ratio=[0.6, 0.98]))
    assert found is not None
    assert ", its own norm, and 98.0 % of the largest spectral margin of any such network: close to" in found
