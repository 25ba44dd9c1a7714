"""The learning rate and the end of a run, as functions of where it stands."""

import math

from config import Config


def learning_rate(config: Config, iteration: int, iterations_per_epoch: int, minutes: float = 0.0) -> float:
    """Learning rate of step `iteration` (from 0): linear warm-up, then a cosine from lr to eta_min.

    Over W warm-up epochs out of E, 'linear' goes from lr/W to lr, and the cosine takes the E - W epochs that are left.
    'published' begins with an epoch at 0, and its cosine takes E + W epochs, of which a run of E does not see the end.

    Schedule 'epoch' (the paper's) steps once an epoch. 'progress' moves every iteration, by whichever is further: the
    iterations done out of all, or the minutes spent out of max_minutes; a run cut short by the clock is then annealed.
    """
    if config.schedule == "epoch":
        epoch, quantum = float(iteration // iterations_per_epoch), 1.0
    else:
        by_clock = minutes / config.max_minutes if config.max_minutes else 0.0
        epoch = config.epochs * max(iteration / (config.epochs * iterations_per_epoch), by_clock)
        quantum = 1 / iterations_per_epoch
    published = config.warmup == "published"
    if epoch < config.warmup_epochs:
        return config.lr * min(1.0, (epoch + (0.0 if published else quantum)) / config.warmup_epochs)
    length = config.epochs + (config.warmup_epochs if published else -config.warmup_epochs)
    progress = min(1.0, (epoch - config.warmup_epochs) / length)
    return config.eta_min + (config.lr - config.eta_min) * (1 + math.cos(math.pi * progress)) / 2


def out_of_time(config: Config, minutes: float) -> bool:
    """Whether `minutes` of training are all that max_minutes allows."""
    return bool(config.max_minutes) and minutes >= config.max_minutes


def expected_iterations(config: Config, iterations_per_epoch: int, iteration: int, minutes: float) -> int | None:
    """How many iterations a run will have that took `minutes` for `iteration` of them.

    That is all of its epochs, or as many as max_minutes allows at this pace; None as long as no pace is known.
    """
    total = config.epochs * iterations_per_epoch
    if not config.max_minutes:
        return total
    if not minutes:
        return None
    return min(total, max(iteration, round(iteration * config.max_minutes / minutes)))
