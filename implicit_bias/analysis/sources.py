"""Run folders, sweeps and tables of others, read and checked."""

from __future__ import annotations

import glob
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit_bias.cli.paths import MOST_LETTERS, exists, no_run_folder
from implicit_bias.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from implicit_bias.analysis.comparison import Source

KINDS = {"seed": "an integer", "step": "an integer >= 0"}
#: Numbers of a table are drawn, and averaged: larger ones overflow on the way, and integers are exact up to here.
LARGEST_NUMBER, LARGEST_INTEGER = 1e150, 2**53
TRAJECTORY = "trajectory.csv"
VERSION_DIGITS = 6
WILD = "*?["


def sources_of(called: str, path: str) -> Iterator[Source]:
    """The runs that one argument names. Raises BadInput: there are none, or one is damaged."""
    if any(sign in path for sign in WILD) and not exists(path):
        matches = sorted(glob.glob(path))
        if not matches:
            raise BadInput(f"{path}: no run matches")
    else:
        matches = [path]
    for match in matches:
        yield from _found(called, Path(match))


def _found(called: str, path: Path) -> Iterator[Source]:
    if not exists(str(path)):
        raise BadInput(f"{path}: no such run; must be a run folder, a sweep's folder or a {TRAJECTORY}")
    if (path / "table.csv").is_file():
        for folder in _folders_of_sweep(path):
            yield _run_folder(called, folder)
    elif path.is_dir():
        yield _run_folder(called, path)
    elif path.name == TRAJECTORY and (path.parent / "config.yaml").is_file():
        yield _run_folder(called, path.parent)
    else:
        yield _own_table(called, path)


def _folders_of_sweep(path: Path) -> list[Path]:
    from implicit_bias.storage.files import read_table, why_no_table

    try:
        names = list(dict.fromkeys(read_table(path / "table.csv")["folder"].dropna()))
    except KeyError:
        raise BadInput(f"{path / 'table.csv'}: no table of a sweep; must have a column folder") from None
    except ValueError as error:
        raise BadInput(f"{path / 'table.csv'}: no table of a sweep, {why_no_table(error)}; must be as it was written") from None
    return [path.parent.parent / "runs" / str(name) for name in names]


def _run_folder(called: str, path: Path) -> Source:
    from implicit_bias.analysis.comparison import Source
    from implicit_bias.storage.integrity import damage
    from implicit_bias.storage.runs import read_config, read_provenance, read_run

    if not path.is_dir():
        raise BadInput(f"{path}: no such run; the sweep's runs must be in {path.parent}")
    if not (path / TRAJECTORY).is_file():
        raise no_run_folder(path)
    found = damage(path)
    if found:
        raise BadInput(f"{path}: damaged, {found}; must be as the run left it, compute it again")
    try:
        trajectory, summary = read_run(path)
        config = read_config(path)
        if not isinstance(config, dict):
            raise ValueError("config.yaml is no mapping")
        own = summary.loc[summary["own"].astype(bool), "norm"].astype(str)
        sections = [value for value in config.values() if isinstance(value, dict)]
        plain = all(isinstance(key, str) for section in (config, *sections) for key in section)
        if not (plain and isinstance(config["optimizer"]["name"], str)):
            raise ValueError("config.yaml names no optimizer")
        story = read_provenance(path)
        version, share = _version(story), _share(config, story)
        if version:  # of one name, but another program
            config = {**config, "optimizer": {**config["optimizer"], "version": version}}
    except Exception as error:  # noqa: BLE001 - files that no run wrote surface as almost anything
        reason = " ".join(str(error).split())[:MOST_LETTERS] or type(error).__name__
        raise BadInput(f"{path}: not what a run writes ({reason}); must be as the run left it, compute it again") from None
    norm = own.iloc[0] if len(own) else None
    return Source(path.name, _checked(path / TRAJECTORY, trajectory), called, config, norm, share)


