"""app.py: the page gives what upscale.py writes, refuses in one line, keeps nothing, and asks nobody else."""

import contextlib
import os
import re
import shlex
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import skimage.data
import torch
from browser import headless, overflow
from helpers import ROOT, build, run_script
from picture_files import png
from PIL import Image

from models import upscaler as upscaler_file
from utils import InputError
from webapp import studio as studio_file
from webapp.studio import Limits, Studio, scales_at_hand

COMMANDS = re.findall(r"^python app.py.*", (ROOT / "docs" / "app.md").read_text(encoding="utf-8"), re.MULTILINE)
pytestmark = pytest.mark.filterwarnings("ignore:::gradio")  # what it asks of pandas will be gone in later versions
NO_GRADIO = "gradio is absent: pip install -r requirements-app.txt"
ROOMY = Limits(megapixels=1, seconds=600, upload_mb=1)
asked = []  # addresses that this process connects to, or looks up


def _note_addresses(event, arguments) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        asked.append(str(arguments[1][0]))
    elif event == "socket.getaddrinfo":
        asked.append(str(arguments[0]))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of small pictures of several kinds, and of files that are none."""
    folder = tmp_path_factory.mktemp("pictures")
    photo = np.ascontiguousarray(skimage.data.astronaut()[60:100:2, 180:228:2])  # (20, 24, 3)
    Image.fromarray(photo).save(folder / "rgb.png")
    alpha = np.linspace(0, 255, photo.shape[0] * photo.shape[1]).reshape(*photo.shape[:2], 1).astype(np.uint8)
    Image.fromarray(np.concatenate([photo, alpha], axis=2)).save(folder / "rgba.png")
    (folder / "deep.png").write_bytes(png(photo.astype(np.uint16) * 257 + 5, 16, 2))
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(photo).save(folder / "turned.jpg", exif=turned, quality=90)
    (folder / "notes.txt").write_text("no picture at all")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "rgb.png").read_bytes()[:600])
    Image.new("L", (1500, 1000)).save(folder / "large.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def small_weights(tmp_path_factory):
    """In place of the shipped weights those of a small network, x2, through the plain path."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(build(2, n_feats=8).state_dict(), folder / "SSIU_x2.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upscaler_file, "SHIPPED", folder)
        patch.setenv("SSIU_BACKEND", "plain")
        yield


GOOD = ("rgb.png", "rgba.png", "deep.png", "turned.jpg")


