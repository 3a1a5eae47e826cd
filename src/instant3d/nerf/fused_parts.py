"""Building blocks of the fused kernels: Triton functions that sample planes, decode features and weigh samples.

Everything written in capitals is fixed at compile time. WIDTH is the decoder's width, padded to a power of two;
PRODUCT is the type of the products' operands and SUM that of everything else.
"""

from __future__ import annotations

import triton
import triton.language as tl

# ruff: noqa: RUF005 (Triton joins tuples, but does not unpack them)

COLUMNS = tl.constexpr(16)  # outputs, padded to the least size of a product: density, red, green, blue, unused
SEEN = tl.constexpr(5)  # blended values of a sample: 1, red, green, blue, distance


@triton.jit
def activation(x, KIND: tl.constexpr):
    """Apply the activation KIND: "relu", "silu", "softplus" or "exp"."""
    if KIND == "relu":
        y = tl.maximum(x, 0.0)
    elif KIND == "silu":
        y = x * tl.sigmoid(x)
    elif KIND == "softplus":
        y = tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))
    else:
        y = tl.exp(x)
    return y


@triton.jit
def slope(x, KIND: tl.constexpr):
    """Derivative of `activation` with respect to x."""
    if KIND == "relu":
        y = tl.where(x > 0, 1.0, 0.0)
    elif KIND == "silu":
        s = tl.sigmoid(x)
        y = s * (1.0 + x * (1.0 - s))
    elif KIND == "softplus":
        y = tl.sigmoid(x)
    else:
        y = tl.exp(x)
    return y


@triton.jit
def opacity(thickness):
    """1 - exp(-thickness), by its series where the difference would lose digits."""
    x = thickness
    series = x * (1 - x * (1 / 2) * (1 - x * (1 / 3) * (1 - x * (1 / 4) * (1 - x * (1 / 5) * (1 - x * (1 / 6))))))
    return tl.where(x < 0.05, series, 1 - tl.exp(-x))


@triton.jit
def _cell(x, SIDE: tl.constexpr):
    """Return the two texels beside x along one axis of a plane, and their weights, which are 0 outside the plane."""
    place = (x + 1) * (0.5 * SIDE) - 0.5
    place = tl.minimum(tl.maximum(place, -1.0), 1.0 * SIDE)
    floor = tl.floor(place)
    part = place - floor
    low = floor.to(tl.int32)
    first = tl.where((low >= 0) & (low < SIDE), 1 - part, 0.0)
    second = tl.where(low + 1 < SIDE, part, 0.0)
    return tl.minimum(tl.maximum(low, 0), SIDE - 1), tl.minimum(low + 1, SIDE - 1), first, second


@triton.jit
def _texels(x, y, z, plane, SIDE: tl.constexpr, WIDTH: tl.constexpr):
    """Return offsets of points' four texels of a plane (0 xy, 1 xz, 2 yz), and their bilinear weights."""
    left, right, on_left, on_right = _cell(tl.where(plane == 2, y, x), SIDE)
    top, bottom, on_top, on_bottom = _cell(tl.where(plane == 0, y, z), SIDE)
    top = (plane * SIDE + top) * SIDE
    bottom = (plane * SIDE + bottom) * SIDE
    offsets = ((top + left) * WIDTH, (top + right) * WIDTH, (bottom + left) * WIDTH, (bottom + right) * WIDTH)
    shares = (on_top * on_left, on_top * on_right, on_bottom * on_left, on_bottom * on_right)
    return offsets, shares


@triton.jit
def sample(planes, x, y, z, bias, channel, SIDE: tl.constexpr, WIDTH: tl.constexpr, SUM: tl.constexpr):
    """Sum the bias and the bilinear samples of three planes.

    The loop over planes is not unrolled: all twelve texels at once would not fit into registers.

    Args:
        planes: Pointer to one object's planes, channels last.
        x: First coordinates of the points (rows,).
        y: Second coordinates (rows,).
        z: Third coordinates (rows,).
        bias: First layer's bias (WIDTH,).
        channel: Numbers of the channels (WIDTH,).

    Returns:
        Features (rows, WIDTH) of type SUM.
    """
    total = tl.zeros((x.shape[0], WIDTH), SUM) + bias[None, :]
    for plane in range(3):
        offsets, shares = _texels(x, y, z, plane, SIDE, WIDTH)
        for corner in tl.static_range(4):
            texel = tl.load(planes + offsets[corner][:, None] + channel[None, :]).to(SUM)
            total += shares[corner][:, None] * texel
    return total


@triton.jit
def scatter(planes, x, y, z, value, scratch, channel, SIDE: tl.constexpr, WIDTH: tl.constexpr):
    """Add the gradient of samples to that of the texels, except for rows of zeros.

    The value passes through memory to change the layout: a product's result, whose rows are spread over threads,
    becomes contiguous rows.

    Args:
        planes: Pointer to the gradient of one object's planes, channels last.
        x: First coordinates of the points (rows,).
        y: Second coordinates (rows,).
        z: Third coordinates (rows,).
        value: Gradient of their samples (rows, WIDTH).
        scratch: Pointer to the program's own memory for rows * WIDTH numbers.
        channel: Numbers of the channels (WIDTH,).
    """
    place = scratch + tl.arange(0, value.shape[0])[:, None] * WIDTH + channel[None, :]
    tl.debug_barrier()
    tl.store(place, value)
    tl.debug_barrier()
    value = tl.load(place)
    live = tl.max(tl.abs(value), 1) > 0
    for plane in range(3):
        offsets, shares = _texels(x, y, z, plane, SIDE, WIDTH)
        for corner in tl.static_range(4):
            touched = live & (shares[corner] != 0)
            where = planes + offsets[corner][:, None] + channel[None, :]
            tl.atomic_add(where, shares[corner][:, None] * value, mask=touched[:, None], sem="relaxed")


