"""What a short run of the direct system needs, made within a second: a text encoder, a CLIP, and a guide's pictures."""

import torch
import yaml

from instant3d import scenes
from instant3d.cameras import orbit
from instant3d.diffusion.components import make
from instant3d.diffusion.prompt_tokens import PromptEncoder
from instant3d.diffusion.small import train_tokenizer
from instant3d.direct.directions import FRONT_AZIMUTH_DEG
from instant3d.views import Views

PROMPTS = ["a red ball", "a blue ball"]
LENGTH, WIDTH, SIDE = 8, 16, 16
ARCHITECTURE = {
    "text_width": WIDTH, "text_length": LENGTH, "token_width": 16, "token_heads": 2, "style_text_width": 16,
    "noise_width": 8, "style_width": 32, "base_side": 4, "base_channels": 16, "widths": [16, 16], "groups": [4, 4],
    "attention": [True, False], "layers": 1, "head_width": 8, "norm": "group", "last_groups": 4, "channels": 8,
    "decoder_width": 16, "blob": 5.0, "blob_radius": 0.5,
}  # fmt: skip


def text_folder(folder):
    """A tokenizer and a random CLIP text encoder, as a Stable Diffusion has them."""
    from transformers import CLIPTokenizer

    train_tokenizer(PROMPTS, folder / "tokenizer", size=530, max_length=LENGTH)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        PromptEncoder(tokenizer, make("text_encoder", {**sizes, **marks, **words})).save(folder)
    return folder


def clip_folder(folder):
    """A random CLIP that sees 16 x 16 pixels, as transformers saves one."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    train_tokenizer(PROMPTS, folder, size=530, max_length=LENGTH)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pixels = {**sizes, "image_size": 16, "patch_size": 8}
        CLIPModel(CLIPConfig(text_config={**sizes, **words}, vision_config=pixels, projection_dim=8)).save_pretrained(
            folder
        )
    side = {"height": 16, "width": 16}
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=side).save_pretrained(folder)
    return folder


def ball_views(front, back=None, size=SIDE, radius=0.5, azimuths=(0, 90, 180)):
    """Views (V,) of a ball at the origin, at azimuths from the front; its back (y > 0) may have its own colour."""
    cameras = orbit([FRONT_AZIMUTH_DEG + azimuth for azimuth in azimuths], 10.0)
    rays = cameras.rays(size, size)
    middle = -(rays.origins * rays.directions).sum(-1)
    across = (rays.origins + middle[..., None] * rays.directions).norm(dim=-1)
    surface = rays.origins + (middle - (radius**2 - across**2).clamp(min=0).sqrt())[..., None] * rays.directions
    alpha = ((radius - across) * size / 2 + 0.5).clamp(0, 1)[:, None]  # antialiased
    colours = torch.tensor([front, back or front])
    rgb = colours[(surface[..., 1] > 0).long()].movedim(-1, -3)
    return Views(rgb.clone(), alpha, cameras)


def write_balls(root):
    """A red and a blue ball, black behind, as scene folders captioned by `PROMPTS`: one picture for each view word."""
    for prompt, colour in zip(PROMPTS, [(0.9, 0.1, 0.1), (0.1, 0.2, 0.8)], strict=True):
        views = ball_views(colour, (0.1, 0.1, 0.1))
        scenes.write(root / prompt.split()[1], views, caption=prompt, object_id=prompt)
    return root


def command(run, text, balls, trainer, *more, **model):
    """The words behind `instant3d` for a short run in the folder `run`, taught by the exact model of the balls."""
    run.mkdir(parents=True, exist_ok=True)
    settings = {
        "architecture": ARCHITECTURE,
        "text": str(text),
        "guidance": {"class_path": "FiniteGuidance", "init_args": {"scenes": str(balls), "size": SIDE}},
        "clip": None,
        "scoring": {"scale": 5.0, "against": "none"},
        "picture": {"size": SIDE, "samples": 12, "importance": 0},
        "background": "white",
        "learning_rate": 2e-3,
    }
    data = {"prompts": PROMPTS, "batch_size": 4}
    config = {"model": {**settings, **model}, "data": data, "trainer": trainer}
    (run / "run.yaml").write_text(yaml.safe_dump(config))
    return ["fit", "direct", "-c", str(run / "run.yaml"), *more]