@pytest.fixture(scope="module")
def expected(pictures, tmp_path_factory) -> dict[str, bytes]:
    """What upscale.py writes for the good ones, x2."""
    out = tmp_path_factory.mktemp("expected")
    names = [pictures / name for name in GOOD]
    done = run_script("upscale.py", *names, "-o", out, "--scale", 2, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return {name: (out / f"{Path(name).stem}_x2.png").read_bytes() for name in GOOD}


@pytest.fixture
def studio():
    """Function of what limits change: a studio on the CPU."""
    return lambda **changes: Studio(Limits(**{**vars(ROOMY), **changes}), "cpu")


@pytest.mark.parametrize("name", GOOD)
def test_the_result_is_the_file_that_upscale_py_writes(studio, pictures, expected, tmp_path, name):
    shares = []
    result = studio().upscale(pictures / name, 2, tmp_path, shares.append)
    assert result.file.name == f"{Path(name).stem}_x2.png"
    assert result.file.read_bytes() == expected[name]
    assert shares[-1] == 1
    before, after = Image.open(result.before), Image.open(result.after)
    assert (2 * before.width, 2 * before.height) == after.size == result.done.after
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before.png", result.file.name]


def test_a_turned_photograph_is_shown_upright(studio, pictures, tmp_path):
    result = studio().upscale(pictures / "turned.jpg", 2, tmp_path, lambda share: None)
    stored = np.asarray(Image.open(pictures / "turned.jpg"))
    assert np.array_equal(np.asarray(Image.open(result.before)), np.rot90(stored, -1))


@pytest.mark.parametrize("kind", ["rgba.png", "deep grey"])
def test_of_a_large_result_a_smaller_copy_is_shown(studio, pictures, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(studio_file, "SHOWN", 500)
    path = pictures / kind
    if kind == "deep grey":
        path = tmp_path / "grey.png"
        path.write_bytes(png(np.full((20, 24, 1), 32768, np.uint16), 16, 0))
    result = studio().upscale(path, 2, tmp_path, lambda share: None)
    copy = Image.open(result.after)
    assert result.after != result.file
    assert copy.size == (24, 20)
    if kind == "deep grey":
        assert abs(np.asarray(copy).astype(int) - 128).max() <= 4


@pytest.mark.parametrize(
    ("limit", "name", "message"),
    [
        ({}, "notes.txt", "notes.txt: is no picture of a known format; give a JPEG, PNG, WebP, TIFF, BMP or GIF file"),
        ({}, "empty.png", "empty.png: is empty; give a JPEG, PNG, WebP, TIFF, BMP or GIF file"),
        ({}, "cut.png", "cut.png: is damaged (it ends before its pixels do); replace it with an intact copy"),
        ({}, "gone.png", "gone.png: is no longer here; choose it again"),
        ({}, "large.png", "large.png: 1500x1000 are more than 1 megapixels; give a smaller picture"),
        ({"upload_mb": 0.0001}, "rgb.png", "rgb.png: has more than 0.0001 MB; give a smaller file"),
        (
            {"seconds": 1e-9},
            "rgb.png",
            "rgb.png: takes longer than the 1e-09 s that are allowed; choose a smaller picture or a smaller scale",
        ),
    ],
)
def test_what_is_refused_is_refused_in_one_line_and_leaves_nothing(studio, pictures, tmp_path, limit, name, message):
    with pytest.raises(InputError) as refusal:
        studio(**limit).upscale(pictures / name, 2, tmp_path, lambda share: None)
    assert str(refusal.value) == message
    assert list(tmp_path.iterdir()) == []


def test_work_for_a_page_that_was_closed_writes_nothing(studio, pictures, tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    with pytest.raises(InputError, match="the page was closed"):
        studio().upscale(pictures / "rgb.png", 2, folder, lambda share: folder.exists() and folder.rmdir())
    assert not folder.exists()


def test_scales_are_those_whose_weights_are_there(tmp_path, monkeypatch):
    assert scales_at_hand() == [2, 3, 4]
    monkeypatch.setattr(studio_file, "SHIPPED", tmp_path)
    (tmp_path / "SSIU_x3.pt").touch()
    assert scales_at_hand() == [3]


def test_without_gradio_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(studio_file, "SHIPPED", upscaler_file.SHIPPED)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "webapp.page", raising=False)
    done = run_script("app.py", "--device", "cpu")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("; pip install -r requirements-app.txt\n")


@pytest.mark.parametrize("words", [("--share",), ("--port", "0"), ("--memory", "-1"), ("--max-seconds", "nan")])
def test_options_that_make_no_sense_are_refused(words):
    assert run_script("app.py", *words).returncode == 2


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The system's folder for temporary files, as it seems."""
    pytest.importorskip("gradio", reason=NO_GRADIO)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(studio_file, "SHIPPED", upscaler_file.SHIPPED)
    return tmp_path


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process can handle")
@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_about_it_serve_until_they_are_ended(temporary, command):
    _python, script, *words = shlex.split(command)
    port = int(words[words.index("--port") + 1]) if "--port" in words else 7860
    if is_taken(port):
        pytest.skip(f"port {port} is taken")

    def look_and_end() -> None:
        end, found, address = time.monotonic() + 60, False, f"http://127.0.0.1:{port}/"
        while not found and time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=20) as answer:
                found = "gradio" in answer.read().decode()
        seen.append((found, len(list(temporary.iterdir()))))
        os.kill(os.getpid(), signal.SIGTERM)

    seen: list[tuple[bool, int]] = []
    watcher = threading.Thread(target=look_and_end)
    watcher.start()
    done = run_script(script, *words)
    watcher.join()
    assert done.returncode == 0, done.stderr
    assert seen == [(True, 1)]
    assert f"open http://127.0.0.1:{port}/ (Ctrl-C ends it)\n" in done.stdout
    assert list(temporary.iterdir()) == []


def test_a_port_that_is_taken_is_said_in_one_line(temporary):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_script("app.py", "--port", port, "--device", "cpu")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --port {port}: cannot be had on 127.0.0.1")
    assert done.stderr.count("\n") == 1
    assert list(temporary.iterdir()) == []


def is_taken(port) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page, in this process: its address, and the folder of its files."""
    pytest.importorskip("gradio", reason=NO_GRADIO)
    from webapp.server import served

    sys.addaudithook(_note_addresses)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parent = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_SHARE", "True")  # the page must not heed it
        patch.setenv("http_proxy", "http://127.0.0.1:9")
        patch.setattr(tempfile, "tempdir", str(parent))
        before = dict(os.environ)
        with served(Studio(ROOMY, "cpu"), [2], "127.0.0.1", port) as address:
            [folder] = parent.iterdir()
            yield address, folder
        assert list(parent.iterdir()) == []  # at the end the folder goes
        assert dict(os.environ) == before


@pytest.fixture(scope="module")
def browser(served):
    with headless() as browser:
        yield browser


@pytest.fixture
def page(browser, served):
    """The page on a phone, open; what it asks goes to this machine, and scripts fail nowhere."""
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page, failures = context.new_page(), []
        page.on("request", lambda request: asked.append(urlsplit(request.url).hostname))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.set_default_timeout(30_000)
        page.goto(served[0])
        page.wait_for_selector("#enlarge")
        yield page
        assert failures == []
        assert {address for address in asked if address is not None} <= {"127.0.0.1", "localhost"}


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def wait_for_files(folder, names) -> None:
    end = time.monotonic() + 20
    while files(folder) != names and time.monotonic() < end:
        time.sleep(0.1)
    assert files(folder) == names


def give(page, path) -> None:
    page.set_input_files("#picture input[type=file]", path)


def test_a_picture_is_given_compared_and_downloaded_and_nothing_is_kept(page, served, pictures, expected):
    assert overflow(page) == 0
    page.get_by_label("x2").check()
    give(page, pictures / "deep.png")
    page.get_by_text("24 × 20 becomes 48 × 40").wait_for()
    page.click("#enlarge")
    page.get_by_text("24 × 20 became 48 × 40").wait_for()
    assert files(served[1]) == ["before.png", "deep.png", "deep_x2.png"]

    line = page.locator("#viewer .line")
    shown = "[...document.querySelectorAll('#viewer img')].map((image) => [image.complete, image.naturalWidth])"
    page.wait_for_function(f"{shown}.every(([complete, width]) => complete && width > 0)")
    assert page.evaluate(shown) == [[True, 24], [True, 48]]
    place, before = page.get_by_label("Where before ends"), line.bounding_box()["x"]
    place.press("ArrowRight")
    assert line.bounding_box()["x"] > before
    page.mouse.move(before + 22, line.bounding_box()["y"] + 20)
    page.mouse.down()
    page.mouse.move(before - 20, line.bounding_box()["y"] + 20)
    page.mouse.up()
    assert float(place.input_value()) < 50
    for name in ("1:1", "Zoom in", "Zoom in", "Zoom in"):
        page.get_by_role("button", name=name).click()
    page.locator("#viewer .stage").press("+")
    assert page.locator("#viewer output").inner_text() == "400 %"  # as large as it gets
    assert overflow(page) == 0

    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "deep_x2.png"
    assert download.value.path().read_bytes() == expected["deep.png"]

    page.close()
    wait_for_files(served[1], [])


def test_a_refused_file_shows_why_and_is_not_kept(page, served, pictures):
    for name, message in (
        ("notes.txt", "notes.txt: is no picture of a known format; give a JPEG, PNG, WebP, TIFF, BMP or GIF file"),
        ("large.png", "large.png: 1500x1000 are more than 1 megapixels; give a smaller picture"),
    ):
        give(page, pictures / name)
        page.locator("#about").get_by_text(message).wait_for()
        page.get_by_test_id("toast-body").get_by_text(message).wait_for()
        assert overflow(page) == 0
        assert files(served[1]) == []
    page.click("#enlarge")
    page.get_by_text("There is no picture yet; drop one first").wait_for()
    give(page, pictures / "cut.png")  # its header is whole, so the work finds it out
    page.get_by_text("24 × 20 becomes").wait_for()
    page.click("#enlarge")
    page.get_by_text("cut.png: is damaged").wait_for()
    page.locator("#picture").get_by_label("Clear").click()
    page.get_by_text("at most 1 megapixels and 1 MB").wait_for()
    give(page, pictures / "rgb.png")
    page.get_by_text("24 × 20 becomes").wait_for()
    wait_for_files(served[1], ["rgb.png"])
    page.close()
    wait_for_files(served[1], [])


def test_a_request_that_no_page_makes_takes_no_file_of_another_and_no_scale_that_is_not_there(studio, tmp_path):
    module = pytest.importorskip("webapp.page", reason="gradio is absent: pip install -r requirements-app.txt")
    pages = module.Pages(tmp_path)
    desk = module.Desk(studio(), pages, [2])
    (tmp_path / "upload").mkdir()
    mine, result = tmp_path / "upload" / "a.png", tmp_path / "result-1" / "b.png"
    result.parent.mkdir()
    for file in (mine, result):
        file.touch()
    assert desk.uploaded({"path": str(mine)}) == mine.resolve()
    for path in (
        tmp_path,
        tmp_path / "upload",
        result,
        tmp_path / "upload" / ".." / "result-1" / "b.png",
        "/etc/hosts",
    ):
        with pytest.raises(InputError, match="no picture that was given to this page"):
            desk.uploaded({"path": str(path)})
    with pytest.raises(InputError, match="There is no scale 7"):
        desk.about({"path": str(mine)}, 7)
