"""Probes of Ascend NPUs."""
