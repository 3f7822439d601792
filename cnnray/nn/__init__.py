"""Torch modules that run on a single device."""
