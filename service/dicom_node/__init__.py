"""A node in the hospital's network: X-rays in by C-STORE, results out to archives.

It stands beside the service and asks it over HTTP; it has no model of its own. Everything it was
given lies on disk before the sender hears success, and stays there until every destination has
the results.
"""
