"""What goes back: masks, overlays, warnings and the three forms of an answer."""
