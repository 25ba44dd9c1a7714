"""A picture of any size through any network, cut into any strips, rows flowing: what the whole picture gives."""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streams import PATHS, assert_close, build, whole

from models.cpu import CpuInference
from models.pixels import to_network
from models.strips import cuts, reach, stream

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 12))
many = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
NETWORKS = st.fixed_dictionaries(
    {
        "scale": st.sampled_from([2, 3, 4]),
        "n_feats": st.sampled_from([8, 24]),
        "use_esam": st.booleans(),
        "use_moe": st.booleans(),
        "msgm_depthwise": st.sampled_from([(1, 2, 3, 4), (), (2,)]),
    }
)


@pytest.fixture(autouse=True)
def threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("path", PATHS)
@many
@given(NETWORKS, st.integers(1, 70), st.integers(1, 500), st.integers(1, 4), st.integers(1, 4))
def test_strips_of_rows_that_flow_give_the_whole_picture(path, network, height, width, strips, threads):
    """To the bit in compiled code, in any number of threads."""
    torch.set_num_threads(threads)
    streamer = path(build(**network))
    image = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    strips = min(strips, max(width // reach(streamer.model), 1))
    limit = streamer.plan(height, max(cut.read.width for cut in cuts(width, strips, reach(streamer.model)))).mib
    joined = torch.cat(list(stream(streamer, image, limit)), dim=1)
    x = to_network(image, torch.device("cpu"))
    if path is CpuInference:
        assert torch.equal(joined, streamer(x)[0])
    else:
        assert_close(joined, whole(streamer.model, x)[0])
