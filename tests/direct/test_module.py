"""The direct system's module: overfitting one prompt, annealing, losses, checkpoints that resume, render and export."""

import json
from itertools import pairwise

import direct_runs
import pytest
import torch
from direct_runs import ARCHITECTURE, PROMPTS, SIDE, ball_views
from torch.nn import functional as F

from instant3d.direct.architecture import Architecture
from instant3d.direct.data import NamedPrompts, PromptDataModule
from instant3d.direct.distillation import Distillation, DistillationBatch, RenderConfig, SDSConfig
from instant3d.direct.export import export_direct
from instant3d.direct.guidance.configs import FiniteSetConfig, StableDiffusionConfig
from instant3d.direct.guidance.finite_set import FiniteSetGuidance
from instant3d.direct.module import DirectModule, linear_ramp, prompts_digest
from instant3d.direct.network import TextToTriplane
from instant3d.direct.shading import Lighting, ShadedField
from instant3d.modules.diffusion.prompt_tokens import PromptTokens
from instant3d.nerf.triplane import Triplane
from instant3d.nerf.volume import render
from instant3d.scenes import write
from instant3d.training.callbacks import ImageLogger
from instant3d.views import Views


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return direct_runs.text_folder(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    return direct_runs.write_balls(tmp_path_factory.mktemp("balls"))


def small(text, balls=None, **settings):
    plain = {"sds": SDSConfig(scale=5.0, against="none"), "render": RenderConfig(SIDE, 12, 0), "clip": None}
    guidance = None if balls is None else FiniteSetConfig(str(balls), SIDE)
    return DirectModule(Architecture.from_dict(ARCHITECTURE), str(text), guidance, **{**plain, **settings})


class Standing:
    """Stands in for a trainer in the middle of a run."""

    world_size = accumulate_grad_batches = 1

    def __init__(self, data, step=0, steps=10):
        self.datamodule, self.global_step, self.estimated_stepping_batches = data, step, steps
        self.world_size, self.accumulate_grad_batches = 1, 1
        self.callbacks = []


def begun(module, step=0, prompts=PROMPTS):
    """The module after the trainer's start."""
    data = PromptDataModule(list(prompts), guidance=module.guidance)
    data.setup("fit")
    module._trainer = Standing(data, step)
    module.log = module.log_dict = lambda *args, **kwargs: None
    module.on_fit_start()
    return module


def example(module, count=4):
    data = module.trainer.datamodule
    data.batch_size = count
    data.trainer = type("Trainer", (), {
        "global_step": 0, "accumulate_grad_batches": 1, "global_rank": 0, "world_size": 1,
    })()  # fmt: skip
    return next(iter(data.train_dataloader()))


@pytest.mark.slow
def test_training_overfits_one_prompt_from_an_exact_guidance_model():
    """Three views whose front and back differ: words, cameras and images must agree on where the front is."""
    torch.manual_seed(0)
    network = TextToTriplane(Architecture.from_dict(ARCHITECTURE))
    truth = ball_views((0.9, 0.1, 0.1), (0.1, 0.2, 0.8))
    guidance = FiniteSetGuidance(truth.composite(1.0), ["a ball"] * 3, torch.arange(3))
    tokens = torch.randn(1, ARCHITECTURE["text_length"], ARCHITECTURE["text_width"])
    text = PromptTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
    sds_config = SDSConfig(scale=1.0, against="none")
    distillation = Distillation(
        network, guidance, ["a ball"], text, sds_config=sds_config, render_config=RenderConfig(SIDE, 16, 0)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.9, 0.99))

    def error():
        with torch.no_grad():
            shown = render(network(text), truth.cameras[None], SIDE, SIDE, samples=32, importance=0)
            return (shown.composite(1.0)[0] - truth.composite(1.0)).square().mean((1, 2, 3))

    before = error()
    for step in range(70):
        generator = torch.Generator().manual_seed(step)
        network.decoder.alpha.fill_(linear_ramp(step, 42, 0.5))
        batch = DistillationBatch(torch.zeros(3, dtype=torch.long), truth.cameras)
        losses, _ = distillation(batch, torch.ones(3, 3), generator)
        optimizer.zero_grad()
        losses["sds"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert before.min() > 0.02
    assert error().max() < 0.005, "of the front, the side and the back"
    # the distance of the two images if the front were confused with the back
    assert (truth.composite(1.0)[0] - truth.composite(1.0)[2]).square().mean() > 0.03


def test_field_shares_one_pass_between_views_of_a_prompt_without_noise(monkeypatch):
    torch.manual_seed(0)
    network = TextToTriplane(Architecture.from_dict(ARCHITECTURE | {"style_noise": False}))
    guidance = FiniteSetGuidance(
        ball_views((0.9, 0.1, 0.1)).composite(1.0).repeat(2, 1, 1, 1), ["a"] * 3 + ["b"] * 3, torch.arange(6) % 3
    )
    tokens = torch.randn(2, ARCHITECTURE["text_length"], ARCHITECTURE["text_width"])
    text = PromptTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
    sds_config = SDSConfig(scale=1.0, against="none")
    distillation = Distillation(
        network, guidance, ["a", "b"], text, sds_config=sds_config, render_config=RenderConfig(SIDE, 12, 0)
    )
    prompts, points = torch.tensor([1, 0, 1, 1]), torch.rand(4, 50, 3) * 2 - 1
    expected = network(text[prompts])(points)
    passes = []
    grow = network.triplane
    monkeypatch.setattr(network, "triplane", lambda text: passes.append(len(text.tokens)) or grow(text))
    cameras = ball_views((1.0, 0.0, 0.0)).cameras[torch.tensor([0, 1, 2, 0])]
    found = distillation.field(DistillationBatch(prompts, cameras), torch.Generator())(points)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert passes == [2]


def test_linear_ramp_of_alpha_rises_to_1_and_stays_there():
    values = [linear_ramp(step, 60.0, 0.5) for step in range(101)]
    assert values[0] == 0.5
    assert values[30] == pytest.approx(0.75)
    assert values[60:] == [1.0] * 41
    assert all(one < two for one, two in pairwise(values[:61]))
    assert linear_ramp(0, 0.0, 0.5) == 1.0


def test_anneal_sets_alpha_of_the_step_which_is_saved_with_the_weights(text, balls):
    module = begun(small(text, balls), step=3)
    module.training_step(example(module), 0)
    # half way to 6 of 10 steps; with alpha a colour cannot exceed 1 / alpha
    assert float(module.network.decoder.alpha) == pytest.approx(0.75)
    assert float(module.state_dict()["network.decoder.alpha"]) == pytest.approx(0.75)
    colours = module.network.decoder.to_rgb(torch.tensor([-100.0, 0.0, 100.0]))
    torch.testing.assert_close(colours, torch.tensor([0.0, 2 / 3, 4 / 3]))


def test_training_step_is_a_function_of_its_examples_indices_alone(text, balls):
    module = begun(small(text, balls))
    batch = example(module)
    with torch.no_grad():
        one = module.training_step(batch, 0)
        torch.rand(100)
        assert torch.equal(one, module.training_step(batch, 7))
        later = type(batch)(batch.prompts, batch.cameras, batch.example_index + 4)
        assert not torch.equal(one, module.training_step(later, 0))


@pytest.mark.slow
def test_loss_weights_multiply_their_losses(text, balls):
    """The gradient is linear in the weights; of two losses it is the sum of those of each."""
    gradients = []
    for sds, opacity in [(1.0, 0.0), (0.0, 50.0), (1.0, 50.0)]:
        torch.manual_seed(0)
        module = small(text, balls)
        module.loss_weights = type(module.loss_weights)(sds=sds, opacity=opacity)
        begun(module)
        module.training_step(example(module), 0).backward()
        gradients.append(module.network.outward.weight.grad.clone())
    assert min(float(gradient.abs().max()) for gradient in gradients) > 1e-3
    torch.testing.assert_close(gradients[0] + gradients[1], gradients[2], atol=1e-4, rtol=1e-3)


def test_lighting_shades_the_given_share_of_steps_from_its_first_step_on(text, balls):
    module = begun(small(text, balls, lighting=Lighting(chance=0.75, begin=5)), step=5)
    batch = example(module)
    fields = [module.shading(batch, torch.Generator().manual_seed(k))(module.network) for k in range(400)]
    modes = [field.mode for field in fields if isinstance(field, ShadedField)]
    assert len(modes) / 400 == pytest.approx(0.75, abs=0.1)
    assert modes.count("textureless") / len(modes) == pytest.approx(0.5, abs=0.12)
    module.trainer.global_step = 4
    assert module.shading(batch, torch.Generator().manual_seed(0))(module.network) is module.network


@pytest.mark.slow
def test_lighting_textureless_images_have_no_colour(text, balls):
    lighting = Lighting(chance=1.0, begin=0, textureless=1.0)
    module = begun(small(text, balls, lighting=lighting, sds=SDSConfig(scale=5.0, against="none", orientation=1.0)))
    batch = example(module)
    dress = module.shading(batch, torch.Generator().manual_seed(0))
    distillation = module.frozen.distillation
    shown = []
    for how in (dress, lambda field: field):
        with torch.no_grad():
            losses, views = distillation(batch, torch.ones(4, 3), torch.Generator().manual_seed(1), how)
        shown.append(views)
        assert losses["orientation"] >= 0
    grey, coloured = ((views.rgb.amax(-3) - views.rgb.amin(-3)).max() for views in shown)
    assert grey < 1e-5 < coloured
    torch.testing.assert_close(shown[0].alpha, shown[1].alpha)
    module.training_step(batch, 0).backward()
    assert module.network.outward.weight.grad.isfinite().all()


def test_frozen_models_are_not_in_the_module(text, balls):
    module = begun(small(text, balls))
    assert set(module.state_dict()) == {f"network.{name}" for name in module.network.state_dict()}


def test_render_prompts_shows_four_sides_front_first_and_is_deterministic(text):
    module = small(text)
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    module.eval()
    with torch.no_grad():
        shown = module.validation_step(NamedPrompts(tuple(PROMPTS), ("0", "1")), 0)["rendered"]
        again = module.validation_step(NamedPrompts(tuple(PROMPTS), ("0", "1")), 0)["rendered"]
    assert torch.equal(shown.rgb, again.rgb)
    assert shown.rgb.shape == (2, 4, 3, SIDE, SIDE)
    assert logged["val/alpha"] == pytest.approx(float(shown.alpha.mean()))
    sides = shown.cameras.positions[0, :, :2]
    wanted = torch.tensor([[0.0, -1], [1, 0], [0, 1], [-1, 0]])  # the front faces -y
    torch.testing.assert_close(sides / sides.norm(dim=-1, keepdim=True), wanted, atol=1e-5, rtol=0)


def predicted(module, prompts):
    """Planes that are predicted for prompts."""
    names = tuple(map(str, range(len(prompts))))
    return Triplane.stack(module.predict_step(NamedPrompts(tuple(prompts), names), 0)).planes


def test_predictions_do_not_depend_on_the_batch_and_have_zero_noise(text):
    module = small(text).eval()
    with torch.no_grad():
        both = predicted(module, PROMPTS)
        alone = predicted(module, PROMPTS[1:])
        noise = torch.zeros(2, ARCHITECTURE["noise_width"])
        plain = module.network.triplane(module.encode_prompts(PROMPTS), noise).planes
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both, plain)
    assert (both[0] - both[1]).abs().max() > 1e-3, "prompts differ in what is made of them"


