"""Triton kernels of the fused experts: align, gate+up+SwiGLU, down, sum. Needs triton; launched by `_fused`.

A *pair* is a token and one of its slots, numbered ``token * TOP_K + slot``. A *block* is up to BLOCK_M pairs of one
expert. Intermediate results lie by pair, so no kernel scatters with atomics and every sum has one fixed order.

Blocks are found in two ways. In general `align` writes the pairs sorted by expert, and a program finds its block from
the counts. With up to 16 tokens (DECODE) there is nothing to sort: an expert has at most one block, the program of the
first pair that chose the expert takes it, and the programs of the other pairs end at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Arguments of kernels are pointers and integers in Triton's own types, which Python's annotations cannot say.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202


@triton.jit
def align(index, counts, order, pairs, CHUNK: tl.constexpr) -> None:
    """Program e counts the pairs of expert e, and writes them, first pair first, behind those of lower experts."""
    expert = tl.program_id(0)
    lower = 0
    own = 0
    for start in range(0, pairs, CHUNK):
        at = start + tl.arange(0, CHUNK)
        ids = tl.load(index + at, mask=at < pairs, other=-1).to(tl.int32)
        lower += tl.sum(((ids >= 0) & (ids < expert)).to(tl.int32))
        own += tl.sum((ids == expert).to(tl.int32))
    tl.store(counts + expert, own)
    for start in range(0, pairs, CHUNK):
        at = start + tl.arange(0, CHUNK)
        ids = tl.load(index + at, mask=at < pairs, other=-1).to(tl.int32)
        match = (ids == expert).to(tl.int32)
        tl.store(order + lower + tl.cumsum(match) - match, at, mask=match != 0)
        lower += tl.sum(match)


@triton.jit
def _sorted_block(counts, order, block, EXPERTS: tl.constexpr, EXPERTS_2: tl.constexpr, BLOCK_M: tl.constexpr):
    """Return a block's expert (EXPERTS and above: none), its pairs, and which of them are real."""
    at = tl.arange(0, EXPERTS_2)
    count = tl.load(counts + at, mask=at < EXPERTS, other=0)
    blocks = (count + BLOCK_M - 1) // BLOCK_M
    expert = tl.sum((tl.cumsum(blocks) <= block).to(tl.int32))
    first_block = tl.sum(tl.where(at < expert, blocks, 0))
    first = tl.sum(tl.where(at < expert, count, 0))
    end = first + tl.sum(tl.where(at == expert, count, 0))
    rows = first + (block - first_block) * BLOCK_M + tl.arange(0, BLOCK_M)
    pair = tl.load(order + rows, mask=rows < end, other=0)
    return expert, pair, rows < end


@triton.jit
def _decode_block(
    index, pair, tokens, EXPERTS: tl.constexpr, TOP_K: tl.constexpr, TOP_K_2: tl.constexpr, BLOCK_M: tl.constexpr
):
    """Return the same for the block that begins with `pair`; none if an earlier pair chose the same expert."""
    token = tl.arange(0, BLOCK_M)[:, None]
    slot = tl.arange(0, TOP_K_2)[None, :]
    every = token * TOP_K + slot
    ids = tl.load(index + every, mask=(token < tokens) & (slot < TOP_K), other=-1).to(tl.int32)
    expert = tl.load(index + pair).to(tl.int32)
    earlier = tl.sum(((ids == expert) & (every < pair)).to(tl.int32))
    expert = tl.where((expert < 0) | (earlier > 0), EXPERTS, expert)
    first_slot = tl.min(tl.where(ids == expert, slot, TOP_K_2), axis=1)
    live = first_slot < TOP_K_2
    pairs = tl.arange(0, BLOCK_M) * TOP_K + tl.where(live, first_slot, 0)
    return expert, tl.where(live, pairs, 0), live


@triton.jit
def _tile_of(program, blocks, columns, GROUP_M: tl.constexpr):
    """Return (block, column tile): GROUP_M blocks share a column tile, so that its weights stay in the L2 cache."""
    group = program // (GROUP_M * columns)
    size = min(blocks - group * GROUP_M, GROUP_M)
    inside = program % (GROUP_M * columns)
    return group * GROUP_M + inside % size, inside // size


