"""What each stage trains and from what it starts."""
