"""Segments X-ray files without a server: `python -m service.segment_file --help`.

The flags are those of the published AdaLoRA-QAT inference script, so its users' commands still
work. Flags that describe the network (`--max_rank` and so on) are accepted without effect, because
a stored model's manifest has these values. Decoding, prediction, checks and rendering are those of
`POST /segment`.

Exit codes: 0 done; 1 internal failure; 2 bad flags or box; 3 the image cannot be read; 4 the
checkpoint is refused; 5 a result cannot be written. Each failure is one sentence on the standard
error stream. The result is one line of JSON on the standard output.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from model_store.boxes import BoxError, validate_box
from model_store.conventions import CONVENTIONS, DEFAULT_CONVENTION
from model_store.grey_levels import grey_histogram
from model_store.model_index import default_model_folder
from model_store.pictures.picture_reading import Picture
from model_store.prediction import PredictionRequest
from model_store.structures import HEART
from service.errors import ServiceError
from service.imaging.answer_checks import check_answer
from service.imaging.answer_warnings import response_warning
from service.imaging.image_scale import read_scale
from service.imaging.lung_sides import lung_sides
from service.imaging.mask_checks import check_image
from service.imaging.measurements import measure_lungs
from service.imaging.picture_errors import read_upload, warnings_of
from service.imaging.upright import as_stored, upright_request, upright_scale
from service.segment_file_results import ResultFiles, check_result_paths, write_results
from service.segment_folder import files_of, is_many, segment_files

if TYPE_CHECKING:
    from model_store.predictor import Prediction, Predictor

EXIT_DONE = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_IMAGE = 3
EXIT_CHECKPOINT = 4
EXIT_WRITE = 5

DEFAULT_MAX_PIXELS = 40_000_000
DEVICES = ("auto", "cpu", "cuda")
_FIXED_BY_THE_MODEL = ("bit_width", "skip_qkv", "max_rank", "target_rank", "alpha")

LoadPredictor = Callable[[Path, str], "Predictor"]


OUTPUTS = Path("outputs")
"""Default paths of results."""


class FileFailure(Exception):  # noqa: N818  -- it carries an exit code, like ServiceError a status
    """A failure with its exit code and the sentence to print."""

    def __init__(self, exit_code: int, sentence: str) -> None:
        """Keep exit code and sentence.

        Args:
            exit_code: one of the module's `EXIT_` constants.
            sentence: one sentence that says what to do.
        """
        super().__init__(sentence)
        self.exit_code = exit_code


class _OneSentenceParser(argparse.ArgumentParser):
    """Reports bad flags in one line, without argparse's usage text."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting, so that all failures end in one place."""
        raise FileFailure(EXIT_USAGE, f"{message} (see --help)")


def main(argv: Sequence[str] | None = None, load_predictor: LoadPredictor | None = None) -> int:
    """Run the command.

    Args:
        argv: flags; None for those of the process.
        load_predictor: replaces loading of the stored model, for tests.

    Returns:
        The exit code.
    """
    try:
        flags = _build_parser().parse_args(argv)
        load = load_predictor or _load_predictor
        if flags.output_mask_path is None:
            flags.output_mask_path = OUTPUTS / f"{flags.image_path[0].stem}_mask.png"
        if is_many(flags.image_path):
            result = _segment_many(flags, load)
        else:
            (flags.image_path,) = flags.image_path
            result = segment_file(flags, load)
    except FileFailure as failure:
        print(f"segment_file: {_one_line(failure)}", file=sys.stderr)
        return failure.exit_code
    except Exception as failure:  # the border: the caller gets a sentence, never a traceback
        print(f"segment_file: internal failure, {_one_line(failure)}", file=sys.stderr)
        return EXIT_INTERNAL
    print(json.dumps(result))
    return EXIT_IMAGE if result.get("failed") else EXIT_DONE


def _segment_many(flags: argparse.Namespace, load_predictor: LoadPredictor) -> dict[str, Any]:
    """Segment every file of folders, patterns and several paths with one loaded model."""
    if flags.visualize:
        raise FileFailure(EXIT_USAGE, "--visualize is for one file; use --save_overlay FOLDER.")
    files = files_of(flags.image_path)
    if not files:
        raise FileFailure(EXIT_IMAGE, "--image_path names no file.")
    predictor = _checked_predictor(flags, load_predictor)
    _check_convention(flags.convention, predictor)
    try:
        return segment_files(flags, files, lambda own: segment_file(own, lambda *_: predictor))
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise FileFailure(EXIT_WRITE, f"{error.filename} cannot be written: {reason}.") from None


