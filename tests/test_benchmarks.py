"""The benchmarks' rows are command lines of the shell; the table says what they found."""

import argparse
import importlib
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import pvae
from pvae.cli.command_line import parse
from pvae.runs import build_pair


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


def pair_of(options, shape=(1, 28, 28)):
    config, _ = parse("train", options)
    return config, build_pair(config, shape)


def test_benchmarks_of_speed_take_mnist_or_noise_of_its_size(benchmark, monkeypatch):
    common = benchmark("common")
    part = argparse.Namespace(name="mnist")
    monkeypatch.setattr(pvae.data, "load", lambda name: part)
    assert common.training_data() == (part, "MNIST")

    def missing(name):
        raise pvae.PvaeError(f"{name} could not be downloaded")

    monkeypatch.setattr(pvae.data, "load", missing)
    data, described = common.training_data()
    (x,) = data.train.observe(slice(0, 128))
    assert x.shape == (128, 1, 28, 28)
    assert 0.02 < x.mean() < 0.5
    assert len(data.train) == 60_000
    assert "noise" in described


def test_every_public_class_is_in_the_gallery(benchmark):
    gallery = benchmark("gallery")
    made = set()
    for name in gallery.ROWS:
        _, pair = pair_of(shlex.split(gallery.made_by(name, "digits")), (1, 8, 8))
        made |= {type(program).__name__ for program in pair}
    # Captions, which digits do not have, codes of another run, or videos.
    given = {"DALLE", "TextImageTransformer", "HierarchicalCodes", "ConditionalVQVAE2"}
    # In benchmarks/moving_mnist.py and frames.py.
    videos = {"VideoPixelCNN", "FrameBetween", "NextFrames", "FramesMeanField"}
    views = {"Classifier", "MVAE", "ProductOfExperts"}  # in few_labels.py and multimodal.py
    assert made | given | videos | views == {*pvae.models.__all__, *pvae.guides.__all__}
    compared = {name for group in gallery.COMPARED.values() for name in group}
    assert compared | {*gallery.GAPS} <= {*gallery.ROWS}


def test_rows_of_categorical_codes_have_the_networks_of_the_gaussian(benchmark):
    table = benchmark("categorical")
    gradients = set()
    for name, options in table.ROWS.items():
        _, (model, guide) = pair_of(shlex.split(options))
        assert model.decoder.layers[0].out_features == 400
        assert guide.encoder.layers[0].out_features == 400
        if name != table.GAUSSIAN:
            gradients.add(guide.gradient)
            n, c = guide.encoder.out_shape
            assert name.endswith(f", {n} × {c}")
            assert model.equal.shape == (n, c)
            codes = table.few_codes(name)
            assert (codes is None) == (c**n > 1000)
            assert codes is None or codes.unique(dim=0).shape == (c**n, n, c)
    assert gradients == {"score", "gumbel_softmax", "straight_through"}


def test_rows_of_the_table_have_the_papers_networks(benchmark):
    table = benchmark("iwae_table")
    for row in table.PUBLISHED:
        config, (model, guide) = pair_of(table.options_of(row, "paper", 1.0, "mnist"))
        assert config["epochs"] == sum(3**i for i in range(8))
        assert (config["batch_size"], config["lr"]) == (20, 1e-3)
        assert config["optim"]["init_args"]["eps"] == 1e-4
        widths = {tuple(p.shape) for side in (model, guide) for p in side.parameters()}
        layers, objective, k = row.split("-")
        code = 50 if layers == "one" else 100
        assert {(200, 784), (200, 200), (2 * code, 200), (200, code), (784, 200)} <= widths
        if layers == "two":
            assert {(100, 100), (2 * 50, 100), (100, 50), (2 * 100, 100)} <= widths
        assert ("IWAE_ELBO" in str(config["loss"])) == (objective == "iwae")
        assert str(config["num_particles"]) == k
    config, _ = parse("train", table.options_of("two-iwae-5", "ours", 0.01, "digits"))
    assert config["epochs"] == 8
    assert config["loss"]["init_args"]["num_particles"] == 5


