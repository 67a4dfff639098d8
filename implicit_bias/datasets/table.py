"""Tables of samples in .csv files: read completely, or refused with the line, the column and the reason."""

import csv
import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.core.words import suggestion
from implicit_bias.datasets.base import FULL_PRECISION, unreadable
from implicit_bias.datasets.classes import MISSING, is_number
from implicit_bias.datasets.words import listing, quoted, usual_label

#: What separates columns elsewhere, and what it is called.
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}

_WITHOUT_INDEX = "leave it out (pandas: index=False, R: row.names=FALSE)"
_UNNAMED = re.compile(r"unnamed: \d+(\.\d+)?(_level_\d+)?", re.IGNORECASE)
# Only such texts are numbers that are not 0 and may be 0 in double precision.
_TINY = re.compile(r"[eE]-0*[1-9]\d\d")


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it is: its features' names, ``x`` (n, d), finite, ``labels`` (n,), stripped text, and warnings."""

    columns: list[str]
    x: NDArray[np.float64]
    labels: NDArray[np.str_]
    cautions: list[str]


def read_csv(path: Path, label: str, origin: str) -> Table:
    """The table in a .csv file with a header: comma-separated, UTF-8.

    Args:
        label: The column that holds the labels.
        origin: What a message begins with, such as ``dataset.path=my.csv``.

    Raises:
        BadInput: It cannot be read, is no UTF-8 or separated otherwise, its first line will not do or is data, it has no column
            ``label``, a row has more or fewer cells than the header, or a feature is missing or no number of double precision
            (with line and column).
    """
    features, labels, written = array("d"), list[str](), set[str]()
    try:
        _check_text(path, origin)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            _check_header(header, label, path, origin)
            place = header.index(label)
            columns = header[:place] + header[place + 1 :]
            for cells in filter(None, reader):  # a blank line is no row
                where = f"{origin}: line {reader.line_num}"
                if len(cells) != len(header):
                    raise _wrong_length(cells, header, where, first=not labels)
                text = cells.pop(place)
                if "\n" in text or "\r" in text:
                    raise BadInput(f"{where}: the label goes over several lines (a quotation mark too many?)")
                written.add(text)
                labels.append(text.strip())
                features.extend(_numbers(cells, columns, where))
    except BadInput:
        raise
    except UnicodeDecodeError:
        raise _no_utf8(path, origin) from None
    except (OSError, ValueError, csv.Error) as error:
        raise unreadable(origin, error) from error
    stripped = set(labels)
    cautions = [*_about_names(header, label, stripped, origin), *_about_blanks(written, stripped, origin)]
    return Table(columns, np.array(features).reshape(len(labels), len(columns)), np.array(labels, dtype=str), cautions)


def _check_text(path: Path, origin: str) -> None:
    """Raise BadInput for what begins as UTF-16, UTF-32 or no text at all."""
    with path.open("rb") as file:
        beginning = file.read(4096)
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in beginning:
        raise BadInput(f"{origin}: UTF-16, or no text; must be UTF-8 text")


def _no_utf8(path: Path, origin: str) -> BadInput:
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        return BadInput(f"{origin}: line {line}: the byte 0x{byte:02x} is no UTF-8 (Latin-1?); must be UTF-8 text")
    return BadInput(f"{origin}: no UTF-8; must be UTF-8 text")


def _check_header(header: Sequence[str], label: str, path: Path, origin: str) -> None:
    """Raise BadInput where the first line does not name every column, each by a name of its own, and the label's among them."""
    if not header:
        raise BadInput(f"{origin}: empty; its first line must name the columns")
    if label not in header:
        hint = _other_form(header, label) or suggestion(label, header) or usual_label(header)
        raise BadInput(f"dataset.label={label}: no such column in {path}; it has {listing(header)}{hint}")
    for number, name in enumerate(header, start=1):
        if not name:
            comma = ", or a comma at the end of the line" if number == len(header) else ""
            raise BadInput(f"{origin}: column {number} has no name (a row index{comma}?); name it, or {_WITHOUT_INDEX}")
        if _UNNAMED.fullmatch(name):
            raise BadInput(f"{origin}: column {number} is called {name!r}, which is a row index; {_WITHOUT_INDEX}, or rename it")
        if name in header[: number - 1]:
            data = "; is line 1 data? It must name the columns" if is_number(name) else ""
            raise BadInput(f"{origin}: two columns are called {quoted(name)}{data}")


