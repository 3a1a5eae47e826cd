"""The peers' released networks, built without memory: names, shapes and counts are those of their own modules."""

import re

import pytest
import torch

from instant3d.pipelines import convert

HF = {
    "embeddings.cls_token": "1,1,F", "embeddings.position_embeddings": "1,197,F",
    "embeddings.patch_embeddings.projection.weight": "F,3,16,16", "embeddings.patch_embeddings.projection.bias": "F",
    "layernorm.weight": "F", "layernorm.bias": "F",
}  # fmt: skip
HF_LAYER = {
    "attention.attention.query.weight": "F,F", "attention.attention.query.bias": "F",
    "attention.attention.key.weight": "F,F", "attention.attention.key.bias": "F",
    "attention.attention.value.weight": "F,F", "attention.attention.value.bias": "F",
    "attention.output.dense.weight": "F,F", "attention.output.dense.bias": "F",
    "intermediate.dense.weight": "4F,F", "intermediate.dense.bias": "4F",
    "output.dense.weight": "F,4F", "output.dense.bias": "F",
    "layernorm_before.weight": "F", "layernorm_before.bias": "F",
    "layernorm_after.weight": "F", "layernorm_after.bias": "F",
}  # fmt: skip
LRM_LAYER = {
    "cross_attn.q_proj_weight": "D,D", "cross_attn.k_proj_weight": "D,F", "cross_attn.v_proj_weight": "D,F",
    "cross_attn.out_proj.weight": "D,D", "self_attn.in_proj_weight": "3D,D", "self_attn.out_proj.weight": "D,D",
    "mlp.0.weight": "4D,D", "mlp.0.bias": "4D", "mlp.3.weight": "D,4D", "mlp.3.bias": "D",
}  # fmt: skip


def vit(prefix, layer=HF_LAYER):
    keys = {f"{prefix}.{key}": shape for key, shape in HF.items()}
    return keys | {f"{prefix}.encoder.layer.{i}.{key}": shape for i in range(12) for key, shape in layer.items()}


def pair(name, shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape.split(",")[0]}


def instantmesh(depth):
    """The released networks' keys and shapes, as printed from InstantMesh's modules."""
    adaptive = HF_LAYER | pair("adaLN_modulation.1", "4F,F")
    layer = LRM_LAYER | {f"norm{n}.{kind}": "D" for n in (1, 2, 3) for kind in ("weight", "bias")}
    return {
        **pair("encoder.camera_embedder.0", "F,16"), **pair("encoder.camera_embedder.2", "F,F"),
        **vit("encoder.model", adaptive), "transformer.pos_embed": "1,3072,D",
        **{f"transformer.layers.{i}.{key}": shape for i in range(depth) for key, shape in layer.items()},
        "transformer.norm.weight": "D", "transformer.norm.bias": "D",
        "transformer.deconv.weight": "D,C,2,2", "transformer.deconv.bias": "C",
        **nerf("synthesizer.decoder.net", 4),
    }  # fmt: skip


def openlrm(depth, encoder_depth=12):
    model = {
        "cls_token": "1,1,F", "pos_embed": "1,1370,F", "register_tokens": "1,4,F",
        **pair("patch_embed.proj", "F,3,14,14"), "norm.weight": "F", "norm.bias": "F",
    }  # fmt: skip
    block = {
        "norm1.weight": "F", "norm1.bias": "F", **pair("attn.qkv", "3F,F"), **pair("attn.proj", "F,F"),
        "ls1.gamma": "F", "norm2.weight": "F", "norm2.bias": "F", **pair("mlp.fc1", "4F,F"), **pair("mlp.fc2", "F,4F"),
        "ls2.gamma": "F",
    }  # fmt: skip
    layer = dict(LRM_LAYER)
    for n in (1, 2, 3):
        layer |= {f"norm{n}.norm.weight": "D", f"norm{n}.norm.bias": "D", **pair(f"norm{n}.mlp.1", "2D,1024")}
    return {
        **{f"encoder.model.{key}": shape for key, shape in model.items()},
        **{f"encoder.model.blocks.{i}.{key}": shape for i in range(encoder_depth) for key, shape in block.items()},
        **pair("camera_embedder.mlp.0", "1024,16"), **pair("camera_embedder.mlp.2", "1024,1024"),
        "pos_embed": "1,3072,D",
        **{f"transformer.layers.{i}.{key}": shape for i in range(depth) for key, shape in layer.items()},
        "transformer.norm.weight": "D", "transformer.norm.bias": "D",
        "upsampler.weight": "D,C,2,2", "upsampler.bias": "C", **nerf("synthesizer.decoder.net", 4),
    }  # fmt: skip


