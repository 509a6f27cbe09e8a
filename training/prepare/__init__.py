"""From raw downloads to the data set that training reads: one module per owner's layout.

A layout module finds pairs of X-ray and mask below a folder, exactly as their owners distribute
them. Everything after that is shared: decoding, finding duplicates, splitting, writing.
"""
