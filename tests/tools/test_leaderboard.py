"""tools/leaderboard/: what is compared, what is marked, and the same table in three formats."""

import csv
import io
import itertools
import json
import re
from functools import partial

import pytest
from helpers import run_script
from leaderboards import a_set, made, save_result

from tools.leaderboard.read import read_result, read_times
from tools.leaderboard.text import as_csv, as_latex, as_markdown
from utils import InputError

SCRIPT = "tools/leaderboard/__main__.py"


@pytest.fixture
def saved(tmp_path):
    """Function of a network's name, its sets and other keys: the file of its results."""
    return partial(save_result, tmp_path)


def rows_of(*files, **options):
    """{first cell: other cells by header} of the Markdown of one board."""
    lines = [line for line in as_markdown(made(*files, **options)).splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def notes_of(*files, **options):
    return [line[2:] for line in as_markdown(made(*files, **options)).splitlines() if line.startswith("- ")]


def test_best_is_bold_and_second_underlined_by_what_is_printed(saved):
    files = [
        saved("A", {"Set5": a_set(31.913, 0.88999)}),  # 31.91, 0.8900: ties with B, 0.8900 as D
        saved("B", {"Set5": a_set(31.908, 0.8914)}),  # 31.91
        saved("C", {"Set5": a_set(31.904, 0.8899)}),  # 31.90
        saved("D", {"Set5": a_set(9.99, 0.89)}),  # a number that is larger as text
    ]
    assert {name: row["Set5"] for name, row in rows_of(*files).items()} == {
        "A": "**31.91** / <ins>0.8900</ins>",
        "B": "**31.91** / **0.8914**",
        "C": "<ins>31.90</ins> / 0.8899",
        "D": "9.99 / <ins>0.8900</ins>",
        "bicubic": "28.00 / 0.8000",
    }
    assert rows_of(files[0])["A"]["Set5"] == "31.91 / 0.8900"  # alone it is the best of nothing


def test_no_number_is_neither_best_nor_in_the_way_of_it(saved):
    files = [saved("A", {"Set5": a_set(float("nan"), 0.5)}), saved("B", {"Set5": a_set(30.0, 0.6)})]
    found = rows_of(*files)
    assert list(found)[:2] == ["B", "A"]
    assert (found["B"]["Set5"], found["A"]["Set5"]) == ("**30.00** / **0.6000**", "nan / <ins>0.5000</ins>")


def test_rows_go_from_best_to_worst_and_columns_from_set5_on(saved):
    files = [
        saved("worse", {"Mine": a_set(20, 0.5), "B100": a_set(27.0, 0.7), "Set5": a_set(30.0, 0.8)}),
        saved("better", {"Set5": a_set(31.0, 0.8), "Mine": a_set(19, 0.5)}),
    ]
    found = rows_of(*files)
    assert list(found) == ["better", "worse", "bicubic"]
    assert list(found["better"])[-3:] == ["Set5", "B100", "Mine"]
    assert found["better"]["B100"] == ""
    assert list(rows_of(*files, wanted="Mine")) == ["worse", "better", "bicubic"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"images": ("baby",)}, "1 images, of which 1 are among the 2 of the others"),
        ({"hr": "1234"}, "other HR images of the same names"),
        ({"lr": "1234"}, "other LR images of the same names"),
        ({"bicubic": 28.01}, "other images of the same names, as bicubic has 28.010 dB in place of 28.000"),
    ],
    ids=["names", "hr", "lr", "bicubic"],
)
def test_a_value_of_other_images_has_a_footnote_and_does_not_compete(saved, other, reason):
    prints = {"hr": "aaaa", "lr": "bbbb"}
    files = [
        saved("stranger", {"Set5": a_set(35.0, 0.95, **{**prints, **other}), "Set14": a_set(27.0, 0.7)}),
        saved("A", {"Set5": a_set(31.0, 0.88, **prints), "Set14": a_set(26.0, 0.7)}),
        saved("B", {"Set5": a_set(30.0, 0.87, **prints), "Set14": a_set(25.0, 0.7)}),
    ]
    found = rows_of(*files)
    assert found["stranger"]["Set5"] == "35.00 / 0.9500<sup>a</sup>"
    assert found["A"]["Set5"] == "**31.00** / **0.8800**"
    assert found["stranger"]["Set14"].startswith("**27.00**")
    assert list(found) == ["A", "B", "stranger", "bicubic"]
    assert f"<sup>a</sup> Set5: {reason}; not ranked." in notes_of(*files)
    assert found["stranger"]["ms, Set5"] == ""


