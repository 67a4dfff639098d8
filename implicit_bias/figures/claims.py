"""Claims about a figure, and their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

#: The reason of a claim that does not hold, where none has been found.
UNKNOWN = "not known"


@dataclass(frozen=True)
class Claim:
    """A statement about a figure, judged.

    Attributes:
        figure, preset: Where it was judged.
        claim: The statement, one sentence.
        paper: The number or the law that the source gives; empty if it gives none.
        measured: What came out.
        tolerance: How far the two may differ, or the bound that was asked for.
        holds: The verdict; None for a claim that cannot be tested here.
        source: Paper with equation or figure, or whose measurement `paper` is.
        setting: On which data, model and how many seeds and steps it was measured, in a few words.
        reason: Why it cannot be tested here, or what is known of why it does not hold.
    """

    figure: str
    claim: str
    paper: str
    measured: str
    tolerance: str
    holds: bool | None
    preset: str
    source: str
    setting: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Finding:
    """What a reader of the paper would not expect: a printed setting that does not give its figure, say.

    Attributes:
        title: One line.
        text: What was found, one paragraph.
        evidence: The numbers, from the figure's table.
    """

    title: str
    text: str
    evidence: str


CLAIM_COLUMNS = list(Claim.__dataclass_fields__)


def claims_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """Claims as the rows of claims.csv."""
    return pd.DataFrame([asdict(claim) for claim in claims], columns=CLAIM_COLUMNS)
