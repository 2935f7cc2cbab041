"""One thing in the loaded hardware is wrong: the run fails and names the first place where it shows."""

import numpy as np
import pytest

from golden_model import timing, trq
from golden_model.crossbar.windows import windows
from golden_model.graph.network import build
from golden_model.graph.nodes import AveragePool, Border, Concat, Image, MaxPool, Reshape
from golden_model.graph.numbers import Encoding, Window
from golden_model.graph.settings import with_settings
from golden_model.image import image as deployment
from golden_model.image.interpreter import Interpreter
from golden_model.pairs.early_stop import StopWords
from golden_model.pairs.packs import pack_layer
from golden_model.pairs.trace import window_trace
from golden_model.registers import (
    DESCRIPTOR_STRIDE,
    REGION,
    REGISTER,
    StepKind,
    pack_descriptor,
    reference_entry,
)
from rtl.block import Out
from rtl.system import System
from sim.array.crossbars import CrossbarSettings
from sim.backends.choice import BACKENDS, Request
from sim.backends.compiled import CompiledBus
from sim.backends.compiled import build as build_library
from sim.host.bus import run_now
from sim.host.driver import Driver
from sim.host.session import Job, first_record, run_job, step_trace
from tests.end_to_end.networks import SMALL, library, loaded, run
from tests.golden_model.random_graphs import (
    SMALL_MACROS,
    SMALL_PAIRS,
    SMALL_STOP,
    SMALL_STOP_MACROS,
    Maker,
    random_images,
    random_network,
)

