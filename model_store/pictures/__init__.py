"""Reading of PNG, JPEG, TIFF and DICOM files to grey pixels, with limits checked before decoding.

Training and the service read X-rays by these functions. They depend neither on HTTP nor on the
network model: they have their own errors and warnings, and do not import torch.
"""
