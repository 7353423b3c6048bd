"""Networks that respect an order: what their outputs depend on, and how they draw."""

import pytest
import torch
from ordered import NETWORKS, PARTIAL, VECTORS, make, takes

from pvae import PvaeError
from pvae.nn import (
    MADE,
    CausalTransformer,
    GatedPixelCNN,
    Ordered,
    PixelCNN,
    PixelCNNPlusPlus,
    PixelRNN,
    Steps,
    WaveNet,
    raster,
)


def dependence(network, num=12):
    """Returns whether each of f's places depends on each of x's values, [*f_order, *event_shape].

    Of every place, one weighted sum of its parameters is differentiated at `num` data.
    """
    network, steps, found = network.float(), network.steps, 0
    places = steps.f_order.numel()
    for _ in range(num):
        x = 3 * torch.randn(network.event_shape)
        x = x.expand(places, *x.shape).clone().requires_grad_()
        f = network(x).flatten(-steps.f_order.ndim)
        f = (f * torch.randn(1, *steps.lead, 1)).reshape(places, -1, places).sum(1)
        (slope,) = torch.autograd.grad(f.diagonal().sum(), x)
        found = found + slope.abs()
    assert found.isfinite().all()
    return found.view(*steps.f_order.shape, *network.event_shape) > 1e-6 * found.max()


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("joint", [False, True], ids=["values", "pixels"])
def test_no_output_depends_on_what_comes_later(name, shape, joint):
    if not takes(name, shape, jointly=joint):
        pytest.skip("draws values otherwise")
    network = make(name, shape, (2, 7, *shape[1:]) if joint else (2, *shape))
    depends, steps = dependence(network), network.steps
    earlier = steps.f_order[(..., *[None] * 3)] > steps.order
    assert not (depends & ~earlier).any()
    if name not in PARTIAL:
        assert (depends == earlier).all()
    assert depends[steps.f_order == steps.num - 1].any()


def test_the_blind_spot():
    """Masked convolutions reach one pixel to the right for each row up; the two stacks see all."""
    torch.manual_seed(0)
    options = {"kernel_size": 3, "channels": 16}
    sees = {}
    for network in (PixelCNN((6, 6), num_blocks=4, **options), GatedPixelCNN((6, 6), **options)):
        sees[type(network)] = dependence(network)[4, 1]
    before = raster((6, 6)) < raster((6, 6))[4, 1]
    row, column = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    blind = before & (column - 1 > 4 - row)
    assert blind.sum() == 6
    assert torch.equal(sees[PixelCNN], before & ~blind)
    assert torch.equal(sees[GatedPixelCNN], before)


def test_a_first_kernel_as_wide_as_the_image_sees_all_that_came_before():
    torch.manual_seed(0)
    for wide, seen in ((3, False), (11, True)):
        network = GatedPixelCNN((6, 6), channels=4, num_layers=1, first_kernel_size=wide)
        found = dependence(network.double()).view(36, 36)
        before = torch.ones(36, 36, dtype=torch.bool).tril(-1)
        assert torch.equal(found, before) == seen
        assert not (found & ~before).any()


def test_what_the_lstms_see():
    torch.manual_seed(0)
    rows, diagonals = (
        dependence(PixelRNN((5, 6), kind=kind, channels=16, kernel_size=3))
        for kind in ("row", "diagonal")
    )
    order = raster((5, 6))
    earlier = order[..., None, None] > order
    # The first convolution reaches two pixels to the left of the last one in a row.
    end = torch.zeros_like(earlier)
    for i in range(1, 5):
        end[i, :4, i - 1, 5] = True
    assert torch.equal(diagonals, earlier & ~end)
    row, column = torch.meshgrid(torch.arange(5), torch.arange(6), indexing="ij")
    up, right = row[..., None, None] - row, column - column[..., None, None]
    assert torch.equal(rows, earlier & (right <= up))


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("shape", [(1,), (6,), (2, 3)], ids=str)
def test_vectors_too(name, shape):
    network = make(name, shape, (2, *shape))
    earlier = network.order[(..., *[None] * len(shape))] > network.order
    assert torch.equal(dependence(network), earlier)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("integers", [False, True], ids=["numbers", "integers"])
