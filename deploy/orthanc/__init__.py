"""Orthanc with node and service: deployment files, and a command that runs all three locally."""
