"""The YAML of replicas on a Ray cluster, and the options of the command that belong to it."""

from importlib.util import find_spec

import pytest

from instant3d.cli import main
from instant3d.serve.ray_config import RayConfig


def test_ray_config_that_is_shipped_has_a_share_of_a_gpu_a_batch_and_bounds():
    config = RayConfig.read("ray")
    assert (config.gpus_each, config.batch, config.most_replicas) == (0.5, 4, 4)
    assert config.deployment["autoscaling_config"]["min_replicas"] == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("batch: 2\nreplicas: 3", "no others"),
        ("- 1", "no others"),
        ("batch: 0", "above 0"),
        ("batch: yes", "above 0"),
        ("deployment: 3", "a mapping"),
        ("a: [", "is no YAML"),
    ],
)
def test_ray_config_with_a_fault_is_refused_in_one_sentence(tmp_path, text, reason):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        RayConfig.read(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install 'instant3d[ray]'")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--ray", "--workers", "2"], "--ray-config bounds the replicas"),
        (["--address", "ray://host:10001"], "--address auto"),
        (["--ray", "--ray-config", "absent"], "there are ray"),
    ],
)
def test_serve_ray_refuses_options_that_do_not_fit_in_one_sentence(capsys, tmp_path, options, reason):
    assert main.main(["serve", "--data", str(tmp_path), *options]) == 2
    assert reason in capsys.readouterr().err
