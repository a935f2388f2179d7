"""Asks the places from which packages come what they have."""
