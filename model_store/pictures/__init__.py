"""Bytes of a file in, grey pixels out: PNG, JPEG, TIFF and DICOM, bounded before decoding.

Training and the service read X-rays by these functions. They know no HTTP and no network model:
errors and warnings are their own, and torch is not loaded.
"""