def test_the_table_does_without_what_a_small_evaluation_lacks(benchmark):
    row = {
        "row": "two-iwae-5", "published": 83.89, "ours": 84.0, "se": 0.25, "num_samples": 20,
        "num_data": 10_000, "active_units": 26, "active_by_layer": [21, 5], "khat_above": None,
        "epochs": 2, "seconds": 90, "device": "a CPU",
    }  # fmt: skip
    options = argparse.Namespace(data="mnist", schedule="ours", budget=0.0025)
    said = benchmark("iwae_table").table([row], options)
    cells = "two, iwae, 5 | 83.89 (21+5) | 84.00 ± 0.25 | +0.11 | 21+5 | — | — | — | 2 | 2"
    assert f"| {cells} |" in said
    row |= {"ours": 83.8, "khat_above": 0.5, "ais_prior": {"minus_L": -1.58, "se": 0.12}}
    said = benchmark("iwae_table").table([row], options)
    assert "| −0.09 | 21+5 | 50 % | −1.58 ± 0.12 | — |" in said


def test_the_log_of_a_row_is_what_a_terminal_shows(benchmark, tmp_path):
    frames = [f"epoch {1 + i // 3}/50: step {i}" for i in range(150)]
    text = (
        "begins\n  0%|W1126 17:13:36 torch: a remark\n" + "\r".join(frames) + "\n\nELBO  -90.95\n"
    )
    log = tmp_path / "row.log"
    log.write_bytes(text.encode())
    said = benchmark("iwae_table").as_seen(log).splitlines()
    assert said == [
        "begins",
        "epoch 20/50: step 57",
        "epoch 40/50: step 117",
        "epoch 50/50: step 149",
        "ELBO  -90.95",
    ]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ([], "digits"),
        (["--schedule", "paper"], "digits-paper"),
        (["--budget", "0.1"], "digits-budget-0.1"),
    ],
)
def test_a_schedule_and_a_budget_have_files_of_their_own(
    benchmark, tmp_path, monkeypatch, arguments, kind
):
    table = benchmark("iwae_table")
    monkeypatch.setattr(table, "__file__", str(tmp_path / "iwae_table.py"))
    monkeypatch.setattr(table.sys, "argv", ["", "--data", "digits", "--rows", *arguments])
    monkeypatch.setattr(table, "file_name", lambda device: "here")
    monkeypatch.setattr(table, "train_and_evaluate", None)  # no row, no call
    monkeypatch.setattr(table, "options_of", None)
    written = []
    monkeypatch.setattr(type(tmp_path), "read_text", lambda path: written.append(path.name) or "")
    table.main()
    assert written == [f"iwae_table_{kind}_here.md"]


def test_the_pixel_vae_has_the_pixelcnn_that_it_is_compared_with(benchmark):
    table = benchmark("explicit")
    pairs = {
        name: pair_of(table.options_of(name, argparse.Namespace(data="digits", budget=0.01)))
        for name in table.ROWS
    }
    assert pairs["Gated PixelCNN"][0]["epochs"] == 1
    assert len(table.CODES) == 2
    for code, without in zip(table.CODES, [n for n in pairs if "no code" in n], strict=True):
        pixels, alone = pairs[code][1][0].pixels, pairs[without][1][0].network
        same = {name: p.shape for name, p in pixels.named_parameters() if "context" not in name}
        assert same == {name: p.shape for name, p in alone.named_parameters()}


