"""SSIU with rows that flow, in PyTorch operations on any device: what `CpuInference.stream` does, written to be read.

    PlainStream(model).stream(height, width, read, write)  # see models/streaming.py

Each box of the network takes its next rows with `push` and gives those that it can finish, None where there are none
yet; between two calls it holds the rows that it still looks at. Positions in the map are those of the whole map, so
reflection, zeros around attention and interpolation are too, and no row is computed twice. Maps are (1, n, W, C).
"""

import copy
from collections.abc import Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .plain_rows import Columns, Held, Neighbours, convolve_window, interpolate, positions
from .precision import autocast, matmul_precision
from .ssiu import BLOCK, ESAM, HALO, MSGM, MULTIPLE, SSIU, SSReM, attention, convolve, padded_side
from .streaming import CHUNK, ReadRows, StreamPlan, Strip, WriteRows, check_rows, check_size

FEW = CHUNK // 4  # rows that go through the tail at a time: its maps are s^2 as large


class MsgmRows:
    """MSGM."""

    def __init__(self, msgm: MSGM, height: int):
        self.msgm, self.x, self.context = msgm, Held(), Neighbours(height)

    def push(self, x: Tensor) -> Tensor | None:
        first, middle, last = self.msgm.project_in2
        self.x.put(x)
        window = self.context.push(convolve(x, first))
        if window is None:
            return None
        context = convolve(convolve_window(window, middle), last)
        gate = F.gelu(convolve(self.x.take(context.shape[1]), self.msgm.project_in1))
        return convolve(gate * context, self.msgm.project_out)


