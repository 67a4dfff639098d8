"""Perturbations of a figure's table under which its claims turn, and where the search for them ended.

``python -m tests.support.turning`` searches anew and writes turning.yaml: by figure the perturbations that turn its claims. A
figure that is not there, or whose claims have changed, is searched when it is tested, which takes seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from implicit_bias.figures import Claim, Figure

#: What tells rows apart; the other columns are what was measured.
KEYS = {"seed", "norm", "own", "level", "part", "network", "variant", "example", "run", "method", "optimizer", "gradient"}
KEYS |= {"eps", "power", "alpha", "weight_decay", "step", "x", "lr", "label", "batch", "window"}
#: What a perturbation may single out, the finer first.
GROUPS = (
    "norm",
    "part",
    "network",
    "variant",
    "method",
    "optimizer",
    "gradient",
    "example",
    "power",
    "alpha",
    "eps",
    "weight_decay",
    "seed",
)
FACTORS = (0.0, 1.06, 1.4, 0.5, -1.0, 100.0, 0.97, -10.0, np.nan)
KNOWN = Path(__file__).with_suffix(".yaml")


class Perturbation(NamedTuple):
    """A way to change a table: in words, and the table that it makes."""

    name: str
    made: Callable[[], pd.DataFrame]


class Rows(NamedTuple):
    """Rows of a table: in words, and which they are."""

    name: str
    mask: pd.Series


def measured_columns(table: pd.DataFrame) -> list[str]:
    """The columns of what was measured."""
    return [column for column in table.columns if column not in KEYS and table[column].dtype.kind in "if"]


def perturbations(table: pd.DataFrame, columns: Callable[[], list[str]]) -> Iterator[Perturbation]:
    """The table with some of what was measured scaled, negated, lost, given to others, sorted, moved in time or shuffled.

    First what touches much, then single methods, norms, seeds ..., then pairs of them.

    Args:
        table: What was measured.
        columns: Which of its columns are worth a try, as far as is known by then.
    """
    groups = [key for key in GROUPS if key in table.columns and table[key].nunique() > 1]
    yield from scaled(table, [Rows("", pd.Series(True, index=table.index))], columns)
    for key in groups:
        names = list(table[key].unique())
        for shift in range(1, min(len(names), 4)):
            others = table[key].map(dict(zip(names, np.roll(names, shift), strict=True)))
            yield Perturbation(f"{key} rolled by {shift}", partial(replaced, table, key, others))
    yield from moved(table, columns)
    yield from scaled(table, list(single(table, groups)), columns)
    yield from scaled(table, list(pairs(table, groups)), columns)


def replaced(table: pd.DataFrame, column: str, values: Any) -> pd.DataFrame:
    """The table with other values in one column."""
    return table.assign(**{column: values})


def times(table: pd.DataFrame, column: str, factor: float, rows: pd.Series) -> pd.DataFrame:
    """The table with some values of one column times a factor."""
    return replaced(table, column, table[column].astype(float).where(~rows, table[column] * factor))


def scaled(table: pd.DataFrame, parts: Sequence[Rows], columns: Callable[[], list[str]]) -> Iterator[Perturbation]:
    """One column of some rows times a factor."""
    for factor in FACTORS:
        for name, rows in parts:
            for column in columns():
                yield Perturbation(f"{column} * {factor:g}{name}", partial(times, table, column, factor, rows))


def moved(table: pd.DataFrame, columns: Callable[[], list[str]]) -> Iterator[Perturbation]:
    """Values moved along their curves, or to any other row."""
    identity = [key for key in table.columns if key in KEYS - {"step", "x", "level"}]
    ways: dict[str, Callable[[Any, pd.Series], Any]] = {
        "largest so far": lambda curves, _: curves.cummax(),
        "backwards": lambda curves, _: curves.transform(lambda values: values.to_numpy()[::-1]),
        "ten later": lambda curves, values: curves.shift(10).fillna(values),
        "shuffled": lambda _, values: np.random.default_rng(1).permutation(values.to_numpy()),
    }

    def along(column: str, way: str) -> pd.DataFrame:
        return replaced(table, column, ways[way](table.groupby(identity, dropna=False)[column], table[column]))

    for column in columns():
        for way in ways:
            yield Perturbation(f"{column} {way}", partial(along, column, way))
    for place in (place for place in ("step", "x") if place in table.columns):
        yield Perturbation(f"{place} * 2", partial(replaced, table, place, table[place] * 2))
        late = table[place] > table[place].median()
        for column in columns():
            for factor in (0.5, 2.0):
                yield Perturbation(f"{column} * {factor:g} at late {place}", partial(times, table, column, factor, late))


def single(table: pd.DataFrame, groups: Sequence[str]) -> Iterator[Rows]:
    """The rows of one name, and all but those, of every key."""
    for key in groups:
        for value in table[key].unique():
            yield Rows(f" where {key} is {value}", table[key] == value)
            yield Rows(f" where {key} is not {value}", table[key] != value)


def pairs(table: pd.DataFrame, groups: Sequence[str]) -> Iterator[Rows]:
    """The rows of one name of each of two keys."""
    for i, first in enumerate(groups):
        for second in groups[i + 1 :]:
            for (one, other), rows in table.groupby([first, second]):
                yield Rows(f" where {first} is {one} and {second} is {other}", table.index.to_series().isin(rows.index))


def judged_again(figure: Figure, table: pd.DataFrame) -> list[Claim]:
    """The claims on a perturbed table; none where it is not a table that runs could have given."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return figure.claims(table, "default")
        except (ValueError, KeyError, IndexError, ArithmeticError, np.linalg.LinAlgError):
            return []


