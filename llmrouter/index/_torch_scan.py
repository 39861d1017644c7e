"""Exact search by torch: products of all rows in 16 bits, and the best ranked by the rows themselves."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmrouter.index._base import Neighbors
from llmrouter.index._devices import load_torch, torch_device
from llmrouter.index._kinds import IndexKind
from llmrouter.index._ranking import BoolArray, rank, rounding_error
from llmrouter.index._rows import Rows
from llmrouter.index._torch_rows import GROUP, DeviceRows
from llmrouter.types import FloatArray

# Candidates that are ranked: 2 k and some. In bf16 the products of unit rows are wrong by up to about 0.004, and rows
# that near to the k-th must all be among them, or the query is scanned again for more; after that, for all such rows.
_SPARE = 64
_WIDER = 8
_MOST_ASKED = 2048
# Queries of one pass, however many threads they come from; and products held at once: 1 GiB on a GPU, 32 MiB else.
_MOST_QUERIES = 4096
_PRODUCTS = {"cuda": 1 << 28, "cpu": 1 << 23}
_RANKED_VALUES = {"cuda": 1 << 27, "cpu": 1 << 22}
# TensorFloat-32, which a program may have switched on, keeps 10 bits of a float32's fraction.
_TF32 = 2.0**-10


@dataclass(eq=False, slots=True)
class _Call:
    """Queries of one caller."""

    queries: FloatArray
    k: int
    alive: BoolArray | None
    found: Neighbors | None = None
    failure: BaseException | None = None


@dataclass(eq=False, slots=True)
class TorchScan:
    """The rows of a segment on a device, and the search over all of them.

    Attributes
    ----------
    kept : Rows
        The rows in host memory; the few queries that the device cannot decide are ranked by them.
    rows : DeviceRows
        Their copy on the device.
    passes : int
        Passes over the rows so far. One pass answers the queries of all threads that waited for the one before.
    """

    kept: Rows
    rows: DeviceRows
    passes: int = 0
    _waiting: list[_Call] = field(default_factory=list)
    _queue: Any = field(default_factory=threading.Lock)
    _device: Any = field(default_factory=threading.Lock)
    _mask: tuple[BoolArray, Any] | None = None

    @classmethod
    def of(cls, kind: IndexKind, kept: Rows) -> TorchScan:
        """Copy the rows to the device of `kind`."""
        device = torch_device(kind.device)[0]
        dtype = kind.dtype if kind.dtype != "auto" else ("fp32" if device == "cpu" else "bf16")
        return cls(kept, DeviceRows(kept.all(), device, dtype))

    def nearest(self, queries: FloatArray, k: int, alive: BoolArray | None) -> Neighbors:
        """Return positions and similarities of the `k` nearest living rows, or all, ties by smaller position.

        The same as by double precision over all rows (see `llmrouter.index._ranking`).
        """
        call = _Call(queries, k, alive)
        with self._queue:
            self._waiting.append(call)
        with self._device:
            if call.found is None and call.failure is None:
                self._answer(self._taken(call))
        if call.failure is not None:
            raise call.failure
        assert call.found is not None  # noqa: S101 -- set by `_answer`, here or in another thread
        return call.found

    def _taken(self, first: _Call) -> list[_Call]:
        """Take what is waiting and can be answered with `first`, in one pass."""
        with self._queue:
            taken = [first]
            count = len(first.queries)
            for call in self._waiting:
                alike = call is not first and call.k == first.k and call.alive is first.alive
                if alike and count + len(call.queries) <= _MOST_QUERIES:
                    taken.append(call)
                    count += len(call.queries)
            chosen = {id(call) for call in taken}
            self._waiting = [call for call in self._waiting if id(call) not in chosen]
        return taken

    def _answer(self, calls: list[_Call]) -> None:
        try:
            queries = np.concatenate([call.queries for call in calls])
            found = self._search(queries, calls[0].k, calls[0].alive)
        except BaseException as error:
            for call in calls:
                call.failure = error
            return
        start = 0
        for call in calls:
            part = slice(start, start + len(call.queries))
            call.found = Neighbors(found.ids[part], found.similarities[part])
            start = part.stop

    def _search(self, queries: FloatArray, k: int, alive: BoolArray | None) -> Neighbors:
        living = self.rows.count if alive is None else int(alive.sum())
        k = min(k, living)
        found = Neighbors(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
        asked = k + _SPARE if self.rows.precise else 2 * k + _SPARE
        for start in range(0, len(queries) if k else 0, _MOST_QUERIES):
            part = slice(start, start + _MOST_QUERIES)
            found.ids[part], found.similarities[part] = self._search_block(queries[part], k, alive, asked)
        return found

    def _search_block(self, queries: FloatArray, k: int, alive: BoolArray | None, asked: int) -> Neighbors:
        torch = load_torch()
        self.passes += 1
        living = self.rows.count if alive is None else int(alive.sum())
        asked = min(asked, living)
        with torch.inference_mode():
            scan = _Scan(self.rows, queries, self._dead(alive))
            products, positions = scan.best(asked)
            positions = positions.sort(dim=1).values  # so that the stable sort below leaves ties by position
            similarities, doubtful = self._ranked(scan, positions)
            order = similarities.sort(dim=1, descending=True, stable=True)
            last = scan.upper_bound(products.min(dim=1).values)
            complete = ((order.values[:, k - 1].double() > last) | (asked == living)).cpu().numpy()
            best = Neighbors(positions.gather(1, order.indices[:, :k]).cpu().numpy(), order.values[:, :k].cpu().numpy())
            for number in np.flatnonzero(doubtful.cpu().numpy() & complete).tolist():
                self._decide(queries, number, positions[number], best)
            pending = np.flatnonzero(~complete)
            if len(pending) and asked < _MOST_ASKED:
                ids, similar = self._search_block(queries[pending], k, alive, _WIDER * asked)
                best.ids[pending], best.similarities[pending] = ids, similar
                return best
            for number in pending.tolist():
                self._decide(queries, number, scan.above(number, float(best.similarities[number, k - 1])), best)
        return best

    def _decide(self, queries: FloatArray, number: int, near: Any, best: Neighbors) -> None:
        """Let the reference rank the rows at the positions `near` for one query."""
        positions, k = near.cpu().numpy(), best.ids.shape[1]
        best.ids[number], best.similarities[number] = rank(queries[number], self.kept.take(positions), positions, k)

    def _ranked(self, scan: _Scan, positions: Any) -> tuple[Any, Any]:
        """Return the similarities of the rows at `positions` (b, c), float32, and which queries (b,) are doubtful.

        Double precision in another order than the reference's may round to another float32. Where that cannot be
        excluded, the reference decides.
        """
        torch = load_torch()
        similarities = torch.empty(positions.shape, dtype=torch.float32, device=positions.device)
        doubtful = torch.empty(len(positions), dtype=torch.bool, device=positions.device)
        values = positions.shape[1] * scan.queries.shape[1]
        block = max(1, _RANKED_VALUES[self.rows.device.type] // max(1, values))
        for start in range(0, len(positions), block):
            part = slice(start, start + block)
            rows = self.rows.take(positions[part]).double()
            exact = torch.bmm(rows, scan.queries[part].unsqueeze(2)).squeeze(2)
            margin = scan.double_error[part].unsqueeze(1)
            similarities[part] = exact.float() + 0.0  # no negative zero, which a sort may tell from zero
            doubtful[part] = ((exact - margin).float() != (exact + margin).float()).any(dim=1)
        return similarities, doubtful

    def _dead(self, alive: BoolArray | None) -> Any:
        """Return which rows are dead as a tensor on the device; masks never change, and the last is kept there."""
        if alive is None:
            return None
        kept = self._mask
        if kept is None or kept[0] is not alive:
            kept = (alive, load_torch().from_numpy(~alive).to(self.rows.device))
            self._mask = kept
        return kept[1]


class _Scan:
    """Queries (b, d) on the device, and products with all rows.

    The queries are scaled to unit length for the products, so that none leaves the range of 16 bits.
    """

    def __init__(self, rows: DeviceRows, queries: FloatArray, dead: Any) -> None:
        torch = load_torch()
        self._rows, self._dead = rows, dead
        self.queries: Any = torch.tensor(queries, device=rows.device, dtype=torch.float64)
        dimension = queries.shape[1]
        lengths = self.queries.norm(dim=1)
        self._lengths = torch.where(lengths > 0.0, lengths, torch.ones_like(lengths))
        unit = self.queries / self._lengths.unsqueeze(1)
        self._unit = unit.to(rows.scanned.dtype)
        away = (unit - self._unit.double()).norm(dim=1)
        # |<q, r> - <q', r'>| <= |q - q'| |r'| + |q| |r - r'|, and what float32 sums add, of unit queries
        sums = float(rounding_error(np.full((1, dimension), dimension**-0.5), rows.longest)[0])
        if rows.scanned.dtype == torch.float32 and not rows.precise:
            sums += 2.0 * _TF32 * rows.longest
        self._error = away * (rows.longest + rows.error) + rows.error + 2.0 * sums
        self.double_error: Any = 2.0 * dimension * np.finfo(np.float64).eps * self._lengths * rows.longest

    def upper_bound(self, products: Any) -> Any:
        """Return the most that the similarity of a row of these products (b,) can be, in double precision."""
        return (products.double() + self._error) * self._lengths

    def best(self, count: int) -> tuple[Any, Any]:
        """Return the `count` largest products (b, count) and the rows' positions, of as many living rows or more.

        First the largest product of each group of rows, then all products of the groups with the `count` largest of
        those: they have the `count` largest of all, and what is sorted is a small part.
        """
        torch = load_torch()
        values: Any = None
        positions: Any = None
        for start, products in self._products(self._unit):
            groups = products.shape[1] // GROUP
            if groups > 4 * count:
                grouped = products.view(len(products), groups, GROUP)
                chosen = grouped.amax(dim=2).topk(count, dim=1, sorted=False).indices
                near = grouped.gather(1, chosen.unsqueeze(2).expand(-1, -1, GROUP)).flatten(1)
                top, at = near.topk(count, dim=1, sorted=False)
                where = chosen.gather(1, at // GROUP) * GROUP + at % GROUP
            else:
                top, where = products.topk(min(count, products.shape[1]), dim=1, sorted=False)
            where = where + start
            if values is not None:
                top, where = torch.cat([values, top], dim=1), torch.cat([positions, where], dim=1)
                top, at = top.topk(min(count, top.shape[1]), dim=1, sorted=False)
                where = where.gather(1, at)
            values, positions = top, where
        return values, positions

    def above(self, number: int, similarity: float) -> Any:
        """Return the positions of all living rows that may be as similar to query `number` as `similarity`, rising."""
        torch = load_torch()
        length, error = self._lengths[number], self._error[number]
        # one more error: products of one query alone may be summed in another order
        least = similarity / length - 2.0 * error
        parts = [
            (products[0].double() >= least).nonzero().squeeze(1) + start
            for start, products in self._products(self._unit[number : number + 1])
        ]
        return torch.cat(parts)

    def _products(self, unit: Any) -> Any:
        """Yield the first position and the products (b, m), float32, of stretches of rows; minus infinity for none."""
        torch = load_torch()
        total = len(self._rows.scanned)
        step = max(GROUP, _PRODUCTS[self._rows.device.type] // len(unit) // GROUP * GROUP)
        for start in range(0, total, step):
            rows = self._rows.scanned[start : start + step]
            if rows.dtype != torch.float32 and rows.device.type == "cuda":
                products = torch.mm(unit, rows.T, out_dtype=torch.float32)
            else:
                products = unit.float() @ rows.float().T
            end = min(start + step, self._rows.count)
            if self._dead is not None:
                products[:, : end - start].masked_fill_(self._dead[start:end], -torch.inf)
            products[:, end - start :].fill_(-torch.inf)  # what fills up the last group
            yield start, products
