"""The page: what stands on it, and what its buttons do."""

import html
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from models import ModelError
from pictures.fit import result_size
from pictures.forecast import duration
from pictures.read import KNOWN
from utils import InputError
from webapp.studio import Result, Studio, need_folder

KEPT = 3600  # seconds after which an upload and a download go in any case
RESULT = "result-"  # how the folders of results begin
WAITING = 8  # pictures in the queue at most
HERE = Path(__file__).parent
STYLE = """
.gradio-container { width: 100%; max-width: 1100px !important; margin: 0 auto !important; }
#title h1 { margin: 0.4em 0 0; font-size: 1.6em; }
#title p, #about p, #notes p { margin: 0.3em 0; overflow-wrap: anywhere; }
#about .html-container, #notes .html-container, #viewer .html-container { padding: 0; }
#about .refused { color: var(--error-text-color, #b91c1c); font-weight: 600; }
#notes .empty { margin: 0; padding: 3em 1em 1em; min-height: 160px; text-align: center;
  border: 1px dashed var(--border-color-primary); }
#notes .pending { opacity: 0; }
#viewer { min-width: 0; }
"""
TITLE = """# SSIU: make a picture larger
Drop a picture, choose how much larger, and compare before and after. Pictures are not kept."""
EMPTY = '<p class="empty">The result will stand here.</p>'
VIEWER: dict[str, Any] = {
    "html_template": (HERE / "viewer.html").read_text(encoding="utf-8"),
    "css_template": (HERE / "viewer.css").read_text(encoding="utf-8"),
    "js_on_load": (HERE / "viewer.js").read_text(encoding="utf-8"),
}
# Functions get what the page sends: where gradio makes it a path, it leaves an empty file behind at every call.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
WORK = gr.Progress()  # as a default it tells gradio that the function reports its progress
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def no_result() -> tuple[Any, ...]:
    """The viewer, the notes and the button for the download where there is no result."""
    return gr.HTML(value=None, visible=False), EMPTY, gr.DownloadButton(value=None, visible=False)


@dataclass
class Pages:
    """The files of every page that is open, which go with it.

    Attributes:
        folder: of all of them; gradio puts what is uploaded there, too.
    """

    folder: Path
    _of: dict[str, list[Path]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def give(self, session: str, upload: Path | None) -> None:
        """A page has this upload, or none, from now on: what it had before goes."""
        with self._lock:
            before = self._of.pop(session, [])
            if upload is not None:
                self._of[session] = [upload]
        _remove([path for path in before if path != upload])

    def begin(self, session: str, upload: Path) -> Path:
        """A new folder for the result of an upload."""
        self.give(session, upload)
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix=RESULT))
        with self._lock:
            self._of.setdefault(session, []).append(folder)
        return folder

    def forget_all(self) -> None:
        for session in list(self._of):
            self.give(session, None)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def refused() -> Iterator[None]:
    """What is refused becomes gradio's message; its text is shown as it is."""
    try:
        yield
    except (InputError, ModelError) as error:
        raise gr.Error(html.escape(str(error)), title="Not done", print_exception=False) from error


