"""Work in a forked process that may hang, or change the program that it runs in."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

#: Sends a record to the parent; the next one, or the end, must come within `limit` seconds.
Report = Callable[[dict[str, Any], float], None]


def in_child(job: Callable[[Report], None], limit: float) -> Iterator[dict[str, Any]]:
    """The records of `job` in a copy of this process, which is gone after the last one.

    limit : seconds to the first. A record {"timeout": True} says that the next did not come in time,
    {"crash": traceback} that the job failed.
    """
    folder = tempfile.mkdtemp(prefix="mutant-")
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        _work(job, writer, folder)
    os.close(writer)
    try:
        yield from _records(reader, limit)
    finally:
        os.close(reader)
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _work(job: Callable[[Report], None], writer: int, folder: str) -> None:
    """The child: never returns."""

    def report(record: dict[str, Any], limit: float) -> None:
        os.write(writer, json.dumps([record, limit]).encode() + b"\n")

    os.setsid()  # provers and simulators that it starts end with it
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    tempfile.tempdir = os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
    try:
        job(report)
    except BaseException:
        report({"crash": traceback.format_exc()}, 30)
    finally:
        sys.stdout.flush()
        os._exit(0)


def _records(reader: int, limit: float) -> Iterator[dict[str, Any]]:
    rest = b""
    until = time.monotonic() + limit
    while True:
        while b"\n" not in rest:
            if not select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
                yield {"timeout": True}
                return
            piece = os.read(reader, 1 << 20)
            if not piece:
                return
            rest += piece
        line, _, rest = rest.partition(b"\n")
        record, limit = json.loads(line)
        until = time.monotonic() + limit
        yield record


def _end(process: int) -> None:
    for kill in (os.killpg, os.kill):  # the group, and a child that has none yet
        try:
            kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os.waitpid(process, 0)
