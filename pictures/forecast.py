"""What a large picture will take, said before the work: rows in flight, memory, strips, and the time."""

import time

import torch

from models import Upscaler

SAMPLE = (96, 160)  # (H, W) that the speed is measured on
ROUNDS = 2  # the first one is not counted


class Forecast:
    """Plans of pictures whose rows flow, with the time that they should take by the speed of a small piece."""

    def __init__(self, upscaler: Upscaler):
        self.upscaler = upscaler
        self.seconds_a_pixel = 0.0

    def line(self, height: int, width: int) -> str | None:
        """For a picture, or frames, of this size; None where they go through whole. Raises ModelError: no memory."""
        if not self.upscaler.flows(height, width):
            return None
        plan = self.upscaler.plan(height, width)
        self.seconds_a_pixel = self.seconds_a_pixel or self.measured()
        seconds = self.seconds_a_pixel * plan.work * height * width
        return f"{plan}; about {duration(seconds)} expected"

    @torch.no_grad()
    def measured(self) -> float:
        x = torch.rand(1, 3, *SAMPLE, device=self.upscaler.device)
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            self.upscaler.network(x).cpu()  # which waits for the device
            seconds = time.perf_counter() - begin
        return seconds / (SAMPLE[0] * SAMPLE[1])


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
