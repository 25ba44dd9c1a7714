"""Opening a run: everything that its config names is opened here, and so checked, before the first step."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from config import Config
from datas import BenchmarkSet, TrainSet, leaks, open_benchmark_sets, open_train_set
from models import BACKENDS, ModelError, choose_backend, create_model, trained_through
from models.devices import device_name
from models.weights import load_weights
from training.batches import Batches, open_batches
from training.checkpoints import SavedRun
from training.graphed import check_graph
from training.logs import EarlyLog, RunLog
from training.losses import loss_terms
from training.processes import Process
from training.published import is_published, what_is_known
from training.run_state import Position, Run, restore
from training.schedule import learning_rate
from training.step import TrainStep
from utils import InputError

Shape = tuple[int, int, int]
Say = Callable[[str], None]


class Parts(NamedTuple):
    """What a run is made of, whatever the machine."""

    sets: list[BenchmarkSet]
    model: nn.Module  # with the weights to start from, on the CPU
    data: TrainSet
    notes: list[str]  # lines for the log


def open_parts(config: Config, resume: bool, sets_named: bool) -> Parts:
    """Open everything that a config names, and so check it: losses, evaluation sets, network, weights, images.

    With `sets_named` every evaluation set must be there, as the user asked for it; else an absent one is left out.

    Raises:
        InputError, ModelError: something in it is wrong.
    """
    loss_terms(config)
    notes: list[str] = []
    sets = open_benchmark_sets(
        config.data_path,
        config.eval_sets,
        config.scale,
        named=sets_named,
        say=notes.append,
        drop_alpha=config.drop_alpha,
    )
    torch.manual_seed(config.seed)
    model = create_model(config)
    if config.pretrain and not resume:
        notes.append(f"{config.pretrain}: {load_weights(model, config.pretrain, config.pretrain_new_tail)}")
    data = open_train_set(config)
    return Parts(sets, model, data, notes + config.notes() + source_lines(data) + leaks(data, sets))


def source_lines(data: TrainSet) -> list[str]:
    """What fraction of an epoch's crops comes from where, one line per source; every epoch has the same shares."""
    shares = data.shares_drawn(data.iterations_per_epoch)
    return [f"crops from {path}: {share:.1%} ({count} images)" for path, count, share in shares]


def dry_run(config: Config, resume: bool, sets_named: bool) -> list[str]:
    """Check the config, the data and the weights; lines that say what would be trained, on what."""
    process = Process.join(config)
    check_processes(config, process)
    parts = open_parts(config, resume, sets_named)
    check_last_batch(config, parts.data, process)
    parameters = sum(parameter.numel() for parameter in parts.model.parameters())
    loss = " + ".join(f"{term.weight:g} {term.name}" for term in loss_terms(config) if term.weight)
    per_epoch = parts.data.iterations_per_epoch
    by_clock = f", or {config.max_minutes:g} minutes" if config.max_minutes else ""
    return [
        f"network: {config.model} x{config.scale}, {parameters:,} parameters; loss: {loss}",
        f"training: {config.epochs * per_epoch:,} iterations, {per_epoch:,} an epoch{by_clock}; "
        f"{config.batch_size} patches of {config.patch_size}x{config.patch_size} HR pixels in each",
        f"validation: {', '.join(f'{images.name} ({len(images)} images)' for images in parts.sets) or 'none'}",
        *parts.notes,
    ]


def set_up(
    process: Process, config: Config, folder: Path, saved: SavedRun | None, sets_named: bool
) -> tuple[Run, Batches]:
    """The run, at its start or where it was left, and its batches by iteration. Nothing is written yet but the log."""
    check_processes(config, process)
    early = EarlyLog()
    sets, model, data, notes = open_parts(config, saved is not None, sets_named)
    for note in notes:
        early.say(note)
    check_last_batch(config, data, process)
    model = model.to(process.device)
    draw, batches = open_batches(data, process, config, early.say)
    backend = training_backend(process, config, model, saved, early.say)
    network = trained_through(backend, model, config.precision)
    eval_backend = validation_backend(process, config, model, sets, saved, early.say)
    step = TrainStep(config, model, wrap(network, config, process), process.device, draw)
    position = restore(step, saved, config, data) if saved else Position()
    if saved and is_published(saved.path):
        early.say(what_is_known(saved, learning_rate(config, position.iteration, data.iterations_per_epoch)))
    log = RunLog(folder if process.is_first else None, position.iteration, position.validated)
    run = Run(config, folder, process, data, sets, step, backend, eval_backend, position, log)
    paths = f"training by {backend}" + (f", validation by {eval_backend}" if sets else "")
    log.say(f"{process.world} process(es) on {device_name(process.device)}; {paths}; {data.num_images} images")
    log.say(f"from iteration {position.iteration:,} to {run.total:,}, {run.per_epoch:,} an epoch")
    early.open(log)
    return run, batches