def test_a_file_without_fingerprints_does_not_join_two_that_differ(saved):
    """Names and bicubic of all agree; A and C do not, and B can be compared with either."""
    files = [
        saved("A", {"Set5": a_set(31.0, 0.88, lr="1")}),
        saved("B", {"Set5": a_set(30.0, 0.87)}),
        saved("C", {"Set5": a_set(32.0, 0.89, lr="2")}),
    ]
    found = rows_of(*files)
    assert [found[name]["Set5"][:7] for name in "ABC"] == ["**31.00", "<ins>30", "32.00 /"]
    assert "<sup>a</sup> Set5: other LR images of the same names; not ranked." in notes_of(*files)


def test_a_file_without_fingerprints_is_compared_by_the_rest_and_that_is_said(saved):
    files = [
        saved("A", {"Set5": a_set(31.0, 0.88, hr="1", lr="2")}),
        saved("B", {"Set5": a_set(30.0, 0.87, bicubic=None)}),
    ]
    assert rows_of(*files)["B"]["Set5"] == "<ins>30.00</ins> / <ins>0.8700</ins>"
    assert "Not every file has fingerprints of the images of Set5." in notes_of(*files)
    files[1] = saved("B", {"Set5": a_set(30.0, 0.87, hr="1", lr="2")})
    assert not any("fingerprints" in note for note in notes_of(*files))


def test_other_conditions_stand_in_the_name_and_do_not_compete(saved):
    files = [
        saved("A", {"Set5": a_set(31.0, 0.88)}),
        saved("B", {"Set5": a_set(30.0, 0.87)}),
        saved("A", {"Set5": a_set(31.5, 0.89)}, file="plus", conditions="self-ensemble x8, bf16"),
    ]
    found = rows_of(*files)
    assert found["A (self-ensemble x8, bf16)"]["Set5"] == "31.50 / 0.8900"
    assert found["A"]["Set5"] == "**31.00** / **0.8800**"
    assert "Rows with conditions in brackets are not ranked." in notes_of(*files)


def test_an_older_file_has_its_name_and_conditions_from_what_it_holds(tmp_path):
    file = tmp_path / "model_290.json"
    content = {
        "config": {"scale": 2, "eval_precision": "bf16"},
        "self_ensemble": True,
        "sets": {"Set5": a_set(36, 0.9)},
    }
    file.write_text(json.dumps(content))
    (board,) = made(file)
    assert (board.scale, board.rows[0].label) == (2, "model_290 (self-ensemble x8, bf16)")


def test_a_file_of_scores_alone_is_a_row_without_costs(tmp_path, saved):
    file = tmp_path / "images.json"
    scored = a_set(30.0, 0.87, bicubic=None, seconds=None)
    file.write_text(json.dumps({"network": {"name": "Theirs"}, "scale": 4, "sets": {"Set5": scored}}))
    found = rows_of(file, saved("A", {"Set5": a_set(31.0, 0.88)}))
    assert list(found["Theirs"].values()) == ["", "", "", "<ins>30.00</ins> / <ins>0.8700</ins>"]
    assert list(found["A"].values())[:3] == ["1.0", "0.0", "50.0"]


def test_official_scores_of_files_are_not_ranked_and_standard_ones_are(saved):
    files = [
        saved("A", {"Set5": a_set(31.0, 0.88)}),
        saved("B", {"Set5": a_set(32.0, 0.89, official_input="uint8")}),
    ]
    assert rows_of(*files)["B"]["Set5"] == "**32.00** / **0.8900**"
    assert rows_of(*files, protocol="official")["B (of 8-bit images)"]["Set5"] == "32.01 / 0.8901"


def test_scales_have_tables_of_their_own(saved):
    files = [saved("A", {"Set5": a_set(31.0, 0.88)}), saved("A", {"Set5": a_set(36.0, 0.95)}, scale=2, file="two")]
    text = as_markdown(made(*files))
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == ["x2", "x4"]
    assert "**36" not in text
    assert "**31" not in text


def test_times_of_different_devices_are_left_out_with_a_word(saved):
    files = [
        saved("A", {"Set5": a_set(31.0, 0.88)}),
        saved("B", {"Set5": a_set(30.0, 0.87)}, device="NVIDIA H100"),
    ]
    assert not any("ms" in column for column in rows_of(*files)["A"])
    assert "Times are left out, as the devices differ: EPYC, 2 threads; NVIDIA H100." in notes_of(*files)


