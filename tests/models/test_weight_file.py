"""Files made to exhaust memory, to never end, or to garble a terminal; and all that a good checkpoint may hold."""

import codecs
import collections
import io
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from models import ModelError
from models.weights import file_hash, load_weights, read_checkpoint, read_weights

OLD_FORMAT = {"_use_new_zipfile_serialization": False}
NESTED_TUPLES = b")" + 60 * b"q\0h\0\x86"  # ((((), ()), ((), ())), ...): 2^60 steps to follow, 301 bytes here


class Call:
    """What is pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


class Tensor(Call):
    """A float tensor of any shape over a storage of 16 elements."""

    def __init__(self, size, stride=(1,), offset=0):
        storage = torch.zeros(16)._typed_storage()
        hooks = collections.OrderedDict()
        super().__init__(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, hooks)


def saved(content, **options) -> bytes:
    torch.save(content, buffer := io.BytesIO(), **options)
    return buffer.getvalue()


def archive(pickled: bytes, compression=zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """A zip archive as PyTorch writes it, around any pickle."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", compression) as file:
        for name, body in {"data.pkl": pickled, "version": b"3\n", **members}.items():
            file.writestr(f"archive/{name}", body)
    return buffer.getvalue()


def refusal(path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(ModelError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= 400
    return message


@pytest.mark.parametrize("options", [{}, OLD_FORMAT], ids=["zip", "old format"])
def test_all_that_a_training_checkpoint_may_hold_is_read_back(options, tmp_path):
    content = {
        "weights": collections.OrderedDict(a=torch.randn(2, 3), b=torch.zeros(0), c=torch.ones(4, 2).T),
        "moments": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.full((2,), torch.nan)}}, "lr": 1e-3},
        "tensors": [torch.tensor(1 + 2j), torch.zeros(1).expand(9), torch.ones(3, dtype=torch.bfloat16)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "random state": torch.get_rng_state()[:100],
        "scores": {"psnrs": [np.float64(38.3), np.float32(1), np.int64(-4)], np.int64(3): None},
        "milestones": collections.Counter([250, 400, 400]),
        "numbers": (True, False, None, -1, 300, 70_000, 1 << 60, -(1 << 200), 0.5, complex(1, 2)),
        "text": ["config: größe\n" * 1000, "", b"bytes\xff", bytearray(b"more"), {"a"}],
        "kinds": (torch.float32, torch.device("cpu"), torch.Size([1, 2])),
    }
    (tmp_path / "file.pt").write_bytes(saved(content, **options))
    assert repr(read_checkpoint(tmp_path / "file.pt")) == repr(content)


def test_numbers_of_the_newer_types_are_read_back(tmp_path):
    torch.save({"count": torch.tensor([1, 2], dtype=torch.uint16)}, tmp_path / "file.pt")
    assert read_checkpoint(tmp_path / "file.pt")["count"].tolist() == [1, 2]


def make_loop(path):
    path.symlink_to(path)


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices of POSIX")
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: os.mkfifo(path), "is a folder, a pipe or a device; name a checkpoint"),
        (Path.mkdir, "is a folder, a pipe or a device; name a checkpoint"),
        (lambda path: path.symlink_to("/dev/zero"), "is a folder, a pipe or a device; name a checkpoint"),
        (lambda path: path.symlink_to("nowhere"), "no such checkpoint"),
        (make_loop, "cannot be read (Too many levels of symbolic links)"),
    ],
    ids=["pipe", "folder", "device", "dangling link", "loop of links"],
)
def test_only_regular_files_are_opened(make, complaint, tmp_path):
    make(tmp_path / "file.pt")
    assert complaint in refusal(tmp_path / "file.pt")
    with pytest.raises(ModelError):
        file_hash(tmp_path / "file.pt")


def test_a_file_over_the_limit_is_not_read(tmp_path):
    (tmp_path / "file.pt").touch()
    os.truncate(tmp_path / "file.pt", (2 << 30) + 1)
    assert "has 2,147 MB, more than the 2,147 that are read" in refusal(tmp_path / "file.pt")


