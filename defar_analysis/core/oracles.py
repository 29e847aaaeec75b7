"""Velocity fields known in closed form: what a perfect network would return on data whose law is known."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import DefarError
from .interpolants import Interpolant, Linear


class GaussianFlow:
    """Exact optimal velocity and flow map of a stationary Gaussian field.

    Data x_* has mean m and independent Fourier coefficients (fft2, norm="ortho") with variance S(f). Along
    x_t = alpha x_* + sigma eps the coefficients of x_t - alpha m have variance V = alpha^2 S + sigma^2, and

        v(x, t) = alpha' m + F^-1[ (alpha alpha' S + sigma sigma') / V  F(x - alpha m) ],

    on the linear path m + F^-1[(t S - (1-t)) / (t^2 S + (1-t)^2) F(x - t m)]. The flow map from 0 scales each
    coefficient by sqrt(V(t) / V(0)).

    mean (C, H, W) or broadcastable to it; spectrum (H, W) or (C, H, W), real and not negative, or (C, C, H, W),
    Hermitian at each frequency, for covariance between channels. Real fields need S(f) = S(-f)*, which is checked.
    Labels are ignored. Computed in the dtype of x.
    """

    def __init__(self, mean: Tensor, spectrum: Tensor, interpolant: Interpolant | None = None) -> None:
        self.interpolant = interpolant or Linear()
        self.mean, self.spectrum = mean, spectrum
        if spectrum.ndim not in (2, 3, 4):
            raise DefarError(f"spectrum must be (H, W), (C, H, W) or (C, C, H, W); it is {tuple(spectrum.shape)}")
        scale = spectrum.abs().max()
        if (spectrum - _mirrored(spectrum)).abs().max() > 1e-4 * scale:
            raise DefarError("spectrum must satisfy S(f) = conj(S(-f)): otherwise the field is not real")
        if spectrum.ndim == 4:
            # One unitary basis of the channels for each frequency makes the field a set of independent scalars.
            matrices = spectrum.permute(2, 3, 0, 1)
            values, self.basis = torch.linalg.eigh(matrices)  # (H, W, C), (H, W, C, C)
            self.variance = values.permute(2, 0, 1)
        else:
            self.basis = None
            self.variance = spectrum
        if bool((self.variance < -1e-6 * scale).any()):
            raise DefarError(f"spectrum has a negative variance ({float(self.variance.min()):.3g})")
        self.variance = self.variance.clamp(min=0)

    @classmethod
    def fit(
        cls, images: Tensor | Iterable[Tensor], interpolant: Interpolant | None = None, cross_channel: bool = True
    ) -> GaussianFlow:
        """The Gaussian with the mean image and the spectrum of `images` (N, C, H, W), or of batches of them.

        cross_channel: keep the covariance between channels at each frequency. Sums run in float64, in one pass.
        """
        count, total, products = 0, 0, 0
        for batch in images.split(1024) if isinstance(images, Tensor) else images:
            coefficients = torch.fft.fft2(batch.double(), norm="ortho")
            count, total = count + len(batch), total + coefficients.sum(dim=0)
            products = products + torch.einsum("nihw,njhw->ijhw", coefficients, coefficients.conj())
        if count < 2:
            raise DefarError(f"a Gaussian needs at least two images to fit; got {count}")
        mean = total / count
        spectrum = products / count - torch.einsum("ihw,jhw->ijhw", mean, mean.conj())
        spectrum = (spectrum + _mirrored(spectrum)) / 2  # makes the symmetry of a real field exact
        if not cross_channel:
            spectrum = torch.diagonal(spectrum).permute(2, 0, 1).real
        return cls(torch.fft.ifft2(mean, norm="ortho").real, spectrum, interpolant)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The optimal velocity. x (B, C, H, W); t (B,)."""
        c = self.interpolant.coefficients(t.to(x.dtype).reshape(-1, 1, 1, 1))
        s = self.variance.to(x)
        # Numerator and denominator vanish together only where S = 0 and sigma = 0; there x carries nothing.
        gain = (c.alpha * c.d_alpha * s + c.sigma * c.d_sigma) / (c.alpha**2 * s + c.sigma**2).clamp(min=1e-30)
        mean = self.mean.to(x)
        return c.d_alpha * mean + self._filter(gain, x - c.alpha * mean)

    def flow_map(self, x: Tensor, t0: Tensor, t1: Tensor) -> Tensor:
        """Where the exact flow takes a state at t0 by t1. x (B, C, H, W); t0, t1 (B,)."""
        mean = self.mean.to(x)
        start, end = (self.interpolant.coefficients(t.to(x.dtype).reshape(-1, 1, 1, 1)) for t in (t0, t1))
        return end.alpha * mean + self._filter(
            torch.sqrt(self.marginal_variance(t1, x) / self.marginal_variance(t0, x)), x - start.alpha * mean
        )

    def marginal_variance(self, t: Tensor, like: Tensor) -> Tensor:
        """alpha^2 S + sigma^2, (B, C or 1, H, W), in the eigenbasis of the channels where the spectrum has one."""
        c = self.interpolant.coefficients(t.to(like.dtype).reshape(-1, 1, 1, 1))
        return c.alpha**2 * self.variance.to(like) + c.sigma**2

    def sample(self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draws of the data, (count, C, H, W)."""
        shape = torch.broadcast_shapes(self.mean.shape, self.variance.shape)
        white = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
        return self.colour(white).to(dtype)

    def colour(self, white: Tensor) -> Tensor:
        """Draws of the data from white noise (N, C, H, W), in its dtype."""
        return self.mean.to(white) + self._filter(torch.sqrt(self.variance.to(white))[None], white)

    def _filter(self, gain: Tensor, x: Tensor) -> Tensor:
        """Multiply each Fourier coefficient (in the channels' eigenbasis) by a real gain (B, C or 1, H, W)."""
        coefficients = torch.fft.fft2(x, norm="ortho")
        if self.basis is None:
            coefficients = gain * coefficients
        else:
            basis = self.basis.to(coefficients)
            rotated = torch.einsum("hwci,bchw->bihw", basis.conj(), coefficients)
            coefficients = torch.einsum("hwci,bihw->bchw", basis, gain * rotated)
        return torch.fft.ifft2(coefficients, norm="ortho").real


def _mirrored(spectrum: Tensor) -> Tensor:
    """conj(S(-f)), which equals S(f) for a real field."""
    return spectrum.flip(-2, -1).roll((1, 1), (-2, -1)).conj()


class MixtureFlow:
    """Data x_* ~ sum_k w_k N(mu_k, s^2 I), and the velocity field that generates it exactly.

    Along x_t = alpha x_* + sigma eps component k is N(alpha mu_k, V I), V = alpha^2 s^2 + sigma^2, with velocity
    v_k = alpha' mu_k + (alpha alpha' s^2 + sigma sigma') / V  (x - alpha mu_k); the optimum averages them,

        v(x, t) = E[v_gt | x_t = x] = sum_k p(k | x, t) v_k(x, t).

    means (K, ...), in the shape of one sample; std s > 0; weights (K,) are normalized (default: equal). Labels are
    ignored. Computed in the dtype of x.
    """

    def __init__(
        self, means: Tensor, std: float, weights: Tensor | None = None, interpolant: Interpolant | None = None
    ) -> None:
        weights = torch.ones(len(means), dtype=means.dtype) if weights is None else weights
        if not std > 0 or weights.shape != means.shape[:1] or not bool((weights > 0).all()):
            raise DefarError(f"a mixture needs std > 0 and {len(means)} weights > 0; got {std} and {weights.tolist()}")
        self.means, self.std, self.weights = means, std, weights / weights.sum()
        self.interpolant = interpolant or Linear()

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The optimal velocity, in the shape of x (B, ...); t (B,)."""
        c = self.interpolant.coefficients(t.to(x.dtype)[:, None, None])
        means, offset, variance = self._around(x, t)
        gain = (c.alpha * c.d_alpha * self.std**2 + c.sigma * c.d_sigma) / variance
        share = self._log_joint(x, t).softmax(dim=1)
        return (share[..., None] * (c.d_alpha * means + gain * offset)).sum(dim=1).reshape(x.shape)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x), (B,): the density of noisy data at time t, of the data itself at t = 1."""
        return self._log_joint(x, t).logsumexp(dim=1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws of the data, (count, ...)."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.means[which] + self.std * torch.randn(
            count, *self.means.shape[1:], generator=generator, dtype=self.means.dtype
        )

    def _around(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means (1, K, D), x - alpha mu_k (B, K, D) and the variance V (B, 1, 1)."""
        c = self.interpolant.coefficients(t.to(x.dtype)[:, None, None])
        means = self.means.to(x).flatten(1)[None]
        return means, x.flatten(1)[:, None] - c.alpha * means, c.alpha**2 * self.std**2 + c.sigma**2

    def _log_joint(self, x: Tensor, t: Tensor) -> Tensor:
        """log w_k N(x; alpha mu_k, V I), (B, K)."""
        _, offset, variance = self._around(x, t)
        normal = -0.5 * (
            offset.square().sum(dim=2) / variance[..., 0] + offset.shape[2] * torch.log(2 * math.pi * variance[..., 0])
        )
        return normal + self.weights.to(x).log()


class EmpiricalFlow:
    """The exact minimizer of the flow-matching loss over a finite training set: it memorizes.

    With data x_* uniform over the images y_i, along x_t = alpha x_* + sigma eps,

        v(x, t) = E[v_gt | x_t = x] = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) sum_i p_i y_i,
        p_i = softmax_i( -||x - alpha y_i||^2 / (2 sigma^2) ),

    over the images of the label where labels are given. data (N, C, H, W); labels (N,) long or None. Where sigma is
    below `floor`, floor stands for it: at t = 1 the limit does not exist off the images. Computed in the dtype of data,
    `block` images at a time, so that the training set of CIFAR-10 fits; the result has the dtype of x. Raises
    DefarError for a label that no image has.
    """

    def __init__(
        self,
        data: Tensor,
        interpolant: Interpolant | None = None,
        labels: Tensor | None = None,
        *,
        floor: float = 1e-3,
        block: int = 10_000,
    ) -> None:
        if len(data) == 0 or (labels is not None and labels.shape != data.shape[:1]):
            count = "none" if labels is None else len(labels)
            raise DefarError(f"an empirical flow needs images, and one label for each; got {len(data)} and {count}")
        self.floor, self.block = floor, block
        self.data, self.places = data, None
        if labels is not None:  # each label's images side by side: a slice copies nothing
            order = labels.argsort(stable=True)
            known, counts = labels[order].unique_consecutive(return_counts=True)
            ends = counts.cumsum(0).tolist()
            self.data = data[order]
            self.places = dict(zip(known.tolist(), map(slice, [0, *ends], ends), strict=False))
        self.interpolant = interpolant or Linear()
        self.lengths = torch.cat([part.flatten(1).square().sum(dim=1) for part in self.data.split(block)])

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The optimal velocity. x (B, C, H, W); t (B,); labels (B,): of each state, where the images have some."""
        c = self.interpolant.coefficients(t.to(self.data.dtype).reshape(-1, 1))
        alpha, sigma = c.alpha, c.sigma.clamp(min=self.floor)
        states = x.flatten(1).to(self.data.dtype)
        mean = torch.empty_like(states)
        if labels is None or self.places is None:
            mean = self._posterior_mean(slice(None), states / sigma, alpha / sigma)
        else:
            for label in labels.unique().tolist():
                if label not in self.places:
                    raise DefarError(f"no image has label {label}; there are {list(self.places)}")
                rows = labels == label
                mean[rows] = self._posterior_mean(self.places[label], (states / sigma)[rows], (alpha / sigma)[rows])
        ratio = c.d_sigma / sigma
        return (ratio * states + (c.d_alpha - alpha * ratio) * mean).reshape(x.shape).to(x.dtype)

    def _posterior_mean(self, place: slice, states: Tensor, scale: Tensor) -> Tensor:
        """sum_i p_i y_i for p_i = softmax_i(-||states - scale y_i||^2 / 2), (B, D), in one pass over those images."""
        images, lengths = self.data.flatten(1)[place], self.lengths[place]
        peak = torch.full_like(scale, -torch.inf)
        total, weighted = torch.zeros_like(scale), torch.zeros_like(states)
        for block, length in zip(images.split(self.block), lengths.split(self.block), strict=True):
            # ||states||^2 is the same for all images and cancels in the softmax
            logits = scale * (states @ block.T) - scale.square() / 2 * length
            higher = torch.maximum(peak, logits.amax(dim=1, keepdim=True))
            share, kept = torch.exp(logits - higher), torch.exp(peak - higher)
            total = kept * total + share.sum(dim=1, keepdim=True)
            weighted = kept * weighted + share @ block
            peak = higher
        return weighted / total
