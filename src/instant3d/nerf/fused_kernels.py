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

COLUMNS = tl.constexpr(16)  # of the last layer, the least that a product takes: density, red, green, blue, unused
SEEN = tl.constexpr(5)  # what is blended of a sample: 1, red, green, blue, distance


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
    series = x * (1 - x * (1 / 2) * (1 - x * (1 / 3) * (1 - x * (1 / 4) * (1 - x * (1 / 5) * (1 - x * (1 / 6))))))
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
def _texels(x, y, z, plane, SIDE: tl.constexpr, WIDTH: tl.constexpr):
    """Offsets of points' four texels of a plane (0 xy, 1 xz, 2 yz), and their bilinear weights."""
    left, right, on_left, on_right = _cell(tl.where(plane == 2, y, x), SIDE)
    top, bottom, on_top, on_bottom = _cell(tl.where(plane == 0, y, z), SIDE)
    top = (plane * SIDE + top) * SIDE
    bottom = (plane * SIDE + bottom) * SIDE
    offsets = ((top + left) * WIDTH, (top + right) * WIDTH, (bottom + left) * WIDTH, (bottom + right) * WIDTH)
    shares = (on_top * on_left, on_top * on_right, on_bottom * on_left, on_bottom * on_right)
    return offsets, shares


@triton.jit
def _sample(planes, x, y, z, bias, channel, SIDE: tl.constexpr, WIDTH: tl.constexpr, SUM: tl.constexpr):
    """The bias and the bilinear samples of three planes, (rows, WIDTH).

    A loop over planes, which is not unrolled: all twelve texels at once would not fit into registers.
    """
    total = tl.zeros((x.shape[0], WIDTH), SUM) + bias[None, :]
    for plane in range(3):
        offsets, shares = _texels(x, y, z, plane, SIDE, WIDTH)
        for corner in tl.static_range(4):
            texel = tl.load(planes + offsets[corner][:, None] + channel[None, :]).to(SUM)
            total += shares[corner][:, None] * texel
    return total


@triton.jit
def _scatter(planes, x, y, z, value, live, scratch, channel, SIDE: tl.constexpr, WIDTH: tl.constexpr):
    """Add the gradient (rows, WIDTH) of samples to that of the texels, in rows that are live.

    On its way through memory a product's result, whose rows lie scattered over threads, becomes rows of neighbours.
    """
    place = scratch + tl.arange(0, value.shape[0])[:, None] * WIDTH + channel[None, :]
    tl.debug_barrier()
    tl.store(place, value.to(scratch.dtype.element_ty))
    tl.debug_barrier()
    value = tl.load(place).to(planes.dtype.element_ty)
    for plane in range(3):
        offsets, shares = _texels(x, y, z, plane, SIDE, WIDTH)
        for corner in tl.static_range(4):
            touched = live & (shares[corner] != 0)
            where = planes + offsets[corner][:, None] + channel[None, :]
            tl.atomic_add(where, shares[corner][:, None] * value, mask=touched[:, None], sem="relaxed")


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
        state = tl.dot(state.to(PRODUCT), tl.trans(matrices[layer]), input_precision=PRECISION, out_dtype=SUM)
        state += biases[layer][None, :]
        before = before + (state.to(PRODUCT),)
        state = _activation(state, KIND)
    return state, before


@triton.jit
def _blob(x, y, z, BLOB: tl.constexpr, RADIUS: tl.constexpr):
    return BLOB * (1 - tl.sqrt(tl.maximum(x * x + y * y + z * z, 1e-20)) / RADIUS)