def test_times_of_the_benchmark_take_the_place_of_those_beside_other_work(saved, tmp_path):
    """The fastest float32 way through each network counts, tiles and the literal transcription do not."""
    paths = [
        ("A", "literal float32", 1.0), ("A", "plain float32", 900.0),
        ("A", "cpu float32", 400.0), ("A", "cpu bf16", 3.0),
        ("B.x", "plain float32 of B.x", 70.25), ("B.x", "plain float32 of B.x, tiles of 64, overlap 8", 5.0),
    ]  # fmt: skip
    rows = [{"scale": 4, "output": "720p", "network": n, "path": path, "median_ms": ms} for n, path, ms in paths]
    others = [{**rows[1], "output": "4K", "median_ms": 2.0}, {**rows[1], "scale": 2, "median_ms": 2.0}]
    file = tmp_path / "times.json"
    file.write_text(json.dumps({"device": "NVIDIA H100", "rows": rows + others}))
    files = [
        saved("A", {"Set5": a_set(31.0, 0.88)}),
        saved("B.x", {"Set5": a_set(30.0, 0.87)}),
        saved("A", {"Set5": a_set(31.0, 0.88)}, file="plus", conditions="self-ensemble x8"),
    ]
    options = {"times": read_times(file)}
    found = {name: row["ms, 1280x720"] for name, row in rows_of(*files, **options).items()}
    assert found == {"A": "400.0", "B.x": "70.2", "A (self-ensemble x8)": "", "bicubic": ""}
    assert "Times: float32 on NVIDIA H100." in notes_of(*files, **options)
    smaller = saved("A", {"Set5": a_set(30.5, 0.87)}, file="ablation", parameters=500)  # whose time it is is not known
    found = {name: row["ms, 1280x720"] for name, row in rows_of(*files, smaller, **options).items()}
    assert set(found.values()) == {"", "70.2"}
    assert '"70.25"' in json.dumps(next(csv.DictReader(io.StringIO(as_csv(made(files[1], **options))))))
    file.write_text(json.dumps({"device": "NVIDIA H100", "rows": others[:1]}))
    with pytest.raises(InputError, match=r"times\.json: holds no times of outputs of 720p in float32"):
        read_times(file)


def test_the_official_protocol_rounds_upwards_beside_the_papers_own_row(saved):
    found = rows_of(saved("A", {"Set5": a_set(31.901, 0.88001)}), protocol="official", paper=True)
    assert found["A"]["Set5"] == "31.91 / 0.8801"
    assert found["SSIU, the paper"]["Set5"] == "32.64 / 0.9032"
    with pytest.raises(InputError, match="add --protocol official"):
        made(saved("A", {"Set5": a_set(31.9, 0.88)}), paper=True)


def test_rows_of_one_name_are_told_apart_by_their_files(saved):
    files = [saved("A", {"Set5": a_set(31.0, 0.88)}, file=name) for name in ("one", "two", "deep/two")]
    assert list(rows_of(*files))[:3] == [r"A \[one\]", f"A \\[{files[1]}\\]".replace("_", r"\_"),
                                         f"A \\[{files[2]}\\]".replace("_", r"\_")]  # fmt: skip
    with pytest.raises(InputError, match=r"one\.json: is given twice"):
        made(files[0], files[0])


def test_the_csv_holds_what_was_measured(saved):
    sets = {"Set5": a_set(31.9083456789, 0.891412345), "Set14": a_set(28.4, 0.77, images=("one",))}
    files = [
        saved('A, "the" first', sets, parameters=794467, multiply_adds=38e9),
        saved("B", {"Set14": a_set(28.0, 0.7)}),
        saved("C", {"Set14": a_set(28.1, 0.7)}),
    ]
    text = as_csv(made(*files))
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(text))}
    first = rows['A, "the" first']
    assert (float(first["Set5 PSNR"]), float(first["Set5 SSIM"])) == (31.9083456789, 0.891412345)
    assert (first["scale"], first["protocol"], first["ranked"]) == ("4", "standard", "yes")
    assert (first["parameters"], first["multiply_adds"]) == ("794467", "38000000000")
    assert first["Set14 difference"].startswith("1 images")
    assert (rows["B"]["Set5 PSNR"], rows["B"]["Set14 difference"]) == ("", "")
    assert (rows["B"]["milliseconds"], rows["B"]["milliseconds_of"]) == ("50.0", "Set14")


