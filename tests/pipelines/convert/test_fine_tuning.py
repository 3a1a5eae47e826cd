"""Training that goes on from a converted checkpoint."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from golden_sets import Golden

from instant3d import scenes
from instant3d.cameras import Cameras, random_sphere, structured_cameras
from instant3d.pipelines import convert
from instant3d.stage2.augmentation import ViewSampling
from instant3d.stage2.data import ReconstructionBatch, TrainDataset
from instant3d.stage2.module import LossWeights, RayMarching, Stage2Module
from instant3d.stage2.network import Reconstructor
from instant3d.training import fit
from instant3d.views import Views

CONFIG = Path(__file__).parents[3] / "configs" / "stage2" / "from_instantmesh.yaml"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    convert.convert("instantmesh", Golden("instantmesh").folder, folder, image_size=32)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A green ball."""
    cameras = Cameras.cat([structured_cameras(), random_sphere(4, torch.Generator().manual_seed(0))])
    rays = cameras.rays(32, 32)
    along = -(rays.origins * rays.directions).sum(-1)
    alpha = (rays.origins.square().sum(-1) - along**2 < 0.6**2).float()[:, None]
    colour = torch.tensor([0.1, 0.8, 0.2])[:, None, None].expand(8, 3, 32, 32)
    folder = tmp_path_factory.mktemp("data") / "ball"
    scenes.write(folder, Views(colour * alpha, alpha, cameras))
    return folder.parent


def squares(network, example):
    """The configuration's loss without its perceptual part, from the peer's point of view: colours in [-1, 1]."""
    module = Stage2Module(network.architecture, ray_marching=RayMarching(16), vgg_weights=None)
    module.network = network
    with torch.no_grad():
        shown = module.render_like(network(example.inputs), example.targets, torch.Generator().manual_seed(0))
        rgb = (shown.composite(1.0) - example.targets.composite(1.0)) * 2
        return float(rgb.square().mean() + (shown.alpha - example.targets.alpha).square().mean())


@pytest.mark.slow
def test_fine_tuning_starts_at_the_converted_loss_and_lowers_it(weights, data):
    numbers = yaml.safe_load(CONFIG.read_text())["model"]
    module = Stage2Module(
        ray_marching=RayMarching(16),
        loss_weights=LossWeights(**numbers["loss_weights"] | {"perceptual": 0.0}),
        vgg_weights=None,
        background=numbers["background"],
        learning_rate=numbers["learning_rate"],
        start=str(weights),
    )
    example = ReconstructionBatch.stack(
        [TrainDataset([data / "ball"], 32, ViewSampling(patch=0, random_rotation=False))[0]]
    )
    converted = squares(Reconstructor.from_pretrained(weights), example)
    module.log = module.log_dict = lambda *_, **__: None
    module.trainer = type("AtStart", (), {"global_step": 0})()
    optimizer = torch.optim.AdamW(module.network.parameters(), lr=module.learning_rate, betas=module.betas)
    loss = module.training_step(example, 0)
    assert float(loss.detach()) == pytest.approx(converted, rel=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.network.parameters())
    optimizer.step()
    assert squares(module.network, example) < converted * 0.999


@pytest.mark.slow
def test_fine_tuning_by_one_config_gives_a_checkpoint_that_goes_back(weights, data, tmp_path):
    overrides = {
        "model": {
            "start": str(weights), "ray_marching": {"samples": 8, "importance": 0}, "vgg_weights": None,
            "loss_weights": {"rgb": 4.0, "perceptual": 0.0, "mask": 1.0},
        },
        "data": {
            "train": [str(data)], "val": [], "batch_size": 1, "workers": 0,
            "view_sampling": {"patch": 16, "zoom": [16, 32]},
        },
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_steps": 1, "logger": False, "limit_val_batches": 0,
            "enable_progress_bar": False, "default_root_dir": str(tmp_path),
            "callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                           "init_args": {"every_n_train_steps": 1, "save_top_k": 0, "save_last": True}}],
        },
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(overrides))
    fit.main(["fit", "stage2", "-c", str(CONFIG), "-c", str(tmp_path / "tiny.yaml")])
    trained = fit.export(fit.newest_checkpoint(tmp_path), tmp_path / "trained")
    start = Reconstructor.from_pretrained(weights)
    assert trained.architecture == start.architecture
    assert not torch.equal(trained.tokens, start.tokens)
    licence = (weights / "LICENSE-WEIGHTS.md").read_text()
    assert "NC 4.0" in licence
    assert (tmp_path / "trained" / "LICENSE-WEIGHTS.md").read_text() == licence
    assert convert.to_original("instantmesh", trained).keys() == convert.to_original("instantmesh", start).keys()


@pytest.mark.slow
def test_licence_is_saved_with_weights_and_never_invented(weights, tmp_path):
    network = Reconstructor.from_pretrained(weights)
    network.save_pretrained(tmp_path / "copy")
    again = Reconstructor.from_pretrained(tmp_path / "copy")
    assert again.licence == network.licence == (weights / "LICENSE-WEIGHTS.md").read_text()
    Reconstructor(network.architecture).save_pretrained(tmp_path / "own")
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.slow
def test_licence_is_kept_when_training_resumes_elsewhere(weights):
    """The checkpoint tells it, whether or not the folder that was started from is still there."""
    checkpoint = {}
    Stage2Module(vgg_weights=None, start=str(weights)).on_save_checkpoint(checkpoint)
    module = Stage2Module(Reconstructor.from_pretrained(weights).architecture, vgg_weights=None)
    assert module.network.licence is None
    module.on_load_checkpoint(checkpoint)
    assert module.network.licence == (weights / "LICENSE-WEIGHTS.md").read_text()


@pytest.mark.slow
def test_fine_tuning_a_checkpoint_of_unknown_size_requires_image_size(weights, tmp_path):
    config = json.loads((weights / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_size": 0}))
    with pytest.raises(ValueError, match="--image-size"):
        fit.main(["fit", "stage2", "-c", str(CONFIG), f"--model.start={tmp_path}", "--data.train=[]"])
