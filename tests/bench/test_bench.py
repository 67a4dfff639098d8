"""The benchmark: what it says follows from what it measures, and it writes what it says. Nothing here judges a speed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from implicit_bias.bench import busy, command, linear, loops, machine, mini_batches, networks, scaling, timing
from implicit_bias.bench.busy import Clock, Remarks
from implicit_bias.bench.compiled import compiled_steps
from implicit_bias.bench.least import OF_RULE, SOFTMAX, least_seconds
from implicit_bias.bench.linear import Size, batched
from implicit_bias.bench.loops import GRADIENTS, LEARNING_RATES, lean_loop, tight_loop, usual_loop
from implicit_bias.bench.machine import Rates, compiled_rates, measured_rates
from implicit_bias.bench.picture import cost_title, gain_title, growth_title
from implicit_bias.bench.scaling import AXES, METHODS, Shape, log_slope, scaling_table
from implicit_bias.bench.timing import Timing, Work, faster, interleaved
from implicit_bias.cli.exit_codes import BAD_INPUT, DONE
from implicit_bias.engine.steppers.native.compiling import compilers
from implicit_bias.runtime.processors import processor


def test_slopes_are_exponents() -> None:
    assert log_slope([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2)

    def cost(name: str, shapes: Sequence[Shape]) -> list[float]:
        return [shape.per_class * shape.k**2 * shape.d**0.5 * shape.runs for shape in shapes]

    table = scaling_table(cost)
    slopes = table.groupby("axis")["slope"].first()
    assert slopes[["n", "d", "runs", "k"]].tolist() == pytest.approx([1, 0.5, 1, 2])
    assert len(table) == len(METHODS) * sum(map(len, AXES.values()))
    assert "k$^{2.00}$" in growth_title(table[table["optimizer"] == "muon"], "muon")


def test_the_roofline_counts_products_and_exponentials() -> None:
    rates = Rates(arithmetic=4e6, exponential=1e3)
    assert rates.least_seconds(n=100, k=10, d=25) == pytest.approx(0.025 + 1.0)
    assert rates.or_faster(Rates(1e6, 2e3)) == Rates(4e6, 2e3)


def test_the_least_time_has_the_softmax_and_what_the_rule_does() -> None:
    rates, n, k, d = Rates(arithmetic=2.0, exponential=1e300), 7, 2, 3
    products, softmax = 2 * n * k * d, SOFTMAX * n * k
    assert least_seconds("signgd", n, k, d, rates) == pytest.approx(products + softmax + 3 * k * d)
    # A polar factor of one row has nothing to turn: a Gram matrix and a product of d multiply-adds each, and the inverse root.
    assert least_seconds("muon", n, k, d, rates) == pytest.approx(products + softmax + 7 * k * d + d + 1 + d)
    assert set(OF_RULE) == set(LEARNING_RATES)


def test_the_least_time_of_a_polar_factor_is_that_of_rational_functions_where_rotations_take_longer() -> None:
    """Of the 9 x 25 that 10 classes leave: counted from zolotarev.h by hand, 45 entries in a symmetric matrix of 9 rows."""
    n, k, d = 100, 10, 25
    grams, factors = 2 * 45 * 25, 2 * 81 * 25  # of g and of what the first function makes, and what multiplies these two
    sweep = 36 + 8 + 1  # of one row: the others' entries, their quotients, the reciprocal
    inverses, products = 3 * 9 * sweep, 4 * 45 * 9  # one inverse of the first function, two of the second
    # Entry by entry: the Gram matrix scaled, the first factor, two terms of the second, three of the rest, three of the series.
    sums = (1 + 1 + 2 + 3 + 2 + 1) * 45
    assert grams + factors + inverses + products + sums == 9585
    rotations = 45 * 25 + 5 * 36 * (25 + 4 * 7 + 4 * 9) + 405 + 81 * 25
    assert rotations == 19575
    steps = least_seconds("muon", n, k, d, Rates(arithmetic=2.0, exponential=1e300))
    assert steps == pytest.approx(2 * n * k * d + 4 * n * k + 7 * k * d + 9585, rel=1e-12)


def test_rates_of_this_machine_are_those_of_a_computer_and_none_of_our_own_is_higher() -> None:
    rates, compiled = measured_rates(), compiled_rates(1)
    assert 1e8 < rates.arithmetic < 1e15 and 1e6 < rates.exponential < 1e13 and processor()
    assert (compiled is None) == (not compilers())
    # Measured a moment later, perhaps on a machine that is busy by then.
    assert compiled is None or min(rates.arithmetic / compiled.arithmetic, rates.exponential / compiled.exponential) > 0.1


def test_a_row_of_networks_says_what_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loop comes to the engine's gaps first; the products alone are a part of what the batch takes."""
    monkeypatch.setattr(networks, "CASES", (networks.Case("mlp", 12, 3, 3, width=4), networks.Case("cnn", 6, 10, 3)))
    monkeypatch.setattr(timing, "TIMES", 1)
    rows = pd.DataFrame(networks.network_rows(1))
    if compilers():
        assert (rows["steps_us"] > 0).all()
        assert rows["outside"].tolist() == pytest.approx((1 - rows["steps_us"] / rows["batched_us"]).tolist())
    assert rows["lean_by"].tolist() == ["closed form"] * 2 + ["autograd"] * 2
    assert rows["ratio_lean"].tolist() == pytest.approx((rows["lean_us"] / rows["batched_us"]).tolist())
    assert rows["ratio_usual"].tolist() == pytest.approx((rows["usual_us"] / rows["batched_us"]).tolist())
    assert (rows["roofline_us"] > 0).all() and (rows["of_roofline"] < 1).all()
    monkeypatch.setattr(networks, "polar", lambda m: m)
    with pytest.raises(AssertionError, match="leanest"):
        list(networks.network_rows(1))


