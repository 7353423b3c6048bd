"""Writes encoder and decoder as files that run without pvae."""

import contextlib
import importlib.util
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pvae.compile import in_words
from pvae.errors import PvaeError, reason_of
from pvae.exported.parts import decoder_of, encoder_of
from pvae.exported.rows import Rows
from pvae.pair import Program, alone, given, move, name_of
from pvae.predictive import place_of
from pvae.runtime import atomic

__all__ = ["Exported", "Format", "export"]

Format = Literal["onnx", "torch"]
_ENDING = {"onnx": ".onnx", "torch": ".pt2"}
_MOST = 8  # data that the numbers are compared on


@dataclass(frozen=True)
class Exported:
    """A part of a pair that was written.

    Attributes:
        path: Its file.
        inputs: For each input, the shape of one datum.
        outputs: For each output, the shape of one datum.
    """

    path: Path
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]

    def __str__(self) -> str:
        sides = (
            ", ".join(f"{name} {['B', *shape]}".replace("'", "") for name, shape in side.items())
            for side in (self.inputs, self.outputs)
        )
        return f"{self.path}: {' -> '.join(sides)}"


@alone
def export(
    model: Program,
    guide: Program,
    data: Any,
    folder: str | os.PathLike[str],
    *,
    format: Format = "onnx",
) -> list[Exported]:
    """Exports the encoder x → q(z|x) and the decoder z → E[x|z] of a pair, for any number of data.

    The encoder gives for each latent site its code, as `pvae.encode` does (`z`), and the
    parameters of its distribution (`z.loc` and `z.scale` of a normal one). The decoder gives the
    mean of x, as `pvae.decode` does. The programs of both are recorded for one datum and mapped
    over the rows of a batch; before a file is written, its numbers are compared with the pair's.

    `torch.export.load("encoder.pt2").module()(x)` runs a file of format `"torch"`, and returns the
    outputs by name. ONNX Runtime runs one of format `"onnx"`.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        data: Some data, as for `pvae.evaluate`. Their shapes and types are those of the inputs.
        folder: Where to write `encoder.onnx` and `decoder.onnx`, or `.pt2`.
        format: `"onnx"`, which needs `pip install pvae[export]`, or `"torch"`, an archive of
            `torch.export`.

    Returns:
        What was written.

    Raises:
        PvaeError: If a part cannot be exported: which, and why. The other part is written. Or if a
            package is missing, or a file cannot be written.

    Example:
        >>> import tempfile, torch, pvae
        >>> pair = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
        >>> x, folder = torch.rand(4, 1, 8, 8).round(), tempfile.mkdtemp()
        >>> parts = pvae.export(*pair, x, folder, format="torch")
        >>> [part.path.name for part in parts]
        ['encoder.pt2', 'decoder.pt2']
        >>> encoder = torch.export.load(parts[0].path).module()
        >>> torch.allclose(encoder(x)["z"], pvae.encode(pair[1], x)["z"], atol=1e-5)
        True
    """
    if format not in get_args(Format):
        raise PvaeError(f"format={format!r} is not known: use one of {', '.join(get_args(Format))}")
    if format == "onnx":
        _require_onnx()
    part, programs = given(data, {}, None, model, guide)
    batch = tuple(tensor.cpu() for tensor in part.observe(slice(_MOST)))
    if len(batch[0]) < 2:
        raise PvaeError("Give two data or more: the exported programs are compared on them.")
    written, faults = [], []
    place = place_of(model, guide)
    move(torch.device("cpu"), model, guide)
    try:
        _export_parts(programs, batch, Path(folder), format, written, faults)
    finally:
        if place is not None:
            move(place, model, guide)
    if faults:
        done = f" Written: {', '.join(str(each.path) for each in written)}." if written else ""
        raise PvaeError(" ".join(faults) + done)
    return written


def _export_parts(
    programs: tuple[Program, ...],
    batch: tuple[Tensor, ...],
    folder: Path,
    format: Format,
    written: list[Exported],
    faults: list[str],
) -> None:
    for name, make in (("encoder", encoder_of), ("decoder", decoder_of)):
        program = name_of(programs[1 if name == "encoder" else 0])
        path = folder / f"{name}{_ENDING[format]}"
        try:
            written.append(_write(*make(*programs, batch), path, format))
        except PvaeError as error:
            if isinstance(error.__cause__, OSError):
                raise
            faults.append(f"The {name} ({program}) cannot be exported: {reason_of(error)}")
            path.unlink(missing_ok=True)  # of an earlier pair


def _write(
    rows: Rows, inputs: dict[str, Tensor], expected: dict[str, Tensor], path: Path, format: Format
) -> Exported:
    """Writes a part, and compares what the file gives with the pair's own numbers."""
    any_number = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                rows, tuple(inputs.values()), dynamic_shapes=(any_number,), strict=False
            )
            content, run = (_onnx if format == "onnx" else _archive)(program, inputs, rows.outputs)
    except Exception as error:
        if isinstance(error, PvaeError):
            raise
        raise PvaeError(f"{in_words(error)}.") from error
    for size in (len(next(iter(inputs.values()))), 1):
        found = run([value[:size] for value in inputs.values()])
        for name, value in zip(rows.outputs, found, strict=True):
            wanted = expected[name][:size]
            if value.shape != wanted.shape or not torch.allclose(value, wanted, 1e-3, 1e-4):
                raise PvaeError(f"the {format} program gives other numbers for {name!r}.")
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    shapes = ({n: tuple(v.shape[1:]) for n, v in side.items()} for side in (inputs, expected))
    return Exported(path, *shapes)


def _archive(program: Any, inputs: dict[str, Tensor], outputs: list[str]) -> tuple[bytes, Any]:
    file = io.BytesIO()
    torch.export.save(program, file)
    module = program.module()
    return file.getvalue(), lambda values: [module(*values)[name] for name in outputs]


def _onnx(program: Any, inputs: dict[str, Tensor], outputs: list[str]) -> tuple[bytes, Any]:
    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its steps
        made = torch.onnx.export(
            program, input_names=[*inputs], output_names=outputs, dynamo=True, verbose=False
        )
    content = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(values: list[Tensor]) -> list[Tensor]:
        given = {name: v.numpy() for name, v in zip(inputs, values, strict=True)}
        return [torch.from_numpy(value) for value in session.run(outputs, given)]

    return content, run


def _require_onnx() -> None:
    missing = [n for n in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(n)]
    if missing:
        raise PvaeError(
            f"Export to ONNX needs {', '.join(missing)}: `pip install 'pvae[export]'`. An archive "
            "of torch.export needs nothing more (--format torch)."
        )
