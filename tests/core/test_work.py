"""The time left, told from pieces of work that cost very different times: on a made-up clock."""

from __future__ import annotations

import itertools

from implicit_bias.core.work import Work

#: Seconds that pieces are expected to take, and by which factor each kind takes longer in truth.
EXPECTED = {"linear": 0.5, "network": 16.0, "drawing": 3.0}
TRUE = {"linear": 0.6, "network": 1.8, "drawing": 1.5}
FIGURES, TICK, WORKERS = 12, 0.25, 2
#: A figure, and which of its batches.
Key = tuple[int, int]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Pool:
    """Two workers that compute batches, and a process that draws a figure as soon as its batches are there."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.work = Work(self.clock)
        self.work.workers = WORKERS
        self.waiting: list[tuple[Key, str]] = []
        self.batches: dict[int, set[Key]] = {}
        for figure in range(FIGURES):
            kinds = ["network", *["linear"] * 4] if figure % 4 == 0 else ["linear"] * 5
            self.batches[figure] = {(figure, place) for place in range(len(kinds))}
            self.waiting += [((figure, place), kind) for place, kind in enumerate(kinds)]
        self.waiting.sort(key=lambda task: -EXPECTED[task[1]])  # the dear ones first, as commands begin them
        for key, kind in self.waiting:
            self.work.expect(key, EXPECTED[kind], ("runs", kind))
        for figure, keys in self.batches.items():
            self.work.expect(figure, EXPECTED["drawing"], ("drawing",), after=keys)
        self.told: list[tuple[float, float, float]] = []

    def tick(self, running: dict[Key, tuple[float, float]]) -> None:
        """A quarter of a second passes."""
        self.clock.now += TICK
        for key, (begun, end) in running.items():
            self.work.share(min(1.0, (self.clock.now - begun) / (end - begun)), key)
        fraction, left = self.work.fraction(), self.work.left()
        assert fraction is not None and left is not None
        self.told.append((self.clock.now, fraction, left))

    def run(self) -> None:
        """All batches and drawings."""
        running: dict[Key, tuple[float, float]] = {}
        while self.waiting or running:
            while self.waiting and len(running) < WORKERS:
                key, kind = self.waiting.pop(0)
                self.work.begin(key)
                running[key] = self.clock.now, self.clock.now + EXPECTED[kind] * TRUE[kind]
            self.tick(running)
            for key in [key for key, (_, end) in running.items() if end <= self.clock.now]:
                del running[key]
                self.work.end(key)
                self.batches[key[0]].discard(key)
                if not self.batches[key[0]]:
                    self.draw(key[0], running)

    def draw(self, figure: int, running: dict[Key, tuple[float, float]]) -> None:
        """One figure, which says nothing of how far it is."""
        self.work.begin(figure)
        end = self.clock.now + EXPECTED["drawing"] * TRUE["drawing"]
        while self.clock.now < end:
            self.tick(running)
        self.work.end(figure)


def test_the_rest_is_told_right_of_batches_whose_costs_differ_much() -> None:
    pool = Pool()
    pool.run()
    end = pool.clock.now
    assert pool.work.left() == 0.0 and pool.work.fraction() == 1.0
    later = [(left, end - now) for now, _, left in pool.told if now > end / 3 and end - now > 0.05 * end]
    assert len(later) > 100 and all(abs(left / true - 1) < 0.3 for left, true in later)
    fractions = [fraction for _, fraction, _ in pool.told]
    assert all(b - a > -0.05 for a, b in itertools.pairwise(fractions))
    assert sum(fraction > 0.99 for fraction in fractions) * TICK < 0.03 * end


def test_one_piece_after_the_other_is_their_sum_at_the_pace_of_those_that_are_done() -> None:
    clock = Clock()
    work = Work(clock)
    assert work.left() is None and work.fraction() is None
    for key in range(4):
        work.expect(key, 10.0, ("runs", "a" if key < 3 else "b"))
    assert work.left() == 40.0
    for _ in range(2):
        work.begin(_)
        clock.now += 20.0
        work.end(_)
    # Of other kinds of run that these were twice as dear says half as much, in powers, as of all.
    others = (5 / 3) ** 0.75
    assert abs((work.left() or 0) - 10 * ((4 + others) / 3 + others)) < 1e-9
    work.begin(2)
    work.end(2, telling=False)  # was there already: says nothing of others
    assert abs((work.left() or 0) - 10 * others) < 1e-9


def test_the_rest_falls_while_nobody_tells_of_anything_and_a_piece_that_overruns_lingers() -> None:
    clock = Clock()
    work = Work(clock)
    work.expect("drawing", 10.0)
    work.begin("drawing")
    left = []
    for clock.now in (0.0, 1.0, 4.0, 40.0):
        left.append(work.left())
    assert left == [10.0, 9.0, 6.0, 10.0]


def test_a_piece_made_of_pieces_is_as_far_as_they_are() -> None:
    clock = Clock()
    work, inside = Work(clock), Work(clock)
    work.expect("figure", 100.0)
    inside.expect("runs", 6.0, ("runs",))
    inside.expect("table", 4.0, ("table",))
    work.begin("figure", inside)
    assert work.left() == 10.0
    inside.begin("runs")
    clock.now = 3.0
    inside.share(0.5, "runs")
    assert work.left() == 7.0 and abs((work.fraction() or 0) - 0.3) < 1e-9


def test_a_piece_that_starts_slowly_says_little_of_the_others() -> None:
    clock = Clock()
    work = Work(clock)
    for key in range(10):
        work.expect(key, 10.0, ("runs",))
    work.begin(0)
    clock.now = 8.0
    work.share(0.001)  # packages were loaded
    assert 90 < (work.left() or 0) < 250
