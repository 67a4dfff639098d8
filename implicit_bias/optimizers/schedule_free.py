"""Schedule-free averaging, for the optimizers whose class begins with it: gradients are taken between iterate and average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from torch import Tensor

from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.core.scaled import Scaled
from implicit_bias.norms import ParameterNorm
from implicit_bias.optimizers.base import Blocks, Here, Number, Optimizer, State, Step

SCHEDULE_FREE = "schedule_free"
#: z - x, a tensor a block, and the weights so far over the largest, one number a run.
AHEAD, WEIGHTS, ALL = "ahead", "weights", "all"
INTERPOLATION = 0.9


@dataclass(frozen=True)
class ScheduleFree(Optimizer):
    """z_t = z_{t-1} - step of the gradient at y_{t-1}, x_t = (1 - c_t) x_{t-1} + c_t z_t, y_t = (1 - b) z_t + b x_t.

    ``average=schedule_free`` (Defazio et al., *The Road Less Scheduled*, arXiv 2405.15682, section 2, with the step of any base
    in the place of SGD's; b = ``interpolation``). The weights c_t = w_t / (w_1 + ... + w_t) have w_t = (max_{s <= t} eta_s)^2,
    as in the authors' package: those of the paper's Algorithm 1, eta_t^2, while rates rise, and c_t = 1 / t where they are
    constant or fall. Momentum and weight decay are the base's. Decay is that of z, so that z and its averages x and y stay in a
    ball that z does not leave.

    The trained parameters are y; those shown are x. All three are one at the start, where the buffer z - x is zero.
    """

    _: KW_ONLY
    average: Literal["schedule_free"] | None = hyper(
        None,
        help="schedule_free: gradients between the iterate and its average, and records of the average",
        choices=(SCHEDULE_FREE,),
    )
    interpolation: Number = hyper(
        INTERPOLATION, help="weight of the average in the point where gradients are taken, for average=schedule_free", ge=0, lt=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average is None and not isinstance(self.interpolation, Tensor) and self.interpolation != INTERPOLATION:
            raise BadInput(
                f"optimizer.interpolation={self.interpolation:g}: is for optimizer.average={SCHEDULE_FREE} only, else"
                f" {INTERPOLATION:g}"
            )
        if self.average is not None and getattr(self, "truncate", False):
            # The model is of the points that steps lead to, and gradients are taken elsewhere.
            raise BadInput(f"optimizer.average={self.average}: must be null with optimizer.truncate=true, whose model ends steps")

    @property
    def shows_trained(self) -> bool:
        return self.average is None and type(self).shown is ScheduleFree.shown

    def passes_on(self) -> bool:
        """Whether its ``step_from`` is the base's, as :attr:`Optimizer.needs_gradient_only` asks."""
        return self.average is None

    def shown(self, state: Any, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """x = y - (1 - b) (z - x)."""
        if self.average is None:
            return parameters
        return {name: y - (1 - self.interpolation) * _plain(state[AHEAD][name]) for name, y in parameters.items()}

    def init(self, gradient: Blocks) -> State:
        state = super().init(gradient)
        if self.average is not None:
            state[AHEAD] = {name: Scaled.zeros(g.mantissa) for name, g in gradient.items()}
            state[WEIGHTS] = {ALL: Scaled.zeros(next(iter(gradient.values())).mantissa[:, :1, :1])}
        return state

    def step_from(self, state: Any, here: Here, t: int, norm: ParameterNorm) -> tuple[Any, Step]:
        buffers, step = super().step_from(state, here, t, norm)
        if self.average is None:
            return buffers, step
        total = _one_more(state[WEIGHTS][ALL], 2 * here.log_lr.reshape(-1, 1, 1))
        share, b = 1 / total.mantissa, self.interpolation
        log_length = here.log_lr.reshape(-1, 1, 1) if step.log_size is None else here.log_lr.reshape(-1, 1, 1) + step.log_size
        ahead, to = {}, {}
        for name, y in here.parameters.items():
            before = _plain(state[AHEAD][name])
            x, z = y - (1 - b) * before, y + b * before
            z = (z if step.keep is None else step.keep * z) - log_length.exp() * step.direction[name]
            # Sums of products alone: torch's lerp rounds by a number's place in its tensor.
            ahead[name], average = (1 - share) * (z - x), (1 - share) * x + share * z
            to[name] = average + (1 - b) * ahead[name]
        kept = {name: Scaled(block, block.new_zeros(block[..., :1].shape)) for name, block in ahead.items()}
        return {**buffers, AHEAD: kept, WEIGHTS: {ALL: total}}, Step(to=to)


def _plain(buffer: Scaled) -> Tensor:
    return buffer.mantissa  # of scale 1; at the start, where the scale is that of a zero, it is zero as well


def _one_more(sum_so_far: Scaled, log_weight: Tensor) -> Scaled:
    """w_1 + ... + w_t in units of the largest, w_t: exactly t where rates do not rise.

    Args:
        sum_so_far: Of w_1, ..., w_{t-1}, (R, 1, 1); its scale is that of w_{t-1}.
        log_weight: log eta_t^2, (R, 1, 1) or (1, 1, 1).
    """
    log_largest = sum_so_far.log_scale.maximum(log_weight)
    return Scaled(sum_so_far.mantissa * (sum_so_far.log_scale - log_largest).exp() + 1, log_largest)
