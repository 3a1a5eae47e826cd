"""Recommended settings of sampling: read from a stage 1's folder, checked, and overridden by what is given."""

import json

import pytest

from instant3d.modules.diffusion.lora import Lora
from instant3d.stage1.recommended_sampling import recommended_sampling, write_sampling
from instant3d.stage1.sampling_options import Sampling
from instant3d.utils import bundled


def test_recommended_sampling_is_the_folders_with_what_is_given(tmp_path):
    (tmp_path / "sampling.json").write_text('{"steps": 8, "sampler": "dpm++"}')
    assert recommended_sampling(tmp_path) == Sampling(steps=8, sampler="dpm++")
    assert recommended_sampling(tmp_path, steps=None, guidance=2.0) == Sampling(steps=8, sampler="dpm++", guidance=2.0)


def test_recommended_sampling_of_folders_without_settings_and_of_single_files_is_the_default(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert recommended_sampling(tmp_path) == recommended_sampling(tmp_path / "model.safetensors") == Sampling()


def test_recommended_sampling_of_a_lora_takes_the_place_of_its_stage_1s(tmp_path):
    stage1, plain, few, fewer = (tmp_path / name for name in ("stage1", "plain", "few", "fewer"))
    for folder in (stage1, plain, few, fewer):
        folder.mkdir()
    (stage1 / "sampling.json").write_text('{"steps": 12, "sampler": "dpm++"}')
    (few / "sampling.json").write_text('{"steps": 4, "guidance": 1.0}')
    (fewer / "sampling.json").write_text('{"steps": 2}')
    plain, few, fewer = (Lora(str(folder), 0.5) for folder in (plain, few, fewer))
    assert recommended_sampling(stage1, [few]) == Sampling(steps=4, guidance=1.0)
    assert recommended_sampling(stage1, [few, plain], steps=6) == Sampling(steps=6, guidance=1.0)
    assert recommended_sampling(stage1, [few, fewer]) == Sampling(steps=2)
    alone = [plain, Lora(str(tmp_path / "few" / "a.safetensors")), Lora("owner/name")]
    assert recommended_sampling(stage1, alone) == Sampling(steps=12, sampler="dpm++")


def test_recommended_sampling_of_a_hub_id_is_that_of_its_repository(tmp_path, monkeypatch):
    (tmp_path / "sampling.json").write_text('{"steps": 4}')
    asked = []

    def download(name, allow_patterns, ignore_patterns):
        asked.append((name, allow_patterns))
        return tmp_path

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert recommended_sampling("owner/name") == Sampling(steps=4)
    assert asked == [("owner/name", ["sampling.json"])]


def test_recommended_sampling_of_nothing_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a folder in diffusers' layout"):
        recommended_sampling(tmp_path / "missing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"steps": "many"}', "steps"),
        ('{"steps": 0}', "steps must lie from 1"),
        ('{"sampler": "runge-kutta"}', "sampler"),
        ('{"guidance_stop": 1.5}', "guidance_stop must lie from 0 to 1"),
        ('{"temperature": 1}', "temperature"),
        ("[30]", "holds no object but a list"),
        ("{", "not valid JSON"),
    ],
)
def test_recommended_sampling_refuses_an_invalid_file_in_one_sentence(content, message, tmp_path):
    (tmp_path / "sampling.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        recommended_sampling(tmp_path)
    assert "sampling.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_write_sampling_names_only_what_differs_from_the_defaults(tmp_path):
    write_sampling(Sampling(steps=4, sampler="lcm", guidance=1.0), tmp_path)
    assert json.loads((tmp_path / "sampling.json").read_text()) == {"steps": 4, "sampler": "lcm", "guidance": 1.0}


def test_recommended_sampling_of_the_bundled_weights_is_measured_in_the_docs():
    found = recommended_sampling(bundled.STAGE1)
    assert (found.sampler, found.guidance, found.start) == ("dpm++", 5.0, "blob")
