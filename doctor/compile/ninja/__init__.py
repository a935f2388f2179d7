"""A build as ninja sees it: objects, their cost, how far it is, why one failed."""
