"""Weights as a repository of the Hugging Face Hub: made in a folder, uploaded, loaded from there or from the folder.

    python -m tools.hub save pretrain_model/SSIU_x4.pt hub/SSIU_x4
    python -m tools.hub push hub/SSIU_x4 NAME/SSIU_x4

    from tools.hub import from_pretrained
    upscale = from_pretrained("NAME/SSIU_x4")      # or the folder; what `models.load` gives

Only what speaks to the Hub needs the package huggingface_hub; `save`, and loading a folder, do not.
"""

# Not by PyTorchModelHubMixin: it would have the network's class import huggingface_hub, build it from what config.json
# says in place of what the weights are, and load files that none of the checks of models/weights.py have seen.

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from models import ModelError, Upscaler
from models.architecture import Architecture
from models.weights import file_hash
from tools import export
from utils import InputError, atomic_write, first_line, make_folder, run_command, shown

CONFIG, WEIGHTS, CARD = FILES = ("config.json", "model.safetensors", "README.md")
MODEL_TYPE = "ssiu"
MAX_CONFIG = 1 << 20  # bytes
TAGS = ["super-resolution", "pytorch", "ssiu"]
TERMS = "The weights carry the terms of their training images, which are named above."
USE = """\
## Use
`{WEIGHTS}` holds the weights of `{file}`, `{CONFIG}` says of what network. With the project at hand:

```python
from tools.hub import from_pretrained

upscale = from_pretrained("NAME_OF_THIS_REPOSITORY")  # or a folder with its files
large = upscale(image)  # uint8 (H, W, 3) RGB array -> uint8 ({scale} H, {scale} W, 3)
```
"""


def from_pretrained(source: str | Path, revision: str | None = None, **options: Any) -> Upscaler:
    """The network of a folder that `save` wrote, or of a repository that `push` made from one.

    Args:
        source: the folder; where there is none of this name, a repository's id, 'NAME/REPOSITORY'.
        revision: the repository's branch, tag or commit; its newest state if None.
        options: device, backend and others of `models.load`.

    Raises:
        InputError: the repository cannot be had, or it or the folder is none of SSIU's.
        ModelError: the weights are damaged, or an option is wrong.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _downloaded(str(source), revision)
    elif revision is not None:
        raise InputError(f"{source}: is a folder, which has no revision {shown(revision)}; leave it out")
    said = _read_config(folder)
    network = Upscaler.load(_file(folder, WEIGHTS), **options)
    own = _config(network.architecture)
    wrong = [key for key in own if key in said and said[key] != own[key]]
    if wrong:
        text = f"{', '.join(wrong)} not as in the weights beside it ({network.architecture})"
        raise InputError(f"{folder / CONFIG}: {text}; {_made_by(folder)}")
    return network


def save(weights: str | Path, folder: str | Path, licence: str | None = None) -> Path:
    """Write config.json, model.safetensors and README.md of a file of weights into `folder`.

    README.md is the model card beside the weights under the Hub's header, or what is known where there is no card.

    Args:
        weights: a checkpoint of any known form, of SSIU; averaged weights are taken where there are any.
        licence: an identifier of the Hub's list; None for that of the training images, which the card names.

    Raises:
        ModelError: the weights cannot be used.
        InputError: the card is of another file, there is neither card nor licence, or the folder cannot be written to.
    """
    weights = Path(weights)
    network = Upscaler.load(weights, device="cpu", backend="plain")
    tensors = {key: value.contiguous() for key, value in network.model.state_dict().items()}
    config, card = _config(network.architecture), _card(weights, network, licence)
    metadata = {"format": "pt", **export.metadata(weights, tensors)}
    metadata |= {"config": json.dumps(config), "license": licence or "other"}
    folder = make_folder(folder)
    atomic_write(folder / WEIGHTS, safetensors.torch.save(tensors, metadata))
    atomic_write(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    atomic_write(folder / CARD, card.encode())
    return folder


def push(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Upload the three files of a folder that `save` wrote, and no other; the repository is made if it is not there.

    The token is that of `hf auth login`, or of the environment's HF_TOKEN.

    Returns: the address of the commit.

    Raises:
        InputError: the folder is not complete or does not load, huggingface_hub is absent, or the Hub refuses.
        ModelError: the weights in it are damaged.
    """
    folder, hub = Path(folder), _hub("to upload")
    _file(folder, CARD)
    network = from_pretrained(_file(folder, CONFIG).parent, device="cpu", backend="plain")
    try:
        api = hub.HfApi()
        api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo_id,
            repo_type="model",
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message=f"SSIU {network.architecture}",
        )
    except Exception as error:  # of any kind: of the network, of the Hub's answers, of the token
        advice = "check the name, and the token with: hf auth login"
        raise InputError(f"{shown(repo_id)}: could not be uploaded ({first_line(error)}); {advice}") from error
    return str(done.commit_url)


