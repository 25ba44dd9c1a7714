"""Files that are in order and say nonsense, made by hypothesis; FUZZ_EXAMPLES is how many of each."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import many
from helpers import TINY, build
from hypothesis import given
from hypothesis import strategies as st

from config import FIELDS, load_config
from datas import write_png
from datas.store import pack
from models import ModelError
from models.weights import put_weights, read_checkpoint, read_weights
from training.checkpoint_form import FORM, checked_form
from utils import InputError

FEW = 25

TEXT = st.text(max_size=12)
NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats())
JSON = st.recursive(
    NUMBERS | TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
TYPES = st.sampled_from(
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64]
)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    tensor = torch.full(shape, draw(st.sampled_from([0.0, 1.0, -2.5, float("nan"), float("inf")]))).to(draw(TYPES))
    kind = draw(st.sampled_from(["dense", "dense", "dense", "expanded", "sparse", "parameter"]))
    if kind == "expanded":
        return tensor.unsqueeze(0).expand(1000, *shape)
    if kind == "sparse" and tensor.is_floating_point():
        return tensor.to_sparse()
    return torch.nn.Parameter(tensor) if kind == "parameter" and tensor.is_floating_point() else tensor


OBJECTS = st.recursive(
    NUMBERS | TEXT | tensors(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(TEXT | st.integers(0, 5), inner, max_size=3),
        st.tuples(inner, inner),
    ),
)


@pytest.fixture(scope="module")
def model():
    return build(2, n_feats=8)


def is_read_or_refused(read, *arguments):
    """Call it; what it may raise must be one printable line."""
    try:
        return read(*arguments)
    except (InputError, ModelError) as error:
        assert str(error).isprintable() and len(str(error)) < 2000, repr(str(error))[:500]
        return None


def load_or_refuse(model, file):
    """Put the weights of a file into a network, which has finite ones in any case."""
    found = is_read_or_refused(read_weights, file)
    if found is not None:
        is_read_or_refused(put_weights, model, found, file)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@many(FEW)
@given(changes=st.dictionaries(st.sampled_from(list(FIELDS)) | TEXT, JSON, min_size=1, max_size=4))
def test_any_values_of_config_keys_are_taken_or_refused_in_one_line(changes):
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "x.yml")
        file.write_text(json.dumps({**TINY, "data_path": "data", **changes}))
        config = is_read_or_refused(load_config, file)
        if config is not None:
            file.write_text(config.to_yaml(), encoding="utf-8")
            assert load_config(file) == config


@many(FEW)
@given(changes=st.dictionaries(st.sampled_from(list(FORM)) | TEXT, OBJECTS, max_size=4))
def test_any_content_of_a_checkpoint_is_taken_or_refused_in_one_line(model, changes):
    weights = model.state_dict()
    content = {"model_state_dict": weights, "iteration": 1, "minutes": 0.0, **changes}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "x.pt")
        torch.save(content, file)
        read = is_read_or_refused(read_checkpoint, file)
        if read is not None:
            is_read_or_refused(checked_form, read, file)
        load_or_refuse(model, file)


@many(FEW)
@given(
    changes=st.dictionaries(
        st.sampled_from(["head.weight", "head.bias", "body.0.s3.rel_h"]) | TEXT, OBJECTS, max_size=3
    )
)
def test_any_weights_are_taken_or_refused_in_one_line(model, changes):
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "x.pt")
        torch.save({**model.state_dict(), **changes}, file)
        load_or_refuse(model, file)


@many(FEW)
@given(
    whole=JSON,
    changes=st.dictionaries(st.sampled_from(["offset", "height", "width", "pixels", "name"]), JSON, max_size=3),
)
def test_whatever_a_manifest_says_the_pixels_are_right(whole, changes):
    image = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    with tempfile.TemporaryDirectory() as name:
        file, cache = Path(name, "images", "a.png"), Path(name, "cache")
        write_png(file, image)
        pack([file], cache)
        (manifest,) = cache.glob("*.json")
        content = json.loads(manifest.read_text())
        content["images"][0] |= changes
        for text in (json.dumps(content), json.dumps(whole)):
            manifest.write_text(text)
            assert np.array_equal(pack([file], cache).whole(0), image)
