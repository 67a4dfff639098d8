"""Step sizes as functions of the step, the loss and what came of earlier steps; one file each."""

from implicit_bias.schedules.as_given import AsGiven
from implicit_bias.schedules.automatic import (
    AUTO_GAP_CHANGE,
    AUTO_GAP_CHANGE_SATURATING,
    AUTO_POWER_LINEAR,
    AUTO_POWER_NETWORK,
    auto_lr,
    auto_network_lr,
    auto_power,
)
from implicit_bias.schedules.base import SCHEDULES, Evaluated, Evaluation, Schedule, ScheduleState
from implicit_bias.schedules.constant import Constant
from implicit_bias.schedules.edge import Edge
from implicit_bias.schedules.loss_based import LossBased
from implicit_bias.schedules.lyu_li import LyuLi
from implicit_bias.schedules.power import Power

__all__ = [
    "AUTO_GAP_CHANGE",
    "AUTO_GAP_CHANGE_SATURATING",
    "AUTO_POWER_LINEAR",
    "AUTO_POWER_NETWORK",
    "SCHEDULES",
    "AsGiven",
    "Constant",
    "Edge",
    "Evaluated",
    "Evaluation",
    "LossBased",
    "LyuLi",
    "Power",
    "Schedule",
    "ScheduleState",
    "auto_lr",
    "auto_network_lr",
    "auto_power",
]
