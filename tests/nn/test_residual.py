"""Residual encoders and decoders: shapes, batches, and one the mirror of the other."""

import pytest
import torch

from pvae.errors import PvaeError
from pvae.nn import ResidualDecoder, ResidualEncoder


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 30), (2, 9, 8)])
@pytest.mark.parametrize("channels", [(4,), (4, 6), (4, 5, 6)])
def test_a_decoder_mirrors_its_encoder(shape, channels):
    encoder = ResidualEncoder(shape, 5, channels, num_blocks=1)
    decoder = ResidualDecoder(5, shape, channels[::-1], num_blocks=1)
    x = torch.randn(3, 2, *shape)
    h = encoder(x)
    assert h.shape == (3, 2, *encoder.map_shape, 5)
    assert decoder.in_shape == (*encoder.map_shape, 5)
    assert decoder(h).shape == x.shape
    one = encoder(x[1, 1])
    assert torch.allclose(one, h[1, 1], atol=1e-5)
    assert torch.allclose(decoder(one), decoder(h)[1, 1], atol=1e-5)


def test_several_outputs_for_each_value_are_channels():
    out = ResidualDecoder(4, (2, 3, 8, 8), (6,), num_blocks=0)(torch.zeros(5, 4, 4, 4))
    assert out.shape == (5, 2, 3, 8, 8)


def test_what_is_no_image_or_too_small_is_refused():
    with pytest.raises(PvaeError, match="at least 8×8 for 3 strided layers"):
        ResidualEncoder((1, 4, 4), 5, (4, 4, 4))
    with pytest.raises(PvaeError, match=r"events of shape \(1, 8, 8\).*\(2, 1, 8, 9\)"):
        ResidualEncoder((1, 8, 8), 5, (4,))(torch.zeros(2, 1, 8, 9))


def test_frames_of_a_video_are_encoded_and_decoded_one_by_one():
    shape = (5, 2, 8, 8)
    encoder = ResidualEncoder(shape, 3, channels=(4, 4))
    assert encoder.map_shape == (5, 2, 2)
    x = torch.randn(6, *shape)
    code = encoder(x)
    assert code.shape == (6, 5, 2, 2, 3)
    alone = ResidualEncoder(shape[1:], 3, channels=(4, 4))
    alone.load_state_dict(encoder.state_dict())
    for t in range(5):
        assert torch.allclose(code[:, t], alone(x[:, t]), atol=1e-6)
    decoder = ResidualDecoder(3, (7, *shape), channels=(4, 4), num_frames=5)
    assert decoder.in_shape == (5, 2, 2, 3)
    out = decoder(code)
    assert out.shape == (6, 7, *shape)
    alone = ResidualDecoder(3, (7, *shape[1:]), channels=(4, 4))
    alone.load_state_dict(decoder.state_dict())
    for t in range(5):
        assert torch.allclose(out[:, :, t], alone(code[:, t]), atol=1e-6)
    with pytest.raises(PvaeError, match=r"num_frames=4 does not fit out_shape=\(5, 2, 8, 8\)"):
        ResidualDecoder(3, shape, num_frames=4)
