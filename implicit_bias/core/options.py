"""What the classes that a user chooses from have in common."""

from __future__ import annotations

from typing import ClassVar


class Option:
    """A model, loss, optimizer, norm or schedule: an object with its keys, chosen by name."""

    name: ClassVar[str]

    def incompatible(self, other: object) -> str | None:
        """Why this option does not go with another one that is chosen beside it; None where it does.

        Args:
            other: The chosen model, loss, optimizer, schedule or, where one is named, norm, with its keys.

        Returns:
            The reason, in words that follow ``<group>=<name of the other>:``, as in "steps of optimizer=muon do not shrink with
            the loss". What is allowed instead is found by asking the same of all others.
        """
        return None
