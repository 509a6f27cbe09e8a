// Opens a DICOM SEG as OHIF does, through the adapters of cornerstone, and prints what it found.
//
// usage: node open_segmentation.mjs SEGMENTATION.dcm XRAY.json
//
// XRAY.json holds the attributes of the X-ray by keyword, as a viewer's metadata provider has
// them. Where the X-ray has no plane, OHIF takes the identity at the origin, and so does this.

import { readFileSync } from 'node:fs';
import { metaData } from '@cornerstonejs/core';
import { adaptersSEG } from '@cornerstonejs/adapters';

const [segmentationPath, xrayPath] = process.argv.slice(2);
const xray = JSON.parse(readFileSync(xrayPath, 'utf8'));
const imageId = 'wadors:xray/frames/1';

const orientation = xray.ImageOrientationPatient ?? [1, 0, 0, 0, 1, 0];
const spacing = xray.PixelSpacing ?? xray.ImagerPixelSpacing ?? [1, 1];
const modules = {
  instance: xray,
  generalImageModule: { sopInstanceUID: xray.SOPInstanceUID },
  generalSeriesModule: { seriesInstanceUID: xray.SeriesInstanceUID, modality: xray.Modality },
  sopCommonModule: { sopInstanceUID: xray.SOPInstanceUID, sopClassUID: xray.SOPClassUID },
  imagePixelModule: {
    bitsAllocated: 16, bitsStored: 12, highBit: 11, samplesPerPixel: 1, pixelRepresentation: 0,
    photometricInterpretation: 'MONOCHROME2', rows: xray.Rows, columns: xray.Columns,
  },
  imagePlaneModule: {
    rows: xray.Rows,
    columns: xray.Columns,
    frameOfReferenceUID: xray.FrameOfReferenceUID,
    imageOrientationPatient: orientation,
    rowCosines: orientation.slice(0, 3),
    columnCosines: orientation.slice(3),
    imagePositionPatient: xray.ImagePositionPatient ?? [0, 0, 0],
    pixelSpacing: spacing,
    rowPixelSpacing: spacing[0],
    columnPixelSpacing: spacing[1],
  },
};
const provider = (type) => modules[type];
metaData.addProvider((type, id) => (id === imageId ? provider(type) : undefined));

const file = readFileSync(segmentationPath);
const buffer = file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
const opened = await adaptersSEG.Cornerstone3D.Segmentation.createFromDICOMSegBuffer(
  [imageId], buffer, { metadataProvider: metaData },
);

// One list of labelmaps for each layer of segments that do not overlap.
const areas = {};
for (const layer of opened.labelMapImages) {
  for (const image of layer) {
    for (const label of image.voxelManager.getScalarData()) {
      if (label !== 0) areas[label] = (areas[label] ?? 0) + 1;
    }
  }
}
const segments = opened.segMetadata.data.filter(Boolean).map((segment) => ({
  number: Number(segment.SegmentNumber),
  label: segment.SegmentLabel,
  area_px: areas[segment.SegmentNumber] ?? 0,
  display_cielab: segment.RecommendedDisplayCIELabValue,
}));
console.log(JSON.stringify({ segments, overlapping: opened.overlappingSegments }));
process.exit(0);
