"""Triton kernels for SSIU: the fast path on a GPU, for inference and for training.

`unavailable()` and `unsupported(model)` say in one line why the kernels cannot be used;
`models.kernels.network.forward` runs a network on them. This module imports without Triton, so that anyone may ask.
"""

import torch

WIDTHS = (16, 32, 64)  # a tile holds all channels of its pixels: a power of two, 16 at least for the matrix units

# name -> (type of the feature maps, how the products of float32 maps are computed); sums are float32 throughout
ARITHMETIC = {
    "float32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "tf32x3": (torch.float32, "tf32x3"),
    "bf16": (torch.bfloat16, "ieee"),
    "fp16": (torch.float16, "ieee"),
}


def unavailable() -> str | None:
    """Why no kernel can run here, or None when they can: on a GPU, or slowly in Triton's interpreter (for tests)."""
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    if triton.knobs.runtime.interpret:
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        return f"the GPU has compute capability {capability[0]}.{capability[1]}; the kernels need 8.0 or later"
    return None


def unsupported(model) -> str | None:
    """Why `model` (an SSIU) cannot run on the kernels, or None when it can."""
    channels = model.head.out_channels
    if channels not in WIDTHS:
        return f"n_feats is {channels}; the kernels are written for {', '.join(map(str, WIDTHS))}"
    if model.moe is None:
        return "the network has no MoE-FS (use_moe: False)"
    for stage in model.body:
        if stage.s3 is not None and channels // stage.s3.heads < 16:
            return f"heads of {channels // stage.s3.heads} channels are narrower than the matrix units: 16 at least"
        if stage.s3 is None:
            return "the network has no ESAM (use_esam: False)"
        if any(not hasattr(m.project_in2[1], "weight") for m in (stage.s1, stage.s2, stage.s4, stage.ffn)):
            return "an MSGM has no depthwise convolution (msgm_depthwise)"
    return None