def push_to_hub(weights: str | Path, repo_id: str, licence: str | None = None, private: bool = False) -> str:
    """`push` of what `save` writes, see there."""
    with tempfile.TemporaryDirectory() as folder:
        return push(save(weights, folder, licence), repo_id, private)


def _config(architecture: Architecture) -> dict[str, Any]:
    """What config.json says, as it is when read back: lists for tuples."""
    return json.loads(json.dumps({"model_type": MODEL_TYPE, **asdict(architecture)}))


def _read_config(folder: Path) -> dict[str, Any]:
    file = _file(folder, CONFIG)
    try:
        with open(file, "rb") as opened:
            content = json.loads(opened.read(MAX_CONFIG))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, not UTF-8, or cut off at the limit
        raise InputError(f"{file}: cannot be read ({first_line(error)}); {_made_by(folder)}") from error
    found = content.get("model_type") if isinstance(content, dict) else None
    if found != MODEL_TYPE:
        raise InputError(
            f"{file}: is of another network (model_type: {shown(found)}, not {MODEL_TYPE}); name one of SSIU"
        )
    return content


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise InputError(f"{folder}: has no {name}; {_made_by(folder)}")
    return folder / name


def _made_by(folder: Path) -> str:
    return f"such a folder is made with: python -m tools.hub save WEIGHTS {folder}"


def _downloaded(repo_id: str, revision: str | None) -> Path:
    """The Hub's cache of a repository, with what is needed to load it."""
    hub = _hub(f"{shown(repo_id)}: no such folder; for a repository of this name")
    try:
        return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # of any kind: of the network, of the Hub's answers, of the name
        text = f"no such folder, and no such repository can be had ({first_line(error)}); check the name"
        raise InputError(f"{shown(repo_id)}: {text}") from error


def _hub(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            f"{purpose}, install huggingface_hub: pip install 'huggingface_hub>=1,<3' ({error})"
        ) from error
    return huggingface_hub


def _card(weights: Path, network: Upscaler, licence: str | None) -> str:
    """README.md: the Hub's header, the card, the terms, and how to load the weights."""
    card, found = weights.with_suffix(".md"), file_hash(weights)
    text = f"# {weights.name}\n\n- **network**: SSIU {network.architecture}\n- **sha256**: `{found}`\n"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace").rstrip() + "\n"
        if found not in text:
            wrong = f"is not of {weights.name} as it is (another SHA-256)"
            raise InputError(f"{card}: {wrong}; write it again with test.py --model-card")
    if licence is None and "licence" not in text and "license" not in text:
        raise InputError(f"{weights}: {card.name} beside it names no licence, or is not there; give --licence ID")
    header = {"license": licence or "other", "pipeline_tag": "image-to-image", "tags": TAGS}
    terms = f"## Licence\n{TERMS}\n" if licence is None else ""
    use = USE.format(WEIGHTS=WEIGHTS, CONFIG=CONFIG, file=weights.name, scale=network.scale)
    parts = [f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n", text, terms, use]
    return "\n".join(filter(None, parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    saving = commands.add_parser("save", help="write a repository's files into a folder")
    saving.add_argument("weights", type=Path)
    saving.add_argument("folder", type=Path)
    saving.add_argument("--licence", metavar="ID", help="of the Hub's list; without it, what the model card names")
    pushing = commands.add_parser("push", help="upload such a folder")
    pushing.add_argument("folder", type=Path)
    pushing.add_argument("repo_id", metavar="NAME/REPOSITORY")
    pushing.add_argument("--private", action="store_true", help="make the repository a private one")
    arguments = parser.parse_args()
    if arguments.command == "save":
        folder = save(arguments.weights, arguments.folder, arguments.licence)
        print(f"wrote {', '.join(FILES)} to {folder}")
    else:
        print(f"uploaded: {push(arguments.folder, arguments.repo_id, arguments.private)}")


if __name__ == "__main__":
    run_command(main, ModelError)
