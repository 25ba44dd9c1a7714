"""The training loop, top to bottom: batch, step, log, validate, save.

The learning rate is a function of the position, the samples of an iteration are a function of its number, and a
checkpoint holds everything else, so a run may stop after any iteration and go on with the same bits.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import Config
from datas import BenchmarkSet, ResidentTrainSet, TrainSet, open_train_set, resident_bytes
from evaluation.evaluator import evaluate_set, from_network, to_network
from evaluation.pictures import side_by_side
from evaluation.report import versions
from models import choose_backend, create_model, inference, training_network
from models.devices import device_name, pick_device
from models.weights import load_weights
from training.checkpoints import load_run, run_checkpoints, save_checkpoint, save_run
from training.logs import RunLog
from training.step import GraphedStep, TrainStep
from utils import InputError, atomic_write, held_folder

LOOK_EVERY = {"cpu": 1, "cuda": 100}  # iterations between looks at the losses; each look waits for the device


@dataclass(frozen=True)
class Process:
    """This process among those of torchrun (one on its own without it), and its device."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, config: Config) -> "Process":
        """Join torchrun's group if there is one. Raises InputError for devices that do not exist."""
        rank, world, local = (int(os.environ.get(name, default)) for name, default in _TORCHRUN)
        device = pick_device(config.gpu_ids, local, say=print if rank == 0 else lambda text: None)
        if world == 1 and device.type == "cuda" and len(config.gpu_ids) > 1:
            count = len(config.gpu_ids)
            raise InputError(
                f"config key 'gpu_ids': {count} devices need as many processes: start with "
                f"torchrun --nproc_per_node={count} train.py ..., or name one device"
            )
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(rank, world, device)

    def agree(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(votes)
        return bool(votes)

    def average(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values / self.world

    def first_says(self, value: float) -> float:
        """The first process's number, in every process."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return shared.item()


_TORCHRUN = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))


@dataclass
class Position:
    """Where a run stands, saved with every checkpoint."""

    iteration: int = 0  # steps taken
    minutes: float = 0.0  # time spent in training steps, over all pieces of the run
    best: dict = field(default_factory=lambda: {"psnr": -math.inf, "iteration": 0})
    validated: int = 0  # iteration of the last validation


class StopRequest:
    """Set by SIGTERM or Ctrl-C: the loop saves and ends after the step under way; a second signal ends at once."""

    def __init__(self):
        self.signal = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number, _frame):
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


def learning_rate(config: Config, iteration: int, iterations_per_epoch: int, minutes: float = 0.0) -> float:
    """Learning rate of step `iteration` (from 0): linear warm-up, then a cosine from lr to eta_min.

    Schedule 'epoch' (the paper's) steps once an epoch. 'progress' moves every iteration, by whichever is further: the
    iterations done out of all, or the minutes spent out of max_minutes; a run cut short by the clock is then annealed.
    """
    if config.schedule == "epoch":
        epoch, quantum = iteration // iterations_per_epoch, 1.0
    else:
        by_clock = minutes / config.max_minutes if config.max_minutes else 0.0
        epoch = config.epochs * max(iteration / (config.epochs * iterations_per_epoch), by_clock)
        quantum = 1 / iterations_per_epoch
    if epoch < config.warmup_epochs:
        return config.lr * min(1.0, (epoch + quantum) / config.warmup_epochs)
    progress = min(1.0, (epoch - config.warmup_epochs) / (config.epochs - config.warmup_epochs))
    return config.eta_min + (config.lr - config.eta_min) * (1 + math.cos(math.pi * progress)) / 2


def train(config: Config, folder: Path, resume: bool) -> int:
    """Train as `config` says, in `folder`; returns the exit code: 0 when finished, 128 + signal when stopped by one.

    Raises:
        InputError: anything wrong with the folder, the data, the weights or the devices, before the first step; a loss
            that is not finite; no space to save.
    """
    process = Process.join(config)
    with held_folder(folder) if process.rank == 0 else nullcontext():
        return _train(process, config, folder, resume)


def _train(process: Process, config: Config, folder: Path, resume: bool) -> int:
    first = process.rank == 0
    if config.cuda_graph and (process.world > 1 or process.device.type != "cuda"):
        raise InputError("config key 'cuda_graph': needs one process on a CUDA device; set it to False")
    if config.batch_size % (process.world * config.accumulate):
        pieces = f"{process.world} process(es) x accumulate {config.accumulate}"
        raise InputError(f"config key 'batch_size': {config.batch_size} cannot be divided into {pieces}")
    sets = [BenchmarkSet(config.data_path, name, config.scale) for name in config.eval_sets]
    torch.manual_seed(config.seed)
    model = create_model(config).to(process.device)
    report = load_weights(model, config.pretrain, config.pretrain_new_tail) if config.pretrain and not resume else None
    data = open_data(config)
    draw, batches = open_batches(data, process, config)
    wanted = "plain" if config.compile else config.backend
    network, backend = training_network(model, process.device, wanted, config.precision)
    if sets:
        choose_backend(model, process.device, config.backend, config.eval_precision, training=False)
    step = TrainStep(config, model, wrap(network, config, process), process.device, draw)
    position = restore(step, folder, config, data) if resume else Position()
    update = GraphedStep(step) if config.cuda_graph else step
    per_epoch, total = data.iterations_per_epoch, config.epochs * data.iterations_per_epoch

    log = RunLog(folder if first else None, position.iteration)
    log.say(f"{process.world} process(es) on {device_name(process.device)}, {backend}; {data.num_images} images")
    log.say(f"from iteration {position.iteration:,} to {total:,}, {per_epoch:,} an epoch")
    for line in [f"{config.pretrain}: {report}"] * bool(report) + config.notes() + source_lines(data):
        log.say(line)
    if position.iteration >= total or out_of_time(config, position):
        missed = sets and position.validated < position.iteration
        what = "its last validation is made now" if missed else "nothing was done"
        log.say(f"this run is finished already; {what}")
        if first and missed:
            validate(step, sets, config, data, position, log, folder, last=True)
        log.close()
        return 0

    if first:
        atomic_write(folder / "config.yml", config.to_yaml().encode())
    started = {"date": time.strftime("%Y-%m-%d"), "device": device_name(process.device), **versions()}
    log.record("start", position.iteration, {**started, "backend": backend, "processes": process.world})
    stop = StopRequest()
    losses, since = [], time.perf_counter()  # loss terms that nobody looked at yet, and the time of the last look
    sums, spent = torch.zeros(3, dtype=torch.float64), 0.0  # L1, FFT and count, and seconds, since the last log line
    quiet = 0.5 if sys.stderr.isatty() else 30  # seconds between updates; a log file wants few
    bar = tqdm(total=total, initial=position.iteration, unit="it", disable=not first, mininterval=quiet)
    for batch in batches(position.iteration, total):
        rate = learning_rate(config, position.iteration, per_epoch, position.minutes)
        losses.append(update(batch, rate))
        position.iteration += 1
        bar.update()

        epoch, into_epoch = divmod(position.iteration, per_epoch)
        log_due = position.iteration % config.log_every == 0
        interrupted = stop.signal is not None and process.world == 1
        look = len(losses) >= LOOK_EVERY[process.device.type] or log_due or into_epoch == 0 or interrupted
        if not look:
            continue
        sums += finite_sums(losses, process, position.iteration, data, folder)
        seconds = time.perf_counter() - since
        spent += seconds
        speed = sums[2].item() * config.batch_size / spent
        position.minutes = process.first_says(position.minutes + seconds / 60)
        last = position.iteration == total or out_of_time(config, position)
        stopped = process.agree(stop.signal is not None) and not last
        l1, fft = (sums[:2] / sums[2]).tolist()
        bar.set_postfix({"loss": f"{l1 + fft:.5f}", "lr": f"{rate:.2e}", "images/s": f"{speed:.0f}"}, refresh=False)
        if log_due or last:
            values = {"loss": l1 + fft, "l1": l1, "fft": fft, "lr": rate, "images_per_second": speed}
            log.record("train", position.iteration, {**values, "minutes": position.minutes})
            log.say(f"iteration {position.iteration:,}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
            sums, spent = torch.zeros_like(sums), 0.0

        if first and (into_epoch == 0 or last or stopped):
            save_run(folder, snapshot(step, position, config, data), config.keep_last)
            test_due = last or (config.test_every and epoch % config.test_every == 0 and not stopped)
            if sets and test_due:
                validate(step, sets, config, data, position, log, folder, last)
        process.agree(False)  # the others wait here while the first saves and validates
        losses, since = [], time.perf_counter()
        if last or stopped:
            break

    bar.close()
    how = "stopped" if stopped else "finished" if position.iteration == total else "out of max_minutes"
    log.say(f"{how} after iteration {position.iteration:,}; saved in {folder}")
    log.close()
    if process.world > 1:
        dist.destroy_process_group()
    return 128 + stop.signal if stopped else 0


def out_of_time(config: Config, position: Position) -> bool:
    """Whether the run has spent its max_minutes."""
    return bool(config.max_minutes) and position.minutes >= config.max_minutes


def open_data(config: Config) -> TrainSet:
    """The training crops the config names."""
    return open_train_set(
        config.data_path,
        config.training_dataset,
        config.data,
        config.scale,
        config.patch_size,
        config.batch_size,
        config.data_repeat,
        config.data_augment,
        config.seed,
        config.cache_path,
    )


def wrap(network: torch.nn.Module, config: Config, process: Process) -> torch.nn.Module:
    """The network as the step calls it: compiled if asked for, and averaging gradients over the processes."""
    network = torch.compile(network) if config.compile else network
    if process.world > 1:
        network = DistributedDataParallel(network, [process.device] if process.device.type == "cuda" else None)
    return network


def open_batches(data: TrainSet, process: Process, config: Config) -> tuple[Callable, Callable]:
    """(draw, batches): `batches(start, stop)` yields the batches of those iterations, `draw(*batch)` their crops.

    From the memory-mapped store through loader processes, or, with data_on_gpu, from images held on the device; the
    crops are the same.
    """
    data, device = data.shard(process.rank, process.world), process.device
    if config.data_on_gpu and fits(data, device):
        resident = ResidentTrainSet(data, device)
        return resident.crops, resident.batches
    return (
        lambda *crops: tuple(part.to(device, non_blocking=True) for part in crops),
        lambda start, stop: DataLoader(
            data,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=config.threads,
            worker_init_fn=_leave_signals_to_the_parent,
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if config.threads else None,
        ),
    )


def fits(data: TrainSet, device: torch.device) -> bool:
    """Whether the packed images leave half of the device's free memory to training; says so where they do not."""
    if device.type != "cuda":
        return True
    needed, free = resident_bytes(data), torch.cuda.mem_get_info(device)[0]
    if needed > free / 2:
        print(f"data_on_gpu: {needed / 2**30:.1f} GiB of images beside {free / 2**30:.1f} GiB free: loading from disk")
    return needed <= free / 2


def finite_sums(losses: list, process: Process, iteration: int, data: TrainSet, folder: Path) -> torch.Tensor:
    """Sums (L1, FFT, count) of the loss terms of the steps up to `iteration`, averaged over the processes.

    Raises:
        InputError: a term is not finite; names the step, the terms and the images it saw. Nothing is saved.
    """
    terms = process.average(torch.stack(losses)).double().cpu()
    bad = (~terms.isfinite().all(dim=1)).nonzero()
    if len(bad):
        number = iteration - len(losses) + int(bad[0])
        l1, fft = terms[int(bad[0])].tolist()
        newest = next(iter(run_checkpoints(folder)), "none yet")
        raise InputError(
            f"the loss of iteration {number + 1} is not finite (L1 {l1}, FFT {fft}); images: "
            f"{', '.join(data.names(number))}; the last good checkpoint is untouched: {newest}; "
            "look at those images, or lower lr, or set clip_grad"
        )
    return torch.cat([terms.sum(0), torch.tensor([float(len(losses))], dtype=torch.float64)])


def validate(
    step: TrainStep,
    sets: list[BenchmarkSet],
    config: Config,
    data: TrainSet,
    position: Position,
    log: RunLog,
    folder: Path,
    last: bool,
) -> None:
    """Score every set, record it, and save a checkpoint that knows the scores; `best.pt` too, if the first set's PSNR
    is the best so far. The `last` validation of a run writes the SR images, if these are asked for."""
    image_folder = folder / "images" if last and config.save_image else None
    network, _ = inference(step.evaluated.eval(), step.device, config.backend, config.eval_precision)
    for images in sets:
        target = image_folder / images.name if image_folder else None
        result = evaluate_set(network, images, images.name, config.scale, step.device, image_folder=target)
        standard, official = result.mean("standard"), result.mean("official")
        scores = {"psnr": standard.psnr, "ssim": standard.ssim}
        scores |= {"official_psnr": official.psnr, "official_ssim": official.ssim, "minutes": position.minutes}
        log.record(f"validation/{images.name}", position.iteration, scores)
        log.say(f"iteration {position.iteration:,} {images.name}: {standard.psnr:.3f} dB / {standard.ssim:.4f}")
        if images is sets[0]:
            if standard.psnr > position.best["psnr"]:
                position.best = {"psnr": standard.psnr, "iteration": position.iteration}
            pair = images[0]
            with torch.no_grad():
                sr_image = from_network(network(to_network(pair.lr, step.device))[0])
            panel = side_by_side(pair.lr, sr_image, pair.hr, config.scale)
            log.picture(f"{images.name}/{pair.name}: LR, bicubic, SR, HR", position.iteration, panel)
    step.model.train()
    position.validated = position.iteration
    content = snapshot(step, position, config, data)
    if position.best["iteration"] == position.iteration:
        save_checkpoint(folder / "best.pt", content)
    save_run(folder, content, config.keep_last)


def snapshot(step: TrainStep, position: Position, config: Config, data: TrainSet) -> dict:
    """A checkpoint's content.

    Raises:
        InputError: a weight is not finite; such a checkpoint would be of no use.
    """
    bad = [name for name, weight in step.model.named_parameters() if not weight.isfinite().all()]
    if bad:
        raise InputError(
            f"weights are not finite after iteration {position.iteration} (first: {bad[0]}); nothing was saved, "
            "the last good checkpoint is untouched; lower lr or set clip_grad"
        )
    return {
        "epoch": position.iteration // data.iterations_per_epoch,
        **asdict(position),
        **step.state_dict(),
        "config": config.to_yaml(),
        "data": data.fingerprint(),
        "random_states": {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
    }


def restore(step: TrainStep, folder: Path, config: Config, data: TrainSet) -> Position:
    """Put the newest undamaged checkpoint of a run into `step`; returns where it stood.

    Raises:
        InputError: there is none, it does not fit the config, or the images are not those that the run has seen.
    """
    path, content = load_run(folder, say=lambda line: print(line, file=sys.stderr))
    now = data.fingerprint()
    before = content.get("data", now)
    chosen = yaml.safe_load(content["config"])
    same_choice = [chosen["training_dataset"], chosen["data"]] == [config.training_dataset, list(config.data)]
    if before != now and same_choice:
        raise InputError(
            f"{path}: the training images are not those of the run ({now.split()[0]} images, it had "
            f"{before.split()[0]}; names or sizes differ); put them back, or name others with --set data=... to go on"
        )
    try:
        step.load_state_dict(content)
        torch.set_rng_state(content["random_states"]["torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(content["random_states"]["cuda"])
        names = [entry.name for entry in fields(Position)]
        return Position(**{name: content[name] for name in names if name in content})
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: cannot be resumed with this config ({reason})") from error


def source_lines(data: TrainSet) -> list[str]:
    """What fraction of an epoch's crops comes from where, one line per source; every epoch has the same shares."""
    report = data.source_report(data.iterations_per_epoch)
    return [f"crops from {path}: {share:.1%} ({count} images)" for path, count, share in report]


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole group; workers must live on until the parent has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
