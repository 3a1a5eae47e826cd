"""Untrusted checkpoints and settings: errors describe what they are, and nothing in them is executed."""

import json
import os
import pickle
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from instant3d.direct.architecture import Architecture as DirectArchitecture
from instant3d.modules import losses
from instant3d.pipelines import convert
from instant3d.stage2.architecture import Architecture, read_architecture
from instant3d.training import fit
from instant3d.utils import tensor_files

ADVICE = ("weights_only", "torch.load", "add_safe_globals", "arbitrary code")
PAGE = b"<!DOCTYPE html><html><body>429 Too Many Requests</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1677246742\n"
OTHERS = [
    (PAGE, "is a web page"),
    (b"\xef\xbb\xbf\n  <html>", "is a web page"),
    (POINTER, f"is a Git LFS pointer of {len(POINTER)} bytes"),
    (b'{"error": "Not found"}', "is a JSON text"),
    (b"", "is empty"),
]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def pickled(path):
    path.write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    return path


def archived(path):
    torch.save({"state_dict": Evil()}, path)
    return path


def reads(path):
    """Every door for weights, by what opens it."""
    return [
        lambda: tensor_files.load_weights_only(path),
        lambda: tensor_files.load_tensors(path),
        lambda: fit.export(path, path.parent / "out"),
        lambda: convert.inspect("triposr", path),
    ]


@pytest.mark.parametrize(("content", "because"), OTHERS)
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_load_tensors_describes_a_file_that_is_no_weights(tmp_path, content, because, name):
    path = tmp_path / name
    path.write_bytes(content)
    for read in reads(path):
        with pytest.raises(ValueError, match=because) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not any(word in str(caught.value) for word in ADVICE)


@pytest.mark.slow
@pytest.mark.parametrize("write", [pickled, archived])
def test_tensor_files_refuse_a_pickle_by_name_and_never_runs_it(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "model.ckpt")
    for read in (reads(path)[0], *reads(path)[2:], lambda: losses.PerceptualLoss(str(path))):
        with pytest.raises(ValueError, match="more than tensors and numbers") as caught:
            read()
        assert "mkdir" in str(caught.value)
        assert not any(word in str(caught.value) for word in ADVICE)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(60), b"\x80\x02", bytes(100), b"plain words"])
def test_tensor_files_end_in_one_sentence_without_advice_for_a_broken_checkpoint(tmp_path, content):
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    for read in reads(path)[:2]:
        with pytest.raises(ValueError, match="is not a whole") as caught:
            read()
        assert str(path) in str(caught.value)
        assert not any(word in str(caught.value) for word in ADVICE)


def test_export_refuses_a_checkpoint_that_holds_no_dictionary(tmp_path):
    torch.save(torch.ones(3), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="holds a Tensor"):
        fit.export(tmp_path / "a.ckpt", tmp_path / "out")


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64])
def test_to_float32_converts_every_kind_of_number(tmp_path, kind):
    save_file({"a": torch.tensor([0.5, -2.0]).to(kind)}, tmp_path / "a.safetensors")
    value = tensor_files.to_float32("a", tensor_files.load_tensors(tmp_path / "a.safetensors")["a"])
    assert (value.dtype, value.tolist()) == (torch.float32, [0.5, -2.0])


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "\xff", "", PAGE.decode()])
def test_load_json_refuses_what_is_no_settings_in_a_sentence(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json"):
        tensor_files.load_json(tmp_path / "config.json")


BAD = [
    ("heads", 0),
    ("width", -4),
    ("depth", 10_000_000),
    ("encoder_depth", -1),
    ("channels", 0),
    ("token_side", 0),
    ("epsilon", float("nan")),
    ("background", float("inf")),
    ("decoder_layers", 0),
    ("patch", 0),
    ("registers", 10**9),
    ("known_radii", [float("nan"), 1]),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_check_ranges_names_field_value_and_range(tmp_path, name, value):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model": "stage2", name: value}))
    with pytest.raises(ValueError, match=rf"{name} must lie from .* to .*, got") as caught:
        read_architecture(config)
    assert str(config) in str(caught.value)


@pytest.mark.parametrize("name", ["token_heads", "layers", "head_width", "base_side", "last_groups", "text_length"])
@pytest.mark.parametrize("value", [0, -4, 10_000_000])
def test_check_ranges_holds_for_the_direct_network_too(name, value):
    with pytest.raises(ValueError, match=f"{name} must lie from"):
        DirectArchitecture(**{name: value})


def test_check_size_refuses_numbers_that_are_each_in_range_but_make_a_giant_together():
    with pytest.raises(ValueError, match="parameters, but at most 20,000,000,000 are built"):
        Architecture(width=16384, heads=16, depth=256)
    with pytest.raises(ValueError, match="parameters, but at most"):
        DirectArchitecture(widths=(16384,) * 5, layers=256)


def test_architecture_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="width of 1024 cannot be shared by 3 heads"):
        Architecture(heads=3)


@pytest.mark.parametrize("write", [pickled, archived, lambda path: torch.save({"a": 1}, path) or path])
def test_training_resumes_from_no_foreign_checkpoint(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.ckpt")
    command = SimpleNamespace(
        subcommand="fit",
        config={"fit": SimpleNamespace(ckpt_path=str(path), trainer=SimpleNamespace(default_root_dir=None))},
    )
    with pytest.raises(ValueError, match=r"a\.ckpt (holds more than tensors|is no training checkpoint)"):
        fit.TrainingCLI.before_instantiate_classes(command)
    assert not (tmp_path / "ran").exists()


def test_load_json_refuses_a_document_that_refers_to_itself(tmp_path):
    (tmp_path / "config.yaml").write_text("a: &a\n  b: *a\n  c: 1\n")
    (tmp_path / "model.ckpt").write_bytes(b"")
    torch.save({"a": torch.ones(1)}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="below more than 32 names"):
        convert.inspect("triposr", tmp_path / "model.ckpt")
