"""Serving the page: on one address, with a folder of its own that goes at the end, and nothing sent elsewhere."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils import InputError
from webapp.studio import Studio


@contextmanager
def served(studio: Studio, scales: list[int], host: str, port: int) -> Iterator[str]:
    """Serve the page while the block runs; gives its address.

    Raises:
        InputError: gradio is not installed, or the port cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="ssiu-app-", ignore_cleanup_errors=True) as folder, _environment(folder):
        try:
            from webapp.page import STYLE, THEME, Desk, Pages, make_page
        except ImportError as error:
            advice = "pip install -r requirements-app.txt"
            raise InputError(f"app.py: needs gradio, which cannot be imported ({error}); {advice}") from error
        pages = Pages(Path(folder))
        page = make_page(Desk(studio, pages, scales))
        try:
            _app, address, _shared = page.launch(
                server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True, inbrowser=False,
                max_file_size=int(studio.limits.upload_mb * 2**20), footer_links=[], run_history=False,
                enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, theme=THEME, css=STYLE,
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"--port {port}: cannot be had on {host} ({error}); choose another") from error
        try:
            yield address
        finally:
            pages.forget_all()  # which also ends work that is under way
            page.close(verbose=False)


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Variables for gradio: its files in `folder`, nothing reported, no proxy between it and its own page.

    Those that are set already are left out: one would share the page, others would serve more files.
    """
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False", NO_PROXY="*", no_proxy="*")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
