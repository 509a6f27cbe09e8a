"""One self-contained HTML page about a stored model or a run: tables, plots, overlays, card."""
