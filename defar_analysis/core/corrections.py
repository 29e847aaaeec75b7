"""Training-free corrections of a sampler, each exactly neutral at its neutral setting.

Two kinds, by where they act:

    velocity fields         EpsilonScaling(field, ...), LabelShift(field, ...): v(x, t, labels) as any other field
    after each step         TargetShift(...), DCW(...), DCWHaar(...): called as
                            correction(x_before, velocity_before, now, then, x_after) -> x_after,
                            states (B, C, H, W), the velocity at (x_before, now), and the step's two times

The second kind goes to `sample(..., correction=...)`. A cutoff or t_min that a grid time meets (to 1e-6) is met in
float32 and float64 alike. They were published for diffusion models; what carries over to flows, and what was decided
here, stands with each.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DefarError
from .guidance import ROUNDING
from .interpolants import Interpolant, Linear
from .rollout import VelocityModel


@dataclass(frozen=True)
class EpsilonScaling:
    """Epsilon scaling (Ning et al., ICLR 2024): the noise that the field implies is divided by lambda, x is kept.

        v' = (alpha'/alpha) x - (W/alpha) eps/lambda = v + (1 - 1/lambda) ((alpha'/alpha) x - v)

    On the linear path v' = (x - eps/lambda)/t with eps = x - t v. lambda = scale + slope (1 - t); the authors use
    slope 0 and scales of 1.004 to 1.017. Singular at t = 0, so times below `t_min` are left alone; the default lets
    through all noise levels of EDM, whose largest is t = 0.0123 on the linear path. Scale 1, slope 0 is the field
    itself. Every evaluation is scaled, both of Heun's too, as EDM-ES's default sampler does.

    Raises DefarError for settings out of range.
    """

    field: VelocityModel = dataclasses.field(repr=False)
    scale: float
    slope: float = 0.0
    t_min: float = 0.01
    interpolant: Interpolant = dataclasses.field(default_factory=Linear)

    def __post_init__(self) -> None:
        ends = (self.scale, self.scale + self.slope)
        if not all(math.isfinite(end) and end > 0 for end in ends):
            raise DefarError(f"lambda must be finite and positive; it is {ends[0]} at t = 1 and {ends[1]} at t = 0")
        if not 0 < self.t_min < 1:
            raise DefarError(f"t_min must lie between 0, where the scaling is singular, and 1; got {self.t_min}")

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity with scaled noise, in the shape of x and at least float32."""
        velocity = self.field(x, t, labels)
        if self.scale == 1 and self.slope == 0:
            return velocity
        x = _at_least_float32(x)  # in bfloat16 the change would be lost
        column = t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        c = self.interpolant.coefficients(column.clamp(min=self.t_min))
        excess = 1 - 1 / (self.scale + self.slope * (1 - column))
        scaled = velocity + excess * (c.d_alpha / c.alpha * x - velocity)
        return torch.where(column >= self.t_min - ROUNDING, scaled, velocity)


@dataclass(frozen=True, kw_only=True)
class _TimeShift:
    """What both published forms of the time shift (Li et al., ICLR 2024) share: the time that fits a state's variance.

    A state at t has variance V(t) = alpha^2 data_variance + sigma^2 among its entries. Of the times within `window` on
    either side of a nominal one, 2 per_side + 1 of them evenly spaced, the one with V nearest to the sample's own
    (unbiased, over all of its entries) is taken. Only times where V falls count: on the linear path t < 1/(1 +
    data_variance). Only nominal times below `cutoff` are shifted.

    data_variance: default 0.25, the square of EDM's sigma_data; the authors neglect it (0). cutoff: the default has the
    signal-to-noise ratio, on the linear path, of the authors' 550 of 1,000 steps of DDPM's schedule for CIFAR-10.
    Window 0 changes nothing. Raises DefarError for settings out of range and for a path on which V never falls, as GVP
    and VP at data variance 1 or more.
    """

    window: float
    cutoff: float = 0.18
    data_variance: float = 0.25
    per_side: int = 20
    interpolant: Interpolant = dataclasses.field(default_factory=Linear)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.window) and self.window >= 0):
            raise DefarError(f"window must be a finite stretch of time, not negative; got {self.window}")
        if not 0 <= self.cutoff <= 1:
            raise DefarError(f"cutoff must lie in [0, 1], t = 0 is noise; got {self.cutoff}")
        if not (math.isfinite(self.data_variance) and self.data_variance >= 0):
            raise DefarError(f"data_variance must be finite and not negative; got {self.data_variance}")
        if self.per_side < 1:
            raise DefarError(f"per_side must be 1 or more; got {self.per_side}")
        slope = self._variance_and_slope(torch.linspace(0.01, 0.99, 50, dtype=torch.float64))[1]
        if not bool((slope < -1e-6).any()):
            raise DefarError(
                f"a state's variance never falls on {self.interpolant} at data_variance {self.data_variance}, "
                "so it tells no time; time shift needs a path on which it does, such as Linear()"
            )

    def _variance_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """V(t) and half of its derivative."""
        c = self.interpolant.coefficients(t)
        s = self.data_variance
        return c.alpha**2 * s + c.sigma**2, c.alpha * c.d_alpha * s + c.sigma * c.d_sigma

    def _nearest(self, x: Tensor, nominal: Tensor) -> Tensor:
        """For each sample the time within the window around `nominal` (B,) that fits its variance."""
        steps = torch.arange(-self.per_side, self.per_side + 1, dtype=nominal.dtype, device=nominal.device)
        candidates = nominal[:, None] + steps * (self.window / self.per_side)
        candidates = candidates.clamp(*self.interpolant.interval("train"))
        variances, slopes = self._variance_and_slope(candidates)
        falls = slopes <= 0
        chosen = nearest_time(x, candidates, torch.where(falls, variances, math.inf))
        shifts = (nominal < self.cutoff - ROUNDING) & falls[:, self.per_side]
        return torch.where(shifts, chosen, nominal)


