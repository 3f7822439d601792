"""Galleries: who is this, or nobody we know."""