@pytest.mark.skipif(not compilers(), reason="needs a C compiler")
def test_the_exponentials_that_are_timed_are_exponentials() -> None:
    library = machine._rates_library()
    assert library is not None
    x = torch.linspace(-700, 0, 64, dtype=torch.float64)
    out, sums = torch.empty_like(x), torch.tensor([0.5, *[1.0] * 7], dtype=torch.float64)
    library.exponentials(len(x) // library.lanes(), 1, x.data_ptr(), out.data_ptr())
    floor = torch.exp(torch.tensor(-600.0, dtype=torch.float64))
    assert torch.allclose(out, x.exp().maximum(floor), rtol=1e-14, atol=1e-300)
    library.multiply_adds(60, sums.data_ptr())  # s <- s / 2 + 1 tends to 2, in each of the sums
    assert sums[: library.lanes()].tolist() == pytest.approx([2.0 * library.chains()] * library.lanes())


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_all_loops_compute_what_the_engine_does(name: str) -> None:
    data = Size(3, 5, 6).data(2)
    run = (name, data.x[1], data.y[1], 3, 40)
    expected = batched(name, data, 40)[1]
    found = {"usual": usual_loop(*run), "tight": tight_loop(*run)} | {by: lean_loop(*run, by=by) for by in GRADIENTS}
    assert found == pytest.approx(dict.fromkeys(found, expected), rel=1e-8)


def test_a_loop_that_computes_something_else_is_not_timed() -> None:
    with pytest.raises(AssertionError, match=r"n=4, k=2, d=3, ngd: the engine's margin 1.0 is not the tight loop's 1.1"):
        linear.assert_equal("n=4, k=2, d=3, ngd", 1.0, "tight", 1.1)


def test_timings_are_taken_in_turn_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], list[str]()

    def call(name: str, seconds: Sequence[float]) -> Work:
        left = list(seconds)

        def work(updates: int) -> None:
            order.append(name)
            now[0] += left.pop(0) * updates

        return Work(work, updates=10, runs=2)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    works = {"a": call("a", [8, 2, 4, 6, 100]), "b": call("b", [3.0] * 5)}
    assert interleaved(works) == {"a": Timing(3.0, 4 / 6), "b": Timing(1.5, 0.0)}
    assert "".join(order) == "ab" * 5
    assert faster({"a": call("a", [5, 1]), "b": call("b", [2, 2])}) == "a"
    assert faster({"a": call("a", [2, 2]), "b": call("b", [1.95, 3])}) == "a"
    assert faster({"a": call("a", [2, 2]), "b": call("b", [1.8, 3])}) == "b"
    # Enough updates for a quarter of a second, at least LEAST, none more than there are.
    sized = call("c", [1e-3] * 20)
    assert sized.sized().updates == 10 and replace(sized, updates=10_000).sized(0.25).updates == 250
    assert replace(sized, updates=10_000).sized(0.001).updates == timing.LEAST

    def with_a_beginning(updates: int) -> None:
        now[0] += 0.3 + 1e-3 * updates

    # A second and 0.3 for the beginning, which does not grow with the updates.
    whole = Work(with_a_beginning, updates=1000, runs=2)
    assert whole.whole_within(1.31, 0.1) is whole and whole.whole_within(1.29, 0.1).updates < 1000


