"""Bit-sliced vector code for `many_rows.py`: numbers of many windows held as one vector of bits per binary digit.

A *slice* is WINDOWS bits, bit w belonging to window w: the same binary digit of one number per window. Counting the
rows of a column is then a tree of full adders on slices, an A/D characteristic is a tree of multiplexers, and
every instruction works for WINDOWS conversions at once.

Everything here is LLVM code stated once through llvmlite, which numba brings, and compiled by numba for the
user's processor; no compiler has to be installed. Processors with AVX-512 get its three-input logic
instruction, others two-input logic of the same meaning.

Slices lie in contiguous one-dimensional uint64 arrays that start on a multiple of 64 bytes;
`at` arguments number slices in such an array. Bit w of a slice is bit w % 64 of its word w // 64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import config

from golden_model.engines.simd import emit_loop, vector_operation

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

_I8, _I32, _I64 = (ir.IntType(n) for n in (8, 32, 64))
_LANES = ir.VectorType(_I64, 8)
_ZERO = ir.Constant(_LANES, [0] * 8)
_ONES = ir.Constant(_LANES, [-1] * 8)

Slice = list[Any]  # VECTORS LLVM values of type _LANES


def padded_size(rows: int) -> int:
    """Rows of a list with `rows` entries after padding."""
    for size in SIZES:
        if rows <= size:
            return size
    return -(-rows // GROUP) * GROUP


@cache
def three_input_logic() -> bool:
    """Whether numba compiles for a processor with AVX-512."""
    settings: Any = config
    if settings.CPU_FEATURES is not None:
        return "+avx512f" in settings.CPU_FEATURES
    return settings.CPU_NAME is None and bool(llvm.get_host_cpu_features().get("avx512f"))


class _Code:
    """Emits slice operations into a function under construction."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.ternary = three_input_logic()

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

        def slices(vectors: list[Any]) -> list[Slice]:
            return [vectors[k : k + VECTORS] for k in range(0, len(vectors), VECTORS)]

        def flat(index: Any, vectors: list[Any]) -> list[Any]:
            return [vector for value in body(index, slices(vectors)) for vector in value]

        return slices(emit_loop(self.builder, count, [vector for value in state for vector in value], flat))


def _constant(value: Any) -> Slice:
    return [value] * VECTORS


# ---- counting rows ------------------------------------------------------------------------------
def _count_straight(code: _Code, row: Callable[[Any], Slice], size: int) -> list[Slice]:
    """Slices of the number of ones among `size` rows, with as few adders and live slices as can be.

    row : emits the slice of the row at a place of the list.
    """
    waiting: list[list[Slice]] = [[] for _ in range(size.bit_length() + 1)]

    def push(digit: int, value: Slice) -> None:
        waiting[digit].append(value)
        if len(waiting[digit]) == 3:
            total, carry = code.add(*waiting[digit])
            waiting[digit] = [total]
            push(digit + 1, carry)

    for k in range(size):
        push(0, row(_I64(k)))
    for digit in range(size.bit_length()):
        if len(waiting[digit]) == 2:
            one, two = waiting[digit]
            waiting[digit] = [code.xor(one, two)]
            push(digit + 1, code.both(one, two))
    return [waiting[digit][0] if waiting[digit] else _constant(_ZERO) for digit in range(size.bit_length())]


def _count_groups(code: _Code, row: Callable[[Any], Slice], size: Any) -> list[Slice]:
    """As `_count_straight` for any multiple of GROUP up to 128, in a loop; always 8 slices."""

    def body(index: Any, state: list[Slice]) -> list[Slice]:
        first = code.builder.mul(index, _I64(GROUP))
        rows = [row(code.builder.add(first, _I64(k))) for k in range(GROUP)]
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


@vector_operation
def count_rows(
    builder: Any, digits: Any, at: Any, rows: Any, rows_at: Any, offsets: Any, first: Any, size: Any
) -> None:
    """digits[at...] = slices of how many of the listed rows are 1, least significant first.

    The list is offsets[first : first + size], uint16: byte offsets from slice `rows_at` of `rows`. size is
    one of SIZES or a multiple of GROUP up to 128. Writes size.bit_length() slices, or 8 above the last of SIZES.
    """
    code = _Code(builder)
    target, source, listed = code.slice_at(digits, at), code.slice_at(rows, rows_at), builder.gep(offsets, [first])
    looped, after = builder.append_basic_block("looped"), builder.append_basic_block("counted")
    switch = builder.switch(size, looped)

    def row(k: Any) -> Slice:
        return code.load(code.bytes_at(source, code.offset(listed, k)))

    def finish(slices: list[Slice]) -> None:
        for k, value in enumerate(slices):
            code.store(value, builder.gep(target, [_I64(k * BYTES)]))
        builder.branch(after)

    for straight in SIZES:
        block = builder.append_basic_block(f"rows_{straight}")
        switch.add_case(_I64(straight), block)
        builder.position_at_end(block)
        finish(_count_straight(code, row, straight))
    builder.position_at_end(looped)
    finish(_count_groups(code, row, size))
    builder.position_at_end(after)


