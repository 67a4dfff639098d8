"""Labels of any kind as classes 0 to k - 1: which labels form one class, and which need a warning."""

import contextlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.datasets.words import enumerated, quoted

#: What programs write for a value that is not there, in small letters. Some of these words are names of classes, too.
MISSING = frozenset(
    ("na", "n/a", "n.a.", "#n/a", "#n/a n/a", "#na", "<na>", "null", "none", "nil", "missing", "nat", "?", "-", "--", ".", "-nan",
     "+nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan")
)  # fmt: skip
#: From this many classes on a label may be a measurement: one that has fractions, or hardly ever the same value twice.
MANY_CLASSES = 10
#: So many of them are certainly one; a model with so many classes would be as large.
MOST_RARE_CLASSES = 1000
#: Different numbers as near as this, relatively, are one number in single precision or when seven digits are written.
NEAR = 1e-6

# A number as every program reads it. Python's own int and float also take underscores and the digits of all scripts.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, eq=False)
class Classes:
    """Labels as classes.

    Attributes:
        y: The class of each sample, (n,), 0 to k - 1.
        names: The label of each class, as it was written first.
        values: The label of each class as a number; None where labels are words.
        cautions: What a user has to be warned of, a line each.
        reading: Told where labels are read in another way than versions before this one read them, which merged some.
    """

    y: NDArray[np.int64]
    names: tuple[str, ...]
    values: tuple[float, ...] | None
    cautions: tuple[str, ...]
    reading: str = ""


def classes_of(labels: NDArray[Any], origin: str) -> Classes:
    """Labels (n,) or (n, 1) of any kind as classes, in the order of their values, or of their texts where some are words.

    Text counts as numbers where all of it is decimal numbers in plain digits; then texts of one number are one class.

    Args:
        labels: Numbers, booleans, text, or bytes, which are UTF-8, or else Latin-1.
        origin: What a message begins with, such as ``dataset.path=my.csv``.

    Raises:
        BadInput: Another shape, a type without an order, a label that is missing or half a character, or labels that are too many
            to be classes.
    """
    given, foreign = _plain_values(labels, origin)
    counts = Counter(given)
    _check_text(given, counts, origin)
    _check_missing(given, counts, origin)
    value_of = _as_numbers(counts)
    numeric = value_of is not None
    meaning: Mapping[Any, Any] = {label: label for label in counts} if value_of is None else value_of
    ordered = sorted(set(meaning.values()))
    rank = {value: index for index, value in enumerate(ordered)}
    place = {label: rank[value] for label, value in meaning.items()}
    written: list[list[Any]] = [[] for _ in ordered]
    for label, index in place.items():
        written[index].append(label)
    y = np.array([place[label] for label in given], dtype=np.int64)
    names = tuple(str(texts[0]) for texts in written)
    cautions = [
        *([f"{origin}: the labels are bytes that are not UTF-8; they are read as Latin-1"] if foreign else []),
        *_about_missing_words(counts, names, origin),
        *_about_one_number(written, origin),
        *_about_number_of_classes(np.bincount(y, minlength=len(ordered)), names, ordered if numeric else [], origin),
    ]
    reading = "latin-1" if foreign else "text" if not numeric and _numbers_to_python(counts) else ""
    return Classes(y, names, tuple(map(float, ordered)) if numeric else None, tuple(cautions), reading)


def is_number(text: str) -> bool:
    """Whether ``text`` is a finite decimal number in plain digits, as every program reads it."""
    return bool(_NUMBER.fullmatch(text)) and math.isfinite(float(text))


def exact_number(text: str) -> int | float:
    """The number that ``text`` writes: an integer exactly. Raises ValueError if it writes none."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _plain_values(labels: NDArray[Any], origin: str) -> tuple[list[Any], bool]:
    """Labels as Python's own values, and whether they are bytes that are no UTF-8. Raises BadInput: shape, or type."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise BadInput(f"{origin}: the labels have shape {labels.shape}; must be one label a sample")
    if labels.dtype.kind not in "buifUS":
        raise BadInput(f"{origin}: the labels have type {labels.dtype}; must be numbers or text")
    foreign = False
    if labels.dtype.kind == "S":
        try:
            labels = np.char.decode(labels, "utf-8")
        except UnicodeDecodeError:
            labels, foreign = np.char.decode(labels, "latin-1"), True
    return labels.tolist(), foreign  # Python's own numbers compare exactly


def _check_text(given: Sequence[Any], counts: Iterable[Any], origin: str) -> None:
    """Raise BadInput for a label that cannot be written down: a surrogate is half a character, and in no encoding."""
    for label in counts:
        if isinstance(label, str) and any("\ud800" <= character <= "\udfff" for character in label):
            raise BadInput(f"{origin}: the label of sample {_place(given, label)}, {quoted(label)}, is no valid text")


def _check_missing(given: Sequence[Any], counts: Iterable[Any], origin: str) -> None:
    """Raise BadInput for a label that is missing: empty, not a number, or another word for it where all others are numbers."""
    for label in counts:
        if str(label).strip().lower() in ("", "nan"):
            raise BadInput(f"{origin}: the label of sample {_place(given, label)} is missing")
    texts = [label for label in counts if isinstance(label, str)]
    missing = [text for text in texts if text.strip().lower() in MISSING]
    others = [text.strip() for text in texts if text.strip().lower() not in MISSING]
    if missing and others and all(map(is_number, others)):
        where = f"{origin}: the label of sample {_place(given, missing[0])} is {quoted(missing[0])}"
        raise BadInput(f"{where}, a missing value among numbers; leave the sample out, or give its class another name")