def check_processes(config: Config, process: Process) -> None:
    """Raise InputError if these processes, on this device, cannot do what the config asks for."""
    check_graph(config, process)
    if config.batch_size % (process.world * config.accumulate):
        pieces = f"{process.world} process(es) x accumulate {config.accumulate}"
        raise InputError(f"config key 'batch_size': {config.batch_size} cannot be divided into {pieces}")


def check_last_batch(config: Config, data: TrainSet, process: Process) -> None:
    """Raise InputError if the smaller batch at the end of an epoch cannot be divided as the others are."""
    if data.smallest_batch % (process.world * config.accumulate):
        pieces = f"{process.world} process(es) x accumulate {config.accumulate}"
        problem = f"leaves a last batch of {data.smallest_batch}, which cannot be divided into {pieces}"
        raise InputError(f"config key 'drop_last': False {problem}; set it to True, or change batch_size")


def batch_shape(config: Config, process: Process) -> Shape:
    """(B, H, W) of what the network is called with in training."""
    side = config.patch_size // config.scale
    return config.batch_size // (process.world * config.accumulate), side, side


def training_backend(process: Process, config: Config, model: nn.Module, saved: SavedRun | None, say: Say) -> str:
    """The backend of the training steps, the same in every process: the first one's choice."""
    wanted = "plain" if config.compile else config.backend
    choose = partial(choose_first, process, model, precision=config.precision, shape=batch_shape(config, process))
    return kept_backend(choose, wanted, saved.content.get("backend") if saved else None, say)


def validation_backend(
    process: Process, config: Config, model: nn.Module, sets: list[BenchmarkSet], saved: SavedRun | None, say: Say
) -> str:
    """The backend of validation, whose images have many sizes; one that cannot run is refused before training."""
    if not sets:
        return "plain"
    choose = partial(choose_first, process, model, precision=config.eval_precision, shape=None)
    return kept_backend(choose, config.backend, saved.content.get("eval_backend") if saved else None, say)


def kept_backend(choose: Callable[..., str], wanted: str, kept: str | None, say: Say) -> str:
    """`wanted`, or that which the run began with where 'auto' is wanted, as another gives other bits.

    Where it cannot run here, `say` takes a line.
    """
    if wanted == "auto" and kept is not None:
        try:
            return choose(wanted=kept, say=say)
        except ModelError as error:
            say(f"warning: the run began with the backend {kept!r}; another gives other bits ({error})")
    return choose(wanted=wanted, say=say)


def choose_first(process: Process, model: nn.Module, wanted: str, precision: str, shape: Shape | None, say: Say) -> str:
    """The first process's choice, in every process; that of training where the `shape` of a batch is given."""
    chosen = "plain"
    if process.is_first:
        chosen = choose_backend(model, process.device, wanted, precision, shape is not None, shape, say)
    return BACKENDS[round(process.first_says(BACKENDS.index(chosen)))]


def wrap(network: nn.Module, config: Config, process: Process) -> nn.Module:
    """The network as the step calls it: compiled if asked for, and averaging gradients over the processes."""
    network = torch.compile(network) if config.compile else network
    if process.world > 1:
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_hook(partial(laid_out_like, parameter))
        network = DistributedDataParallel(network, [process.device] if process.device.type == "cuda" else None)
    return network


def laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A gradient with the strides of its parameter, as DistributedDataParallel's buckets have them.

    Convolutions of channels-last maps give theirs as channels-last, even where an axis of length 1 makes both the same
    memory.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