@vector_operation
def call_program(builder: Any, address: Any, slots: Any, at: Any) -> None:
    """Run a program compiled by `programs.compile_programs` on the slots from `at` on."""
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer()])
    builder.call(builder.inttoptr(address, kind.as_pointer()), [_Code(builder).slice_at(slots, at)])


# ---- shift and add ------------------------------------------------------------------------------
@vector_operation
def add_difference(
    builder: Any, total: Any, at: Any, slots: Any, plus: Any, minus: Any, outputs: Any, plus_out: Any, minus_out: Any,
    digits: Any,
) -> None:  # fmt: skip
    """total[at...] = its old value + plus - minus, one digit wider (two's complement).

    total : digits + 1 slices from `at` on hold the old value, digits + 2 the new one. plus, minus : base slots of
    the two values; value digit k of `plus` lies outputs[plus_out + k] bytes (uint16) behind it.
    """
    code = _Code(builder)
    total_at, plus_at, minus_at = code.slice_at(total, at), code.slice_at(slots, plus), code.slice_at(slots, minus)
    plus_out, minus_out = builder.gep(outputs, [plus_out]), builder.gep(outputs, [minus_out])
    after = builder.append_basic_block("added")
    switch = builder.switch(digits, after)
    for count in range(1, 9):  # a loop would cost as much as its body
        block = builder.append_basic_block(f"digits_{count}")
        switch.add_case(_I64(count), block)
        builder.position_at_end(block)
        first_carry, second_carry = _constant(_ONES), _constant(_ZERO)  # -x = ~x + 1
        for k in range(count):
            one = code.load(code.bytes_at(plus_at, code.offset(plus_out, _I64(k))))
            other = code.load(code.bytes_at(minus_at, code.offset(minus_out, _I64(k))))
            place = code.slice_at(total_at, _I64(k))
            partial, next_first = code.subtract(one, other, code.load(place))
            new, second_carry = code.add(partial, first_carry, second_carry)
            first_carry = next_first
            code.store(new, place)
        # Above the values' digits: 0 + ~0 + sign gives ~sign, carry sign.
        place = code.slice_at(total_at, _I64(count))
        sign = code.load(place)
        inverse = code.invert(sign)
        new, second_carry = code.add(inverse, first_carry, second_carry)
        code.store(new, place)
        code.store(code.xor3(inverse, sign, second_carry), code.slice_at(total_at, _I64(count + 1)))
        builder.branch(after)
    builder.position_at_end(after)


@vector_operation
def add_slices(
    builder: Any, total: Any, at: Any, width: Any, terms: Any, digits: Any, mask: Any, mask_at: Any, signed: Any
) -> None:
    """total[at...] (width slices) += terms[0...] (digits slices), where the mask slice has a 1.

    signed : 1 extends the last digit of the terms over the rest of the width, 0 adds zeros there.
    """
    code = _Code(builder)
    total_at, chosen = code.slice_at(total, at), code.load(code.slice_at(mask, mask_at))

    def add(index: Any, state: list[Slice]) -> list[Slice]:
        place = code.slice_at(total_at, index)
        term = code.both(code.load(code.slice_at(terms, index)), chosen)
        new, carry = code.add(code.load(place), term, state[0])
        code.store(new, place)
        return [carry, term]

    carry, last = code.loop(digits, [_constant(_ZERO)] * 2, add)
    sign = code.both(last, code.splat(builder.sub(_I64(0), signed)))

    def extend(index: Any, state: list[Slice]) -> list[Slice]:
        place = code.slice_at(total_at, builder.add(digits, index))
        new, carry = code.add(code.load(place), sign, state[0])
        code.store(new, place)
        return [carry]

    code.loop(builder.sub(width, digits), [carry], extend)


# ---- single slices ------------------------------------------------------------------------------
@vector_operation
def fill(builder: Any, slots: Any, at: Any, count: Any) -> None:
    """slots[at : at + count] = 0."""
    code = _Code(builder)
    base = code.slice_at(slots, at)

    def clear(index: Any, state: list[Slice]) -> list[Slice]:
        code.store(_constant(_ZERO), code.slice_at(base, index))
        return state

    code.loop(count, [], clear)


@vector_operation
def copy_slice(builder: Any, target: Any, target_at: Any, source: Any, source_at: Any) -> None:
    """target[target_at] = source[source_at]."""
    code = _Code(builder)
    code.store(code.load(code.slice_at(source, source_at)), code.slice_at(target, target_at))


@vector_operation
def note_flags(
    builder: Any, flags: Any, plus_to: Any, minus_to: Any, slow: Any, slow_at: Any, flip: Any, slots: Any, plus: Any,
    plus_byte: Any, minus: Any, minus_byte: Any,
) -> None:  # fmt: skip
    """Keep the R1 flags of both polarities: flags[plus_to], then flags[minus_to]; slow[slow_at] |= either ^ flip.

    A flag lies `..._byte` bytes behind slot `plus` or `minus`. flip is 0 or -1.
    """
    code = _Code(builder)
    one = code.load(code.bytes_at(code.slice_at(slots, plus), plus_byte))
    other = code.load(code.bytes_at(code.slice_at(slots, minus), minus_byte))
    code.store(one, code.slice_at(flags, plus_to))
    code.store(other, code.slice_at(flags, minus_to))
    place, flipped = code.slice_at(slow, slow_at), code.splat(flip)
    late = code.either(code.xor(one, flipped), code.xor(other, flipped))
    code.store(code.either(code.load(place), late), place)


