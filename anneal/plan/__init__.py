"""Plan: which runs answer the question, and what each will cost. Pure arithmetic."""
