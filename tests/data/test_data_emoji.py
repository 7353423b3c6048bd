"""Emoji and captions: fields, the split by base names, and the words of captions."""

import numpy as np
import pytest
import torch

import pvae
from pvae import PvaeError
from pvae.data import Vocabulary, emoji

NAMES = [f"{who} letter {what}" for what in "abcdefghij" for who in ("man", "woman")]


@pytest.fixture
def files(tmp_path):
    """Files of two drawers whose pictures differ, with a word that only one name has."""
    names = [*NAMES, "Côte d’Ivoire: a unique flag"]
    for k, drawer in enumerate(("google", "twitter")):
        x = np.full((len(names), 3, 32, 32), 100 * k, np.uint8)
        x += np.arange(len(names), dtype=np.uint8)[:, None, None, None]
        np.savez(
            tmp_path / f"emoji_{drawer}32.npz",
            x=x,
            name=np.array(names),
            y=np.array([0] * 20 + [1], np.uint8),
            sub=np.array([0] * 20 + [1], np.uint8),
            subcategories=np.array(["animal-letter", "country-flag"]),
        )
    return tmp_path


def row_names(part):
    """Returns the name and the drawer of each row, which its picture tells."""
    values = part.fields["x"][:, 0, 0, 0].int()
    return [([*NAMES, "flag"][i % 100], ["google", "twitter"][i // 100]) for i in values]


def test_an_emoji_has_its_category_and_a_caption_of_drawer_subcategory_and_name(files):
    data = pvae.data.load("emoji", root=files, labels=True, observation="grey")
    assert data.train.names == ("x", "y", "caption")
    assert len(data.train) + len(data.test) == 42
    assert data.event_shape == (3, 32, 32)
    assert data.vocabulary.length == 5
    for part in (data.train, data.test):
        x, y, captions = part.tensors()
        assert torch.equal((255 * x[:, 0, 0, 0]).round().int(), part.fields["x"][:, 0, 0, 0].int())
        for (name, drawer), kind, row in zip(row_names(part), y, captions, strict=True):
            # Words of one name only, and words of the subcategory in the name, are left out.
            name = name.replace(" letter", "")
            said = f"{drawer} animal letter {name}" if name != "flag" else f"{drawer} a"
            known = [word for word in said.split() if word in data.vocabulary.words]
            assert data.vocabulary.text(row).split() == known
            assert kind == (name == "flag")
    assert {"google", "twitter", "animal", "man", "woman"} <= set(data.vocabulary.words)
    assert not {"unique", "country", "flag"} & set(data.vocabulary.words)


def test_names_of_the_same_emoji_are_not_split(files):
    data = pvae.data.load("emoji", root=files, observation="grey")
    bases = [{emoji.base_name(name) for name, _ in row_names(p)} for p in (data.train, data.test)]
    assert not bases[0] & bases[1]
    assert len(bases[1]) == 1
    assert len(data.test) in (2, 4)
    assert torch.equal(
        data.test.x, pvae.data.load("emoji", root=files, observation="grey", seed=7).test.x
    )
    for names in (
        ["man running", "woman running facing right", "person running: medium-dark skin tone"],
        ["family: man, woman, boy", "family: adult, child"],
        ["waving hand: light skin tone", "waving hand"],
        ["man", "woman: dark skin tone"],
    ):
        assert len({emoji.base_name(name) for name in names}) == 1
    assert emoji.base_name("keycap 3") != emoji.base_name("keycap 4")


def test_codes_keep_captions_and_their_words(files):
    model = pvae.models.VQVAE(
        (3, 32, 32), num_codes=4, code_dim=2, channels=(4, 4), num_blocks=1, likelihood="gaussian"
    )
    guide = pvae.guides.NearestCode(model, (3, 32, 32), channels=(4, 4), num_blocks=1)
    data = pvae.data.load("emoji", root=files, labels=True)
    codes = pvae.codes((model, guide), data)
    assert codes.train.names == ("x", "y", "caption")
    assert torch.equal(codes.test.fields["caption"], data.test.fields["caption"])
    assert codes.vocabulary == data.vocabulary


def test_missing_or_other_files_are_one_message(files):
    with pytest.raises(PvaeError, match=r"no file emoji_google32.npz.*root=.*PVAE_DATA"):
        pvae.data.load("emoji", root=files / "elsewhere")
    np.savez(files / "emoji_twitter32.npz", x=np.zeros((2, 3, 32, 32), np.uint8))
    with pytest.raises(PvaeError, match="has no array 'name'; a file of emoji has x, name"):
        pvae.data.load("emoji", root=files)


def test_captions_are_tokens_and_back():
    words = Vocabulary(("", "big", "red", "heart"), length=3)
    assert words.tokens("Big RED heart!").tolist() == [1, 2, 3]
    assert words.tokens(["heart", "", "red red"]).tolist() == [[3, 0, 0], [0, 0, 0], [2, 2, 0]]
    assert words.text(torch.tensor([2, 3, 0])) == "red heart"
    assert words.tokens("").dtype == torch.int64
    assert len(words) == 4
    with pytest.raises(PvaeError, match=r"unknown word 'hart'\. Did you mean heart"):
        words.tokens("big hart")
    with pytest.raises(PvaeError, match="'big red heart heart' has 4 words; captions have up to 3"):
        words.tokens("big red heart heart")
