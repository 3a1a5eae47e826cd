"""CLIP as a loss: the same features as where it judges, with a gradient; the model is tiny and random."""

import pytest
import torch
from direct_runs import PROMPTS, clip_folder

from instant3d.direct.clip_loss import ClipImageEncoder, clip_loss


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    return ClipImageEncoder.from_pretrained(clip_folder(tmp_path_factory.mktemp("clip")))


def pictures(side: int) -> torch.Tensor:
    """Smooth ones, two of a side."""
    coarse = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 40, 10])
def test_clip_image_encoder_agrees_with_clips_own_preprocessing(side, eyes):
    expected = eyes.clip.embed_images(pictures(side))  # by Pillow, in whole levels of 255
    found = eyes(pictures(side))
    assert found.shape == (2, eyes.width)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.1  # the tolerance tells pictures apart


def test_clip_loss_is_one_minus_the_cosine_of_image_and_prompt():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    texts = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [4.0, 3.0]])
    torch.testing.assert_close(clip_loss(features, texts), torch.tensor([0.0, 2.0, 1 - 24 / 25]))


def test_clip_loss_gradient_makes_an_image_more_like_its_prompt_and_leaves_the_clip_alone(eyes):
    images, texts = pictures(20).requires_grad_(), eyes.embed_texts(PROMPTS)
    torch.testing.assert_close(texts, eyes.clip.embed_texts(PROMPTS))
    before = clip_loss(eyes(images), texts)
    before.sum().backward()
    assert all(parameter.grad is None for parameter in eyes.clip.model.parameters())
    with torch.no_grad():
        step = 1e-3 * images.grad / images.grad.flatten(1).norm(dim=1)[:, None, None, None]
        after = clip_loss(eyes(images - step), texts)
        slope = images.grad.flatten(1).norm(dim=1)
    assert (after < before).all()
    torch.testing.assert_close((before - after) / 1e-3, slope, atol=0, rtol=0.05)


def test_clip_loss_does_not_depend_on_other_images_of_the_batch(eyes):
    torch.testing.assert_close(eyes(pictures(20))[1:], eyes(pictures(20)[1:]))
