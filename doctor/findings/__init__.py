"""What rules look at and what they say: a finding, its context, advice."""
