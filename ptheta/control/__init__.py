"""Distributions π_θ(action | state), learned from reward."""
