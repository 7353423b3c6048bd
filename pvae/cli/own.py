"""The commands for new pairs: `pvae new NAME` and `pvae check MODEL GUIDE`."""

import itertools

from pvae.cli.options import PLACES, UsageError, load_data, new_parser, options_of, parse, values

__all__ = ["check_pair", "write_pair"]


def check_pair(argv: list[str]) -> int:
    """Describes a pair and its faults; returns 1 if there are any."""
    from pvae.diagnosis import diagnose
    from pvae.runs import build_pair

    named = list(itertools.takewhile(lambda argument: not argument.startswith("-"), argv))
    if len(named) not in (0, 2):
        raise UsageError(
            "a pair is two programs: `pvae check MODEL GUIDE`, with options behind; --model or "
            "--guide alone leaves the other one the default"
        )
    options = argv[len(named) :]
    for argument in options:
        if argument.partition("=")[0] in {f"--{place}" for place in PLACES - {"config", "trust"}}:
            raise UsageError(
                f"there is no option {argument}: a check writes nothing. `pvae check --help` "
                "lists them."
            )
    sides = [f"--{side}={name}" for side, name in zip(("model", "guide"), named, strict=False)]
    config, _ = parse("check", [*sides, *options])
    data = load_data(config)
    print(f"data: {data.in_words}")
    model, guide = build_pair(config, data.event_shape)
    found = diagnose(model, guide, data, **options_of(diagnose, config))
    print(found)
    return 1 if found.faults else 0


def write_pair(argv: list[str]) -> None:
    """Writes a model, a guide and a test, and prints the next commands."""
    from pvae.cli.new import camel, new

    parser = new_parser("new")
    parser.add_argument("name", metavar="NAME", type=str, help="A Python identifier, such as ring.")
    parser.add_argument(
        "--out", metavar="DIR", type=str, default=".", help="The folder (default: this one)."
    )
    given = values(parser, argv)
    model, guide, test = new(given["name"], given["out"])
    name = camel(given["name"])
    print(f"wrote {model}, {guide} and {test}; they run as they are:")
    print(f"  pvae check {model}:{name}Model {guide}:{name}Guide")
    print(f"  pvae run --model {model}:{name}Model --guide {guide}:{name}Guide")
    print(f"  python -m pytest {test}")
