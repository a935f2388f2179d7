"""What is known beforehand: the tables, rules over them alone, and what the indexes say they have."""
