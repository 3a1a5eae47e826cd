"""Formulas of the diffusion process, all functions of abar (alphas_cumprod), the share of signal left.

x_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps (Ho et al. 2020, eq. 4). `kind` is what the network predicts: "epsilon",
or "v_prediction", v = sqrt(abar) eps - sqrt(1 - abar) z (Salimans and Ho 2022, appendix D). `abar` is one number per
sample, (B,), or has as many dimensions as the samples.
"""

from __future__ import annotations

from torch import Tensor

KINDS = ("epsilon", "v_prediction")


def add_noise(z: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """Noisy samples of clean samples (Ho et al. 2020, eq. 4).

    Args:
        z: Clean samples, (B, ...).
        eps: Their noise, (B, ...).
        abar: Share of signal of each sample.

    Returns:
        x_t, (B, ...).
    """
    signal, noise = _roots(abar, z)
    return signal * z + noise * eps


def training_target(kind: str, z: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """Regression target of a network that predicts `kind` from `add_noise(z, eps, abar)`.

    Args:
        kind: "epsilon" or "v_prediction".
        z: Clean samples, (B, ...).
        eps: Their noise, (B, ...).
        abar: Share of signal of each sample.

    Returns:
        eps or v, (B, ...).
    """
    signal, noise = _roots(abar, z)
    return eps if _check_kind(kind) == "epsilon" else signal * eps - noise * z


def predict_clean(kind: str, output: Tensor, x_t: Tensor, abar: Tensor) -> Tensor:
    """Clean samples implied by a network's output; the inverse of `training_target`.

    Args:
        kind: "epsilon" or "v_prediction".
        output: The network's prediction, (B, ...).
        x_t: Noisy samples that it was given, (B, ...).
        abar: Share of signal of each sample.

    Returns:
        z, (B, ...).
    """
    signal, noise = _roots(abar, x_t)
    return (x_t - noise * output) / signal if _check_kind(kind) == "epsilon" else signal * x_t - noise * output


def predict_noise(kind: str, output: Tensor, x_t: Tensor, abar: Tensor) -> Tensor:
    """Noise implied by a network's output.

    Args:
        kind: "epsilon" or "v_prediction".
        output: The network's prediction, (B, ...).
        x_t: Noisy samples that it was given, (B, ...).
        abar: Share of signal of each sample.

    Returns:
        eps, (B, ...).
    """
    if _check_kind(kind) == "epsilon":
        return output
    signal, share = _roots(abar, x_t)
    return signal * output + share * x_t


def min_snr_weight(kind: str, abar: Tensor, gamma: float) -> Tensor:
    """Min-SNR loss weight of each sample (Hang et al. 2023, section 3.4), with SNR = abar / (1 - abar).

    min(SNR, gamma) weighs the error of z. The error of eps is SNR and that of v is SNR + 1 times as large, so their
    weights are min(SNR, gamma) / SNR and min(SNR, gamma) / (SNR + 1).

    Args:
        kind: What the network predicts.
        abar: Share of signal of each sample.
        gamma: Largest weight of an error of z, above 0; 5 in the paper.

    Returns:
        Weights of `abar`'s shape.

    Raises:
        ValueError: `gamma` is not positive or `kind` is unknown.
    """
    if gamma <= 0:
        raise ValueError(f"the gamma of min-SNR weighting must be above 0, got {gamma}; 5 is the paper's value")
    noise = 1 - abar
    # multiplied through by 1 - abar, which keeps both finite at abar = 1 (no noise) and abar = 0 (no signal)
    if _check_kind(kind) == "epsilon":
        return (gamma * noise / abar).clamp(max=1.0)
    return abar.minimum(gamma * noise)


def _roots(abar: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar) and sqrt(1 - abar), shaped to multiply `like`, in its type."""
    shaped = abar.reshape(abar.shape + (1,) * (like.dim() - abar.dim())).to(like.device)
    return shaped.sqrt().to(like.dtype), (1 - shaped).sqrt().to(like.dtype)


def _check_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"a network predicts one of {', '.join(KINDS)}, not {kind!r}; set prediction_type to one")
    return kind
