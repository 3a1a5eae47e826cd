"""CLIP metrics against a hand computation and against transformers' own logits; the model is tiny and random."""

import math

import pytest
import torch

from instant3d.modules import clip
from instant3d.modules.clip import ClipModel
from instant3d.modules.diffusion.tiny_models import train_tokenizer

PROMPTS = ["a red chair", "a blue boat", "a green house"]
# cosines of one view (first index: the asset's prompt) and of another, with three prompts
ONE = torch.tensor([[0.3, 0.1, 0.2], [0.4, 0.2, 0.1], [0.1, 0.1, 0.3]])
OTHER = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.0], [0.3, 0.0, 0.2]])
SIMILARITY = torch.stack([ONE, OTHER], dim=1)  # (P, V, N)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random CLIP of 32 x 32 pixels, as transformers saves one."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    place = tmp_path_factory.mktemp("clip")
    train_tokenizer(PROMPTS, place, size=540, max_length=16)
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(place)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id}
    pixels = {"image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(text_config={**sizes, **words}, vision_config={**sizes, **pixels}, projection_dim=8)
        CLIPModel(config).save_pretrained(place)
    side = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side).save_pretrained(place)
    return place


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_clip_similarities_are_transformers_logits_divided_by_their_scale(folder):
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    images = random_images(2)
    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    words = CLIPTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(folder)(
        [Image.fromarray(level) for level in levels], return_tensors="pt"
    )
    model = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**words, **pixels).logits_per_image
    ours = ClipModel.from_pretrained(folder)
    cosines = ours.embed_images(images) @ ours.embed_texts(PROMPTS).T
    torch.testing.assert_close(cosines * ours.logit_scale, logits, atol=1e-4, rtol=1e-4)
    assert ours.logit_scale == pytest.approx(math.exp(2.6592), rel=1e-4)  # CLIP's initial value


def test_clip_features_do_not_depend_on_views_and_batches(folder, monkeypatch):
    ours = ClipModel.from_pretrained(folder)
    whole, words = ours.embed_images(random_images(2, 3)), ours.embed_texts(PROMPTS)
    monkeypatch.setattr(clip, "BATCH", 1)
    torch.testing.assert_close(ours.embed_images(random_images(2, 3)), whole)
    torch.testing.assert_close(ours.embed_texts(PROMPTS), words)
    torch.testing.assert_close(ours.embed_images(random_images(2, 3)[1, 2]), whole[1, 2])
    torch.testing.assert_close(whole.norm(dim=-1), torch.ones(2, 3))


def test_clip_cuts_off_a_prompt_longer_than_its_maximal_length(folder):
    ours = ClipModel.from_pretrained(folder)
    torch.testing.assert_close(ours.embed_texts(["a red chair " * 40]), ours.embed_texts(["a red chair " * 80]))


def test_clip_score_is_a_hundred_times_the_mean_cosine_with_the_own_prompt():
    assert clip.clip_score(SIMILARITY) == pytest.approx(100 * (0.3 + 0.1 + 0.2 + 0.2 + 0.3 + 0.2) / 6)


def test_r_precision_counts_images_whose_own_prompt_ranks_first_and_ap_is_the_inverse_rank():
    precision, average = clip.r_precision(SIMILARITY)
    ranks = [1, 3, 2, 1, 1, 2]  # views of the first prompt, of the second, of the third
    assert precision == pytest.approx(100 * 3 / 6)
    assert average == pytest.approx(100 * sum(1 / rank for rank in ranks) / 6)


def test_r_precision_ranks_ties_last():
    precision, average = clip.r_precision(torch.full((4, 2, 4), 0.2))
    assert precision == 0
    assert average == pytest.approx(25.0)


def test_retrieval_probability_is_a_softmax_over_the_set_at_the_models_scale():
    def probability(row: list[float], right: int) -> float:
        powers = [math.exp(10 * value) for value in row]
        return powers[right] / sum(powers)

    expected = [probability(view[k].tolist(), k) for k in range(3) for view in (ONE, OTHER)]
    assert clip.retrieval_probability(SIMILARITY, 10.0) == pytest.approx(sum(expected) / 6)
    assert clip.retrieval_probability(SIMILARITY, 0.0) == pytest.approx(1 / 3)


def test_clip_metrics_are_those_of_the_similarities(folder):
    ours, images = ClipModel.from_pretrained(folder), random_images(3, 2)
    numbers = clip.clip_metrics(ours, images, PROMPTS)
    similarity = ours.embed_images(images) @ ours.embed_texts(PROMPTS).T
    assert numbers["clip_score"] == pytest.approx(100 * sum(similarity[k, :, k].mean().item() for k in range(3)) / 3)
    assert (numbers["prompts"], numbers["views"]) == (3, 2)
    with pytest.raises(ValueError, match="must differ"):
        clip.clip_metrics(ours, images, ["a chair", "a boat", "a chair"])


def test_clip_refuses_a_folder_without_a_clip_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="neither a folder with a whole CLIP"):
        ClipModel.from_pretrained(tmp_path)
