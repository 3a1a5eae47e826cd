"""A tiny `TextToTriplane` whose shape is set by hand: whatever it reads, it answers a ball of `RADIUS` at the origin.

Its density is the decoder's blob alone; its colours are what random weights make of the text and the noise.
"""

import direct_runs
import torch

from instant3d.diffusion.prompt_tokens import PromptEncoder
from instant3d.direct.architecture import Architecture
from instant3d.direct.network import TextToTriplane

RADIUS = 0.6
BALL = Architecture.from_dict({**direct_runs.ARCHITECTURE, "blob": 500.0, "blob_radius": RADIUS})


def ball_network(architecture: Architecture = BALL) -> TextToTriplane:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TextToTriplane(architecture).eval().requires_grad_(False)
    network.decoder.last.weight[0].zero_()
    network.decoder.last.weight[1:].mul_(4)  # so that colours differ by more than rounding
    return network


def direct_folder(folder, taught=None):
    """The network beside a text encoder, as `instant3d export` leaves them."""
    direct_runs.text_folder(folder)
    network = ball_network()
    network.taught = taught
    network.save_pretrained(folder)
    assert PromptEncoder.from_pretrained(folder).width == BALL.text_width
    return folder
