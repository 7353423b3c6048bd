"""Names become programs, configs become pairs, and config.yaml is written and read."""

import pickle
import sys

import pytest
import torch
from torch import nn

import pvae
from pvae.errors import PvaeError
from pvae.runs import build_pair, load_yaml, read_config, resolve
from pvae.training.record import write_config

PAIR = '''
"""A pair of a user's, whose sides share a base class and count how often the file is run."""
import torch
from torch import nn

RUNS = globals().get("RUNS", 0) + 1


class Base(nn.Module):
    def __init__(self, event_shape, latent_dim, width: int = 3):
        super().__init__()
        self.event_shape, self.latent_dim, self.width = event_shape, latent_dim, width
        self.weight = nn.Parameter(torch.randn(width))


class MyModel(Base):
    def __init__(self, extra: float = 0.5, decoder: nn.Module | None = None, **kwargs):
        super().__init__(**kwargs)
        self.extra, self.decoder = extra, decoder


class MyGuide(Base):
    pass


class Strict(nn.Module):
    def __init__(self, depth: int):
        super().__init__()


NET = nn.Linear(2, 2)


def closure(x):
    return NET(x)
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder; what a test imports from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def config(model, guide=None, seed=0, **init_args):
    side = {"class_path": model, "init_args": init_args}
    other = {"class_path": guide, "init_args": {}} if guide else side
    return {"seed": seed, "model": side, "guide": other}


def test_bare_names_are_those_of_the_library():
    assert resolve("VAE", "models") is pvae.models.VAE
    assert resolve("MeanField", "guides") is pvae.guides.MeanField
    assert resolve("pvae.models.VAE", "models") is pvae.models.VAE


def test_a_file_is_run_once_for_model_and_guide(here):
    (here / "my-pair.py").write_text(PAIR)
    model = resolve("my-pair.py:MyModel", "models")
    guide = resolve(str(here / "my-pair.py:MyGuide"), "guides")
    assert issubclass(guide, resolve("./my-pair.py:Base", "models"))
    module = sys.modules[model.__module__]
    assert module.MyGuide is guide
    assert module.RUNS == 1
    again = pickle.loads(pickle.dumps(guide((2,), 3)))
    assert type(again) is guide


def test_two_files_of_one_name_are_two_modules(here):
    for folder, value in (("a", 1), ("b", 2)):
        (here / folder).mkdir()
        (here / folder / "pair.py").write_text(f"def model(x):\n    return {value}\n")
    assert resolve("a/pair.py:model", "models")(0) == 1
    assert resolve("b/pair.py:model", "models")(0) == 2


def test_a_file_imports_from_its_own_folder_and_the_current_one(here):
    (here / "sub").mkdir()
    (here / "sub" / "pvae_test_near.py").write_text("A = 1\n")
    (here / "pvae_test_here.py").write_text("B = 2\n")
    (here / "sub" / "pair.py").write_text(
        "from pvae_test_near import A\nfrom pvae_test_here import B\ndef model(x): return A + B\n"
    )
    assert resolve("sub/pair.py:model", "models")(0) == 3
    (here / "pvae_test_pkg.py").write_text(PAIR)
    assert resolve("pvae_test_pkg.MyModel", "models").__name__ == "MyModel"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("VEA", "Did you mean VAEAC or VAE?"),
        ("pair.py:MyModle", "Did you mean MyModel?"),
        ("pair.py", "as in pair.py:Base. It has Base, MyModel, MyGuide"),
        ("pair.py:", "It has Base"),
        ("nowhere.py:MyModel", "There is no file nowhere.py"),
        ("no_such_package.MyModel", "there is no module no_such_package"),
        ("torch.no_such.MyModel", "there is no module torch.no_such"),
        ("torch.nn.Lineer", "or Linear?"),
        ("pair:MyModel", "only a file takes a colon"),
        ("pair.py:RUNS", "not a class or a function"),
    ],
)
def test_a_wrong_name_is_said_with_the_nearest(here, name, message):
    (here / "pair.py").write_text(PAIR)
    with pytest.raises(PvaeError) as error:
        resolve(name, "models")
    assert message in str(error.value)


def test_an_error_in_the_users_file_is_the_users(here):
    file = here / "broken.py"
    file.write_text("import no_such_library\n")
    with pytest.raises(PvaeError, match=r"broken\.py:1\): .*no_such_library"):
        resolve("broken.py:MyModel", "models")
    file.write_text("def MyModel(x): pass\n")
    assert resolve("broken.py:MyModel", "models").__name__ == "MyModel"
    (here / "pvae_test_broken.py").write_text("import no_such_library\n")
    with pytest.raises(PvaeError, match=r"pvae_test_broken\.py:1\): .*no_such_library"):
        resolve("pvae_test_broken.MyModel", "models")


def test_build_pair_fills_the_event_shape_also_through_kwargs(here):
    (here / "pair.py").write_text(PAIR)
    made = config("pair.py:MyModel", latent_dim=4, extra="1e-1")
    model, guide = build_pair(made, event_shape=[1, 2])
    assert (model.event_shape, model.latent_dim, model.extra) == ((1, 2), 4, 0.1)
    made["model"]["init_args"]["event_shape"] = [7]
    model, guide = build_pair(made, event_shape=[1, 2])
    assert model.event_shape == guide.event_shape == (7,)
    with pytest.raises(PvaeError, match="event_shape"):
        build_pair(config("pair.py:MyModel", latent_dim=4))


def test_the_seed_decides_the_first_parameters(here):
    (here / "pair.py").write_text(PAIR)
    pairs = [
        build_pair(config("pair.py:MyModel", latent_dim=4, seed=seed), (2,)) for seed in (1, 1, 2)
    ]
    weights = [torch.cat([side.weight for side in pair]) for pair in pairs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(*weights[0].chunk(2)), "the guide goes on where the model ended"


def test_networks_are_class_paths_with_init_args(here):
    (here / "pair.py").write_text(PAIR)
    decoder = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 4, "out_features": 2}}
    model, _ = build_pair(config("pair.py:MyModel", latent_dim=4, decoder=decoder), (2,))
    assert isinstance(model.decoder, nn.Linear)
    assert model.decoder.out_features == 2


def test_a_function_is_used_as_it_is(here):
    (here / "pair.py").write_text(PAIR)
    model, guide = build_pair(config("pair.py:closure"), (2,))
    assert model is guide is resolve("pair.py:closure", "models")


@pytest.mark.parametrize(
    ("name", "init_args", "message"),
    [
        ("pair.py:Strict", {}, "--model.depth: must be given"),
        ("pair.py:Strict", {"depth": "deep"}, "--model.depth: Expected an int. Got value: deep"),
        ("pair.py:Strict", {"depth": 1, "deep": 1}, "--model.deep: there is no such option"),
        ("pair.py:MyGuide", {}, "--model.latent_dim: must be given"),
        (
            "pvae.models.VAE",
            {"network": "dens"},
            "--model.network: Expected one of 'dense', 'conv'",
        ),
        ("pvae.models.VAE", {"decoder": "torch.nn.Lineer"}, "--model.decoder: "),
        (
            "pvae.models.VAE",
            {"decoder": {"class_path": "torch.nn.ReLU", "init_args": {"x": 1}}},
            "'x'",
        ),
    ],
)
def test_wrong_arguments_name_the_option_in_one_line(here, name, init_args, message):
    (here / "pair.py").write_text(PAIR)
    with pytest.raises(PvaeError) as error:
        build_pair(config(name, **init_args), (2,))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_comes_back_as_it_was_written(tmp_path):
    made = config("VAE", "MeanField", latent_dim=3) | {"data": {"source": "digits"}, "lr": 1e-5}
    write_config(tmp_path, made)
    assert read_config(tmp_path) == made | {"pvae": pvae.__version__}
    assert read_config(tmp_path / "config.yaml") == read_config(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_head_of_an_older_config_had_an_argument_name(here):
    (here / "my.py").write_text("from pvae.distributions import Head\nclass Mine(Head): pass\n")
    names = {"Poisson": "pvae.distributions.heads.Poisson", "Mine": "my.py:Mine"}
    for kind, path in names.items():
        head = {"class_path": path, "init_args": {"name": ""}}
        write_config(here, config("VAE", "MeanField", likelihood=head) | {"data": {}})
        model, _ = build_pair(read_config(here, trust=True), (2,))
        assert type(model.head).__name__ == kind


def test_every_truncation_of_a_config_is_noticed(tmp_path):
    write_config(tmp_path, config("VAE", latent_dim=3) | {"data": {"source": "digits"}})
    text = (tmp_path / "config.yaml").read_text()
    for end in range(text.index("pvae: ")):
        (tmp_path / "config.yaml").write_text(text[:end])
        with pytest.raises(PvaeError, match="config"):
            read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "[1, 2]", "model: [", "1: 2", "a: b", "model: VAE", "\0"])
def test_a_foreign_config_is_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(PvaeError, match="config"):
        read_config(tmp_path)


def test_a_missing_or_unreadable_config_says_so(tmp_path):
    with pytest.raises(PvaeError, match=r"has no config.yaml. `pvae run`"):
        read_config(tmp_path)
    with pytest.raises(PvaeError, match="There is no"):
        read_config(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PvaeError, match="not a config"):
        load_yaml(tmp_path)
    with pytest.raises(PvaeError, match="Cannot write"):
        write_config(tmp_path / "config.yaml", {})


BOTH = """
import torch
from torch import nn

RUNS = []

class Both(nn.Module):
    def __init__(self, event_shape: list[int], latent_dim: int = 3):
        super().__init__()
        self.event_shape, self.latent_dim = event_shape, latent_dim
        self.weight = nn.Parameter(torch.randn(latent_dim))
        self.size = 7

    def model(self, x): return self.weight
    def guide(self, x): return self.weight

class Later(Both): pass

both = Both([2])
def closure(x): return both.weight
"""


def test_methods_of_one_class_are_those_of_one_object(here):
    (here / "both.py").write_text(BOTH)
    made = config("both.py:Both.model", "both.py:Both.guide", latent_dim=5)
    made["guide"]["init_args"] = {"latent_dim": 6}  # not asked
    model, guide = build_pair(made, (1, 2))
    assert model.__self__ is guide.__self__
    assert (model.__name__, guide.__name__) == ("model", "guide")
    assert (model.__self__.event_shape, model.__self__.latent_dim) == ((1, 2), 5)
    other, _ = build_pair(made, (1, 2))
    assert other.__self__ is not model.__self__
    assert torch.equal(other(0), model(0)), "the seed decides"
    model, guide = build_pair(config("both.py:Both.model", "both.py:Later.guide"), (2,))
    assert model.__self__ is not guide.__self__
    (here / "pvae_test_both.py").write_text(BOTH)
    names = "pvae_test_both.Both.model", "pvae_test_both.Both.guide"
    model, guide = build_pair(config(*names), (2,))
    assert model.__self__ is guide.__self__


@pytest.mark.parametrize("name", ["both.py:both.model", "both.py:closure"])
def test_objects_of_a_file_belong_to_one_pair(here, name):
    (here / "both.py").write_text(BOTH)
    pairs = []
    for seed in (1, 1, 2):
        resolve(name, "models")  # the command line has looked at it
        pair = build_pair(config(name, "both.py:both.guide", seed=seed))
        assert pair[0](0) is pair[1](0), "one object for both programs"
        with torch.no_grad():
            pairs.append(pair[0](0).clone())
            pair[0](0).zero_()  # training must not reach the next pair
    assert pairs[1].abs().sum() > 0
    assert torch.equal(pairs[1], build_pair(config(name, "both.py:both.guide", seed=1))[0](0))
    assert not torch.equal(pairs[1], pairs[2])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("both.py:bth.model", "Did you mean both?"),
        ("both.py:both.nothing", "There is no both.nothing in both.py"),
        ("both.py:RUNS", "not a class or a function"),
        ("both.py:torch.nn.Linear", "There is no torch.nn.Linear in both.py"),
        ("torch.serialization.os.system", "There is no os.system in torch.serialization"),
        ("pvae_test_both2.both.model", "Name the class"),
    ],
)
def test_a_wrong_part_is_said(here, name, message):
    (here / "both.py").write_text(BOTH)
    (here / "pvae_test_both2.py").write_text(BOTH)
    with pytest.raises(PvaeError) as error:
        resolve(name, "models")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("both.py:Both.size", "both.py:Both.size is an object of type int, which cannot be called"),
        ("both.py:Both.modle", "both.py:Both.modle has no 'modle'. Did you mean model?"),
    ],
)
def test_a_part_that_is_no_program_is_refused(here, name, message):
    (here / "both.py").write_text(BOTH)
    with pytest.raises(PvaeError) as error:
        build_pair(config(name, "both.py:Both.guide"), (2,))
    assert message in str(error.value)
