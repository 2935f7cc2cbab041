"""Bit-sliced vector code for `many_rows.py`: numbers of many windows held as one vector of bits per binary digit.

A *slice* is WINDOWS bits, bit w belonging to window w: the same binary digit of one number per window. Counting the
rows of a column is then a tree of full adders on slices, an A/D characteristic is a tree of multiplexers, and
every instruction works for WINDOWS conversions at once.

Everything here is LLVM code stated once through llvmlite, which numba brings, and compiled by numba for the
user's processor; no compiler has to be installed. Processors with AVX-512 get its three-input logic
instruction, others two-input logic of the same meaning.

Slices lie in contiguous one-dimensional uint64 arrays that start on a multiple of 64 bytes (`aligned_words`);
`at` arguments number slices in such an array. Bit w of a slice is bit w % 64 of its word w // 64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import config, types
from numba.extending import intrinsic as _numba_intrinsic

#: Vector registers of 512 bits that hold one slice.
VECTORS = 2
#: Windows in a slice, 64-bit words and bytes of a slice.
WINDOWS = 512 * VECTORS
WORDS = WINDOWS // 64
BYTES = WINDOWS // 8

#: Row numbers that have a straight adder tree of their own; lists are padded to the next one.
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48)
#: Above the last of SIZES, lists are padded to a multiple of this.
GROUP = 8

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
_LANES = ir.VectorType(_I64, 8)
_ZERO = ir.Constant(_LANES, [0] * 8)
_ONES = ir.Constant(_LANES, [-1] * 8)

Slice = list[Any]  # VECTORS LLVM values of type _LANES
intrinsic: Any = _numba_intrinsic  # the decorated functions lose their first parameter, which type checkers miss


def aligned_words(words: int) -> np.ndarray:
    """Zeros, uint64 (words,), starting on a multiple of 64 bytes."""
    room = np.zeros(words + 8, dtype=np.uint64)
    skip = -(room.ctypes.data // 8) % 8
    return room[skip : skip + words]


def padded_size(rows: int) -> int:
    """Rows of a list with `rows` entries after padding."""
    for size in SIZES:
        if rows <= size:
            return size
    return -(-rows // GROUP) * GROUP


def _three_input_logic() -> bool:
    """Whether numba compiles for a processor with AVX-512."""
    settings: Any = config
    if settings.CPU_FEATURES is not None:
        return "+avx512f" in settings.CPU_FEATURES
    return settings.CPU_NAME is None and bool(llvm.get_host_cpu_features().get("avx512f"))


def _pointer(context: Any, builder: Any, signature: Any, args: Any, index: int) -> Any:
    return context.make_array(signature.args[index])(context, builder, args[index]).data


class _Code:
    """Emits slice operations into a function under construction."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.ternary = _three_input_logic()

    # ---- memory -----------------------------------------------------------------------------
    def bytes_at(self, pointer: Any, offset: Any) -> Any:
        """pointer + offset bytes, as a pointer to bytes."""
        return self.builder.gep(self.builder.bitcast(pointer, _I8.as_pointer()), [offset])

    def slice_at(self, pointer: Any, at: Any) -> Any:
        return self.bytes_at(pointer, self.builder.mul(at, _I64(BYTES)))

    def load(self, pointer: Any) -> Slice:
        b = self.builder
        return [
            b.load(b.bitcast(b.gep(pointer, [_I64(64 * v)]), _LANES.as_pointer()), align=64) for v in range(VECTORS)
        ]

    def store(self, value: Slice, pointer: Any) -> None:
        b = self.builder
        for v in range(VECTORS):
            b.store(value[v], b.bitcast(b.gep(pointer, [_I64(64 * v)]), _LANES.as_pointer()), align=64)

    def offset(self, offsets: Any, index: Any) -> Any:
        """Entry of an array of 16-bit byte offsets."""
        return self.builder.zext(self.builder.load(self.builder.gep(offsets, [index])), _I64)

    # ---- logic ------------------------------------------------------------------------------
    def _logic(self, a: Slice, b: Slice, c: Slice, table: int, otherwise: Callable[..., Any]) -> Slice:
        if not self.ternary:
            return [otherwise(x, y, z) for x, y, z in zip(a, b, c, strict=True)]
        name = "llvm.x86.avx512.pternlog.q.512"
        function = self.builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(_LANES, [_LANES, _LANES, _LANES, _I32])
            function = ir.Function(self.builder.module, kind, name)
        return [self.builder.call(function, [x, y, z, _I32(table)]) for x, y, z in zip(a, b, c, strict=True)]

    def xor3(self, a: Slice, b: Slice, c: Slice) -> Slice:
        return self._logic(a, b, c, 0x96, lambda x, y, z: self.builder.xor(self.builder.xor(x, y), z))

    def majority(self, a: Slice, b: Slice, c: Slice) -> Slice:
        def plain(x: Any, y: Any, z: Any) -> Any:
            return self.builder.xor(x, self.builder.and_(self.builder.xor(x, y), self.builder.xor(x, z)))

        return self._logic(a, b, c, 0xE8, plain)

    def select(self, choose: Slice, one: Slice, zero: Slice) -> Slice:
        def plain(s: Any, y: Any, z: Any) -> Any:
            return self.builder.xor(z, self.builder.and_(s, self.builder.xor(y, z)))

        return self._logic(choose, one, zero, 0xCA, plain)

    def subtract(self, a: Slice, b: Slice, c: Slice) -> tuple[Slice, Slice]:
        """Full adder of a, ~b and c: (sum, carry)."""

        def carry(x: Any, y: Any, z: Any) -> Any:
            differs = self.builder.xor(self.builder.xor(y, z), _ONES)
            return self.builder.xor(z, self.builder.and_(differs, self.builder.xor(x, z)))

        def total(x: Any, y: Any, z: Any) -> Any:
            return self.builder.xor(self.builder.xor(self.builder.xor(x, y), z), _ONES)

        return self._logic(a, b, c, 0x69, total), self._logic(a, b, c, 0xB2, carry)

    def splat(self, word: Any) -> Slice:
        """A 64-bit value in every word."""
        vector = self.builder.insert_element(ir.Constant(_LANES, ir.Undefined), word, _I32(0))
        lanes = ir.Constant(ir.VectorType(_I32, 8), [0] * 8)
        return [self.builder.shuffle_vector(vector, vector, lanes)] * VECTORS

    def invert(self, a: Slice) -> Slice:
        return [self.builder.xor(x, _ONES) for x in a]

    def both(self, a: Slice, b: Slice) -> Slice:
        return [self.builder.and_(x, y) for x, y in zip(a, b, strict=True)]

    def either(self, a: Slice, b: Slice) -> Slice:
        return [self.builder.or_(x, y) for x, y in zip(a, b, strict=True)]

    def xor(self, a: Slice, b: Slice) -> Slice:
        return [self.builder.xor(x, y) for x, y in zip(a, b, strict=True)]

    def add(self, a: Slice, b: Slice, c: Slice) -> tuple[Slice, Slice]:
        """Full adder: (sum, carry)."""
        return self.xor3(a, b, c), self.majority(a, b, c)

    # ---- loops ------------------------------------------------------------------------------
    def loop(self, count: Any, state: list[Slice], body: Callable[[Any, list[Slice]], list[Slice]]) -> list[Slice]:
        """state = body(index, state) for index = 0..count - 1; returns the state after it."""
        b = self.builder
        before = b.block
        head, inside, after = (b.append_basic_block(name) for name in ("head", "inside", "after"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(_I64)
        index.add_incoming(_I64(0), before)
        held = [[b.phi(_LANES) for _ in range(VECTORS)] for _ in state]
        for phis, values in zip(held, state, strict=True):
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", index, count), inside, after)
        b.position_at_end(inside)
        new = body(index, held)
        index.add_incoming(b.add(index, _I64(1)), b.block)
        for phis, values in zip(held, new, strict=True):
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        return held


def _constant(value: Any) -> Slice:
    return [value] * VECTORS


# ---- counting rows ------------------------------------------------------------------------------
def _count_straight(code: _Code, row: Callable[[int], Slice], size: int) -> list[Slice]:
    """Slices of the number of ones among `size` rows, with as few adders and live slices as can be."""
    waiting: list[list[Slice]] = [[] for _ in range(size.bit_length() + 1)]

    def push(digit: int, value: Slice) -> None:
        waiting[digit].append(value)
        if len(waiting[digit]) == 3:
            total, carry = code.add(*waiting[digit])
            waiting[digit] = [total]
            push(digit + 1, carry)

    for k in range(size):
        push(0, row(k))
    for digit in range(size.bit_length()):
        if len(waiting[digit]) == 2:
            one, two = waiting[digit]
            waiting[digit] = [code.xor(one, two)]
            push(digit + 1, code.both(one, two))
    return [waiting[digit][0] if waiting[digit] else _constant(_ZERO) for digit in range(size.bit_length())]


def _count_groups(code: _Code, rows_at: Any, offsets: Any, size: Any) -> list[Slice]:
    """As `_count_straight` for any multiple of GROUP up to 128, in a loop; always 8 slices."""

    def body(index: Any, state: list[Slice]) -> list[Slice]:
        first = code.builder.mul(index, _I64(GROUP))
        rows = []
        for k in range(GROUP):
            offset = code.offset(offsets, code.builder.add(first, _I64(k)))
            rows.append(code.load(code.bytes_at(rows_at, offset)))
        ones, twos, fours, *rest = state
        carries: list[Slice] = []
        for k in range(0, GROUP, 2):
            ones, carry = code.add(ones, rows[k], rows[k + 1])
            carries.append(carry)
        twos, low = code.add(twos, carries[0], carries[1])
        twos, high = code.add(twos, carries[2], carries[3])
        fours, carry = code.add(fours, low, high)
        after = []
        for digit in rest:
            after.append(code.xor(digit, carry))
            carry = code.both(digit, carry)
        return [ones, twos, fours, *after]

    groups = code.builder.sdiv(size, _I64(GROUP))
    return code.loop(groups, [_constant(_ZERO)] * 8, body)


@intrinsic
def count_rows(typingctx: Any, digits: Any, at: Any, rows: Any, rows_at: Any, offsets: Any, first: Any, size: Any):
    """digits[at...] = slices of how many of the listed rows are 1, least significant first.

    The list is offsets[first : first + size], uint16: byte offsets from slice `rows_at` of `rows`. size is
    one of SIZES or a multiple of GROUP up to 128. Writes size.bit_length() slices, or 8 above the last of SIZES.
    """
    signature = types.void(digits, types.int64, rows, types.int64, offsets, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        digits_at = code.slice_at(_pointer(context, builder, signature, args, 0), args[1])
        rows_at = code.slice_at(_pointer(context, builder, signature, args, 2), args[3])
        offsets_at = builder.gep(_pointer(context, builder, signature, args, 4), [args[5]])
        looped, after = builder.append_basic_block("looped"), builder.append_basic_block("counted")
        switch = builder.switch(args[6], looped)

        def finish(slices: list[Slice]) -> None:
            for k, value in enumerate(slices):
                code.store(value, builder.gep(digits_at, [_I64(k * BYTES)]))
            builder.branch(after)

        for size in SIZES:
            block = builder.append_basic_block(f"rows_{size}")
            switch.add_case(_I64(size), block)
            builder.position_at_end(block)

            def row(k: int) -> Slice:
                return code.load(code.bytes_at(rows_at, code.offset(offsets_at, _I64(k))))

            finish(_count_straight(code, row, size))
        builder.position_at_end(looped)
        finish(_count_groups(code, rows_at, offsets_at, args[6]))
        builder.position_at_end(after)
        return context.get_dummy_value()

    return signature, codegen


# ---- multiplexer programs -----------------------------------------------------------------------
@intrinsic
def run_program(typingctx: Any, slots: Any, at: Any, nodes: Any, steps: Any, first: Any, end: Any, out: Any):
    """Evaluate multiplexers: slots[at + out...] = one slot per node of the steps first..end - 1, in order.

    steps : int64, four numbers per step: byte offsets from slice `at` of the low and the high selector of its nodes,
    its first node and the one after its last. nodes : uint16, four byte offsets from slice `at` per node: what
    is taken for (high, low) = 00, 01, 10, 11.
    """
    signature = types.void(slots, types.int64, nodes, steps, types.int64, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        base = code.slice_at(_pointer(context, builder, signature, args, 0), args[1])
        nodes_at = _pointer(context, builder, signature, args, 2)
        steps_at = builder.gep(_pointer(context, builder, signature, args, 3), [builder.mul(args[4], _I64(4))])

        def entry(step: Any, k: int) -> Any:
            return builder.load(builder.gep(steps_at, [builder.add(builder.mul(step, _I64(4)), _I64(k))]))

        out_at = code.slice_at(base, args[6])
        out_at = code.slice_at(out_at, builder.neg(entry(_I64(0), 2)))

        def body(step: Any, state: list[Slice]) -> list[Slice]:
            low, high = (code.load(code.bytes_at(base, entry(step, k))) for k in (0, 1))
            begin = entry(step, 2)

            def node(index: Any, state: list[Slice]) -> list[Slice]:
                index = builder.add(begin, index)
                place = builder.mul(index, _I64(4))
                inputs = []
                for k in range(4):
                    offset = code.offset(nodes_at, builder.add(place, _I64(k)))
                    inputs.append(code.load(code.bytes_at(base, offset)))
                below, above = code.select(low, inputs[1], inputs[0]), code.select(low, inputs[3], inputs[2])
                code.store(code.select(high, above, below), code.slice_at(out_at, index))
                return state

            return code.loop(builder.sub(entry(step, 3), begin), state, node)

        code.loop(builder.sub(args[5], args[4]), [], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def call_program(typingctx: Any, address: Any, slots: Any, at: Any):
    """Run a program compiled by `CompiledPrograms` on the slots from `at` on."""
    signature = types.void(types.int64, slots, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer()])
        function = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(function, [code.slice_at(_pointer(context, builder, signature, args, 1), args[2])])
        return context.get_dummy_value()

    return signature, codegen


def _program_text(
    name: str, nodes: Sequence[tuple[int, ...]], first: int, inputs: int, outputs: Iterable[int]
) -> list[str]:
    """LLVM text of a function that evaluates multiplexers (low, high, four inputs: slot numbers) into slots first...

    Slots 0 and 1 are the constants, below `inputs` are inputs; only the slots in `outputs` are stored.
    """
    ternary = _three_input_logic()
    lines = [f"define void @{name}(ptr %base) {{"]
    fresh = 0

    def emit(text: str) -> str:
        nonlocal fresh
        fresh += 1
        lines.append(f"%x{fresh} = {text}")
        return f"%x{fresh}"

    def address(slot: int, vector: int) -> str:
        return emit(f"getelementptr i8, ptr %base, i64 {slot * BYTES + 64 * vector}")

    zero, one = "zeroinitializer", "splat (i64 -1)"

    def both(operation: str, a: str, b: str) -> str:
        return emit(f"{operation} <8 x i64> {a}, {b}")

    def select(choose: str, yes: str, no: str) -> str:
        if yes == no:
            return yes
        if choose in (zero, one):
            return no if choose == zero else yes
        if (yes, no) == (one, zero) or (yes == choose and no == zero) or (yes == one and no == choose):
            return choose
        if no == zero:
            return both("and", choose, yes)
        if yes == one:
            return both("or", choose, no)
        if yes == zero or no == one:
            inverse = both("xor", choose, one)
            if (yes, no) == (zero, one):
                return inverse
            return both("and", inverse, no) if yes == zero else both("or", inverse, yes)
        if ternary:
            operands = ", ".join(f"<8 x i64> {x}" for x in (choose, yes, no))
            return emit(f"call <8 x i64> @llvm.x86.avx512.pternlog.q.512({operands}, i32 202)")
        return both("xor", no, both("and", choose, both("xor", yes, no)))

    for vector in range(VECTORS):
        values = {0: zero, 1: one}

        def value(slot: int, vector: int = vector, values: dict[int, str] = values) -> str:
            if slot not in values:
                assert slot < inputs
                values[slot] = emit(f"load <8 x i64>, ptr {address(slot, vector)}, align 64")
            return values[slot]

        for k, (low, high, *chosen) in enumerate(nodes):
            below, above = (select(value(low), value(chosen[j + 1]), value(chosen[j])) for j in (0, 2))
            values[first + k] = select(value(high), above, below)
        for slot in sorted(outputs):
            if slot >= first:
                lines.append(f"store <8 x i64> {values[slot]}, ptr {address(slot, vector)}, align 64")
    return [*lines, "ret void", "}"]


class CompiledPrograms:
    """Multiplexer programs as machine code, three times as fast as `run_program`.

    Takes milliseconds per program, so it pays for long runs. The code lives as long as the object.

    programs : (nodes, first, inputs, outputs) each, as in `_program_text`. addresses : int64, one per program, for
    `call_program`.
    """

    def __init__(self, programs: Sequence[tuple[Sequence[tuple[int, ...]], int, int, Iterable[int]]]) -> None:
        lines = []
        if _three_input_logic():
            lines.append("declare <8 x i64> @llvm.x86.avx512.pternlog.q.512(<8 x i64>, <8 x i64>, <8 x i64>, i32)")
        for index, program in enumerate(programs):
            lines += _program_text(f"program_{index}", *program)
        settings: Any = config
        features = llvm.get_host_cpu_features().flatten()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=settings.CPU_NAME or llvm.get_host_cpu_name(),
            features=features if settings.CPU_FEATURES is None else settings.CPU_FEATURES,
            opt=1,
        )
        module = llvm.parse_assembly("\n".join(lines))
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self.addresses = np.array(
            [self._engine.get_function_address(f"program_{k}") for k in range(len(programs))], dtype=np.int64
        )


# ---- shift and add ------------------------------------------------------------------------------
@intrinsic
def add_difference(
    typingctx: Any, total: Any, at: Any, slots: Any, plus: Any, minus: Any, outputs: Any, plus_out: Any, minus_out: Any,
    digits: Any,
):  # fmt: skip
    """total[at...] = its old value + plus - minus, one digit wider (two's complement).

    total : digits + 1 slices from `at` on hold the old value, digits + 2 the new one. plus, minus : base slots of
    the two values; value digit k of `plus` lies outputs[plus_out + k] bytes (uint16) behind it.
    """
    signature = types.void(total, types.int64, slots, types.int64, types.int64, outputs, *([types.int64] * 3))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        total_at = code.slice_at(_pointer(context, builder, signature, args, 0), args[1])
        slots_at = _pointer(context, builder, signature, args, 2)
        plus_at, minus_at = code.slice_at(slots_at, args[3]), code.slice_at(slots_at, args[4])
        outputs_at = _pointer(context, builder, signature, args, 5)
        plus_out, minus_out = (builder.gep(outputs_at, [args[k]]) for k in (6, 7))
        after = builder.append_basic_block("added")
        switch = builder.switch(args[8], after)
        for digits in range(1, 9):  # a loop would cost as much as its body
            block = builder.append_basic_block(f"digits_{digits}")
            switch.add_case(_I64(digits), block)
            builder.position_at_end(block)
            first_carry, second_carry = _constant(_ONES), _constant(_ZERO)  # -x = ~x + 1
            for k in range(digits):
                one = code.load(code.bytes_at(plus_at, code.offset(plus_out, _I64(k))))
                other = code.load(code.bytes_at(minus_at, code.offset(minus_out, _I64(k))))
                place = code.slice_at(total_at, _I64(k))
                partial, next_first = code.subtract(one, other, code.load(place))
                new, second_carry = code.add(partial, first_carry, second_carry)
                first_carry = next_first
                code.store(new, place)
            # Above the values' digits: 0 + ~0 + sign gives ~sign, carry sign.
            place = code.slice_at(total_at, _I64(digits))
            sign = code.load(place)
            inverse = code.invert(sign)
            new, second_carry = code.add(inverse, first_carry, second_carry)
            code.store(new, place)
            code.store(code.xor3(inverse, sign, second_carry), code.slice_at(total_at, _I64(digits + 1)))
            builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_slices(typingctx: Any, total: Any, at: Any, width: Any, terms: Any, terms_at: Any, digits: Any, mask: Any,
               mask_at: Any, signed: Any):  # fmt: skip
    """total[at...] (width slices) += terms[terms_at...] (digits slices), where the mask slice has a 1.

    signed : 1 extends the last digit of the terms over the rest of the width, 0 adds zeros there.
    """
    signature = types.void(total, *([types.int64] * 2), terms, *([types.int64] * 2), mask, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        total_at = code.slice_at(_pointer(context, builder, signature, args, 0), args[1])
        terms_at = code.slice_at(_pointer(context, builder, signature, args, 3), args[4])
        mask = code.load(code.slice_at(_pointer(context, builder, signature, args, 6), args[7]))
        width, digits = args[2], args[5]
        keep = code.splat(builder.sub(_I64(0), args[8]))

        def body(index: Any, state: list[Slice]) -> list[Slice]:
            carry, _ = state
            place = code.slice_at(total_at, index)
            term = code.both(code.load(code.slice_at(terms_at, index)), mask)
            new, carry = code.add(code.load(place), term, carry)
            code.store(new, place)
            return [carry, term]

        carry, last = code.loop(digits, [_constant(_ZERO)] * 2, body)
        sign = code.both(last, keep)

        def extend(index: Any, state: list[Slice]) -> list[Slice]:
            place = code.slice_at(total_at, builder.add(digits, index))
            new, carry = code.add(code.load(place), sign, state[0])
            code.store(new, place)
            return [carry]

        code.loop(builder.sub(width, digits), [carry], extend)
        return context.get_dummy_value()

    return signature, codegen


# ---- single slices ------------------------------------------------------------------------------
@intrinsic
def fill(typingctx: Any, slots: Any, at: Any, count: Any):
    """slots[at : at + count] = 0."""
    signature = types.void(slots, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        base = code.slice_at(_pointer(context, builder, signature, args, 0), args[1])

        def body(index: Any, state: list[Slice]) -> list[Slice]:
            code.store(_constant(_ZERO), code.slice_at(base, index))
            return state

        code.loop(args[2], [], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_slice(typingctx: Any, target: Any, target_at: Any, source: Any, source_at: Any):
    """target[target_at] = source[source_at]."""
    signature = types.void(target, types.int64, source, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        value = code.load(code.slice_at(_pointer(context, builder, signature, args, 2), args[3]))
        code.store(value, code.slice_at(_pointer(context, builder, signature, args, 0), args[1]))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def note_flags(
    typingctx: Any, flags: Any, plus_to: Any, minus_to: Any, slow: Any, slow_at: Any, flip: Any, slots: Any, plus: Any,
    plus_byte: Any, minus: Any, minus_byte: Any,
):  # fmt: skip
    """Keep the R1 flags of both polarities: flags[plus_to], then flags[minus_to]; slow[slow_at] |= either ^ flip.

    A flag lies `..._byte` bytes behind slot `plus` or `minus`. flip is 0 or -1.
    """
    signature = types.void(flags, types.int64, types.int64, slow, types.int64, types.int64, slots, *([types.int64] * 4))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        flags_at = _pointer(context, builder, signature, args, 0)
        slots_at = _pointer(context, builder, signature, args, 6)
        one = code.load(code.bytes_at(code.slice_at(slots_at, args[7]), args[8]))
        other = code.load(code.bytes_at(code.slice_at(slots_at, args[9]), args[10]))
        code.store(one, code.slice_at(flags_at, args[1]))
        code.store(other, code.slice_at(flags_at, args[2]))
        place = code.slice_at(_pointer(context, builder, signature, args, 3), args[4])
        flip = code.splat(args[5])
        late = code.either(code.xor(one, flip), code.xor(other, flip))
        code.store(code.either(code.load(place), late), place)
        return context.get_dummy_value()

    return signature, codegen


# ---- bytes to slices and slices to integers -----------------------------------------------------
@intrinsic
def pack_bytes(typingctx: Any, slices: Any, at: Any, stride: Any, data: Any, start: Any):
    """slices[at + i * stride] = bit i of WINDOWS bytes data[start...], i = 0..7."""
    signature = types.void(slices, types.int64, types.int64, data, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        base = code.slice_at(_pointer(context, builder, signature, args, 0), args[1])
        data_at = builder.gep(_pointer(context, builder, signature, args, 3), [args[4]])
        many = ir.VectorType(_I8, 64)
        places = [code.slice_at(base, builder.mul(args[2], _I64(i))) for i in range(8)]
        for word in range(WORDS):
            source = builder.gep(data_at, [_I64(64 * word)])
            values = builder.load(builder.bitcast(source, many.as_pointer()), align=1)
            for i in range(8):
                chosen = builder.and_(values, ir.Constant(many, [1 << i] * 64))
                bits = builder.bitcast(builder.icmp_unsigned("!=", chosen, ir.Constant(many, [0] * 64)), _I64)
                target = builder.gep(places[i], [_I64(8 * word)])
                builder.store(bits, builder.bitcast(target, _I64.as_pointer()), align=8)
        return context.get_dummy_value()

    return signature, codegen


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose 16 vectors of 16 elements."""
    rows = list(rows)
    for step in (1, 2, 4, 8):
        low = [lane if not lane & step else 16 + lane - step for lane in range(16)]
        high = [lane + step if not lane & step else 16 + lane for lane in range(16)]
        lanes = ir.VectorType(_I32, 16)
        for k in range(16):
            if not k & step:
                one, other = rows[k], rows[k + step]
                rows[k] = builder.shuffle_vector(one, other, ir.Constant(lanes, low))
                rows[k + step] = builder.shuffle_vector(one, other, ir.Constant(lanes, high))
    return rows


@intrinsic
def transpose_bytes(typingctx: Any, target: Any, target_at: Any, stride: Any, source: Any, source_at: Any, pitch: Any):
    """target[target_at + j * stride + k] = source[source_at + k * pitch + j], uint8, j, k = 0..15."""
    signature = types.void(target, types.int64, types.int64, source, types.int64, types.int64)
    kind = ir.VectorType(_I8, 16)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, start = (_pointer(context, builder, signature, args, k) for k in (0, 3))

        def place(base: Any, at: Any, pitch: Any, k: int) -> Any:
            offset = builder.add(at, builder.mul(pitch, _I64(k)))
            return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())

        rows = [builder.load(place(start, args[4], args[5], k), align=1) for k in range(16)]
        for k, row in enumerate(_transpose(builder, rows)):
            builder.store(row, place(to, args[1], args[2], k), align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_bytes(typingctx: Any, target: Any, target_at: Any, source: Any, source_at: Any, count: Any):
    """target[target_at...] = `count` bytes of source[source_at...]; reads and writes up to 31 bytes more."""
    signature = types.void(target, types.int64, source, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        to = builder.gep(_pointer(context, builder, signature, args, 0), [args[1]])
        start = builder.gep(_pointer(context, builder, signature, args, 2), [args[3]])

        def copy(offset: Any, size: int) -> None:
            kind = ir.VectorType(_I8, size)
            value = builder.load(builder.bitcast(builder.gep(start, [offset]), kind.as_pointer()), align=1)
            builder.store(value, builder.bitcast(builder.gep(to, [offset]), kind.as_pointer()), align=1)

        with builder.if_else(builder.icmp_signed("<=", args[4], _I64(16))) as (short, long):
            with short:
                copy(_I64(0), 16)
            with long:

                def body(index: Any, state: list[Slice]) -> list[Slice]:
                    copy(builder.mul(index, _I64(32)), 32)
                    return state

                code.loop(builder.sdiv(builder.add(args[4], _I64(31)), _I64(32)), [], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def to_integers(typingctx: Any, integers: Any, start: Any, slices: Any, at: Any, width: Any):
    """integers[start + w] = number of window w, int32, from `width` slices in two's complement, w < WINDOWS."""
    signature = types.void(integers, types.int64, slices, types.int64, types.int64)
    small = ir.VectorType(_I32, 16)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(builder)
        target = builder.gep(_pointer(context, builder, signature, args, 0), [args[1]])
        base = code.slice_at(_pointer(context, builder, signature, args, 2), args[3])
        top = builder.sub(args[4], _I64(1))

        def half(vector: Any, state: list[Slice]) -> list[Slice]:
            here = code.bytes_at(base, builder.mul(vector, _I64(64)))
            rows = []
            for k in range(32):
                digit = builder.select(builder.icmp_signed("<", _I64(k), top), _I64(k), top)
                rows.append(builder.load(builder.bitcast(code.slice_at(here, digit), small.as_pointer()), align=64))

            def splat(value: int) -> Any:
                return ir.Constant(small, [value] * 16)

            # Transpose 32 x 32 bits in each 32-bit lane: row t becomes the number of window 32 * lane + t.
            mask = 0xFFFFFFFF
            step = 16
            while step:
                mask ^= (mask << step) & 0xFFFFFFFF
                for k in range(32):
                    if k & step:
                        continue
                    one, other = rows[k], rows[k + step]
                    change = builder.and_(builder.xor(builder.lshr(one, splat(step)), other), splat(mask))
                    rows[k + step] = builder.xor(other, change)
                    rows[k] = builder.xor(one, builder.shl(change, splat(step)))
                step //= 2
            # Transpose lanes, so that 16 windows in a row lie in one vector.
            for first in (0, 16):
                block = _transpose(builder, rows[first : first + 16])
                for lane in range(16):
                    place = builder.add(builder.mul(vector, _I64(512)), _I64(32 * lane + first))
                    builder.store(
                        block[lane], builder.bitcast(builder.gep(target, [place]), small.as_pointer()), align=4
                    )
            return state

        code.loop(_I64(VECTORS), [], half)
        return context.get_dummy_value()

    return signature, codegen
