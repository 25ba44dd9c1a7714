"""What processes share besides their group, and over torchrun's restarts. torchrun's store is kept here."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch.distributed as dist
from helpers import assert_same_bits, final_state, run_script, stop_at, train

from config import load_config
from training import launch as launches
from training import watch as watches
from training.folder import name_folder
from training.launch import Launch
from training.watch import Watch


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Function of a rank and the number of processes: makes this process one of them, as torchrun would."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def start(rank=0, world=1):
        variables = {
            "RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
            "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_ERROR_FILE": tmp_path / "error.json",
        }  # fmt: skip
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        launches.launch.cache_clear()
        return Launch()

    yield start
    launches.launch.cache_clear()


def together(*works):
    """What functions return that wait for one another; SystemExit where one ends its process."""

    def ended(work):
        try:
            return work()
        except SystemExit as leaving:
            return leaving

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(ended, works))


def meeting(start, world=2):
    """Processes that have met."""
    processes = [start(rank, world) for rank in range(world)]
    together(*(process.meet for process in processes))
    return processes


def test_processes_meet_under_a_name_that_no_earlier_try_had(start):
    names = []
    for _ in range(3):
        tried = {process.this_try for process in meeting(start, world=3)}
        assert len(tried) == 1
        names += tried
    assert len(set(names)) == 3


@pytest.mark.parametrize("before", ["met", "killed before it met"])
def test_a_process_waits_for_the_one_that_replaces_a_killed_one(before, start):
    meeting(start)
    if before != "met":
        start().store.set("name 0", "killed")
    second, first = start(1, world=2), start(0, world=2)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(second.meet)
        time.sleep(0.2)
        assert not waiting.done()
        first.meet()
        waiting.result(timeout=10)
    assert first.this_try == second.this_try


def test_the_first_process_says_what_all_hear(start):
    first, second = meeting(start)
    first.store.set("first says", "something in an earlier try")
    assert together(lambda: second.first_says("2"), lambda: first.first_says("1")) == ["1", "1"]


def test_who_waits_for_a_process_that_fails_ends_without_a_word(start, capsys):
    first, second = meeting(start)
    left, _ = together(lambda: second.first_says(""), lambda: first.fail("error: locked"))
    assert left.code == 2
    assert capsys.readouterr().err.split("\n") == ["", "error: locked", ""]


def test_of_processes_that_fail_one_speaks_whoever_it_is_and_torchrun_hears_all(start, capsys, tmp_path):
    first, second = meeting(start)
    for process, line in ((second, "error: no GPU here"), (first, "error: another has ended")):
        process.fail(line)
        told = json.loads((tmp_path / "error.json").read_text())["message"]
        assert told["message"] == told["extraInfo"]["py_callstack"] == line
    assert capsys.readouterr().err.split("\n") == ["", "error: no GPU here", ""]


def test_an_error_is_not_repeated_by_every_restart_but_a_killed_process_is_named_each_time(start, capsys):
    for _ in range(2):
        first, _ = meeting(start)
        first.fail("error: wrong key")
    for _ in range(2):
        first, _ = meeting(start)
        first.fail("error: killed", every_try=True)
    assert capsys.readouterr().err.split("\n") == ["", "error: wrong key", "", "error: killed", "", "error: killed", ""]


def test_an_error_is_printed_where_the_store_is_gone(start, capsys):
    process = start()
    process._is_torchruns = True
    process.connect = lambda: (_ for _ in ()).throw(dist.DistNetworkError("refused"))
    process.fail("error: late")
    assert "error: late" in capsys.readouterr().err


def test_a_run_without_a_name_has_the_same_one_in_all_processes_and_after_a_restart(start, tiny_config, monkeypatch):
    config = load_config(tiny_config())
    times = iter(["1", "2", "3"])
    monkeypatch.setattr("time.strftime", lambda _: next(times))
    folders = []
    for rank in (0, 1, 0):
        start(rank, world=2)
        folders.append(name_folder(config).name)
    assert folders == ["SSIU_x2_1"] * 3


def test_a_restart_goes_on_with_its_own_run_from_the_start_or_from_what_was_saved(
    start, tiny_config, tmp_path, monkeypatch
):
    file, run = tiny_config(log_name="run", eval_sets=[]), tmp_path / "runs" / "run"
    train(load_config(file), tmp_path / "whole")
    start()
    assert run_script("train.py", "--config", file, "--set", "data_path=/absent").returncode == 2
    run.mkdir(parents=True)
    (run / "config.yml").write_text("of a try that was killed before it saved")
    start()
    with monkeypatch.context() as patch:
        stop_at(7, patch)
        assert run_script("train.py", "--config", file).returncode == 143
    start()
    done = run_script("train.py", "--config", file)
    assert "from iteration 8 to 12" in done.stdout, done.stderr
    assert_same_bits(final_state(run), final_state(tmp_path / "whole"))


def test_a_restart_with_another_config_is_refused(start, tiny_config, monkeypatch):
    start()
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        run_script("train.py", "--config", tiny_config(log_name="run"))
    start()
    done = run_script("train.py", "--config", tiny_config(log_name="run", lr=2e-3))
    assert (done.returncode, "lr was 0.001, is 0.002" in done.stderr) == (2, True)


def test_the_run_of_another_start_is_refused_also_after_a_restart(start, tiny_config, tmp_path):
    file = tiny_config(log_name="run", epochs=1, eval_sets=[])
    train(load_config(file), tmp_path / "runs" / "run")
    start()
    first = run_script("train.py", "--config", file)
    assert (first.returncode, "holds a run already" in first.stderr) == (2, True)
    start()
    again = run_script("train.py", "--config", file)
    assert (again.returncode, again.stderr) == (2, "")


def test_resume_goes_on_under_a_restart(start, tiny_config, tmp_path, monkeypatch):
    config = load_config(tiny_config(eval_sets=[]))
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        train(config, tmp_path / "cut")
        for iteration in (5, 8):
            stop_at(iteration, patch)
            start()
            assert run_script("train.py", "--resume", tmp_path / "cut").returncode == 143
    start()
    assert run_script("train.py", "--resume", tmp_path / "cut").returncode == 0
    assert_same_bits(final_state(tmp_path / "cut"), final_state(tmp_path / "whole"))


@pytest.fixture
def watched(start, monkeypatch):
    """(The watches of three processes, which wait for 0.15 seconds at most; those that have ended their process)."""
    ended = []

    def leave():
        ended.append("left")
        raise SystemExit  # ends the thread of the watch

    monkeypatch.setattr(watches, "leave", leave)
    made = [Watch(0.0025, process) for process in meeting(start, world=3)]
    yield made, ended
    for watch in made:
        watch.end()


ENDS_A_THREAD = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def wait_in(some, seconds):
    with ExitStack() as waits:
        for watch in some:
            waits.enter_context(watch.waiting())
        time.sleep(seconds)


@ENDS_A_THREAD
@pytest.mark.parametrize(
    ("waiting", "who"), [([0, 2], "process 1 of 3"), ([2], "process 0, 1 of 3"), ([0, 1, 2], "one of 3 processes")]
)
def test_those_that_have_waited_too_long_end_and_one_names_those_that_do_not_wait(waiting, who, watched, capsys):
    made, ended = watched
    wait_in([made[place] for place in waiting], 0.7)
    assert len(ended) == len(waiting)
    (line,) = capsys.readouterr().err.split("\n")[1:-1]
    assert line.startswith(f"error: {who} has kept the others waiting for 0.0025 minutes; ")


def test_many_short_waits_and_long_work_between_them_end_nothing(watched, capsys):
    made, ended = watched
    for _ in range(8):
        wait_in(made, 0.05)
    time.sleep(0.3)
    assert (ended, capsys.readouterr().err) == ([], "")


@ENDS_A_THREAD
def test_who_waits_when_another_fails_ends_soon_and_silently(watched, start, capsys):
    made, ended = watched
    made[1]._launch.fail("error: no space left")
    capsys.readouterr()
    wait_in(made[:1], 0.1)
    assert (ended, capsys.readouterr().err) == (["left"], "")