def test_a_vae_and_a_vqvae_of_colours_have_the_same_networks(benchmark):
    table = benchmark("colour")
    data = pvae.data.load(np.zeros((20, 3, 16, 16), np.uint8), observation="grey")
    vae, vq = (table.PAIRS[name](data, 20) for name in ("VAE", "VQ-VAE, learned prior"))
    shapes = [
        [p.shape for p in side.parameters() if p.ndim == 4 and p.shape[2:] != (1, 1)]
        for side in (vae[0].decoder.network, vq[0].decoder, vae[1].encoder.network, vq[1].encoder)
    ]
    assert shapes[0][1:] == shapes[1][1:]
    assert shapes[2] == shapes[3]
    assert vae[0].latent_dim == 4 * 4 * table.GROUPS
    assert vq[0].map_shape == (table.GROUPS, 4, 4)
    assert {name for row in table.ROWS for name in table.lines_of(row)} == {*table.PAIRS}
    for model, guide in (vae, vq):
        pvae.check(model, guide, data)


def test_images_from_captions_are_compared_with_the_same_decoder_and_data(benchmark, monkeypatch):
    table = benchmark("text_to_image")
    monkeypatch.setattr("sys.argv", ["", "--few", "6", "--features", "8", "--layers", "1"])
    options = table.parsed()
    data = table.loaded(options)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [6, 6, 6]
    vq = table.quantised(data, options)
    codes = pvae.codes(vq, data)
    density = table.transformer(codes, options)
    both = table.quantised(data, options, density)
    for ours, theirs in zip(vq, both, strict=True):
        state = {name: value.shape for name, value in theirs.state_dict().items()}
        assert {name: value.shape for name, value in ours.state_dict().items()}.items() <= (
            state.items()
        )
    swapped = table.with_captions(data, lambda captions: captions.flip(0))
    fields, others = data.test.fields, swapped.test.fields
    assert all((fields[name] == others[name]).all() for name in ("x", "y", "factors"))
    assert (others["caption"] == fields["caption"].flip(0)).all()
    assert swapped.test.names == data.test.names
    rows = table.drawn(both[0], data, data.test.device)
    shown = next(iter(rows)).replace("\n", " ")
    place = [data.vocabulary.text(row) for row in fields["caption"]].index(shown)
    assert (next(iter(rows.values()))[0] == data.test.x[place]).all()
    assert {row.shape for row in rows.values()} == {(10, 1, 32, 32)}


def test_the_known_quadrants_are_those_of_the_tutorial(benchmark):
    table = benchmark("quadrants")
    for num in (1, 2, 3):
        known = table.known_part(num, 28)
        assert int(known.sum()) == num * 14 * 14
        assert known[27, 0]
        assert not known[27, 27]
        assert known[0, 0] == (num > 1)
        assert known[0, 27] == (num == 3)
    assert table.PUBLISHED == {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}


def test_a_labels_decoder_and_the_foreign_data_are_as_the_table_says(benchmark):
    table = benchmark("rejection")
    data = pvae.data.load("digits", labels=True)
    model, guide = table.conditional_vae(data, 10)
    pvae.check(model, guide, data)
    z, c = torch.randn(4, table.LATENT_DIM), torch.eye(10)[[3, 3, 5, 5]]
    before = model.decoder(torch.cat([z, c], -1))
    with torch.no_grad():  # the weights of label 5 in the first layer
        first = model.decoder.network.layers[0].weight
        first[:, 5 * (table.LATENT_DIM + 1) : 6 * (table.LATENT_DIM + 1)] += 1
    after = model.decoder(torch.cat([z, c], -1))
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[2:], after[2:])
    foreign = table.foreign_sets(data)
    assert {"noise", "faint digits"} <= foreign.keys()
    for each in foreign.values():
        assert each.test.x.shape[1:] == (1, 8, 8)
        assert each.observation == data.observation
    ink = [foreign[name].test.x.mean() for name in ("faint digits", "noise")]
    assert ink[0] < 0.3 * data.test.x.mean()
    assert abs(ink[1] - 0.5) < 0.02
    other = table.perturbed(data, 0.2)
    changed = (other.train.raw != data.train.raw).float().mean()
    assert 0.15 < changed < 0.2
    assert torch.equal(other.test.x, data.test.x)