@triton.jit
def _sight(outputs, middle, column, steepness, SCALED: tl.constexpr, MARGIN: tl.constexpr):
    """What is blended of samples, (rows, COLUMNS), and its derivative by the last layer's outputs."""
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
    """MODE "pixels": what is blended, SEEN of a ray; "weights": every interval's weight; "points": density."""
    thing = tl.program_id(1).to(tl.int64)
    start = thing * count
    planes += thing * (3 * SIDE * SIDE * WIDTH)
    channel = tl.arange(0, WIDTH)
    column = tl.arange(0, COLUMNS)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.minimum(number, count - 1)
    origin = (0.0, 0.0, 0.0)
    step = (0.0, 0.0, 0.0)
    near = tl.zeros((BLOCK,), SUM)
    if MODE != "points":
        origin = _vector(origins, start + row)
        step = _vector(directions, start + row)
        near = tl.load(edges + (start + row) * (STEPS + 1))
        far = tl.load(edges + (start + row) * (STEPS + 1) + STEPS)
        if tl.max(far - near) <= 0:
            return
    matrices, biases = _load_hidden(hidden_weight, hidden_bias, LAYERS, WIDTH, PRODUCT)
    bias = tl.load(first_bias + channel)
    last = tl.load(last_weight + column[:, None] * WIDTH + channel[None, :]).to(PRODUCT)
    last_offset = tl.load(last_bias + column)
    steepness = tl.load(alpha)
    depth = tl.zeros((BLOCK,), SUM)
    blended = tl.zeros((BLOCK, COLUMNS), SUM)
    for i in range(STEPS):
        if MODE == "points":
            number = (tl.program_id(0) * STEPS + i) * BLOCK + tl.arange(0, BLOCK)
            row = tl.minimum(number, count - 1)
        x, y, z = _position(origin, step, at, start, row, i, MODE, STEPS)
        features = _sample(planes, x, y, z, bias, channel, SIDE, WIDTH, SUM)
        state, _before = _decode(features, matrices, biases, KIND, LAYERS, PRODUCT, SUM, PRECISION)
        outputs = tl.dot(state.to(PRODUCT), tl.trans(last), input_precision=PRECISION, out_dtype=SUM)
        outputs += last_offset[None, :]
        raw = tl.sum(tl.where(column[None, :] == 0, outputs, 0.0), 1) + BIAS
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
                seen, _slopes = _sight(outputs, 0.5 * (edge + near), column, steepness, SCALED, MARGIN)
                blended += weight[:, None] * seen
            near = edge
    if MODE == "pixels":
        place = out + (start + row)[:, None] * SEEN + column[None, :]
        tl.store(place, blended, mask=(number < count)[:, None] & (column < SEEN)[None, :])


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
    scratch,
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
    scratch += (thing * tl.num_programs(0) + tl.program_id(0)) * (BLOCK * WIDTH)
    channel = tl.arange(0, WIDTH)
    column = tl.arange(0, COLUMNS)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.minimum(number, count - 1)
    origin = (0.0, 0.0, 0.0)
    step = (0.0, 0.0, 0.0)
    near = tl.zeros((BLOCK,), SUM)
    matrices, biases = _load_hidden(hidden_weight, hidden_bias, LAYERS, WIDTH, PRODUCT)
    bias = tl.load(first_bias + channel)
    last = tl.load(last_weight + column[:, None] * WIDTH + channel[None, :]).to(PRODUCT)
    last_offset = tl.load(last_bias + column)
    steepness = tl.load(alpha)
    depth = tl.zeros((BLOCK,), SUM)
    if MODE == "pixels":
        origin = _vector(origins, start + row)
        step = _vector(directions, start + row)
        near = tl.load(edges + (start + row) * (STEPS + 1))
        far = tl.load(edges + (start + row) * (STEPS + 1) + STEPS)
        if tl.max(far - near) <= 0:
            return
        place = (start + row)[:, None] * SEEN + column[None, :]
        given = (number < count)[:, None] & (column < SEEN)[None, :]
        d_blended = tl.load(gradient + place, mask=given, other=0.0)
        behind = tl.sum(d_blended * tl.load(out + place, mask=given, other=0.0), 1)
        brightest, _slopes = _sight(tl.full((BLOCK, COLUMNS), 100.0, SUM), far, column, steepness, SCALED, MARGIN)
        most = tl.sum(tl.abs(d_blended) * brightest, 1)
    ones = tl.full((BLOCK, COLUMNS), 1.0, SUM).to(PRODUCT)
    d_matrices = ()
    d_biases = (tl.zeros((WIDTH, COLUMNS), SUM),)
    for _layer in tl.static_range(LAYERS):
        d_matrices = d_matrices + (tl.zeros((WIDTH, WIDTH), SUM),)  # noqa: RUF005
        d_biases = d_biases + (tl.zeros((WIDTH, COLUMNS), SUM),)  # noqa: RUF005
    d_last = tl.zeros((WIDTH, COLUMNS), SUM)
    d_last_offset = tl.zeros((BLOCK, COLUMNS), SUM)
    for i in range(STEPS):
        if MODE == "points":
            number = (tl.program_id(0) * STEPS + i) * BLOCK + tl.arange(0, BLOCK)
            row = tl.minimum(number, count - 1)
        x, y, z = _position(origin, step, at, start, row, i, MODE, STEPS)
        features = _sample(planes, x, y, z, bias, channel, SIDE, WIDTH, SUM)
        state, before = _decode(features, matrices, biases, KIND, LAYERS, PRODUCT, SUM, PRECISION)
        outputs = tl.dot(state.to(PRODUCT), tl.trans(last), input_precision=PRECISION, out_dtype=SUM)
        outputs += last_offset[None, :]
        raw = tl.sum(tl.where(column[None, :] == 0, outputs, 0.0), 1) + BIAS
        if BLOB != 0:
            raw += _blob(x, y, z, BLOB, RADIUS)
        if MODE == "points":
            d_raw = tl.load(gradient + start + row, mask=number < count, other=0.0) * _slope(raw, DENSITY)
            d_outputs = tl.where(column[None, :] == 0, d_raw[:, None], 0.0)
        else:
            edge = tl.load(edges + (start + row) * (STEPS + 1) + i + 1)
            length = edge - near
            thickness = _activation(raw, DENSITY) * length
            weight = tl.exp(-depth) * _opacity(thickness)
            depth += thickness
            passed = tl.exp(-depth)
            seen, slopes = _sight(outputs, 0.5 * (edge + near), column, steepness, SCALED, MARGIN)
            value = tl.sum(d_blended * seen, 1)
            behind -= weight * value
            limit = passed * most
            rest = tl.minimum(tl.maximum(behind, -limit), limit)
            d_raw = (passed * value - rest) * length * _slope(raw, DENSITY)
            d_outputs = tl.where(column[None, :] < SEEN - 1, weight[:, None] * d_blended * slopes, 0.0)
            d_outputs = tl.where(column[None, :] == 0, d_raw[:, None], d_outputs)
            near = edge
        touched = tl.max(tl.abs(d_outputs), 1) > 0
        d_last_offset += d_outputs
        d_outputs = d_outputs.to(PRODUCT)
        d_last = tl.dot(tl.trans(state.to(PRODUCT)), d_outputs, d_last, input_precision=PRECISION, out_dtype=SUM)
        d_state = tl.dot(d_outputs, last, input_precision=PRECISION, out_dtype=SUM)
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
        grown = tl.dot(tl.trans(d_features.to(PRODUCT)), ones, d_biases[0], input_precision=PRECISION, out_dtype=SUM)
        d_matrices = new_matrices
        d_biases = (grown,) + new_biases  # noqa: RUF005
        _scatter(d_planes, x, y, z, d_features, touched, scratch, channel, SIDE, WIDTH)
    square = channel[:, None] * WIDTH + channel[None, :]
    for layer in tl.static_range(LAYERS):
        tl.atomic_add(d_hidden_weight + layer * WIDTH * WIDTH + square, d_matrices[layer], sem="relaxed")
        total = tl.sum(tl.where(column[None, :] == 0, d_biases[layer + 1], 0.0), 1)
        tl.atomic_add(d_hidden_bias + layer * WIDTH + channel, total, sem="relaxed")
    tl.atomic_add(d_first_bias + channel, tl.sum(tl.where(column[None, :] == 0, d_biases[0], 0.0), 1), sem="relaxed")
    tl.atomic_add(d_last_weight + column[None, :] * WIDTH + channel[:, None], d_last, sem="relaxed")
    tl.atomic_add(d_last_bias + column, tl.sum(d_last_offset, 0), sem="relaxed")
