"""Step sizes; one file each."""

from implicit_bias.schedules.base import *  # noqa: F403
