"""Random layers for the blocks of the pair machine, and what they do by the definition (golden_model/pairs)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.prepared import Prepared, streams
from golden_model.pairs.early_stop import Stops, StopWords
from golden_model.pairs.gather import Activated, Formed, matmul, walk
from golden_model.pairs.machine import Machine, ready_clocks
from golden_model.pairs.packs import Packing, pack_layer
from golden_model.pairs.search import Search, bounded, outward, search_of
from golden_model.registers import descriptor_fields
from golden_model.trq import AdcRegisters
from rtl.pack_layouts import HALVES, pair_counters
from rtl.pair_interfaces import halves_of
from rtl.pair_layouts import SearchMode
from rtl.pair_macros import PairMacros
from sim.bench import Testbench, simulate
from tests.bench import clocks_until, fetch, put, stream_rule
from tests.rtl.macro_bench import random_weights, slices_of
from tests.strategies import make_layer


def random_hardware(rng: random.Random) -> HardwareConfig:
    """A small machine of any shape that converts without loss."""
    ou_rows, ou_cols = rng.randint(1, 5), rng.randint(1, 3)
    return HardwareConfig(
        ou_rows=ou_rows,
        ou_cols=ou_cols,
        rows=ou_rows * rng.randint(1, 4) + rng.randint(0, ou_rows - 1),
        cols=ou_cols * rng.randint(1, 5),
        adc_bits=ou_rows.bit_length() + rng.randint(0, 1),
        input_bits=rng.randint(1, 5),
        weight_bits=rng.randint(1, 5),
        crossbar_pairs=150,
        max_k=ou_rows * 6,
        max_n=ou_cols * rng.randint(1, 4),
        width_entries=64,
        sample_interval=rng.choice([1, 2, 3]),
        group_segments=rng.choice([None, 1, 2]),
        machine="pairs",
        sample_places=rng.randint(2, 7),
    )


def random_layer(seed: int, hardware: HardwareConfig, *, windows: int = 3) -> tuple[Packing, Layer, np.ndarray]:
    """A layer of mixed block widths, some of them 0, its packs, and windows (P, K) of any density."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    k, n = rng.randint(1, hardware.max_k), rng.randint(1, hardware.max_n)
    shape = (-(-k // hardware.ou_rows), -(-n // hardware.ou_cols))
    widths = numbers.integers(0, hardware.weight_bits + 1, shape)
    if rng.random() < 0.4:
        widths[:] = widths[:1]  # few masks with many groups
    widths[numbers.random(shape) < rng.choice([0.0, 0.3, 0.8])] = 0
    bits = rng.randint(1, hardware.input_bits)
    layer = make_layer(
        numbers, hardware, kind="linear", channels=k, height=1, width=1, outputs=n, input_bits=bits,
        weights=random_weights(numbers, hardware, k, n, widths), block_widths=widths,
        dynamic=rng.choice([None, DynamicPrecision(l_max=3, tau_sq=rng.randint(0, 3000))]),
    )  # fmt: skip
    density = rng.choice([0.1, 0.5, 1.0])
    values = numbers.integers(0, 1 << bits, (windows, k)) * (numbers.random((windows, k)) < density)
    if rng.random() < 0.2:
        values[:] = (1 << bits) - 1
    if rng.random() < 0.5:  # segments that stream different bits
        values >>= numbers.integers(0, bits + 1, shape[0]).repeat(hardware.ou_rows)[:k]
    return pack_layer(layer, hardware), layer, values.astype(np.uint8)


def wide_layer(hardware: HardwareConfig) -> tuple[Packing, Layer]:
    """A random layer that takes more than one crossbar pair."""
    return next(made[:2] for made in (random_layer(seed, hardware) for seed in range(100)) if made[0].pairs > 1)


def layer_settings(packing: Packing, *, crossbar_base: int = 0, width_base: int = 0) -> dict[str, int]:
    """Descriptor fields that the macro reads; the others hold ones, to show that they do not matter."""
    hardware, prepared = packing.hardware, packing.prepared
    segments, block_cols = prepared.widths.shape
    values = {field.name: (1 << field.bits) - 1 for field in descriptor_fields(hardware)}
    return values | {
        "segments": segments,
        "block_cols": block_cols,
        "last_cols": prepared.outputs - (block_cols - 1) * hardware.ou_cols,
        "crossbar_base": crossbar_base,
        "width_base": width_base,
        "outputs": prepared.outputs,
        **({"stop_bits": 0} if hardware.early_stop else {}),
    }


def random_words(seed: int, layer: Layer) -> StopWords | None:
    """Words of early stop of a layer with any scales, so that some outputs stop early, and bits of any choice; None if
    there is but one input bit."""
    numbers = np.random.default_rng(seed)
    if layer.input_bits == 1:
        return None
    scales = {
        "multipliers": numbers.integers(0, 50, layer.outputs),
        "bias": numbers.integers(-40, 40, layer.outputs),
        "shift": int(numbers.integers(1, 12)),
    }
    return StopWords.of(replace(layer, **scales, stop_bits=2 * int(numbers.integers(1, 1 << (layer.input_bits - 1)))))


# ---- the macro ----------------------------------------------------------------------------------
@dataclass
class Case:
    """A layer and the windows (P, K) to run on it. mode : search of the lanes. grid : registers in place of it.

    words : of early stop, None for none; channel_base : where they lie.
    sample_stall, segment_stall : share of clocks in which the crossbar, or the source of segments, is not ready.
    undecided : share of comparisons without an answer; needs `comparator_valid`.
    """

    packing: Packing
    windows: np.ndarray
    mode: SearchMode = SearchMode.OUTWARD
    crossbar_base: int = 0
    width_base: int = 0
    words: StopWords | None = None
    channel_base: int = 0
    sample_stall: float = 0.0
    undecided: float = 0.0
    segment_stall: float = 0.0
    seed: int = 0
    grid: AdcRegisters | None = None

    @property
    def search(self) -> Search:
        if self.grid is not None:
            return search_of(self.grid, self.packing.hardware)
        makers = {SearchMode.OUTWARD: outward, SearchMode.BOUNDED: bounded}
        return makers[self.mode](self.packing.hardware)

    @property
    def stops(self) -> Stops | None:
        return None if self.words is None else self.words.find(self.packing.prepared, self.windows)

    @property
    def sums(self) -> np.ndarray:
        return matmul(self.packing, self.windows, self.search, self.stops)[0][0]

    def registers(self) -> dict[str, int]:
        name, bits = self.mode.name.lower(), self.packing.hardware.adc_bits + 1
        adc = self.grid or AdcRegisters(mode=name, n_r2=bits)
        mode = SearchMode[adc.mode.upper()].value
        return {"mode": mode, "signed": 1, "n_r1": adc.n_r1, "n_r2": adc.n_r2, "m": adc.m, "bias": 0}

    def cells(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Cells of every OU column in use: two words of rows (positive, negative) per column; (pair, OU column)."""
        found = {}
        for pack in self.packing.packs:
            for mask in pack.masks:
                for group in mask.groups:
                    columns = zip(group.positive, group.negative, strict=True)
                    found[self.crossbar_base + group.pair, group.ou_col] = [(_word(p), _word(n)) for p, n in columns]
        return found

    def samples(self, half: int, window: int) -> list[tuple[int, int, int]]:
        """(pair, OU column, word of rows) of every activation of a half in a window."""
        prepared, found = self.packing.prepared, []
        x, streamed = streams(prepared, self.windows[window : window + 1])
        last_bit = np.zeros(prepared.outputs, dtype=np.int64) if self.stops is None else self.stops.last_bit[window]
        rows = 0
        for bit in reversed(range(prepared.bits)):
            for what in walk(self.packing, x[0], streamed[0, :, bit], last_bit, half, bit):
                if isinstance(what, Formed):
                    rows = _word(what.rows)
                elif isinstance(what, Activated):
                    found.append((self.crossbar_base + what.group.pair, what.group.ou_col, rows))
        return found

    @property
    def counters(self) -> dict[str, int]:
        """Event counters of all windows, by the golden model."""
        stops = self.stops
        _, spent = matmul(self.packing, self.windows, self.search, stops)
        counted = spent.counters(self.packing.hardware.ou_rows, None if stops is None else stops.checks)
        return {name: int(counted[name].sum()) for name in pair_counters(self.packing.hardware).members}

    def rounds(self) -> list[list[int]]:
        """Windows of every round, -1 where a macro has none."""
        macros, windows = self.packing.hardware.macros, range(len(self.windows))
        return [[w if w in windows else -1 for w in range(first, first + macros)] for first in windows[::macros]]

    def clocks(self, begins: list[int]) -> tuple[list[int], list[int]]:
        """Clocks of `window_walked` and of `window_done` of every round, by those in which they begin."""
        found = streams(self.packing.prepared, self.windows)
        machine = Machine(self.packing, *found, self.search, self.stops, self.packing.hardware.macros)
        over = [machine.round(begin, windows) for begin, windows in zip(begins, self.rounds(), strict=True)]
        return [walked for walked, _ in over], [done for _, done in over]


def _word(rows: np.ndarray) -> int:
    return sum(int(on) << i for i, on in enumerate(rows))


def behavioural_array(
    port,
    hardware: HardwareConfig,
    cells: dict,
    into: list,
    *,
    stall: float = 0.0,
    undecided: float = 0.0,
    seed: int = 0,
):
    """Background bench: the part of an ideal analog macro that a half samples from.

    Answers c+ - c- >= t of the sample in every column's place, in the clock of the thresholds.
    into : (pair, OU column, word of rows) of every sample. undecided : probability that a comparator has no answer, and
    gives a random one.
    """

    async def bench(ctx) -> None:
        rng = random.Random(seed)
        held = [[0] * hardware.ou_cols for _ in range(hardware.sample_places)]
        ctx.set(port.sample.ready, 1)
        async for _, _, valid, ready, payload in ctx.tick().sample(
            port.sample.valid, port.sample.ready, port.sample.payload
        ):
            if valid and ready:
                rows = payload.lines.as_bits()
                words = cells[payload.pair, payload.ou_col]
                found = [(positive & rows).bit_count() - (negative & rows).bit_count() for positive, negative in words]
                held[payload.place] = found + [0] * (hardware.ou_cols - len(found))
                into.append((payload.pair, payload.ou_col, rows))
            thresholds, places = ctx.get(port.thresholds), ctx.get(port.places)
            late = [rng.random() < undecided for _ in range(hardware.ou_cols)]
            answers = [
                rng.getrandbits(1) if late[j] else held[places[j]][j] >= thresholds[j] for j in range(hardware.ou_cols)
            ]
            if hardware.comparator_valid:
                ctx.set(port.decided, sum((not one) << j for j, one in enumerate(late)))
            ctx.set(port.comparators, sum(answer << j for j, answer in enumerate(answers)))
            ctx.set(port.sample.ready, int(rng.random() >= stall))

    return bench


@dataclass
class Run:
    """What the macros did: clocks of the layer's tables; clocks in which rounds begin, are walked and are done; sums by
    window; counters of all windows.

    samples : of every half of every macro, as `Case.samples`, all windows one after the other.
    """

    built: int = 0
    begins: list[int] = field(default_factory=list)
    walked: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    sums: list[list[int]] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    samples: list[list] = field(default_factory=list)
    overflow: int = 0


@dataclass
class Rig:
    """A macro with an analog array. top : what is simulated. processes : replace circuits.
    prepare : awaited first, with the context."""

    top: Any
    processes: list[Testbench] = field(default_factory=list)
    prepare: Testbench | None = None


def run(
    *cases: Case, limit: int = 100_000, early: bool = False, rig: Callable[[PairMacros, dict], Rig] | None = None
) -> list[Run]:
    """Of layers on the macros, one after the other: build the layer, then run its windows in rounds. A round begins as
    soon as the one before has been walked and the one before that has been read, or some clocks later.

    early : windows are started before the tables, or their segments, are there. rig : gives the macro an array with the
    cells of all cases, as `Case.cells`; otherwise it is `behavioural_array`, and samples are recorded.
    """
    hardware = cases[0].packing.hardware
    dut = PairMacros(hardware)
    cells = {place: words for case in cases for place, words in case.cells().items()}
    made = Rig(dut) if rig is None else rig(dut, cells)
    halves = range(HALVES * hardware.macros)
    sampled: list[list] = [[] for _ in halves]
    results = [Run() for _ in cases]
    running = [results[0]]

    def mask(windows: int) -> int:
        return (1 << windows) - 1

    async def start(ctx, windows: int) -> None:
        ctx.set(dut.active, mask(windows))
        ctx.set(dut.window_start, 1)
        await ctx.tick()
        ctx.set(dut.window_start, 0)
        put(ctx, dut.active, random.Random(windows).randrange(1 << hardware.macros))  # only the strobe's clock counts

    async def strobes(ctx) -> None:
        """Clocks of the rounds' strobes."""
        clock = 0
        strobes = (dut.window_start, dut.window_walked, dut.window_done)
        async for _, _, *seen in ctx.tick().sample(*strobes):
            now = running[0]
            for one, clocks in zip(seen, (now.begins, now.walked, now.done), strict=True):
                if one:
                    clocks.append(clock)
            clock += 1

    async def until(ctx, strobe: str, count: int) -> None:
        for _ in range(limit):
            if len(getattr(running[0], strobe)) >= count:
                return
            await ctx.tick()
        raise AssertionError(f"round {count} is not {strobe} in {limit} clocks")

    async def read_sums(ctx, prepared: Prepared, windows: int, *, last: bool) -> list[list[int]]:
        """last : the sums are read for the last time."""
        sums: list[list[int]] = [[] for _ in range(windows)]
        for output in range(prepared.outputs):
            put(ctx, dut.sums_address, output // hardware.ou_cols)
            put(ctx, dut.sums_column, output % hardware.ou_cols)
            ctx.set(
                dut.sums_taken,
                last and (output % hardware.ou_cols == hardware.ou_cols - 1 or output == prepared.outputs - 1),
            )
            await ctx.tick()
            ctx.set(dut.sums_taken, 0)
            for one, found in zip(sums, fetch(ctx, dut.sums), strict=False):
                one.append(found)
        return sums

    async def drain(ctx, prepared: Prepared, windows: int, *, twice: bool) -> list[list[int]]:
        """Sums of the next round that is done."""
        ctx.set(dut.sums_take, 1)
        await ctx.tick()
        ctx.set(dut.sums_take, 0)
        before = await read_sums(ctx, prepared, windows, last=False) if twice else None
        sums = await read_sums(ctx, prepared, windows, last=True)
        assert before in (None, sums), "sums changed before they were taken"
        return sums

    async def layer(ctx, case: Case, result: Run) -> None:
        packing, prepared, rng = case.packing, case.packing.prepared, random.Random(case.seed)
        ctx.set(dut.counters_clear, 1)
        for i, width in enumerate(prepared.widths.ravel()):
            put(ctx, dut.width_write, {"enable": 1, "address": case.width_base + i, "data": int(width)})
            await ctx.tick()
        ctx.set(dut.width_write.enable, 0)
        ctx.set(dut.counters_clear, 0)
        fields = layer_settings(packing, crossbar_base=case.crossbar_base, width_base=case.width_base)
        if case.words is not None:
            for n, (bound, begin) in enumerate(zip(case.words.bounds, case.words.starts, strict=True)):
                put(ctx, dut.bound_write, {"enable": 1, "address": case.channel_base + n, "data": int(bound)})
                put(ctx, dut.start_write, {"enable": 1, "address": case.channel_base + n, "data": int(begin)})
                await ctx.tick()
            ctx.set(dut.bound_write.enable, 0)
            ctx.set(dut.start_write.enable, 0)
            fields["stop_bits"] = sum(1 << bit for bit in case.words.after)
        put(ctx, dut.settings, fields | {"channel_base": case.channel_base})
        put(ctx, dut.search, case.registers())
        ctx.set(dut.layer_start, 1)
        await ctx.tick()
        ctx.set(dut.layer_start, 0)
        if not early:
            result.built = await clocks_until(ctx, dut.layer_ready, limit=limit)
        patient = rng.random() < 0.3  # every round is done before the next one begins
        sizes = [sum(window >= 0 for window in windows) for windows in case.rounds()]
        for index, windows in enumerate(sizes):
            ctx.set(dut.filling, mask(windows))
            while not early and not ctx.get(dut.window_filled):
                await ctx.tick()
            for _ in range(rng.choice([0, 0, 0, rng.randint(0, 30)])):
                await ctx.tick()
            await start(ctx, windows)
            await until(ctx, "walked", index + 1)
            if patient:
                await until(ctx, "done", index + 1)
            if index:
                await until(ctx, "done", index)
                result.sums += await drain(ctx, prepared, sizes[index - 1], twice=rng.random() < 0.5)
        await until(ctx, "done", len(sizes))
        result.sums += await drain(ctx, prepared, sizes[-1], twice=True)
        result.counters = fetch(ctx, dut.counters)
        for found in sampled:
            result.samples.append(list(found))
            found.clear()
        result.overflow = ctx.get(dut.overflow)

    async def control(ctx) -> None:
        if made.prepare is not None:
            await made.prepare(ctx)
        for case, result in zip(cases, results, strict=True):
            running[0] = result
            await layer(ctx, case, result)

    def source(macro: int) -> Testbench:
        port = getattr(dut, f"segments{macro}")

        async def bench(ctx) -> None:
            rng = random.Random(cases[0].seed + macro)
            for case in cases:
                x, streamed = streams(case.packing.prepared, case.windows)
                positions = streamed.astype(np.int64) @ (1 << np.arange(case.packing.prepared.bits))
                await ctx.tick().until(dut.layer_start)
                for window, bits in zip(x[macro :: hardware.macros], positions[macro :: hardware.macros], strict=True):
                    for segment, streamed_bits in enumerate(bits):
                        while rng.random() < case.segment_stall:
                            await ctx.tick()
                        slices = slices_of(hardware, window.ravel(), segment)
                        put(ctx, port.payload, {"slices": slices, "mask": int(streamed_bits)})
                        ctx.set(port.valid, 1)
                        await ctx.tick().until(port.ready)
                        ctx.set(port.valid, 0)

        return bench

    background = [strobes, *(source(macro) for macro in range(hardware.macros))]
    for half, port in enumerate(halves_of(dut.crossbar, hardware)):
        background.append(stream_rule(port.sample, f"sample of half {half}"))
        if rig is None:
            stall, undecided, seed = cases[0].sample_stall, cases[0].undecided, cases[0].seed + half
            background.append(
                behavioural_array(port, hardware, cells, sampled[half], stall=stall, undecided=undecided, seed=seed)
            )
    simulate(made.top, control, background=background, processes=made.processes, limit=limit)
    return results


def check(
    *cases: Case, timing: bool = True, early: bool = False, rig: Callable[[PairMacros, dict], Rig] | None = None
) -> None:
    """Run layers; sums of every window, event counters and clocks of every round must equal the golden model; without a
    `rig` also the order of samples."""
    for case, actual in zip(cases, run(*cases, early=early, rig=rig), strict=True):
        _compare(case, actual, timing=timing and not early, built=not early, samples=rig is None)


def _compare(case: Case, actual: Run, *, timing: bool, built: bool, samples: bool) -> None:
    if built:
        assert actual.built == ready_clocks(case.packing, bool(case.words and case.words.after))
    macros = case.packing.hardware.macros
    for half, found in enumerate(actual.samples) if samples else ():
        windows = range(half // HALVES, len(case.windows), macros)
        wanted = [sample for window in windows for sample in case.samples(half % HALVES, window)]
        assert found == wanted, f"half {half}"
    assert actual.sums == case.sums.tolist()
    expected, counters = case.counters, dict(actual.counters)
    if case.undecided:  # what was asked again counts again
        assert counters.pop("ad_operations") >= expected.pop("ad_operations")
    assert counters == expected
    if timing:
        assert (actual.walked, actual.done) == case.clocks(actual.begins)