def _place(given: Sequence[Any], label: Any) -> int:
    """The number of the first sample of a label, from 1; by identity, too, since nan is not equal to itself."""
    return next(row for row, other in enumerate(given, start=1) if other is label or other == label)


def _as_numbers(labels: Iterable[Any]) -> dict[Any, Any] | None:
    """The number of each label; None where some of them are words."""
    numbers = {}
    for label in labels:
        if isinstance(label, str):
            text = label.strip()
            if not is_number(text):
                return None
            numbers[label] = exact_number(text)
        else:
            numbers[label] = label
    return numbers


def _numbers_to_python(labels: Iterable[Any]) -> bool:
    """Whether all labels are texts that Python takes for numbers: as such they were read once, ``1_10`` and ``11_0`` as one."""
    with contextlib.suppress(ValueError):
        return all(exact_number(label) is not None for label in labels)
    return False


def _about_missing_words(counts: Mapping[Any, int], names: Sequence[str], origin: str) -> list[str]:
    found = [name for name in names if name.strip().lower() in MISSING]
    if not found:
        return []
    number = sum(counts[name] for name in found)
    samples = "1 sample" if number == 1 else f"{number} samples"
    words = "are classes" if len(found) > 1 else "is a class"
    said = f"{origin}: {enumerated(found)} ({samples}) {words} like any other, though a missing value to many programs"
    return [f"{said}; if it is one, leave these samples out"]


def _about_one_number(written: Sequence[Sequence[Any]], origin: str) -> list[str]:
    """Labels whose texts differ and are one number, to us or to another program: merged ones, and ones that are kept apart."""
    merged = [texts for texts in written if len(texts) > 1]
    readings: dict[Hashable, list[int]] = {}
    for index, texts in enumerate(written):
        for reading in set().union(*map(_readings, texts)):
            readings.setdefault(reading, []).append(index)
    shared = {reading: tuple(group) for reading, group in readings.items() if len(group) > 1}
    apart = [*([written[index][0] for index in group] for group in dict.fromkeys(shared.values())), *_near(written)]
    what = "text" if shared and all(isinstance(reading, str) for reading in shared) else "number"
    cautions = []
    if merged:
        cautions.append(f"{origin}: the labels {_groups(merged)} are one number each, and one class")
    if apart:
        cautions.append(f"{origin}: the labels {_groups(apart)} are one {what} to some programs; here each is a class of its own")
    return cautions


def _groups(groups: Sequence[Sequence[Any]], most: int = 3) -> str:
    shown = "; ".join(enumerated(list(map(str, group))) for group in groups[:most])
    return shown + (f"; ... ({len(groups)} such groups)" if len(groups) > most else "")


def _readings(label: Any) -> set[Hashable]:
    """What programs make of a label: the numbers in double precision that it may be, and its text in one normal form."""
    if not isinstance(label, str):
        return {float(label)}
    plain = unicodedata.normalize("NFKC", label).strip()
    found: set[Hashable] = {plain}
    if not any(character.isdigit() for character in plain) and plain.lower().lstrip("+-") not in ("inf", "infinity"):
        return found
    bare = plain.replace("\u2212", "-")
    # Underscores, blanks and apostrophes group digits; a comma does, too, or is the decimal point.
    joined = re.sub(r"[_\s']", "", bare)
    for form in {joined, joined.replace(",", ""), joined.replace(",", ".")}:
        with contextlib.suppress(ValueError):
            found.add(float(form))
    with contextlib.suppress(ValueError, OverflowError):
        found.add(float(int(joined, 0)))  # 0x1F
    return found


def _near(written: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Neighbours among numbers that are not equal in double precision, and nearly so; integers are meant as they are."""
    labels = [texts[0] for texts in written]
    numbers = _as_numbers(labels)
    if numbers is None:
        return []
    pairs = [(one, other, float(numbers[one]), float(numbers[other])) for one, other in pairwise(labels)]
    return [
        [one, other]
        for one, other, a, b in pairs
        if 0 < b - a <= NEAR * max(abs(a), abs(b)) and not (a.is_integer() and b.is_integer())
    ]


def _about_number_of_classes(counts: NDArray[np.intp], names: Sequence[str], numbers: Sequence[Any], origin: str) -> list[str]:
    """A warning about labels that may be no classes: as many as samples (of two samples none has a choice), hardly ever the
    same one twice, or many numbers with fractions.

    Raises:
        BadInput: They are so, and too many to be classes at all.
    """
    classes, samples = len(counts), int(counts.sum())
    fractions = [name for name, number in zip(names, numbers, strict=False) if float(number) % 1]
    if not (classes == samples > 2 or (classes > MANY_CLASSES and (fractions or np.median(counts) <= 2))):
        return []
    different = f"{classes} different labels" if classes < samples else "a label of its own each"
    found = f"{origin}: the {samples} samples have {different}, such as {quoted(fractions[0] if fractions else names[0])}"
    if classes > MOST_RARE_CLASSES:
        raise BadInput(f"{found}; must be classes, not measurements or names of samples")
    return [f"{found}; each is taken for a class, not for a measurement"]
