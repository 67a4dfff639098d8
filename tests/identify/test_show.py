"""The table of verdicts in a narrow terminal."""

import io

import numpy as np
import pandas as pd
from rich.console import Console

from implicit_bias.analysis.fingerprints import CURVE_COLUMNS, VERDICT_COLUMNS, Identified
from implicit_bias.identify.show import verdict_table


def test_a_long_name_wraps_and_no_number_is_cut() -> None:
    name = "torch target pytorch_optimizer.SomethingLong, lr 0.3, power 0.5"
    row = (name, "torch", 3, "schatten", 2.33, 1.12, 5.11, 0.9127, np.nan, "nearest so far")
    found = Identified(pd.DataFrame(columns=list(CURVE_COLUMNS)), pd.DataFrame([row], columns=list(VERDICT_COLUMNS)))
    console = Console(file=io.StringIO(), width=90)
    console.print(verdict_table(found, [name]))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, printed.splitlines())) <= 90
    for whole in ("schatten", "2.33", "[1.12, 5.11]", "0.9127", "nearest so far"):
        assert whole in printed
    assert "…" not in printed