pytestmark = [pytest.mark.rtl, pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")]


class Plain(Maker):
    """Every count shows in the code, and every input bit is streamed: faults can be predicted by hand."""

    def registers(self):
        return trq.AdcRegisters(mode="uniform", n_r2=SMALL.adc_bits)

    def chance(self, one_in=2):
        return False


@pytest.fixture(scope="module")
def network():
    """Two convolutions, an option-A shortcut into the second, both kinds of pooling beside it, a linear layer on all.

    The linear layer also reads the second convolution directly, so that no pooling can hide a fault.
    """
    rng = np.random.default_rng(82)
    maker = Plain(lambda low, high: int(rng.integers(low, high + 1)), SMALL)
    maker.nodes.append(Image(name="image", shape=(2, 5, 5), encoding=Encoding(high=1.0, low=-0.2, bits=4)))
    conv1 = maker.crossbar(maker.nodes[0], 3, kernel_height=3, kernel_width=3, pad=1)
    shortcut = maker.add(Border(**maker.base("border", conv1), stride=(2, 2), channels=(1, 1)))
    conv2 = maker.crossbar(conv1, 5, residual=shortcut, kernel_height=3, kernel_width=3, pad=1, stride=2)
    pool = maker.add(MaxPool(**maker.base("max", conv2), window=Window(kernel=(2, 2), stride=(1, 1), pad=(1, 1))))
    mean = maker.add(
        AveragePool(
            **maker.base("mean", pool, encoding=Encoding(high=pool.encoding.high / 2, bits=4)),
            window=Window(kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
        )
    )
    flat = [
        maker.add(Reshape(**{**maker.base("reshape", node), "shape": (int(np.prod(node.shape)), 1, 1)}))
        for node in (conv2, mean)
    ]
    both = maker.add(Concat(**maker.base("concat", *flat, encoding=conv2.encoding)))
    maker.crossbar(both, 4, kind="linear", kernel_height=1, kernel_width=1, last=True)
    return build("faults", SMALL, maker.nodes)


@pytest.fixture(scope="module")
def image(network):
    image = loaded(network, random_images(21, network, 1))
    kinds = [step.kind for step in image.program.steps]
    crossbar, maximum, total = StepKind.CROSSBAR, StepKind.MAXIMUM, StepKind.SUM
    assert kinds[:4] == [crossbar, crossbar, maximum, total]
    assert kinds[-1] == crossbar
    return image


def step(image, kind, number=0):
    """(index, step) of the `number`-th step of a kind."""
    return [(i, s) for i, s in enumerate(image.program.steps) if s.kind == kind][number]


def faulty(image, pokes):
    outcome = run(image, Job((0,), pokes=tuple(pokes)))
    assert outcome.difference is not None, "the fault was not found"
    return outcome


def records(image, index):
    return list(step_trace(image, index, image.vectors.images[0]))


def window_rows(image, index):
    """Input rows of a crossbar step's windows, (windows, K)."""
    program, layer = image.program, image.program.steps[index].layer
    memory = np.zeros((1, program.hardware.activation_bytes), dtype=np.uint8)
    pixels = image.vectors.images[0].ravel()
    memory[0, program.image_base : program.image_base + pixels.size] = pixels
    if index:
        memory = (
            Interpreter(program.tables, program.hardware, image_base=program.image_base, steps=index)
            .trace(image.vectors.images[:1])
            .memory
        )
    source = program.steps[index].fields["source"]
    maps = memory[:, source : source + layer.channels * layer.height * layer.width]
    return windows(layer, maps.reshape(1, layer.channels, layer.height, layer.width))[0]


def cell_pokes(image, pair, ou_row, ou_col, lane, row):
    """Bus writes that flip one cell: the pair is programmed again up to that OU."""
    number = ou_row * SMALL.grid_cols + ou_col
    first = pair * SMALL.ous_per_crossbar
    words = image.program.tables.cell_words[first : first + number + 1].astype(np.int64).copy()
    bit = lane * SMALL.ou_rows + row
    words[-1, bit // 32] ^= 1 << (bit % 32)
    yield REGISTER["CELL_PAIR"].offset, pair
    for word in words.ravel():
        yield REGISTER["CELL_DATA"].offset, int(word)


def descriptor_pokes(image, index, **changes):
    """Bus writes that change fields of a loaded descriptor."""
    fields = image.program.steps[index].fields | changes
    for i, word in enumerate(pack_descriptor(image.program.hardware, fields)):
        yield REGION["PROGRAM"].address(index * DESCRIPTOR_STRIDE + i), word


# ---- inside a crossbar step ---------------------------------------------------------------------
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("polarity", [0, 1])
def test_a_flipped_cell_is_found_where_its_row_is_first_driven(number, polarity, image):
    index, one = step(image, StepKind.CROSSBAR, number)
    made = Interpreter(image.program.tables, SMALL).outputs(image.vectors.images)[index][0]
    output = int(np.argmax(made.std(axis=(1, 2))))  # one that is not always 0 or saturated
    column, lane_column = divmod(output, SMALL.ou_cols)
    rows = window_rows(image, index)
    found = records(image, index)
    target = max((record for _, record in found if record.block_col == column), key=lambda record: record.plane)
    place = (target.pair, target.ou_row, target.ou_col)
    lane, first = polarity * SMALL.ou_cols + lane_column, target.segment * SMALL.ou_rows
    row = int(np.argmax(rows[:, first : first + SMALL.ou_rows].sum(axis=0)))  # the one that is driven most
    expected = next(
        (window, record.index)
        for window, record in found
        if (record.pair, record.ou_row, record.ou_col) == place
        and rows[window][record.segment * SMALL.ou_rows + row] >> record.input_bit & 1
    )
    outcome = faulty(image, cell_pokes(image, *place, lane, row))
    where = outcome.where
    assert (where["step"], where["window"], where["ou"], where["lane"]) == (one.name, *expected, lane)
    assert where["field"] == "codes"
    assert abs(where["found"] - where["expected"]) == 1
    assert f"step {one.name}, window {expected[0]}, OU {expected[1]}: lane {lane} " in outcome.difference


def test_a_wrong_level_of_the_reference_is_found_at_the_first_such_count(image):
    index, one = step(image, StepKind.CROSSBAR, 1)
    count, wrong = 2, 3
    expected = next(
        (window, record.index, int(np.flatnonzero((record.values == count) & (record.started > 0))[0]))
        for window, record in records(image, index)
        if ((record.values == count) & (record.started > 0)).any()
    )
    where = faulty(image, [(REGION["REFERENCE"].address(reference_entry(SMALL, index, count)), wrong)]).where
    assert (where["step"], where["window"], where["ou"], where["lane"]) == (one.name, *expected)
    assert (where["found"], where["expected"]) == (wrong, count)


def test_a_wrong_ad_register_is_found_in_the_first_conversion(image):
    index, one = step(image, StepKind.CROSSBAR)
    where = faulty(image, descriptor_pokes(image, index, n_r2=SMALL.adc_bits - 1, m=1)).where
    assert (where["step"], where["field"]) == (one.name, "codes")


def test_a_wrong_crossbar_address_is_found_in_the_first_activation_of_its_step(image):
    index, one = step(image, StepKind.CROSSBAR, 1)
    base = one.fields["crossbar_base"]
    where = faulty(image, descriptor_pokes(image, index, crossbar_base=base + 1)).where
    assert (where["step"], where["window"], where["ou"]) == (one.name, 0, 0)
    assert (where["field"], where["found"], where["expected"]) == ("pair", base + 1, base)


def test_a_wrong_block_width_is_found_where_the_activations_part(image):
    _, one = step(image, StepKind.CROSSBAR)
    widths = one.layer.block_widths.ravel()
    entry = int(np.flatnonzero(widths > 0)[-1])
    where = faulty(image, [(REGION["WIDTHS"].address(entry), int(widths[entry]) - 1)]).where
    assert where["step"] == one.name
    assert "window" in where


@pytest.mark.parametrize("change", ["pad_value", "source", "stride_y", "pad_top"])
def test_a_step_that_reads_something_else_is_found_in_its_conversions(change, image):
    index, one = step(image, StepKind.CROSSBAR)
    value = one.fields[change]
    pokes = descriptor_pokes(image, index, **{change: value ^ 1 if change != "source" else value + 1})
    if change == "pad_value":
        pokes = descriptor_pokes(image, index, pad_enable=0, pad_value=(one.layer.pad_values[0] + 5) % 16)
    outcome = faulty(image, pokes)
    assert outcome.where["step"] == one.name


# ---- after the conversions ----------------------------------------------------------------------
@pytest.mark.parametrize("change", ["shift", "residual_first", "residual_base", "residual_row", "residual_value",
                                    "residual_multiplier", "target"])  # fmt: skip
def test_a_wrong_number_of_the_post_processing_is_found_at_its_output(change, image):
    index, one = step(image, StepKind.CROSSBAR, 1)
    value = one.fields[change]
    changed = {
        "shift": value - 1,
        "residual_multiplier": 4 * value + 9,
        "residual_value": (value + 7) % 16,
        "residual_row": value - 1,
    }
    outcome = faulty(image, descriptor_pokes(image, index, **{change: changed.get(change, value + 1)}))
    assert outcome.where["step"] == one.name
    assert {"channel", "row", "column"} <= set(outcome.where)
    assert "every A/D conversion agrees" in outcome.difference


def test_a_wrong_bias_is_found_at_its_output(image):
    _, one = step(image, StepKind.CROSSBAR, 2)
    base = one.fields["channel_base"]
    bias = int(image.program.tables.bias[base + 3])
    outcome = faulty(image, [(REGION["BIAS"].address(base + 3), (bias + 1) & 0xFFFFFFFF)])
    assert (outcome.where["step"], outcome.where["output"]) == (one.name, 3)


# ---- element steps ------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [StepKind.MAXIMUM, StepKind.SUM])
@pytest.mark.parametrize("change", ["source", "target", "pad_top", "pad_left", "shift"])
def test_a_wrong_element_step_is_found_at_its_output(kind, change, image):
    index, one = step(image, kind)
    outcome = faulty(image, descriptor_pokes(image, index, **{change: one.fields[change] + 1}))
    assert outcome.where["step"] == one.name
    assert {"channel", "row", "column"} <= set(outcome.where)
    assert "it uses no crossbar" in outcome.difference


def test_a_wrong_border_of_an_element_step_is_found_at_its_first_window(image):
    index, one = step(image, StepKind.SUM)
    outcome = faulty(image, descriptor_pokes(image, index, pad_enable=0, pad_value=15))
    assert (outcome.where["step"], outcome.where["row"], outcome.where["column"]) == (one.name, 0, 0)


def test_a_sum_instead_of_a_maximum_is_found(image):
    index, one = step(image, StepKind.MAXIMUM)
    assert faulty(image, descriptor_pokes(image, index, step=StepKind.SUM)).where["step"] == one.name


# ---- errors of the device -----------------------------------------------------------------------
def test_an_unexpected_device_error_is_reported_with_its_step(image):
    index, one = step(image, StepKind.CROSSBAR, 1)
    outcome = faulty(image, descriptor_pokes(image, index, adc_mode=1, n_r1=3, m=3))
    assert "error ADC_CONFIGURATION" in outcome.difference
    assert outcome.where["step"] == one.name


def test_a_kind_of_step_that_does_not_exist_is_refused(image):
    index, one = step(image, StepKind.MAXIMUM)
    outcome = faulty(image, descriptor_pokes(image, index, step=3))
    assert "error UNSUPPORTED" in outcome.difference
    assert outcome.where["step"] == one.name


def test_a_target_beyond_the_memory_is_refused(image):
    index, one = step(image, StepKind.SUM)
    outcome = faulty(image, descriptor_pokes(image, index, target=SMALL.activation_bytes - 1))
    assert "error LAYER_GEOMETRY" in outcome.difference
    assert outcome.where["step"] == one.name


@pytest.mark.parametrize("backend", ["pysim", "verilator"])
def test_the_other_simulators_name_the_same_place(backend, network, tmp_path):
    written = deployment.write(tmp_path / "image", network, random_images(21, network, 1))
    _, target = records(written, 0)[0]
    job = Job((0,), pokes=tuple(cell_pokes(written, target.pair, target.ou_row, target.ou_col, 1, 1)))
    request = Request(directory=tmp_path / "image", image=written, job=job)
    places = [BACKENDS[name](request).outcome.where for name in ("compiled", backend)]
    assert places[0] == places[1]
    assert places[0]["lane"] == 1


# ---- the pair machine ---------------------------------------------------------------------------
def pair_image(network, hardware):
    return loaded(with_settings(network, hardware=hardware), random_images(21, network, 1))


def pair_records(image, number):
    """(window, half of all macros, OU on a group) of the `number`-th crossbar step, in the order of rounds."""
    hardware, (index, one) = image.program.hardware, step(image, StepKind.CROSSBAR, number)
    packing, rows = pack_layer(one.layer, hardware), window_rows(image, index)
    return [
        (window, 2 * macro + half, record)
        for of_round in timing.step_rounds(hardware, one.fields).tolist()
        for macro, window in enumerate(of_round)
        for half in range(packing.halves if window >= 0 else 0)
        for record in window_trace(packing, rows[window], half)
    ]


def assert_found(outcome, name, window, half, record, column):
    """The difference is in the value of a column pair, one from what is right."""
    found = outcome.where["found"]
    place = {"window": window, "half": half, "pack": record.pack, "input_bit": record.input_bit, "ou": record.index}
    place |= {"block_col": record.block_col, "plane": record.plane, "column": column, "field": "value"}
    assert outcome.where == {**outcome.where, "step": name, **place, "expected": record.values[column]}
    assert abs(found - record.values[column]) == 1
    assert (
        f"step {name}, window {window}, half {half}, pack {record.pack}, input bit {record.input_bit},"
        f" OU {record.index}, block column {record.block_col}, plane {record.plane}:"
        f" column pair {column} is {found} instead of {record.values[column]}"
    ) in outcome.difference


@pytest.mark.parametrize("hardware", [SMALL_PAIRS, SMALL_MACROS], ids=["one macro", "four macros"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_flipped_cell_of_a_pair_is_found_where_its_row_is_first_driven(number, hardware, network):
    image = pair_image(network, hardware)
    index, one = step(image, StepKind.CROSSBAR, number)
    made = Interpreter(image.program.tables, hardware).outputs(image.vectors.images)[index][0]
    block_col, column = divmod(int(np.argmax(made.std(axis=(1, 2)))), hardware.ou_cols)
    records = pair_records(image, number)
    target = max((record for _, _, record in records if record.block_col == block_col), key=lambda r: r.plane)
    place = target.pair, target.ou_col
    driven = [one for one in records if (one[2].pair, one[2].ou_col) == place]
    line = int(np.argmax(sum(record.lines.astype(int) << record.input_bit for _, _, record in driven)))
    ou_row, row = divmod(line, hardware.ou_rows)
    pair = image.program.placement.layers[number].crossbar_base + target.pair
    outcome = faulty(image, cell_pokes(image, pair, ou_row, target.ou_col, column, row))
    first = next(one for one in driven if one[2].lines[line])
    assert_found(outcome, one.name, *first, column)


class WrongSystem(System):
    """Results of lane 1 of half 1 have no bit 0."""

    irq: Out(1)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        lane = m.submodules.tile.macro.macros[0].converters[1].lanes[1]
        right = lane.elaborate

        def wrong(platform):
            made = right(platform)
            made.d.comb += lane.converted.value[0].eq(0)
            return made

        lane.elaborate = wrong
        return m


def test_a_lane_that_converts_wrongly_is_found_at_its_first_odd_value(network):
    image = pair_image(network, SMALL_PAIRS)
    _, one = step(image, StepKind.CROSSBAR, 1)  # the step before has no output for that lane
    first = next(r for r in pair_records(image, 1) if r[1] == 1 and len(r[2].values) > 1 and r[2].values[1] & 1)
    with CompiledBus(build_library(WrongSystem(SMALL_PAIRS))) as bus:
        outcome = run_now(run_job(bus, image, Job((0,))))
    assert_found(outcome, one.name, *first, 1)


def test_an_output_that_does_not_stop_is_named(network):
    graph = with_settings(network, hardware=SMALL_STOP)
    alone = [node for node in graph.crossbars if len(node.inputs) == 1 and not node.layers[0].last]
    graph = with_settings(graph, stop_bits={node.name: (1 << node.layers[0].input_bits) - 2 for node in alone})
    image = loaded(graph, random_images(21, network, 1))
    for index, one in enumerate(image.program.steps):
        words = None if one.layer is None else StopWords.of(one.layer)
        if words is None:
            continue
        packing, rows = pack_layer(one.layer, SMALL_STOP), window_rows(image, index)
        trace = [(w, h, r) for w in range(len(rows)) for h in (0, 1) for r in window_trace(packing, rows[w], h, words)]
        if found := [(w, h, r, int(np.argmin(r.live))) for w, h, r in trace if not r.live.all()]:
            break
    window, half, record, column = found[0]
    output = record.block_col * SMALL_STOP.ou_cols + column
    never = REGION["STOP_STARTS"].address(one.fields["channel_base"] + output), (1 << 31) - 1
    outcome = faulty(image, [never])
    place = {"window": window, "half": half, "ou": record.index, "block_col": record.block_col, "column": column}
    assert outcome.where == outcome.where | {"step": one.name, **place}
    assert f"column pair {column} was converted, its output has stopped" in outcome.difference


@pytest.mark.parametrize("hardware", [SMALL_STOP, SMALL_STOP_MACROS], ids=["one macro", "two macros"])
def test_a_trace_of_outputs_that_stop_agrees_until_a_value_is_changed(hardware):
    network = random_network(1, hardware, ("convolution", "linear"), most=3)
    image = loaded(network, random_images(1, network, 1))
    program, pixels = image.program, image.vectors.images[0]
    with CompiledBus(library(hardware, analog=False)) as bus:
        driver = Driver(bus, hardware)
        run_now(driver.load(program.tables))
        for number, _ in enumerate(network.layers):
            index, _ = step(image, StepKind.CROSSBAR, number)
            bus.trace(True, step=index)
            run_now(driver.run(program, pixels, expected_cycles=int(image.vectors.cycles[0])))
            records = bus.records()
            assert first_record(image, index, pixels, records) is None
            if not records["converted"].any():  # a layer without weights
                continue
            clock, lane = np.argwhere(records["converted"])[-1]
            records["value"][clock, lane] ^= 1
            _, where = first_record(image, index, pixels, records)
            assert where["column"] == lane % hardware.ou_cols


def test_a_wrong_pair_of_the_first_half_is_named(network):
    image = pair_image(network, SMALL_PAIRS)
    index, one = step(image, StepKind.CROSSBAR, 1)
    base = one.fields["crossbar_base"]
    where = faulty(image, descriptor_pokes(image, index, crossbar_base=base + 1)).where
    assert (where["step"], where["window"], where["half"], where["ou"]) == (one.name, 0, 0, 0)
    assert (where["field"], where["found"], where["expected"]) == ("pair", base + 1, base)


def test_a_wrong_bias_of_the_pair_machine_is_found_behind_its_conversions(network):
    image = pair_image(network, SMALL_PAIRS)
    _, one = step(image, StepKind.CROSSBAR, 2)
    base = one.fields["channel_base"]
    bias = int(image.program.tables.bias[base + 3])
    outcome = faulty(image, [(REGION["BIAS"].address(base + 3), (bias + 1) & 0xFFFFFFFF)])
    assert (outcome.where["step"], outcome.where["output"]) == (one.name, 3)
    assert "every A/D conversion agrees" in outcome.difference


def test_a_machine_without_a_trace_port_names_the_step_and_says_so(network):
    image = pair_image(network, SMALL_PAIRS)
    _, one = step(image, StepKind.CROSSBAR)
    words = np.zeros(SMALL_PAIRS.ous_per_crossbar * SMALL_PAIRS.cell_words, dtype=int)
    pokes = [(REGISTER["CELL_PAIR"].offset, 0), *((REGISTER["CELL_DATA"].offset, int(word)) for word in words)]
    outcome = run(image, Job((0,), pokes=tuple(pokes)), CrossbarSettings())
    assert outcome.where["step"] == one.name
    assert outcome.difference.endswith("; this machine has no trace port, which would name the operation unit")
