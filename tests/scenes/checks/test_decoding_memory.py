"""The memory that doctor takes for decoding: who waits for whom, and what is never decoded."""

import io
import threading
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from instant3d.scenes import geometry_maps
from instant3d.scenes.checks.decoding_memory import DecodingMemory
from instant3d.utils.images import TooManyPixels

LARGE, SMALL = (8192, 8192), (256, 256)


def processes(total: int, jobs: int) -> list[DecodingMemory]:
    turn = threading.Lock()
    return [DecodingMemory.of(total, jobs, turn) for _ in range(jobs)]


def test_decoding_memory_lets_one_process_at_a_time_decode_a_large_image_and_all_a_small_one():
    one, other, *_ = processes(2**32, 8)
    done = threading.Event()

    def decode_large() -> None:
        with other.reserved() as check:
            check(*LARGE)
        done.set()

    waiting = threading.Thread(target=decode_large)
    with one.reserved() as check:
        check(*LARGE)
        check(*LARGE)  # a reader checks a size as often as it likes
        waiting.start()
        with other.reserved() as check_small:
            check_small(*SMALL)
        assert not done.wait(0.1)
    waiting.join(5)
    assert done.is_set()


def test_decoding_memory_lets_a_lone_process_decode_the_largest_image_within_a_gibibyte():
    with processes(2**30, 1)[0].reserved() as check:
        check(*LARGE)


@pytest.mark.parametrize(("total", "size"), [(2**30, LARGE), (2**40, (8193, 8192))])
def test_decoding_memory_refuses_an_image_larger_than_half_of_it_or_than_any_limit(total, size):
    with pytest.raises(TooManyPixels, match="make it smaller"), processes(total, 2)[0].reserved() as check:
        check(*size)


@pytest.mark.parametrize("kind", ["depth", "normals"])
def test_decode_of_a_large_map_takes_no_more_memory_than_the_pixels_that_are_kept(kind):
    side, few = 2048, 64
    pixels = np.full((side, side), 1000, np.uint16) if kind == "depth" else np.full((side, side, 3), 200, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    grid = geometry_maps.MapGrid((side, side), (few, few))
    tracemalloc.start()
    if kind == "depth":
        values = geometry_maps.decode_depth(stream.getvalue(), 0.001, grid, "a map")
    else:
        values = geometry_maps.decode_normals(stream.getvalue(), grid, "a map")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values.shape[:2] == (few, few)
    assert peak < side * side / 4