class Turning:
    """The claims of a figure that have not turned yet.

    Attributes:
        waiting: What they say.
        by: The perturbations that have turned others.
    """

    def __init__(self, figure: Figure, table: pd.DataFrame, claims: Sequence[Claim]) -> None:
        self._figure, self._table = figure, table
        self._before = {claim.claim: claim for claim in claims if claim.holds is not None}
        self.waiting = set(self._before)
        self.by: list[str] = []

    def try_known(self) -> None:
        """Perturb the table as the file says."""
        names = set(known().get(self._figure.name, ()))
        for perturbation in perturbations(self._table, lambda: measured_columns(self._table)):
            if not (names and self.waiting):
                return
            if perturbation.name in names:
                names.remove(perturbation.name)
                self._try(perturbation)

    def search(self) -> None:
        """Perturb the table in every way until all have turned."""
        if not self.waiting:
            return
        read = {column: self._changed(column) for column in measured_columns(self._table)}
        of_any = set(self._before).difference(*read.values())

        def worth_a_try() -> list[str]:
            """Not columns that are only drawn, or of claims that have turned."""
            return [column for column, claims in read.items() if claims and (claims | of_any) & self.waiting]

        for perturbation in perturbations(self._table, worth_a_try):
            if not self.waiting:
                return
            self._try(perturbation)

    def _try(self, perturbation: Perturbation) -> None:
        after = {claim.claim: claim for claim in judged_again(self._figure, perturbation.made())}
        turned = {text for text in self.waiting if text in after and after[text].holds != self._before[text].holds}
        if turned:
            self.waiting -= turned
            self.by.append(perturbation.name)

    def _changed(self, column: str) -> set[str]:
        """The claims that say something else when a column is scaled unevenly, or its values are given to other rows."""
        uneven = self._table[column] * np.linspace(0.3, 2, len(self._table))
        others = np.random.default_rng(2).permutation(self._table[column].to_numpy())
        found: set[str] = set()
        for values in (uneven, others):
            after = {claim.claim: claim for claim in judged_again(self._figure, replaced(self._table, column, values))}
            found |= {text for text, claim in self._before.items() if after.get(text) != claim}
        return found


def known() -> dict[str, list[str]]:
    """Where the last search ended, by figure."""
    found: dict[str, list[str]] = yaml.safe_load(KNOWN.read_text(encoding="utf-8")) if KNOWN.exists() else {}
    return found


def main() -> None:
    """Search anew for every figure, and write the file."""
    from implicit_bias.figures import FIGURES
    from implicit_bias.storage.files import read_table

    results = Path(__file__).resolve().parents[2] / "results" / "figures"
    found = {}
    for name in FIGURES.names():
        figure, table = FIGURES.get(name)(), read_table(results / f"{name}.csv")
        turning = Turning(figure, table, figure.claims(table, "default"))
        turning.search()
        found[name] = turning.by
    head = "# What turns the claims of each figure, as python -m tests.support.turning has found it.\n"
    KNOWN.write_text(head + yaml.safe_dump(found, width=1000), encoding="utf-8")


if __name__ == "__main__":
    main()
