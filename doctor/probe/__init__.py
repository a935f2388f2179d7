"""Probes: each turns what a `System` gives it into one frozen dataclass of `doctor.facts`."""
