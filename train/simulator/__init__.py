"""First-person episodes with ground truth for every question that the model is asked."""
