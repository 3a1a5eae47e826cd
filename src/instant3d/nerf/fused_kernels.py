"""Triton kernels that sample, decode and composite a projected triplane in one pass, forward and backward.

One program takes a block of rays (or points) of one object and loops over their samples; the samples of one step are
the rows of its matrix products. The backward kernel recomputes what the forward one computed and stores nothing for
each sample. `fused.py` says what the arguments are.

Everything written in capitals is fixed at compile time. WIDTH is the decoder's width, padded to a power of two;
PRODUCT is the type of the products' operands and SUM that of everything else.
"""

from __future__ import annotations

import triton
import triton.language as tl

OUTPUTS = tl.constexpr(16)  # columns of the last layer, padded to the least that a product takes; 4 are used


@triton.jit
def _activation(x, KIND: tl.constexpr):
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
def _slope(x, KIND: tl.constexpr):
    """The derivative of `_activation` by x."""
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
def _opacity(thickness):
    """1 - exp(-thickness), by its series where the difference would lose digits."""
    x = thickness
    series = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5 * (1 - x / 6)))))
    return tl.where(x < 0.05, series, 1 - tl.exp(-x))


@triton.jit
def _cell(x, SIDE: tl.constexpr):
    """Along one axis of a plane: the two texels beside x and their weights, which are 0 outside the plane."""
    place = (x + 1) * (0.5 * SIDE) - 0.5
    place = tl.minimum(tl.maximum(place, -1.0), 1.0 * SIDE)
    floor = tl.floor(place)
    part = place - floor
    low = floor.to(tl.int32)
    first = tl.where((low >= 0) & (low < SIDE), 1 - part, 0.0)
    second = tl.where(low + 1 < SIDE, part, 0.0)
    return tl.minimum(tl.maximum(low, 0), SIDE - 1), tl.minimum(low + 1, SIDE - 1), first, second


@triton.jit
def _rows(across, down, NUMBER: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr):
    """Offsets of a point's four texels of plane NUMBER, and their weights."""
    top = (NUMBER * SIDE + down[0]) * SIDE
    bottom = (NUMBER * SIDE + down[1]) * SIDE
    offsets = (
        (top + across[0]) * WIDTH,
        (top + across[1]) * WIDTH,
        (bottom + across[0]) * WIDTH,
        (bottom + across[1]) * WIDTH,
    )
    shares = (down[2] * across[2], down[2] * across[3], down[3] * across[2], down[3] * across[3])
    return offsets, shares


@triton.jit
def _gather(total, planes, across, down, channel, NUMBER: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr):
    """`total` (rows, WIDTH) and the bilinear samples of one plane."""
    offsets, shares = _rows(across, down, NUMBER, SIDE, WIDTH)
    for corner in tl.static_range(4):
        texel = tl.load(planes + offsets[corner][:, None] + channel[None, :]).to(total.dtype)
        total += shares[corner][:, None] * texel
    return total


@triton.jit
def _scatter(value, live, planes, across, down, channel, NUMBER: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr):
    """Add the gradient (rows, WIDTH) of samples to that of one plane's texels."""
    offsets, shares = _rows(across, down, NUMBER, SIDE, WIDTH)
    for corner in tl.static_range(4):
        share = shares[corner]
        touched = live & (share != 0)
        where = planes + offsets[corner][:, None] + channel[None, :]
        tl.atomic_add(where, share[:, None] * value, mask=touched[:, None], sem="relaxed")


@triton.jit
def _load_hidden(weights, biases, LAYERS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr):
    channel = tl.arange(0, WIDTH)
    matrices = ()
    offsets = ()
    for layer in tl.static_range(LAYERS):
        place = layer * WIDTH * WIDTH + channel[:, None] * WIDTH + channel[None, :]
        matrices = matrices + (tl.load(weights + place).to(PRODUCT),)
        offsets = offsets + (tl.load(biases + layer * WIDTH + channel),)
    return matrices, offsets


