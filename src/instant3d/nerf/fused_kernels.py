"""Triton kernels that sample, decode and composite a projected triplane in one pass, forward and backward.

One program processes a block of rays (or points) of one object and loops over their samples; the samples of one step
are the rows of its matrix products. The backward kernel recomputes the forward pass and stores nothing per sample.
`fused.py` defines the arguments; those in capitals are fixed at compile time, as in `fused_parts.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from instant3d.nerf.fused_parts import (
    COLUMNS,
    SEEN,
    activation,
    blob,
    decode,
    load_hidden,
    opacity,
    position,
    sample,
    scatter,
    sight,
    slope,
    vector,
)

# ruff: noqa: RUF005 (Triton joins tuples, but does not unpack them)


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
    """Compute the blended values of rays, the weights of their intervals, or the density of points, by MODE.

    All arguments in lower case but `count` are pointers; B is the number of objects and N that of rays or points.

    Args:
        planes: Projected features, channels last, (B, 3, SIDE, SIDE, WIDTH).
        first_bias: (WIDTH,).
        hidden_weight: (LAYERS, WIDTH, WIDTH).
        hidden_bias: (LAYERS, WIDTH).
        last_weight: (COLUMNS, WIDTH).
        last_bias: (COLUMNS,).
        alpha: One number, the steepness of scaled colours.
        origins: (B, N, 3); not read for points.
        directions: (B, N, 3); not read for points.
        edges: Interval boundaries (B, N, STEPS + 1); not read for points.
        at: Sample distances (B, N, STEPS), or points (B, N, 3).
        out: Results: "pixels": the SEEN blended values (B, N, SEEN); "weights": (B, N, STEPS); "points": (B, N).
        count: N.
    """
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
        origin = vector(origins, start + row)
        step = vector(directions, start + row)
        near = tl.load(edges + (start + row) * (STEPS + 1))
        far = tl.load(edges + (start + row) * (STEPS + 1) + STEPS)
        if tl.max(far - near) <= 0:
            return
    matrices, biases = load_hidden(hidden_weight, hidden_bias, LAYERS, WIDTH, PRODUCT)
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
        x, y, z = position(origin, step, at, start, row, i, MODE, STEPS)
        features = sample(planes, x, y, z, bias, channel, SIDE, WIDTH, SUM)
        state, _before = decode(features, matrices, biases, KIND, LAYERS, PRODUCT, SUM, PRECISION)
        outputs = tl.dot(state.to(PRODUCT), tl.trans(last), input_precision=PRECISION, out_dtype=SUM)
        outputs += last_offset[None, :]
        raw = tl.sum(tl.where(column[None, :] == 0, outputs, 0.0), 1) + BIAS
        if BLOB != 0:
            raw += blob(x, y, z, BLOB, RADIUS)
        density = activation(raw, DENSITY)
        if MODE == "points":
            tl.store(out + start + row, density, mask=number < count)
        else:
            edge = tl.load(edges + (start + row) * (STEPS + 1) + i + 1)
            thickness = density * (edge - near)
            weight = tl.exp(-depth) * opacity(thickness)
            depth += thickness
            if MODE == "weights":
                tl.store(out + (start + row) * STEPS + i, weight, mask=number < count)
            else:
                seen, _slopes = sight(outputs, 0.5 * (edge + near), column, steepness, SCALED, MARGIN)
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
    """Compute the gradients of MODE "pixels" and "points", front to back.

    Behind sample i, the contribution of all later samples to the loss is the forward pass's total less what came so
    far. Rounding may leave more of it than the remaining transmittance allows; the excess is cut off.

    Args:
        planes: See `forward`.
        first_bias: See `forward`.
        hidden_weight: See `forward`.
        hidden_bias: See `forward`.
        last_weight: See `forward`.
        last_bias: See `forward`.
        alpha: See `forward`.
        origins: See `forward`.
        directions: See `forward`.
        edges: See `forward`.
        at: See `forward`.
        out: Results of `forward`.
        gradient: Gradient of the loss by `out`, of its shape.
        d_planes: Memory to which the gradient by `planes` is added.
        d_first_bias: Likewise for `first_bias`.
        d_hidden_weight: Likewise for `hidden_weight`.
        d_hidden_bias: Likewise for `hidden_bias`.
        d_last_weight: Likewise for `last_weight`.
        d_last_bias: Likewise for `last_bias`.
        scratch: Memory for BLOCK * WIDTH numbers per program.
        count: Number of rays or points of an object.
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
    matrices, biases = load_hidden(hidden_weight, hidden_bias, LAYERS, WIDTH, PRODUCT)
    bias = tl.load(first_bias + channel)
    last = tl.load(last_weight + column[:, None] * WIDTH + channel[None, :]).to(PRODUCT)
    last_offset = tl.load(last_bias + column)
    steepness = tl.load(alpha)
    depth = tl.zeros((BLOCK,), SUM)
    if MODE == "pixels":
        origin = vector(origins, start + row)
        step = vector(directions, start + row)
        near = tl.load(edges + (start + row) * (STEPS + 1))
        far = tl.load(edges + (start + row) * (STEPS + 1) + STEPS)
        if tl.max(far - near) <= 0:
            return
        place = (start + row)[:, None] * SEEN + column[None, :]
        given = (number < count)[:, None] & (column < SEEN)[None, :]
        d_blended = tl.load(gradient + place, mask=given, other=0.0)
        behind = tl.sum(d_blended * tl.load(out + place, mask=given, other=0.0), 1)
        brightest, _slopes = sight(tl.full((BLOCK, COLUMNS), 100.0, SUM), far, column, steepness, SCALED, MARGIN)
        most = tl.sum(tl.abs(d_blended) * brightest, 1)
    ones = tl.full((BLOCK, COLUMNS), 1.0, SUM).to(PRODUCT)
    d_matrices = ()
    d_biases = (tl.zeros((WIDTH, COLUMNS), SUM),)
    for _layer in tl.static_range(LAYERS):
        d_matrices = d_matrices + (tl.zeros((WIDTH, WIDTH), SUM),)
        d_biases = d_biases + (tl.zeros((WIDTH, COLUMNS), SUM),)
    d_last = tl.zeros((WIDTH, COLUMNS), SUM)
    d_last_offset = tl.zeros((BLOCK, COLUMNS), SUM)
    for i in range(STEPS):
        if MODE == "points":
            number = (tl.program_id(0) * STEPS + i) * BLOCK + tl.arange(0, BLOCK)
            row = tl.minimum(number, count - 1)
        x, y, z = position(origin, step, at, start, row, i, MODE, STEPS)
        features = sample(planes, x, y, z, bias, channel, SIDE, WIDTH, SUM)
        state, before = decode(features, matrices, biases, KIND, LAYERS, PRODUCT, SUM, PRECISION)
        outputs = tl.dot(state.to(PRODUCT), tl.trans(last), input_precision=PRECISION, out_dtype=SUM)
        outputs += last_offset[None, :]
        raw = tl.sum(tl.where(column[None, :] == 0, outputs, 0.0), 1) + BIAS
        if BLOB != 0:
            raw += blob(x, y, z, BLOB, RADIUS)
        if MODE == "points":
            d_raw = tl.load(gradient + start + row, mask=number < count, other=0.0) * slope(raw, DENSITY)
            d_outputs = tl.where(column[None, :] == 0, d_raw[:, None], 0.0)
        else:
            edge = tl.load(edges + (start + row) * (STEPS + 1) + i + 1)
            length = edge - near
            thickness = activation(raw, DENSITY) * length
            weight = tl.exp(-depth) * opacity(thickness)
            depth += thickness
            passed = tl.exp(-depth)
            seen, slopes = sight(outputs, 0.5 * (edge + near), column, steepness, SCALED, MARGIN)
            value = tl.sum(d_blended * seen, 1)
            behind -= weight * value
            limit = passed * most
            rest = tl.minimum(tl.maximum(behind, -limit), limit)
            d_raw = (passed * value - rest) * length * slope(raw, DENSITY)
            d_outputs = tl.where(column[None, :] < SEEN - 1, weight[:, None] * d_blended * slopes, 0.0)
            d_outputs = tl.where(column[None, :] == 0, d_raw[:, None], d_outputs)
            near = edge
        d_last_offset += d_outputs
        d_outputs = d_outputs.to(PRODUCT)
        d_last = tl.dot(tl.trans(state.to(PRODUCT)), d_outputs, d_last, input_precision=PRECISION, out_dtype=SUM)
        d_state = tl.dot(d_outputs, last, input_precision=PRECISION, out_dtype=SUM)
        new_matrices = ()
        new_biases = ()
        for layer in tl.static_range(LAYERS - 1, -1, -1):
            d_before = (d_state * slope(before[layer + 1].to(SUM), KIND)).to(PRODUCT)
            below = activation(before[layer].to(SUM), KIND).to(PRODUCT)
            grown = tl.dot(tl.trans(d_before), below, d_matrices[layer], input_precision=PRECISION, out_dtype=SUM)
            new_matrices = (grown,) + new_matrices
            grown = tl.dot(tl.trans(d_before), ones, d_biases[layer + 1], input_precision=PRECISION, out_dtype=SUM)
            new_biases = (grown,) + new_biases
            d_state = tl.dot(d_before, matrices[layer], input_precision=PRECISION, out_dtype=SUM)
        d_features = d_state * slope(before[0].to(SUM), KIND)
        grown = tl.dot(tl.trans(d_features.to(PRODUCT)), ones, d_biases[0], input_precision=PRECISION, out_dtype=SUM)
        d_matrices = new_matrices
        d_biases = (grown,) + new_biases
        scatter(d_planes, x, y, z, d_features, scratch, channel, SIDE, WIDTH)
    square = channel[:, None] * WIDTH + channel[None, :]
    for layer in tl.static_range(LAYERS):
        tl.atomic_add(d_hidden_weight + layer * WIDTH * WIDTH + square, d_matrices[layer], sem="relaxed")
        total = tl.sum(tl.where(column[None, :] == 0, d_biases[layer + 1], 0.0), 1)
        tl.atomic_add(d_hidden_bias + layer * WIDTH + channel, total, sem="relaxed")
    tl.atomic_add(d_first_bias + channel, tl.sum(tl.where(column[None, :] == 0, d_biases[0], 0.0), 1), sem="relaxed")
    tl.atomic_add(d_last_weight + column[None, :] * WIDTH + channel[:, None], d_last, sem="relaxed")
    tl.atomic_add(d_last_bias + column, tl.sum(d_last_offset, 0), sem="relaxed")
