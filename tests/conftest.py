"""Settings of every test run: one thread per process, repeatable hypothesis, the built-in Yosys."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "ohmloom",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# HYPOTHESIS_PROFILE=explore looks for new examples.
settings.register_profile("explore", parent=settings.get_profile("ohmloom"), derandomize=False, max_examples=1000)
# `make mutate`: that a test fails is enough, not by which smallest example.
settings.register_profile(
    "mutants", parent=settings.get_profile("ohmloom"), phases=[Phase.explicit, Phase.generate], database=None
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ohmloom"))