@triton.jit
def gate_up(
    hidden,
    matrix,
    output,
    index,
    counts,
    order,
    tokens,
    blocks,
    size,
    inner,
    stride_token,
    stride_expert,
    stride_row,
    stride_column,
    EXPERTS: tl.constexpr,
    EXPERTS_2: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_K_2: tl.constexpr,
    DECODE: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
) -> None:
    """Write silu(x @ gate.T) * (x @ up.T) by pair, shape (pairs, inner); both products stay in registers."""
    block, tile = _tile_of(tl.program_id(0), blocks, tl.cdiv(inner, BLOCK_N), GROUP_M)
    if DECODE:
        expert, pair, live = _decode_block(index, block, tokens, EXPERTS, TOP_K, TOP_K_2, BLOCK_M)
    else:
        expert, pair, live = _sorted_block(counts, order, block, EXPERTS, EXPERTS_2, BLOCK_M)
    if expert >= EXPERTS:
        return
    columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    rows_at = hidden + (pair // TOP_K).to(tl.int64)[:, None] * stride_token + depth[None, :]
    # Columns beyond the last wrap around: loads need no mask, and the store leaves them out.
    gate_at = matrix + expert.to(tl.int64) * stride_expert + depth[:, None] * stride_column
    gate_at += (columns % inner).to(tl.int64)[None, :] * stride_row
    up_at = gate_at + inner.to(tl.int64) * stride_row
    gate = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, size, BLOCK_K):
        if EVEN:
            rows = tl.load(rows_at)
            gate_part = tl.load(gate_at)
            up_part = tl.load(up_at)
        else:
            inside = depth < size - start
            rows = tl.load(rows_at, mask=inside[None, :], other=0.0)
            gate_part = tl.load(gate_at, mask=inside[:, None], other=0.0)
            up_part = tl.load(up_at, mask=inside[:, None], other=0.0)
        gate = tl.dot(rows, gate_part, gate, input_precision=PRECISION)
        up = tl.dot(rows, up_part, up, input_precision=PRECISION)
        rows_at += BLOCK_K
        gate_at += BLOCK_K * stride_column
        up_at += BLOCK_K * stride_column
    activated = gate * tl.sigmoid(gate) * up
    output_at = output + pair.to(tl.int64)[:, None] * inner + columns[None, :]
    tl.store(output_at, activated.to(output.dtype.element_ty), mask=live[:, None] & (columns < inner)[None, :])


@triton.jit
def down(
    activated,
    matrix,
    output,
    weights,
    index,
    counts,
    order,
    tokens,
    blocks,
    size,
    inner,
    stride_expert,
    stride_row,
    stride_column,
    EXPERTS: tl.constexpr,
    EXPERTS_2: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_K_2: tl.constexpr,
    DECODE: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
) -> None:
    """Write weight * (activated @ down.T) by pair, shape (pairs, size)."""
    block, tile = _tile_of(tl.program_id(0), blocks, tl.cdiv(size, BLOCK_N), GROUP_M)
    if DECODE:
        expert, pair, live = _decode_block(index, block, tokens, EXPERTS, TOP_K, TOP_K_2, BLOCK_M)
    else:
        expert, pair, live = _sorted_block(counts, order, block, EXPERTS, EXPERTS_2, BLOCK_M)
    if expert >= EXPERTS:
        return
    columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    rows_at = activated + pair.to(tl.int64)[:, None] * inner + depth[None, :]
    matrix_at = matrix + expert.to(tl.int64) * stride_expert + depth[:, None] * stride_column
    matrix_at += (columns % size).to(tl.int64)[None, :] * stride_row
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, inner, BLOCK_K):
        if EVEN:
            rows = tl.load(rows_at)
            part = tl.load(matrix_at)
        else:
            inside = depth < inner - start
            rows = tl.load(rows_at, mask=inside[None, :], other=0.0)
            part = tl.load(matrix_at, mask=inside[:, None], other=0.0)
        product = tl.dot(rows, part, product, input_precision=PRECISION)
        rows_at += BLOCK_K
        matrix_at += BLOCK_K * stride_column
    weight = tl.load(weights + pair, mask=live, other=0.0).to(tl.float32)
    if DECODE:
        weight = _repeated_weight(weights, index, pair, expert, live, weight, TOP_K)
    output_at = output + pair.to(tl.int64)[:, None] * size + columns[None, :]
    product = (product * weight[:, None]).to(output.dtype.element_ty)
    tl.store(output_at, product, mask=live[:, None] & (columns < size)[None, :])


@triton.jit
def _repeated_weight(weights, index, pair, expert, live, weight, TOP_K: tl.constexpr):
    """Add the weights of later slots in which the same token chose the same expert again."""
    first = pair // TOP_K * TOP_K
    for slot in tl.static_range(1, TOP_K):
        later = live & (first + slot > pair)
        again = tl.load(index + first + slot, mask=later, other=-1).to(tl.int32) == expert
        weight += tl.load(weights + first + slot, mask=later & again, other=0.0).to(tl.float32)
    return weight


@triton.jit
def add_slots(
    slots, output, index, size, EXPERTS: tl.constexpr, TOP_K: tl.constexpr, DECODE: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Write each token's sum over its slots, first slot first, shape (tokens, size); skipped slots add nothing."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for slot in tl.static_range(TOP_K):
        pair = token * TOP_K + slot
        expert = tl.load(index + pair).to(tl.int32)
        used = (expert >= 0) & (expert < EXPERTS)
        if DECODE:  # an expert chosen twice by one token is in the first slot already
            for earlier in tl.static_range(slot):
                used = used & (tl.load(index + token * TOP_K + earlier).to(tl.int32) != expert)
        inside = columns < tl.where(used, size, 0)
        total += tl.load(slots + pair * size + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + token * size + columns, total.to(output.dtype.element_ty), mask=columns < size)