def segment_file(flags: argparse.Namespace, load_predictor: LoadPredictor) -> dict[str, Any]:
    """Segment the file in the flags, and write the requested results.

    Args:
        flags: parsed flags.
        load_predictor: loads a model from checkpoint folder and device.

    Returns:
        The result line: area, score, box, model, warnings, files and `latency_ms`.

    Raises:
        FileFailure: every failure with its own exit code.
    """
    _say_what_is_ignored(flags)
    results = ResultFiles(
        image_path=flags.image_path,
        mask_path=flags.output_mask_path if flags.save_mask else None,
        figure_path=_figure_path(flags.output_mask_path) if flags.visualize else None,
        overlay_path=_overlay_path(flags),
    )
    _check_paths(results)
    started = time.perf_counter()
    image = _read_image(flags.image_path, flags.max_pixels)
    seconds = {"decode": time.perf_counter() - started}
    request = _request(flags, image)
    # The model is loaded last, so that a bad flag, box or image is reported at once.
    predictor = _checked_predictor(flags, load_predictor)
    _check_convention(flags.convention, predictor)
    if HEART in predictor.info.manifest.structures:  # for the cardiothoracic ratio
        request = dataclasses.replace(request, also=(HEART,))
    prediction = predictor.predict(request)
    seconds.update(prediction.stage_seconds)
    rendering_started = time.perf_counter()
    files = _write(results, request, image, prediction, predictor)
    seconds["render"] = time.perf_counter() - rendering_started
    return _result(flags, image, prediction, predictor, seconds, files)


def _build_parser() -> argparse.ArgumentParser:
    parser = _OneSentenceParser(
        prog="python -m service.segment_file",
        description="Segment the lungs on chest X-ray files (PNG, JPEG, TIFF or DICOM).",
        epilog="Exit codes: 0 done, 1 internal failure, 2 bad flags or box, 3 image cannot be "
        "read (of several: at least one), 4 checkpoint refused, 5 a result cannot be written.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--image_path",
        type=Path,
        nargs="+",
        required=True,
        help="the X-ray; or several, folders and patterns: then masks and a table, results.csv, "
        "go to the folder of --output_mask_path",
    )
    add(
        "--checkpoint_path",
        type=Path,
        default=default_model_folder(),
        help="folder of a stored model (default: %(default)s)",
    )
    add(
        "--bbox",
        type=float,
        nargs=4,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="box in pixels, half-open (left, top, right, bottom); left out: the whole image",
    )
    add("--convention", choices=CONVENTIONS, default=DEFAULT_CONVENTION)
    add("--threshold", type=_probability, default=0.5, help="probability from which it is lung")
    add("--device", choices=DEVICES, default="auto")
    add("--save_mask", action="store_true", help="write the mask to --output_mask_path")
    add(
        "--output_mask_path",
        type=Path,
        help="PNG, 0 or 255; for a DICOM image also a .dcm file "
        f"(default: {OUTPUTS}/NAME_mask.png, where NAME is the X-ray's)",
    )
    add(
        "--visualize",
        action="store_true",
        help="write X-ray and overlay side by side next to the mask, and open the picture where "
        "there is a display",
    )
    add("--save_overlay", type=Path, metavar="FOLDER", help="write the overlay into this folder")
    add("--max_pixels", type=int, default=DEFAULT_MAX_PIXELS, help="refuse larger images")
    fixed = parser.add_argument_group("accepted for old commands, without effect")
    fixed.add_argument("--bit_width", type=int, choices=(8,))
    fixed.add_argument("--skip_qkv", nargs="?", const="True")
    fixed.add_argument("--max_rank", type=int)
    fixed.add_argument("--target_rank", type=int)
    fixed.add_argument("--alpha", type=float)
    return parser


