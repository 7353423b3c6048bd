"""`pvae check`: describes a pair and its faults."""

import itertools

from pvae.cli.command_line import PLACES, parse
from pvae.cli.options import check_given, load_data, options_of, take_given
from pvae.cli.usage import UsageError
from pvae.diagnosis import diagnose
from pvae.runs import build_pair

__all__ = ["check"]


def check(argv: list[str]) -> int:
    """Describes a pair and its faults; returns 1 if there are any."""
    named = list(itertools.takewhile(lambda argument: not argument.startswith("-"), argv))
    if len(named) not in (0, 2):
        raise UsageError(
            "A pair has two programs: `pvae check MODEL GUIDE`, then the options. To name only "
            "one of them, use --model or --guide."
        )
    options = argv[len(named) :]
    for argument in options:
        if argument.partition("=")[0] in {f"--{place}" for place in PLACES - {"config", "trust"}}:
            raise UsageError(
                f"There is no option {argument}: a check writes nothing. `pvae check --help` lists "
                "the options."
            )
    sides = [f"--{side}={name}" for side, name in zip(("model", "guide"), named, strict=False)]
    config, early = parse("check", [*sides, *options])
    names = take_given(config)
    data = load_data(config, trust=early.trust)
    print(f"data: {data.in_words}")
    model, guide = build_pair(config, data.event_shape)
    check_given(names, data, model)
    found = diagnose(model, guide, data, **options_of(diagnose, config))
    print(found)
    return 1 if found.faults else 0
