"""Damage for files: blind, and such that it gets past a format's own checks."""

import io
import json
import struct
import zipfile
import zlib
from random import Random

from training.checkpoints import checksum_of

ODD = [
    b"", b"\0", b"\xff", b"\n", b"\r", b"-1", b"0", b"1e999", b"9" * 30, b"nan", b"null", b"true", b"[", b"]", b"{",
    b"}", b"&a", b"*a", b"<<: ", b"!!python/object:os.system ", b"!!int ", b"? ", b"- ", b": ", b"'", b'"', b"|", b"%",
    b"../", b"\xc3\x28", b"\x80\x04", b"c__builtin__\neval\n", b"\x8c\xff", b"R", b".", b"PK\x05\x06",
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff",
]  # fmt: skip
ODD_VALUES = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**70, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", "x", "../..",
    "\0", "\udcff", "1", "a" * 300, [], {}, [[]], [1], {"a": 1},
]  # fmt: skip


def blind(data: bytes, others: list[bytes], random: Random) -> bytes:
    """A few random edits of any bytes."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        place = random.randrange(len(content) + 1)
        what = random.randrange(7)
        if what == 0 and content:
            content[place % len(content)] ^= 1 << random.randrange(8)
        elif what == 1 and content:
            content[place % len(content)] = random.randrange(256)
        elif what == 2:
            del content[place:]
        elif what == 3:
            del content[place : place + random.choice((1, 2, 8, 100))]
        elif what == 4:
            content[place:place] = random.choice(ODD)
        elif what == 5:
            block = content[place : place + random.choice((4, 32, 500))]
            content[place:place] = block * random.choice((1, 1, 3))
        else:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            content[place:] = other[start:]
    return bytes(content[: 4 * len(data) + 10_000])


def png(data: bytes, others: list[bytes], random: Random) -> bytes:
    """A PNG whose chunks are changed, repeated, dropped or swapped, with right checksums; of others, blind damage."""
    if not data.startswith(b"\x89PNG"):
        return blind(data, others, random)
    chunks, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    number = random.randrange(len(chunks))
    kind, body = chunks[number]
    what = random.randrange(5)
    if what == 0:
        chunks[number] = (kind, blind(body, [body], random))
    elif what == 1:
        chunks.insert(random.randrange(len(chunks) + 1), (kind, blind(body, [body], random)))
    elif what == 2:
        del chunks[number]
    elif what == 3:
        random.shuffle(chunks)
    else:
        chunks[number] = (random.choice((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"iCCP", b"zTXt")), body)
    parts = [data[:8]]
    for kind, body in chunks:
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def checkpoint(data: bytes, others: list[bytes], random: Random) -> bytes:
    """A checkpoint whose members are damaged inside an archive that is in order, often with a right checksum."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # damaged before, or of another format: zipfile raises anything then
        return blind(data, others, random)
    pickles = [name for name in members if name.endswith("data.pkl")]
    if not pickles:
        return blind(data, others, random)
    name = random.choice(pickles) if random.random() < 0.8 else random.choice(list(members))
    members[name] = blind(members[name], [*members.values()], random)
    if random.random() < 0.1:
        del members[random.choice(list(members))]
    return archived(members, random.random() < 0.05, signed=random.random() < 0.8)


def archived(members: dict[str, bytes], deflated: bool = False, signed: bool = True) -> bytes:
    """A zip archive as PyTorch writes them, with this project's checksum if `signed`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    body = buffer.getvalue()[:-2]
    comment = checksum_of(body) if signed else b""
    return body + len(comment).to_bytes(2, "little") + comment


def jsonic(data: bytes, others: list[bytes], random: Random) -> bytes:
    """JSON, or JSON lines, with some values replaced, keys dropped or entries repeated; sometimes blind damage."""
    if random.random() < 0.3:
        return blind(data, others, random)
    try:
        whole, lines = json.loads(data), False
    except ValueError:
        try:
            whole, lines = [json.loads(line) for line in data.splitlines()], True
        except ValueError:
            return blind(data, others, random)
    for _ in range(random.choice((1, 1, 2, 5))):
        whole = _changed(whole, random)
    if lines and isinstance(whole, list):
        return b"\n".join(json.dumps(entry).encode() for entry in whole)
    return json.dumps(whole).encode()


def _changed(value, random: Random):
    """The value with one change somewhere in it."""
    if not isinstance(value, (dict, list)) or not value or random.random() < 0.05:
        if isinstance(value, int) and random.random() < 0.5:
            return value + random.choice((-1, 1, 3, -1000, 2**32))
        return random.choice(ODD_VALUES)
    key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
    copy = value.copy()
    what = random.random()
    if what < 0.1:
        del copy[key]
    elif what < 0.2 and isinstance(copy, list):
        copy.append(copy[key])
    else:
        copy[key] = _changed(copy[key], random)
    return copy
