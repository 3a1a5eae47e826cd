"""Makes a small SDXL from nothing where no pretrained one is at hand: `python -m instant3d.stage1.scratch`.

It trains the parts that stage 1 leaves alone: a vocabulary from the captions, two text encoders against image towers
(CLIP, Radford et al. 2021), a VAE (Kingma & Welling 2014); the UNet is left random, for `instant3d fit stage1`. Each
part is written when it is done, and one that is there is not made again. Knows nothing of diffusion.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d import scenes
from instant3d.caption_words import CaptionWords
from instant3d.diffusion import sdxl
from instant3d.diffusion.components import Components
from instant3d.diffusion.small import clip_pair, train_tokenizer

TOKENS, LENGTH = 2000, 24  # vocabulary, and tokens of a prompt with both marks
TILE = 64  # pixels a side of one view
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "projection_dim": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
VISION: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": TILE,
    "patch_size": 8,
}
VAE: dict[str, Any] = {
    "sample_size": 2 * TILE,
    "latent_channels": 8,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 96, 128],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "force_upcast": False,
}
UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],  # attention among 8 x 8 latents, 4 x 4 of each view
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [128, 224],
    "layers_per_block": 1,
    "attention_head_dim": [2, 4],
    "transformer_layers_per_block": [1, 1],
    "use_linear_projection": True,
    "norm_num_groups": 16,
    "cross_attention_dim": 2 * TEXT["hidden_size"],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 6 * 32 + TEXT["projection_dim"],
}
SCHEDULE: dict[str, Any] = {**sdxl.SCHEDULER, "prediction_type": "v_prediction"}
KL = 3e-4  # nats a latent against mean absolute error: keeps latents near a unit normal, at little cost in sharpness


@dataclass(frozen=True)
class Pictures:
    """Structured views (N, 4, 3, TILE, TILE) over white as bytes, and the caption of each N."""

    views: Tensor
    captions: list[str]

    @classmethod
    def read(cls, folders: Sequence[Path]) -> Pictures:
        views, captions = [], []
        for folder in folders:
            scene = scenes.read(folder, frames=range(4), size=TILE)
            if not scene.caption:
                raise ValueError(f"{folder} has no caption, but text encoders are trained on captions; leave it out")
            views.append((scene.views.on(1.0) * 255).round().to(torch.uint8))
            captions.append(scene.caption)
        return cls(torch.stack(views), captions)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """`count` views of different scenes in [-1, 1], with their captions."""
        chosen = torch.randint(len(self.views), (count,), generator=generator)
        view = torch.randint(4, (count,), generator=generator)
        return self.views[chosen, view].float() / 127.5 - 1, [self.captions[k] for k in chosen]


def train_vae(vae: Any, pictures: Pictures, steps: int, batch: int = 16, rate: float = 1.5e-3) -> None:
    """Views in and out: absolute and squared errors, those of differences (edges) and of averages (colours), and KL."""
    average = torch.optim.swa_utils.AveragedModel(vae, avg_fn=_averaged)
    generator = torch.Generator().manual_seed(0)
    for step, optimizer in _schedule(vae.train(), steps, rate):
        wanted, _ = pictures.draw(batch, generator)
        if step % 2:
            wanted = wanted.flip(-1)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(wanted).latent_dist
            mean, log_variance = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=generator)
            shown = vae.decode(mean + noise * (log_variance / 2).exp()).sample
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        error = shown.float() - wanted
        _descend(vae, optimizer, _errors(error) + KL * divergence)
        average.update_parameters(vae)
        _say("vae", step, steps, f"{-10 * math.log10(float(error.detach().square().mean()) / 4):.1f} dB")
    vae.load_state_dict(average.module.state_dict())


def _errors(error: Tensor) -> Tensor:
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    colours = F.avg_pool2d(error, 4).abs().mean() + F.avg_pool2d(error, 8).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + edges / 2 + colours


@torch.no_grad()
def latent_scale(vae: Any, pictures: Pictures) -> float:
    """The factor that gives latents a standard deviation of 1 (SDXL's `scaling_factor`)."""
    shown, _ = pictures.draw(256, torch.Generator().manual_seed(1))
    return 1 / float(vae.encode(shown).latent_dist.mean.std())


def train_text(encoders: Sequence[Any], tokenizer: Any, pictures: Pictures, steps: int, batch: int = 128) -> None:
    """Each encoder and an image tower of its own tell which caption belongs to which view (InfoNCE).

    Equal captions in a batch count as one: each of their views is a right answer.
    """
    generator = torch.Generator().manual_seed(0)
    pairs = [clip_pair(encoder, VISION) for encoder in encoders]
    towers = nn.ModuleList(pairs).train()
    for step, optimizer in _schedule(towers, steps, 1e-3):
        shown, captions = pictures.draw(batch, generator)
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        same = torch.tensor([[float(one == other) for other in captions] for one in captions])
        wanted = same / same.sum(1, keepdim=True)
        loss = torch.zeros(())
        for pair in pairs:
            with torch.autocast("cpu", torch.bfloat16):
                scores = pair(input_ids=ids, pixel_values=shown).logits_per_text.float()
            loss = loss + (F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)) / 2
        _descend(towers, optimizer, loss)
        _say("text", step, steps, f"loss {float(loss.detach()) / len(pairs):.2f} (chance {math.log(batch):.2f})")


