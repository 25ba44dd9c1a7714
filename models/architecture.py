"""What a network is made of: read off the names and shapes of its weights, compared, and built again."""

from dataclasses import asdict, dataclass

from torch import Tensor, nn

from .ssiu import MSGMS, SSIU


@dataclass(frozen=True)
class Architecture:
    """The arguments of SSIU, with the names of the config keys."""

    scale: int
    n_feats: int = 64
    num_heads: int = 4
    n_blocks: int = 9
    use_esam: bool = True
    use_moe: bool = True
    msgm_depthwise: tuple[int, ...] = (1, 2, 3, 4)

    def build(self) -> SSIU:
        """A network with initial weights. Raises ValueError for sizes that do not fit together."""
        return SSIU(**asdict(self))

    def __str__(self) -> str:
        """'x4, 64 channels, 9 stages, 4 heads', and the ablations, if there are any."""
        text = f"x{self.scale}, {self.n_feats} channels, {self.n_blocks} stages"
        text += f", {self.num_heads} heads" if self.use_esam else ", no ESAM"
        text += "" if self.use_moe else ", no MoE-FS"
        missing = [str(number) for number in (1, 2, 3, 4) if number not in self.msgm_depthwise]
        return text + (f", no depthwise convolution in MSGM {', '.join(missing)}" if missing else "")


def detect_architecture(weights: dict[str, Tensor]) -> Architecture | None:
    """The SSIU that a state dict with published key names belongs to; None if it is of another network.

    The stages are taken to be alike, as they are in every SSIU. Without ESAM the number of heads leaves no trace, nor
    does it change the network: it is then the largest of 4, 2 and 1 that fits.
    """
    scale, head = detect_scale(weights), weights.get("head.weight")
    stages = [int(key.split(".")[1]) for key in weights if key.startswith("body.") and key.split(".")[1].isdecimal()]
    in_a_row = set(stages) == set(range(len(set(stages))))
    if scale is None or head is None or head.dim() != 4 or not stages or not in_a_row:
        return None
    channels, rel_h = len(head), weights.get("body.0.s3.rel_h")
    if rel_h is None:
        heads = next((heads for heads in (4, 2) if channels % (2 * heads) == 0), 1)
    else:
        heads = channels // (2 * max(rel_h.shape[-1], 1)) if rel_h.dim() else 0
    depthwise = [n for n, name in enumerate(MSGMS, 1) if f"body.0.{name}.project_in2.1.weight" in weights]
    sizes = {"scale": scale, "n_feats": channels, "num_heads": heads, "n_blocks": 1 + max(stages)}
    return Architecture(**sizes, use_esam=rel_h is not None, use_moe="moe.fuse.weight" in weights,
                        msgm_depthwise=tuple(depthwise))  # fmt: skip


def detect_scale(weights: dict[str, Tensor]) -> int | None:
    """The scale a state dict was made for, from the shapes of its tail; None if it has none."""
    if "tail.6.weight" in weights:
        return 4
    tail = weights.get("tail.0.weight")
    if tail is None or tail.dim() < 2 or not tail.shape[1]:
        return None
    return round((tail.shape[0] / tail.shape[1]) ** 0.5)


def architecture_of(model: nn.Module) -> Architecture | None:
    """The architecture of a network at hand; None if it is no SSIU."""
    return detect_architecture(model.state_dict()) if isinstance(model, SSIU) else None