def _version(provenance: Mapping[str, Any]) -> str:
    """What tells two runs whose options are not the package's own, and were edited between them: a digest, or nothing."""
    plugins = {name: file["sha256"] for name, file in dict(provenance.get("plugins") or {}).items()}
    identity = dict(provenance.get("optimizer") or {}).get("identity")
    if not plugins and identity is None:
        return ""
    return hashlib.sha256(json.dumps([plugins, identity], sort_keys=True).encode()).hexdigest()[:VERSION_DIGITS]


def _share(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> float | None:
    """The part of all samples that an update was made from; None where the run does not say how many there were."""
    if dict(config.get("batch") or {}).get("size") is None:
        return 1.0
    batches = provenance.get("mini_batches")
    return None if batches is None else int(batches["size"]) / int(batches["samples"])


def _own_table(called: str, path: Path) -> Source:
    from implicit_bias.analysis.comparison import NEEDED, Source
    from implicit_bias.storage.files import read_table, why_no_table

    try:
        table = read_table(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({why_no_table(error)})") from None
    except ValueError as error:
        columns = f"must be CSV with the columns {', '.join(NEEDED)}"
        raise BadInput(f"{path}: no table, {why_no_table(error)}; {columns}") from None
    name = called or (path.resolve().parent.name if path.name == TRAJECTORY else path.stem)
    return Source(str(path), _checked(path, table), name)


def _checked(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """A table that may be from elsewhere; what is infinite, or relative to an optimum of 0, counts as not measured.

    Raises:
        BadInput: It lacks a column, or has values that make no sense.
    """
    import numpy as np
    import pandas as pd

    from implicit_bias.analysis.comparison import NEEDED, USED

    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first columns as names of rows
        raise BadInput(f"{path}: rows have more values than there are columns; must be as many")
    missing = [column for column in NEEDED if column not in table]
    if missing:
        lacks = "" if len(missing) == len(NEEDED) else f"no column {', '.join(missing)}; "
        raise BadInput(f"{path}: {lacks}must have the columns {', '.join(NEEDED)}")
    if table.empty:
        raise BadInput(f"{path}: empty; must have a row a step and norm")
    for column in [c for c in ("seed", "step", "margin", *USED) if c in table]:
        numbers = pd.to_numeric(table[column], errors="coerce")
        if numbers.dtype.kind not in "iuf":  # complex, or truth values
            numbers = numbers.astype(str).map(lambda _: math.nan)
        whole = column in ("seed", "step")
        largest = LARGEST_INTEGER if whole else LARGEST_NUMBER
        wrong = numbers.isna() & (table[column].notna() | whole) | (whole & (numbers % 1 != 0))
        wrong |= (column == "step") & (numbers < 0)
        large = numbers.abs().gt(largest) & (np.isfinite(numbers) | whole)
        if (wrong | large).any():
            row = int((wrong | large).to_numpy().argmax())
            kind = f"{KINDS.get(column, 'a number or empty')}{f', at most {largest:g} in size' if large.any() else ''}"
            raise BadInput(f"{path}: {column}={str(table[column].iloc[row])[:MOST_LETTERS]} in row {row + 1}; must be {kind}")
        table[column] = numbers.astype("int64") if whole else numbers.astype(float).where(np.isfinite(numbers))
    if not np.isfinite(table["margin"]).any():
        raise BadInput(f"{path}: margin has no number; must have one in some row")
    table["norm"] = table["norm"].astype(str)
    if table["norm"].str.len().max() > MOST_LETTERS:
        raise BadInput(f"{path}: a norm with a name of {table['norm'].str.len().max()} letters; must have at most {MOST_LETTERS}")
    twice = table.duplicated(["seed", "step", "norm"])
    if twice.any():
        seed, step, norm = table.loc[twice, ["seed", "step", "norm"]].iloc[0]
        raise BadInput(f"{path}: seed {seed}, step {step}, norm {norm} is there twice; must be one row")
    return table