def test_a_name_with_control_characters_or_of_any_length_stays_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"^\\x1b\[31m\\n: no such checkpoint"):
        read_checkpoint("\x1b[31m\n")
    for name in ("a" * 5000, "a\0b"):
        assert "cannot be read" in refusal(tmp_path / name)


def test_a_list_of_hashes_that_is_no_text_is_named(tmp_path):
    (tmp_path / "file.pt").write_bytes(saved({"a": torch.zeros(3)}))
    (tmp_path / "SHA256SUMS").write_bytes(b"\xff\xfe")
    assert "SHA256SUMS: is no list of hashes" in refusal(tmp_path / "file.pt")


def test_a_compressed_member_is_refused(tmp_path):
    """64 MiB of zeros in 64 KB."""
    pickled = zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(1 << 24)}))).read("archive/data.pkl")
    data = archive(pickled, zipfile.ZIP_DEFLATED, byteorder=b"little", **{"data/0": bytes(4 << 24)})
    (tmp_path / "file.pt").write_bytes(data)
    assert "its member 'archive/data.pkl' is compressed" in refusal(tmp_path / "file.pt")


def members_over_each_other(data: bytearray, entries: list[int]) -> None:
    names = b"archive/data/0", b"archive/data/1"
    first, second = (next(at for at in entries if data.startswith(name, at + 46)) for name in names)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]


def member_outside_of_the_file(data: bytearray, entries: list[int]) -> None:
    data[entries[-1] + 20 : entries[-1] + 28] = 2 * struct.pack("<I", 1 << 30)


def two_lists_of_members(data: bytearray, entries: list[int]) -> None:
    data += data[data.rfind(b"PK\5\6") :]


def list_of_members_elsewhere(data: bytearray, entries: list[int]) -> None:
    data[:0] = b"PK\3\4"


SPOILERS = [members_over_each_other, member_outside_of_the_file, two_lists_of_members, list_of_members_elsewhere]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_an_archive_whose_members_are_unclear_is_refused(spoil, tmp_path):
    data = bytearray(saved({"a": torch.zeros(30), "b": torch.ones(30)}))
    spoil(data, [at for at in range(len(data)) if data.startswith(b"PK\1\2", at)])
    (tmp_path / "file.pt").write_bytes(data)
    assert "damaged" in refusal(tmp_path / "file.pt")


def test_values_of_another_size_than_described_are_refused(tmp_path):
    pickled = zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(3)}))).read("archive/data.pkl")
    for values in ({"data/0": bytes(400)}, {"data/0": bytes(4)}, {}):
        (tmp_path / "file.pt").write_bytes(archive(pickled, byteorder=b"little", **values))
        assert "the values '0' are not there or of another size" in refusal(tmp_path / "file.pt")


def test_old_files_whose_storages_exceed_the_file_are_refused_before_memory_is_taken(tmp_path):
    data = saved({"a": torch.zeros(77)}, **OLD_FORMAT)
    (tmp_path / "file.pt").write_bytes(data.replace(b"K\x4d", b"J\0\0\0\x40", 1))  # 2^30 elements
    assert "its values are not all there" in refusal(tmp_path / "file.pt")


def test_old_files_that_leave_a_storage_out_do_not_give_what_the_memory_held(tmp_path):
    data = saved({"a": torch.zeros(77)}, **OLD_FORMAT)
    keys = data.index(b"\x80\x02]q\x00X")  # the list of the storages that follow
    (tmp_path / "file.pt").write_bytes(data[:keys] + pickle.dumps([], protocol=2) + bytes(1000))
    assert "its values are not all there" in refusal(tmp_path / "file.pt")


@pytest.mark.parametrize("options", [{}, OLD_FORMAT], ids=["zip", "old format"])
@pytest.mark.parametrize(
    "tensor", [Tensor((1 << 28,)), Tensor((4,), offset=13), Tensor((2, 9), (8, 1))], ids=["long", "shifted", "wide"]
)
def test_a_tensor_larger_than_its_storage_is_refused(tensor, options, tmp_path):
    (tmp_path / "file.pt").write_bytes(saved({"a": tensor}, **options))
    assert "a tensor is larger than what is stored of it" in refusal(tmp_path / "file.pt")


