"""Clocked runs in Amaranth's simulator, with a watchdog: a bench that loses one beat would run for ever."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from amaranth.sim import Simulator

#: Simulated clock period in seconds (the simulator needs one; no result depends on it).
PERIOD = 1e-6

Testbench = Callable[[Any], Coroutine]


class WatchdogError(AssertionError):
    """The simulation did not end within its limit of clocks."""


def simulate(
    dut: Any,
    *testbenches: Testbench,
    limit: int = 100_000,
    background: Iterable[Testbench] = (),
    processes: Iterable[Testbench] = (),
    waves: str | Path | None = None,
) -> None:
    """Run `dut` until every test bench has ended.

    Parameters
    ----------
    dut : component; its "sync" domain, if it has one, gets a clock.
    testbenches : async functions of a context; the run ends when all have returned.
    limit : clocks after which `WatchdogError` is raised.
    background : test benches that do not keep the run alive. Give the function itself, not a call.
    processes : behavioural replacements of circuits (`Simulator.add_process`).
    waves : VCD file to write, or None.
    """
    sim = Simulator(dut)
    sim.add_clock(PERIOD, if_exists=True)
    started: list[Coroutine] = []

    def tracked(bench: Testbench) -> Testbench:
        async def run(ctx: Any) -> None:
            started.append(bench(ctx))
            await started[-1]

        return run

    async def watchdog(ctx: Any) -> None:
        await ctx.delay(PERIOD * (limit + 1))
        raise WatchdogError(f"the simulation did not end within {limit} clocks")

    for process in processes:
        sim.add_process(tracked(process))
    for bench in testbenches:
        sim.add_testbench(tracked(bench))
    for bench in (*background, watchdog):
        sim.add_testbench(tracked(bench), background=True)
    try:
        with nullcontext() if waves is None else sim.write_vcd(str(waves)):
            sim.run()
    finally:
        # What is still suspended would otherwise be closed by the garbage collector at a random moment,
        # where the simulator's generators complain.
        for coroutine in started:
            with suppress(RuntimeError):
                coroutine.close()
