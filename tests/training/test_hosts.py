"""Two machines, each with a torchrun: two network namespaces of this one, with nothing but a cable between them."""

import os
import subprocess
import sys

import pytest
import torch
from helpers import train
from torchrun import finished, logged, losses, torchrun, write_configs

from config import load_config

ADDRESSES = ("10.213.0.1", "10.213.0.2")
CABLE = "ssiu"  # its end in each


def ip(*arguments) -> None:
    """Call `ip`; the test is skipped where that is not allowed."""
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no command `ip` (Debian: iproute2), which makes network namespaces")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"`ip {' '.join(arguments)}`: {error.stderr.strip()}; making network namespaces takes root")


@pytest.fixture
def hosts():
    """Names of two network namespaces, joined by a pair of veth devices that have ADDRESSES."""
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    names = [f"ssiu-{os.getpid()}-{number}" for number in (1, 2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", CABLE, "netns", names[0], "type", "veth", "peer", "name", CABLE, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", CABLE)
            for device in ("lo", CABLE):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def launch_on(host, address, folder, *arguments, **more):
    """torchrun on one of the two; its first is where they find each other, and their names say nothing of that."""
    options = [
        "--nnodes=2", "--nproc_per_node=1", "--max-restarts=1", "--rdzv_backend=c10d",
        f"--rdzv_endpoint={ADDRESSES[0]}:29500", f"--rdzv_conf=is_host={address == ADDRESSES[0]}",
        f"--local-addr={address}",
    ]  # fmt: skip
    inside = ["ip", "netns", "exec", host]
    return torchrun(folder, *arguments, options=options, host=inside, GLOO_SOCKET_IFNAME=CABLE, **more)


def test_two_machines_give_the_losses_of_one_process_also_after_a_worker_is_killed(
    hosts, tmp_path, tiny_data, monkeypatch
):
    """The machine whose worker was not killed does not count the restart."""
    write_configs(tmp_path, tiny_data)
    arguments = ["--config", "own.yml", "--set", "log_name=two"]
    started = [
        launch_on(host, address, tmp_path, *arguments, faults="1:6:SIGKILL")
        for host, address in zip(hosts, ADDRESSES, strict=True)
    ]
    try:
        for process in started:
            finished(process)
    finally:
        for process in started:
            process.kill()
    monkeypatch.chdir(tmp_path)
    train(load_config("own.yml"), tmp_path / "one")
    two = tmp_path / "runs" / "two"
    assert [line["processes"] for line in logged(two, "start")] == [2, 2]
    assert logged(two, "start")[1]["iteration"] == 4
    torch.testing.assert_close(losses(two), losses(tmp_path / "one"), rtol=1e-4, atol=0)