@triton.jit
def load_hidden(weights, biases, LAYERS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr):
    """Load the hidden layers.

    Args:
        weights: Pointer to the matrices (LAYERS, WIDTH, WIDTH).
        biases: Pointer to the biases (LAYERS, WIDTH).

    Returns:
        LAYERS matrices (WIDTH, WIDTH) of type PRODUCT, and as many biases (WIDTH,).
    """
    channel = tl.arange(0, WIDTH)
    matrices = ()
    offsets = ()
    for layer in tl.static_range(LAYERS):
        place = layer * WIDTH * WIDTH + channel[:, None] * WIDTH + channel[None, :]
        matrices = matrices + (tl.load(weights + place).to(PRODUCT),)
        offsets = offsets + (tl.load(biases + layer * WIDTH + channel),)
    return matrices, offsets


@triton.jit
def decode(
    features,
    matrices,
    biases,
    KIND: tl.constexpr,
    LAYERS: tl.constexpr,
    PRODUCT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Apply the first activation and the hidden layers.

    Args:
        features: The first layer's pre-activations (rows, WIDTH).
        matrices: As `load_hidden` returns them.
        biases: As `load_hidden` returns them.

    Returns:
        The last hidden layer's outputs (rows, WIDTH), and the pre-activations of all layers, the first included, as
        PRODUCT.
    """
    before = (features.to(PRODUCT),)
    state = activation(features, KIND)
    for layer in tl.static_range(LAYERS):
        state = tl.dot(state.to(PRODUCT), tl.trans(matrices[layer]), input_precision=PRECISION, out_dtype=SUM)
        state += biases[layer][None, :]
        before = before + (state.to(PRODUCT),)
        state = activation(state, KIND)
    return state, before


@triton.jit
def blob(x, y, z, BLOB: tl.constexpr, RADIUS: tl.constexpr):
    """Compute the bias of raw density at points: BLOB at the origin, 0 at distance RADIUS, linear and negative beyond.

    Args:
        x: First coordinates of the points (rows,).
        y: Second coordinates (rows,).
        z: Third coordinates (rows,).

    Returns:
        BLOB * (1 - distance / RADIUS), (rows,).
    """
    return BLOB * (1 - tl.sqrt(tl.maximum(x * x + y * y + z * z, 1e-20)) / RADIUS)


@triton.jit
def sight(outputs, middle, column, steepness, SCALED: tl.constexpr, MARGIN: tl.constexpr):
    """Compute the values of samples that are blended, and their derivatives by the last layer's outputs.

    Args:
        outputs: Of the last layer (rows, COLUMNS).
        middle: Distances of the samples' middles from the camera (rows,).
        column: Numbers of the columns (COLUMNS,).
        steepness: The decoder's alpha, used if SCALED.

    Returns:
        The values 1, red, green, blue and distance (rows, COLUMNS), and the derivatives (rows, COLUMNS), valid for the
        three colours alone.
    """
    if SCALED:
        share = tl.sigmoid(outputs * steepness)
        seen = share / steepness
        slope = share * (1 - share)
    else:
        share = tl.sigmoid(outputs)
        seen = share * (1 + 2 * MARGIN) - MARGIN
        slope = share * (1 - share) * (1 + 2 * MARGIN)
    seen = tl.where(column[None, :] == 0, 1.0, seen)
    seen = tl.where(column[None, :] == SEEN - 1, middle[:, None], seen)
    return seen, slope


@triton.jit
def position(origin, step, at, start, row, i, MODE: tl.constexpr, STEPS: tl.constexpr):
    """Compute the world coordinates of the samples of one step, of rays or of the points listed in `at`.

    Args:
        origin: Three coordinates of the rays' origins, each (rows,).
        step: Three coordinates of their directions, each (rows,).
        at: Pointer to the samples' distances, or to points.
        start: Number of the object's first ray or point.
        row: Numbers of the rays or points within the object (rows,).
        i: Number of the sample on its ray; of no effect for points.

    Returns:
        x, y and z, each (rows,).
    """
    if MODE == "points":
        x = tl.load(at + (start + row) * 3)
        y = tl.load(at + (start + row) * 3 + 1)
        z = tl.load(at + (start + row) * 3 + 2)
    else:
        t = tl.load(at + (start + row) * STEPS + i)
        x = origin[0] + t * step[0]
        y = origin[1] + t * step[1]
        z = origin[2] + t * step[2]
    return x, y, z


@triton.jit
def vector(pointer, place):
    """Load the three coordinates of the vectors numbered `place` (rows,), each (rows,)."""
    return tl.load(pointer + place * 3), tl.load(pointer + place * 3 + 1), tl.load(pointer + place * 3 + 2)
