"""Low-rank adapters of linear layers, and the budget that distributes their ranks."""
