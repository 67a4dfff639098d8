"""Which options go together: each says itself what it does not go with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from implicit_bias.core.errors import BadInput
from implicit_bias.core.options import Option
from implicit_bias.core.registry import Registry
from implicit_bias.core.words import either


def check_together(chosen: Mapping[str, Option], registries: Mapping[str, Registry]) -> None:
    """Refuse two options of which one does not go with the other.

    Args:
        chosen: The options of a run, with their keys, by group.
        registries: What else each group has.

    Raises:
        BadInput: The reason, and which options of either group go with the other one.
    """
    for (group, option), (other_group, other) in itertools.permutations(chosen.items(), 2):
        reason = option.incompatible(other)
        if reason is not None:
            instead = [
                f"{name}={either(fitting)}"
                for name, partner in ((other_group, option), (group, other))
                if (fitting := list(_fitting(registries[name], partner)))
            ]
            allowed = f"; allowed: {', or '.join(instead)}" if instead else ""
            raise BadInput(f"{other_group}={other.name}: {reason}{allowed}")


def _fitting(registry: Registry, partner: Option) -> Iterator[str]:
    """The options of a registry that, with their keys at their defaults, go with a partner."""
    for name in registry:
        try:
            option: Option = registry.get(name)()
        except (BadInput, TypeError):  # it cannot do without keys
            continue
        if option.incompatible(partner) is None and partner.incompatible(option) is None:
            yield name
