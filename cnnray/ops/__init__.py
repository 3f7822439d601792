"""Maths on arrays and bytes: no state, no Ray."""
