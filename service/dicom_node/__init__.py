"""A node in the hospital's network: X-rays in by C-STORE, results out to archives.

It runs beside the service, calls it over HTTP and has no model of its own. Each X-ray is on disk
before its sender gets a success, and stays until every destination has the results.
"""
