"""Vector instructions for the compiled engines, written once as LLVM code and compiled for the user's processor.

numba compiles ordinary loops well, but the loops that decide the speed of the engines need their operands to stay in
vector registers. llvmlite, which numba brings, states them as vectors; LLVM turns them into whatever the processor
has. No compiler has to be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)

#: Columns that one call of `add_rows` sums; tables are padded to a multiple of it.
COLUMNS = 16


def vector_operation(emit: Callable[..., None]) -> Any:
    """What compiled loops may call, from the function that emits its LLVM code.

    emit(builder, *arguments) : arrays arrive as pointers to their first item, all else as 64-bit integers.
    """

    @intrinsic
    @wraps(emit)
    def typed(typingctx: Any, *kinds: Any) -> Any:
        arrays = [isinstance(kind, types.Array) for kind in kinds]

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointers = [
                context.make_array(kind)(context, builder, value).data if array else value
                for array, kind, value in zip(arrays, signature.args, args, strict=True)
            ]
            emit(builder, *pointers)
            return context.get_dummy_value()

        return types.void(*(kind if array else types.int64 for array, kind in zip(arrays, kinds, strict=True))), codegen

    return typed


def emit_loop(
    builder: Any, count: Any, state: Sequence[Any], body: Callable[[Any, list[Any]], Sequence[Any]]
) -> list[Any]:
    """state = body(index, state) for index = 0..count - 1, all LLVM values; returns the state after it."""
    before, start = builder.block, [_I64(0), *state]
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    held = [builder.phi(value.type) for value in start]
    builder.cbranch(builder.icmp_signed("<", held[0], count), inside, after)
    builder.position_at_end(inside)
    new = body(held[0], held[1:])
    new = [builder.add(held[0], _I64(1)), *new]
    for phi, first, following in zip(held, start, new, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(following, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return held[1:]


def _make_add_rows(entry_bits: int, *, pairs: bool) -> Any:
    """`add_rows` for table entries of `entry_bits`; `pairs` adds two rows before widening (needs 3*max to fit)."""
    narrow, wide = ir.VectorType(ir.IntType(entry_bits), COLUMNS), ir.VectorType(_I32, COLUMNS)

    def splat(kind: Any, value: int) -> Any:
        return ir.Constant(kind, [value] * COLUMNS)

    @vector_operation
    def add_rows(builder: Any, sums: Any, table: Any, words: Any, segments: Any, patterns: Any) -> None:
        """sums[:] += sum over segments g and bits i of table[g, pattern(g, i), :] << i.

        sums : int32 (COLUMNS,). table : (segments, patterns, COLUMNS), contiguous. words : uint64
        (segments, 2), contiguous: the 16-bit patterns of input bits 0..3 and 4..7; a word of 0 adds nothing.
        """

        def add_four(rows_at: Any, word: Any, shift: int, total: Any) -> Any:
            rows = []
            for k in range(4):
                pattern = builder.and_(builder.lshr(word, _I64(16 * k)), _I64(0xFFFF))
                row_at = builder.gep(rows_at, [builder.mul(pattern, _I64(COLUMNS))])
                rows.append(builder.load(builder.bitcast(row_at, narrow.as_pointer()), align=entry_bits // 8))
            if pairs:
                rows = [builder.add(rows[k], builder.shl(rows[k + 1], splat(narrow, 1))) for k in (0, 2)]
            if entry_bits < 32:
                rows = [builder.sext(row, wide) for row in rows]
            for k, row in enumerate(rows):
                total = builder.add(total, builder.shl(row, splat(wide, shift + (2 if pairs else 1) * k)))
            return total

        def segment(g: Any, state: list[Any]) -> list[Any]:
            (total,) = state
            rows_at = builder.gep(table, [builder.mul(builder.mul(g, patterns), _I64(COLUMNS))])
            places = (builder.add(builder.mul(g, _I64(2)), _I64(half)) for half in range(2))
            for half, word in enumerate([builder.load(builder.gep(words, [place])) for place in places]):
                skipped = builder.block
                with builder.if_then(builder.icmp_unsigned("!=", word, _I64(0))):
                    added, used = add_four(rows_at, word, 4 * half, total), builder.block
                after = builder.phi(wide)
                after.add_incoming(total, skipped)
                after.add_incoming(added, used)
                total = after
            return [total]

        sums = builder.bitcast(sums, wide.as_pointer())
        (total,) = emit_loop(builder, segments, [builder.load(sums, align=4)], segment)
        builder.store(total, sums, align=4)

    return add_rows


add_rows_16_pairs = _make_add_rows(16, pairs=True)
add_rows_16 = _make_add_rows(16, pairs=False)
add_rows_32 = _make_add_rows(32, pairs=False)