class EsamRows:
    """ESAM: rows of v, in pairs, -> rows of ESAM(v)."""

    def __init__(self, esam: ESAM, height: int, columns: Columns):
        self.esam, self.height, self.half_height = esam, height, height // 2
        self.columns = columns.halved()
        self.v, self.queries, self.keys_values = Held(), Held(), Held()
        self.attended, self.wide = Neighbours(self.half_height), Held()
        self.pooled = self.next = 0

    def push(self, v: Tensor) -> Tensor | None:
        self.v.put(v)
        self.pool((self.v.end - self.v.first) // 2)
        blocks = []
        while self.keys_values.end - self.keys_values.first >= BLOCK + 2 * HALO:
            blocks.append(self.attend(self.queries.take(BLOCK), self.keys_values.peek(BLOCK + 2 * HALO)))
            self.keys_values.drop(self.keys_values.first + BLOCK)
        window = self.attended.push(torch.cat(blocks, dim=1)) if blocks else None
        if window is not None:
            self.wide.put(self.columns.widen(convolve_window(window, self.esam.LocalProp[0]), 2, align_corners=True))
        return self.upsample()

    def pool(self, count: int) -> None:
        """`count` rows of the halved map: their queries, and keys and values in a frame of zeros."""
        if not count:
            return
        pairs = self.v.take(2 * count)
        u = F.max_pool2d(pairs.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        channels = u.shape[-1]
        queries, keys_values = convolve(u, self.esam.qkv_conv).split([channels, 2 * channels], dim=-1)
        top = HALO if self.pooled == 0 else 0
        self.pooled += count
        bottom = HALO if self.pooled == self.half_height else 0
        self.queries.put(queries)
        self.keys_values.put(F.pad(keys_values, (0, 0, HALO, HALO, top, bottom)))

    def attend(self, queries: Tensor, keys_values: Tensor) -> Tensor:
        """A row of blocks: (1, 8, w, C) and (1, 10, w + 2, 2C) -> (1, 8, w, C)."""
        heads, window = self.esam.heads, BLOCK + 2 * HALO
        q = rearrange(queries, "b p (j q) (n d) -> (b j) n (p q) d", q=BLOCK, n=heads)
        windows = keys_values.unfold(2, window, BLOCK)  # (1, 10, w/8, 2C, 10)
        k, v = rearrange(windows, "b p j (t n d) q -> t (b j) n p q d", t=2, n=heads)
        k = k + self.esam.positions().to(k.dtype)
        o = attention(q, k.flatten(2, 3), v.flatten(2, 3))
        return rearrange(o, "b n (p q) d -> 1 p (b q) (n d)", p=BLOCK)

    def upsample(self) -> Tensor | None:
        """The rows between those of the halved map that are there."""
        wanted = range(self.next, self.height)[: 4 * CHUNK]
        _, second, _ = positions(wanted, self.half_height, 2, align_corners=True)
        count = int((second < self.wide.end).sum())
        if not count:
            return None
        rows = interpolate(self.wide, wanted[:count], self.half_height, 2, align_corners=True)
        self.next += count
        if self.next < self.height:
            first, _, _ = positions(range(self.next, self.next + 1), self.half_height, 2, align_corners=True)
            self.wide.drop(int(first))
        return rows


class StageRows:
    """SS-ReM. `carried` is what later boxes want of the same rows, y first: (a, carried) -> (a, carried)."""

    def __init__(self, stage: SSReM, height: int, columns: Columns):
        self.stage = stage
        self.s1, self.s2, self.s4, self.ffn = (
            MsgmRows(msgm, height) for msgm in (stage.s1, stage.s2, stage.s4, stage.ffn)
        )
        self.s3 = EsamRows(stage.s3, height, columns) if stage.s3 is not None else None
        self.x, self.v, self.b, self.a = Held(), Held(), Held(), Held()
        self.y, self.carried = Held(), Held()

    def push(self, a: Tensor, carried: Tensor) -> tuple[Tensor, Tensor] | None:
        a = self.stage.norm(a)
        self.x.put(a)
        self.y.put(carried[..., : a.shape[-1]])
        self.carried.put(carried)
        z, b = self.s1.push(a), self.s2.push(a)
        if z is None or b is None:
            return None
        v = self.x.take(z.shape[1]) + z + self.y.take(z.shape[1])
        self.b.put(b)
        d = self.difference(v)
        b_next = None if d is None else self.s4.push(d)
        if b_next is None:
            return None
        a = b_next + self.b.take(b_next.shape[1])
        self.a.put(a)
        out = self.ffn.push(a)
        if out is None:
            return None
        return out + self.a.take(out.shape[1]), self.carried.take(out.shape[1])

    def difference(self, v: Tensor) -> Tensor | None:
        """ESAM(v) + v - b, of which b is wanted once more."""
        self.v.put(v)
        esam = self.s3.push(v) if self.s3 is not None else torch.zeros_like(v)
        if esam is None:
            return None
        start, count = self.v.first - self.b.first, esam.shape[1]
        return esam + self.v.take(count) - self.b.peek(start + count)[:, start:]


class Flow:
    """The whole network: rows of the padded image (1, n, W, 3) -> some (1, m, sW, 3)."""

    def __init__(self, model: SSIU, height: int, columns: Columns):
        self.model, self.height, self.columns = model, height, columns
        self.x, self.head = Held(), Neighbours(height)
        self.stages = [StageRows(stage, height, columns) for stage in model.body]
        self.taps = Neighbours(model.scale * height)
        self.next = 0  # row of the output

    def push(self, x: Tensor) -> Iterator[Tensor]:
        self.x.put(x)
        window = self.head.push(x)
        if window is not None:
            y = convolve_window(window, self.model.head)
            yield from self.through(0, y, y)

    def through(self, number: int, a: Tensor, carried: Tensor) -> Iterator[Tensor]:
        """Through the stages from `number` on: a chunk at a time, as the map's last rows make a stage give many."""
        if number == len(self.stages):
            y, *experts = carried.split(a.shape[-1], dim=-1)
            f = y + (self.model.moe(experts) if self.model.moe is not None else a)
            tails = map(self.tail, f.split(FEW, dim=1))
            yield from (out for out in tails if out is not None)
            return
        for part_of_a, part_of_carried in zip(a.split(CHUNK, dim=1), carried.split(CHUNK, dim=1), strict=True):
            pushed = self.stages[number].push(part_of_a, part_of_carried)
            if pushed is None:
                continue
            found, known = pushed
            if self.model.moe is not None and (number + 1) % (len(self.stages) // 3) == 0:
                known = torch.cat([known, found], dim=-1)
            yield from self.through(number + 1, found, known)

    def tail(self, f: Tensor) -> Tensor | None:
        """Its last convolution and the bilinear skip see other rows than f's."""
        *shuffles, conv = self.model.tail
        fine = nn.Sequential(*shuffles)(f.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        window = self.taps.push(fine)
        if window is None:
            return None
        out = convolve_window(window, conv)
        rows, scale = range(self.next, self.next + out.shape[1]), self.model.scale
        skip = self.columns.widen(interpolate(self.x, rows, self.height, scale, False), scale, False)
        self.next = rows.stop
        self.x.drop(self.next // scale - 2 * MULTIPLE)  # the padding below reflects as far up
        return out + skip


def held_by(box: object) -> list[Tensor]:
    """All rows that a box and the boxes in it hold."""
    if isinstance(box, Held):
        return [box.rows] if box.rows is not None else []
    inner = (
        box if isinstance(box, list) else [] if isinstance(box, nn.Module) else getattr(box, "__dict__", {}).values()
    )
    return [rows for part in inner for rows in held_by(part)]


def reflected(index: Tensor, side: int) -> Tensor:
    """Where reflection, repeated, finds pixels 0, 1, 2 .. of a side that is too short: `reflect_pad` of ssiu.py."""
    period = max(2 * (side - 1), 1)
    return torch.minimum(index % period, (period - index % period) % period)


class PlainStream:
    """Streams an image through the plain path, on the device of its parameters; see `Streamer`."""

    def __init__(self, model: SSIU, precision: str = "float32"):
        self.model, self.precision = model, precision

    def plan(self, height: int, width: int, limit_mib: float | None = None) -> StreamPlan:
        """What `stream` will take: the rows that wait, and what works on a chunk of them.

        These are tensors. What PyTorch's allocator keeps free between them comes on top, and is not known before: on a
        CPU the process grew by some three times the plan, at no height by more.

        Raises:
            ModelError: more than `limit_mib`, or a size that cannot be streamed.
        """
        check_size(height, width)
        scale, padded = self.model.scale, padded_side(width)
        rows, first, more = self.most_held
        floats = first + more * (padded // MULTIPLE - 1)
        at_work = CHUNK * max(12, scale**2) * padded * self.model.head.out_channels  # 12 of a stage's, 4 of the tail's
        return StreamPlan(height, width, scale, rows, (floats + at_work) * 4 / 2**20, 1).within(limit_mib)

    @cached_property
    @torch.no_grad()
    def most_held(self) -> tuple[int, int, int]:
        """Rows of the input in flight, floats held in images 16 pixels wide, and those more for each 16 pixels more.

        Counted in two runs on zeros, which take a quarter of the time of shapes alone. Every map is as large as its
        width, but for its frame.
        """
        dry = copy.deepcopy(self.model).to("cpu")
        chunks, rows, floats = len(dry.body) + 4, 0, [0, 0]
        for number in range(2):
            padded = MULTIPLE * (number + 1)
            flow = Flow(dry, CHUNK * chunks, Columns(0, padded))
            for _ in range(chunks):
                for _ in flow.push(torch.zeros(1, CHUNK, padded, 3)):
                    rows = max(rows, flow.x.end - flow.x.first)
                    floats[number] = max(floats[number], sum(held.numel() for held in held_by(flow)))
        return rows, floats[0], floats[1] - floats[0]

    @torch.no_grad()
    def stream(
        self,
        height: int,
        width: int,
        read: ReadRows,
        write: WriteRows,
        limit_mib: float | None = None,
        strip: Strip | None = None,
    ) -> StreamPlan:
        plan = self.plan(height, width, limit_mib)
        scale, device = plan.scale, next(self.model.parameters()).device
        columns = reflected(torch.arange(padded_side(width)), width).to(device)
        place = Columns(strip.left, padded_side(strip.whole)) if strip else Columns(0, len(columns))
        flow, written = Flow(self.model, padded_side(height), place), 0
        for first in range(0, flow.height, CHUNK):
            x = self.padded(flow.x, first, height, columns, read)
            for rows in self.computed(flow, x):
                rows = rows[0, : scale * height - written, : scale * width].permute(2, 0, 1).float()
                if rows.shape[1]:
                    write(written, rows)
                written += rows.shape[1]
        return plan

    def computed(self, flow: Flow, x: Tensor) -> Iterator[Tensor]:
        """`flow.push(x)`, in this path's precision."""
        found = flow.push(x)
        while True:
            with matmul_precision(self.precision), autocast(x.device, self.precision):
                rows = next(found, None)
            if rows is None:
                return
            yield rows

    def padded(self, x: Held, first: int, height: int, columns: Tensor, read: ReadRows) -> Tensor:
        """CHUNK rows of the padded image from `first` on, (1, CHUNK, W, 3); `x` has those above."""
        count, width = min(height - first, CHUNK), int(columns.max()) + 1
        rows = read(first, count)
        check_rows(rows, count, width)
        rows = rows.to(columns.device).permute(1, 2, 0)[None].index_select(2, columns)
        if count == CHUNK:
            return rows
        known = Held()
        known.put(rows if x.rows is None else torch.cat([x.rows, rows], dim=1))
        known.first = x.first
        return torch.cat([rows, known.at(reflected(torch.arange(first + count, first + CHUNK), height))], dim=1)
