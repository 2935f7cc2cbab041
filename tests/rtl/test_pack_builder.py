"""The pack builder's tables against `pack_layer`."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from golden_model.config import TINY
from golden_model.pairs.machine import build_clocks
from golden_model.pairs.packs import Packing, pack_layer
from rtl.pack_builder import PackBuilder
from sim.bench import simulate
from tests.bench import clocks_until, collector, fetch, put
from tests.rtl.pair_bench import layer_settings, random_hardware, random_layer, wide_layer

pytestmark = pytest.mark.rtl


def build(packing: Packing, *, crossbar_base: int = 0, width_base: int = 0, again: bool = False):
    """(tables by half and name, what was seen when it was built) of a layer; again : build it twice."""
    hardware, widths = packing.hardware, packing.prepared.widths
    dut = PackBuilder(hardware)
    written: list[list[list]] = [[[], [], []] for _ in range(2)]
    seen = []

    async def bench(ctx) -> None:
        for i, width in enumerate(widths.ravel()):
            put(ctx, dut.width_write, {"enable": 1, "address": width_base + i, "data": int(width)})
            await ctx.tick()
        ctx.set(dut.width_write.enable, 0)
        put(ctx, dut.settings, layer_settings(packing, crossbar_base=crossbar_base, width_base=width_base))
        for _ in range(1 + again):
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            seen.append((await clocks_until(ctx, dut.built | dut.out_of_range), ctx.get(dut.out_of_range)))
            seen.append((ctx.get(dut.last_pack), ctx.get(dut.last_size), fetch(ctx, dut.first_pairs)))

    names = ("packs", "masks", "groups")
    background = [
        collector(getattr(dut.writes[h], name).enable, getattr(dut.writes[h], name), into=written[h][i])
        for h in range(2)
        for i, name in enumerate(names)
    ]
    simulate(dut, bench, background=background, limit=100 + widths.size + 3 * build_clocks(packing))
    tables = [{name: {w["address"]: w["data"] for w in written[h][i]} for i, name in enumerate(names)} for h in (0, 1)]
    return tables, seen


def first_pairs(packing: Packing) -> list[int]:
    """First pair of each half, counted from the layer's."""
    groups = [group for pack in packing.packs for mask in pack.masks for group in mask.groups]
    mine = sum(group.half == 0 for group in groups)
    return [0, -(-mine // packing.hardware.grid_cols)]


def expected(packing: Packing) -> list[dict[str, dict]]:
    """The tables of both halves by the definition."""
    tables: list[dict[str, dict]] = [{"packs": {}, "masks": {}, "groups": {}} for _ in range(2)]
    for half, table in enumerate(tables):
        for index, pack in enumerate(packing.packs):
            first = len(table["masks"])
            for mask in pack.masks:
                groups = [group for group in mask.groups if group.half == half]
                if not groups:
                    continue
                first_group = len(table["groups"])
                for group in groups:
                    table["groups"][len(table["groups"])] = {
                        "block_col": group.block_col,
                        "plane": group.plane,
                        "pair": group.pair - first_pairs(packing)[half],
                        "ou_col": group.ou_col,
                    }
                table["masks"][len(table["masks"])] = {
                    "segments": sum(int(on) << i for i, on in enumerate(mask.segments)),
                    "first_group": first_group,
                    "last_group": len(table["groups"]) - 1,
                }
            used = len(table["masks"]) > first
            table["packs"][index] = {"first_mask": first, "last_mask": len(table["masks"]) - 1, "used": int(used)}
    return tables


def check(packing: Packing, *, crossbar_base: int = 0, width_base: int = 0) -> None:
    tables, seen = build(packing, crossbar_base=crossbar_base, width_base=width_base)
    for half, (actual, wanted) in enumerate(zip(tables, expected(packing), strict=True)):
        for entry in (*actual["packs"].values(), *wanted["packs"].values()):
            if not entry["used"]:
                entry["first_mask"] = entry["last_mask"] = 0  # mean nothing
        assert actual == wanted, f"half {half}"
    assert seen[0] == (build_clocks(packing), 0)
    *last, pairs = seen[1]
    assert last == [len(packing.packs) - 1, packing.packs[-1].segments]
    for half, table in enumerate(tables):
        assert not table["groups"] or pairs[half] == crossbar_base + first_pairs(packing)[half]


@pytest.mark.parametrize("seed", range(20))
def test_tables_of_a_random_layer_equal_the_packing_in_the_stated_clocks(seed):
    rng = random.Random(seed)
    hardware = replace(TINY, rows=rng.choice([4, 8, 12, 24]), crossbar_pairs=64) if seed < 10 else random_hardware(rng)
    packing = random_layer(seed, hardware)[0]
    room = hardware.width_entries - packing.prepared.widths.size
    check(
        packing, crossbar_base=rng.randint(0, hardware.crossbar_pairs - packing.pairs), width_base=rng.randint(0, room)
    )


def test_a_layer_that_is_built_again_gives_the_same_tables():
    packing = random_layer(3, replace(TINY, crossbar_pairs=64))[0]
    assert build(packing, again=True)[0] == build(packing)[0]


def test_a_layer_that_needs_more_pairs_than_there_are_is_out_of_range():
    packing, layer = wide_layer(replace(TINY, crossbar_pairs=64))
    for pairs, out_of_range in ((packing.pairs - 1, 1), (packing.pairs, 0)):
        hardware = replace(packing.hardware, crossbar_pairs=pairs)
        assert build(pack_layer(layer, hardware))[1][0][1] == out_of_range
