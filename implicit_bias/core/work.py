"""How far a command is and how long the rest takes, where its pieces of work cost very different times.

Each piece is expected to take so many seconds, on a machine and in circumstances that are not these. What the pieces of this
very command have taken so far says by which factor their kinds are dearer or cheaper here, and the rest is told from that.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass

#: What a piece is of, from the general to the special, as in ("run", "mlp", "adam"): the special ones learn from the general.
Kind = tuple[str, ...]
#: A piece that does not say how much of it is done: when more than expected has passed, this share of the time that it has taken
#: is still to come.
LINGERS = 0.25
#: From this share on a piece says more of its own cost than what was expected of it does.
TELLING = 0.1
#: The rest is worked out again after this many seconds, or so many times the seconds that it takes to.
SECONDS, RARELY = 0.5, 50.0


@dataclass
class _Piece:
    """A piece of work.

    Attributes:
        seconds: What it is expected to take.
        kind: What it is of.
        after: The pieces that have to be done before; None: it waits for none, and any worker does it.
        begun: When, of the clock; None: it is not under way.
        share: How much is done, 0 to 1.
        told: Seconds it had taken when that was told.
        spent: Seconds it took, when it is done.
        done: Whether it is.
        inside: The pieces that it consists of, where it has such.
    """

    seconds: float
    kind: Kind
    after: set[Hashable] | None
    begun: float | None = None
    share: float = 0.0
    told: float = 0.0
    spent: float = 0.0
    done: bool = False
    inside: Work | None = None

    def part(self) -> float:
        """The share of its time that has passed."""
        return self.share if self.inside is None else self.inside.fraction() or 0.0

    def taken(self, now: float) -> float:
        """Seconds so far."""
        return self.spent if self.begun is None else now - self.begun

    def taken_for_part(self, now: float) -> float:
        """Seconds that the share which is done took."""
        return self.taken(now) if self.begun is None or self.inside is not None else self.told


class _Paces:
    """By which factor the pieces of each kind take longer than expected, learnt from those that are done or under way."""

    def __init__(self, pieces: Collection[_Piece], now: float) -> None:
        #: By kind the seconds taken, those expected for that, and those expected for a whole piece on average.
        self._sums: dict[Kind, tuple[float, float, float]] = {}
        self._counts: dict[Kind, int] = {}
        self._special: dict[Kind, dict[Kind, None]] = {}
        self._known: dict[Kind, float] = {}
        for piece in pieces:
            share = piece.part()
            if share > 0 and piece.seconds > 0:
                self._add(piece.kind, piece.taken_for_part(now), share * piece.seconds, piece.seconds)

    def _add(self, kind: Kind, seconds: float, expected: float, whole: float) -> None:
        for end in range(len(kind) + 1):
            taken, wanted, mean = self._sums.get(kind[:end], (0.0, 0.0, 0.0))
            count = self._counts[kind[:end]] = self._counts.get(kind[:end], 0) + 1
            self._sums[kind[:end]] = taken + seconds, wanted + expected, mean + (whole - mean) / count
            if end < len(kind):
                self._special.setdefault(kind[:end], {})[kind[: end + 1]] = None

    def of(self, kind: Kind) -> float:
        """The factor of a kind: that of its pieces, with as much weight of the others as a whole piece has."""
        others = self._others(kind[:-1]) if kind else 1.0
        if kind not in self._sums:
            return others
        taken, expected, piece = self._sums[kind]
        return (taken + others * piece) / (expected + piece)

    def _others(self, kind: Kind) -> float:
        """What is expected of a special kind of which nothing is known: the geometric mean of those that are known, each as much
        as the other however long it took, and of what is known of the general one."""
        if kind not in self._known:
            known = [self._sums[special] for special in self._special.get(kind, {})]
            logs = [math.log((taken + piece) / (expected + piece)) for taken, expected, piece in known]
            logs.append(math.log(self._others(kind[:-1])) if kind else 0.0)
            self._known[kind] = math.exp(sum(logs) / len(logs))
        return self._known[kind]


class Work:
    """The pieces of a command's work: expected, begun, done in part, done.

    Attributes:
        workers: How many processes do pieces at once, while this one does those that wait for others; None: this process does
            all, one after the other.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.workers: int | None = None
        self._clock = clock
        self._began: float | None = None
        self._pieces: dict[Hashable, _Piece] = {}
        self._current: Hashable = None
        self._left: tuple[float, float, float] | None = None

    def expect(self, key: Hashable, seconds: float, kind: Kind = (), after: Collection[Hashable] | None = None) -> None:
        """Plan a piece.

        Args:
            key: Its name, of this command alone.
            seconds: What it is expected to take; how much longer or shorter that of its kind is here is learnt.
            kind: What it is of.
            after: With several workers: this process does it when the pieces of these names are done. None: a worker does it, in
                the order in which they are planned.
        """
        if self._began is None:
            self._began = self._clock()
        self._pieces[key] = _Piece(seconds, kind, None if after is None else set(after))
        self._left = None

    def scale(self, key: Hashable, factor: float) -> None:
        """Expect a piece to take ``factor`` times what was expected."""
        piece = self._pieces.get(key)
        if piece is not None:
            piece.seconds *= factor
            self._left = None

    def seconds(self, key: Hashable) -> float:
        """What a piece was expected to take."""
        return self._pieces[key].seconds

    def begin(self, key: Hashable, inside: Work | None = None) -> None:
        """From now on the piece is under way; one that is begun again has nothing done.

        Args:
            key: Its name.
            inside: The pieces that it consists of; then they tell how far it is.
        """
        piece = self._pieces.get(key)
        if piece is not None and not piece.done:
            piece.begun, piece.share, piece.told, piece.inside = self._clock(), 0.0, 0.0, inside
            self._current = key
            self._left = None

    def under_way(self, key: Hashable) -> bool:
        """Whether a piece was begun and is not done."""
        piece = self._pieces.get(key)
        return piece is not None and piece.begun is not None

    def share(self, share: float, key: Hashable = None, seconds: float | None = None) -> None:
        """So much of a piece is done.

        Args:
            share: From 0 to 1; what was more before is more still.
            key: Its name; None: the one that was begun last.
            seconds: What that took, where it is not the time since it was begun.
        """
        piece = self._pieces.get(self._current if key is None else key)
        if piece is not None and not piece.done and piece.begun is not None:
            piece.share = min(max(share, piece.share), 1.0)
            piece.told = piece.taken(self._clock()) if seconds is None else seconds

    def end(self, key: Hashable, telling: bool = True, seconds: float | None = None) -> None:
        """The piece is done.

        Args:
            key: Its name.
            telling: Whether its time says what others of its kind take: not that of one that had nothing to do.
            seconds: What it took, where that is not the time since it was begun.
        """
        piece = self._pieces.get(key)
        if piece is None or piece.done:
            return
        telling = telling and piece.begun is not None
        taken = piece.taken(self._clock()) if seconds is None else seconds
        piece.spent, piece.share = (taken, 1.0) if telling else (0.0, 0.0)
        piece.begun, piece.inside, piece.done = None, None, True
        self._left = None

    def left(self) -> float | None:
        """Seconds until all is done; None where nothing is planned."""
        if self._began is None:
            return None
        now = self._clock()
        if self._left is None or now >= self._left[2]:
            seconds = self._rest(now)
            self._left = now, seconds, now + max(SECONDS, RARELY * (self._clock() - now))
        since, seconds, _ = self._left
        return max(0.0, seconds - (now - since))

    def fraction(self) -> float | None:
        """The share of the whole time that has passed; None where nothing is planned."""
        left = self.left()
        if left is None or self._began is None:
            return None
        passed = self._clock() - self._began
        return passed / (passed + left) if passed + left > 0 else 0.0

    def _rest(self, now: float) -> float:
        # Another thread may plan pieces meanwhile.
        pieces = dict(self._pieces)
        paces = _Paces(pieces.values(), now)
        rest = {key: _rest_of(piece, paces, now) for key, piece in pieces.items() if not piece.done}
        return sum(rest.values()) if self.workers is None else _last_end(pieces, rest, self.workers)


