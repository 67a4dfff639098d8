"""Claims about a figure, and their verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import pandas as pd

#: The reason of a claim that does not hold, where none has been found.
UNKNOWN = "not known"


#: Whose number a claim is held against: a paper's figure, table or statement; a theorem of a paper; somebody else's
#: reproduction of a paper; a derivation of this project; a check of this project, with its own numbers or with none.
Kind = Literal["paper", "theorem", "reproduction", "derived", "check"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: What is published by others, and what is this project's own; reproductions are neither.
PUBLISHED_KINDS: tuple[Kind, ...] = ("paper", "theorem")
OWN_KINDS: tuple[Kind, ...] = ("derived", "check")


@dataclass(frozen=True)
class Claim:
    """A statement about a figure, judged.

    Attributes:
        figure, preset: Where it was judged.
        claim: The statement, one sentence.
        expected: The number or the law that the source gives; empty if it gives none.
        measured: What came out.
        tolerance: How far the two may differ, or the bound that was asked for.
        holds: The verdict; None for a claim that cannot be tested here.
        source: Paper with equation or figure, or where else `expected` is from.
        setting: On which data, model and how many seeds and steps it was measured, in a few words.
        reason: Why it cannot be tested here, or what is known of why it does not hold.
        kind: Whose number `expected` is, one of KINDS.

    Raises:
        ValueError: the kind is not one of them.
    """

    figure: str
    claim: str
    expected: str
    measured: str
    tolerance: str
    holds: bool | None
    preset: str
    source: str
    setting: str = ""
    reason: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"figure {self.figure}: the claim {self.claim!r} has the kind {self.kind!r}; whose number it is held against"
                f" must be one of {', '.join(KINDS)} (kind= of the claim, which a claim with a source= of its own has to give, or"
                " the figure's attribute kind)"
            )


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


@dataclass(frozen=True)
class Counts:
    """How many claims hold, do not, and cannot be tested here."""

    holds: int
    fails: int
    untested: int

    @property
    def all(self) -> int:
        """The number of claims."""
        return self.holds + self.fails + self.untested

    @property
    def tested(self) -> int:
        """The number of claims with a verdict."""
        return self.holds + self.fails


#: What claims are counted as where there is room for few words.
COUNTED_AS: dict[str, tuple[Kind, ...]] = {
    "published claims": PUBLISHED_KINDS,
    "reproductions by others": ("reproduction",),
    "own checks": OWN_KINDS,
}


def counted(claims: Iterable[Claim], kinds: Sequence[str] = KINDS) -> Counts:
    """How many of the claims of some kinds hold, do not, and cannot be tested."""
    verdicts = [claim.holds for claim in claims if claim.kind in kinds]
    return Counts(verdicts.count(True), verdicts.count(False), verdicts.count(None))


def counts_by_kind(claims: Sequence[Claim]) -> dict[str, Counts]:
    """The counts of published claims, of others' reproductions and of own checks; of those that there are."""
    counts = {words: counted(claims, kinds) for words, kinds in COUNTED_AS.items()}
    return {words: count for words, count in counts.items() if count.all}


def verdict_line(claims: Sequence[Claim]) -> str:
    """One line: ``115 of 129 published claims hold here; 49 of 52 own checks; 12 more cannot be tested here``."""
    parts = [f"{count.holds} of {count.tested} {words}" for words, count in counts_by_kind(claims).items() if count.tested]
    if parts:
        parts[0] += " hold here"
    untested = counted(claims).untested
    return "; ".join([*parts, f"{untested} more cannot be tested here"] if untested else parts)


CLAIM_COLUMNS = list(Claim.__dataclass_fields__)


def claims_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """Claims as the rows of claims.csv."""
    return pd.DataFrame([asdict(claim) for claim in claims], columns=CLAIM_COLUMNS)