def test_resume_with_other_prompts_is_refused(text, balls):
    module = begun(small(text, balls))
    content = {}
    module.on_save_checkpoint(content)
    other = small(text, balls)
    other.on_load_checkpoint(content)
    begun(other)
    with pytest.raises(ValueError, match="other prompts"):
        begun(other, prompts=PROMPTS[::-1])
    assert prompts_digest(["a", "b"]) != prompts_digest(["a b"])


@pytest.mark.slow
def test_feature_cache_is_in_the_checkpoint(text, balls, tmp_path):
    clip = str(direct_runs.clip_folder(tmp_path))
    settings = {"sds": SDSConfig(scale=5.0), "clip": clip}
    module = begun(small(text, balls, **settings))
    batch = example(module, 1)
    with torch.no_grad():
        module.training_step(batch, 0)
    content = {}
    module.on_save_checkpoint(content)
    memory = content["taught"]["memory"]
    seen = [k in batch.prompts.tolist() for k in range(2)]
    assert memory["seen"].tolist() == seen
    toward = batch.cameras.positions / batch.cameras.positions.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(memory["directions"][batch.prompts], toward)
    torch.testing.assert_close(memory["features"][batch.prompts].norm(dim=-1), torch.ones(1))
    other = small(text, balls, **settings)
    other.on_load_checkpoint(content)
    begun(other)
    for name, value in other.frozen.distillation.feature_cache.state_dict().items():
        assert torch.equal(value, memory[name])


