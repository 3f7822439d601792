"""Arrays in, small result dataclasses out; no Ray."""
