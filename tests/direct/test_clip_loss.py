"""CLIP loss: features equal those of the CLIP metrics, with a gradient; the model is tiny and random."""

import pytest
import torch
from direct_runs import PROMPTS, clip_folder

from instant3d.direct.clip_loss import ClipImageEncoder, clip_loss


@pytest.fixture(scope="module")
def image_encoder(tmp_path_factory):
    return ClipImageEncoder.from_pretrained(clip_folder(tmp_path_factory.mktemp("clip")))


def random_images(side: int) -> torch.Tensor:
    """Two smooth square images."""
    coarse = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 40, 10])
def test_clip_image_encoder_agrees_with_clips_own_preprocessing(side, image_encoder):
    expected = image_encoder.clip.embed_images(random_images(side))  # by Pillow, in whole levels of 255
    found = image_encoder(random_images(side))
    assert found.shape == (2, image_encoder.width)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.1  # images differ by more than the tolerance


def test_clip_loss_is_one_minus_the_cosine_of_image_and_prompt():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    texts = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [4.0, 3.0]])
    torch.testing.assert_close(clip_loss(features, texts), torch.tensor([0.0, 2.0, 1 - 24 / 25]))


def test_clip_loss_gradient_makes_an_image_more_like_its_prompt_and_leaves_the_clip_alone(image_encoder):
    images, texts = random_images(20).requires_grad_(), image_encoder.embed_texts(PROMPTS)
    torch.testing.assert_close(texts, image_encoder.clip.embed_texts(PROMPTS))
    before = clip_loss(image_encoder(images), texts)
    before.sum().backward()
    assert all(parameter.grad is None for parameter in image_encoder.clip.model.parameters())
    with torch.no_grad():
        step = 1e-3 * images.grad / images.grad.flatten(1).norm(dim=1)[:, None, None, None]
        after = clip_loss(image_encoder(images - step), texts)
        slope = images.grad.flatten(1).norm(dim=1)
    assert (after < before).all()
    torch.testing.assert_close((before - after) / 1e-3, slope, atol=0, rtol=0.05)


def test_clip_loss_does_not_depend_on_other_images_of_the_batch(image_encoder):
    torch.testing.assert_close(image_encoder(random_images(20))[1:], image_encoder(random_images(20)[1:]))
