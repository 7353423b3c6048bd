"""The precision of products, and how the comparison of compiled steps uses it."""

import contextlib

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

import pvae
from pvae import PvaeError
from pvae.runtime.precision import able, check_precision, in_float32, in_precision, rounding

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@contextlib.contextmanager
def _told(cudnn=None, matmul=None, cpu=None, old=None):
    """Sets the precision of torch's backends, and restores it."""
    backends = torch.backends
    places = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
    places += [backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul]
    before = [place.fp32_precision for place in places]
    flag, products = backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        for place, value in zip(places, (cudnn, cudnn, matmul, cpu, cpu, cpu), strict=True):
            if value is not None:
                place.fp32_precision = value
        if old is not None:
            old()
        yield
    finally:
        # First the old flags, which set the new ones too: where the two differ, torch.export fails.
        backends.cudnn.allow_tf32 = flag
        torch.set_float32_matmul_precision(products)
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def _settings():
    backends = torch.backends
    places = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, backends.mkldnn.matmul]
    new = [place.fp32_precision for place in places]
    return [*new, backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()]


def _no_tf32():
    torch.backends.cudnn.allow_tf32 = False


@pytest.mark.parametrize(
    ("told", "products", "device", "expected"),
    [
        ({}, {"matmul"}, CUDA, torch.float32),
        ({}, {"matmul", "conv"}, CUDA, "tf32"),
        ({}, {"rnn"}, CUDA, "tf32"),
        ({}, {"matmul", "conv"}, CPU, torch.float32),
        ({"cudnn": "ieee"}, {"conv", "rnn"}, CUDA, torch.float32),
        ({"matmul": "tf32"}, {"matmul"}, CUDA, "tf32"),
        ({"cpu": "bf16"}, {"conv"}, CPU, "bf16"),
        ({"cpu": "bf16"}, {"matmul"}, CUDA, torch.float32),
        ({"old": lambda: torch.set_float32_matmul_precision("high")}, {"matmul"}, CUDA, "tf32"),
        ({"old": _no_tf32}, {"conv"}, CUDA, torch.float32),
        ({"cudnn": "tf32"}, {"conv"}, torch.device("meta"), torch.float32),
    ],
)
def test_what_torch_is_told(told, products, device, expected):
    before = _settings()
    with _told(**told):
        assert rounding(torch.float32, products, device) == expected
        assert rounding(torch.float64, products, device) == torch.float64
    assert _settings() == before


def _off_by(error, network, monkeypatch):
    """Whether steps are compiled if their gradients differ from the eager ones by `error`."""

    def compile(program, inputs, options):
        def run(*tensors):
            loss, norm, *gradients = program(*tensors)
            return [loss, norm, *(g * (1 + error) for g in gradients)]

        return run

    monkeypatch.setattr(torch._inductor, "compile", compile)
    torch.manual_seed(0)
    options = {"latent_dim": 4, "network": network, "channels": [4, 4]}
    pair = pvae.models.VAE((1, 8, 8), **options), pvae.guides.MeanField((1, 8, 8), **options)
    svi = pvae.SVI(*pair, torch.optim.Adam, TraceMeanField_ELBO(), mode="compiled")
    svi.step(torch.rand(8, 1, 8, 8).round())
    return svi.compiled


@pytest.mark.filterwarnings("ignore:SVI runs eagerly")
def test_gradients_are_compared_in_the_precision_in_force(monkeypatch):
    def fake(dtype, products, device):
        return "tf32" if "conv" in products and dtype == torch.float32 else dtype

    assert not _off_by(5e-3, "conv", monkeypatch)
    monkeypatch.setattr("pvae.training.agreement.rounding", fake)
    assert _off_by(5e-3, "conv", monkeypatch)
    assert not _off_by(5e-2, "conv", monkeypatch)
    assert not _off_by(5e-3, "dense", monkeypatch)  # it has no convolutions


def test_products_in_float32_inside_of_bf16():
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    exact = x @ x.T
    with in_precision("bf16"):
        assert not torch.equal(x @ x.T, exact)
        with in_float32():
            assert torch.equal(x @ x.T, exact)
        assert not torch.equal(x @ x.T, exact)


def _old_flags():
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"old": lambda: torch.set_float32_matmul_precision("high")},
        {"old": _no_tf32},
        {"matmul": "tf32"},  # torch refuses to read the old flag then
        {"cudnn": "ieee"},
    ],
)
def test_tf32_on_a_gpu_is_a_choice_and_never_the_default(told, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    everything = {"matmul", "conv", "rnn"}
    with _told(**told):
        kinds = [rounding(torch.float32, {kind}, CUDA) for kind in everything]
        for precision, flags in (("float32", (False, "highest")), ("tf32", (True, "high"))):
            expected = {"float32": torch.float32}.get(precision, precision)
            with in_precision(precision):
                assert {rounding(torch.float32, {k}, CUDA) for k in everything} == {expected}
                if precision == "tf32" or "cudnn" not in told:  # else nothing had to be set
                    assert _old_flags() == flags
                with in_float32():
                    assert rounding(torch.float32, everything, CUDA) == torch.float32
            assert [rounding(torch.float32, {kind}, CUDA) for kind in everything] == kinds
        with pytest.raises(ZeroDivisionError), in_precision("tf32"):
            1 / 0  # noqa: B018
        assert [rounding(torch.float32, {kind}, CUDA) for kind in everything] == kinds


def test_float32_on_a_cpu_that_was_told_bfloat16():
    with _told(old=lambda: torch.set_float32_matmul_precision("medium")):
        assert rounding(torch.float32, {"matmul"}, CPU) == "bf16"
        with in_precision("float32"):
            assert rounding(torch.float32, {"matmul"}, CPU) == torch.float32
        assert rounding(torch.float32, {"matmul"}, CPU) == "bf16"
        assert torch.get_float32_matmul_precision() == "medium"


def test_tf32_without_hardware(monkeypatch):
    with pytest.raises(PvaeError, match="this CPU has no TF32"):
        check_precision("tf32", CPU)
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: False)
    with pytest.raises(PvaeError, match="this GPU has no TF32"):
        check_precision("tf32", CUDA)
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)
    check_precision("tf32", CUDA)


@pytest.mark.parametrize("avx", [True, False])
@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize(("machine", "x86"), [("x86_64", True), ("AMD64", True), ("arm64", False)])
def test_a_cpu_that_emulates_bfloat16_does_not_have_it(machine, x86, avx, amx, monkeypatch):
    """oneDNN says yes for every CPU with AVX-512, and then computes in float32."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert able(CPU) == (avx or amx or not x86)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not able(CPU)