def _probability(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError("must lie between 0 and 1, both excluded")
    return value


def _say_what_is_ignored(flags: argparse.Namespace) -> None:
    given = [name for name in _FIXED_BY_THE_MODEL if getattr(flags, name) is not None]
    if given:
        names = ", ".join(f"--{name}" for name in given)
        print(f"segment_file: {names} ignored: the stored model fixes it.", file=sys.stderr)


def _figure_path(mask_path: Path) -> Path:
    return mask_path.with_name(f"{mask_path.stem}_figure.png")


def _overlay_path(flags: argparse.Namespace) -> Path | None:
    folder: Path | None = flags.save_overlay
    if folder is None:
        return None
    name = getattr(flags, "result_name", flags.image_path.stem)  # unique among several files
    return folder / f"{name}_overlay.png"


def _check_paths(results: ResultFiles) -> None:
    try:
        check_result_paths(results)
    except ValueError as error:
        raise FileFailure(EXIT_USAGE, str(error)) from None


def _read_image(path: Path, max_pixels: int) -> Picture:
    try:
        return read_upload(path.read_bytes(), max_pixels=max_pixels)
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise FileFailure(EXIT_IMAGE, f"{path} cannot be read: {reason}.") from None
    except ServiceError as error:
        raise FileFailure(EXIT_IMAGE, f"{path}: {error.detail}") from None


def _load_predictor(folder: Path, device: str) -> Predictor:
    # torch takes seconds to import, and --help or a bad image does not need it.
    from model_store.predictor import Predictor

    return Predictor.load(folder, device=device)


def _check_convention(convention: str, predictor: Predictor) -> None:
    known = predictor.info.manifest.conventions
    if convention not in known:
        raise FileFailure(EXIT_USAGE, f"--convention must be {', '.join(known)} with this model.")


def _checked_predictor(flags: argparse.Namespace, load_predictor: LoadPredictor) -> Predictor:
    from model_store.artifact import ArtifactError

    folder: Path = flags.checkpoint_path
    if not folder.is_dir():
        raise FileFailure(
            EXIT_CHECKPOINT,
            f"{folder} is not a folder; a stored model is a folder with manifest.json and "
            f"weights.safetensors, such as {default_model_folder()}.",
        )
    if flags.device == "cuda":
        _check_cuda()
    try:
        return load_predictor(folder, flags.device)
    except (ArtifactError, OSError) as error:
        raise FileFailure(EXIT_CHECKPOINT, f"checkpoint {folder} refused: {error}") from None


def _check_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise FileFailure(EXIT_USAGE, "--device cuda: there is no CUDA device; use auto or cpu.")


def _request(flags: argparse.Namespace, image: Picture) -> PredictionRequest:
    given = [] if flags.bbox is None else [flags.bbox]
    try:
        boxes = [validate_box(box, image.width, image.height) for box in given]
    except BoxError as error:
        raise FileFailure(EXIT_USAGE, f"--bbox: {error}") from None
    return upright_request(image, boxes, flags.convention, flags.threshold)


def _write(
    results: ResultFiles,
    request: PredictionRequest,
    image: Picture,
    prediction: Prediction,
    predictor: Predictor,
) -> dict[str, str]:
    try:
        stored = as_stored(prediction.masks[0], image)
        return write_results(results, request, image, stored.mask, predictor.info)
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise FileFailure(EXIT_WRITE, f"{error.filename} cannot be written: {reason}.") from None
    except ServiceError as error:
        raise FileFailure(EXIT_WRITE, error.detail) from None


def _result(
    flags: argparse.Namespace,
    image: Picture,
    prediction: Prediction,
    predictor: Predictor,
    seconds: dict[str, float],
    files: dict[str, str],
) -> dict[str, Any]:
    answer, *others = prediction.masks
    heart = others[0].mask if others else None
    area_px = int(answer.mask.sum())
    info = predictor.info
    kind = info.manifest.kind_of(prediction.quality)
    found = check_answer([answer], image.upright, kind, is_whole_image=flags.bbox is None)
    remarks = (
        *warnings_of(image.warnings),
        *check_image(grey_histogram(image.pixels)),
        *found.every,
    )
    latency_ms = {stage: round(1e3 * spent_s, 3) for stage, spent_s in seconds.items()}
    return {
        "area_px": area_px,
        "area_fraction": round(area_px / answer.mask.size, 6),
        "score": round(float(answer.score), 4),
        "confidence": round(float(answer.confidence), 4),
        "bbox": list(as_stored(answer, image).box),
        "convention": flags.convention,
        "threshold": flags.threshold,
        "image": {"width": image.width, "height": image.height},
        "model": {
            "name": info.name,
            "version": info.version,
            "sha256": info.sha256,
            "precision": info.precision,
            "weight_bits": info.weight_bits,
            "device": info.device,
        },
        "latency_ms": latency_ms | {"total": round(sum(latency_ms.values()), 3)},
        "warnings": [response_warning(each).model_dump() for each in remarks],
        "measurements": _measured(answer.mask, image, heart),
        "files": files,
    }


def _measured(
    mask: NDArray[np.bool_], image: Picture, heart: NDArray[np.bool_] | None
) -> dict[str, Any]:
    scale = upright_scale(read_scale(image.dicom), image)
    sides = lung_sides(mask, scale.towards_left)
    return measure_lungs(0, mask, sides, image.upright, scale, heart).model_dump()


def _one_line(failure: Exception) -> str:
    return " ".join(str(failure).split()) or type(failure).__name__


if __name__ == "__main__":
    sys.exit(main())