def test_what_others_do_is_what_this_process_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before, after = Clock(wall=10, busy=100, own=50), Clock(wall=20, busy=118, own=59)
    assert after.load_since(before) == pytest.approx(0.9)
    assert Clock(wall=20, busy=101, own=59).load_since(before) == 0  # clocks tick apart
    # Waiting for disks is no work; the time that other guests take is.
    (tmp_path / "stat").write_text("cpu  100 10 20 5000 300 1 2 7 0 0\ncpu0 ...\n")
    monkeypatch.setattr(busy, "STAT", tmp_path / "stat")
    monkeypatch.setattr("os.sysconf", lambda name: 10)
    clock = Clock.now()
    assert clock is not None and clock.busy == pytest.approx(14.0)
    monkeypatch.setattr(busy, "STAT", tmp_path / "none")
    monkeypatch.setattr("os.getloadavg", lambda: (3.5, 0, 0))
    assert busy.Watch().load() == pytest.approx(2.5)


def test_a_busy_machine_is_remarked() -> None:
    remarks = Remarks()
    assert not remarks.take({"load": 0.1, "spread": 0.02}) and not remarks.take({}) and not remarks.warning
    assert remarks.take({"load": 1.0, "spread": 0.02}) and remarks.take({"load": 0.0, "spread": 0.3})
    assert "in 1 of 4 rows others kept more than 0.2 processors busy, in 1" in str(remarks.warning)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (
            "size=100x10",
            "size=100x10: must be samples x classes x features, such as 100x10x25, with as many samples a class, or one",
        ),
        ("size=100x7x25", "size=100x7x25: must be samples x classes x features"),
        ("size=networks,40x1x2", "size=40x1x2: must be samples"),
        ("optimizer=muon,lion", "optimizer=muon,lion: must be one of signgd, ngd, muon, adam"),
        ("runs=64,0", "runs=64,0: must be null or an integer in [1, 1000000], with commas between them"),
        ("device=gpu", "device=gpu: must be one of cpu, cuda"),
        ("device=cuda", "device=cuda: no CUDA GPU is available here; allowed: cpu"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    typed: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([typed]) == BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"error: {says}") and captured.err.count("\n") == 1


def test_the_parts_of_the_cpu_are_not_measured_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert command.main(["device=cuda", "size=networks"]) == BAD_INPUT
    assert "size=networks: is measured on the CPU alone; with device=cuda must be samples" in capsys.readouterr().err
    assert command.Request(device="cuda").parts == command.SIZES and command.Request(device="cuda").table == "gpu.csv"


