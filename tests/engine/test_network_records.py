"""What records of networks take from C beside what PyTorch finds there; and updates from what a record has found."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from implicit_bias.engine import recorder, simulate
from implicit_bias.engine.steppers.base import Setup
from implicit_bias.engine.steppers.native import NetworkSteps, network_records, records
from implicit_bias.engine.steppers.native.compiling import library
from implicit_bias.engine.steppers.native.network import SOURCE, SYMBOLS
from implicit_bias.engine.steppers.native.network_rules import DEFINITIONS
from implicit_bias.engine.steppers.native.network_structures import declared
from implicit_bias.measures.margins import Point, accuracy_and_margin, cosine
from implicit_bias.measures.probe import Record
from implicit_bias.models import Data, Gradient
from implicit_bias.models.gradient import largest_entry
from implicit_bias.norms import make_norm
from implicit_bias.norms.l2 import L2
from implicit_bias.norms.sizes import Routines
from tests.engine.test_native_networks import RUNS, far_apart, given, pytestmark
from tests.support.networks import mlp
from tests.support.networks import problem as of_model
from tests.support.quick import quick_of

__all__ = ["pytestmark"]

NORMS = ("linf", "l1", "l2", "lp3", "spectral", "nuclear", "schatten1.5", "row", "hybrid0.5", "hybrid3-l2-l2", "spectral-rms")


def near(ours: Tensor, theirs: Tensor, tolerance: float = 1e-13) -> bool:
    """Whether they differ by no more than so much of the largest entry of every run."""
    size = theirs.flatten(start_dim=1).abs().amax(dim=1)
    return bool(((ours - theirs).flatten(start_dim=1).abs().amax(dim=1) <= tolerance * size).all())


@pytest.mark.numeric
@pytest.mark.parametrize("loss", ["cross_entropy", "exponential"])
@pytest.mark.parametrize(
    "model",
    quick_of(["two layers", "three layers", "leaky", "sigmoid", "largest", "average", "kernel frozen"], "two layers", "largest"),
)
def test_a_record_at_any_size_is_the_plain_one(model: str, loss: str) -> None:
    problem = given("signgd", model, loss=loss)
    for size in (1e-3, 1.0, 30.0):
        problem = replace(problem, initial={name: size * block for name, block in problem.initial.items()})
        setup = Setup.of(problem)
        steps, plain = NetworkSteps(setup), setup.objective.gradient(problem.initial)
        steps.load(setup.begun(evaluated=False))
        ours, found = steps.gradient, steps.gradient.found
        assert found is not None and found.sized is not None and ours.weights is not None and plain.weights is not None
        share, q = accuracy_and_margin(setup.objective.negative_gaps(problem.initial).amax(dim=-2))
        # Scores are sums of many terms, of which logarithms of small losses have the error as it is.
        scores = 1e-14 * (1 + float(setup.objective.negative_gaps(problem.initial).nan_to_num(neginf=0).abs().max()))
        torch.testing.assert_close(ours.log_loss, plain.log_loss, rtol=1e-13, atol=scores)
        torch.testing.assert_close(found.q, q, rtol=1e-13, atol=scores)
        assert torch.equal(found.accuracy, share) or bool((q.abs() < scores).any())
        tolerance = 1e-13 + 4 * scores  # a weight is an exponential of scores
        assert near(ours.weights(), plain.weights(), tolerance)
        assert near(ours.total * (ours.log_unit - plain.log_unit).exp(), plain.total, tolerance)
        for name, c in plain.per_weight().items():
            assert near(found.per_weight[name], c, tolerance)
            unit = plain.blocks[name].top()
            assert near(ours.blocks[name].relative_to(unit), plain.blocks[name].relative_to(unit), tolerance)
        assert torch.equal(found.parameter, largest_entry(problem.initial)) and torch.equal(
            found.largest, largest_entry(found.per_weight)
        )
        assert all(torch.equal(block, problem.initial[name]) for name, block in steps.parameters.items())


@pytest.mark.parametrize("rule", quick_of(["signgd", "muon", "adam"], "muon"))
@pytest.mark.parametrize("kind", ["two layers", "three layers", "largest", "second frozen", "kernel frozen", "deep"])
def test_all_columns_are_those_of_plain_records(kind: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps, recorded by PyTorch, under every norm, to 1e-12."""
    problem = far_apart(rule, [1.0, 2.0, 9.0, 3.0], steps=6) if kind == "deep" else given(rule, kind, steps=60)
    problem = replace(problem, measured={label: make_norm(label) for label in (problem.optimizer.own or "l2", *NORMS)}, points=8)
    ours = simulate(problem)

    def plainly(self: Any) -> Gradient:
        found: Gradient = Setup.of(problem).objective.gradient(self.parameters)
        return found

    monkeypatch.setattr(NetworkSteps, "gradient", property(plainly))
    monkeypatch.setattr(recorder, "Record", lambda *told: replace(Record(*told), routines=None))
    theirs = simulate(problem)
    assert ours.stepping == theirs.stepping == "c" and ours.steps == theirs.steps
    for t, blocks in ours.parameters.items():
        assert all(torch.equal(block, theirs.parameters[t][name]) for name, block in blocks.items())
    pairs = [
        (f"{label} {key}", column, theirs.by_norm[label][key])
        for label, columns in ours.by_norm.items()
        for key, column in columns.items()
    ]
    for name, column, plain in [*pairs, *((key, column, theirs.common[key]) for key, column in ours.common.items())]:
        # A logarithm of a loss, and a soft margin, may be next to zero.
        np.testing.assert_allclose(column, plain, rtol=1e-12, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("kind", ["two layers", "largest"])
def test_a_run_has_the_same_records_alone_and_in_a_batch(kind: str) -> None:
    """The numbers that are made in C to the last bit; of others PyTorch rounds a logarithm by its place in a tensor."""
    problem = given("muon", kind, steps=30)
    problem = replace(problem, measured={label: make_norm(label) for label in ("spectral", "linf", "l1", "l2")}, points=6)
    together = simulate(problem)
    for run in (0, RUNS - 1):
        alone = replace(problem.at(torch.tensor([run])), measured=problem.measured)
        mine = simulate(alone)
        for key in ("log_loss", "accuracy"):
            assert np.array_equal(mine.common[key][:, 0], together.common[key][:, run]), key
        for label, columns in mine.by_norm.items():
            for key, column in columns.items():
                of_batch = together.by_norm[label][key][:, run]
                if key in ("param_norm", "alignment", "layer_alignment"):
                    assert np.array_equal(column[:, 0], of_batch, equal_nan=True), (label, key)
                np.testing.assert_allclose(column[:, 0], of_batch, rtol=4e-15, atol=0)


@pytest.mark.parametrize("runs", [16, 64])
def test_alignments_of_many_layers_are_the_same_alone_and_in_a_batch(runs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    w, c = ({f"layer{j}": torch.randn(runs, 5, 5, dtype=torch.float64, generator=generator) for j in range(6)} for _ in "wc")
    q = torch.ones(runs, dtype=torch.float64)
    together = Point(w, c, q, 6).descent
    for run in range(runs):
        own, downhill = ({name: block[run : run + 1] for name, block in of.items()} for of in (w, c))
        assert torch.equal(Point(own, downhill, q[:1], 6).descent, together[run : run + 1])


@pytest.mark.parametrize("rule", quick_of(["signgd", "nmgd", "muon", "adam", "signum, look-ahead"], "nmgd", "muon"))
@pytest.mark.parametrize("kind", ["two layers", "three layers", "largest", "second frozen", "kernel frozen", "deep"])
def test_an_update_from_what_a_record_has_found_has_the_same_bits(kind: str, rule: str) -> None:
    """Looked at before every call, or never; also where some runs' updates are made plainly, or again."""
    problem = far_apart(rule, [1.0, 2.0, 9.0, 3.0], steps=6) if kind == "deep" else given(rule, kind)
    setup = Setup.of(problem)
    looked, blind = NetworkSteps(setup), NetworkSteps(setup)
    for steps in (looked, blind):
        steps.load(setup.begun())
    t = 0
    while t < problem.steps:
        _ = looked.gradient
        reached = looked.advance(t, min(t + 3, problem.steps))
        while t < reached:
            t = blind.advance(t, reached)
        assert t == reached
        for name, block in looked.parameters.items():
            assert torch.equal(block, blind.parameters[name]), (t, name)
        for key, blocks in looked.state.items():
            assert all(torch.equal(b.mantissa, blind.state[key][name].mantissa) for name, b in blocks.items()), (t, key)


def _scaled(field: str, factor: float) -> Callable[[Any], Any]:
    return lambda found: found._replace(sized=found.sized._replace(**{field: factor * getattr(found.sized, field)}))


def _longer(found: Any) -> Any:
    """Sums and lengths alone are wrong, by a billionth."""
    sizes = found.sized.parameters.clone()
    sizes[1:] *= 1 + 1e-9
    return found._replace(sized=found.sized._replace(parameters=sizes))


FAULTS: dict[str, Callable[[Any], Any]] = {
    "log_loss": lambda found: found._replace(log_loss=found.log_loss - 3),
    "the smallest gap": lambda found: found._replace(q=1.5 * found.q),
    "accuracy": lambda found: found._replace(accuracy=found.accuracy - 0.25),
    "the gradient over the weights' sum": lambda found: found._replace(
        per_weight={n: b / 2 for n, b in found.per_weight.items()}
    ),
    "the largest parameter": lambda found: found._replace(parameter=2 * found.parameter),
    "the largest entry": _scaled("per_weight", torch.nan),
    "the parameter sizes": _longer,
    "the alignment": _scaled("inner", 1 + 1e-9),
}


@pytest.mark.parametrize("what", FAULTS)
def test_wrong_records_in_c_are_not_taken(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, gradient_of = given("nmgd"), network_records.Seen.gradient
    said: list[str] = []

    def wrong(self: Any, *told: Any) -> Gradient:
        right = gradient_of(self, *told)
        return replace(right, found=FAULTS[what](right.found))

    monkeypatch.setattr(network_records.Seen, "gradient", wrong)
    assert simulate(replace(problem, tell=said.append)).stepping == "torch"
    # Losses are compared with the plain ones, too, and before the rest.
    where = f"step 5 of run 1 of {RUNS} " if what == "log_loss" else f"{what} of run 1 of {RUNS} after step 5 "
    assert len(said) == 1 and said[0].startswith(f"steps by c are not the plain ones ({where}")


@pytest.mark.parametrize("watched", [{}, {"stop_log_loss": -50.0}], ids=["not watched", "watched"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("block_sizes", "the largest entry of W"),
        ("block_products", "an inner product"),
        ("block_cosines", "the cosine with an earlier record"),
    ],
)
def test_wrong_routines_in_c_are_not_taken(name: str, said: str, watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where losses are watched, and no other size is compared."""
    told: list[str] = []
    routines_by = network_records.routines_by

    def wrong(*given_: Any) -> Routines:
        right = routines_by(*given_)
        off: dict[str, Any] = {name: lambda *of: (1 + 1e-9) * getattr(right, name)(*of)}
        return right._replace(**off)

    problem = replace(given("nmgd"), tell=told.append, **watched)
    assert simulate(problem).stepping == "c" and not told
    monkeypatch.setattr(network_records, "routines_by", wrong)
    assert simulate(problem).stepping == "torch"
    assert told[0].startswith(f"steps by c are not the plain ones ({said} of run 1 of {RUNS} after step 5 ")


def test_runs_of_huge_losses_that_are_recorded_plainly_are_the_plain_ones() -> None:
    """Their units are rounded otherwise, by more than one, which neither C nor PyTorch is wrong about."""
    problem, said = given("nmgd", "three layers", steps=20, loss="exponential"), list[str]()
    problem = replace(problem, schedule=replace(problem.schedule, lr=1e8 * problem.schedule.lr), tell=said.append)
    assert simulate(problem).stepping == "c" and not said


def test_losses_whose_sum_is_beyond_a_double_have_a_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 300, 7, dtype=torch.float64, generator=generator)
    data = Data(x, torch.randint(2, (2, 300), generator=generator), 2)
    lr = torch.ones(2, dtype=torch.float64)
    problem = of_model(mlp(width=5, depth=4, init_scale=1.0, activation="relu"), data, "signgd", 3, lr, kkt_products=0)
    for size in (100.0, 706.0):  # from where the loss is homogeneous, too, to where sums are beyond, but means are not
        log_loss = Setup.of(problem).objective.gradient(problem.initial).log_loss.view(2, 1, 1)
        grown = ((size - log_loss) / 4).exp()
        problem = replace(problem, initial={name: block * grown for name, block in problem.initial.items()})
    setup = Setup.of(problem)
    steps = NetworkSteps(setup)
    steps.load(setup.begun(evaluated=False))
    torch.testing.assert_close(steps.gradient.log_loss, torch.full((2,), 706.0, dtype=torch.float64), rtol=1e-13, atol=0)


def test_frozen_layers_have_no_memory_for_gradients() -> None:
    steps = NetworkSteps(Setup.of(given(model="second frozen")))
    assert [bool(layer.g) for layer in steps._layers] == [True, False, True]


@pytest.mark.parametrize("labels", [("spectral",), ("l2",)])
def test_wrong_singular_values_are_not_taken_where_records_ask_for_them(labels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, routines_by = given("nmgd"), network_records.routines_by

    def wrong(*told: Any) -> Routines:
        right = routines_by(*told)
        return right._replace(singular_values=lambda w: 2 * right.singular_values(w))

    monkeypatch.setattr(network_records, "routines_by", wrong)
    problem = replace(problem, measured={label: make_norm(label) for label in labels})
    assert simulate(problem).stepping == ("torch" if labels == ("spectral",) else "c")


@pytest.fixture(scope="module")
def compiled() -> Any:
    found = library(SOURCE, SYMBOLS, DEFINITIONS)
    assert found is not None and declared(found)
    return found


def blocks_of(runs: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"one": (runs, 3, 50), "two": (runs, 1, 7), "three": (runs, 9, 1)}
    return {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()}


def test_sizes_and_products_of_blocks_at_any_size(compiled: Any) -> None:
    routines = network_records.routines_by(compiled)
    assert routines.block_sizes is not None and routines.block_products is not None
    w = blocks_of(5)
    for factor in (1.0, 1e300, 1e-300, 0.0):
        at = {name: factor * block for name, block in w.items()}
        found = routines.block_sizes(at)
        vectors = [block.flatten(start_dim=1) for block in at.values()]
        for j, vector in enumerate([*vectors, torch.cat(vectors, dim=1)]):
            assert torch.equal(found[0, j], vector.abs().amax(dim=1))
            torch.testing.assert_close(found[1, j], vector.abs().sum(dim=1), rtol=1e-14, atol=0)
            torch.testing.assert_close(found[2, j], L2().value(vector.unsqueeze(1)), rtol=1e-14, atol=0)
    c = {name: block.flip(0).mT.contiguous().mT for name, block in w.items()}  # lies in another way in memory
    inner = torch.stack([(block * c[name]).sum(dim=(-2, -1)) for name, block in w.items()])
    torch.testing.assert_close(routines.block_products(w, c), inner, rtol=1e-13, atol=1e-14)
    w["two"][2, 0, 3] = torch.nan
    sizes = routines.block_sizes(w)
    assert sizes.isnan().any(dim=0).nonzero().tolist() == [[1, 2], [3, 2]] and bool(sizes[:, [1, 3], 2].isnan().all())


@pytest.mark.parametrize("runs", [1, 8, 21])
def test_threads_that_share_out_runs_leave_their_bits(runs: int, compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LEAST_OF_ENTRIES", 1)
    w = blocks_of(runs)
    c = {name: block.cos() for name, block in w.items()}
    single, top = {name: block.float() for name, block in c.items()}, largest_entry(w)
    with futures.ThreadPoolExecutor(2) as pool:
        alone, shared = network_records.routines_by(compiled), network_records.routines_by(compiled, 3, pool)
        for name in ("block_sizes", "block_products", "block_cosines"):
            given_ = {"block_sizes": (w,), "block_products": (w, c), "block_cosines": (single, w, top)}[name]
            together = getattr(shared, name)(*given_)
            assert torch.equal(getattr(alone, name)(*given_), together)
            last = [{n: b[-1:] for n, b in part.items()} if isinstance(part, dict) else part[-1:] for part in given_]
            assert torch.equal(getattr(alone, name)(*last), together[..., -1:])


def test_cosines_at_any_size_are_those_of_double_precision(compiled: Any) -> None:
    routines, w = network_records.routines_by(compiled), blocks_of(4)
    assert routines.block_cosines is not None
    earlier = {name: block.sin().float() for name, block in w.items()}
    expected = cosine({name: block.double() for name, block in earlier.items()}, w)
    for of_earlier in (1.0, 1e30, 1e-30):
        past = {name: (of_earlier * block.double()).float() for name, block in earlier.items()}
        wanted = cosine({name: block.double() for name, block in past.items()}, w)
        for factor in (1.0, 1e300, 1e-300):
            at = {name: factor * block for name, block in w.items()}
            torch.testing.assert_close(routines.block_cosines(past, at, largest_entry(at)), wanted, rtol=1e-13, atol=0)
        torch.testing.assert_close(wanted, expected, rtol=1e-5, atol=0)
    nothing = {name: 0 * block for name, block in w.items()}
    assert routines.block_cosines(earlier, nothing, largest_entry(nothing)).isnan().all()
