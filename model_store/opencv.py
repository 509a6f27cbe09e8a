"""OpenCV, limited to the calling thread.

Its own threads would take cores from the network, and a process that forks must have none. The
whole project imports it from here.
"""

from __future__ import annotations

import cv2

cv2.setNumThreads(0)

__all__ = ["cv2"]
