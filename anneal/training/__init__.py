"""Training: one loop for every run, and the warm worker that carries runs out."""
