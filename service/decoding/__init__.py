"""Bytes of a caller in, grey pixels out: PNG, JPEG, TIFF and DICOM, bounded before decoding."""