# ---- bytes to slices and slices to integers -----------------------------------------------------
@vector_operation
def pack_bytes(builder: Any, slices: Any, at: Any, stride: Any, data: Any, start: Any) -> None:
    """slices[at + i * stride] = bit i of WINDOWS bytes data[start...], i = 0..7."""
    code = _Code(builder)
    base, many = code.slice_at(slices, at), ir.VectorType(_I8, 64)
    places = [code.slice_at(base, builder.mul(stride, _I64(i))) for i in range(8)]
    for word in range(WORDS):
        source = builder.gep(data, [builder.add(start, _I64(64 * word))])
        values = builder.load(builder.bitcast(source, many.as_pointer()), align=1)
        for i in range(8):
            chosen = builder.and_(values, ir.Constant(many, [1 << i] * 64))
            bits = builder.bitcast(builder.icmp_unsigned("!=", chosen, ir.Constant(many, [0] * 64)), _I64)
            target = builder.gep(places[i], [_I64(8 * word)])
            builder.store(bits, builder.bitcast(target, _I64.as_pointer()), align=8)


@vector_operation
def copy_bytes(builder: Any, target: Any, target_at: Any, source: Any, source_at: Any, count: Any) -> None:
    """target[target_at...] = `count` bytes of source[source_at...]; reads and writes up to 31 bytes more."""
    to, start = builder.gep(target, [target_at]), builder.gep(source, [source_at])

    def copy(offset: Any, size: int) -> None:
        kind = ir.VectorType(_I8, size)
        value = builder.load(builder.bitcast(builder.gep(start, [offset]), kind.as_pointer()), align=1)
        builder.store(value, builder.bitcast(builder.gep(to, [offset]), kind.as_pointer()), align=1)

    def copy_many(index: Any, state: list[Any]) -> list[Any]:
        copy(builder.mul(index, _I64(32)), 32)
        return state

    with builder.if_else(builder.icmp_signed("<=", count, _I64(16))) as (short, long):
        with short:
            copy(_I64(0), 16)
        with long:
            emit_loop(builder, builder.sdiv(builder.add(count, _I64(31)), _I64(32)), [], copy_many)


def _transpose_lanes(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose 16 vectors of 16 elements."""
    rows, lanes = list(rows), ir.VectorType(_I32, 16)
    for step in (1, 2, 4, 8):
        low = [lane if not lane & step else 16 + lane - step for lane in range(16)]
        high = [lane + step if not lane & step else 16 + lane for lane in range(16)]
        for k in range(16):
            if not k & step:
                one, other = rows[k], rows[k + step]
                rows[k] = builder.shuffle_vector(one, other, ir.Constant(lanes, low))
                rows[k + step] = builder.shuffle_vector(one, other, ir.Constant(lanes, high))
    return rows


def _transpose_bits(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose the 32 x 32 bits that 32 vectors hold in each of their 32-bit elements."""
    rows, step, mask = list(rows), 16, 0xFFFFFFFF
    while step:
        mask ^= (mask << step) & 0xFFFFFFFF
        shift, kept = (ir.Constant(rows[0].type, [value] * 16) for value in (step, mask))
        for k in range(32):
            if not k & step:
                one, other = rows[k], rows[k + step]
                change = builder.and_(builder.xor(builder.lshr(one, shift), other), kept)
                rows[k], rows[k + step] = builder.xor(one, builder.shl(change, shift)), builder.xor(other, change)
        step //= 2
    return rows


@vector_operation
def to_integers(builder: Any, integers: Any, start: Any, slices: Any, at: Any, width: Any) -> None:
    """integers[start + w] = number of window w, int32, from `width` slices in two's complement, w < WINDOWS."""
    code, small = _Code(builder), ir.VectorType(_I32, 16)
    base, top = code.slice_at(slices, at), builder.sub(width, _I64(1))

    def convert(vector: Any, state: list[Any]) -> list[Any]:
        here = code.bytes_at(base, builder.mul(vector, _I64(64)))
        rows = []
        for k in range(32):
            digit = builder.select(builder.icmp_signed("<", _I64(k), top), _I64(k), top)
            rows.append(builder.load(builder.bitcast(code.slice_at(here, digit), small.as_pointer()), align=64))
        rows = _transpose_bits(builder, rows)  # row t, element e: the number of window 32 * e + t
        first_window = builder.add(start, builder.mul(vector, _I64(512)))
        for first in (0, 16):
            for lane, numbers in enumerate(_transpose_lanes(builder, rows[first : first + 16])):
                place = builder.gep(integers, [builder.add(first_window, _I64(32 * lane + first))])
                builder.store(numbers, builder.bitcast(place, small.as_pointer()), align=4)
        return state

    emit_loop(builder, _I64(VECTORS), [], convert)
