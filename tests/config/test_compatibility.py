"""Options say themselves what they do not go with; what does go is found by asking the others."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from implicit_bias.config.compatibility import check_together
from implicit_bias.config.overrides import compose
from implicit_bias.config.schema import REGISTRIES
from implicit_bias.core.errors import BadInput
from implicit_bias.core.options import Option
from implicit_bias.losses import LOSSES, Loss
from implicit_bias.models import Model
from implicit_bias.optimizers import OPTIMIZERS, Optimizer
from implicit_bias.optimizers.descent import NormalisedDescent
from implicit_bias.schedules import LossBased, LyuLi, Power


@dataclass(frozen=True)
class Elsewhere(Optimizer):
    """An optimizer with a state of its own whose steps shrink with the loss."""

    name: ClassVar[str] = "elsewhere"
    normalised: ClassVar[bool] = False
    foreign_state: ClassVar[bool] = True


@dataclass(frozen=True)
class ForNetworks(NormalisedDescent):
    """An optimizer for networks and cross entropy."""

    name: ClassVar[str] = "for_networks"

    def incompatible(self, other: object) -> str | None:
        if isinstance(other, Model) and other.linear:
            return f"optimizer={self.name} needs a network"
        if isinstance(other, Loss) and other.name != "cross_entropy":
            return f"optimizer={self.name} needs a sum of exponentials"
        return super().incompatible(other)


def refused(**chosen: Option) -> str:
    with pytest.raises(BadInput) as raised:
        check_together(chosen, REGISTRIES)
    return str(raised.value)


def test_a_loss_based_schedule_needs_steps_that_shrink_with_the_loss() -> None:
    signs = OPTIMIZERS.get("signgd")()
    assert refused(optimizer=signs, schedule=LossBased()) == (
        "schedule=loss_based: steps of optimizer=signgd do not shrink with the loss; allowed: schedule=constant or power,"
        " or optimizer=dual_acceleration, gd, mirror, momentum_gd or sd"
    )
    check_together({"optimizer": signs, "schedule": Power()}, REGISTRIES)
    check_together({"optimizer": OPTIMIZERS.get("gd")(), "schedule": LossBased()}, REGISTRIES)


def test_steps_cannot_be_taken_back_from_a_state_of_its_own() -> None:
    assert refused(optimizer=Elsewhere(), schedule=LyuLi()).startswith(
        "schedule=lyu_li: takes steps back, which the state of optimizer=elsewhere cannot; allowed: schedule=constant,"
    )
    check_together({"optimizer": Elsewhere(), "schedule": LossBased()}, REGISTRIES)


def test_an_option_speaks_of_any_other_and_what_would_do_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, exponential = REGISTRIES["model"].get("linear")(), LOSSES.get("exponential")()
    line = refused(model=linear, optimizer=ForNetworks())
    assert line.startswith(
        "model=linear: optimizer=for_networks needs a network; allowed: model=cnn, diagonal, mlp or signed_diagonal, or"
        " optimizer=adam,"
    )
    assert refused(optimizer=ForNetworks(), loss=exponential).startswith(
        "loss=exponential: optimizer=for_networks needs a sum of exponentials; allowed: loss=cross_entropy, or optimizer="
    )
    # And so it is where a run is composed.
    monkeypatch.setitem(OPTIMIZERS.classes, "signgd", ForNetworks)
    with pytest.raises(BadInput, match="model=linear: optimizer=for_networks needs a network"):
        compose(["optimizer=signgd"])