class Desk:
    """What the page's buttons do."""

    def __init__(self, studio: Studio, pages: Pages, scales: list[int]):
        self.studio, self.pages, self.scales = studio, pages, scales

    def look(self, given: dict[str, Any] | None, scale: int, request: gr.Request) -> tuple[Any, ...]:
        """Say what was given and what it will become, or why it is refused. An earlier result goes."""
        try:
            self.pages.give(request.session_hash or "", self.uploaded(given))
            said = self.about(given, scale)
            return gr.skip(), said, *no_result()
        except InputError as error:
            text = html.escape(str(error))
            gr.Warning(text, title="Not taken")
            return None, f'<p class="refused">{text}</p>', *no_result()

    def about(self, given: dict[str, Any] | None, scale: int) -> str:
        """One line on a picture and the size of its result. InputError: it is refused, and its file removed."""
        path = self.uploaded(given)
        self._check(scale)
        if path is None:
            limits = self.studio.limits
            return f"<p>{KNOWN}; at most {limits.megapixels:g} megapixels and {limits.upload_mb:g} MB</p>"
        try:
            head = self.studio.look(path)
        except InputError:
            path.unlink(missing_ok=True)
            raise
        width, height = result_size(head.width, head.height, scale, None)
        return f"<p>{head.width} × {head.height} becomes {width} × {height}</p>"

    def enlarge(
        self, given: dict[str, Any] | None, scale: int, request: gr.Request, progress: gr.Progress = WORK
    ) -> tuple[Any, ...]:
        """What the viewer, the notes and the button for the download show when the work is done."""
        with refused():
            path = self.uploaded(given)
            self._check(scale)
            if path is None:
                raise InputError("There is no picture yet; drop one first")
            folder = self.pages.begin(request.session_hash or "", path)

            def tell(share: float) -> None:
                need_folder(folder)
                progress(share, desc="Enlarging")

            progress(0, desc="Beginning")
            result = self.studio.upscale(path, scale, folder, tell)
        return viewed(result), said(result), downloadable(result)

    def leave(self, request: gr.Request) -> None:
        self.pages.give(request.session_hash or "", None)

    def uploaded(self, given: dict[str, Any] | None) -> Path | None:
        """The file that a page gives. InputError: it is none that was uploaded, as in a request that no page makes."""
        if given is None:
            return None
        path = Path(given["path"]).resolve()
        place = path.parent.parent  # gradio makes a folder for each upload
        if place != self.pages.folder.resolve() or path.parent.name.startswith(RESULT) or path.is_dir():
            raise InputError("This is no picture that was given to this page; drop one")
        return path

    def _check(self, scale: int) -> None:
        if scale not in self.scales:
            raise InputError(f"There is no scale {scale!r:.20}; choose one of the page")


def viewed(result: Result) -> Any:
    if result.after is None:
        return gr.HTML(visible=False)
    width, height = result.done.after
    value = {"before": address(result.before), "after": address(result.after), "width": width, "height": height}
    return gr.HTML(value=value, visible=True)


def address(file: Path) -> str:
    """Where the page finds a file that lies in gradio's folder."""
    return f"./gradio_api/file={quote(file.as_posix())}"


def said(result: Result) -> str:
    """What was done and what its owner should know, as HTML."""
    before, after = (f"{width} × {height}" for width, height in (result.done.before, result.done.after))
    took = f"{result.seconds:.1f} s" if result.seconds < 10 else duration(result.seconds)
    lines = [f"{before} became {after} in {took}.", *result.done.notes]
    if result.done.quality is not None:
        lines.append(f"A strongly compressed JPEG (quality about {result.done.quality}): its blocks are enlarged, too.")
    if result.after is None:
        lines.append("It is too large to be shown here: download it.")
    elif result.after != result.file:
        lines.append("A smaller copy is shown; the download has the full size.")
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def downloadable(result: Result) -> Any:
    size = result.file.stat().st_size / 2**20
    return gr.DownloadButton(f"Download {result.file.name} ({size:.1f} MB)", str(result.file), visible=True)


def make_page(desk: Desk) -> gr.Blocks:
    """The page. Call it when GRADIO_TEMP_DIR names the folder of `desk.pages`."""
    scales = desk.scales
    with gr.Blocks(title="SSIU", analytics_enabled=False, delete_cache=(60, KEPT)) as page:
        gr.Markdown(TITLE, elem_id="title")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                picture = gr.File(label="Picture", height=160, elem_id="picture")
                about = gr.HTML(desk.about(None, scales[-1]), elem_id="about")
                scale = gr.Radio([(f"x{n}", n) for n in scales], value=scales[-1], label="Scale", elem_id="scale")
                button = gr.Button("Enlarge", variant="primary", elem_id="enlarge")
            with gr.Column(scale=2, min_width=280):
                viewer = gr.HTML(visible=False, elem_id="viewer", **VIEWER)
                notes = gr.HTML(EMPTY, elem_id="notes", min_height=96)
                download = gr.DownloadButton(visible=False, variant="primary", elem_id="download")
        results: list[Any] = [viewer, notes, download]
        given: list[Any] = [picture, scale]
        quick: dict[str, Any] = {"queue": True, "concurrency_limit": None, "show_progress": "hidden", **PRIVATE}
        gr.on([picture.upload, picture.clear], desk.look, given, [picture, about, *results], **quick)
        scale.input(refused()(desk.about), given, about, **quick)
        button.click(desk.enlarge, given, results, concurrency_limit=1, show_progress_on=notes, **PRIVATE)
        page.unload(desk.leave)
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    return page
