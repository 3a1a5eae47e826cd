"""The loss on EfficientNet-lite0's features: its network against timm's, its weights against a photo, its errors."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from instant3d.modules import feature_loss
from instant3d.modules.feature_loss import FeatureLoss, installed_weights

CATS = {281, 282, 285}  # ImageNet's tabby, tiger cat and Egyptian cat


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights under other names than timm's, as the package's are, and their values under timm's."""
    torch.manual_seed(0)
    content = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    path = tmp_path_factory.mktemp("weights") / "a.pth"
    torch.save({f"_{number}": value for number, value in enumerate(content.values())}, path)
    return path, content


def images(seed, size=32):
    return torch.rand(1, 2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_feature_loss_is_the_distance_of_timms_features_of_unit_length(weights):
    path, content = weights
    reference = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(0, 1, 2)).eval()
    reference.load_state_dict(content, strict=False)
    first, second = (
        [F.normalize(maps, dim=1) for maps in reference((image.flatten(0, 1) - 0.5) / 0.5)]
        for image in (images(0), images(1))
    )
    assert [maps.shape[-1] for maps in first] == [16, 8, 4]
    expected = sum((a - b).square().sum(1).mean() for a, b in zip(first, second, strict=True)) / 3
    torch.testing.assert_close(FeatureLoss(path)(images(0), images(1)), expected, rtol=1e-3, atol=1e-5)


def test_feature_loss_is_frozen_unsaved_and_has_a_gradient_by_the_rendering(weights):
    loss = FeatureLoss(weights[0]).train()
    rendered = images(0).requires_grad_()
    loss(rendered, images(1)).backward()
    assert rendered.grad.abs().max() > 0
    assert float(loss(images(1), images(1))) == 0
    assert not loss.stages.training
    assert loss.state_dict() == {}
    assert not [parameter for parameter in loss.parameters() if parameter.requires_grad]


def test_model_with_a_feature_loss_loads_its_own_checkpoint(weights):
    model = nn.ModuleDict({"trained": nn.Linear(2, 2), "loss": FeatureLoss(weights[0])})
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    assert set(saved) == {"trained.weight", "trained.bias"}
    before = float(model["loss"](images(0), images(1)))
    nn.init.zeros_(model["trained"].weight)
    model.load_state_dict(saved)
    assert torch.equal(model["trained"].weight, saved["trained.weight"])
    assert float(model["loss"](images(0), images(1))) == before


def test_feature_loss_without_the_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(feature_loss, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"instant3d\[features\]"):
        FeatureLoss()


def test_feature_loss_refuses_weights_of_another_network(tmp_path):
    torch.save({"first": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="EfficientNet-lite0"):
        FeatureLoss(tmp_path / "a.pth")


def test_installed_weights_tell_a_cat():
    pytest.importorskip(feature_loss.PACKAGE)
    from skimage.data import chelsea

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    feature_loss._load(network, installed_weights())
    cat = torch.from_numpy(chelsea()).movedim(-1, 0)[None, :, :, 75:375] / 255
    cat = F.interpolate(cat, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert int(network(2 * cat - 1).argmax()) in CATS
