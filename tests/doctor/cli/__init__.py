"""Tests of doctor/cli/."""
