"""Outlines of masks as a DICOM Grayscale Softcopy Presentation State, for viewers without SEG.

A presentation state describes how to show an X-ray: its grey values as in its own header, with
lines and text over it, which a viewer can hide. It has no pixels, so it has a hundredth of a
secondary capture's size. The lines follow the edges of the mask's pixels, in the X-ray's own frame
(PS3.3 C.10.5: the first pixel's upper left corner is 0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from model_store.pictures.dicom_display import GreyDisplay, ShownTable
from service.imaging.dicom_header import SourceHeader
from service.imaging.dicom_object import (
    INSTANCE,
    MANUFACTURER,
    SERIES,
    SegmentationMethod,
    finish,
    item,
    put,
    template_of,
)
from service.imaging.dicom_options import DEFAULT_OPTIONS, ObjectOptions
from service.imaging.dicom_segmentation import Segment
from service.imaging.polygons import polygons_of
from service.imaging.rendering import display_window
from service.imaging.structures import STRUCTURES

if TYPE_CHECKING:
    import highdicom

_SERIES_NUMBER = 303  # behind the reports
_TEXT_LAYER = "REMARKS"
_TEXT_BOX = (0.01, 0.01, 0.99, 0.15)
"""Left, top, right and bottom, as shares of the displayed area."""
_LONGEST_TEXT = 1024
_LINE_END = "\r\n"
_WHITE = 65_535
_MOST_TABLE_ENTRIES = 65_536


def encode_presentation_state(
    header: SourceHeader,
    display: GreyDisplay,
    pixels: NDArray[Any],
    segments: Sequence[Segment],
    method: SegmentationMethod,
    *,
    lines: Sequence[str] = (),
    description: str = "Lung outline",
    options: ObjectOptions = DEFAULT_OPTIONS,
) -> bytes:
    """Return a presentation state file, explicit VR little endian.

    Args:
        header: the X-ray.
        display: how its header says to display it.
        pixels: (H, W) uint8 or uint16, the X-ray; gives a window if the header has none.
        segments: masks to outline, in a layer for each structure.
        method: model, convention and threshold of the masks.
        lines: text over the X-ray, in a separate layer.
        description: name of the series, at most 64 letters.
        options: settings of the deployment.

    Returns:
        The file. Equal arguments give equal bytes.

    Raises:
        ValueError: a mask has another shape than the X-ray.
    """
    import highdicom  # slow, and seldom needed

    shape = (header.rows, header.columns)
    if any(segment.mask.shape != shape for segment in segments):
        raise ValueError("masks must have the shape of the X-ray")
    template = template_of(header)
    template.SamplesPerPixel = 1
    annotations, layers = _annotations(template, segments, lines)
    dataset = highdicom.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[template],
        series_instance_uid=SERIES,
        series_number=_SERIES_NUMBER,
        sop_instance_uid=INSTANCE,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=method.model.name,
        software_versions=method.model.version,
        device_serial_number=method.model.sha256[:16],
        content_label="OUTLINE",
        content_description=description,
        graphic_annotations=annotations,
        graphic_layers=layers,
        series_description=description,
        specific_character_set="ISO_IR 192",
    )
    put(dataset, "ContentCreatorName", "")  # type 2; no person made it
    put(dataset, "PresentationCreationDate", header.content_date)
    put(dataset, "PresentationCreationTime", header.content_time)
    _put_area(dataset, header)
    _put_grey_values(dataset, display, pixels)
    return finish(dataset, header, method, options.uid_key, "PR")


def _annotations(
    template: Dataset, segments: Sequence[Segment], lines: Sequence[str]
) -> tuple[list[highdicom.pr.GraphicAnnotation], list[highdicom.pr.GraphicLayer]]:
    import highdicom

    annotations: list[highdicom.pr.GraphicAnnotation] = []
    layers: list[highdicom.pr.GraphicLayer] = []

    def add(name: str, colour: Any, **objects: Any) -> None:
        layer = highdicom.pr.GraphicLayer(name, order=len(layers) + 1, display_color=colour)
        put(layer, "GraphicLayerRecommendedDisplayGrayscaleValue", _WHITE)
        layers.append(layer)
        annotations.append(highdicom.pr.GraphicAnnotation([template], layer, **objects))

    for name in dict.fromkeys(segment.structure for segment in segments):
        masks = [segment.mask for segment in segments if segment.structure == name]
        outlines = [outline for mask in masks for outline in _outlines(mask)]
        if outlines:
            structure = STRUCTURES[name]
            colour = highdicom.color.CIELabColor.from_dicom_value(structure.display_cielab)
            add(structure.label.upper(), colour, graphic_objects=outlines)
    text = _LINE_END.join(lines)[:_LONGEST_TEXT]
    if text:
        units, left = highdicom.pr.AnnotationUnitsValues.DISPLAY, "LEFT"
        said = highdicom.pr.TextObject(text, units, bounding_box=_TEXT_BOX, text_justification=left)
        add(_TEXT_LAYER, None, text_objects=[said])
    return annotations, layers


def _outlines(mask: NDArray[np.bool_]) -> list[highdicom.pr.GraphicObject]:
    """Return the closed outlines of a mask and of its holes."""
    import highdicom

    return [
        highdicom.pr.GraphicObject(
            graphic_type=highdicom.pr.GraphicTypeValues.POLYLINE,
            graphic_data=np.array([*ring, ring[0]], np.float32),
            units=highdicom.pr.AnnotationUnitsValues.PIXEL,
        )
        for polygon in polygons_of(mask)
        for ring in polygon
    ]


def _put_area(dataset: Dataset, header: SourceHeader) -> None:
    """Add the size of the pixels, which are not square in some X-rays."""
    (area,) = dataset.DisplayedAreaSelectionSequence
    for keyword in ("PixelOriginInterpretation", "PresentationPixelAspectRatio"):
        if keyword in area:
            delattr(area, keyword)
    if header.spacing is None:
        put(area, "PresentationPixelAspectRatio", [1, 1])
    else:
        put(area, "PresentationPixelSpacing", list(header.spacing.texts))


def _put_grey_values(dataset: Dataset, display: GreyDisplay, pixels: NDArray[Any]) -> None:
    """Repeat the display attributes of the X-ray's header, which viewers then ignore."""
    if display.modality is not None:
        table = _table_item(display.modality)
        put(table, "ModalityLUTType", "US")
        put(dataset, "ModalityLUTSequence", [table])
    else:
        put(dataset, "RescaleIntercept", _decimal(display.intercept))
        put(dataset, "RescaleSlope", _decimal(display.slope))
        put(dataset, "RescaleType", "US")
    if display.voi is not None:
        shown = item(VOILUTSequence=[_table_item(_in_16_bits(display.voi))])
    else:
        center, width = display.window or display.window_of(*display_window(pixels))
        shown = item(WindowCenter=_decimal(center), WindowWidth=_decimal(width))
        if display.function != "LINEAR":
            put(shown, "VOILUTFunction", display.function)
    put(dataset, "SoftcopyVOILUTSequence", [shown])
    put(dataset, "PresentationLUTShape", "INVERSE" if display.is_inverse else "IDENTITY")


def _in_16_bits(table: ShownTable) -> ShownTable:
    """Return an equivalent table in 16 bits, because dciodvfy accepts none of 9 to 15."""
    entries = np.array(table.entries, np.float64) * (65_535 / (2**table.bits - 1))
    scaled = np.clip(np.rint(entries), 0, 65_535).astype(int)
    return ShownTable(table.first, tuple(scaled.tolist()), 16)


def _table_item(table: ShownTable) -> Dataset:
    count = len(table.entries) % _MOST_TABLE_ENTRIES  # 0 stands for all of them
    made = item(LUTData=np.array(table.entries, "<u2").tobytes())
    put(made, "LUTDescriptor", [count, table.first, table.bits])
    made["LUTDescriptor"].VR = "SS" if table.first < 0 else "US"
    made["LUTData"].VR = "OW"
    return made


def _decimal(value: float) -> str:
    """Return a number in at most 16 characters, for the representation DS."""
    return f"{value:.9g}"
