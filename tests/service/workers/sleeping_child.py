"""A child that only waits."""

from __future__ import annotations

import socket
import sys
import time

from service.child_process import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        connection.sendall(b"ready")
        time.sleep(600)