@dataclass(frozen=True)
class LabelShift(_TimeShift):
    """Time shift, label form (the authors' DEIS sampler; this package's default): the field is asked at the time that
    fits the state's variance; the update itself keeps its nominal times.

        v'(x, t) = v(x, t'),   t' in [t - window, t + window] with V(t') nearest to Var(x), per sample

    The velocity is what carries over; the authors' network predicts noise. LabelShift(field, window=0.02).
    """

    field: VelocityModel = dataclasses.field(repr=False)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The velocity at the shifted time, in the shape of x."""
        return self.field(x, self._nearest(x, t) if self.window else t, labels)


@dataclass(frozen=True)
class TargetShift(_TimeShift):
    """Time shift, target form (the authors' DDIM and PNDM samplers): after-step correction.

    The field keeps its nominal times; the step goes from `now` not to `then` but to the time near `then` that fits the
    variance of the state *before* the step, along the straight line that the solver drew. That state is the noisier
    one, so in practice the choice is then - window: a constant shortening of each step. The first step, from the path's
    start, is never shifted. `window` is half of the published one: their 5 of 1,000 steps is 2 either way. For Euler
    and Heun: on an SDE the noise of the step would be shortened with it.

    Raises DefarError where the window is not shorter than the step, which could then go nowhere.
    """

    def __call__(self, x_before: Tensor, velocity_before: Tensor, now: float, then: float, x_after: Tensor) -> Tensor:
        """The state to go on from, as if it were at `then`."""
        if self.window == 0 or then >= self.cutoff - ROUNDING or now <= self.interpolant.interval("ode")[0]:
            return x_after
        if self.window >= then - now:
            raise DefarError(f"window {self.window} must be shorter than the step from t = {now:.4g} to {then:.4g}")
        nominal = torch.full(x_after.shape[:1], then, dtype=x_after.dtype, device=x_after.device)
        return retarget(x_before, x_after, now, then, self._nearest(x_before, nominal))


@dataclass(frozen=True)
class DCW:
    """DCW's pixel form (2604.16044, Eq. 17): after-step correction away from the end point predicted before the step.

        x' <- x' + scale (x' - x_hat),   x_hat = end point of (x_before, velocity_before, now)

    Constant scale, as in the authors' scheduler for flows; 0 changes nothing. Heun's end point is its first stage's.
    Raises DefarError for a scale that is not finite.
    """

    scale: float
    interpolant: Interpolant = dataclasses.field(default_factory=Linear)

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise DefarError(f"scale must be a finite number; got {self.scale}")

    def __call__(self, x_before: Tensor, velocity_before: Tensor, now: float, then: float, x_after: Tensor) -> Tensor:
        """The corrected state at `then`."""
        if self.scale == 0:
            return x_after
        return x_after + self.scale * (x_after - _endpoint(self.interpolant, velocity_before, x_before, now))


@dataclass(frozen=True)
class DCWHaar:
    """DCW's band form (2604.16044, Eq. 18): the pixel form's difference, weighted by band of a one-level Haar split.

        lambda_low = low sigma_t,   lambda_high = high (1 - sigma_t),   t the step's first time, as the authors take it

    The low band is corrected early, the three detail bands late. (The paper's text prints (1 - lambda_h) sigma_t for
    the second; its words and its piecewise form ask for this one.) low = high = 0 changes nothing.
    Raises DefarError for weights that are not finite, and for images of odd height or width.
    """

    low: float = 0.0
    high: float = 0.0
    interpolant: Interpolant = dataclasses.field(default_factory=Linear)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise DefarError(f"low and high must be finite numbers; got {self.low} and {self.high}")

    def __call__(self, x_before: Tensor, velocity_before: Tensor, now: float, then: float, x_after: Tensor) -> Tensor:
        """The corrected state at `then`."""
        if self.low == 0 and self.high == 0:
            return x_after
        sigma = float(self.interpolant.coefficients(torch.tensor(now, dtype=torch.float64)).sigma)
        endpoint = _endpoint(self.interpolant, velocity_before, x_before, now)
        return correct_bands(x_after, endpoint, self.low * sigma, self.high * (1 - sigma))


def nearest_time(x: Tensor, times: Tensor, variances: Tensor) -> Tensor:
    """For each sample of x (B, ...) that one of `times` (K,) or (B, K) whose variance (same shape) is nearest to its.

    A sample's variance is the unbiased one over all of its entries; of equally near times the first is taken.
    """
    own = _at_least_float32(x).flatten(1).var(dim=1)
    distance = (variances.to(own.dtype).expand(len(x), -1) - own[:, None]).abs()
    return times.expand(len(x), -1).gather(1, distance.argmin(dim=1, keepdim=True))[:, 0]


def retarget(x_before: Tensor, x_after: Tensor, now: float, then: float, target: Tensor) -> Tensor:
    """Where the line from x_before (at `now`) to x_after (at `then`) is at `target` (B,); at `then` exactly x_after."""
    excess = (target - torch.full_like(target, then)) / (then - now)
    return x_after + excess.reshape(-1, *[1] * (x_after.ndim - 1)).to(x_after.dtype) * (x_after - x_before)


def correct_bands(x: Tensor, endpoint: Tensor, low: float, high: float) -> Tensor:
    """x + inverse Haar of (low, high) times the Haar bands of x - endpoint. Equal weights are the pixel form."""
    smooth, details = haar(x - endpoint)
    return x + inverse_haar(low * smooth, high * details)


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the orthonormal Haar transform: low (B, C, H/2, W/2) and details (B, C, 3, H/2, W/2).

    With a, b over c, d the pixels of a 2 x 2 cell: low (a+b+c+d)/2; details (a+b-c-d)/2, (a-b+c-d)/2, (a-b-c+d)/2.
    Raises DefarError where height or width is odd.
    """
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        raise DefarError(f"Haar bands need an even height and width; x is {height} x {width}: use the pixel form")
    a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    details = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=-3)
    return (a + b + c + d) / 2, details / 2


def inverse_haar(low: Tensor, details: Tensor) -> Tensor:
    """The image (B, C, H, W) whose `haar` is (low, details)."""
    rows, columns, diagonals = details.unbind(dim=-3)
    image = low.new_empty(*low.shape[:-2], 2 * low.shape[-2], 2 * low.shape[-1])
    image[..., 0::2, 0::2] = low + rows + columns + diagonals
    image[..., 0::2, 1::2] = low + rows - columns - diagonals
    image[..., 1::2, 0::2] = low - rows + columns - diagonals
    image[..., 1::2, 1::2] = low - rows - columns + diagonals
    return image / 2


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _endpoint(interpolant: Interpolant, velocity: Tensor, x: Tensor, t: float) -> Tensor:
    return interpolant.endpoint(velocity, x, torch.full(x.shape[:1], t, dtype=x.dtype, device=x.device))