def triposr(depth):
    layer = {f"norm{n}.{kind}": "D" for n in (1, 2, 3) for kind in ("weight", "bias")}
    for name, keys in (("attn1", "D"), ("attn2", "F")):
        layer |= {f"{name}.to_q.weight": "D,D", f"{name}.to_k.weight": f"D,{keys}", f"{name}.to_v.weight": f"D,{keys}"}
        layer |= pair(f"{name}.to_out.0", "D,D")
    layer |= pair("ff.net.0.proj", "8D,D") | pair("ff.net.2", "D,4D")
    return {
        **vit("image_tokenizer.model"), **pair("image_tokenizer.model.pooler.dense", "F,F"),
        "tokenizer.embeddings": "3,D,32,32", "backbone.norm.weight": "D", "backbone.norm.bias": "D",
        **pair("backbone.proj_in", "D,D"), **pair("backbone.proj_out", "D,D"),
        **{f"backbone.transformer_blocks.{i}.{key}": shape for i in range(depth) for key, shape in layer.items()},
        "post_processor.upsample.weight": "D,C,2,2", "post_processor.upsample.bias": "C", **nerf("decoder.layers", 10),
    }  # fmt: skip


def nerf(prefix, count):
    shapes = ["64,3C", *["64,64"] * (count - 2), "4,64"]
    return {key: shape for k, each in enumerate(shapes) for key, shape in pair(f"{prefix}.{2 * k}", each).items()}


def sized(template, **sizes):
    """Shapes such as `3D,F` with numbers for their letters."""

    def number(word):
        times, letter = re.fullmatch(r"(\d*)([DFC]?)", word).groups()
        return int(times or 1) * (sizes[letter] if letter else 1)

    return {key: tuple(map(number, shape.split(","))) for key, shape in template.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "shapes", "count", "heads", "release"),
    [
        ("instantmesh", sized(instantmesh(16), D=1024, F=768, C=80), 378_477_332, (12, 16), "instant_nerf_large"),
        ("instantmesh", sized(instantmesh(12), D=1024, F=768, C=40), 313_249_004, (12, 16), "instant_nerf_base"),
        ("openlrm", sized(openlrm(12), D=512, F=384, C=32), None, (6, 8), "openlrm-small-1.1"),
        ("openlrm", sized(openlrm(12), D=768, F=768, C=48), None, (12, 12), "openlrm-base-1.1"),
        ("openlrm", sized(openlrm(16), D=1024, F=768, C=80), None, (12, 16), "openlrm-large-1.1"),
        ("triposr", sized(triposr(16), D=1024, F=768, C=40), 419_275_628, (12, 16), "TripoSR"),
    ],
)
def test_to_original_of_the_released_sizes_has_the_peers_names_shapes_and_counts(family, shapes, count, heads, release):
    with torch.device("meta"):
        theirs = {key: torch.empty(shape) for key, shape in shapes.items()}
        network = convert.to_native(family, theirs)
        again = convert.to_original(family, network)
    assert {key: tuple(value.shape) for key, value in again.items()} == shapes
    total = sum(value.numel() for value in again.values())
    (known,) = (each for each in convert.FAMILIES[family].releases if each.name == release)
    assert total == known.parameters == (count or total)
    assert (network.architecture.encoder_heads, network.architecture.heads) == heads
    assert network.architecture.image_size == known.image_size


def test_instantmesh_has_495_tensors():
    assert len(instantmesh(16)) == 495
