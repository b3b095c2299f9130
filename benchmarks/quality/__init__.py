"""Quality of answers, tracking and recall."""