@triton.jit
def _decode(
    features,
    matrices,
    biases,
    KIND: tl.constexpr,
    LAYERS: tl.constexpr,
    PRODUCT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What every hidden layer's activation is applied to, the first layer's `features` (rows, WIDTH) included."""
    before = (features.to(PRODUCT),)
    state = _activation(features, KIND)
    for layer in tl.static_range(LAYERS):
        state = tl.dot(
            state.to(PRODUCT), tl.trans(matrices[layer]), input_precision=PRECISION, out_dtype=SUM
        )
        state += biases[layer][None, :]
        before = before + (state.to(PRODUCT),)
        state = _activation(state, KIND)
    return state, before


@triton.jit
def _blob(x, y, z, BLOB: tl.constexpr, RADIUS: tl.constexpr):
    return BLOB * (1 - tl.sqrt(tl.maximum(x * x + y * y + z * z, 1e-20)) / RADIUS)


@triton.jit
def _output(state, weights, biases, channel, NUMBER: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.load(weights + NUMBER * WIDTH + channel)
    return tl.sum(state * row[None, :], 1) + tl.load(biases + NUMBER)


@triton.jit
def _position(origin, step, at, start, row, i, MODE: tl.constexpr, STEPS: tl.constexpr):
    """World coordinates of sample i: of rays, or of points that `at` lists."""
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
def _vector(pointer, place):
    return tl.load(pointer + place * 3), tl.load(pointer + place * 3 + 1), tl.load(pointer + place * 3 + 2)


@triton.jit
def forward(
    planes,
    first_bias,
    hidden_weight,
    hidden_bias,
    last_weight,
    last_bias,
    alpha,
    origins,
    directions,
    edges,
    at,
    out,
    count,
    MODE: tl.constexpr,
    STEPS: tl.constexpr,
    SIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    LAYERS: tl.constexpr,
    KIND: tl.constexpr,
    DENSITY: tl.constexpr,
    BIAS: tl.constexpr,
    BLOB: tl.constexpr,
    RADIUS: tl.constexpr,
    SCALED: tl.constexpr,
    MARGIN: tl.constexpr,
    PRODUCT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """MODE "pixels": rgb, alpha and sum of weight x middle; "weights": every interval's weight; "points": density."""
    thing = tl.program_id(1).to(tl.int64)
    start = thing * count
    planes += thing * (3 * SIDE * SIDE * WIDTH)
    channel = tl.arange(0, WIDTH)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.minimum(number, count - 1)
    origin = (0.0, 0.0, 0.0)
    step = (0.0, 0.0, 0.0)
    if MODE != "points":
        origin = _vector(origins, start + row)
        step = _vector(directions, start + row)
        near = tl.load(edges + (start + row) * (STEPS + 1))
        far = tl.load(edges + (start + row) * (STEPS + 1) + STEPS)
        if tl.max(far - near) <= 0:
            return
    else:
        near = tl.zeros((BLOCK,), SUM)
    matrices, biases = _load_hidden(hidden_weight, hidden_bias, LAYERS, WIDTH, PRODUCT)
    bias = tl.load(first_bias + channel)
    steepness = tl.load(alpha)
    depth = tl.zeros((BLOCK,), SUM)
    red = tl.zeros((BLOCK,), SUM)
    green = tl.zeros((BLOCK,), SUM)
    blue = tl.zeros((BLOCK,), SUM)
    opacity = tl.zeros((BLOCK,), SUM)
    moment = tl.zeros((BLOCK,), SUM)
    for i in range(STEPS):
        if MODE == "points":
            number = (tl.program_id(0) * STEPS + i) * BLOCK + tl.arange(0, BLOCK)
            row = tl.minimum(number, count - 1)
        x, y, z = _position(origin, step, at, start, row, i, MODE, STEPS)
        along_x, along_y, along_z = _cell(x, SIDE), _cell(y, SIDE), _cell(z, SIDE)
        features = tl.zeros((BLOCK, WIDTH), SUM)
        features = _gather(features, planes, along_x, along_y, channel, 0, SIDE, WIDTH)
        features = _gather(features, planes, along_x, along_z, channel, 1, SIDE, WIDTH)
        features = _gather(features, planes, along_y, along_z, channel, 2, SIDE, WIDTH) + bias[None, :]
        state, _before = _decode(features, matrices, biases, KIND, LAYERS, PRODUCT, SUM, PRECISION)
        raw = _output(state, last_weight, last_bias, channel, 0, WIDTH) + BIAS
        if BLOB != 0:
            raw += _blob(x, y, z, BLOB, RADIUS)
        density = _activation(raw, DENSITY)
        if MODE == "points":
            tl.store(out + start + row, density, mask=number < count)
        else:
            edge = tl.load(edges + (start + row) * (STEPS + 1) + i + 1)
            thickness = density * (edge - near)
            weight = tl.exp(-depth) * _opacity(thickness)
            depth += thickness
            if MODE == "weights":
                tl.store(out + (start + row) * STEPS + i, weight, mask=number < count)
            else:
                opacity += weight
                moment += weight * (0.5 * (edge + near))
                r = _output(state, last_weight, last_bias, channel, 1, WIDTH)
                g = _output(state, last_weight, last_bias, channel, 2, WIDTH)
                b = _output(state, last_weight, last_bias, channel, 3, WIDTH)
                red += weight * _colour(r, steepness, SCALED, MARGIN)
                green += weight * _colour(g, steepness, SCALED, MARGIN)
                blue += weight * _colour(b, steepness, SCALED, MARGIN)
            near = edge
    if MODE == "pixels":
        place = out + (start + row) * 5
        tl.store(place, red, mask=number < count)
        tl.store(place + 1, green, mask=number < count)
        tl.store(place + 2, blue, mask=number < count)
        tl.store(place + 3, opacity, mask=number < count)
        tl.store(place + 4, moment, mask=number < count)


@triton.jit
def _colour(raw, steepness, SCALED: tl.constexpr, MARGIN: tl.constexpr):
    if SCALED:
        y = tl.sigmoid(raw * steepness) / steepness
    else:
        y = tl.sigmoid(raw) * (1 + 2 * MARGIN) - MARGIN
    return y


@triton.jit
def _colour_slope(raw, steepness, SCALED: tl.constexpr, MARGIN: tl.constexpr):
    if SCALED:
        s = tl.sigmoid(raw * steepness)
        y = s * (1 - s)
    else:
        s = tl.sigmoid(raw)
        y = s * (1 - s) * (1 + 2 * MARGIN)
    return y


@triton.jit
def backward(
    planes,
    first_bias,
    hidden_weight,
    hidden_bias,
    last_weight,
    last_bias,
    alpha,
    origins,
    directions,
    edges,
    at,
    out,
    gradient,
    d_planes,
    d_first_bias,
    d_hidden_weight,
    d_hidden_bias,
    d_last_weight,
    d_last_bias,
    count,
    MODE: tl.constexpr,
    STEPS: tl.constexpr,
    SIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    LAYERS: tl.constexpr,
    KIND: tl.constexpr,
    DENSITY: tl.constexpr,
    BIAS: tl.constexpr,
    BLOB: tl.constexpr,
    RADIUS: tl.constexpr,
    SCALED: tl.constexpr,
    MARGIN: tl.constexpr,
    PRODUCT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of MODE "pixels" and "points", front to back.

    Behind sample i, what all others add to the loss is the forward pass's total less what came so far. Rounding may
    leave more of it than the light that is left can carry, which is cut off.
    """
    thing = tl.program_id(1).to(tl.int64)
    start = thing * count
    planes += thing * (3 * SIDE * SIDE * WIDTH)
    d_planes += thing * (3 * SIDE * SIDE * WIDTH)
    channel = tl.arange(0, WIDTH)
    column = tl.arange(0, OUTPUTS)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.minimum(number, count - 1)
    steepness = tl.load(alpha)
    origin = (0.0, 0.0, 0.0)
    step = (0.0, 0.0, 0.0)
    near = tl.zeros((BLOCK,), SUM)
    d_red = near
    d_green = near
    d_blue = near
    d_opacity = near
    d_moment = near
    behind = near
    most = near
    if MODE == "pixels":
        origin = _vector(origins, start + row)
        step = _vector(directions, start + row)
        near = tl.load(edges + (start + row) * (STEPS + 1))
        far = tl.load(edges + (start + row) * (STEPS + 1) + STEPS)
        if tl.max(far - near) <= 0:
            return
        place = (start + row) * 5
        alive = number < count
        d_red = tl.load(gradient + place, mask=alive, other=0.0)
        d_green = tl.load(gradient + place + 1, mask=alive, other=0.0)
        d_blue = tl.load(gradient + place + 2, mask=alive, other=0.0)
        d_opacity = tl.load(gradient + place + 3, mask=alive, other=0.0)
        d_moment = tl.load(gradient + place + 4, mask=alive, other=0.0)
        behind = d_red * tl.load(out + place) + d_green * tl.load(out + place + 1) + d_blue * tl.load(out + place + 2)
        behind += d_opacity * tl.load(out + place + 3) + d_moment * tl.load(out + place + 4)
        brightest = 1.0 + MARGIN
        if SCALED:
            brightest = 1.0 / steepness
        most = (tl.abs(d_red) + tl.abs(d_green) + tl.abs(d_blue)) * brightest
        most += tl.abs(d_opacity) + tl.abs(d_moment) * far
    matrices, biases = _load_hidden(hidden_weight, hidden_bias, LAYERS, WIDTH, PRODUCT)
    bias = tl.load(first_bias + channel)
    ones = tl.full((BLOCK, OUTPUTS), 1.0, SUM).to(PRODUCT)
    depth = tl.zeros((BLOCK,), SUM)
    d_matrices = ()
    d_biases = (tl.zeros((WIDTH, OUTPUTS), SUM),)
    for _layer in tl.static_range(LAYERS):
        d_matrices = d_matrices + (tl.zeros((WIDTH, WIDTH), SUM),)
        d_biases = d_biases + (tl.zeros((WIDTH, OUTPUTS), SUM),)
    d_last = tl.zeros((WIDTH, OUTPUTS), SUM)
    d_last_bias_rows = tl.zeros((BLOCK, OUTPUTS), SUM)
    for i in range(STEPS):
        if MODE == "points":
            number = (tl.program_id(0) * STEPS + i) * BLOCK + tl.arange(0, BLOCK)
            row = tl.minimum(number, count - 1)
        x, y, z = _position(origin, step, at, start, row, i, MODE, STEPS)
        along_x, along_y, along_z = _cell(x, SIDE), _cell(y, SIDE), _cell(z, SIDE)
        features = tl.zeros((BLOCK, WIDTH), SUM)
        features = _gather(features, planes, along_x, along_y, channel, 0, SIDE, WIDTH)
        features = _gather(features, planes, along_x, along_z, channel, 1, SIDE, WIDTH)
        features = _gather(features, planes, along_y, along_z, channel, 2, SIDE, WIDTH) + bias[None, :]
        state, before = _decode(features, matrices, biases, KIND, LAYERS, PRODUCT, SUM, PRECISION)
        raw = _output(state, last_weight, last_bias, channel, 0, WIDTH) + BIAS
        if BLOB != 0:
            raw += _blob(x, y, z, BLOB, RADIUS)
        if MODE == "points":
            d_density = tl.load(gradient + start + row, mask=number < count, other=0.0)
            d_raw = d_density * _slope(raw, DENSITY)
            touched = d_raw != 0
            d_outputs = tl.where(column[None, :] == 0, d_raw[:, None], 0.0)
            d_state = d_raw[:, None] * tl.load(last_weight + channel)[None, :]
        else:
            edge = tl.load(edges + (start + row) * (STEPS + 1) + i + 1)
            length = edge - near
            thickness = _activation(raw, DENSITY) * length
            weight = tl.exp(-depth) * _opacity(thickness)
            depth += thickness
            passed = tl.exp(-depth)
            r = _output(state, last_weight, last_bias, channel, 1, WIDTH)
            g = _output(state, last_weight, last_bias, channel, 2, WIDTH)
            b = _output(state, last_weight, last_bias, channel, 3, WIDTH)
            value = d_red * _colour(r, steepness, SCALED, MARGIN) + d_green * _colour(g, steepness, SCALED, MARGIN)
            value += d_blue * _colour(b, steepness, SCALED, MARGIN)
            value += d_opacity + d_moment * (0.5 * (edge + near))
            behind -= weight * value
            limit = passed * most
            rest = tl.minimum(tl.maximum(behind, -limit), limit)
            d_raw = (passed * value - rest) * length * _slope(raw, DENSITY)
            d_r = weight * d_red * _colour_slope(r, steepness, SCALED, MARGIN)
            d_g = weight * d_green * _colour_slope(g, steepness, SCALED, MARGIN)
            d_b = weight * d_blue * _colour_slope(b, steepness, SCALED, MARGIN)
            touched = (d_raw != 0) | (d_r != 0) | (d_g != 0) | (d_b != 0)
            d_outputs = tl.where(column[None, :] == 0, d_raw[:, None], 0.0)
            d_outputs = tl.where(column[None, :] == 1, d_r[:, None], d_outputs)
            d_outputs = tl.where(column[None, :] == 2, d_g[:, None], d_outputs)
            d_outputs = tl.where(column[None, :] == 3, d_b[:, None], d_outputs)
            d_state = d_raw[:, None] * tl.load(last_weight + channel)[None, :]
            d_state += d_r[:, None] * tl.load(last_weight + WIDTH + channel)[None, :]
            d_state += d_g[:, None] * tl.load(last_weight + 2 * WIDTH + channel)[None, :]
            d_state += d_b[:, None] * tl.load(last_weight + 3 * WIDTH + channel)[None, :]
            near = edge
        d_last_bias_rows += d_outputs
        d_last = tl.dot(
            tl.trans(state.to(PRODUCT)), d_outputs.to(PRODUCT), d_last, input_precision=PRECISION, out_dtype=SUM
        )
        new_matrices = ()
        new_biases = ()
        for layer in tl.static_range(LAYERS - 1, -1, -1):
            d_before = (d_state * _slope(before[layer + 1].to(SUM), KIND)).to(PRODUCT)
            below = _activation(before[layer].to(SUM), KIND).to(PRODUCT)
            grown = tl.dot(tl.trans(d_before), below, d_matrices[layer], input_precision=PRECISION, out_dtype=SUM)
            new_matrices = (grown,) + new_matrices  # noqa: RUF005
            grown = tl.dot(tl.trans(d_before), ones, d_biases[layer + 1], input_precision=PRECISION, out_dtype=SUM)
            new_biases = (grown,) + new_biases  # noqa: RUF005
            d_state = tl.dot(d_before, matrices[layer], input_precision=PRECISION, out_dtype=SUM)
        d_features = d_state * _slope(before[0].to(SUM), KIND)
        grown = tl.dot(
            tl.trans(d_features.to(PRODUCT)), ones, d_biases[0], input_precision=PRECISION, out_dtype=SUM
        )
        d_matrices = new_matrices
        d_biases = (grown,) + new_biases  # noqa: RUF005
        _scatter(d_features, touched, d_planes, along_x, along_y, channel, 0, SIDE, WIDTH)
        _scatter(d_features, touched, d_planes, along_x, along_z, channel, 1, SIDE, WIDTH)
        _scatter(d_features, touched, d_planes, along_y, along_z, channel, 2, SIDE, WIDTH)
    square = channel[:, None] * WIDTH + channel[None, :]
    for layer in tl.static_range(LAYERS):
        tl.atomic_add(d_hidden_weight + layer * WIDTH * WIDTH + square, d_matrices[layer], sem="relaxed")
        total = tl.sum(tl.where(column[None, :] == 0, d_biases[layer + 1], 0.0), 1)
        tl.atomic_add(d_hidden_bias + layer * WIDTH + channel, total, sem="relaxed")
    tl.atomic_add(d_first_bias + channel, tl.sum(tl.where(column[None, :] == 0, d_biases[0], 0.0), 1), sem="relaxed")
    wanted = column < 4
    tl.atomic_add(
        d_last_weight + column[None, :] * WIDTH + channel[:, None], d_last, mask=wanted[None, :], sem="relaxed"
    )
    tl.atomic_add(d_last_bias + column, tl.sum(d_last_bias_rows, 0), mask=wanted, sem="relaxed")
