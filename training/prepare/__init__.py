"""Preparation of raw downloads as data sets for training: one module for each owner's layout.

A layout module finds pairs of X-ray and mask below a folder, in the owner's layout. All further
steps are shared: decoding, finding duplicates, splitting, writing.
"""
