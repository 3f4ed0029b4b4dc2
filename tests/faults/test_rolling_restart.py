"""Every part of a fleet is replaced while callers ask without a pause: none of them loses anything.

A gateway is asked as long as it says that it takes calls. What it refuses before it has said anything its caller asks
again, of another one; after that nothing may be lost, and nothing broken off by a gateway that ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.faults.callers import Traffic
from tests.faults.matrix import COMPLETED
from tests.faults.rolling import rolling_fleet
from tests.faults.rules import violations

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.faults.rolling import RollingFleet

SCRIPT = {"seconds_per_step": 0.02, "seconds_per_token": 0.0005}
WAYS = {
    "others at other addresses": (False, ["--drain-seconds", "1"]),
    "others at the same addresses": (True, []),
    "workers that break their streams off": (True, ["--grace-seconds", "0.1"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_every_part_is_replaced_in_turn_and_no_call_is_lost(folder: Path, tmp_path: Path, way: str) -> None:
    keeps_port, flags = WAYS[way]
    async with rolling_fleet(folder, tmp_path, SCRIPT, (2, 3, 2), flags) as fleet:
        traffic = Traffic(fleet.chosen, most_tokens=60)
        async with traffic.of(48):
            for tier in fleet.tiers:
                for part in list(tier.parts):
                    await tier.replace(part, keeps_port=keeps_port)
        check(fleet, traffic, flags)


async def test_a_worker_and_a_gateway_are_replaced_at_once_and_no_call_is_lost(folder: Path, tmp_path: Path) -> None:
    async with rolling_fleet(folder, tmp_path, SCRIPT, (1, 2, 2)) as fleet:
        traffic = Traffic(fleet.chosen, most_tokens=20)
        async with traffic.of(8):
            replaced = fleet.workers, fleet.gateways
            await asyncio.gather(*(tier.replace(tier.parts[0], keeps_port=True) for tier in replaced))
        check(fleet, traffic)


def check(fleet: RollingFleet, traffic: Traffic, worker_flags: Sequence[str] = ()) -> None:
    silence = max(history.longest_silence for history in traffic.histories)
    print(f"\n{len(traffic.histories)} calls, {traffic.retries} of them asked again, {silence:.1f} s without a word")
    assert not violations(traffic.histories)
    assert {history.outcome for history in traffic.histories} == {COMPLETED}
    assert fleet.gateways.ended_calls == fleet.tokenizers.ended_calls == 0
    assert (fleet.workers.ended_calls > 0) == ("--grace-seconds" in worker_flags)
