"""Fewer records of long runs."""

import numpy as np
import pandas as pd
import pytest

from implicit_bias.analysis.records import few_records


def runs(*lengths: int) -> pd.DataFrame:
    parts = [pd.DataFrame({"seed": seed, "step": [0, *range(1, length + 1)]}) for seed, length in enumerate(lengths)]
    return pd.concat(parts, ignore_index=True).assign(value=lambda rows: rows["step"] * 2.0)


@pytest.mark.parametrize("a_decade", [1, 3, 10])
def test_ends_and_powers_of_ten_stay_and_so_many_a_decade(a_decade: int) -> None:
    table = runs(1234, 1234)
    few = few_records(table, a_decade)
    for _, run in few.groupby("seed"):
        steps = run["step"].to_numpy()
        assert {0, 1, 10, 100, 1000, 1234} <= set(steps)
        assert ((steps >= 100) & (steps < 1000)).sum() == a_decade
    pd.testing.assert_frame_equal(few, table[table["step"].isin(few["step"])].reset_index(drop=True))


def test_each_run_keeps_its_ends_also_where_rows_have_no_step() -> None:
    table = pd.concat([runs(77, 200), pd.DataFrame({"seed": [9], "step": [np.nan], "value": [1.0]}), runs(31)], ignore_index=True)
    few = few_records(table, 1)
    assert [[float(step) for step in part] for part in np.split(few["step"], [4, 9, 10])] == [
        [0, 1, 10, 77], [0, 1, 10, 100, 200], [pytest.approx(np.nan, nan_ok=True)], [0, 1, 10, 31],
    ]  # fmt: skip


def test_runs_that_are_recorded_at_other_steps_are_kept_as_far_as_others() -> None:
    steps = (range(100, 1000), range(100, 1000, 7), range(103, 1000, 11))
    table = pd.concat([pd.DataFrame({"seed": i, "norm": "l2", "step": of}) for i, of in enumerate(steps)], ignore_index=True)
    counts = few_records(table, 5).groupby("seed").size()
    assert counts.tolist() == [6, 6, 6]


def test_rows_of_one_record_stay_together() -> None:
    rows = [(seed, step, norm) for seed in (1, 2) for step in range(1, 100) for norm in ("l2", "linf")]
    few = few_records(pd.DataFrame(rows, columns=["seed", "step", "norm"]), 4)
    assert few.groupby(["seed", "step"]).size().eq(2).all() and len(few) < 40


def test_all_records_stay_where_there_are_no_more() -> None:
    table = pd.DataFrame({"seed": 1, "step": [1, 10, 100], "value": 0.0})
    pd.testing.assert_frame_equal(few_records(table, 1), table)
    without = table.assign(step=np.nan)
    pd.testing.assert_frame_equal(few_records(without, 1), without)
