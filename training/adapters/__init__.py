"""Low-rank adapters of linear layers, and the budget that moves their ranks."""
