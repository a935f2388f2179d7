"""Tests of doctor/text/."""
