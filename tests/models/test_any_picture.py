"""A picture of any size through any network, cut into any strips, rows flowing: what the whole picture gives."""

import numpy as np
import pytest
import torch
from examples import many
from hypothesis import given
from hypothesis import strategies as st
from streams import assert_close, build, needs_compiler, whole

from models.cpu import CpuInference
from models.pixels import to_network
from models.plain_stream import PlainStream
from models.strips import cuts, reach, stream

pytestmark = pytest.mark.usefixtures("threads_as_before")
NETWORKS = st.fixed_dictionaries(
    {
        "scale": st.sampled_from([2, 3, 4]),
        "n_feats": st.sampled_from([8, 24]),
        "use_esam": st.booleans(),
        "use_moe": st.booleans(),
        "msgm_depthwise": st.sampled_from([(1, 2, 3, 4), (), (2,)]),
    }
)

PICTURES = st.tuples(*(st.integers(1, most) for most in (70, 500, 4, 4)))  # height, width, strips, threads


def joined_strips(streamer, height, width, strips, threads):
    """(the picture, what comes out of at most so many strips of it)."""
    torch.set_num_threads(threads)
    image = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    strips = min(strips, max(width // reach(streamer.model), 1))
    limit = streamer.plan(height, max(cut.read.width for cut in cuts(width, strips, reach(streamer.model)))).mib
    return to_network(image, torch.device("cpu")), torch.cat(list(stream(streamer, image, limit)), dim=1)


@needs_compiler
@many(25)
@given(NETWORKS, PICTURES)
def test_strips_of_rows_in_compiled_code_have_the_bits_of_the_whole_picture(network, picture):
    streamer = CpuInference(build(**network))
    x, joined = joined_strips(streamer, *picture)
    assert torch.equal(joined, streamer(x)[0])


@many(4)
@given(NETWORKS, PICTURES)
def test_strips_of_rows_on_the_plain_path_give_the_whole_picture(network, picture):
    streamer = PlainStream(build(**network))
    x, joined = joined_strips(streamer, *picture)
    assert_close(joined, whole(streamer.model, x)[0])