def make(folders: Sequence[Path], out: Path, *, vae_steps: int = 2800, text_steps: int = 240) -> Components:
    """The whole small SDXL, from what is in `out` already and what is made now."""
    pictures = Pictures.read(folders)
    if not (out / "tokenizer" / "vocab.json").is_file():
        train_tokenizer(pictures.captions, out / "tokenizer", TOKENS, LENGTH)
        CaptionWords.of(Counter(pictures.captions)).write(out / "tokenizer")
    torch.manual_seed(0)
    sizes = {"text_encoder": TEXT, "text_encoder_2": TEXT, "vae": VAE, "unet": UNET, "scheduler": SCHEDULE}
    parts = Components.build(sizes, out / "tokenizer")
    _kept(out / "vae.safetensors", [parts.vae], lambda: train_vae(parts.vae, pictures, vae_steps))
    parts.vae.register_to_config(scaling_factor=latent_scale(parts.vae, pictures))
    encoders = [parts.text_encoder, parts.text_encoder_2]
    _kept(out / "text.safetensors", encoders, lambda: train_text(encoders, parts.tokenizer, pictures, text_steps))
    parts.save(out, torch.float32)
    return parts


def _kept(file: Path, networks: Sequence[nn.Module], train: Callable[[], None]) -> None:
    """Train the networks, or read what an earlier call trained, so that an interruption costs one part at most."""
    from safetensors.torch import load_file, save_file

    together = nn.ModuleList(networks)
    if file.is_file():
        together.load_state_dict(load_file(file))
    else:
        train()
        partial = file.with_name(f".{file.name}.partial")
        save_file({key: value.contiguous() for key, value in together.state_dict().items()}, partial)
        partial.replace(file)
    together.eval().requires_grad_(False)


def _averaged(mean: Tensor, now: Tensor, count: Tensor | int) -> Tensor:
    """Weights averaged over about the last 200 steps, or over the last tenth while there were fewer."""
    return torch.lerp(mean, now, max(0.005, 10 / (float(count) + 10)))


def _schedule(module: nn.Module, steps: int, rate: float) -> Iterator[tuple[int, torch.optim.Optimizer]]:
    """Step numbers with an optimiser whose rate rises over 100 steps and falls along a cosine to a hundredth."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, betas=(0.9, 0.99))
    for step in range(steps):
        share = min(1, (step + 1) / 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        yield step, optimizer


def _descend(module: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def _say(part: str, step: int, steps: int, what: str) -> None:
    if step % 50 == 49 or step + 1 == steps:
        print(f"{part}: step {step + 1} of {steps}, {what}, {time.strftime('%X')}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the folder is whole, 2 for bad input."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m instant3d.stage1.scratch", description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path, help="folders of scene folders with captions")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the small SDXL")
    parser.add_argument("--vae-steps", type=int, default=2800)
    parser.add_argument("--text-steps", type=int, default=240)
    options = parser.parse_args(arguments)
    try:
        folders = [folder for source in options.scenes for folder in scenes.below(source)]
        if not folders:
            raise ValueError(f"there are no scene folders in {', '.join(map(str, options.scenes))}")
        make(folders, options.output, vae_steps=options.vae_steps, text_steps=options.text_steps)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: a small SDXL with a random UNet, from {len(folders)} scenes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
