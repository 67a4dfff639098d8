"""What an identification says of one run, and what it leaves open where optima ran out of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from implicit_bias.analysis.fingerprints import VERDICT_COLUMNS
from implicit_bias.measures.exponents import FAMILIES, NEAR
from implicit_bias.solvers.reference import PROVEN


@dataclass(frozen=True)
class Unfinished:
    """One run and family some of whose optima are known less closely than they are solved to.

    Attributes:
        run, family: Whose.
        open: How many exponents.
        exponents: Of how many.
        lower, upper: What the largest kappa is proven to lie between.
    """

    run: str
    family: str
    open: int
    exponents: int
    lower: float
    upper: float

    @property
    def undecided(self) -> bool:
        """Whether an exponent may fit though none is proven to."""
        return self.lower < NEAR <= self.upper

    def line(self, remedy: str) -> str:
        """It in words, with what gives the solvers more time."""
        return (
            f"{self.open} of {self.exponents} {self.family} optima ran out of time: the largest kappa lies in"
            f" [{self.lower:.3f}, {self.upper:.3f}], and the exponent's interval is the wider for it ({remedy} allows more)"
        )


@dataclass(frozen=True)
class Exponents:
    """The exponents of one run.

    Attributes:
        verdicts: A row a family, with the columns of ``verdicts.csv``; none where exponents were not looked for.
        possible: The families that the optimizer's symmetries allow.
        loose: The families some of whose optima ran out of time.
        left_out: The families for which there was no time.
    """

    verdicts: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(VERDICT_COLUMNS)))
    possible: Sequence[str] = FAMILIES
    loose: Sequence[Unfinished] = ()
    left_out: Sequence[str] = ()

    def notes(self, remedy: str) -> list[str]:
        """What is left open, a line each, with what gives the solvers more time."""
        lines = [one.line(remedy) for one in self.loose]
        if self.left_out:
            lines.append(f"exponents of {' and '.join(self.left_out)} were left out, for want of time ({remedy} allows more)")
        return lines


def unfinished(curves: pd.DataFrame) -> list[Unfinished]:
    """The runs and families of which that is so, at their last record.

    Args:
        curves: With the columns of ``identify.csv``. Networks, whose kappa is proven from below alone, have no optima.
    """
    found: list[Unfinished] = []
    if curves.empty:
        return found
    for (run, _, family), rows in curves.groupby(["run", "seed", "family"], dropna=False, sort=False):
        last = rows.drop_duplicates("p", keep="last")
        loose = last["kappa_lower"] < (1 - 2 * PROVEN) * last["kappa_upper"]
        if loose.any():
            lower, upper = float(last["kappa_lower"].max()), float(last["kappa_upper"].max())
            found.append(Unfinished(str(run), str(family), int(loose.sum()), len(last), lower, upper))
    return found