def test_titles_say_what_was_measured() -> None:
    rows = pd.DataFrame({"runs": [1, 64, 64], "ratio_lean": [0.5, 9.1, 13.4], "steps_us": [30, 3.0, 4.0], "roofline_us": 2.0})
    assert gain_title(rows) == "a batch of 64 costs a run\n1/13 to 1/9 of the leanest loop"
    assert cost_title(rows) == "steps of 64 runs take 1.5 to 2.0\ntimes their arithmetic's least time"
    assert gain_title(rows[:2]) == "a batch of 64 costs a run\n1/9 of the leanest loop"
    assert gain_title(rows[:1]) == "what a batch gains"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A bench of next to nothing, in an empty folder; returns where it writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(command, "SIZES", ("12x3x5",))
    monkeypatch.setattr(command, "PARTS", ("12x3x5", "batches", "networks", "scaling"))
    monkeypatch.setattr(command, "BATCHES", (1, 3))
    monkeypatch.setattr(command, "GPU_BATCHES", (1, 3))
    monkeypatch.setattr(command, "LEARNING_RATES", {"signgd": 0.01, "muon": 0.05})
    of_network = {
        "size": "mlp",
        "optimizer": "muon",
        "runs": 16,
        "threads": 1,
        "usual_us": 8.0,
        "batched_us": 2.0,
        "ratio_usual": 4.0,
    }
    monkeypatch.setattr(command, "network_rows", lambda threads, methods: iter([of_network]))
    for module in (linear, scaling, mini_batches):
        monkeypatch.setattr(module, "STEPS", 12)
    monkeypatch.setattr(linear, "CHECKED_STEPS", 12)
    monkeypatch.setattr(timing, "TIMES", 3)
    for key, value in {"RUNS": 3, "CHECKED_STEPS": 12, "METHODS": ("muon",)}.items():
        monkeypatch.setattr(mini_batches, key, value)
    monkeypatch.setattr(scaling, "AXES", {axis: values[:2] for axis, values in AXES.items()})
    monkeypatch.setattr(scaling, "METHODS", ("signgd",))
    return tmp_path / "results" / "bench"


@pytest.mark.slow
def test_a_small_bench_writes_tables_and_picture(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == DONE
    assert {path.name for path in small.iterdir()} == {"bench.csv", "scaling.csv", "bench.png", "bench.pdf"}
    table = pd.read_csv(small / "bench.csv")
    assert [column for column in command.COLUMNS if column in table] == list(table.columns[:-3])
    assert (table["machine"] == processor()).all() and (table["device"] == "cpu").all() and (table["load"] >= 0).all()
    of_linear, of_batches, of_networks = (table[table["size"].str.endswith(end)] for end in ("d=5", "b=10", "mlp"))
    assert (len(of_linear), len(of_batches), len(of_networks)) == (4, 1, 1)
    assert of_batches["stepping"].isin(["c", "torch"]).all() and (of_batches["lean_us"] > 0).all()
    for loop, rows in {"usual": table, "tight": of_linear, "lean": table[:-1]}.items():
        expected = rows[f"{loop}_us"] / rows["batched_us"]
        assert rows[f"ratio_{loop}"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-2)
    assert of_linear["lean_by"].isin(GRADIENTS).all() and (of_linear[["spread", "peak_mb", "gflops", "gexp"]] > 0).all(axis=None)
    assert (of_linear["of_roofline"] <= 1).all()
    if compilers():
        expected = of_linear["least_us"] / of_linear["steps_us"]
        assert of_linear["steps_of_least"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-2)
    said = capsys.readouterr().out
    assert (
        "n=12, k=3, d=5, signgd: usual " in said
        and "growth of a batch's time" in said
        and "written to results/bench after" in said
    )


@pytest.mark.slow
def test_a_part_is_printed_and_not_written(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["size=8x2x3,networks", "optimizer=muon", "runs=2"]) == DONE
    said = capsys.readouterr().out
    assert "n=8, k=2, d=3, muon: usual" in said and "mlp, muon: usual 8.0" in said and "signgd" not in said
    assert "a part of the bench: not written" in said and not small.exists()
    assert loops.points_of(1000) == 20 and loops.points_of(10) == 2


@pytest.mark.skipif(not compilers(), reason="no C compiler here")
def test_steps_without_records_look_at_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a call ends at the step of a record."""
    advance = compiled_steps(linear.problem_of("signgd", Size(3, 3, 4).data(2), 40))
    monkeypatch.setattr("implicit_bias.engine.steppers.native.records.Seen", lambda *_: pytest.fail("looked"))
    assert advance is not None
    advance(40)