def test_clip_is_needed_only_where_images_are_compared(text):
    with pytest.raises(ValueError, match=r"set model\.clip"):
        small(text, sds=SDSConfig())
    with pytest.raises(ValueError, match=r"set model\.clip"):
        small(text, sds=SDSConfig(against="none", clip=0.1))
    assert isinstance(small(text).guidance, StableDiffusionConfig)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"background": "grey"}, "white or random"), ({"alpha_start": 0.0}, "alpha"), ({"alpha_share": 1.5}, "alpha")],
)
def test_module_refuses_settings_out_of_range(text, settings, message):
    with pytest.raises(ValueError, match=message):
        small(text, **settings)


@pytest.mark.slow
def test_export_encodes_prompts_without_the_original_text_encoder(text, tmp_path):
    module = small(text).eval()
    module.network.decoder.alpha.fill_(0.75)
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    export_direct(content, tmp_path / "export")
    found = {path.relative_to(tmp_path / "export").as_posix() for path in (tmp_path / "export").rglob("*")}
    assert {"config.json", "model.safetensors", "tokenizer", "text_encoder/model.safetensors"} <= found
    again = small(tmp_path / "export", start=str(tmp_path / "export")).eval()
    with torch.no_grad():
        one, two = (predicted(each, PROMPTS) for each in (module, again))
    torch.testing.assert_close(one, two, atol=2e-2, rtol=2e-2)  # both are kept in half precision
    assert float(again.network.decoder.alpha) == 0.75


