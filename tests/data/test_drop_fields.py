"""drop_fields(): which fields a datum has, drawn for each minibatch."""

import pytest
import torch

import pvae
from pvae import guides, models
from pvae.distributions import heads
from pvae.errors import PvaeError


def digits():
    return pvae.data.drop_fields(pvae.data.load("digits", labels=True), ["x", "y"])


def test_every_part_is_as_probable_and_drawn_again_also_on_a_device():
    part = digits().train.to("cpu")
    seen = [torch.cat([batch[2] for batch in part.batches(100)]) for _ in range(4)]
    assert not seen[0].equal(seen[1]), "drawn again in each epoch"
    together = torch.cat(seen)
    assert together.any(1).all()
    number = together[:, 0] + 2 * together[:, 1]
    shares = torch.stack([(number == i).double().mean() for i in (1, 2, 3)])
    se = (1 / 3 * 2 / 3 / len(together)) ** 0.5
    assert ((shares - 1 / 3).abs() < 5 * se).all()
    assert digits().test.tensors()[2].all()


def test_the_hash_does_not_depend_on_what_is_drawn():
    torch.manual_seed(0)
    first = digits().train.hash
    torch.manual_seed(1)
    assert digits().train.hash == first
    plain = pvae.data.load("digits", labels=True).train.hash
    assert first != plain
    other = pvae.data.drop_fields(pvae.data.load("digits", labels=True), ["y", "x"])
    assert other.train.hash != first


def test_a_run_goes_on_with_new_data_as_if_it_had_not_stopped(tmp_path):
    def pair():
        torch.manual_seed(0)
        sizes = {"latent_dim": 3, "hidden_dims": [16]}
        model = models.MVAE({"x": (1, 8, 8), "y": ()}, {"y": heads.Categorical(10)}, **sizes)
        return model, guides.ProductOfExperts(model, hidden_dims=[16])

    options = {"progress": False, "schedule": "constant"}
    whole, part, again = pair(), pair(), pair()
    pvae.fit(*whole, digits(), epochs=2, **options)
    pvae.fit(*part, digits(), epochs=1, out=tmp_path / "run", **options)
    pvae.fit(*again, digits(), epochs=2, out=tmp_path / "run", resume=True, **options)
    pairs = zip(whole[1].parameters(), again[1].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_bad_input_is_one_message():
    with pytest.raises(PvaeError, match="do not hold 'y'"):
        pvae.data.drop_fields(pvae.data.load("digits"), ["x", "y"])
    with pytest.raises(PvaeError, match="has a field seen"):
        pvae.data.drop_fields(digits(), ["x"])
    with pytest.raises(PvaeError, match="there are none"):
        pvae.data.drop_fields(digits(), [])