def test_latex_is_balanced_escaped_and_has_as_many_cells_in_every_row(saved):
    files = [
        saved(r"B&W_100% #1 {x} $a^b$ ~\|", {"Set5": a_set(31.0, 0.88), "My_set": a_set(20.0, 0.5)}),
        saved("B", {"Set5": a_set(30.0, 0.87)}),
        saved("C", {"Set5": a_set(40.0, 0.97, images=("one",))}),
    ]
    text = as_latex(made(*files))
    name = r"B\&W\_100\% \#1 \{x\} \$a\textasciicircum{}b\$ \textasciitilde{}\textbackslash{}\textbar{}"
    assert f"{name} & 1.0 & 0.0 & 50.0 & \\textbf{{31.00}} & \\textbf{{0.8800}} & 20.00 & 0.5000 \\\\" in text
    assert "40.00 & 0.9700\\textsuperscript{a} &  &  \\\\" in text
    assert "\\underline{30.00} & \\underline{0.8700}" in text
    body = text[text.index("\\midrule") : text.index("\\bottomrule")].splitlines()[1:]
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(columns) - 1}
    assert "\\cmidrule(lr){5-6}\\cmidrule(lr){7-8}" in text
    bare = re.sub(r"\\[\\{}]", "", text)
    depths = list(itertools.accumulate((c == "{") - (c == "}") for c in bare))
    assert min(depths) == depths[-1] == 0
    begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", text) for word in ("begin", "end"))
    assert begun == ended[::-1] == ["table", "tabular"]


def test_markdown_names_cannot_break_the_table(saved):
    assert next(iter(rows_of(saved("a|b_*c*<i>", {"Set5": a_set(31.0, 0.88)})))) == r"a\|b\_\*c\*\<i\>"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is no JSON"),
        ("[]", "'sets' is missing"),
        ('{"rows": []}', "'sets' is missing"),
        ('{"sets": []}', r"'sets' is \[\], not a mapping"),
        ('{"sets": {}}', "holds no scores"),
        ('{"sets": {"Set5": {"images": {}}}}', "holds no scores"),
        ('{"sets": {"Set5": {"official": {}, "images": {}}}}', r"'sets\.Set5\.standard' is missing"),
        ('{"sets": {"Set5": {"standard": {"psnr": 1}, "images": {}}}}', r"'sets\.Set5\.standard\.ssim' is missing"),
        ('{"sets": {"Set5": {"standard": {"psnr": "1", "ssim": 1}}}}', r"standard\.psnr' is '1', not a number"),
        ('{"sets": {"Set5": {"standard": {"psnr": 1, "ssim": 1}}}}', r"'sets\.Set5\.images' is missing"),
        ('{"sets": {"Set5": {"standard": {"psnr": 1, "ssim": 1}, "images": {}}}}', "'scale' is missing"),
        ('{"scale": 7, "sets": {"Set5": {"standard": {"psnr": 1, "ssim": 1}, "images": {}}}}', "scale 7 is not one of"),
    ],
)
def test_a_file_that_holds_no_results_is_named_with_what_is_missing(tmp_path, content, reason):
    file = tmp_path / "x4.json"
    file.write_text(content)
    with pytest.raises(InputError, match=rf"x4\.json: .*{reason}") as caught:
        read_result(file, "standard")
    assert "\n" not in str(caught.value)


def test_the_command_writes_all_three_tables(saved, tmp_path):
    file = saved("A", {"Set5": a_set(31.0, 0.88)})
    done = run_script(SCRIPT, file, "--out", tmp_path / "out" / "x4.board")
    assert done.returncode == 0, done.stderr
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == ["x4.board.csv", "x4.board.md", "x4.board.tex"]
    assert written["x4.board.md"].strip() in done.stdout
    failed = run_script(SCRIPT, file, tmp_path / "no.json")
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert "no.json: cannot be read" in failed.stderr


def test_options_that_name_what_no_file_has_are_refused(saved, tmp_path):
    files = [saved("A", {"Set5": a_set(31, 0.8)}), saved("A", {"Set5": a_set(36, 0.9)}, scale=2, file="two")]
    picture = ["--plot", tmp_path / "x.png"]
    for options, reason in (
        (["--set", "B100"], "--set B100: no file has scores of it; they have Set5"),
        (picture, "--plot: the files are of scales 2, 4; add --scale"),
        ([*picture, "--scale", "3"], "--scale 3: no file is of it; they are of 2, 4"),
        (["--scale", "4"], "--scale: goes with --plot"),
    ):
        done = run_script(SCRIPT, *files, *options)
        assert done.returncode == 2
        assert reason in done.stderr
