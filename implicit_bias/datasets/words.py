"""Texts from a user's file as messages show them: in one line, printable, of limited length."""

from collections.abc import Sequence

LONGEST = 40
#: What the column of labels is called in tables that others have made.
USUAL_LABELS = ("label", "labels", "target", "class", "y", "species", "diagnosis", "category")


def shortened(text: str, most: int = LONGEST) -> str:
    """``text`` in one line, printable, of at most about ``most`` characters."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= most else f"{plain[:most]}..."


def quoted(text: str) -> str:
    """``text`` in quotes, every character to be seen, shortened."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def listing(names: Sequence[str], most: int = 10) -> str:
    """``names`` for a message, the first ``most`` of them, in one line."""
    shown = [shortened(name) for name in names[:most]]
    return ", ".join(shown) + (f", ... ({len(names)} in all)" if len(names) > most else "") or "none"


def usual_label(names: Sequence[str]) -> str:
    """A hint at the column that has a usual name of labels, where there is just one; else nothing."""
    found = [name for name in names if name.lower() in USUAL_LABELS]
    return f"; did you mean dataset.label={found[0]}?" if len(found) == 1 else ""


def enumerated(names: Sequence[str], most: int = 5) -> str:
    """``'a', 'b' and 'c'``, the first ``most`` of ``names``."""
    shown = [quoted(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)}, ... ({len(names)} in all)"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
