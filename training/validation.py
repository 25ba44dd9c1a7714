"""Validation: every evaluation set scored, logged, a checkpoint that knows the scores, and the run's page."""

import torch

from datas import BenchmarkSet
from evaluation.evaluator import Network, SetResult, evaluate_set
from evaluation.pictures import side_by_side
from models import inference
from models.pixels import from_network, to_network
from training.run_page import keep_panel, write_page
from training.run_state import Run


def validate(run: Run, last: bool) -> None:
    """Score every set, log it and save; `best.pt` too, if the first set's PSNR is the best so far.

    All processes call this together, as they share the images of each set. The `last` validation of a run writes the
    SR images, if these are asked for.
    """
    step, position = run.step, run.position
    run.process.copy_from_first(step.evaluated.buffers())  # running statistics; the weights are the same in all
    config = run.config
    network, _ = inference(
        step.evaluated.eval(), step.device, run.eval_backend, config.eval_precision, memory_mib=config.memory or None
    )
    is_first_time = position.validated == 0
    for images in run.sets:
        result = score(run, network, images, with_bicubic=is_first_time, with_images=last and run.config.save_image)
        if is_first_time:
            log_bicubic(run, result)
        log_scores(run, result)
        if images is run.sets[0]:
            note_best(run, result)
            draw_panel(run, network, images)
    step.model.train()
    position.validated = position.iteration
    run.save(is_best=position.best["iteration"] == position.iteration)
    if run.process.is_first:
        write_page(run.folder, run.log.say)


def score(run: Run, network: Network, images: BenchmarkSet, with_bicubic: bool, with_images: bool) -> SetResult:
    return evaluate_set(
        network,
        images,
        images.name,
        run.config.scale,
        run.step.device,
        with_bicubic=with_bicubic,
        image_folder=run.folder / "images" / images.name if with_images else None,
        share=run.process if run.process.world > 1 else None,
    )


def log_bicubic(run: Run, result: SetResult) -> None:
    """The scores of bicubic upscaling: what a network must be better than."""
    psnr, ssim = result.mean("standard", bicubic=True)
    run.log.write(f"bicubic/{result.name}", run.position.iteration, {"psnr": psnr, "ssim": ssim})
    run.log.say(f"bicubic {result.name}: {psnr:.3f} dB / {ssim:.4f}")


def log_scores(run: Run, result: SetResult) -> None:
    position = run.position
    standard, official = result.mean("standard"), result.mean("official")
    scores = {"psnr": standard.psnr, "ssim": standard.ssim}
    scores |= {"official_psnr": official.psnr, "official_ssim": official.ssim}
    bests = note_bests(run, result.name, scores)
    values = {**scores, "minutes": position.minutes, "bests": bests}
    run.log.write(f"validation/{result.name}", position.iteration, values)
    run.log.say(f"iteration {position.iteration:,} {result.name}: {standard.psnr:.3f} dB / {standard.ssim:.4f}")


def note_bests(run: Run, name: str, scores: dict[str, float]) -> dict[str, dict]:
    """The best of each score of a set so far, with its iteration and epoch, these scores considered."""
    iteration, bests = run.position.iteration, run.position.bests.setdefault(name, {})
    for score, value in scores.items():
        if score not in bests or value > bests[score]["value"]:
            bests[score] = {"value": value, "iteration": iteration, "epoch": iteration // run.per_epoch}
    return bests


def note_best(run: Run, result: SetResult) -> None:
    """Compare the first set's PSNR with the best so far, if that is of the same set."""
    position, psnr = run.position, result.mean("standard").psnr
    if psnr > position.best["psnr"] or position.best.get("set", result.name) != result.name:
        position.best = {"psnr": psnr, "iteration": position.iteration, "set": result.name}
    if position.validated > 0:
        best = position.best
        run.log.say(f"best so far on {result.name}: {best['psnr']:.3f} dB at iteration {best['iteration']:,}")


@torch.no_grad()
def draw_panel(run: Run, network: Network, images: BenchmarkSet) -> None:
    """The first image of a set as a picture for TensorBoard and for the run's page."""
    if not run.process.is_first:
        return
    pair = images[0]
    assert pair.hr is not None  # a run opens its sets with their HR images
    sr_image = from_network(network(to_network(pair.lr, run.step.device))[0])
    panel = side_by_side(pair.lr, sr_image, pair.hr, run.config.scale)
    run.log.picture(f"{images.name}/{pair.name}: LR, bicubic, SR, HR", run.position.iteration, panel)
    keep_panel(run.folder, run.position.iteration, panel, run.log.say)
