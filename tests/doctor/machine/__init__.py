"""Tests of doctor/machine/."""