@pytest.mark.parametrize("context_shape", [None, (3,), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("shape", [(1, 3, 2), (3, 3, 2)], ids=str)
def test_steps_are_the_full_pass(name, integers, context_shape, shape):
    """What a network computes step by step, with its caches, is what one pass gives."""
    options = {"num_values": 5} if integers else {}
    joint = not takes(name, shape, jointly=False)
    out_shape = (2, 7, *shape[1:]) if joint else (2, *shape)
    network = make(name, shape, out_shape, context_shape=context_shape, **options)
    x = torch.randint(5, (4, *shape)) if integers else torch.rand(4, *shape).double()
    context = None if context_shape is None else torch.randn(4, *context_shape).double()
    f, steps = network(x, context), network.steps
    so_far = torch.full_like(x, 3)  # what is not drawn yet must not be read
    step = network.stepper(so_far, context)
    with torch.no_grad():
        for t in range(steps.num):
            torch.testing.assert_close(step(t), steps.of(f, t))
            so_far.view(4, -1)[:, steps.x_index[t]] = x.view(4, -1)[:, steps.x_index[t]]
    if context is not None:
        changed = (network(x, context + 1) != f).any(0).any(0)
        assert changed.all()


@pytest.mark.parametrize("kind", [GatedPixelCNN, PixelCNN, PixelRNN])
def test_a_new_network_of_images_tells_images_apart(kind):
    """With smaller weights a layer shrinks what it is given, and the first steps learn little."""
    torch.manual_seed(0)
    network = kind((1, 14, 14), channels=16)
    f = network((torch.rand(64, 1, 14, 14) < 0.5).float())
    assert f[:, :, 7:].std(0).mean() > 0.07


@pytest.mark.parametrize("name", NETWORKS)
def test_dimensions_left_of_the_event_are_batch(name):
    network = make(name, (1, 3, 4), (2, 1, 3, 4), context_shape=(3,))
    x, context = torch.rand(5, 1, 3, 4).double(), torch.randn(2, 5, 3).double()
    f = network(x, context)
    assert f.shape == (2, 5, 2, 1, 3, 4)
    torch.testing.assert_close(f[1, 3], network(x[3], context[1, 3]))
    assert network(x[:0], context[:, :0]).shape == (2, 0, 2, 1, 3, 4)


@pytest.mark.parametrize("name", NETWORKS)
def test_wrong_shapes_are_said(name):
    network = make(name, (1, 3, 4), context_shape=(3,))
    x, c = torch.zeros(2, 1, 3, 4).double(), torch.zeros(2, 3).double()
    with pytest.raises(PvaeError, match=r"events of shape \(1, 3, 4\).*\(2, 12\)"):
        network(x.flatten(1), c)
    with pytest.raises(PvaeError, match=r"needs a context of shape \[\.\.\., 3\]"):
        network(x)
    with pytest.raises(PvaeError, match=r"context of shape \[\.\.\., 3\].*\(2, 4\)"):
        network(x, torch.zeros(2, 4))
    with pytest.raises(PvaeError, match=r"takes no context.*context_shape="):
        make(name, (1, 3, 4))(x, c)


def test_orders():
    assert raster((3, 2, 2))[:, 1, 0].tolist() == [6, 7, 8]
    assert raster((4,)).tolist() == [0, 1, 2, 3]
    one, two = MADE((9,), order="random"), MADE((9,), order="random", seed=1)
    assert sorted(one.order.tolist()) == list(range(9)) != one.order.tolist()
    assert not torch.equal(one.order, two.order)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.order, two.order)


@pytest.mark.parametrize(
    ("shapes", "order", "message"),
    [
        (((3,), (4,)), None, r"f of shape \(4,\) is not aligned with x of shape \(3,\)"),
        (((3,), (2, 3)), [0, 1, 1], "each of them equally often"),
        (((3,), (2, 3)), [1, 2, 3], "each of them equally often"),
        (((3,), (2, 3)), [0, 1], r"order has shape \(2,\), but x has \(3,\)"),
        (((2, 1, 1), (7, 1, 1)), [[[0]], [[1]]], "all channels of a pixel.*such as PixelCNN"),
    ],
    ids=str,
)
def test_orders_that_are_not_valid(shapes, order, message):
    with pytest.raises(PvaeError, match=message):
        Steps(*shapes, None if order is None else torch.tensor(order))


def test_what_made_does_not_take():
    for options, message in [
        ({"order": "alphabetic"}, "order='alphabetic'.*'natural' or 'random'"),
        ({"hidden_dims": [0]}, "every width must be at least 1"),
        ({"event_shape": ()}, "at least one value"),
        ({"num_values": 1}, "at least two values"),
        ({"event_shape": (3, 2, 2), "out_shape": (5, 9, 2, 2)}, "such as PixelCNN"),
    ]:
        with pytest.raises(PvaeError, match=message):
            MADE(**{"event_shape": (3,), **options})


def test_what_networks_of_images_do_not_take():
    for make_one, message in [
        (lambda: PixelCNN((5,)), r"event_shape=\(5,\): this network takes images"),
        (lambda: PixelCNN((3, 4, 4), channels=16), "Choose a multiple of 6"),
        (lambda: PixelCNN((1, 4, 4), kernel_size=4), "kernel_size=4: it must be an odd"),
        (lambda: PixelCNN((1, 4, 4), num_blocks=0), "num_blocks=0"),
        (lambda: GatedPixelCNN((4, 4), context_shape=(2, 3, 4)), r"height and width \(4, 4\)"),
        (lambda: GatedPixelCNN((4, 4), first_kernel_size=4), "first_kernel_size=4: it must be an"),
        (lambda: GatedPixelCNN((4, 4), context_shape=(2, 3)), r"a vector \(D,\) or a map"),
        (lambda: PixelRNN((4, 4), kind="column"), "kind='column' is not valid"),
        (lambda: PixelCNNPlusPlus((3, 4, 4)), "Choose a likelihood of whole pixels"),
        (lambda: CausalTransformer((9,), channels=6), "not a multiple of num_heads=4"),
        (lambda: CausalTransformer((2, 2), context_shape=(5, 3, 2)), r"a vector \(D,\)"),
        (lambda: WaveNet((9,), context_shape=(2, 8)), r"other dimensions are \(9,\)"),
    ]:
        with pytest.raises(PvaeError, match=message):
            make_one()


def test_a_transformer_reads_a_text_before_x():
    network = make("CausalTransformer", (4,), (3, 4), context_shape=(5, 2), num_values=3)
    x, text = torch.randint(3, (2, 4)), torch.randn(2, 5, 2).double()
    f, step = network(x, text), network.stepper(x, text)
    for t in range(4):
        torch.testing.assert_close(step(t), network.steps.of(f, t))
    for word in range(5):
        changed = text.clone()
        changed[:, word] += 1
        assert (network(x, changed) != f).any(0).any(0).all()


def test_a_network_of_ones_own_draws_by_full_passes():
    class Markov(Ordered):
        def outputs(self, x, context):
            return torch.nn.functional.pad(x, (1, -1))

    x = torch.rand(2, 3)
    step = Markov((3,)).stepper(x)
    assert torch.equal(torch.cat([step(t) for t in range(3)], 1), Markov((3,))(x))
