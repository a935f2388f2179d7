"""Tests of doctor/knowledge/."""
