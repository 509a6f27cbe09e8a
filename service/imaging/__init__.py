"""Pictures: from decoded pixels to the answer's body. No HTTP, and no network model."""
