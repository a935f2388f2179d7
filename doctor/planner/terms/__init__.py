"""What a plan is, what a route is asked, and what it needs to answer."""
