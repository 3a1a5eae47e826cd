"""The same seed gives the same triplane as it gave before: values of the bundled weights, kept across changes.

They were computed by version 0.1.0 (float32, AVX2). Change them only where a change of the assets is announced.
"""

import pytest
import torch
from torch import Tensor

from instant3d.pipelines.text_to_3d import DirectTextTo3D, Sampling, TextTo3D

pytestmark = pytest.mark.slow

PROMPT, SEED = "a red chair", 3
# By another order of summation, values differ by 1e-4; by bfloat16, which some processors compute in, by a few percent.
TOLERANCE = 0.1  # of the planes' standard deviation; another seed deviates by more than 0.3


def samples(planes: Tensor) -> Tensor:
    """64 of a triplane's values, evenly spread."""
    values = planes.flatten()
    return values[torch.linspace(0, len(values) - 1, 66).long()[1:-1]]


def deviation(planes: Tensor, expected: Tensor) -> float:
    """The root mean square error of the samples, as a part of their standard deviation."""
    return float((samples(planes) - expected).square().mean().sqrt() / expected.std())


def test_text_to_3d_gives_the_same_triplane_for_the_same_seed_as_before():
    model = TextTo3D.from_pretrained()
    (views,) = model.views([PROMPT], [SEED], sampling=Sampling(steps=2))
    planes = model.build(views).triplane.planes
    assert planes.shape == (3, 48, 64, 64)
    assert deviation(planes, TWO_STAGE) < TOLERANCE


def test_direct_text_to_3d_gives_the_same_triplane_for_the_same_seed_as_before():
    model = DirectTextTo3D.from_pretrained()
    planes = model.sample(model.encode([PROMPT]), [SEED]).planes
    assert planes.shape == (1, 3, 12, 64, 64)
    assert deviation(planes, DIRECT) < TOLERANCE


# fmt: off
TWO_STAGE = torch.tensor(
    [
        -7.2055, 0.9023, 0.5167, -1.1789, -2.9994, 1.4840, -0.0983, -3.0496, -2.5376, 4.0930, 1.0698, 0.9495,
        2.8932, -0.2396, 0.5745, 0.1617, -0.1608, 2.2324, -0.9424, -4.3307, 1.3201, -8.4837, -7.2812, 0.8364,
        -3.4962, -0.0286, -2.1733, 8.1238, 1.0784, -0.6399, 1.6400, 3.8346, -0.1125, 2.3116, 0.6898, -1.4008,
        1.4704, -5.5575, 2.2181, -0.4508, -0.4309, 3.2029, 0.3464, 5.9363, -2.4494, 1.0920, -0.4799, -0.2436,
        -0.4192, 7.6166, -2.1672, -1.4410, 0.1192, -3.0171, -0.9164, 2.7438, 0.2966, -3.7280, -1.3268, -6.7809,
        1.7470, 0.2379, 5.7017, 3.0546,
    ]
)
DIRECT = torch.tensor(
    [
        -1.1862, -0.7310, 2.7705, -1.2239, 0.2002, 0.9380, 1.8810, -0.3394, -0.6696, 0.6074, -1.2327, -3.1173,
        0.7127, 1.9064, -0.7575, -0.8276, -3.4886, -0.2944, -0.4166, 2.0587, -1.1238, 6.6854, -0.7540, 1.4137,
        1.3607, 2.1889, -0.0560, 1.4712, -2.1582, -0.9001, 13.5800, -3.5628, 0.3907, 6.4358, 6.0091, -8.4363,
        2.1350, -3.5236, -0.5654, -2.8994, -2.3919, -0.1796, -4.4677, -4.6081, 2.9940, 0.5639, 7.8935, 8.3893,
        -15.4334, -6.6609, -1.3580, -2.6495, -2.9624, 10.8778, -0.5051, 0.4701, 5.8078, 11.3930, 6.0744,
        -6.7417, -8.2739, 0.1550, 9.4273, -0.0832,
    ]
)
# fmt: on
