# SPDX-License-Identifier: MIT
"""Everything goes wrong at once, for as long as one likes."""

import os

import pytest
from harness import env_int
from schedule import KINDS, make_schedule
from soak import EVENTS, Soak

SEED = env_int("MQTTGW_SEED", 1)
SECONDS = env_int("MQTTGW_SOAK_SECONDS", 25)
CHOSEN = os.environ.get("MQTTGW_SOAK_EVENTS", "")


@pytest.mark.long
@pytest.mark.timeout(SECONDS * 1.5 + 240)
def test_soak(make_daemon, shim_library, measured):
    """Random feeds, cuts, kills, full and failing disks, clock jumps.

    What was answered `queued` arrives, in order; QoS 2 once for each
    session; each line has one answer; memory, descriptors and the log stay
    small; the counts are exact. The daemon ends only when it is told to.
    """
    kinds = frozenset(CHOSEN.split(",")) if CHOSEN else KINDS
    soak = Soak(make_daemon, shim_library, SEED)
    try:
        verdict = soak.run(make_schedule(SEED, SECONDS, kinds), SECONDS)
        measured(
            f"soak, seed {SEED}, {SECONDS} s: {soak.events()}; {verdict}; "
            f"{soak.watch}"
        )
        assert verdict.problems == []
        assert verdict.lost == 0 and verdict.dead == 0
        aside = soak.set_aside()
        assert not aside, "\n".join(aside)
        assert verdict.acknowledged > 10 * SECONDS
    finally:
        soak.close()


def test_each_kind_has_its_event():
    assert set(EVENTS) == KINDS
