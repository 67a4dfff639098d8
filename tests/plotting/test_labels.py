"""Names at the ends of lines."""

import numpy as np
import pytest

from implicit_bias.plotting.labels import End, end_labels, spread
from implicit_bias.plotting.style import panels


def test_heights_keep_their_order_and_a_gap_and_move_no_further_than_they_must() -> None:
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert spread([0.9, 0.52, 0.5], 0.1) == pytest.approx([0.9, 0.56, 0.46])
    crowd = np.random.default_rng(1).random(20)
    placed = np.array(spread(list(crowd), 0.1))
    order = np.argsort(crowd)
    assert (np.diff(placed[order]) >= 0.1 - 1e-9).all()
    assert placed.mean() == pytest.approx(crowd.mean(), abs=0.05)


def test_a_line_that_ends_nowhere_has_no_name() -> None:
    _, axes = panels(1, 1, height=2)
    axes[0, 0].set_ylim(0, 1)
    end_labels(axes[0, 0], [End(1, 0.2, "here", "red"), End(1, float("nan"), "nowhere", "blue")])
    assert [text.get_text() for text in axes[0, 0].texts] == ["here"]
    end_labels(axes[0, 0], [])
