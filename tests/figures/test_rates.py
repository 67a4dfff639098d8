"""The table of ``rates`` at the paper's size."""

import numpy as np
import pandas as pd

from implicit_bias.figures.fan.rates import fitted_slopes, thinned


def test_a_thinned_table_has_the_same_slopes_from_the_same_window() -> None:
    steps = np.unique(np.geomspace(1, 10**6, 61).round())
    gaps = steps**-0.5 * (1 + 0.3 * np.cos(steps))
    whole = pd.concat(
        [
            pd.DataFrame({"optimizer": "ngd", "power": 0.5, "seed": seed, "step": steps, "relative_gap": seed * gaps})
            for seed in (1, 2)
        ]
    )
    table = thinned(whole)
    assert len(whole) / 2 <= len(table) <= 0.6 * len(whole)
    assert {1.0, steps[-1]} <= set(table["step"])
    pd.testing.assert_frame_equal(fitted_slopes(table), fitted_slopes(whole))
