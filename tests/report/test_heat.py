"""The heat map on top of the report: its cells say what the figure's table says, and lead to what computes them."""

from __future__ import annotations

import shlex

import pytest

from implicit_bias.figures.fan.which_margin import FURTHER, NORMS, OWN, WhichMargin
from implicit_bias.plotting.matrix import Matrix
from implicit_bias.report.page.heat import Curve, heat
from implicit_bias.storage.files import read_table
from tests.report.test_report import RESULTS

MATRIX = Matrix(
    rows={"A": "type a", "B $\\ell_2$": "type b"},
    columns=("$\\ell_2$", "spectral"),
    values={(0, 0): (0.9, 0.7), (0, 1): (-0.5,), (1, 0): (1.0,)},
    framed=frozenset({(1, 0)}),
    lowest=0.5,
    quantity="share",
    about="about",
    rule=1,
)


def test_cells_say_mean_spread_and_range_and_where_their_curve_is() -> None:
    norm = {"label": "norm", "names": ["spectral", "\N{SCRIPT SMALL L}₂"]}
    curves = [{"label": "A", "at": [1]}, {"label": "A", "at": [0]}]
    drawn = [
        ("other", {"choose": [norm, norm], "curves": [{"label": "A", "at": [1, 1]}]}),  # more is chosen than the norm
        ("first", {"choose": [norm], "curves": curves[:1]}),
        ("second", {"choose": [norm], "curves": curves}),
    ]
    made = heat(MATRIX, drawn)
    first, second = made.rows
    assert (first.name, first.command, first.apart, second.apart) == ("A", "type a", False, True)
    cell, negative = first.cells
    assert cell and negative and second.cells[0] and second.cells[1] is None
    assert cell.told == "A under \N{SCRIPT SMALL L}₂: 0.800 ± 0.141, 0.700 to 0.900 over 2 data sets"
    assert negative.told == "A under spectral: \N{MINUS SIGN}0.500"
    assert (cell.curve, negative.curve, second.cells[0].curve) == (Curve("first", "norm", 1), Curve("second", "norm", 0), None)
    assert [(c.framed, c.best) for c in (cell, negative, second.cells[0])] == [(False, False), (False, True), (True, True)]
    # Below the lower end of the scale is the colour of the end.
    assert (negative.ground, second.cells[0].ground) == (made.scale[0], made.scale[-1])
    assert negative.ink != second.cells[0].ink


def test_the_answer_is_that_of_the_table() -> None:
    figure = WhichMargin()
    table = read_table(RESULTS / "figures" / "which_margin.csv")
    matrix = figure.matrix(table, "default")
    assert len(matrix.rows) == len(OWN) + len(FURTHER) and matrix.rule == len(OWN)
    assert len(matrix.values) == len(matrix.rows) * len(NORMS) and {len(v) for v in matrix.values.values()} == {20}
    muon = table[(table["optimizer"] == "muon") & (table["norm"] == "spectral") & (table["step"] == 20_000)]
    assert list(matrix.values[list(OWN).index("muon"), NORMS.index("spectral")]) == pytest.approx(muon["ratio"].tolist())
    assert (list(OWN).index("muon"), NORMS.index("spectral")) in matrix.framed
    typed = [shlex.split(command) for command in matrix.rows.values()]
    assert all(words[:4] == ["python", "-m", "implicit_bias.run", "-m"] for words in typed)
    assert [words[4:] for words in typed] == figure.sweeps("default")
