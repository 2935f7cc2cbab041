"""cocotb module that runs a `sim.host.session` job on an exported tile, with a behavioural crossbar behind it.

Reads its task from the environment: OHMLOOM_IMAGE (deployment image), OHMLOOM_JOB and OHMLOOM_CROSSBAR
(JSON), OHMLOOM_OUTCOME (file to write). Started by `sim.backends`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import cocotb

from golden_model.image import image as deployment
from rtl.tile import Tile
from sim.array.crossbars import CrossbarSettings, make_crossbar
from sim.backends import cocotb_bench
from sim.host.session import Job, run_job


@cocotb.test()
async def run(dut):
    image = deployment.read(os.environ["OHMLOOM_IMAGE"])
    job = Job.from_json(os.environ["OHMLOOM_JOB"])
    settings = CrossbarSettings(**json.loads(os.environ["OHMLOOM_CROSSBAR"]))
    crossbar = make_crossbar(image.program, settings)
    monitor = cocotb_bench.TraceMonitor.of(dut, Tile(image.program.hardware))
    bus = cocotb_bench.CocotbBus(dut, monitor)
    analog = cocotb_bench.Analog(dut, crossbar, monitor)
    cocotb.start_soon(analog.run())
    await cocotb_bench.start(dut)
    outcome = await run_job(bus, image, job)
    Path(os.environ["OHMLOOM_OUTCOME"]).write_text(outcome.as_json())
