"""The examined machine: the one door to it, and readers of what lies behind. Nothing here changes it."""
