"""Videos, animations and sheets, read back by other decoders: order, size, colours and speed must be kept."""

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from instant3d.cameras import structured_cameras
from instant3d.utils import visualization
from instant3d.views import Views, depth_to_image, normals_to_image

COLOURS = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.15, 0.2, 0.9], [0.95, 0.95, 0.95]])


def flat_frames(height: int = 32, width: int = 48) -> torch.Tensor:
    return COLOURS[:, :, None, None].expand(-1, -1, height, width)


def test_write_video_plays_the_frames_in_order_in_true_colours_at_its_speed(tmp_path):
    visualization.write_video(flat_frames(), tmp_path / "a.mp4", frames_per_second=12)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.average_rate, stream.width, stream.height) == (12, 48, 32)
    means = torch.tensor(np.stack(frames).mean((1, 2)) / 255, dtype=torch.float32)
    torch.testing.assert_close(means, COLOURS, atol=0.02, rtol=0)


def test_write_video_shows_left_on_the_left_and_top_on_top(tmp_path):
    frame = torch.zeros(1, 3, 32, 32)
    frame[:, 0, :16, :16] = 1.0
    visualization.write_video(frame.expand(3, -1, -1, -1), tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        red = next(container.decode(video=0)).to_ndarray(format="rgb24")[..., 0]
    assert red[4:12, 4:12].min() > 200
    assert red[20:, :].max() < 60
    assert red[:, 20:].max() < 60


def test_write_video_of_odd_size_gains_a_row_and_a_column(tmp_path):
    visualization.write_video(flat_frames(31, 47), tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (48, 32)


def test_write_video_gives_the_same_file_each_time(tmp_path):
    visualization.write_video(flat_frames(), tmp_path / "a.mp4")
    visualization.write_video(flat_frames(), tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_write_animation_shows_the_frames_in_order_and_starts_again(tmp_path, suffix):
    visualization.write_animation(flat_frames(), tmp_path / f"a.{suffix}", frames_per_second=20)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        image.load()
        assert image.info["loop"] == 0
        assert image.info["duration"] == 50
    means = torch.tensor(np.stack(frames).mean((1, 2)) / 255, dtype=torch.float32)
    torch.testing.assert_close(means, COLOURS, atol=0.02, rtol=0)


def test_write_animation_refuses_a_format_that_does_not_move(tmp_path):
    with pytest.raises(ValueError, match=r"a \.webp or a \.gif, not a\.png"):
        visualization.write_animation(flat_frames(), tmp_path / "a.png")


@pytest.mark.slow
def test_write_contact_sheet_holds_every_image_unchanged_in_its_row_and_column(tmp_path):
    images = torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    rows = [visualization.Row("first", images, ["a", "b", "c"]), visualization.Row("second", images.flip(0)[:2])]
    visualization.write_contact_sheet(rows, tmp_path / "sheet.png", heading="an object")
    page = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    corners = {}
    for name, image in zip("abc", (images * 255).round().byte().permute(0, 2, 3, 1).numpy(), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(page, (20, 30, 3))[:, :, 0]
        corners[name] = np.argwhere((windows == image).all((2, 3, 4))).tolist()
    assert {name: len(found) for name, found in corners.items()} == {"a": 1, "b": 2, "c": 2}
    (top_a, left_a), (top_b, left_b), (top_c, _) = corners["a"][0], corners["b"][0], corners["c"][0]
    assert top_a == top_b == top_c
    assert left_a + 30 < left_b
    assert corners["c"][1][0] > top_a + 20
    assert corners["c"][1][1] == left_a


def test_write_contact_sheet_cuts_a_long_label_and_does_not_draw_it_over_its_neighbour(tmp_path):
    images = torch.ones(2, 3, 20, 40)
    for name, caption in (("short", "a"), ("long", "a" * 60)):
        visualization.write_contact_sheet([visualization.Row("", images, [caption])], tmp_path / f"{name}.png")
    short, long = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("short", "long"))
    assert short.shape == long.shape
    second_column = visualization.MARGIN * 2 + 40
    assert (short[:, second_column:] == long[:, second_column:]).all()


def test_write_contact_sheet_refuses_a_sheet_without_images(tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        visualization.write_contact_sheet([], tmp_path / "sheet.png")


def half_seen() -> Views:
    """The left half of each image is a surface, at depth 2 in the first row and 4 in the others, facing +x."""
    alpha = (torch.arange(4) < 2).float().expand(4, 1, 4, 4)
    depth = torch.where(torch.arange(4)[:, None] == 0, 2.0, 4.0).expand(4, 1, 4, 4) * alpha
    normals = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1) * alpha
    return Views(torch.rand(4, 3, 4, 4), alpha, structured_cameras(), depth, normals)


def test_depth_to_image_is_dark_where_near_and_white_where_nothing_is():
    grey = depth_to_image(half_seen())
    assert grey[0, 0, 0, 0] < grey[0, 0, 1, 0] < 1
    assert (grey[..., 2:] == 1).all()
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_normals_to_image_are_red_along_x_and_white_where_nothing_is():
    colours = normals_to_image(half_seen())
    assert colours[0, :, 0, 0].tolist() == [1.0, 0.5, 0.5]
    assert (colours[..., 2:] == 1).all()


@pytest.mark.parametrize(("count", "most", "expected"), [(3, 8, [0, 1, 2]), (40, 4, [0, 10, 20, 30]), (1, 1, [0])])
def test_evenly_spaced_spreads_a_choice_of_many_from_the_first(count, most, expected):
    assert visualization.evenly_spaced(count, most) == expected