@pytest.mark.slow
def test_export_keeps_the_used_layers_of_the_text_encoder(text, tmp_path):
    module = small(text, text_layers=0).eval()
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    export_direct(content, tmp_path)
    assert json.loads((tmp_path / "text_encoder" / "config.json").read_text())["num_hidden_layers"] == 0
    again, whole = (small(where).encode_prompts(PROMPTS).tokens for where in (tmp_path, text))
    torch.testing.assert_close(again, module.encode_prompts(PROMPTS).tokens, atol=2e-2, rtol=2e-2)
    assert not torch.allclose(again, whole, atol=0.1)


def test_export_without_its_text_encoder_names_the_option(text, tmp_path):
    content = {"state_dict": small(text).state_dict()}
    small(tmp_path / "gone").on_save_checkpoint(content)
    with pytest.raises(ValueError, match="give --base"):
        export_direct(content, tmp_path / "export")
    export_direct(content, tmp_path / "export", str(text))


def test_finite_set_config_needs_captions_and_equal_cameras(balls, tmp_path):
    guidance, cameras = FiniteSetConfig(str(balls), SIDE).load(torch.device("cpu"))
    assert torch.equal(FiniteSetConfig(str(balls), SIDE).cameras().cam_to_world, cameras.cam_to_world)
    torch.testing.assert_close(cameras.cam_to_world, ball_views((1.0, 0.0, 0.0)).cameras.cam_to_world)
    named = guidance.embed_prompts([f"{PROMPTS[0]}, {view}" for view in ("front view", "side view", "back view")])
    assert named.max(1).values.tolist() == [1.0, 1.0, 1.0], "each word names one picture"
    with_camera, _ = FiniteSetConfig(str(balls), SIDE, camera=True).load(torch.device("cpu"))
    directions = F.normalize(cameras.positions, dim=-1)
    by_camera = with_camera.condition_on_camera(with_camera.embed_prompts([PROMPTS[0]] * len(directions)), directions)
    assert (by_camera.argmax(1) % len(directions)).tolist() == list(range(len(directions)))
    assert by_camera.max(1).values.tolist() == [1.0] * len(directions)
    with pytest.raises(FileNotFoundError, match="no scene"):
        FiniteSetConfig(str(tmp_path)).load(torch.device("cpu"))
    write(tmp_path / "a", ball_views((1.0, 0.0, 0.0)), caption="a ball")
    write(tmp_path / "b", ball_views((1.0, 0.0, 0.0), azimuths=(0, 90, 200)), caption="a box")
    with pytest.raises(ValueError, match="by one plan"):
        FiniteSetConfig(str(tmp_path)).load(torch.device("cpu"))
    write(tmp_path / "b", ball_views((1.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match="no caption"):
        FiniteSetConfig(str(tmp_path)).load(torch.device("cpu"))


def test_image_logger_gets_one_row_of_four_sides_for_each_object(text):
    given = {}
    board = type("Board", (), {"add_image": lambda self, name, image, step: given.update({name: image})})()
    trainer = type("Trainer", (), {"logger": type("Logger", (), {"experiment": board})(), "global_rank": 0,
                                   "global_step": 7})()  # fmt: skip
    images = torch.rand(3, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    cameras = ball_views((1.0, 0.0, 0.0), azimuths=(0, 90, 180, 270)).cameras
    cameras = cameras.map(lambda tensor: tensor.expand(3, *tensor.shape))
    shown = {"rendered": Views(images, torch.ones(3, 4, 1, 5, 5), cameras)}
    ImageLogger(objects=2).on_validation_batch_end(
        trainer, None, shown, NamedPrompts(("a", "b", "c"), ("0", "1", "2")), 0
    )
    assert given["val/prompts"].shape == (3, 10, 20)
    torch.testing.assert_close(given["val/prompts"][:, 5:, 15:], images[1, 3])
