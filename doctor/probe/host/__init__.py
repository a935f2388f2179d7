"""Probes of the machine under everything."""
