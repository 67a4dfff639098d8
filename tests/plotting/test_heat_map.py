"""Heat maps: what is written in cells, and how."""

import numpy as np
from matplotlib.colors import Normalize, to_hex
from matplotlib.patches import Rectangle

from implicit_bias.plotting.heat_map import FRAME, colour_bar, heat_map, three_decimals
from implicit_bias.plotting.style import panels


def test_the_best_of_a_column_is_bold_numbers_on_dark_cells_are_white_and_an_empty_cell_is_empty() -> None:
    figure, axes = panels(1, 1, height=2)
    axis = axes[0, 0]
    mean = np.array([[0.99, np.nan], [0.4, -0.2], [0.5, 0.3]])
    spread = np.array([[0.01, np.nan], [0.02, 0.1], [0.03, 0.2]])
    image = heat_map(axis, mean, spread, Normalize(0.2, 1), {(0, 0): FRAME}, rows=["a", "b", "c"], columns=["x", "y"])
    colour_bar(figure, image, axis, "ratio")
    words = {
        (round(float(t.get_position()[0])), round(float(t.get_position()[1]))): t for t in axis.texts if "±" not in t.get_text()
    }
    assert {place: text.get_text() for place, text in words.items()} == {
        (0, 0): "0.990", (1, 0): "", (0, 1): "0.400", (1, 1): "\N{MINUS SIGN}0.200", (0, 2): "0.500", (1, 2): "0.300",
    }  # fmt: skip
    assert {place for place, text in words.items() if text.get_weight() == "bold"} == {(0, 0), (1, 2)}
    assert {place for place, text in words.items() if text.get_color() == "white"} == {(0, 0)}
    assert sum("±" in text.get_text() for text in axis.texts) == 5
    (frame,) = (patch for patch in axis.patches if isinstance(patch, Rectangle))
    assert to_hex(frame.get_edgecolor()).upper() == FRAME
    x, y = frame.get_xy()
    assert -0.5 < x < 0 < x + frame.get_width() < 0.5 and -0.5 < y < 0 < y + frame.get_height() < 0.5
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["x", "y"]


def test_a_column_without_a_number_and_numbers_in_other_words() -> None:
    _, axes = panels(1, 1, height=2)
    mean = np.array([[np.nan, 2.0], [np.nan, 1.0]])
    heat_map(axes[0, 0], mean, mean, Normalize(0, 1), {}, told=lambda value: f"<{value:g}>")
    assert {text.get_text() for text in axes[0, 0].texts} >= {"<2>", "<1>", "±<2>"}
    assert three_decimals(float("nan")) == "" and three_decimals(-0.5) == "\N{MINUS SIGN}0.500"
