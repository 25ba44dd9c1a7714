"""README.md, CONTRIBUTING.md and docs/: what is there to be typed is run by a test or says why not, and is right."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import check
from helpers import ROOT, build, run_script
from pages import blocks_of, pages, single_commands, words_of
from PIL import Image

from config import build_config
from datas import downscale, lr_folder, upscale, write_png

BLOCKS = [block for page in pages() for block in blocks_of(page)]
RUN_HERE = {
    page.name: [block for block in BLOCKS if ROOT / block.page == page and block.reason == "tests/test_docs.py"]
    for page in pages()
}
QUICK = [
    "training_dataset=sample", "data_path=data/sample", "eval_sets=[Sample]",
    "epochs=1", "patch_size=32", "batch_size=2", "data_repeat=2", "threads=0", "gpu_ids=[]", "test_every=7",
]  # fmt: skip
ELSEWHERE = {"doctor.py": "tests/test_doctor.py", "datas/sample.py": "tests/datas/test_sample.py"}  # seconds each


def test_every_block_is_run_by_a_test_or_says_why_not():
    unmarked = [str(block) for block in BLOCKS if block.is_typed() and block.mark is None]
    assert unmarked == [], "put `<!-- run: tests/FILE.py -->` or `<!-- not run: REASON -->` above each"


def test_the_tests_that_are_named_are_there_and_read_that_page():
    for block in BLOCKS:
        if block.mark == "run":
            text = (ROOT / block.reason).read_text(encoding="utf-8")
            page = Path(block.page).name
            assert block.reason == "tests/test_docs.py" or page in text, f"{block}: {block.reason} does not name {page}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory: configs, weights, photo.jpg, tiny images as the sample and as Set5, and a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSIU_BACKEND", "plain")  # the fast ones prove themselves in other tests
    for name in ("configs", "pretrain_model"):
        shutil.copytree(ROOT / name, name)
    small = Path("configs/sample_x4.yml")
    small.write_text(small.read_text(encoding="utf-8").replace("n_feats: 32", "n_feats: 8"), encoding="utf-8")
    rng = np.random.default_rng(0)
    for place in ("sample/Sample/Sample_train_HR", "sample/benchmark/Sample/HR", "benchmark/Set5/HR"):
        for number in range(2):
            image = upscale(rng.integers(0, 256, (12, 15, 3), dtype=np.uint8), 4)
            hr = Path("data", place)
            write_png(hr / f"{number:04d}.png", image)
            for scale in (2, 3, 4) if "sample" in place else ():
                write_png(lr_folder(hr, scale) / f"{number:04d}x{scale}.png", downscale(image, scale))
    Image.fromarray(image).resize((20, 16)).save("photo.jpg")
    Path("runs/NAME").mkdir(parents=True)
    torch.save(build(4, n_feats=8).state_dict(), "runs/NAME/best.pt")
    return tmp_path


def follow(page: str) -> None:
    names: dict = {}
    for block in RUN_HERE[page]:
        if block.language == "python":
            exec(block.text, names)
        elif block.language == "yaml":
            values = yaml.safe_load(Path("configs/sample_x4.yml").read_text(encoding="utf-8"))
            build_config({**values, **yaml.safe_load(block.text)}, block, ())
        for command in block.commands():
            script, words = _script_of(command)
            if script not in ELSEWHERE:
                done = run_script(script, *words)
                assert done.returncode == 0, f"{block}: {command}: {done.stderr}"


def _script_of(command: str) -> tuple[str, list[str]]:
    """The file of a command and its words, with what makes it quick."""
    program, *words = words_of(command)
    assert program == "python", f"{command}: {program} is not run by this test"
    if words[0] == "-m":
        words[:2] = [f"{words[1].replace('.', '/')}.py"]
    script, *words = words
    if script == "train.py":
        sizes = QUICK if "--resume" not in words else QUICK[3:]
        words = [*(word for pair in sizes for word in ("--set", pair)), *words]
    if script == "test.py":
        words += ["--set", "gpu_ids=[]"]
    return script, words


@pytest.mark.parametrize("page", [name for name, blocks in RUN_HERE.items() if blocks and name != "getting-started.md"])
def test_the_blocks_of_a_page_run(page, folder):
    follow(page)


def test_who_gets_started_has_what_the_page_says(folder):
    follow("getting-started.md")
    results = ("photo_x4.png", "larger/photo_x2.png", "small/photo_x4.png", "large.png")
    assert [Image.open(path).size for path in results] == [(80, 64), (40, 32), (80, 64), (80, 64)]
    assert len(list(Path("results/SSUFSR_light_x4/Sample").glob("*_x4.png"))) == 2
    assert list(Path("runs/first").glob("iteration_*.pt"))


def test_every_command_is_taken_by_its_program():
    wrong = []
    for page in pages():
        commands = [command for block in BLOCKS if ROOT / block.page == page for command in block.commands()]
        for command in commands + single_commands(page):
            if problem := check(command):
                wrong.append(f"{page.name}: {command}: {problem}")
    assert wrong == []


def test_the_check_finds_what_is_wrong():
    assert check("python train.py --config configs/SSUFSR_light_x4.yml --set lr=0.1") == ""
    assert "unknown config key 'rl'" in check("python train.py --config configs/SSUFSR_light_x4.yml --set rl=0.1")
    assert "not positive" in check("python train.py --config configs/SSUFSR_light_x4.yml --set lr=-1")
    assert "--dry" in check("torchrun --nproc_per_node=4 train.py --dry-runs")
    assert "there is no" in check("python -m tools.nothing")
    assert "there is no" in check("python test.py --config configs/none.yml")
    assert "make has no" in check("make tea")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target.split("#") for target in targets if not target.startswith(("http", "#", "mailto"))]
    assert [name for name, *_ in local if not (page.parent / name).exists()] == []
    for name, *anchors in local + [["", target[1:]] for target in targets if target.startswith("#")]:
        aim = page.parent / name if name else page
        for anchor in anchors:
            assert anchor in headings(aim), f"{aim.name} has no heading #{anchor}"


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_names_every_page():
    index = ROOT / "docs" / "index.md"
    named = set(re.findall(r"\]\((\w[\w-]*\.md)\)", index.read_text(encoding="utf-8")))
    assert named >= {page.name for page in index.parent.glob("*.md")} - {"index.md"}
