"""Work in a forked process that may hang, or change the program that it runs in."""

from __future__ import annotations

import contextlib
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

#: Sends a record to the parent. Until the next one this process may compute for `limit` seconds.
Report = Callable[[dict[str, Any], float], None]
#: On a busy machine a process computes that much less than the clock says.
WAIT = 20


def in_child(job: Callable[[Report], None], limit: float) -> Iterator[dict[str, Any]]:
    """The records of `job` in a copy of this process, which is gone after the last one.

    limit : seconds of a processor until the first. A record {"timeout": True} says that the next one took longer, or
    `WAIT` times as long on the clock; {"crash": traceback} that the job failed.
    """
    folder = tempfile.mkdtemp(prefix="mutant-")
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        _work(job, writer, limit, folder)
    os.close(writer)
    killed = None
    try:
        yield from _records(reader, limit)
        if killed := _end(process):
            yield {"timeout": True}
    finally:
        if killed is None:
            _end(process)
        os.close(reader)
        shutil.rmtree(folder, ignore_errors=True)


def _work(job: Callable[[Report], None], writer: int, limit: float, folder: str) -> None:
    """The child: never returns."""

    def report(record: dict[str, Any], limit: float) -> None:
        os.write(writer, json.dumps([record, limit]).encode() + b"\n")
        signal.setitimer(signal.ITIMER_PROF, limit)  # ends the process

    signal.setitimer(signal.ITIMER_PROF, limit)
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
    until = time.monotonic() + WAIT * limit
    while select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(reader, 1 << 20)
        if not piece:
            return
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            record, limit = json.loads(line)
            until = time.monotonic() + WAIT * limit
            yield record


def _end(process: int) -> bool:
    """End a child and what it has started; whether it did not end by itself."""
    for kill in (os.killpg, os.kill):  # the group, and a child that has none yet
        with contextlib.suppress(ProcessLookupError):
            kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])
