"""How norms are called in files and in ``log.norms``, in words."""

from __future__ import annotations

from implicit_bias.core.kinds import kinds
from implicit_bias.core.words import either
from implicit_bias.norms.base import NORMS


def allowed_labels() -> str:
    """Every norm's label, and what the numbers and words in it may be: ``l1, l2; lp<p> with p a number in [1, inf]``."""
    alike: dict[str, list[str]] = {}
    for name in NORMS:
        cls = NORMS.get(name)
        in_label = {key: kind.allowed for key, kind in kinds(cls).items() if f"<{key}>" in cls.label_form()}
        alike.setdefault(", ".join(f"{key} {words}" for key, words in in_label.items()), []).append(cls.label_form())
    plain = ", ".join(alike.pop("", []))
    return "; ".join([plain, *(f"{either(forms)} with {words}" for words, forms in alike.items())])