def test_sprites_follow_their_factors(benchmark):
    table = benchmark("disentanglement")
    base = torch.tensor([[shape, 5, 7, 16, 16] for shape in range(3)])
    images = table.sprites(base)
    assert images.shape == (3, 1, 32, 32)
    assert set(images.unique().tolist()) == {0, 1}

    def changed(**factors):
        other = base.clone()
        for name, by in factors.items():
            other[:, list(table.SPRITES).index(name)] += by
        return table.sprites(other)

    def centre(images, axis):
        ink = images[:, 0].double().sum(2 - axis)
        return (ink * torch.arange(32)).sum(1) / ink.sum(1)

    for name, axis in (("x", 1), ("y", 0)):
        moved = changed(**{name: 10})
        expected = torch.full((3,), 10 / 31 * 16, dtype=torch.float64)
        torch.testing.assert_close(
            centre(moved, axis) - centre(images, axis), expected, atol=0.25, rtol=0
        )
        torch.testing.assert_close(
            centre(moved, 1 - axis), centre(images, 1 - axis), atol=0.25, rtol=0
        )
    ink = [each.sum((1, 2, 3)) for each in (images, changed(scale=-5))]
    torch.testing.assert_close(ink[1] / ink[0], torch.full((3,), 0.25), atol=0.05, rtol=0)
    for turn, same in ((10, [True, False, False]), (20, [True, True, False])):
        assert (changed(orientation=turn) != images).float().mean((1, 2, 3)).lt(0.005).tolist() == (
            same
        )


def test_a_collapsed_code_has_the_least_scores_and_the_best_beta_is_said(benchmark):
    table = benchmark("disentanglement")
    summary = {
        "log_px": [{"mean": -30.0}], "elbo": {"mean": -31.0}, "kl": 0.0, "active_units": 0,
        "khat": {"above_threshold": None},
    }  # fmt: skip
    none = table.numbers(summary, ["a", "b"])
    assert (none["mig"], none["beta_vae"], none["factor_vae"]) == (0, 0.5, 0.5)
    scores = {key: {"mean": 0.2} for key in table.SCORES} | {"mig_of_factors": {"0": 0.1, "1": 0.3}}
    some = table.numbers(summary | {"disentanglement": scores}, ["a", "b"])
    assert some["of_factors"] == {"a": 0.1, "b": 0.3}
    found = {1.0: [some, some], 4.0: [some | {"mig": 0.5}, some | {"mig": 0.1}], 8.0: [none, none]}
    assert "at β = 4: 0.300, against 0.200 at β = 1, 1.5 times" in table.verdict(found)
    assert "higher for 1 of 2 seeds" in table.verdict(found)
    rows = table.table(found, 100)
    assert "| 4 | 0.300 ± 0.200 | 0.200 ± 0.000 |" in rows
    assert "| 0.0 ± 0.0 | — |" in rows
    assert table.verdict({1.0: [some], 8.0: [none]}) == "No β has a higher mean MIG than β = 1."


def test_an_edit_is_compared_with_the_glyph_that_has_the_attribute(benchmark, monkeypatch):
    edits = benchmark("edits")
    values = edits.glyphs.FACTORS
    factors = torch.cartesian_prod(*(torch.arange(len(each)) for each in values.values()))
    numbers = torch.arange(len(factors), dtype=torch.float64).view(-1, 1, 1, 1)
    monkeypatch.setattr(edits.glyphs, "draw", lambda: {"x": numbers})
    for name, (factor, without, with_it) in edits.ATTRIBUTES.items():
        lacks, has = edits.places(factors, name)
        assert lacks.sum() == has.sum() == len(factors) // len(values[factor])
        truth = factors[(edits.true_edits(factors[lacks], name) * 255).round().long().flatten()]
        column = list(values).index(factor)
        assert {values[factor][i] for i in factors[lacks][:, column]} == {without}
        assert {values[factor][i] for i in truth[:, column]} == {with_it}
        others = [i for i in range(len(values)) if i != column]
        assert torch.equal(truth[:, others], factors[lacks][:, others])
