"""Makes what no wheel offers."""