def _rest_of(piece: _Piece, paces: _Paces, now: float) -> float:
    """Seconds that a piece which is not done takes from now on."""
    expected = piece.seconds * paces.of(piece.kind)
    taken = piece.taken(now)
    if piece.begun is None:
        return expected
    inside = None if piece.inside is None else piece.inside.left()
    if inside is not None:
        return inside
    if piece.share > 0:
        own = piece.share**2 / (piece.share**2 + TELLING**2)
        expected = own * piece.told / piece.share + (1 - own) * expected
    # Of what has been going on since it told last nothing is known.
    return max(expected - taken, LINGERS * (1 - piece.share) * (taken - piece.told))


def _last_end(pieces: Mapping[Hashable, _Piece], rest: Mapping[Hashable, float], workers: int) -> float:
    """When the last piece is done: workers take one after the other, and this process, which hands them out, does what has
    waited for a piece as soon as that ends, and only then hands out the next one."""
    ours: dict[Hashable, set[Hashable]] = {}
    begun: list[Hashable] = []
    waiting: deque[Hashable] = deque()
    for key in rest:
        after = pieces[key].after
        if after is not None:
            ours[key] = {other for other in after if other in rest}
        elif pieces[key].begun is None:
            waiting.append(key)
        else:
            begun.append(key)
    free = 0.0  # when this process is
    ends = [(rest[key], place, key) for place, key in enumerate(begun)]
    heapq.heapify(ends)
    place = len(ends)
    while True:
        while (key := next((key for key, others in ours.items() if not others), None)) is not None:
            free += rest[key]
            del ours[key]
            for others in ours.values():
                others.discard(key)
        while waiting and len(ends) < workers:
            key = waiting.popleft()
            heapq.heappush(ends, (free + rest[key], place, key))
            place += 1
        if not ends:
            return free
        end, _, ended = heapq.heappop(ends)
        free = max(free, end)
        for others in ours.values():
            others.discard(ended)
