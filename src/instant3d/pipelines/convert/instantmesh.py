"""InstantMesh's first stage (`InstantNeRF`, arXiv 2404.07191), in both directions: posed views to a triplane.

Its network is the paper's with a shorter decoder. Folded into the weights: the camera's axes (it embeds OpenGL
matrices, we OpenCV's). Set in the architecture: the resizing of positions, three epsilons, and that the columns of its
third plane run along z.
"""

from __future__ import annotations

from instant3d.pipelines.convert import parts
from instant3d.pipelines.convert.family import (
    Family,
    Release,
    Shapes,
    agreed,
    heads,
    huggingface_vit_sizes,
    triplane_sizes,
)
from instant3d.pipelines.convert.rules import Rule, count_layers, layers, linear, renamed
from instant3d.pipelines.convert.source import Config
from instant3d.stage2.architecture import Architecture

LICENCE = """\
These weights were converted from InstantMesh (TencentARC, arXiv 2404.07191).

Its code is given under Apache-2.0. Its authors say that they started from OpenLRM's weights, which are
CC BY-NC 4.0 (attribution, no commercial use); we know of no release of these weights from that condition, so take
them as **CC BY-NC 4.0**: https://creativecommons.org/licenses/by-nc/4.0/. It holds for whatever is fine-tuned from
them as well. Credit: Xu et al., "InstantMesh: Efficient 3D Mesh Generation from a Single Image with Sparse-view Large
Reconstruction Models", 2024; He and Wang, "OpenLRM: Open-Source Large Reconstruction Models", 2023.

What was changed: names and order of tensors, and the signs of six columns that look at a camera's y and z axes.
"""


def architecture(shapes: Shapes, config: Config) -> Architecture:
    """The architecture: sizes from the tensors; heads from the configuration, else of 64 channels each."""
    _, tokens, width = shapes.of("transformer.pos_embed", 3)
    depth = count_layers(shapes.keys(), "transformer.layers.")
    mlp = count_layers(shapes.keys(), "synthesizer.decoder.net.") // 2 + 1  # with ReLUs between
    agreed(config, {"transformer_dim": width, "transformer_layers": depth})
    return Architecture(
        image_size=0,
        **huggingface_vit_sizes(shapes, "encoder.model", config),
        **triplane_sizes(shapes, tokens, width, "transformer.deconv.weight", "synthesizer.decoder.net.0.weight", mlp),
        encoder_epsilon=float(config.get("vit.layer_norm_eps", default=1e-12)),
        positions="dino",
        camera_width=shapes.of("encoder.camera_embedder.2.weight", 2)[0],
        depth=depth,
        heads=heads(config, width, "transformer", "transformer_heads"),
        feed=shapes.of("transformer.layers.0.mlp.0.weight", 2)[0],
        last_epsilon=1e-6,
        plane_order="xy xz zy",
        resize="bicubic",
        # renders of its training set, and of Zero123++: heights of -0.75 to 1.6 at distances of 2 to 3.5, fov 50;
        # elevations of -10 and 20 at a distance of 4, fov 30
        known_elevations_deg=(-22.0, 53.0),
        known_radii=(2.0, 4.0),
        known_fovs_deg=(30.0, 50.0),
    )


def rules(a: Architecture) -> list[Rule]:
    """Conversion rules of all keys, in the order of the modules."""
    return [
        *parts.camera_embedding("encoder.camera", "encoder.camera_embedder"),
        *parts.huggingface_vit("encoder.model", a.encoder_depth),
        *layers(
            a.encoder_depth,
            [linear("encoder.modulations.{i}.linear", "encoder.model.encoder.layer.{i}.adaLN_modulation.1")],
        ),
        parts.pooler("encoder.model", a.encoder_width, written=False),
        renamed("tokens", "transformer.pos_embed"),
        *parts.lrm_transformer("transformer.layers", a.depth),
        linear("norm", "transformer.norm"),
        linear("upsample", "transformer.deconv"),
        *parts.decoder("synthesizer.decoder.net", a.decoder_layers),
    ]


def _release(size: str, depth: int, channels: int, parameters: int) -> Release:
    return Release(
        name=f"instant_nerf_{size}",
        source=f"TencentARC/InstantMesh/instant_nerf_{size}.ckpt",
        image_size=320,
        parameters=parameters,
        sizes={"width": 1024, "depth": depth, "channels": channels, "encoder_width": 768},
    )


FAMILY = Family(
    name="instantmesh",
    title="InstantMesh (InstantNeRF)",
    terms="CC BY-NC 4.0, by way of OpenLRM's weights: not for commercial use",
    licence=LICENCE,
    marks=("transformer.deconv.weight",),
    prefix="lrm_generator.",
    strangers=("lpips.", "source_camera", "render_cameras"),
    refused=(
        ("synthesizer.decoder.net_sdf.", "its mesh stage has no density; convert an instant_nerf_*.ckpt instead"),
        ("camera_embedder.mlp.", "its camera modulates the transformer: this is OpenLRM 1.0, convert it as openlrm"),
    ),
    files=("instant_nerf_large.ckpt",),
    preferred="instant_nerf_large.ckpt",
    releases=(_release("large", 16, 80, 378_477_332), _release("base", 12, 40, 313_249_004)),
    architecture=architecture,
    rules=rules,
)
