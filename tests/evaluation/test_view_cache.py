"""The cache of generated views: requests, names, and what remains after an interruption. The model is a stand-in."""

import dataclasses

import pytest
import torch

from instant3d.cameras import structured_cameras
from instant3d.evaluation.view_cache import ViewCache, ViewRequest, fingerprint, read_prompt_list, view_requests
from instant3d.modules.diffusion.lora import Lora
from instant3d.stage1.sampling_options import Sampling
from instant3d.views import Views


class FakeModel:
    """Makes four flat views whose grey is the seed, and lists its seeds; interrupted after `most` of them."""

    def __init__(self, most: int = 100) -> None:
        self.seeds: list[int] = []
        self.most = most

    def views(self, prompts, seeds, *, sampling):
        if len(self.seeds) >= self.most:
            raise KeyboardInterrupt
        self.seeds += seeds
        return [
            Views(torch.full((4, 3, 8, 8), seed / 255), torch.ones(4, 1, 8, 8), structured_cameras()) for seed in seeds
        ]


def view_cache(folder, model, sampling=Sampling()):
    return ViewCache(folder, "stage1", sampling, lambda: model, at_once=2)


def test_view_requests_have_different_seeds_from_the_first_on():
    wanted = view_requests(["a", "b", "c"], seed=7, each=2)
    assert [request.seed for request in wanted] == [7, 8, 9, 10, 11, 12]
    assert [request.prompt for request in wanted] == ["a", "a", "b", "b", "c", "c"]


def test_view_cache_resumes_with_the_missing_views(tmp_path):
    wanted = view_requests([f"prompt {k}" for k in range(5)])
    with pytest.raises(KeyboardInterrupt):
        view_cache(tmp_path, FakeModel(most=2)).fill(wanted)
    second = FakeModel()
    again = view_cache(tmp_path, second)
    again.fill(wanted)
    assert second.seeds == [2, 3, 4]
    assert [round(again.views(request).rgb.mean().item() * 255) for request in wanted] == [0, 1, 2, 3, 4]
    assert all(again.seconds(request) >= 0 for request in wanted)
    third = ViewCache(tmp_path, "stage1", Sampling(), lambda: pytest.fail("nothing is missing"), at_once=2)
    third.fill(wanted)


def test_view_cache_samples_another_prompt_with_the_same_seed_again(tmp_path):
    model = FakeModel()
    view_cache(tmp_path, model).fill([ViewRequest("a red chair", 3)])
    view_cache(tmp_path, model).fill([ViewRequest("a red chair!", 3)])  # the same folder's name
    assert model.seeds == [3, 3]


def test_view_cache_has_another_folder_for_other_settings_or_weights(tmp_path):
    model = FakeModel()
    view_cache(tmp_path, model).fill([ViewRequest("a", 0)])
    view_cache(tmp_path, model, Sampling(steps=4)).fill([ViewRequest("a", 0)])
    assert model.seeds == [0, 0]
    names = {
        fingerprint("x", dataclasses.replace(Sampling(), **change))
        for change in ({}, {"sigma": 0.2}, {"start": "noise"})
    }
    assert len(names | {fingerprint("y", Sampling())}) == 4
    weights = tmp_path / "unet" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"12")
    before = fingerprint(tmp_path, Sampling())
    weights.write_bytes(b"123")
    assert fingerprint(tmp_path, Sampling()) != before


def test_view_cache_has_another_folder_for_another_lora_or_weight_of_it(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"1")
    lora = Lora(str(file))
    names = [fingerprint("x", Sampling(), loras) for loras in ((), (lora,), (Lora(str(file), 0.5),), (lora, lora))]
    file.write_bytes(b"12")
    assert len({*names, fingerprint("x", Sampling(), [lora])}) == 5


def test_prompt_list_must_be_valid_and_without_repetition(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("# a comment\na red chair\n\na blue boat\na green house\n")
    assert read_prompt_list(file, 2) == ["a red chair", "a blue boat"]
    for text, message in (("# nothing\n", "no prompt"), ("a\nb\na\n", "twice"), ("a\nb\x07\n", "line 2")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_prompt_list(file)
