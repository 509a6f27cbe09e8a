"""What people would run instead of this project's engine, each behind the same two calls."""
