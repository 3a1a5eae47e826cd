"""Scenes from folders, tars and URLs alike: the same ones, each once, within bounds, and damage is named."""

import io
import json
import multiprocessing
import os
import re
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import torch
from balls import ball_views
from shard_server import served
from tiny_sdxl import tiny_sdxl_folder
from torch.utils.data import DataLoader
from training_runs import trainer_settings

from instant3d import scenes
from instant3d.cli.main import main
from instant3d.scenes import shard_cache
from instant3d.scenes.dataset import SceneSources
from instant3d.scenes.pack import pack
from instant3d.scenes.shard_cache import RemoteShards, ShardCache
from instant3d.stage1.data import GridDataModule
from instant3d.stage2.augmentation import ViewSampling
from instant3d.stage2.data import ReconstructionBatch, SceneDataModule, TrainDataset
from instant3d.utils.data_order import ResumableBatchSampler, WeightedMixture, shuffled
from instant3d.utils.errors import format_error

COUNT, PER_SHARD = 12, 2
SAMPLING = ViewSampling(inputs=2, targets=2, patch=8, zoom=(8, 12), structured_probability=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scene k is a ball of the colour k / 16 (red)."""
    root = tmp_path_factory.mktemp("scenes")
    for k in range(COUNT):
        views = ball_views((k / 16, 0.5, 0.5), size=16)
        scenes.write(root / f"{k:02d}", views, caption=f"ball {k}", object_id=f"ball{k}")
    return root


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("packed") / "shards"
    pack([folder], target, PER_SHARD)
    return target


@pytest.fixture
def server(packed):
    with served(packed) as files:
        yield files


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(shard_cache, "PAUSES", (0.0,))


def scene_of(example):
    """Which scene an example or a batch of one shows, by its colour."""
    shown = example.inputs.rgb.movedim(-3, 0)[0][example.inputs.alpha.squeeze(-3) > 0.99]
    return round(float(shown.mean()) * 16)


def in_memory(packed, name):
    """The URL of a copy in this process."""
    for path in packed.iterdir():
        fsspec.filesystem("memory").pipe_file(f"/{name}/{path.name}", path.read_bytes())
    return f"memory://{name}"


def data(source, cache, **settings):
    settings = {"image_size": 16, "view_sampling": SAMPLING, "batch_size": 1, "workers": 0} | settings
    roots = [source] if isinstance(source, str | Path) else source
    return SceneDataModule([str(root) for root in roots], cache=str(cache), **settings)


def loader(source, cache, step=0, rank=0, world=1, **settings):
    """Loader with the settings of training."""
    made = data(source, cache, **settings)
    made.trainer = SimpleNamespace(
        global_step=step, accumulate_grad_batches=1, global_rank=rank, world_size=world
    )  # fmt: skip
    return made.train_dataloader()


def first(batches, count):
    found = iter(batches)
    return [next(found) for _ in range(count)]


def tensors(example):
    found = []
    example.map(lambda tensor: found.append(tensor) or tensor)
    return found


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.slow
def test_stage2_data_is_the_same_from_folders_tars_and_urls_of_every_kind(folder, packed, server, tmp_path):
    places = [packed, packed.as_uri(), in_memory(packed, "alike2"), server.url, f"{server.url}/"]
    expected = first(loader(folder, tmp_path), COUNT + 2)
    for place in places:
        found = first(loader(place, tmp_path), COUNT + 2)
        assert all(same(*pair) for pair in zip(found, expected, strict=True)), place
    assert not same(expected[0], expected[1]), "the test would see examples that differ"


@pytest.mark.slow
def test_stage1_data_is_the_same_from_folders_tars_and_urls_of_every_kind(folder, packed, server, tmp_path):
    places = [folder, packed, packed.as_uri(), in_memory(packed, "alike1"), server.url]
    batches = []
    for place in places:
        made = GridDataModule([str(place)], size=32, batch_size=COUNT + 2, workers=0, cache=str(tmp_path), window=6)
        batches.append(next(iter(made.train_dataloader())))
    for batch in batches[1:]:
        assert torch.equal(batch.grids, batches[0].grids)
        assert batch.prompts == batches[0].prompts
    assert sorted(batches[0].prompts[:COUNT]) == sorted(f"ball {k}" for k in range(COUNT))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "packed", "http"])
def test_scene_sources_give_two_processes_of_two_workers_every_scene_of_an_epoch_once(
    folder, packed, server, tmp_path, place
):
    source = {"folder": folder, "packed": packed, "http": server.url}[place]
    ranks = [iter(loader(source, tmp_path, rank=rank, world=2, workers=2, window=2)) for rank in range(2)]
    for _ in range(2):  # epochs
        seen = [scene_of(next(batches)) for _ in range(COUNT // 2) for batches in ranks]
        assert sorted(seen) == list(range(COUNT))
    if place == "http":
        tars = {name: count for name, count in server.asked.items() if name.endswith(".tar")}
        assert tars == {f"{k:05d}.tar": 1 for k in range(COUNT // PER_SHARD)}, "each fetched once by four workers"


@pytest.mark.slow
def test_scene_sources_give_a_resumed_run_the_data_that_it_would_have_had(packed, server, tmp_path):
    whole = first(loader(packed, tmp_path / "a", window=2), COUNT + 8)
    for step in (1, 5, COUNT + 3):  # another disk, another kind of place
        rest = first(loader(server.url, tmp_path / "b", step=step, window=2), 4)
        assert all(same(*pair) for pair in zip(rest, whole[step : step + 4], strict=True))


@pytest.mark.slow
def test_scene_sources_let_forked_workers_read_urls_after_their_parent_did(server, tmp_path):
    found = SceneSources.find([server.url], ShardCache(tmp_path, 2**30))
    supply = TrainDataset(found, 16, SAMPLING)
    expected = [ReconstructionBatch.stack([supply[k]]) for k in range(COUNT)]
    for tar in tmp_path.glob("*.tar"):
        tar.unlink()
    batches = DataLoader(
        supply,
        batch_sampler=ResumableBatchSampler(1),
        num_workers=1,
        multiprocessing_context="fork",
        collate_fn=ReconstructionBatch.stack,
    )
    assert all(same(*pair) for pair in zip(first(batches, COUNT), expected, strict=True))


@pytest.mark.slow
def test_scene_sources_let_spawned_processes_read_urls(server, tmp_path):
    found = SceneSources.find([server.url], ShardCache(tmp_path, 2**30))
    found.read(0)  # it has open things of its own already, which cannot travel
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(found.identity, range(COUNT)) == [f"ball{k}" for k in range(COUNT)]


@pytest.mark.slow
def test_scene_sources_make_lists_of_folders_and_urls_one_epoch(folder, server, tmp_path):
    some = [folder / f"{k:02d}" for k in (3, 7)]
    seen = [scene_of(batch) for batch in first(loader([*some, server.url], tmp_path, window=2), COUNT + 2)]
    assert sorted(seen) == sorted([*range(COUNT), 3, 7])


@pytest.mark.slow
def test_scene_sources_read_one_tar_behind_a_url_alone(server, tmp_path):
    found = SceneSources.find([f"{server.url}/00003.tar"], ShardCache(tmp_path, 2**30))
    assert [found.read(k).id for k in range(len(found))] == ["ball6", "ball7"]
    with pytest.raises(FileNotFoundError, match=r"lists no 00099\.tar"):
        SceneSources.find([f"{server.url}/00099.tar"], ShardCache(tmp_path, 2**30))


def test_scene_sources_select_only_some_ids_wherever_they_lie(packed, server, tmp_path):
    (tmp_path / "keep").write_text("ball3\nball4\nball11\n")
    for place in (packed, server.url):
        made = GridDataModule(
            [str(place)], size=32, batch_size=3, workers=0, keep=str(tmp_path / "keep"), cache=str(tmp_path)
        )
        assert sorted(next(iter(made.train_dataloader())).prompts) == ["ball 11", "ball 3", "ball 4"]


# the order


def test_shuffled_needs_few_files_at_a_time_and_each_number_comes_once():
    files = [range(10 * k, 10 * k + 10) for k in range(7)]
    order = shuffled(100, files, 2, 0, 3).tolist()  # 70 to 99 lie in no file
    assert sorted(order) == list(range(100))
    assert order != sorted(order)
    assert order != shuffled(100, files, 2, 0, 4).tolist()
    spans = {k: [place for place, number in enumerate(order) if number in files[k]] for k in range(7)}
    for place in range(100):
        assert sum(min(span) <= place <= max(span) for span in spans.values()) <= 2
    loose = [place for place, number in enumerate(order) if number >= 70]
    assert [sum(25 * k <= place < 25 * k + 25 for place in loose) for k in range(4)] == pytest.approx([7.5] * 4, abs=4)


def test_shuffled_mixes_scenes_of_one_window_and_does_not_read_tar_after_tar():
    order = shuffled(400, [range(100 * k, 100 * k + 100) for k in range(4)], 2, 0)
    changes = int((order[:200] // 100).diff().ne(0).sum())
    assert 60 < changes < 140  # of 199: half, where a neighbour is of either tar


def test_weighted_mixture_needs_few_files_and_shows_each_source_as_often_as_its_weight_says():
    files = [range(4 * k, 4 * k + 4) for k in range(10)]
    mixture = WeightedMixture([40, 10], [1, 2], files=[files, []], window=2)
    shown = [mixture(number) for number in range(60)]
    assert sorted(index for source, index in shown if source == 0) == list(range(40))
    assert sorted(index for source, index in shown if source == 1) == sorted([*range(10)] * 2)
    mine = [index // 4 for source, index in shown if source == 0]
    for place in range(40):
        assert sum(mine.index(k) <= place <= 39 - mine[::-1].index(k) for k in range(10)) <= 2


# the cache


def test_shard_cache_keeps_what_was_used_last_and_no_more_than_it_may(packed, server, tmp_path):
    remote = RemoteShards(server.url, ShardCache(tmp_path, 0))
    tars = remote.shards()
    limit = sum(shard.bytes for shard in tars[:3])
    remote = RemoteShards(server.url, ShardCache(tmp_path, limit))
    for k, shard in enumerate(tars[:3]):
        path = remote.fetch(shard)
        assert path.read_bytes() == (packed / shard.name).read_bytes()
        os.utime(path, (k, k))
    remote.fetch(tars[0])  # used again: now the second was used longest ago
    remote.fetch(tars[3])
    assert {path.stem for path in tmp_path.glob("*.tar")} == {tars[k].sha256 for k in (0, 2, 3)}
    assert sum(path.stat().st_size for path in tmp_path.glob("*.tar")) <= limit
    assert server.asked["00000.tar"] == 1


def test_scene_sources_fetch_a_scene_again_whose_tar_was_evicted(server, tmp_path):
    found = SceneSources.find([server.url], ShardCache(tmp_path, 2**30))
    before = found.read(0).views
    for tar in tmp_path.glob("*.tar"):
        tar.unlink()
    assert torch.equal(found.read(0).views.rgb, before.rgb)
    assert server.asked["00000.tar"] == 2


def test_shard_cache_that_would_fetch_the_same_tars_again_and_again_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match=r"4 of the tars .* raise --data\.cache_gib"):
        loader(server.url, tmp_path, window=2, cache_gib=1e-5)
    with pytest.raises(ValueError, match=r"raise --data\.cache_gib"):
        GridDataModule([server.url], size=32, cache=str(tmp_path), cache_gib=1e-5, workers=0).train_dataloader()


def test_fetch_ahead_fetches_what_comes_soon_before_its_turn(server, tmp_path):
    found = SceneSources.find([server.url], ShardCache(tmp_path, 2**30))
    found.fetch_ahead(5)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("*.tar")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found.read(5).id == "ball5"
    assert server.asked["00002.tar"] == 1


def test_shard_cache_takes_nothing_for_whole_that_a_killed_process_left(packed, server, tmp_path):
    remote = RemoteShards(server.url, ShardCache(tmp_path, 2**30))
    shard, server.stall = remote.shards()[1], "00001.tar"
    process = multiprocessing.get_context("fork").Process(target=remote.fetch, args=(shard,))
    process.start()
    assert server.stalled.wait(60)
    process.kill()
    process.join()
    assert not list(tmp_path.glob("*.tar"))
    server.stall = None
    assert remote.fetch(shard).read_bytes() == (packed / "00001.tar").read_bytes()
    assert not list(tmp_path.glob(".*.partial"))


def test_remote_shards_retry_a_busy_server_but_not_for_ever(packed, server, tmp_path):
    remote = RemoteShards(server.url, ShardCache(tmp_path, 2**30))
    shard, server.busy = remote.shards()[0], 1
    assert remote.fetch(shard).read_bytes() == (packed / shard.name).read_bytes()
    server.busy = 9
    with pytest.raises(OSError, match=r"00001\.tar cannot be reached \(503"):
        remote.fetch(remote.shards()[1])
    assert (server.asked["00000.tar"], server.asked["00001.tar"]) == (2, 2)


@pytest.mark.slow
def test_latent_cache_is_built_from_a_url(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    model = tiny_sdxl_folder(tmp_path / "model")
    assert main(["cache-stage1", server.url, "--model", str(model), "-o", str(tmp_path / "cache")]) == 0
    assert "12 grids" in capsys.readouterr().out
    assert len(list((tmp_path / "home" / "instant3d" / "shards").glob("*.tar"))) == COUNT // PER_SHARD


# damage


def copied(packed, tmp_path):
    target = tmp_path / "damaged"
    target.mkdir()
    for path in packed.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def flipped(content):
    """One bit of every image."""
    changed = bytearray(content)
    for header in re.finditer(rb"\x89PNG", content):
        changed[header.start() + 60] ^= 1
    return bytes(changed)


DAMAGE = {"flipped": flipped, "cut": lambda content: content[:3000], "longer": lambda content: content + bytes(10240)}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_scene_sources_name_a_damaged_tar_in_one_sentence(packed, tmp_path, damage):
    target = copied(packed, tmp_path)
    (target / "00002.tar").write_bytes(DAMAGE[damage]((packed / "00002.tar").read_bytes()))
    with served(target) as files:
        for place in (target, files.url, in_memory(target, damage)):
            with pytest.raises((ValueError, OSError)) as caught:
                first(loader(place, tmp_path / "cache"), COUNT)
            assert "00002.tar" in str(caught.value)
            assert "\n" not in str(caught.value)
            assert not any(path.stat().st_size == 3000 for path in (tmp_path / "cache").glob("*"))


def test_scene_sources_name_a_tar_with_fewer_scenes_than_were_packed(packed, tmp_path):
    target = copied(packed, tmp_path)
    content = json.loads((target / "index.json").read_text())
    content["shards"][4]["scenes"] += 1
    (target / "index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"00004\.tar holds 2 scenes, but 3 were packed"):
        first(loader(target, tmp_path), COUNT + 1)


@pytest.mark.slow
def test_scene_sources_name_a_missing_tar_before_anything_is_read(packed, tmp_path):
    target = copied(packed, tmp_path)
    (target / "00002.tar").unlink()
    with pytest.raises(ValueError, match=r"00002\.tar is missing, but index\.json lists"):
        loader(target, tmp_path)
    with served(target) as files, pytest.raises(FileNotFoundError, match=r"00002\.tar does not exist"):
        first(loader(files.url, tmp_path), COUNT)


@pytest.mark.slow
def test_scene_sources_errors_of_a_worker_are_one_sentence(packed, tmp_path):
    target = copied(packed, tmp_path)
    (target / "00002.tar").write_bytes(flipped((packed / "00002.tar").read_bytes()))
    with pytest.raises(ValueError, match="Caught ValueError") as caught:
        first(loader(target, tmp_path, workers=1), COUNT)
    message = format_error(caught.value)
    assert re.match(rf"{target}/00002\.tar:000000[45]-0[45] is damaged \(images\.000\d\.png is not as it was", message)
    assert "Traceback" not in message
    assert "--debug" not in message


def test_remote_shards_name_a_url_without_an_index(folder, tmp_path):
    with served(folder) as files, pytest.raises(FileNotFoundError, match=r"index\.json does not exist; name a folder"):
        loader(files.url, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"memory://nowhere/index\.json does not exist"):
        loader("memory://nowhere", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../../evil.tar"), ("name", "/evil.tar"), ("name", 3), ("sha256", "../../../evil"),
        ("sha256", "0" * 63), ("bytes", -1), ("bytes", "1"), ("scenes", 1.5), ("scenes", None),
    ],
)  # fmt: skip
def test_parse_index_refuses_an_index_that_leads_elsewhere(packed, tmp_path, field, value):
    content = json.loads((packed / "index.json").read_text())
    content["shards"][0][field] = value
    name = f"evil{time.monotonic_ns()}"
    fsspec.filesystem("memory").pipe_file(f"/{name}/index.json", json.dumps(content).encode())
    with pytest.raises(ValueError, match=r"index\.json is not an index of shards"):
        loader(f"memory://{name}", tmp_path)


def test_packed_scene_names_lead_nowhere(folder, tmp_path):
    """Neither its keys, which files are named after, nor what its documents name."""
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for path in sorted((folder / "03").rglob("*.*")):
            member = tarfile.TarInfo(f"../../evil.{path.relative_to(folder / '03').as_posix().replace('/', '.')}")
            content = path.read_bytes().replace(b"images/0001.png", b"../../../secret")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (tmp_path / "secret").write_bytes((folder / "03" / "images" / "0001.png").read_bytes())
    found = SceneSources.find([tmp_path / "evil.tar"])
    assert re.fullmatch(r"\w+", found.name(0))
    assert found.read(0, frames=[0]).id == "ball3"
    with pytest.raises(FileNotFoundError, match=r"lacks \.\./\.\./\.\./secret"):
        found.read(0, frames=[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("http://127.0.0.1:9/shards", "cannot be reached"),
        ("nonsense://bucket/shards", "nonsense"),
        ("s3://bucket/shards", "s3fs"),
    ],
)
def test_remote_shards_that_cannot_be_reached_are_one_sentence(url, hint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    architecture = {"image_size": 16, "encoder": "plucker", "encoder_width": 16, "encoder_depth": 1, "patch": 8,
                    "encoder_heads": 1, "width": 16, "depth": 1, "heads": 1}  # fmt: skip
    model = {"architecture": architecture, "vgg_weights": None, "loss_weights": {"perceptual": 0.0}}
    settings = {"model": model, "data": {"train": [url], "cache": str(tmp_path / "cache")}}
    (tmp_path / "run.yaml").write_text(json.dumps(settings | {"trainer": trainer_settings(tmp_path, 1)}))
    assert main(["fit", "stage2", "-c", str(tmp_path / "run.yaml")]) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith(f"instant3d: error: {url}/index.json")
    assert hint in last
    assert "--debug" not in last
