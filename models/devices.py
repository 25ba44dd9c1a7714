"""Which device a process works on, and what it is called in reports."""

import platform

import torch

from .errors import ModelError


def pick_device(gpu_ids, local_rank: int = 0, say=print) -> torch.device:
    """The device of this process: `cuda:gpu_ids[local_rank]`, or the CPU where there is no CUDA (said through `say`).

    An empty `gpu_ids` asks for the CPU. A CUDA device becomes the process's current one: Triton launches kernels on
    that, wherever their tensors lie.

    Raises:
        ModelError: the machine has CUDA but not that device, or fewer ids than processes were given.
    """
    if not gpu_ids:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        say("no CUDA here: working on the CPU (gpu_ids has no effect)")
        return torch.device("cpu")
    count = torch.cuda.device_count()
    absent = [index for index in gpu_ids if index >= count]
    if absent:
        have = ", ".join(str(index) for index in range(count))
        raise ModelError(f"config key 'gpu_ids': device {absent[0]} does not exist; this machine has {have}")
    if local_rank >= len(gpu_ids):
        raise ModelError(f"config key 'gpu_ids': {list(gpu_ids)} has no device for process {local_rank}; list one each")
    device = torch.device("cuda", gpu_ids[local_rank])
    torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """The device's name, for reports: that of the GPU, or the processor with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass  # not Linux: the platform's own word will do
    return f"{model}, {torch.get_num_threads()} threads"
