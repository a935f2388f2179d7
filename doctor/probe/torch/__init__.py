"""Probes of the torch that the examined Python has."""