CALLS = {
    "memory by number": Call(bytearray, 1 << 33),
    "memory by doubling": Call(codecs.encode, "a", "hex"),
    "a storage": Call(torch.FloatStorage, 1 << 30),
    "an empty tensor": Call(torch.Tensor, 1 << 30),
    "numpy's own type changed": Call(np.dtype, "f8", False, False),
}


@pytest.mark.parametrize("what", CALLS)
def test_calls_that_no_checkpoint_needs_are_refused(what, tmp_path):
    (tmp_path / "file.pt").write_bytes(saved({"a": CALLS[what]}))
    assert "refused: not a checkpoint, or it carries code or objects" in refusal(tmp_path / "file.pt")


BOMBS = {
    "a key that takes 2^60 steps to hash": b"}" + NESTED_TUPLES + b"K\1s",
    "a function that takes 2^60 steps to print": NESTED_TUPLES + b")R",
    "a storage whose name takes 2^60 steps": b"(X\7\0\0\0storagectorch\nFloatStorage\n" + NESTED_TUPLES + b"NK\1tQ",
    "keys that all hash alike": b"}("
    + b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 40_000))
    + b"u",
    "more objects than can be": b"](" + 1_200_000 * b"}" + b"e",
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_pickle_that_would_take_for_ever_is_refused_at_once(what, tmp_path):
    (tmp_path / "file.pt").write_bytes(archive(b"\x80\2" + BOMBS[what] + b".", byteorder=b"little"))
    start = time.process_time()
    assert "refused" in refusal(tmp_path / "file.pt")
    assert time.process_time() - start < 5


def test_deep_nesting_is_no_error_of_the_interpreter(tmp_path):
    (tmp_path / "file.pt").write_bytes(archive(b"\x80\2}X\1\0\0\0aN" + 100_000 * b"\x85" + b"s.", byteorder=b"little"))
    assert "no state dict found" in refusal(tmp_path / "file.pt")


NOT_DENSE = {
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a nested tensor": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "a quantised tensor": lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    "a tensor without values": lambda: torch.zeros(3, device="meta"),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch's, that some of these are to change
@pytest.mark.parametrize("kind", NOT_DENSE)
def test_tensors_that_are_not_dense_are_named(kind, tmp_path):
    content = {"model_state_dict": {"head.bias": torch.zeros(3), "head.weight": NOT_DENSE[kind]()}}
    (tmp_path / "file.pt").write_bytes(saved(content))
    assert f"'head.weight' is {kind}" in refusal(tmp_path / "file.pt")


def test_keys_are_shown_escaped_and_cut(tmp_path):
    torch.save({"\x1b[2J\n\u202e\ud800" + "k" * 10_000: torch.full((1,), torch.nan)}, tmp_path / "file.pt")
    message = refusal(tmp_path / "file.pt")
    assert r"'\x1b[2J\n\u202e\ud800kkk" in message
    torch.save({f"{n}\n" + "k" * 10_000: 3 for n in range(9)}, tmp_path / "file.pt")
    assert r"no state dict found in it (its keys: 0\nkkk" in refusal(tmp_path / "file.pt")


def test_any_number_of_prefixes_is_removed_at_once(tmp_path):
    torch.save({"module." * 400_000 + "_orig_mod.a": torch.zeros(3)}, tmp_path / "file.pt")
    start = time.process_time()
    assert list(read_weights(tmp_path / "file.pt")) == ["a"]
    assert time.process_time() - start < 2


@pytest.mark.parametrize("length", [0, 1 << 20, 1 << 63, (1 << 64) - 1])
def test_safetensors_with_an_absurd_header_are_refused(length, tmp_path):
    data = safetensors.torch.save({"a": torch.zeros(3)})
    (tmp_path / "file.safetensors").write_bytes(struct.pack("<Q", length) + data[8:])
    assert "damaged" in refusal(tmp_path / "file.safetensors")


def test_a_key_of_thousands_of_digits_is_refused(tmp_path):
    torch.save({f"body.{'9' * 5000}.a": torch.zeros(3), "head.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "file.pt")
    with pytest.raises(ModelError, match="is no name of a weight"):
        load_weights(torch.nn.Conv2d(3, 3, 3), tmp_path / "file.pt")
