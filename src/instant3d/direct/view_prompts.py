"""View-dependent prompts (front, side, back) and their interpolation and Perp-Neg weights by camera azimuth.

An object's front faces -y, so a camera at azimuth 270 is in front of it. "Azimuth from the front" is 0 there, +-90 at
the sides and 180 behind (the paper writes 180 for the front and 0 for the back). View words are in the order of VIEWS.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from instant3d.cameras import FRONT_AZIMUTH_DEG

VIEWS = ("front view", "side view", "back view")
OVERHEAD_DEG = 60.0  # threestudio's: seen from above, front and side words do not apply

Schedule = Literal["stable-dreamfusion", "threestudio"]

# stable-dreamfusion's front_decay_factor and side_decay_factor
FRONT_DECAY, SIDE_DECAY = 2.0, 10.0
# below the first share a view is no negative of its neighbour, above the second none of itself
LEAST_SHARE, MOST_SHARE = 0.2, 0.8
# threestudio's a exp(-b r) + c, whose w_neg is about 2; its c is this rounded, -2.426 and -0.606
THREESTUDIO_DECAY, THREESTUDIO_NEAR, THREESTUDIO_FAR, THREESTUDIO_BEHIND = 0.5, 4.0, 1.0, 0.967
THREESTUDIO_SCALE = 2.0


def from_front(azimuth_deg: Tensor) -> Tensor:
    """Convert azimuths (...) of cameras to degrees from the front, in [-180, 180)."""
    return (azimuth_deg - FRONT_AZIMUTH_DEG + 180) % 360 - 180


def with_view_words(prompt: str, view: str) -> str:
    """Append the words of one of VIEWS to a prompt; wording as in threestudio, since the paper prints none."""
    return f"{prompt}, {view}"


def view_shares(azimuth_from_front_deg: Tensor) -> Tensor:
    """Share of each of VIEWS (B, 3) in the positive prompt of a camera (B,): linear between the two nearest."""
    turn = _turn(azimuth_from_front_deg)
    front, back = (1 - turn).clamp(min=0), (turn - 1).clamp(min=0)
    return torch.stack([front, 1 - front - back, back], dim=-1)


def negative_weights(
    azimuth_from_front_deg: Tensor,
    schedule: Schedule = "stable-dreamfusion",
    elevation_deg: Tensor | None = None,
    *,
    overhead_deg: float = OVERHEAD_DEG,
) -> Tensor:
    """Weight of each of VIEWS as a negative prompt of a camera; 0 for no negative.

    The paper names no weights, so both published schedules of Perp-Neg (Armandpour et al. 2023) are here, brought to
    one
    scale: multiply by w_neg. "back view" is a negative in neither.

    Args:
        azimuth_from_front_deg: (B,).
        schedule: Which published schedule.
        elevation_deg: (B,), for `overhead_deg`.
        overhead_deg: Elevation above which there are no negatives.

    Returns:
        (B, 3).

    Raises:
        ValueError: There is no such schedule.
    """
    if schedule not in get_args(Schedule):
        raise ValueError(f"there is no schedule {schedule!r} of negative prompts; choose among {_names()}")
    turn = _turn(azimuth_from_front_deg)
    front, side = (_stable_dreamfusion if schedule == "stable-dreamfusion" else _threestudio)(turn)
    weights = torch.stack([front, side, torch.zeros_like(front)], dim=-1)
    if elevation_deg is not None:
        weights = weights * (elevation_deg <= overhead_deg).to(weights)[..., None]
    return weights


def _turn(azimuth_from_front_deg: Tensor) -> Tensor:
    """Quarter turns away from the front, 0 to 2, left and right alike."""
    return ((azimuth_from_front_deg + 180) % 360 - 180).abs() / 90


def _stable_dreamfusion(turn: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of front and side at w_neg = 1 (`get_pos_neg_text_embeddings`); 90 degrees belongs to the second half."""
    facing, r = turn < 1, torch.where(turn < 1, 1 - turn, 2 - turn)  # r: share of front before the side, then of side
    front = torch.where(r > MOST_SHARE, 0.0, torch.exp(-FRONT_DECAY * r))
    side_facing = torch.where(r < LEAST_SHARE, 0.0, torch.exp(-SIDE_DECAY * (1 - r)))
    side_behind = torch.where(r > MOST_SHARE, 0.0, torch.exp(-SIDE_DECAY * r) / 2)
    return torch.where(facing, front, torch.ones_like(front)), torch.where(facing, side_facing, side_behind)


def _threestudio(turn: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of front and side, halved because they are meant for w_neg = 2 (`perp_neg_f_fs`, `_sf`, `_sb`, `_fsb`).

    The published offsets, rounded to three places, are taken unrounded, so that no view is a negative of itself.
    """
    facing, r = turn < 1, torch.where(turn < 1, 1 - turn, 2 - turn)
    front_behind = torch.exp(-THREESTUDIO_DECAY * r) + THREESTUDIO_BEHIND
    front = torch.where(facing, _decay(THREESTUDIO_NEAR, r), front_behind)
    side = torch.where(facing, _decay(THREESTUDIO_NEAR, 1 - r), _decay(THREESTUDIO_FAR, r))
    return front / THREESTUDIO_SCALE, side / THREESTUDIO_SCALE


def _decay(height: float, r: Tensor) -> Tensor:
    """A falling exponential that is 0 at r = 1."""
    return (height * (torch.exp(-THREESTUDIO_DECAY * r) - math.exp(-THREESTUDIO_DECAY))).clamp(min=0)


def _names() -> str:
    return ", ".join(get_args(Schedule))