def _other_form(header: Sequence[str], label: str) -> str:
    """What else the first line may be, where the label's column is not in it."""
    for separator, name in SEPARATORS.items():
        parts = [part.strip(" \"'") for part in ",".join(header).split(separator)]
        if label in parts or (len(parts) > 1 and len(header) == 1):
            return f"; its columns are separated by {name}, must be by commas (and decimals have points)"
    if header[0].startswith("#"):
        return "; its first line is a comment, must name the columns"
    if any(map(is_number, header)) and not _counting(header):
        return "; its first line holds data, but must name the columns"
    if len(header) == 1 and label in header[0].split():
        return "; its columns are separated by blanks, must be by commas"
    return ""


def _counting(names: Sequence[str]) -> bool:
    """Whether names are 0, 1, 2 and so on, as pandas names columns, or begin at another integer."""
    if not all(name.isdecimal() and name.isascii() for name in names):
        return False
    return [int(name) for name in names] == list(range(int(names[0]), int(names[0]) + len(names)))


def _about_names(header: Sequence[str], label: str, labels: set[str], origin: str) -> list[str]:
    """A warning where the names of all features are numbers: they may be the first sample.

    Raises:
        BadInput: They are the first sample, since the name of the label's column is one of the labels.
    """
    features = [name for name in header if name != label]
    if not any(map(is_number, features)) or not all(is_number(name) or name.lower() in MISSING for name in features):
        return []
    if label in labels and not _counting(header):
        raise BadInput(f"{origin}: line 1 is data ({listing(header, 5)}); must name the columns")
    if label not in labels and _counting(features):
        return []
    return [f"{origin}: the columns are called {listing(header, 5)}; if line 1 is data, a line that names the columns is missing"]


def _about_blanks(written: set[str], stripped: set[str], origin: str) -> list[str]:
    """A warning where labels were written with and without blanks around them."""
    if len(written) == len(stripped):
        return []
    example = min(text for text in written if text != text.strip() and sum(text.strip() == t.strip() for t in written) > 1)
    return [f"{origin}: labels differ in blanks around them only, such as {quoted(example)}; they are one class"]


def _wrong_length(cells: Sequence[str], header: Sequence[str], where: str, *, first: bool) -> BadInput:
    reason = ""
    if cells[0].startswith("#"):
        reason = " (a comment?)"
    elif len(cells) > len(header) and not cells[-1].strip():
        reason = " (a comma at the end?)"
    elif first and len(cells) == len(header) + 1:
        reason = " (row names, as R writes them without a name in the header, or a decimal comma?)"
    elif len(cells) > len(header):
        reason = " (a comma within a number?)"
    return BadInput(f"{where} has {len(cells)} cells; the header has {len(header)}{reason}")


def _numbers(cells: Sequence[str], columns: Sequence[str], where: str) -> Sequence[float]:
    """The features of one row. Raises BadInput, with the column, for one that is no number of double precision."""
    try:
        values = list(map(float, cells))
    except ValueError:
        values = []
    row = "".join(cells)
    # Python's float also takes underscores, digits of all scripts, and numbers beyond its range; a sum is finite only if all are.
    if not values or "_" in row or not row.isascii() or not math.isfinite(sum(values)) or _TINY.search(row):
        pairs = zip(cells, columns, strict=True)
        return [_number(cell, f"{where}, column {quoted(name)}") for cell, name in pairs]
    return values


def _number(cell: str, where: str) -> float:
    """A feature. Raises BadInput that begins with ``where``: it is missing, no number, or none of full double precision."""
    text = cell.strip()
    if not text:
        raise BadInput(f"{where}: no value")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    else:
        if not math.isfinite(value) and not any(character.isdigit() for character in text):
            raise BadInput(f"{where}: {value}; must be finite")
    if math.isinf(value):
        raise BadInput(f"{where}: {quoted(text)} is beyond double precision; must be finite")
    if math.isnan(value) or not is_number(text):
        raise BadInput(f"{where}: {quoted(text)} is not a number{_why_none(text)}")
    if abs(value) < FULL_PRECISION and re.search(r"[1-9]", re.split("[eE]", text)[0]):
        raise BadInput(f"{where}: {quoted(text)} is too small for double precision; must be 0 or >= {FULL_PRECISION:.3g} in size")
    return value


def _why_none(text: str) -> str:
    if text.lower() in MISSING:
        return " (a missing value)"
    if "," in text:
        return " (decimals have points, and thousands no commas)"
    if "_" in text:
        return " (an underscore is no part of one)"
    return "" if text.isascii() else " (its characters must be ASCII)"
