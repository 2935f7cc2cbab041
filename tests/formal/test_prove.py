"""How a proof is led."""

from __future__ import annotations

import pytest

from tests.formal.prove import ProofError, bound, prove
from tests.formal.test_ou_scheduler import SchedulerSpec


def test_a_prover_that_computes_for_too_long_is_ended(tmp_path):
    with pytest.raises(ProofError, match="the prover did not end within 1 s"):
        prove(SchedulerSpec(), tmp_path, bound(16), limit=1)
