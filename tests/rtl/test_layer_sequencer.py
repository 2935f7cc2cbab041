"""The layer sequencer: order of its strobes, clocks, errors and aborts; the test plays every other block."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from golden_model.config import PRESETS, TINY, HardwareConfig
from golden_model.registers import ErrorCode
from rtl.layer_sequencer import LayerSequencer
from sim.bench import simulate
from tests.bench import fetch, plain
from tests.rtl.tile_tools import expect_within, strobe

pytestmark = pytest.mark.rtl

SETTLE = 12
#: Clocks that an abort waits for the array.
LIMIT = 30
PAIRS = PRESETS["tiny-pairs"]
BOTH = pytest.mark.parametrize("hardware", [TINY, PAIRS], ids=["planes", "pairs"])
#: What answers a strobe.
ANSWERS = {
    "read_start": "read_done",
    "check_start": "check_done",
    "load_start": "window_loaded",
    "window_start": "window_done",
    "post_start": "post_done",
    "store_events": "events_stored",
}
#: Strobes in the order in which those of one clock are listed.
STROBES = ("counters_clear", "read_start", "check_start", "layer_start")
WINDOW_STROBES = ("load_start", "window_start", "post_start")


@dataclass(frozen=True)
class Step:
    """What the other blocks say of a step. misplaced : its planes lie beyond the last crossbar pair."""

    windows: int = 1
    element: bool = False
    check_error: ErrorCode = ErrorCode.NONE
    adc_error: bool = False
    misplaced: bool = False


#: Crossbar and element steps, of one window and of several.
MIXED = [Step(windows=3), Step(element=True), Step(), Step(windows=2, element=True)]


class Others:
    """All other blocks: every strobe is logged and answered 1 to `slowest` clocks later; `flush` resets them.

    Of the pair machine a loaded window stays until it is converted, a window is done some clocks after it was walked,
    and after the one before it, and the tables are built beside the first load.

    log : (strobe, step), of the strobes of a window (strobe, step, window). clocks : per step stored, its clocks.
    ends : what `ends` told. settled : `layer_cycles` at every `layer_start`. busy : clocks with STATUS.busy.
    flushes : clocks with `flush`.
    """

    def __init__(self, steps: list[Step], hardware: HardwareConfig = TINY, *, slowest: int = 1):
        self.steps, self.pairs = steps, hardware.pairs
        self.dut = LayerSequencer(hardware, settle_clocks=SETTLE, limit=LIMIT)
        self.answers = ANSWERS | ({"layer_start": "layer_ready", "window_start": "window_walked"} if self.pairs else {})
        self.rng, self.slowest = random.Random(len(steps) + slowest), slowest
        self.forget()

    def forget(self) -> None:
        self.log: list[tuple] = []
        self.clocks: list[int] = []
        self.ends: list[dict[str, int]] = []
        self.settled: list[int] = []
        self.busy = self.flushes = 0

    async def play(self, ctx) -> None:
        dut, waiting, levels, loaded = self.dut, {}, set(), 0
        converting: list[int] = []  # clocks until each of the walked windows is done, of the pair machine
        names = (*STROBES, *WINDOW_STROBES, "store_events", "events_stored", "flush")
        ports = [getattr(dut, name) for name in names]
        async for _, _, ends, layer, window, cycles, busy, *values in ctx.tick().sample(
            dut.ends, dut.layer, dut.window, dut.layer_cycles, dut.status.busy, *ports
        ):
            self.ends += [plain(ends)] * any(plain(ends).values())
            on = [name for name, value in zip(names, values, strict=True) if value]
            step = self.steps[layer]
            entries = [(name, layer, window) if name in WINDOW_STROBES else (name, layer) for name in on]
            self.log += [entry for entry in entries if entry[0] != "flush"]
            self.busy += busy
            if "layer_start" in on:
                self.settled.append(cycles)
            if "events_stored" in on:
                self.clocks.append(cycles)
            if "read_start" in on:
                ctx.set(dut.element, step.element)
                ctx.set(dut.adc_error, step.adc_error)
                loaded = 0
            if "load_start" in on:
                loaded += 1
                ctx.set(dut.place.last, loaded == step.windows)
            ctx.set(dut.placement_error, step.misplaced and ("load_start" if self.pairs else "window_start") in on)
            ctx.set(dut.check_error, step.check_error)
            for name in on:
                # Nothing is loaded into the macro in an element step; of a misplaced one no window ends.
                unanswered = (name == "load_start" and step.element) or (
                    name in ("window_start", "layer_start") and step.misplaced
                )
                if name in self.answers and not unanswered:
                    waiting[self.answers[name]] = self.rng.randint(1, self.slowest)
            if "flush" in on:
                self.flushes += 1
                waiting.clear()
                levels.clear()
                converting.clear()
            levels -= {self.answers.get("layer_start")} if "layer_start" in on else set()
            levels -= {"window_loaded"} if "window_start" in on else set()
            for answer in self.answers.values():
                waiting[answer] = waiting.get(answer, 0) - 1
                if waiting[answer] == 0 and self.pairs and answer in ("window_loaded", "layer_ready"):
                    levels.add(answer)
                ctx.set(getattr(dut, answer), waiting[answer] == 0 or answer in levels)
            if self.pairs:
                converting = [left - 1 for left in converting if left > 1]
                if waiting.get("window_walked") == 0:
                    soon = self.rng.randint(1, 2 * self.slowest)
                    converting.append(max([soon, *(left + 1 for left in converting)]))
                ctx.set(dut.window_done, 1 in converting)

    def expected(self, count: int | None = None, first: int = 0) -> list[tuple]:
        """The log of an undisturbed run of steps `first`..`count` - 1."""
        log: list[tuple] = []
        for layer, step in list(enumerate(self.steps[:count]))[first:]:
            log += [(name, layer) for name in STROBES]
            if self.pairs and not step.element:
                for beat in range(step.windows + 2):
                    for name, window in zip(WINDOW_STROBES, (beat, beat - 1, beat - 2), strict=True):
                        log += [(name, layer, max(0, beat - 1))] * (0 <= window < step.windows)
            else:
                for window in range(step.windows):
                    named = [name for name in WINDOW_STROBES if name != "window_start" or not step.element]
                    log += [(name, layer, window) for name in named]
            log += [("store_events", layer), ("events_stored", layer)]
        return log

    async def start(self, ctx, count: int | None = None, first: int = 0) -> None:
        ctx.set(self.dut.layer_count, len(self.steps) if count is None else count)
        ctx.set(self.dut.first_layer, first)
        await strobe(ctx, self.dut.start)

    async def idle(self, ctx) -> dict[str, int]:
        """Wait for the end of the run; its status."""
        while ctx.get(self.dut.status.busy):
            await ctx.tick()
        return fetch(ctx, self.dut.status)

    def simulate(self, bench, limit: int = 5000) -> None:
        simulate(self.dut, bench, processes=[self.play], limit=limit)


def _status(error: ErrorCode = ErrorCode.NONE, **values: int) -> dict[str, int]:
    cells = {"cells_busy": 0, "cells_error": 0, "test_busy": 0}
    return {"busy": 0, "done": 0, "error": int(error), "layer": 0, "overflow": 0, **cells} | values


@BOTH
@pytest.mark.parametrize("slowest", [1, 7])
def test_steps_and_windows_follow_each_other_in_order(hardware, slowest):
    others = Others(MIXED, hardware, slowest=slowest)

    async def bench(ctx):
        await others.start(ctx)
        assert await others.idle(ctx) == _status(done=1, layer=len(MIXED) - 1)

    others.simulate(bench)
    assert others.log == others.expected()


def test_only_the_first_steps_run_if_layer_count_says_so():
    others = Others(MIXED)

    async def bench(ctx):
        await others.start(ctx, 2)
        assert await others.idle(ctx) == _status(done=1, layer=1)

    others.simulate(bench)
    assert others.log == others.expected(2)


@BOTH
def test_runs_of_parts_do_together_what_one_run_does(hardware):
    others = Others(MIXED, hardware, slowest=3)

    async def bench(ctx):
        for first, count in ((0, 1), (1, 3), (3, len(MIXED))):
            before = others.busy
            await others.start(ctx, count, first)
            assert fetch(ctx, others.dut.status)["layer"] == first
            assert await others.idle(ctx) == _status(done=1, layer=count - 1)
            assert ctx.get(others.dut.cycles) == others.busy - before, "clocks begin anew with every run"

    others.simulate(bench)
    assert others.log == others.expected()
    assert others.settled == [SETTLE] * len(MIXED)


@BOTH
def test_a_part_can_run_again(hardware):
    others = Others(MIXED, hardware)

    async def bench(ctx):
        for _ in range(2):
            await others.start(ctx, 3, 1)
            assert await others.idle(ctx) == _status(done=1, layer=2)

    others.simulate(bench)
    assert others.log == others.expected(3, 1) * 2


@BOTH
def test_a_run_can_follow_a_run(hardware):
    others = Others(MIXED, hardware, slowest=3)

    async def bench(ctx):
        for _ in range(2):
            others.forget()
            await others.start(ctx)
            assert ctx.get(others.dut.status.done) == 0
            await others.idle(ctx)
            assert others.log == others.expected()
            assert ctx.get(others.dut.cycles) == others.busy

    others.simulate(bench)


@BOTH
def test_clocks_of_the_steps_add_up_to_those_of_the_run(hardware):
    others = Others(MIXED, hardware, slowest=5)

    async def bench(ctx):
        await others.start(ctx)
        await others.idle(ctx)
        assert ctx.get(others.dut.cycles) == others.busy == sum(others.clocks)
        await ctx.tick().repeat(3)
        assert ctx.get(others.dut.cycles) == others.busy, "an idle clock does not count"

    others.simulate(bench)
    assert len(others.clocks) == len(MIXED)


def test_first_window_waits_until_the_reference_has_settled():
    others = Others(MIXED)

    async def bench(ctx):
        await others.start(ctx)
        await others.idle(ctx)

    others.simulate(bench)
    assert others.settled == [SETTLE] * len(MIXED)


def test_first_window_of_a_pair_step_is_converted_when_it_is_loaded_and_the_tables_are_built():
    others = Others([Step(windows=2)], PAIRS)
    dut = others.dut
    del others.answers["layer_start"]

    async def bench(ctx):
        await others.start(ctx)
        await expect_within(ctx, dut.window_loaded, 100)
        for _ in range(20):
            assert not ctx.get(dut.window_start)
            await ctx.tick()
        ctx.set(dut.layer_ready, 1)
        await expect_within(ctx, dut.window_start, 2)
        assert await others.idle(ctx) == _status(done=1)

    others.simulate(bench)


@pytest.mark.parametrize("slowest", [1, 7])
def test_a_beat_ends_in_the_clock_in_which_the_last_of_its_parts_does(slowest):
    """Loading, walking and draining end in any order, and any of them last; the next beat begins in the next clock."""
    others = Others([Step(windows=30)], PAIRS, slowest=slowest)
    dut, begins, ended, last = others.dut, [], [], set()

    async def watch(ctx):
        clock, open_parts = 0, set()
        async for _, _, load, walk, loaded, walked, posted in ctx.tick().sample(
            dut.load_start, dut.window_start, dut.window_loaded, dut.window_walked, dut.post_done
        ):
            clock += 1
            over = {name for name, done in (("load", loaded), ("walk", walked), ("drain", posted)) if done} & open_parts
            open_parts -= over
            if over and not open_parts:
                ended.append(clock)
                last.update(over if len(over) == 1 else ())
            if load and walk:  # of the beats that do all three
                begins.append(clock)
                open_parts = {"load", "walk", "drain"} if len(begins) > 1 else {"load", "walk"}

    async def bench(ctx):
        await others.start(ctx)
        assert await others.idle(ctx) == _status(done=1)

    simulate(dut, bench, processes=[others.play, watch], limit=5000)
    assert len(begins) == 29
    assert begins[1:] == [clock + 1 for clock in ended[:-1]]
    assert last == ({"load", "walk", "drain"} if slowest > 1 else last)


def test_start_while_busy_changes_nothing():
    others = Others(MIXED, slowest=3)

    async def bench(ctx):
        await others.start(ctx)
        while ctx.get(others.dut.status.busy):
            ctx.set(others.dut.start, others.rng.random() < 0.5)
            await ctx.tick()
            ctx.set(others.dut.start, 0)
        assert ctx.get(others.dut.cycles) == others.busy == sum(others.clocks)

    others.simulate(bench)
    assert others.log == others.expected()


# ---- overflow -----------------------------------------------------------------------------------
def test_overflow_stays_in_status_until_the_next_start():
    others = Others([Step(windows=2)])
    status = others.dut.status

    async def bench(ctx):
        await strobe(ctx, others.dut.overflow)
        assert ctx.get(status.overflow) == 0, "nothing runs"
        await others.start(ctx)
        assert ctx.get(status.overflow) == 0
        await strobe(ctx, others.dut.overflow)
        assert ctx.get(status.overflow) == 1
        assert await others.idle(ctx) == _status(done=1, overflow=1)
        await others.start(ctx)
        assert await others.idle(ctx) == _status(done=1)

    others.simulate(bench)


# ---- errors -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("count", "first"), [(0, 0), (TINY.max_layers + 1, 0), (1, 1), (1, 2), (0, 65535), (TINY.max_layers + 1, 1)]
)
def test_a_layer_count_outside_the_hardware_or_a_first_layer_behind_it_does_not_start(count, first):
    others = Others([Step(), Step()])

    async def bench(ctx):
        await others.start(ctx)
        assert await others.idle(ctx) == _status(done=1, layer=1)
        await others.start(ctx, count, first)
        for _ in range(3):
            assert fetch(ctx, others.dut.status) == _status(ErrorCode.LAYER_COUNT)
            await ctx.tick()
        await others.start(ctx, 1)
        assert await others.idle(ctx) == _status(done=1)

    others.simulate(bench)
    assert others.log == others.expected() + others.expected(1)


#: Per case the second step and the error it ends with.
FAULTS = {
    "geometry": (Step(check_error=ErrorCode.LAYER_GEOMETRY), ErrorCode.LAYER_GEOMETRY),
    "unsupported": (Step(check_error=ErrorCode.UNSUPPORTED, element=True), ErrorCode.UNSUPPORTED),
    "converter": (Step(adc_error=True), ErrorCode.ADC_CONFIGURATION),
    "geometry before converter": (
        Step(check_error=ErrorCode.LAYER_GEOMETRY, adc_error=True),
        ErrorCode.LAYER_GEOMETRY,
    ),
    "beyond the last pair": (Step(windows=2, misplaced=True), ErrorCode.LAYER_GEOMETRY),
}


@BOTH
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_step_ends_the_run_with_its_error(hardware, name):
    step, error = FAULTS[name]
    others = Others([Step(), step], hardware, slowest=3)

    async def bench(ctx):
        await others.start(ctx)
        assert await others.idle(ctx) == _status(error, layer=1)
        assert others.flushes == 1
        log = list(others.log)
        await ctx.tick().repeat(30)
        assert others.log == log, "nothing goes on"
        await others.start(ctx, 1)
        assert await others.idle(ctx) == _status(done=1)

    others.simulate(bench)
    assert others.log[-len(others.expected(1)) :] == others.expected(1)


def test_converter_registers_of_an_element_step_do_not_count():
    others = Others([Step(element=True, adc_error=True)])

    async def bench(ctx):
        await others.start(ctx)
        assert await others.idle(ctx) == _status(done=1)

    others.simulate(bench)


# ---- abort --------------------------------------------------------------------------------------
@BOTH
def test_an_abort_in_any_clock_ends_the_run_and_the_next_run_is_whole(hardware):
    others = Others(MIXED[:2], hardware, slowest=3)
    dut = others.dut
    aborted_after = set()

    async def bench(ctx):
        for clocks in range(200):
            await others.start(ctx)
            for _ in range(clocks):
                await ctx.tick()
            if not ctx.get(dut.status.busy):
                return
            # A step that ends in the clock of the abort is complete: the next one is stopped.
            layer = min(ctx.get(dut.layer) + ctx.get(dut.events_stored), 1)
            aborted_after.add(others.log[-1][0] if others.log else "start")
            ctx.set(dut.abort, 1)
            assert ctx.get(dut.flush) == 1
            await ctx.tick()
            ctx.set(dut.abort, 0)
            assert ctx.get(dut.flush) == 0
            assert fetch(ctx, dut.status) == _status(ErrorCode.ABORTED, layer=layer)
            others.forget()
            await others.start(ctx)
            assert await others.idle(ctx) == _status(done=1, layer=1)
            assert others.log == others.expected()
            assert ctx.get(dut.cycles) == others.busy
            others.forget()

    others.simulate(bench, limit=40_000)
    assert aborted_after >= {*STROBES, *WINDOW_STROBES, "store_events", "events_stored"} - {"counters_clear"}


def test_abort_while_idle_does_nothing():
    others = Others([Step()])

    async def bench(ctx):
        ctx.set(others.dut.abort, 1)
        assert ctx.get(others.dut.flush) == 0
        await ctx.tick()
        ctx.set(others.dut.abort, 0)
        assert fetch(ctx, others.dut.status) == _status()
        await others.start(ctx)
        await expect_within(ctx, others.dut.status.done, 200)
        await strobe(ctx, others.dut.abort)
        assert fetch(ctx, others.dut.status) == _status(done=1)

    others.simulate(bench)


@BOTH
@pytest.mark.parametrize("waits", [1, 7, LIMIT, LIMIT + 20])
def test_an_abort_waits_for_the_sample_on_offer_but_not_for_ever(hardware, waits):
    others = Others([Step(windows=2)], hardware, slowest=500)
    dut = others.dut

    async def bench(ctx):
        await others.start(ctx)
        await ctx.tick().until(dut.window_start)
        ctx.set(dut.sample_waits, 1)
        await strobe(ctx, dut.abort)
        for clocks in range(1, min(waits, LIMIT)):
            assert (ctx.get(dut.status.busy), ctx.get(dut.flush)) == (1, 0), clocks
            await ctx.tick()
        if waits <= LIMIT:
            ctx.set(dut.sample_waits, 0)
        assert ctx.get(dut.flush) == 1
        await ctx.tick()
        assert fetch(ctx, dut.status) == _status(ErrorCode.ABORTED)
        ctx.set(dut.sample_waits, 0)
        others.slowest = 1
        others.forget()
        await others.start(ctx)
        assert await others.idle(ctx) == _status(done=1), "what was left of the abort does not stop the next run"
        assert others.log == others.expected()

    others.simulate(bench)


def test_an_error_waits_for_the_sample_on_offer_and_keeps_its_code():
    others = Others([Step(windows=2, misplaced=True)])
    dut = others.dut

    async def bench(ctx):
        await others.start(ctx)
        await ctx.tick().until(dut.window_start)
        ctx.set(dut.sample_waits, 1)
        await ctx.tick().repeat(5)
        assert ctx.get(dut.status.busy)
        await strobe(ctx, dut.abort)
        ctx.set(dut.sample_waits, 0)
        assert await others.idle(ctx) == _status(ErrorCode.LAYER_GEOMETRY)

    others.simulate(bench)


# ---- ends ---------------------------------------------------------------------------------------
@BOTH
def test_every_end_of_a_run_is_told_once(hardware):
    others = Others([Step(), Step(misplaced=True)], hardware)
    done, error = {"done": 1, "error": 0}, {"done": 0, "error": 1}

    async def bench(ctx):
        for steps, told in ((1, done), (2, error), (0, error), (0, error), (1, done)):
            others.ends.clear()
            await others.start(ctx, steps)
            await others.idle(ctx)
            await ctx.tick().repeat(3)
            assert others.ends == [told], steps
        others.ends.clear()
        await strobe(ctx, others.dut.abort)
        await ctx.tick().repeat(3)
        assert not others.ends, "an abort while idle ends nothing"
        await others.start(ctx, 1)
        await strobe(ctx, others.dut.abort)
        await ctx.tick().repeat(3)
        assert others.ends == [error]

    others.simulate(bench)
