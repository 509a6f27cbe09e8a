"""Orthanc beside the node and the service: files of a deployment, and all three on one machine."""
