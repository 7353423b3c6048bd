"""The texts of the shell's help, and the error for a wrong command line."""

from pvae.errors import PvaeError

__all__ = ["HELP", "HELP_OF", "UsageError"]

HELP = """\
usage: pvae COMMAND [OPTIONS]

commands:
  run            train a pair, evaluate it and write the report
                 (without options: digits, a dense VAE, a mean-field guide)
  train          train a pair
  evaluate RUN   compute bounds on log p(x) for a trained run
  report RUN [RUN ...]
                 write the report of an evaluated run, or one page of several
  compare RUN RUN ...
                 compare the bounds of runs on the same data with the first run's
  export RUN     write the encoder and the decoder as files that run without pvae (ONNX)
  list [NAME]    list the models, guides, objectives and data sets that have a name, and which
                 guides go with which models; with NAME its options
  new NAME       write a model, a guide and a test as a starting point
  check MODEL GUIDE
                 describe a pair and its faults

options:
  -h, --help     show this message; `pvae COMMAND --help` lists a command's options
  --version      show the version

examples:
  pvae run --data mnist --model.latent_dim 20 --epochs 50
  pvae run --model path/to/file.py:MyModel --guide path/to/file.py:MyGuide
  pvae run --config runs/digits-VAE-1/config.yaml
"""

HELP_OF = {
    "config": "A YAML file with options. The config.yaml of a run repeats the run. Options on the "
    "command line have priority.",
    "trust": "Allow names of code outside of pvae, torch and Pyro in the config. This runs the "
    "code.",
    "resume": "Continue the run in this folder.",
    "out": "The run folder (default: runs/DATA-MODEL-N).",
    "overwrite": "Replace the run in --out.",
    "export": "Where to write the encoder and the decoder (default: RUN/exported).",
    "init": "The initial parameters: 'glorot' draws the weights as Glorot & Bengio do and sets "
    "the output to the mean of the data (default: as the classes make them).",
    "given": "What the model is given beside x: a field of the data, such as y, the labels, or a "
    "list, [y,caption]. The bounds are then on log p(x|y).",
    "from": "Start from the parameters of another run, by name and shape, or of several, "
    "[RUN,RUN]: the pair's and its prior's. What no run has starts as usual.",
    "freeze": "Parts that are not trained: a name such as guide or model.decoder, or a list, "
    "[guide,model.decoder].",
    "logger": "Also write curves to 'tensorboard', 'wandb' or 'mlflow', or to several, "
    "[tensorboard,wandb].",
    "model": "A name in pvae.models, my_package.MyModel, path/to/file.py:MyModel or "
    "path/to/file.py:Both.model (default: VAE).",
    "guide": "A name in pvae.guides, or a class as for --model (default: MeanField).",
    "data": "The name of a data set (`pvae list` lists them) a .npy, .npz or .pt file, "
    "or codes:RUN, the discrete codes of a trained run (default: digits).",
}


class UsageError(PvaeError):
    """The command line is wrong."""
