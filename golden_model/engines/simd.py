"""Vector instructions for the compiled engine, written once as LLVM code and compiled for the user's processor.

numba compiles ordinary loops well, but the two loops that decide the speed of `few_rows.py` need their
sums to stay in vector registers. llvmlite, which numba brings, states them as vectors; LLVM turns them
into whatever the processor has. No compiler has to be installed.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)

#: Columns that one call of `add_rows` sums; tables are padded to a multiple of it.
COLUMNS = 16


def _pointer(context: Any, builder: Any, signature: Any, args: Any, index: int) -> Any:
    return context.make_array(signature.args[index])(context, builder, args[index]).data


def _make_add_rows(entry_bits: int, pairs: bool) -> Any:
    """`add_rows` for table entries of `entry_bits`; `pairs` adds two rows before widening (needs 3*max to fit)."""
    entry = ir.IntType(entry_bits)
    narrow, wide = ir.VectorType(entry, COLUMNS), ir.VectorType(_I32, COLUMNS)

    def splat(kind: Any, value: int) -> Any:
        return ir.Constant(kind, [value] * COLUMNS)

    @intrinsic
    def add_rows(typingctx: Any, sums: Any, table: Any, words: Any, segments: Any, patterns: Any) -> Any:
        """sums[:] += sum over segments g and bits i of table[g, pattern(g, i), :] << i.

        sums : int32 (COLUMNS,). table : (segments, patterns, COLUMNS), contiguous. words : uint64
        (segments, 2), contiguous: the 16-bit patterns of input bits 0..3 and 4..7; a word of 0 adds nothing.
        """
        signature = types.void(sums, table, words, types.int64, types.int64)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            sums_at, table_at, words_at = (_pointer(context, builder, signature, args, i) for i in range(3))
            segments, patterns = args[3], args[4]
            sums_at = builder.bitcast(sums_at, wide.as_pointer())
            before = builder.load(sums_at, align=4)
            entry_block = builder.block
            block = {n: builder.append_basic_block(n) for n in ("segment", "low", "middle", "high", "next", "end")}
            builder.cbranch(builder.icmp_signed(">", segments, _I64(0)), block["segment"], block["end"])

            builder.position_at_end(block["segment"])
            g, total = builder.phi(_I64), builder.phi(wide)
            g.add_incoming(_I64(0), entry_block)
            total.add_incoming(before, entry_block)
            word_at = builder.mul(g, _I64(2))
            low = builder.load(builder.gep(words_at, [word_at]))
            high = builder.load(builder.gep(words_at, [builder.add(word_at, _I64(1))]))
            rows_at = builder.gep(table_at, [builder.mul(builder.mul(g, patterns), _I64(COLUMNS))])

            def four_rows(word: Any, shift: int, total: Any) -> Any:
                rows = []
                for k in range(4):
                    pattern = builder.and_(builder.lshr(word, _I64(16 * k)), _I64(0xFFFF))
                    row_at = builder.gep(rows_at, [builder.mul(pattern, _I64(COLUMNS))])
                    rows.append(builder.load(builder.bitcast(row_at, narrow.as_pointer()), align=entry_bits // 8))
                if pairs:
                    rows = [builder.add(rows[k], builder.shl(rows[k + 1], splat(narrow, 1))) for k in (0, 2)]
                step = 2 if pairs else 1
                if entry_bits < 32:
                    rows = [builder.sext(row, wide) for row in rows]
                for k, row in enumerate(rows):
                    total = builder.add(total, builder.shl(row, splat(wide, shift + step * k)))
                return total

            builder.cbranch(builder.icmp_unsigned("!=", low, _I64(0)), block["low"], block["middle"])
            builder.position_at_end(block["low"])
            with_low = four_rows(low, 0, total)
            builder.branch(block["middle"])
            builder.position_at_end(block["middle"])
            middle = builder.phi(wide)
            middle.add_incoming(total, block["segment"])
            middle.add_incoming(with_low, block["low"])
            builder.cbranch(builder.icmp_unsigned("!=", high, _I64(0)), block["high"], block["next"])
            builder.position_at_end(block["high"])
            with_high = four_rows(high, 4, middle)
            builder.branch(block["next"])
            builder.position_at_end(block["next"])
            after = builder.phi(wide)
            after.add_incoming(middle, block["middle"])
            after.add_incoming(with_high, block["high"])
            following = builder.add(g, _I64(1))
            g.add_incoming(following, block["next"])
            total.add_incoming(after, block["next"])
            builder.cbranch(builder.icmp_signed("<", following, segments), block["segment"], block["end"])

            builder.position_at_end(block["end"])
            result = builder.phi(wide)
            result.add_incoming(before, entry_block)
            result.add_incoming(after, block["next"])
            builder.store(result, sums_at, align=4)
            return context.get_dummy_value()

        return signature, codegen

    return add_rows


add_rows_16_pairs = _make_add_rows(16, pairs=True)
add_rows_16 = _make_add_rows(16, pairs=False)
add_rows_32 = _make_add_rows(32, pairs=False)
