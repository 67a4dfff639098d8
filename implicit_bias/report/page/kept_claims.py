"""claims.csv: every claim that was judged, also those of figures that were not asked for this time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from implicit_bias.figures import Claim

#: How a verdict is written; nothing stands for a claim that cannot be tested here.
WRITTEN: dict[str, bool | None] = {"True": True, "False": False, "": None}


def read_claims(path: Path) -> list[Claim]:
    """The claims of a claims.csv; none where there is no such file, or one of another layout.

    Columns with a default that an older file does not have are taken to be empty.
    """
    import pandas as pd

    from implicit_bias.figures.claims import CLAIM_COLUMNS, KINDS, Claim

    if not path.exists():
        return []
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    optional = {name for name, field in Claim.__dataclass_fields__.items() if field.default == ""} - {"kind"}
    known = set(rows.columns)
    if not set(CLAIM_COLUMNS) - optional <= known <= set(CLAIM_COLUMNS):
        return []
    if not set(rows["holds"]) <= set(WRITTEN) or not set(rows["kind"]) <= set(KINDS):
        return []
    return [Claim(**{**{str(k): v for k, v in row.items()}, "holds": WRITTEN[row["holds"]]}) for row in rows.to_dict("records")]


def merged(kept: Sequence[Claim], fresh: Sequence[Claim], made: Collection[str], order: Sequence[str]) -> list[Claim]:
    """The claims of all figures in ``order``: the fresh ones of the figures that were ``made``, of the others what is kept."""
    place = {name: i for i, name in enumerate(order)}
    claims = [*(claim for claim in kept if claim.figure not in made), *fresh]
    return sorted((c for c in claims if c.figure in place), key=lambda claim: place[claim.figure])
