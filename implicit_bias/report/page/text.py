"""Mathtext of labels and titles as plain Unicode text."""

from __future__ import annotations

import re

_NAMES = {
    r"\ell": "ℓ",
    r"\infty": "∞",
    r"\epsilon": "ε",
    r"\beta": "β",
    r"\gamma": "γ",
    r"\delta": "δ",
    r"\|": "‖",
    r"\max": "max",
    r"\log": "log",
    "-": "\N{MINUS SIGN}",
}
_BELOW = str.maketrans("0123456789p", "₀₁₂₃₄₅₆₇₈₉ₚ")
_ABOVE = str.maketrans("0123456789\N{MINUS SIGN}", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def plain(text: str) -> str:
    r"""A text with its mathtext (``$\ell_2$``) as letters and signs (``ℓ₂``); powers that have no signs keep a ``^``."""
    return re.sub(r"\$([^$]*)\$", lambda match: _letters(match[1]), text)


def _letters(formula: str) -> str:
    for name, letter in _NAMES.items():
        formula = formula.replace(name, letter)
    formula = re.sub(r"_\{?(\d+|p|∞)\}?", lambda m: m[1].translate(_BELOW), formula)
    return re.sub(r"\^\{?([^{}\s]+)\}?", lambda m: _power(m[1]), formula)


def _power(exponent: str) -> str:
    raised = exponent.translate(_ABOVE)
    return raised if not set(raised) & set(".0123456789()") and raised != exponent else f"^{exponent}"
